"""Scaled float16: what float32 images and weights are multiplied as in tf32.

    h[i] = x[i] * 2^e as float16, inverse = 2^-e,    e such that 2^14 <= max |x| * 2^e < 2^15, the maximum over finite x

tf32 keeps 10 bits of a number's fraction; float16 keeps as many, and tensor cores multiply it twice as fast and transpose it
for nothing. What float16 lacks is range, hence one power of two for the whole tensor. An element from 2^-28 of the largest on is
rounded to nearest within 2^-11 of itself; below, bits are lost one by one, and under 2^-40 of the largest it becomes zero. The
products are exact in float32, where they are added; the sum is multiplied by both operands' inverse.

An infinity or a NaN stays what it is and changes no other element. Where all are zero the scale is 1. Scale and inverse are
normal numbers of float32 whatever the largest element: e is at most 126.

Two launches, the second over the maxima that the programs of the first leave; three for all weights of a network together, after
each step. No atomics: the same bits each time. Memory-bound: reads x twice, writes half as many bytes. From the definition.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import plane, tile_at
from tritonnet.kernels.runtime import begin, cdiv, check_dtype, launch
from tritonnet.kernels.tensor_table import BLOCK, Tables, entry, row_of, store_low

__all__ = [
    "Operand", "Scaled", "descaled", "inverse_of", "magnitude", "scale_of", "scaled", "scaled_again", "store_inverse",
    "values_of",
]  # fmt: skip

PROGRAMS = 1024  # at most: some eight a multiprocessor keep enough bytes in flight, and few maxima are left to compare


class Scaled(NamedTuple):
    """A float32 buffer as float16 under a power of two: `values * inverse` is what it was."""

    values: torch.Tensor  # contiguous, float16
    inverse: torch.Tensor  # (1,), float32


Operand = torch.Tensor | Scaled


def values_of(x: Operand) -> torch.Tensor:
    """The buffer that kernels multiply."""
    return x.values if isinstance(x, Scaled) else x


def inverse_of(x: Operand) -> torch.Tensor | None:
    """What the products have to be multiplied by, if anything."""
    return x.inverse if isinstance(x, Scaled) else None


@triton.jit
def magnitude(x):
    """The bits of |x|, which are in the order of the numbers; 0 of an infinity or a NaN."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(bits < 0x7F800000, bits, 0)


