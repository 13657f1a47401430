"""Sums over any dimensions, in two stages.

    y[o] = scale * sum over r of x[o, r]

o runs over the kept dimensions, r over the summed ones; neighbours of one kind are merged, so at most two of each
remain. When the outputs alone are too few programs to fill the device, r is split: each program sums its share, and a
second launch adds the partial sums. Lanes add their terms in turn and are then added as a tree: the order depends on
the sizes and the device alone, so results are bitwise reproducible. float32 (int64 for integers) throughout; NaN
spreads; an empty sum is 0. Cost: memory-bound, reads x once. The backward of a sum is `arithmetic.expand`. From the
definition.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.arithmetic import mul_fwd
from tritonnet.kernels.convert import cast, nhwc_to_nchw
from tritonnet.kernels.runtime import (
    INTERPRET,
    arch,
    begin,
    cdiv,
    image,
    launch,
    multiprocessors,
    next_power_of_2,
    refuse,
)

__all__ = ["pixel_sum", "sum_fwd", "sum_to"]

Buffer = torch.Tensor


@triton.jit
def _sum_fwd_kernel(
    x_ptr, y_ptr,
    outputs, K1, terms, R1, k0, k1, r0, r1, span, scale,
    ACC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    begin()
    split = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)  # [O]
    o_at = o // K1 * k0 + o % K1 * k1
    acc = tl.zeros((BLOCK_R, BLOCK_O), ACC)
    end = tl.minimum((split + 1) * span, terms)
    for start in range(split * span, end, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)  # [R]
        r_at = r // R1 * r0 + r % R1 * r1
        live = (r < end)[:, None] & (o < outputs)[None, :]
        acc += tl.load(x_ptr + r_at[:, None] + o_at[None, :], mask=live, other=0).to(ACC)
    y = tl.sum(acc, axis=0)
    if ACC == tl.float32:
        y *= scale
    tl.store(y_ptr + split * outputs + o, y.to(y_ptr.dtype.element_ty), mask=o < outputs)


def _merge(x: Buffer, dims: set[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]], bool]:
    """(size, stride) of the kept and of the summed dimensions after merging, and whether the innermost is kept."""
    merged: list[tuple[bool, int, int]] = []
    for d in range(x.dim()):
        kept, size, step = d not in dims, x.shape[d], x.stride(d)
        if size == 1:
            continue
        if merged and merged[-1][0] == kept and merged[-1][2] == size * step:
            merged[-1] = (kept, merged[-1][1] * size, step)
        else:
            merged.append((kept, size, step))
    inner_kept = bool(merged) and merged[-1][0]
    return [m[1:] for m in merged if m[0]], [m[1:] for m in merged if not m[0]], inner_kept


def sum_fwd(x: Buffer, dims: Sequence[int], scale: float = 1.0, dtype: torch.dtype | None = None) -> Buffer:
    """Sum `x` over the buffer's dimensions `dims`, which stay with size 1.

    Args:
        x: any shape; images may have a pitch. Integers are summed as int64.
        dims: dimensions of the buffer (for an image 0..3 are N, H, W, C), from 0 up; none leaves a scaled copy.
        scale: multiplies the result of a floating-point sum (1 / terms gives the mean).
        dtype: of the result: by default x's for floats, int64 for integers.

    Raises:
        Refused: another device, float64, or more than two groups of summed dimensions.
    """
    if x.device != runtime.device():
        refuse("sum", f"input must be on {runtime.device()}, got {x.device}")
    if x.dtype == torch.float64:
        refuse("sum", "input must not be float64")
    kept, summed, inner_kept = _merge(x, set(dims))
    if (len(kept) > 2 or len(summed) > 2) and not x.is_contiguous():
        x = cast(x, x.dtype)  # a pitch keeps neighbours apart that merge without it
        kept, summed, inner_kept = _merge(x, set(dims))
    if len(kept) > 2 or len(summed) > 2:
        refuse("sum", f"at most two groups of neighbouring dimensions may be summed at once, got dim {tuple(dims)}")
    floating = x.is_floating_point()
    shape = tuple(1 if d in dims else size for d, size in enumerate(x.shape))
    y = runtime.empty(shape, dtype or (x.dtype if floating else torch.int64))
    # a single dimension goes outermost: its inner size 1 lets the compiler drop the division
    (_, k0), (K1, k1) = [*kept, (1, 0), (1, 0)][:2]
    (_, r0), (R1, r1) = [*summed, (1, 0), (1, 0)][:2]
    outputs, terms = y.numel(), x.numel() // max(y.numel(), 1)
    elements = 65536 if INTERPRET else 4096
    warps = 8 if arch() == "sm_120" else 4  # where 4 would spill
    if inner_kept:  # neighbouring lanes read neighbouring outputs
        block_o = min(next_power_of_2(outputs), 1024 if INTERPRET else 64)
        block_r = min(next_power_of_2(terms), elements // block_o)
    else:
        block_r = min(next_power_of_2(terms), elements)
        block_o = min(next_power_of_2(outputs), elements // block_r)
    splits = min(cdiv(8 * multiprocessors(), max(cdiv(outputs, block_o), 1)), max(cdiv(terms, block_r), 1))
    span = cdiv(cdiv(terms, splits), block_r) * block_r
    splits = cdiv(terms, span) if terms else 1
    acc = tl.float32 if floating else tl.int64
    partial = runtime.empty((splits, outputs), torch.float32 if floating else torch.int64) if splits > 1 else y
    launch(
        _sum_fwd_kernel, (cdiv(outputs, block_o), splits), x, partial, outputs, K1, terms, R1, k0, k1, r0, r1, span,
        1.0 if splits > 1 else float(scale), ACC=acc, BLOCK_R=block_r, BLOCK_O=block_o, num_warps=warps,
    )  # fmt: skip
    if splits > 1:
        # few outputs a program: the partial sums are small, so more programs count for more than whole lines
        block_o = min(next_power_of_2(outputs), 1024 if INTERPRET else 8)
        block_r = min(next_power_of_2(splits), elements // block_o)
        launch(
            _sum_fwd_kernel, (cdiv(outputs, block_o), 1), partial, y, outputs, 1, splits, 1, 1, 0, outputs, 0, splits,
            float(scale), ACC=acc, BLOCK_R=block_r, BLOCK_O=block_o, num_warps=warps,
        )  # fmt: skip
    return y


def pixel_sum(x: Buffer) -> Buffer:
    """The sum over all pixels of an (N, H, W, C) image buffer: (C,) float32. It is the gradient of a bias.

    Raises:
        Refused: not an image buffer.
    """
    image("pixel_sum", "x", x)
    return sum_fwd(x, (0, 1, 2), dtype=torch.float32).view(x.shape[3])


def sum_to(dy: Buffer, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> Buffer:
    """`scale * dy` summed to a buffer of `shape`, from which dy's shape was broadcast in torch's order, as `dtype`.

    This is the gradient of a broadcast operand. It may be `dy` itself.
    """
    if tuple(dy.shape) == shape:
        return dy if dtype == dy.dtype and scale == 1 else mul_fwd(dy, None, scale, dtype=dtype)
    missing = (1,) * (dy.dim() - len(shape))
    sizes = missing + shape
    if dy.dim() == 4 and missing:  # (N, C, H, W) to the buffer's order and, below, back
        sizes = tuple(sizes[i] for i in (0, 2, 3, 1))
    y = sum_fwd(dy, [d for d, size in enumerate(dy.shape) if sizes[d] != size], scale, dtype)
    return nhwc_to_nchw(y).view(shape) if dy.dim() == 4 and missing else y.view(shape)
