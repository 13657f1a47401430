"""The kernel of all functions of one or two numbers, and how elementwise kernels walk over memory.

    y[i] = F(a[i], b[i], number)        in float32, rounded once; a and b broadcast

Any strided loop of four sizes runs as tiles of rows x columns:

    element (m, c), with m = (i0 * D1 + i1) * D2 + i2, lies at i0 * s0 + i1 * s1 + i2 * s2 + c * s3

`walk` merges every pair of neighbouring dimensions that all operands lay out as one. So equal contiguous buffers
become a single row (no division is left, accesses are 16 bytes wide), images with a pitch become pixels x channels,
and only true broadcasts keep more: then an index is divided once a row, not once an element. A broadcast dimension
has stride 0. Dimensions are listed outermost first and missing ones have size 1, which the compiler folds away.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, check_dtype, launch, logical, next_power_of_2, refuse

__all__ = [
    "FLOATS", "Walk", "broadcast", "flat_tile", "image_index", "image_tile", "offset", "pixel_tile", "plane", "pointwise",
    "tile_at", "tile_index", "walk",
]  # fmt: skip

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def tile_at(number, rows, columns, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile's rows [M, 1] and columns [1, C] as int64, and which of its elements exist."""
    across = tl.cdiv(columns, BLOCK_C)
    number = number.to(tl.int64)
    m = (number // across * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    c = (number % across * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    return m, c, (m < rows) & (c < columns)


@triton.jit
def tile_index(rows, columns, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """`tile_at` for this program's number."""
    return tile_at(tl.program_id(0), rows, columns, BLOCK_M, BLOCK_C)


@triton.jit
def offset(m, c, D1, D2, s0, s1, s2, s3):
    """Where element (m, c) lies in an operand with strides s0..s3."""
    return m // D2 // D1 * s0 + m // D2 % D1 * s1 + m % D2 * s2 + c * s3


@triton.jit
def image_index(P, Q, C, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's image n, rows p [P, 1, 1], columns q [1, Q, 1], channels c [1, 1, C], and which exist."""
    across = tl.cdiv(Q, BLOCK_Q)
    down = tl.cdiv(P, BLOCK_P)
    pid = tl.program_id(0)
    n = pid // across // down
    p = (pid // across % down * BLOCK_P + tl.arange(0, BLOCK_P))[:, None, None]
    q = (pid % across * BLOCK_Q + tl.arange(0, BLOCK_Q))[None, :, None]
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, None, :]
    return n, p, q, c, (p < P) & (q < Q) & (c < C)


@dataclass(frozen=True)
class Walk:
    """A strided loop ready to launch: pass `*sizes`, then `*strides[k]` of each operand that needs them."""

    sizes: tuple[int, int, int, int]  # rows, D1, D2, columns
    strides: tuple[tuple[int, int, int, int], ...]

    @cached_property
    def tile(self) -> dict[str, int]:
        """The constexpr arguments: 2048 elements, as wide in columns as they go."""
        elements = 65536 if INTERPRET else 2048
        block_c = min(next_power_of_2(self.sizes[3]), elements)
        return {"BLOCK_M": min(next_power_of_2(self.sizes[0]), elements // block_c), "BLOCK_C": block_c}

    @cached_property
    def grid(self) -> tuple[int]:
        """One program a tile."""
        return (cdiv(self.sizes[0], self.tile["BLOCK_M"]) * cdiv(self.sizes[3], self.tile["BLOCK_C"]),)

    @property
    def plane(self) -> tuple[int, ...]:
        """For a walk from `plane`: rows, columns, then the row and column stride of each operand."""
        return (self.sizes[0], self.sizes[3], *(step for s in self.strides for step in (s[0], s[3])))


@lru_cache(maxsize=4096)
def walk(op: str, sizes: tuple[int, ...], *strides: tuple[int, ...]) -> Walk:
    """Merge what dimensions can be merged.

    Args:
        op: names the op in a refusal.
        sizes: of the loop, outermost first, columns last.
        strides: of each operand, in elements, one for each size (0 where the operand repeats).

    Raises:
        Refused: more than 4 dimensions remain after merging.
    """
    zeros = (0,) * len(strides)
    dims: list[tuple[int, tuple[int, ...]]] = []
    for size, steps in zip(sizes, zip(*strides, strict=True), strict=True):
        if size == 1:
            continue
        if dims and all(outer == step * size for outer, step in zip(dims[-1][1], steps, strict=True)):
            dims[-1] = (dims[-1][0] * size, steps)
        else:
            dims.append((size, steps))
    if len(dims) > 4:
        refuse(op, f"at most 4 dimensions may remain after merging, got {len(dims)} for sizes {tuple(sizes)}")
    columns, column_steps = dims.pop() if dims else (1, zeros)
    dims += [(1, zeros)] * (3 - len(dims))
    rows = dims[0][0] * dims[1][0] * dims[2][0]
    laid = tuple(zip(*(steps for _, steps in dims), column_steps, strict=True))
    return Walk((rows, dims[1][0], dims[2][0], columns), laid)


def plane(op: str, **buffers: torch.Tensor) -> Walk:
    """The walk over named buffers of one shape, each contiguous or an image with a pitch: rows of one stride.

    Raises:
        Refused: different shapes, another device, a dtype that is no float, or other strides.
    """
    first, *others = buffers.values()
    for name, x in buffers.items():
        if x.shape != first.shape:
            refuse(op, f"{name} must have shape {tuple(first.shape)}, got {tuple(x.shape)}")
        if x.device != runtime.device():
            refuse(op, f"{name} must be on {runtime.device()}, got {x.device}")
        check_dtype(op, name, x, FLOATS)
    loop = walk(op, first.shape, first.stride(), *(x.stride() for x in others))
    if loop.sizes[1] != 1:
        refuse(op, f"buffers must be contiguous or images with one pitch, got strides {tuple(first.stride())}")
    return loop


def flat_tile(elements: int, block: int = 2048) -> tuple[tuple[int], dict[str, int]]:
    """Grid and tile of a kernel over elements in a row, `block` a program."""
    block = 65536 if INTERPRET else block
    return (cdiv(elements, block),), {"BLOCK": block}


def pixel_tile(
    pixels: int, channels: int, elements: int = 2048, widest: int = 128
) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and tile of a kernel over pixels and channels: up to `elements` a program, in rows of up to `widest` channels.

    A row is the largest power of two that divides `channels` where that is 32 or more.
    """
    divisor = min(channels & -channels, widest)
    block_c = divisor if divisor >= 32 else min(next_power_of_2(channels), 128)
    # channels that are no vectors take an address each, and those take registers
    block_m = elements // (2 if channels % 8 else 1) // block_c
    if INTERPRET:  # an operation costs 30 us whatever its size
        block_m = min(65536 // block_c, next_power_of_2(pixels))
    return (cdiv(pixels, block_m), cdiv(channels, block_c)), {"BLOCK_M": block_m, "BLOCK_C": block_c}


def image_tile(N: int, P: int, Q: int, C: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and tile of a kernel over images in their rows and columns: some pixels of a row, many channels a program."""
    elements = 65536 if INTERPRET else 2048
    block_c = min(next_power_of_2(C), 1024 if INTERPRET else 128)
    block_q = min(next_power_of_2(Q), max(elements // block_c, 1))
    block_p = min(next_power_of_2(P), max(elements // (block_c * block_q), 1))
    grid = N * cdiv(P, block_p) * cdiv(Q, block_q), cdiv(C, block_c)
    return grid, {"BLOCK_P": block_p, "BLOCK_Q": block_q, "BLOCK_C": block_c}


def broadcast(op: str, a: torch.Tensor, b: torch.Tensor) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The buffer shape of two operands broadcast together as torch would, and the strides of each over it.

    Shapes align from the right in torch's order: a rank-4 buffer (N, H, W, C) counts as (N, C, H, W), other ranks as
    they are. The result of rank 4 is an (N, H, W, C) buffer again.

    Raises:
        Refused: sizes that neither agree nor are 1, or more than 4 dimensions that are not the same.
    """
    if a.shape == b.shape:
        return tuple(a.shape), [a.stride(), b.stride()]
    rank = max(a.dim(), b.dim())
    if rank > 4:
        refuse(op, f"tensors that broadcast must have at most 4 dimensions, got {rank}")
    aligned = []
    for x in (a, b):
        missing, order = rank - x.dim(), (0, 3, 1, 2) if x.dim() == 4 else range(x.dim())
        steps = [0 if x.shape[d] == 1 else x.stride(d) for d in order]
        aligned.append(([1] * missing + [x.shape[d] for d in order], [0] * missing + steps))
    (sizes, _), (others, _) = aligned
    if any(one != other and 1 not in (one, other) for one, other in zip(sizes, others, strict=True)):
        refuse(op, f"shapes must broadcast, got {logical(a)} and {logical(b)}")
    shape = [other if one == 1 else one for one, other in zip(sizes, others, strict=True)]
    order = (0, 2, 3, 1) if rank == 4 else range(rank)
    return tuple(shape[d] for d in order), [tuple(steps[d] for d in order) for _, steps in aligned]


@triton.jit
def _pointwise_kernel(
    a_ptr, b_ptr, y_ptr,
    rows, D1, D2, columns, a0, a1, a2, a3, b0, b1, b2, b3, number,
    F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    a = tl.load(a_ptr + offset(m, c, D1, D2, a0, a1, a2, a3), mask=live, other=0.0).to(tl.float32)
    b = a
    if b_ptr is not None:
        b = tl.load(b_ptr + offset(m, c, D1, D2, b0, b1, b2, b3), mask=live, other=0.0).to(tl.float32)
    tl.store(y_ptr + m * columns + c, F(a, b, number).to(y_ptr.dtype.element_ty), mask=live)


def pointwise(
    op: str, function: triton.JITFunction, a: torch.Tensor, b: torch.Tensor | None = None, number: float = 0.0,
    *, shape: tuple[int, ...] | None = None, dtype: torch.dtype | None = None,
) -> torch.Tensor:  # fmt: skip
    """`function(a, b, number)`, element by element.

    Args:
        op: names the op in a refusal.
        function: from float32 a, b (a again where there is none) and number to float32.
        a: any shape, float32, bfloat16 or float16; images may have a pitch.
        b: any shape that broadcasts with a's, one of the same dtypes, or None.
        number: any.
        shape: of the result where there is no b: what a's broadcasts to; left out, a's.
        dtype: of the result; left out, a's if b's is the same, else float32, as torch's.

    Returns:
        The broadcast shape, contiguous.

    Raises:
        Refused: shapes that do not broadcast, another dtype or device.
    """
    for name, x in (("input", a), ("other", b)):
        if x is not None:
            check_dtype(op, name, x, FLOATS)
            if x.device != runtime.device():
                refuse(op, f"{name} must be on {runtime.device()}, got {x.device}")
    dtype = dtype or (a.dtype if b is None or b.dtype == a.dtype else torch.float32)
    made = None if shape is None else runtime.empty(shape, dtype)
    wide, (a_steps, b_steps) = broadcast(op, a, b if b is not None else made if made is not None else a)
    if shape not in (None, wide):
        refuse(op, f"input must broadcast to {shape}, got {tuple(a.shape)}")
    y = runtime.empty(wide, dtype) if made is None else made
    loop = walk(op, wide, a_steps, a_steps if b is None else b_steps)
    launch(
        _pointwise_kernel, loop.grid, a, b, y, *loop.sizes, *loop.strides[0], *loop.strides[1], float(number),
        F=function, **loop.tile,
    )  # fmt: skip
    return y
