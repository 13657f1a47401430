"""The index of the largest channel of every pixel.

    y[m] = the first c with x[m, c] = max over c of x[m, c]

The first of equals wins, and a NaN beats any number (the first NaN wins), as in PyTorch.
Deterministic. Cost: memory-bound; reads x once, writes one index a row.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.runtime import begin, check_dtype, empty, launch, refuse
from tritonnet.kernels.softmax import load_rows, row_tile, rows

__all__ = ["argmax_fwd", "first_largest"]


@triton.jit
def first_largest(x_ptr, m, M, x_pitch, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of rows `m`: the index of the largest channel, int32."""
    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    index = tl.zeros((BLOCK_M,), tl.int32)
    has_nan = tl.zeros((BLOCK_M,), tl.int32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)  # [C]
        x = load_rows(x_ptr, m, c, M, x_pitch, C)
        nan_here = tl.max((x != x).to(tl.int32), 1)
        # in a row with a NaN only the NaNs compete
        x = tl.where(nan_here[:, None] == 1, tl.where(x != x, 1.0, 0.0), x)
        top = tl.max(x, 1)
        first = tl.min(tl.where((x == top[:, None]) & (c < C)[None, :], c[None, :], C), 1)
        take = (has_nan == 0) & ((nan_here == 1) | (top > best) | (c0 == 0))
        best = tl.where(take, top, best)
        index = tl.where(take, first, index)
        has_nan = tl.maximum(has_nan, nan_here)
    return index


@triton.jit
def _argmax_fwd_kernel(
    x_ptr, y_ptr,
    M,  # rows
    C: tl.constexpr, X_PITCH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    index = first_largest(x_ptr, m, M, X_PITCH, C, BLOCK_M, BLOCK_C)
    tl.store(y_ptr + m, index.to(y_ptr.dtype.element_ty), mask=m < M)


def argmax_fwd(x: torch.Tensor, *, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """The index of the largest value along `x`'s last buffer axis.

    Args:
        x: (N, H, W, C) image buffer, pitch allowed, or (..., C) row-major; float32, bfloat16 or float16.
        dtype: of the result: int64, int32 or uint8 (then C is at most 256).

    Returns:
        y of shape (N, H, W), or (...), contiguous, values 0 to C - 1.

    Raises:
        Refused: no channels, another dtype, or too many channels for it.
    """
    m, c, x_pitch = rows("argmax", "x", x)
    y = empty(tuple(x.shape[:-1]), dtype)
    check_dtype("argmax", "dtype", y, (torch.int64, torch.int32, torch.uint8))
    if dtype == torch.uint8 and c > 256:
        refuse("argmax", f"x must have at most 256 channels for uint8 indices, got {c}")
    grid, tile = row_tile(m, c)
    launch(_argmax_fwd_kernel, grid, x, y, m, C=c, X_PITCH=x_pitch, **tile)
    return y
