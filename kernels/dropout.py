"""Dropout: elements become 0 at random, the others are scaled so that the mean stays.

    y[i]  = x[i]  * (u[i] >= p) / (1 - p)
    dx[i] = dy[i] * (u[i] >= p) / (1 - p)          (p = 1: the factor is 0)

u[i] is the i-th number that `kernels.random.uniform` gives for the same state (seed and first counter), i in row-major
order of the (N, H, W, C) buffer; so u >= p holds with probability 1 - p to within 2**-24. The state is all that the
backward needs: it draws the numbers again. A NaN or an infinity that is dropped becomes NaN, as in PyTorch. Computed in
float32, rounded once; deterministic. Cost: reads x, writes y; ten rounds of Philox for four elements. Source: Srivastava
et al. 2014, scaled in training ("inverted").
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import flat_tile, plane
from tritonnet.kernels.random import COUNTER_WIDTH, interleave, philox
from tritonnet.kernels.runtime import begin, cdiv, launch

__all__ = ["dropout"]


@triton.jit
def _dropout_kernel(
    x_ptr, state_ptr, y_ptr,
    n, columns, x0, x3, p, scale,
    FLAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    i, u0, u1, u2, u3 = philox(state_ptr, BLOCK)
    at = i if FLAT else i // columns * x0 + i % columns * x3
    x = tl.load(x_ptr + at, mask=i < n, other=0.0).to(tl.float32)
    y = x * tl.where(interleave(u0, u1, u2, u3) >= p, scale, 0.0)
    tl.store(y_ptr + i, y.to(y_ptr.dtype.element_ty), mask=i < n)


def dropout(x: torch.Tensor, state: torch.Tensor, p: float) -> torch.Tensor:
    """Drop elements of `x`; of a gradient, those that the same state dropped.

    Args:
        x: any shape, float32, bfloat16 or float16; images may have a pitch.
        state: int64 (2,) on the device: seed and first counter, from `kernels.random.take`.
        p: probability of an element to be dropped, 0 to 1.

    Returns:
        x's shape and dtype, contiguous.

    Raises:
        Refused: another dtype or device.
    """
    loop = plane("dropout", x=x)
    y = runtime.empty(tuple(x.shape), x.dtype)
    grid, tile = flat_tile(cdiv(x.numel(), COUNTER_WIDTH), 512)
    launch(
        _dropout_kernel, grid, x, state, y, x.numel(), *loop.plane[1:], float(p), 1.0 / (1.0 - p) if p < 1.0 else 0.0,
        FLAT=x.is_contiguous(), **tile,
    )  # fmt: skip
    return y
