"""Logistic function.

    y[i]  = 1 / (1 + exp(-x[i]))
    dx[i] = dy[i] * y[i] * (1 - y[i])

exp overflows to infinity below x = -88, where y is 0. NaN passes. The backward needs y alone. Deterministic.
Memory-bound: forward reads x, writes y; backward reads dy and y, writes dx. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import plane, tile_index
from tritonnet.kernels.runtime import launch

__all__ = ["sigmoid_bwd", "sigmoid_fwd"]


@triton.jit
def _sigmoid_fwd_kernel(x_ptr, y_ptr, rows, columns, x0, x3, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    x = tl.load(x_ptr + m * x0 + c * x3, mask=live, other=0.0).to(tl.float32)
    y = 1.0 / (1.0 + tl.exp(-x))
    tl.store(y_ptr + m * columns + c, y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _sigmoid_bwd_kernel(
    dy_ptr, y_ptr, dx_ptr,
    rows, columns, dy0, dy3, y0, y3,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    dy = tl.load(dy_ptr + m * dy0 + c * dy3, mask=live, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + m * y0 + c * y3, mask=live, other=0.0).to(tl.float32)
    dx = dy * y * (1.0 - y)
    tl.store(dx_ptr + m * columns + c, dx.to(dx_ptr.dtype.element_ty), mask=live)


def sigmoid_fwd(x: torch.Tensor) -> torch.Tensor:
    """Logistic function of `x` (any shape, float32, bfloat16 or float16; images may have a pitch): same, contiguous.

    Raises:
        Refused: another dtype or device.
    """
    loop = plane("sigmoid", x=x)
    y = runtime.empty(tuple(x.shape), x.dtype)
    launch(_sigmoid_fwd_kernel, loop.grid, x, y, *loop.plane, **loop.tile)
    return y


def sigmoid_bwd(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of x from that of the output `y`: same shape, y's dtype, contiguous. Both may have a pitch.

    Raises:
        Refused: different shapes, another dtype or device.
    """
    loop = plane("sigmoid_bwd", dy=dy, y=y)
    dx = runtime.empty(tuple(y.shape), y.dtype)
    launch(_sigmoid_bwd_kernel, loop.grid, dy, y, dx, *loop.plane, **loop.tile)
    return dx