@triton.jit
def store_inverse(inverse_ptr, top):
    """Write the inverse of the scale for a largest magnitude; return the scale."""
    # as float32 has exponents: 127 more than they mean
    exponent = tl.where(top == 0, 127, tl.minimum(127 + 14 - ((top >> 23) - 127), 127 + 126))
    tl.store(inverse_ptr, ((254 - exponent) << 23).to(tl.float32, bitcast=True))
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(inverse_ptr):
    """The scale, from its inverse."""
    exponent = tl.load(inverse_ptr).to(tl.int32, bitcast=True) >> 23
    return ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _scaled_max_kernel(
    x_ptr, max_ptr,
    rows, columns, x0, x3, turns,  # turns: tiles a program
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    top = tl.zeros((BLOCK_M, BLOCK_C), tl.int32)
    for turn in range(turns):
        m, c, live = tile_at(turn * tl.num_programs(0) + tl.program_id(0), rows, columns, BLOCK_M, BLOCK_C)
        x = tl.load(x_ptr + m * x0 + c * x3, mask=live, other=0.0)
        top = tl.maximum(top, magnitude(x))
    tl.store(max_ptr + tl.program_id(0), tl.max(tl.max(top, 1), 0))


@triton.jit
def _scaled_kernel(
    x_ptr, max_ptr, y_ptr, inverse_ptr,
    rows, columns, x0, x3, turns, programs,  # programs: that left a maximum
    PROGRAMS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    i = tl.arange(0, PROGRAMS)
    # every program writes the same
    scale = store_inverse(inverse_ptr, tl.max(tl.load(max_ptr + i, mask=i < programs, other=0), 0))
    for turn in range(turns):
        # from the end, which the pass before has just left in the cache
        m, c, live = tile_at(
            (turns - 1 - turn) * tl.num_programs(0) + tl.program_id(0), rows, columns, BLOCK_M, BLOCK_C
        )
        x = tl.load(x_ptr + m * x0 + c * x3, mask=live, other=0.0)
        tl.store(y_ptr + m * columns + c, (x * scale).to(tl.float16), mask=live)


@triton.jit
def _scaled_again_max_kernel(table_ptr, block_ptr, max_ptr, width, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    begin()
    i, row_ptr, start, n = row_of(table_ptr, block_ptr, 4, BLOCK)
    lane = tl.arange(0, BLOCK)
    w_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    # accesses are only wide where no mask can cut through one
    if start + BLOCK <= n:
        w = tl.load(w_ptr)
    else:
        w = tl.load(w_ptr, mask=start + lane < n, other=0.0)
    tl.store(max_ptr + i.to(tl.int64) * width + start // BLOCK, tl.max(magnitude(w), 0))


@triton.jit
def _scaled_again_inverse_kernel(table_ptr, max_ptr, width, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    begin()
    row_ptr = table_ptr + tl.program_id(0) * 4
    chunks = tl.cdiv(tl.load(row_ptr + 3), CHUNK)
    lane = tl.arange(0, BLOCK)
    top = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, chunks, BLOCK):
        at = first + lane
        top = tl.maximum(top, tl.load(max_ptr + tl.program_id(0) * width + at, mask=at < chunks, other=0))
    store_inverse(tl.load(row_ptr + 2).to(tl.pointer_type(tl.float32)), tl.max(top, 0))


@triton.jit
def _scaled_again_kernel(table_ptr, block_ptr, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    begin()
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 4, BLOCK)
    lane = tl.arange(0, BLOCK)
    scale = scale_of(tl.load(row_ptr + 2).to(tl.pointer_type(tl.float32)))
    w_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    if start + BLOCK <= n:
        whole = tl.full((BLOCK,), True, tl.int1)
        store_low(row_ptr, 1, start, lane, whole, tl.load(w_ptr) * scale, tl.float16, ALIGN)
    else:
        live = start + lane < n
        store_low(row_ptr, 1, start, lane, live, tl.load(w_ptr, mask=live, other=0.0) * scale, tl.float16, ALIGN)


@triton.jit
def descaled(acc, a_ptr, b_ptr):
    """A sum of products of operands with these inverses (None: not scaled), as it would be of the operands themselves."""
    if a_ptr is not None:
        a, b = tl.load(a_ptr), tl.load(b_ptr)
        # the smaller first: the other way round a large one could overflow before a small one makes up for it
        acc = acc * tl.minimum(a, b) * tl.maximum(a, b)
    return acc


def scaled(x: Operand) -> Scaled:
    """`x` as scaled float16; itself where it is that already.

    Args:
        x: float32, any shape; contiguous, or an image with a pitch.

    Raises:
        Refused: another dtype or strides.
    """
    if isinstance(x, Scaled):
        return x
    check_dtype("scaled", "x", x, (torch.float32,))
    loop = plane("scaled", x=x)
    programs = max(1, min(loop.grid[0], PROGRAMS))
    turns = cdiv(loop.grid[0], programs)
    top = runtime.empty((programs,), torch.int32)
    y = Scaled(runtime.empty(tuple(x.shape), torch.float16), runtime.empty((1,), torch.float32))
    launch(_scaled_max_kernel, (programs,), x, top, *loop.plane, turns, **loop.tile)
    launch(_scaled_kernel, (programs,), x, top, *y, *loop.plane, turns, programs, PROGRAMS=PROGRAMS, **loop.tile)
    return y


def scaled_again(tables: Tables, weights: Sequence[tuple[torch.Tensor, Scaled]]) -> None:
    """Write weights that have changed to their scaled copies, all in three launches.

    Args:
        tables: the optimizer's, kept from step to step.
        weights: float32, contiguous, each with what `scaled` returned for it.
    """
    if not weights:
        return
    sources, copies = zip(*weights, strict=True)
    table = tables.get("scaled", sources, [c.values for c in copies], [c.inverse for c in copies])
    width = cdiv(max(w.numel() for w in sources), BLOCK)
    top = runtime.empty((table.tensors, width), torch.int32)
    table.launch(_scaled_again_max_kernel, top, width, num_warps=4, moved=4)
    launch(_scaled_again_inverse_kernel, (table.tensors,), table.addresses, top, width, CHUNK=BLOCK, BLOCK=1024)
    table.launch(_scaled_again_kernel, num_warps=4, moved=6)
