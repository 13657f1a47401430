"""The pieces the U-Nets are made of, each with a plain forward (module by module) and the fused one.

The fused forward computes the same numbers with fewer kernels: batch norm, ReLU and max pooling in one pass, statistics
from the convolution (in evaluation batch norm and ReLU within it), and concatenation by layout: the skip is written into
the first channels of a wide buffer, the up-sampled image into the rest.
"""

from typing import Any

import torch

from tritonnet.autograd import Tensor, is_grad_enabled
from tritonnet.nn import BatchNorm2d, Conv2d, MaxPool2d, Module, ReLU, Sequential
from tritonnet.nn import functional as F
from tritonnet.ops.cat import wide
from tritonnet.ops.conv import batch_norm_relu_conv2d, conv2d_batch_norm_relu, conv2d_moments
from tritonnet.ops.norm import batch_norm_relu_max_pool2d

__all__ = ["Add", "Concat", "DoubleConv", "fused_join", "window"]


class DoubleConv(Module):
    """(3x3 convolution without bias, batch norm, ReLU) twice: (N, in, H, W) -> (N, middle, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, middle: int | None = None) -> None:
        super().__init__()
        layers: list[Module] = []
        for c, k in ((in_channels, middle or out_channels), (middle or out_channels, out_channels)):
            layers += [Conv2d(c, k, 3, padding=1, bias=False), BatchNorm2d(k), ReLU()]
        self.double_conv = Sequential(*layers)
        self.recompute = False  # the images before both convolutions, in the backward, instead of keeping them

    def forward(self, x: Tensor) -> Tensor:
        """Module by module."""
        return self.double_conv(x)  # type: ignore[no-any-return]

    def fused(self, x: Tensor) -> Tensor:
        """The same numbers in fewer kernels."""
        conv1, norm1, _, conv2, norm2, _ = self.double_conv
        if self._in_one():
            return _activated(conv2, norm2, _activated(conv1, norm1, x))
        x, moments = self._until_last(x)
        return F.batch_norm_relu(x, **norm2.arguments(), moments=moments)

    def fused_head(self, x: Tensor, head: Conv2d) -> Tensor:
        """The same, and a convolution behind it."""
        if self._in_one():
            return head(self.fused(x))  # type: ignore[no-any-return]
        x, moments = self._until_last(x)
        return batch_norm_relu_conv2d(x, self.double_conv[4].arguments(), *window(head), moments=moments)[0]

    def fused_skip(self, x: Tensor, room: int, down: Module) -> tuple[Tensor, Tensor, torch.Tensor]:
        """The same for a block with a skip.

        Args:
            x: (N, in, H, W).
            room: channels to leave free behind the skip for what will be joined to it.
            down: a 2x2 max pooling, or a convolution in its place.

        Returns:
            The result, what `down` makes of it, and the free channels (N, H, W, room) of its buffer.
        """
        conv1, norm1, _, conv2, norm2, _ = self.double_conv
        x, moments = (_activated(conv1, norm1, x), None) if self._in_one() else self._until_last(x)
        n, c, h, w = x.shape[0], conv2.out_channels, *x.shape[2:]
        both = wide(n, h, w, c + room, x.dtype)
        out, free = both[..., :c], both[..., c:]
        if self._in_one():
            skip = _activated(conv2, norm2, x, out)
        elif isinstance(down, MaxPool2d):
            return *batch_norm_relu_max_pool2d(x, **norm2.arguments(), moments=moments, out=out), free
        else:
            skip = F.batch_norm_relu(x, **norm2.arguments(), moments=moments, out=out)
        return skip, down(skip), free

    def _in_one(self) -> bool:
        """Whether batch norm and ReLU run within the convolutions: no batch decides them, and no gradient is wanted."""
        return not (is_grad_enabled() or self.double_conv[1].uses_batch() or self.double_conv[4].uses_batch())

    def _until_last(self, x: Tensor) -> tuple[Tensor, Any]:
        """The second convolution's result, and the statistics of it that the batch norm behind it can use."""
        conv1, norm1, _, conv2, *_ = self.double_conv
        if norm1.uses_batch():
            x, moments = conv2d_moments(x, *window(conv1), recompute=self.recompute)
        else:
            x, moments = conv1(x), None
        return batch_norm_relu_conv2d(x, norm1.arguments(), *window(conv2), moments=moments, recompute=self.recompute)


def window(conv: Conv2d) -> tuple[Any, ...]:
    """The convolution's arguments beside the input, in order."""
    return conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation


def _activated(conv: Conv2d, norm: BatchNorm2d, x: Tensor, out: torch.Tensor | None = None) -> Tensor:
    """Convolution, batch norm and ReLU in one pass."""
    return conv2d_batch_norm_relu(x, *window(conv), norm=norm.given(), out=out)


class Concat(Module):
    """Channels of `skip`, then those of `x`, zero-padded to the skip's size: diff // 2 before, the rest after."""

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """(N, A, H, W) and (N, B, P <= H, Q <= W) -> (N, A + B, H, W)."""
        return _join(skip, x, None)


class Add(Module):
    """The sum of `skip` and `x`, zero-padded to the skip's size as for Concat."""

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """(N, C, H, W) and (N, C, P <= H, Q <= W) -> (N, C, H, W)."""
        return skip + _padded(skip, x, None)


def _join(skip: Tensor, x: Tensor, free: torch.Tensor | None) -> Tensor:
    """What Concat computes; no copy if `x` lies in `free`, the channels behind the skip, or is padded into them."""
    return F.cat((skip, _padded(skip, x, free)), dim=1)


def _padded(skip: Tensor, x: Tensor, out: torch.Tensor | None) -> Tensor:
    tall, broad = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    if tall or broad:
        x = F.pad(x, (broad // 2, broad - broad // 2, tall // 2, tall - tall // 2), out=out)
    return x


def fused_join(skip: Tensor, free: torch.Tensor, module: Any, x: Tensor) -> Tensor:
    """Concat of `skip` and `module(x)`, written to `free`; a convolution keeps x's size, others double it."""
    size = x.shape[2:] if isinstance(module, Conv2d) else (2 * x.shape[2], 2 * x.shape[3])
    out = free if size == skip.shape[2:] else None
    return _join(skip, module(x, out=out), free)
