"""The pieces both U-Nets are made of, each with a plain forward (module by module) and the fused one.

The fused forward computes the same numbers with fewer kernels: batch norm and ReLU in one pass, its statistics from the
convolution, and concatenation by layout: the skip is written into the first channels of a wide buffer, the up-sampled
image into the rest.
"""

from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.nn import BatchNorm2d, Conv2d, ConvTranspose2d, Module, ReLU, Sequential
from tritonnet.nn import functional as F
from tritonnet.ops.cat import wide
from tritonnet.ops.conv import conv2d_moments

__all__ = ["Concat", "DoubleConv", "fused_conv", "join"]


class DoubleConv(Module):
    """(3x3 convolution without bias, batch norm, ReLU) twice: (N, in, H, W) -> (N, middle, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, middle: int | None = None) -> None:
        super().__init__()
        layers: list[Module] = []
        for c, k in ((in_channels, middle or out_channels), (middle or out_channels, out_channels)):
            layers += [Conv2d(c, k, 3, padding=1, bias=False), BatchNorm2d(k), ReLU()]
        self.double_conv = Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Module by module."""
        return self.double_conv(x)  # type: ignore[no-any-return]

    def fused(self, x: Tensor, room: int = 0) -> tuple[Tensor, torch.Tensor | None]:
        """The same numbers in fewer kernels.

        Args:
            x: (N, in, H, W).
            room: channels to leave free behind the result for what is up-sampled from half its size.

        Returns:
            The result, and the free channels (N, H, W, room) of its buffer; None where an odd size rules them out.
        """
        conv1, norm1, _, conv2, norm2, _ = self.double_conv
        x, moments = _convolve(conv1, norm1, x)
        x, moments = _convolve(conv2, norm2, F.batch_norm_relu(x, **norm1.arguments(), moments=moments))
        n, c, h, w = x.shape
        if room == 0 or h % 2 or w % 2:
            return F.batch_norm_relu(x, **norm2.arguments(), moments=moments), None
        both = wide(n, h, w, c + room, x.dtype)
        return F.batch_norm_relu(x, **norm2.arguments(), moments=moments, out=both[..., :c]), both[..., c:]


def _convolve(conv: Conv2d, norm: BatchNorm2d, x: Tensor) -> tuple[Tensor, Any]:
    """The convolution and, where the batch norm behind it needs them, the statistics of its result."""
    if norm.uses_batch():
        return conv2d_moments(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)
    return conv(x), None


class Concat(Module):
    """Channels of `skip`, then those of `x`, zero-padded to the skip's size: diff // 2 before, the rest after."""

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """(N, A, H, W) and (N, B, P <= H, Q <= W) -> (N, A + B, H, W)."""
        return join(skip, x)


def join(skip: Tensor, x: Tensor) -> Tensor:
    """What Concat computes; free of any copy where the two lie side by side in one buffer."""
    tall, wide_ = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    if tall or wide_:
        x = F.pad(x, (wide_ // 2, wide_ - wide_ // 2, tall // 2, tall - tall // 2))
    return F.cat((skip, x), dim=1)


def fused_conv(module: Any, x: Tensor, out: torch.Tensor | None) -> Tensor:
    """`module(x)` written to `out`, for a convolution, a transposed convolution or an up-sampling."""
    if isinstance(module, ConvTranspose2d):
        return F.conv_transpose2d(
            x, module.weight, module.bias, module.stride, module.padding, module.output_padding,
            dilation=module.dilation, out=out,
        )  # fmt: skip
    if isinstance(module, Conv2d):
        return F.conv2d(x, module.weight, module.bias, module.stride, module.padding, module.dilation, out=out)
    return F.interpolate(
        x,
        size=module.size,
        scale_factor=module.scale_factor,
        mode=module.mode,
        align_corners=module.align_corners,
        out=out,
    )
