"""Product of two buffers, or of a buffer and a number, with broadcasting; and one buffer spread over a larger shape.

    y[i] = scale * a[i] * b[i]        (b left out: scale * a[i])

Shapes broadcast as torch's, in torch's order of dimensions (see `pointwise.broadcast`). Computed in float32, rounded
once. The gradient of an operand is the same product with dy, summed to the operand's shape (`sum.sum_to`), so nothing
but the operands is saved. Deterministic. Memory-bound: reads a and b once, writes y once. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import FLOATS, broadcast, offset, promote, tile_index, walk
from tritonnet.kernels.runtime import check_dtype, launch

__all__ = ["expand", "mul_fwd"]


@triton.jit
def _mul_fwd_kernel(
    a_ptr, b_ptr, y_ptr,
    rows, D1, D2, columns, a0, a1, a2, a3, b0, b1, b2, b3, scale,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    y = scale * tl.load(a_ptr + offset(m, c, D1, D2, a0, a1, a2, a3), mask=live, other=0.0).to(tl.float32)
    if b_ptr is not None:
        y *= tl.load(b_ptr + offset(m, c, D1, D2, b0, b1, b2, b3), mask=live, other=0.0).to(tl.float32)
    tl.store(y_ptr + m * columns + c, y.to(y_ptr.dtype.element_ty), mask=live)


def mul_fwd(
    a: torch.Tensor, b: torch.Tensor | None, scale: float = 1.0, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """`scale * a * b`, or `scale * a` without `b`.

    Args:
        a: any shape; images may have a pitch.
        b: any shape that broadcasts with a's; rank 4 counts as (N, C, H, W).
        scale: any number.
        dtype: of the result; left out, a's if b's is the same, else float32.

    Returns:
        The broadcast shape, contiguous.

    Raises:
        Refused: shapes that do not broadcast, a dtype that is not float32, bfloat16 or float16.
    """
    check_dtype("mul", "input", a, FLOATS)
    if b is not None:
        check_dtype("mul", "other", b, FLOATS)
    shape, strides = broadcast("mul", a, a if b is None else b)
    y = runtime.empty(shape, dtype or (a.dtype if b is None else promote(a.dtype, b.dtype)))
    _launch(a, b, y, strides, scale)
    return y


def expand(a: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """`scale * a` repeated over a buffer of `shape`, contiguous, as `dtype`.

    Raises:
        Refused: a's shape does not broadcast to that shape.
    """
    y = runtime.empty(shape, dtype)
    wide, (strides, _) = broadcast("expand", a, y)
    if wide != shape:
        runtime.refuse("expand", f"input must broadcast to {shape}, got {tuple(a.shape)}")
    _launch(a, None, y, [strides, strides], scale)
    return y


def _launch(
    a: torch.Tensor, b: torch.Tensor | None, y: torch.Tensor, strides: list[tuple[int, ...]], scale: float
) -> None:
    loop = walk("mul", y.shape, *strides)
    launch(
        _mul_fwd_kernel, loop.grid, a, b, y, *loop.sizes, *loop.strides[0], *loop.strides[1], float(scale), **loop.tile
    )
