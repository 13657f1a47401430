"""Rectified linear unit.

    y[i]  = 0 if x[i] <= 0 else x[i]
    dx[i] = 0 if y[i] <= 0 else dy[i]

So NaN passes both ways and the gradient at 0 is 0, as in PyTorch. The output tells the backward all it needs, and is
what the next op saves anyway. Exact; deterministic. Memory-bound: forward reads x, writes y; backward reads dy and y,
writes dx.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import plane, tile_index
from tritonnet.kernels.runtime import launch

__all__ = ["relu_bwd", "relu_fwd"]


@triton.jit
def _relu_fwd_kernel(x_ptr, y_ptr, rows, columns, x0, x3, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    x = tl.load(x_ptr + m * x0 + c * x3, mask=live, other=0.0).to(tl.float32)
    y = tl.where(x <= 0, 0.0, x)
    tl.store(y_ptr + m * columns + c, y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _relu_bwd_kernel(
    dy_ptr, y_ptr, dx_ptr,
    rows, columns, dy0, dy3, y0, y3,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    dy = tl.load(dy_ptr + m * dy0 + c * dy3, mask=live, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + m * y0 + c * y3, mask=live, other=0.0).to(tl.float32)
    dx = tl.where(y <= 0, 0.0, dy)
    tl.store(dx_ptr + m * columns + c, dx.to(dx_ptr.dtype.element_ty), mask=live)


def relu_fwd(x: torch.Tensor) -> torch.Tensor:
    """Rectify `x` (any shape, float32, bfloat16 or float16; images may have a pitch): same shape and dtype, contiguous.

    Raises:
        Refused: another dtype or device.
    """
    loop = plane("relu", x=x)
    y = runtime.empty(tuple(x.shape), x.dtype)
    launch(_relu_fwd_kernel, loop.grid, x, y, *loop.plane, **loop.tile)
    return y


def relu_bwd(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of x from that of the output `y`: same shape, y's dtype, contiguous. Both may have a pitch.

    Raises:
        Refused: different shapes, another dtype or device.
    """
    loop = plane("relu_bwd", dy=dy, y=y)
    dx = runtime.empty(tuple(y.shape), y.dtype)
    launch(_relu_bwd_kernel, loop.grid, dy, y, dx, *loop.plane, **loop.tile)
    return dx
