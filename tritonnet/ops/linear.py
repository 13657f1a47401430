"""A linear layer: a 1x1 convolution of images of one pixel. The formulas stand in `tritonnet.kernels.conv2d`."""

import torch

from tritonnet.autograd import Context, Function, Tensor, uses_tf32
from tritonnet.kernels.conv2d import conv2d_dgrad, conv2d_fwd, conv2d_wgrad
from tritonnet.kernels.runtime import refuse
from tritonnet.kernels.sum import pixel_sum
from tritonnet.ops.conv import computed
from tritonnet.ops.shape import reshape

__all__ = ["linear"]

Buffer = torch.Tensor


def _pixels(x: Buffer) -> Buffer:
    """Rows (M, C) as images (M, 1, 1, C)."""
    return x.view(x.shape[0], 1, 1, x.shape[1])


class LinearFunction(Function):
    """y[m, k] = b[k] + sum over c of x[m, c] * w[k, c]; dx = dy w, dw = dy^T x, db = the sum of dy over m."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, w: Buffer, bias: Buffer | None, *, tf32: bool) -> Buffer:
        ctx.tf32 = tf32
        ctx.save(x, w)
        return conv2d_fwd(_pixels(x), _pixels(w), bias, tf32=tf32)[0].view(x.shape[0], w.shape[0])

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> tuple[Buffer | None, ...]:
        (x, w), tf32, pixels = ctx.saved, ctx.tf32, _pixels(dy)
        dx = conv2d_dgrad(pixels, _pixels(w), input_size=(1, 1), tf32=tf32)[0].view(x.shape) if ctx.needs[0] else None
        dw = conv2d_wgrad(pixels, _pixels(x), kernel_size=(1, 1), tf32=tf32).view(w.shape) if ctx.needs[1] else None
        return dx, dw, pixel_sum(pixels) if ctx.needs[2] else None


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input` times `weight` transposed, plus `bias`, as `torch.nn.functional.linear`.

    Args:
        input: (*, in_features), any number of dimensions before the last.
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        (*, out_features), in the dtype of the precision in force.

    Raises:
        Refused: shapes, dtypes or devices that do not go together.
    """
    x, w = computed("linear", input, weight)
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        refuse(
            "linear",
            f"input must be (*, in_features) and weight (out_features, in_features), got {x.shape} and {w.shape}",
        )
    y: Tensor = LinearFunction.apply(reshape(x, -1, x.shape[-1]), w, bias, tf32=uses_tf32())
    return reshape(y, *x.shape[:-1], w.shape[0])
