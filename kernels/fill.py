"""Fill a contiguous buffer with one number.

    y[i] = value

Deterministic; memory-bound, writes y once. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import flat_tile
from tritonnet.kernels.runtime import begin, flat, launch

__all__ = ["fill"]


@triton.jit
def _fill_kernel(y_ptr, n, value, BLOCK: tl.constexpr):
    begin()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), tl.float32) + value
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=at < n)


def fill(y: torch.Tensor, value: float) -> torch.Tensor:
    """Write `value` to every element of the contiguous buffer `y` (any dtype) and return it."""
    n = flat("fill", "y", y)
    grid, tile = flat_tile(n)
    launch(_fill_kernel, grid, y, n, float(value), **tile)
    return y
