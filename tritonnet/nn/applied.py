"""Functions as layers, without parameters: torch's names, arguments and defaults."""

from collections.abc import Callable
from typing import Any, ClassVar

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import only, refuse
from tritonnet.nn import functional as F
from tritonnet.nn.module import Module
from tritonnet.ops.conv import pair

__all__ = [
    "Applied", "AvgPool2d", "Dropout", "Flatten", "Identity", "LogSoftmax", "MaxPool2d", "ReLU", "Sigmoid", "Softmax",
    "Tanh", "Upsample",
]  # fmt: skip

Size = int | tuple[int, int]


class Applied(Module):
    """A function of what it is called with and of its settings, which are attributes."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Apply it."""
        return type(self).function(*args, **{name: getattr(self, name) for name in self.settings}, **kwargs)

    def extra_repr(self) -> str:
        """As torch's."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)


class ReLU(Applied):
    """max(x, 0), element by element; NaN stays NaN."""

    function = staticmethod(F.relu)

    def __init__(self, inplace: bool = False) -> None:
        only("ReLU", inplace=(inplace, False))
        super().__init__()


class Sigmoid(Applied):
    """1 / (1 + exp(-x)), element by element."""

    function = staticmethod(F.sigmoid)


class Tanh(Applied):
    """tanh(x), element by element."""

    function = staticmethod(F.tanh)


class Softmax(Applied):
    """exp(x) / sum of exp(x) over `dim`."""

    function = staticmethod(F.softmax)

    def __init__(self, dim: int) -> None:
        super().__init__(dim=dim)


class LogSoftmax(Softmax):
    """log(softmax(x)) over `dim`."""

    function = staticmethod(F.log_softmax)


class MaxPool2d(Applied):
    """The largest value of each window, (N, C, H, W) -> (N, C, P, Q). `stride` defaults to `kernel_size`.

    Raises:
        Refused: dilation other than 1, return_indices or ceil_mode other than False.
    """

    function = staticmethod(F.max_pool2d)

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        spread = pair("MaxPool2d", "dilation", dilation, 1)
        only(
            "MaxPool2d", dilation=(spread, (1, 1)), return_indices=(return_indices, False), ceil_mode=(ceil_mode, False)
        )
        stride = kernel_size if stride is None else stride
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding, dilation=1, ceil_mode=False)


class AvgPool2d(Applied):
    """The mean of each window, (N, C, H, W) -> (N, C, P, Q). `stride` defaults to `kernel_size`.

    Raises:
        Refused: ceil_mode other than False, or a divisor_override.
    """

    function = staticmethod(F.avg_pool2d)

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        only("AvgPool2d", ceil_mode=(ceil_mode, False), divisor_override=(divisor_override, None))
        stride = kernel_size if stride is None else stride
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding, count_include_pad=count_include_pad)

    def extra_repr(self) -> str:
        """As torch's."""
        return super().extra_repr().rpartition(", count_include_pad")[0]


class Upsample(Applied):
    """Enlarge (N, C, H, W) to `size`, or by `scale_factor`, as `F.interpolate` does.

    Raises:
        Refused: mode other than "nearest" and "bilinear", or recompute_scale_factor.
    """

    function = staticmethod(F.interpolate)

    def __init__(
        self, size: Size | None = None, scale_factor: float | tuple[float, float] | None = None, mode: str = "nearest",
        align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        only("Upsample", recompute_scale_factor=(recompute_scale_factor, None))
        if mode not in ("nearest", "bilinear"):
            refuse("Upsample", f"mode must be nearest or bilinear, got {mode!r}")
        factor: Any = scale_factor
        factor = tuple(map(float, factor)) if isinstance(factor, tuple | list) else float(factor) if factor else None
        super().__init__(size=size, scale_factor=factor, mode=mode, align_corners=align_corners)

    def extra_repr(self) -> str:
        """As torch's."""
        given = f"scale_factor={self.scale_factor!r}" if self.scale_factor is not None else f"size={self.size!r}"
        return f"{given}, mode={self.mode!r}"


class Flatten(Applied):
    """Join the dimensions `start_dim` to `end_dim`, in torch's element order."""

    function = staticmethod(F.flatten)

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__(start_dim=start_dim, end_dim=end_dim)


class Dropout(Applied):
    """In training each element becomes 0 with probability `p`, else itself / (1 - p); in evaluation nothing changes.

    Raises:
        Refused: p outside 0 to 1, or inplace.
    """

    function = staticmethod(F.dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        only("Dropout", inplace=(inplace, False))
        if not 0.0 <= p <= 1.0:
            refuse("Dropout", f"p must be from 0 to 1, got {p}")
        super().__init__(p=p, inplace=False)

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of `input`."""
        return super().forward(input, training=self.training)


class Identity(Module):
    """The input itself, whatever the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return `input`."""
        return input
