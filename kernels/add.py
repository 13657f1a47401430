"""Sum of two buffers, or of a buffer and a number, with broadcasting.

    y[i] = a[i] + alpha * b[i]        (b left out: a[i] + alpha)

Shapes broadcast as torch's, in torch's order of dimensions (see `pointwise.broadcast`). Computed in float32, rounded
once. Deterministic. Memory-bound: reads a and b once, writes y once. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import FLOATS, broadcast, offset, promote, tile_index, walk
from tritonnet.kernels.runtime import check_dtype, launch

__all__ = ["add_fwd"]


@triton.jit
def _add_fwd_kernel(
    a_ptr, b_ptr, y_ptr,
    rows, D1, D2, columns, a0, a1, a2, a3, b0, b1, b2, b3, alpha,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    y = tl.load(a_ptr + offset(m, c, D1, D2, a0, a1, a2, a3), mask=live, other=0.0).to(tl.float32)
    if b_ptr is None:
        y += alpha
    else:
        y += alpha * tl.load(b_ptr + offset(m, c, D1, D2, b0, b1, b2, b3), mask=live, other=0.0).to(tl.float32)
    tl.store(y_ptr + m * columns + c, y.to(y_ptr.dtype.element_ty), mask=live)


def add_fwd(a: torch.Tensor, b: torch.Tensor | None, alpha: float = 1.0) -> torch.Tensor:
    """`a + alpha * b`, or `a + alpha` without `b`.

    Args:
        a: any shape; images may have a pitch.
        b: any shape that broadcasts with a's; rank 4 counts as (N, C, H, W).
        alpha: any number.

    Returns:
        The broadcast shape, contiguous; a's dtype if b's is the same, else float32.

    Raises:
        Refused: shapes that do not broadcast, a dtype that is not float32, bfloat16 or float16.
    """
    check_dtype("add", "input", a, FLOATS)
    if b is not None:
        check_dtype("add", "other", b, FLOATS)
    shape, strides = broadcast("add", a, a if b is None else b)
    y = runtime.empty(shape, a.dtype if b is None else promote(a.dtype, b.dtype))
    loop = walk("add", shape, *strides)
    launch(
        _add_fwd_kernel, loop.grid, a, b, y, *loop.sizes, *loop.strides[0], *loop.strides[1], float(alpha), **loop.tile
    )
    return y
