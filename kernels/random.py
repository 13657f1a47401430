"""Random numbers by counter: uniform and normal.

    (r0, r1, r2, r3) = Philox4x32-10(counter = offset + i, key = seed)       32-bit words; element 4 i + k takes word k
    uniform:  low + (high - low) * (r >> 8) / 2**24                          in [low, high), or high by rounding
    normal:   mean + std * sqrt(-2 ln u) * cos(2 pi v), and with sin         u = ((r0 >> 8) + 1) / 2**24,
                                                                             v = (r1 >> 8) / 2**24 - 1/2

Seed and offset are the two numbers of a state on the device. `take` copies them for a draw and moves the state on, so that
a draw recorded in a CUDA graph gives new numbers at each replay. A number depends on seed, offset and its position alone:
not on tiles, devices or what ran before. Deterministic; bound by the ten rounds. Sources: Salmon et al., Parallel Random
Numbers: As Easy as 1, 2, 3 (SC 2011); Box and Muller (1958).
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import FLOATS, flat_tile
from tritonnet.kernels.runtime import begin, cdiv, check_dtype, empty, flat, launch

__all__ = ["COUNTER_WIDTH", "cos_sin", "interleave", "normal", "philox", "take", "uniform"]

COUNTER_WIDTH = 4  # elements a counter gives


@triton.jit
def _take_kernel(state_ptr, taken_ptr, counters):
    begin()
    seed, offset = tl.load(state_ptr), tl.load(state_ptr + 1)
    tl.store(taken_ptr, seed)
    tl.store(taken_ptr + 1, offset)
    tl.store(state_ptr + 1, offset + counters)


@triton.jit
def _unit(r):
    return (r >> 8).to(tl.float32) * (1.0 / 16777216)


@triton.jit
def philox(state_ptr, BLOCK: tl.constexpr):
    """The elements of this program's counters, int64 [4 B], and the counters' words as four numbers (r >> 8) / 2**24 [B]."""
    seed, offset = tl.load(state_ptr), tl.load(state_ptr + 1)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    counter = offset + first + tl.arange(0, BLOCK)
    low, high = (counter & 0xFFFFFFFF).to(tl.uint32), (counter >> 32).to(tl.uint32)
    r0, r1, r2, r3 = tl.philox(seed, low, high, low * 0, low * 0)
    return 4 * first + tl.arange(0, 4 * BLOCK), _unit(r0), _unit(r1), _unit(r2), _unit(r3)


@triton.jit
def interleave(v0, v1, v2, v3):
    """[4 B] of four [B]: element 4 i + k takes v_k[i]."""
    return tl.interleave(tl.interleave(v0, v2), tl.interleave(v1, v3))


@triton.jit
def cos_sin(u):
    """Cosine and sine of 2 pi (u - 1/2) by the series of the half angle, within 1e-7 (the library's take a stack)."""
    a = 3.141592653589793 * (u - 0.5)
    q = a * a
    sin = a * (1 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 - q * (1.0 / 39916800))))))
    cos = 1.0 / 40320 + q * (-1.0 / 3628800 + q * (1.0 / 479001600))
    cos = 1 + q * (-1.0 / 2 + q * (1.0 / 24 + q * (-1.0 / 720 + q * cos)))
    return 1 - 2 * sin * sin, 2 * sin * cos


@triton.jit
def _uniform_kernel(y_ptr, state_ptr, n, low, width, BLOCK: tl.constexpr):
    begin()
    i, u0, u1, u2, u3 = philox(state_ptr, BLOCK)
    y = low + width * interleave(u0, u1, u2, u3)
    tl.store(y_ptr + i, y.to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def _normal_kernel(y_ptr, state_ptr, n, mean, std, BLOCK: tl.constexpr):
    begin()
    i, u0, u1, u2, u3 = philox(state_ptr, BLOCK)
    # u + 2**-24 lies in (0, 1]: the logarithm is finite
    radius0 = std * tl.sqrt(-2.0 * tl.log(u0 + 1.0 / 16777216))
    radius1 = std * tl.sqrt(-2.0 * tl.log(u2 + 1.0 / 16777216))
    cos0, sin0 = cos_sin(u1)
    cos1, sin1 = cos_sin(u3)
    y = mean + interleave(radius0 * cos0, radius0 * sin0, radius1 * cos1, radius1 * sin1)
    tl.store(y_ptr + i, y.to(y_ptr.dtype.element_ty), mask=i < n)


def take(state: torch.Tensor, elements: int) -> torch.Tensor:
    """A copy of `state` (int64 (2,): seed from 0 to 2**63 - 1, first counter), for a draw of so many elements.

    The state moves on by the ceil(elements / COUNTER_WIDTH) counters that the draw uses.
    """
    taken = empty((2,), torch.int64)
    launch(_take_kernel, (1,), state, taken, cdiv(elements, COUNTER_WIDTH), num_warps=1)
    return taken


def uniform(y: torch.Tensor, state: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Fill the contiguous buffer `y` with uniform numbers from low to high and return it.

    Args:
        y: any shape; float32, bfloat16 or float16. Rounding may reach `high`, but not in float32 from 0 to 1.
        state: from `take`.
        low: any number, the least that comes.
        high: any number.
    """
    return _fill(_uniform_kernel, "uniform", y, state, low, high - low)


def normal(y: torch.Tensor, state: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Fill the contiguous buffer `y` with normal numbers and return it. Arguments as for `uniform`."""
    return _fill(_normal_kernel, "normal", y, state, mean, std)


def _fill(
    kernel: triton.JITFunction, op: str, y: torch.Tensor, state: torch.Tensor, first: float, second: float
) -> torch.Tensor:
    check_dtype(op, "y", y, FLOATS)
    n = flat(op, "y", y)
    grid, tile = flat_tile(cdiv(n, COUNTER_WIDTH), 512)
    launch(kernel, grid, y, state, n, float(first), float(second), **tile)
    return y
