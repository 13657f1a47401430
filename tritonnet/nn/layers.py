"""Layers with parameters: torch's names, arguments, defaults, initial values and shapes over tritonnet's ops."""

from numbers import Integral
from typing import Any

import torch

from tritonnet.autograd import Parameter, Tensor, check_device, tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.runtime import only, refuse
from tritonnet.nn import functional as F
from tritonnet.nn import init
from tritonnet.nn.module import Module
from tritonnet.ops.conv import pair

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "Linear"]

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


def _vector(size: int) -> torch.Tensor:
    return runtime.empty((size,), torch.float32)


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


class Linear(Weighted):
    """(*, in_features) -> (*, out_features): times `weight` (out_features, in_features) transposed, plus `bias`.

    Raises:
        Refused: a number of features below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        own("Linear", device, dtype)
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        self.weight = Parameter(runtime.empty((self.out_features, self.in_features), torch.float32))
        self.register_parameter("bias", Parameter(_vector(out_features)) if bias else None)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Multiply `input`."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """As torch's."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


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
        self.register_parameter("bias", Parameter(_vector(out_channels)) if bias else None)
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

    def forward(self, input: Tensor, *, out: torch.Tensor | None = None) -> Tensor:
        """Convolve `input`; into the buffer `out` if given."""
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, out=out)


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

    def forward(self, input: Tensor, *, out: torch.Tensor | None = None) -> Tensor:
        """Convolve `input`, transposed; into the buffer `out` if given."""
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, dilation=self.dilation,
            out=out,
        )  # fmt: skip


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
        for name in ("weight", "bias"):
            self.register_parameter(name, Parameter(_vector(num_features)) if affine else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, Tensor(_vector(num_features)) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", tensor(0) if track_running_stats else None)
        self.reset_parameters()

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
