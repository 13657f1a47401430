"""The pieces both U-Nets are made of, each with a plain forward (module by module) and the fused one.

The fused forward computes the same numbers with fewer kernels: batch norm, ReLU and max pooling in one pass, statistics
from the convolution, and concatenation by layout: the skip is written into the first channels of a wide buffer, the
up-sampled image into the rest.
"""

from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.nn import BatchNorm2d, Conv2d, ConvTranspose2d, Module, ReLU, Sequential
from tritonnet.nn import functional as F
from tritonnet.ops.cat import wide
from tritonnet.ops.conv import conv2d_moments
from tritonnet.ops.norm import batch_norm_relu_max_pool2d

__all__ = ["Concat", "DoubleConv", "fused_join"]


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

    def fused(self, x: Tensor) -> Tensor:
        """The same numbers in fewer kernels."""
        x, norm, moments = self._until_last(x)
        return F.batch_norm_relu(x, **norm.arguments(), moments=moments)

    def fused_skip(self, x: Tensor, room: int) -> tuple[Tensor, Tensor, torch.Tensor]:
        """The same for a block with a skip.

        Args:
            x: (N, in, H, W).
            room: channels to leave free behind the skip for what will be joined to it, at least 1.

        Returns:
            The result, its 2x2 max pool, and the free channels (N, H, W, room) of its buffer.
        """
        x, norm, moments = self._until_last(x)
        n, c, h, w = x.shape
        both = wide(n, h, w, c + room, x.dtype)
        skip, pooled = batch_norm_relu_max_pool2d(x, **norm.arguments(), moments=moments, out=both[..., :c])
        return skip, pooled, both[..., c:]

    def _until_last(self, x: Tensor) -> tuple[Tensor, BatchNorm2d, Any]:
        """The second convolution's result, the batch norm behind it, and the statistics that it needs."""
        conv1, norm1, _, conv2, norm2, _ = self.double_conv
        x, moments = _convolve(conv1, norm1, x)
        x, moments = _convolve(conv2, norm2, F.batch_norm_relu(x, **norm1.arguments(), moments=moments))
        return x, norm2, moments


def _convolve(conv: Conv2d, norm: BatchNorm2d, x: Tensor) -> tuple[Tensor, Any]:
    """The convolution and, where the batch norm behind it needs them, the statistics of its result."""
    if norm.uses_batch():
        return conv2d_moments(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)
    return conv(x), None


class Concat(Module):
    """Channels of `skip`, then those of `x`, zero-padded to the skip's size: diff // 2 before, the rest after."""

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """(N, A, H, W) and (N, B, P <= H, Q <= W) -> (N, A + B, H, W)."""
        return _join(skip, x, None)


def _join(skip: Tensor, x: Tensor, free: torch.Tensor | None) -> Tensor:
    """What Concat computes; no copy if `x` lies in `free`, the channels behind the skip, or is padded into them."""
    tall, broad = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    if tall or broad:
        x = F.pad(x, (broad // 2, broad - broad // 2, tall // 2, tall - tall // 2), out=free)
    return F.cat((skip, x), dim=1)


def fused_join(skip: Tensor, free: torch.Tensor, module: Any, x: Tensor) -> Tensor:
    """Concat of `skip` and `module(x)`, written to `free`; a convolution keeps x's size, others double it."""
    size = x.shape[2:] if isinstance(module, Conv2d) else (2 * x.shape[2], 2 * x.shape[3])
    out = free if size == skip.shape[2:] else None
    if isinstance(module, Conv2d):
        x = F.conv2d(x, module.weight, module.bias, module.stride, module.padding, module.dilation, out=out)
    elif isinstance(module, ConvTranspose2d):
        x = F.conv_transpose2d(
            x, module.weight, module.bias, module.stride, module.padding, module.output_padding,
            dilation=module.dilation, out=out,
        )  # fmt: skip
    else:
        x = F.interpolate(
            x, module.size, module.scale_factor, mode=module.mode, align_corners=module.align_corners, out=out
        )
    return _join(skip, x, free)
