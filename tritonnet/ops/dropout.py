"""Dropout. The formula stands in `tritonnet.kernels.dropout`."""

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.dropout import dropout as dropout_kernel
from tritonnet.kernels.runtime import only, refuse
from tritonnet.ops import random

__all__ = ["DropoutFunction", "dropout"]

Buffer = torch.Tensor


class DropoutFunction(Function):
    """The backward draws the mask again, from what the forward took."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, *, p: float) -> Buffer:
        ctx.p, state = p, random.take(x.numel())
        ctx.save(state)
        return dropout_kernel(x, state, p)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return dropout_kernel(dy, ctx.saved[0], ctx.p)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to 0 with probability `p` and divide the others by 1 - p, as `torch.nn.functional.dropout`.

    Each call draws from `tn.manual_seed`'s numbers, on the device, so that a recorded step has a new mask at each replay.

    Args:
        input: any shape; float32, bfloat16 or float16.
        p: 0 to 1.
        training: without it, and with p = 0, the result is `input` itself.
        inplace: must be False.

    Raises:
        Refused: p outside, another dtype, or inplace.
    """
    if not 0.0 <= p <= 1.0:
        refuse("dropout", f"p must be from 0 to 1, got {p}")
    only("dropout", inplace=(inplace, False))
    return DropoutFunction.apply(input, p=float(p)) if training and p else input
