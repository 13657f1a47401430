"""Layers: torch's names, arguments, defaults, initial values and parameter shapes over tritonnet's ops."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import torch

from tritonnet.autograd import Parameter, Tensor, check_device, tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.runtime import only, refuse
from tritonnet.nn import functional as F
from tritonnet.nn import init
from tritonnet.nn.module import Module
from tritonnet.ops.conv import pair

__all__ = [
    "AvgPool2d", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "Flatten", "Identity", "LogSoftmax", "MaxPool2d", "ReLU",
    "Sigmoid", "Softmax", "Tanh", "Upsample",
]  # fmt: skip

Size = int | tuple[int, int]


def own(op: str, device: Any, dtype: Any) -> None:
    """Refuse another device than the process's, and another dtype than float32."""
    if device is not None:
        check_device(device)
    only(op, dtype=(dtype or torch.float32, torch.float32))


def count(op: str, name: str, value: Any) -> int:
    """`value` as an int of at least 1; anything else is refused."""
    if not isinstance(value, Integral) or value < 1:
        refuse(op, f"{name} must be an integer, at least 1, got {value!r}")
    return int(value)


class Weighted(Module):
    """What has a weight and perhaps a bias, with torch's initial values."""

    weight: Parameter
    bias: Parameter | None

    def reset_parameters(self) -> None:
        """Draw new values as torch does: both uniform within 1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = 1 / init.fan(self.weight, "fan_in") ** 0.5
            init.uniform_(self.bias, -bound, bound)


class _Convolution(Weighted):
    """What both convolutions share: arguments and parameters."""

    padding: Any  # a pair, or 'same' or 'valid'

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size, padding: Size | str,
        output_padding: Size, groups: int, bias: bool, dilation: Size, padding_mode: str, device: Any, dtype: Any,
        transposed: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        op = type(self).__name__
        only(op, groups=(groups, 1), padding_mode=(padding_mode, "zeros"))
        own(op, device, dtype)
        if isinstance(padding, str) and (transposed or padding not in ("same", "valid")):
            refuse(op, f"padding must be a number, a pair{'' if transposed else ', same or valid'}, got {padding!r}")
        self.in_channels = count(op, "in_channels", in_channels)
        self.out_channels = count(op, "out_channels", out_channels)
        self.kernel_size = pair(op, "kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
        if padding == "same" and self.stride != (1, 1):
            refuse(op, f"padding='same' needs stride 1, got stride {self.stride}")
        self.padding = padding if isinstance(padding, str) else pair(op, "padding", padding, 0)
        self.output_padding = pair(op, "output_padding", output_padding, 0)
        first, last = self.out_channels, self.in_channels
        if transposed:
            first, last = last, first
        self.weight = Parameter(runtime.empty((first, *self.kernel_size, last), torch.float32))
        self.register_parameter("bias", Parameter(runtime.empty((out_channels,), torch.float32)) if bias else None)
        self.reset_parameters()

    def extra_repr(self) -> str:
        """As torch's."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in (("padding", (0, 0)), ("dilation", (1, 1)), ("output_padding", (0, 0))):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text if self.bias is not None else text + ", bias=False"


class Conv2d(_Convolution):
    """2-D convolution, (N, in_channels, H, W) -> (N, out_channels, P, Q); weight (out_channels, in_channels, R, S).

    Raises:
        Refused: groups other than 1, padding_mode other than "zeros", or an impossible size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size | str = 0,
        dilation: Size = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, 0, groups, bias, dilation, padding_mode, device,
            dtype, transposed=False,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `input`."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)


class ConvTranspose2d(_Convolution):
    """2-D transposed convolution, (N, in_channels, H, W) -> (N, out_channels, P, Q).

    weight (in_channels, out_channels, R, S);
    P = (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1.

    Raises:
        Refused: groups other than 1, padding_mode other than "zeros", or an impossible size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
        output_padding: Size = 0, groups: int = 1, bias: bool = True, dilation: Size = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device, dtype, transposed=True,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `input`, transposed."""
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, dilation=self.dilation
        )


class BatchNorm2d(Module):
    """Batch normalisation of (N, C, H, W) by channel.

    Training: by the batch's mean and biased variance, and running = (1 - momentum) * running + momentum * batch
    (variance unbiased). Evaluation: by the running statistics.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch, 0 to 1; None weighs all batches equally.
        affine: whether `weight` (ones) and `bias` (zeros) are trained.
        track_running_stats: keep running statistics; without them evaluation uses the batch's too.

    Raises:
        Refused: num_features below 1.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        own("BatchNorm2d", device, dtype)
        num_features = count("BatchNorm2d", "num_features", num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name, value in (("weight", 1), ("bias", 0)):
            made = Parameter(_filled(num_features, value)) if affine else None
            self.register_parameter(name, made)
        for name, value in (("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, Tensor(_filled(num_features, value)) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", tensor(0) if track_running_stats else None)

    def reset_parameters(self) -> None:
        """Back to weight 1, bias 0, and no batch seen."""
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if getattr(self, name) is not None:
                init.constant_(getattr(self, name), name in ("weight", "running_var"))

    def uses_batch(self) -> bool:
        """Whether the batch's own statistics normalise it: in training, or where none are kept."""
        return self.training or self.running_mean is None

    def given(self) -> Norm:
        """The running statistics, scale and shift, for `ops.conv.conv2d_batch_norm_relu`."""
        scale, shift = (None if p is None else p.data for p in (self.weight, self.bias))
        return Norm(self.running_mean.data, self.running_var.data, scale, shift, self.eps)

    def arguments(self) -> dict[str, Any]:
        """The arguments of `F.batch_norm` and `F.batch_norm_relu` beside the input."""
        given = {"weight": self.weight, "bias": self.bias, "training": self.uses_batch(), "eps": self.eps}
        running = {name: getattr(self, name) for name in ("running_mean", "running_var", "num_batches_tracked")}
        if self.training and not self.track_running_stats:  # switched off later: they stay as they are
            running = dict.fromkeys(running)
        return {**given, **running, "momentum": self.momentum}

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`."""
        return F.batch_norm(input, **self.arguments())

    def extra_repr(self) -> str:
        """As torch's."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _filled(size: int, value: float) -> torch.Tensor:
    return init.constant_(Tensor(runtime.empty((size,), torch.float32)), value).data


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


class Identity(Module):
    """The input itself, whatever the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return `input`."""
        return input
