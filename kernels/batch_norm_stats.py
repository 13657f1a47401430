"""Statistics of channels-last images for batch normalisation: mean and variance of each channel, and the running ones.

    mean[c] = sum over m of x[m, c] / M                    m over the M = N*H*W pixels
    var[c]  = sum over m of (x[m, c] - mean[c])^2 / M      biased, as normalisation uses it
    running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c]
    running_var[c]  = (1 - momentum) * running_var[c]  + momentum * var[c] * M / (M - 1)

A batch of no pixel has mean and var 0 and changes no running statistic. A NaN spreads over its channel.

No sum of squares, which loses the variance where the mean is large: a set of values is (count, mean, M2), M2 the sum of
squared deviations from that mean, and sets are merged by Chan, Golub and LeVeque 1983, "Algorithms for computing the
sample variance", equation 2.1: pixel by pixel in each lane of a program, then over its lanes, then over the programs.
Whoever produces x (a convolution) may supply (count, mean, M2) of its own tiles and save the pass over x.

Deterministic: one set a program, merged in a fixed order. Two launches. Cost: memory-bound, reads x once.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import FLOATS, pixel_tile
from tritonnet.kernels.runtime import (
    begin,
    cdiv,
    check_buffer,
    check_dtype,
    empty,
    image,
    launch,
    multiprocessors,
    pitch,
    refuse,
)

__all__ = [
    "STAGES", "Running", "batch_norm_merge", "batch_norm_stats", "check_image", "check_vectors",
    "pick_tile",
]  # fmt: skip

OP = "batch_norm"
STAGES = 3  # steps of a reduction in flight at once


def pick_tile(
    pixels: int, channels: int, elements: int, load: int, num_warps: int = 4
) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and tile: up to `load` programs a multiprocessor share the pixels, `elements` a step (see `pixel_tile`).

    The callers' numbers are the best of a sweep on an H200. Programs that reduce leave partial results: as many as fit at once.
    """
    (steps, across), tile = pixel_tile(pixels, channels, elements, 64)
    return (min(steps, max(1, load * multiprocessors() // across)), across), {**tile, "num_warps": num_warps}


@dataclass(frozen=True)
class Running:
    """Running statistics that a training forward updates in place: float32 (C,); `tracked`, int64, counts the batches.

    momentum: share of the new batch, 0 to 1; None for the average over all batches (needs `tracked`).
    """

    mean: torch.Tensor
    var: torch.Tensor
    momentum: float | None = 0.1
    tracked: torch.Tensor | None = None


@triton.jit
def _chan(n, mean, m2, n_more, mean_more, m2_more):
    """Merge (count, mean, M2) of two sets of values, lane by lane: n [M], mean and m2 [M, C]."""
    total = n + n_more
    share = n_more / tl.maximum(total, 1.0)
    delta = mean_more - mean
    mean += delta * share[:, None]
    m2 += m2_more + delta * (delta * (n * share)[:, None])  # delta squared may be infinite where n is 0
    return total, mean, m2


@triton.jit
def _chan_lanes(n, mean, m2):
    """Merge the lanes of (count, mean, M2) into one set a channel: the same formula for many sets at once."""
    total = tl.sum(n, 0)
    some = tl.maximum(total, 1.0)
    center = tl.sum(mean * n[:, None], 0) / some
    delta = mean - center[None, :]
    rest = tl.sum(delta * n[:, None], 0) / some  # what rounding left out of center
    m2 = tl.sum(m2 + delta * (delta * n[:, None]), 0) - rest * rest * total
    return total, center + rest, tl.where(m2 < 0, 0.0, m2)


@triton.jit
def _batch_norm_stats_kernel(
    x_ptr, count_ptr, mean_ptr, m2_ptr,
    pixels, C, x_pitch,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    # Means are kept relative to the program's first pixel: near it, they round less.
    origin = tl.program_id(0).to(tl.int64) * BLOCK_M * x_pitch
    pivot = tl.load(x_ptr + origin + c, mask=c < C, other=0.0).to(tl.float32)
    n = tl.zeros((BLOCK_M,), tl.float32)
    mean = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    m2 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in tl.range(tl.program_id(0), tl.cdiv(pixels, BLOCK_M), tl.num_programs(0), num_stages=STAGES):
        m = step * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        live = (m < pixels)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=live, other=0.0).to(tl.float32)
        n, mean, m2 = _chan(n, mean, m2, (m < pixels).to(tl.float32), x - pivot[None, :], 0.0)
    n, mean, m2 = _chan_lanes(n, mean, m2)
    at = tl.program_id(0) * C + c
    tl.store(mean_ptr + at, mean + pivot, mask=c < C)
    tl.store(m2_ptr + at, m2, mask=c < C)
    if tl.program_id(1) == 0:
        tl.store(count_ptr + tl.program_id(0), n)


@triton.jit
def _batch_norm_merge_kernel(
    count_ptr, tile_mean_ptr, tile_m2_ptr, mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, tracked_ptr,
    tiles, C, momentum,
    CUMULATIVE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin(BRIEF=True)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    n = tl.zeros((BLOCK_T,), tl.float32)
    mean = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    m2 = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)  # [T]
        live = (t < tiles)[:, None] & (c < C)[None, :]
        at = t.to(tl.int64)[:, None] * C + c[None, :]
        tile_n = tl.load(count_ptr + t, mask=t < tiles, other=0.0)
        tile_mean = tl.load(tile_mean_ptr + at, mask=live, other=0.0)
        tile_m2 = tl.load(tile_m2_ptr + at, mask=live, other=0.0)
        n, mean, m2 = _chan(n, mean, m2, tile_n, tile_mean, tile_m2)
    n, mean, m2 = _chan_lanes(n, mean, m2)
    tl.store(mean_ptr + c, mean, mask=c < C)
    tl.store(var_ptr + c, m2 / tl.maximum(n, 1.0), mask=c < C)
    if running_mean_ptr is not None:
        share = momentum
        if CUMULATIVE:
            share = 1.0 / (tl.load(tracked_ptr) + 1).to(tl.float32)
        changed = c < tl.where(n > 0, C, 0)  # a batch of no pixel changes nothing
        running_mean = tl.load(running_mean_ptr + c, mask=changed, other=0.0)
        running_var = tl.load(running_var_ptr + c, mask=changed, other=0.0)
        unbiased = m2 / tl.maximum(n - 1.0, 1.0)
        tl.store(running_mean_ptr + c, (1.0 - share) * running_mean + share * mean, mask=changed)
        tl.store(running_var_ptr + c, (1.0 - share) * running_var + share * unbiased, mask=changed)
        if tracked_ptr is not None:
            if tl.program_id(0) == 0:
                tl.debug_barrier()  # every warp has read the count
                tl.store(tracked_ptr, tl.load(tracked_ptr) + 1)


def check_image(name: str, x: torch.Tensor) -> tuple[int, int, int, int]:
    """Refuse all but a float32, bfloat16 or float16 image; return N, H, W, C."""
    check_dtype(OP, name, x, FLOATS)
    return image(OP, name, x)


def check_vectors(C: int, **vectors: torch.Tensor | None) -> None:
    """Refuse all but None and one float32 number a channel."""
    for name, vector in vectors.items():
        if vector is not None:
            check_buffer(OP, name, vector, torch.float32, (C,), ", one number a channel")


def batch_norm_stats(x: torch.Tensor, running: Running | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel of `x`, and the update of the running ones.

    Args:
        x: (N, H, W, C) buffer of float32, bfloat16 or float16, any pitch.
        running: updated in place if given.

    Returns:
        mean and var, float32 (C,).

    Raises:
        Refused: wrong shapes or dtypes.
    """
    N, H, W, C = check_image("input", x)
    pixels = N * H * W
    grid, tile = pick_tile(pixels, C, 2048, 4, 2)
    count = empty(grid[:1], torch.float32)
    mean, m2 = (empty((grid[0], C), torch.float32) for _ in range(2))
    launch(_batch_norm_stats_kernel, grid, x, count, mean, m2, pixels, C, pitch(x), STAGES=STAGES, **tile)
    return batch_norm_merge(count, mean, m2, running)


def batch_norm_merge(
    count: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor, running: Running | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge the statistics of tiles of pixels, and update the running ones.

    Args:
        count: values a channel in each tile, float32 (tiles,); 0 for an empty tile, whose mean and m2 must be finite.
        mean: their mean, float32 (tiles, C).
        m2: the sum of their squared deviations from that mean, float32 (tiles, C).
        running: updated in place if given.

    Returns:
        mean and biased variance over all tiles, float32 (C,).

    Raises:
        Refused: wrong shapes or dtypes, or an average over all batches without their count.
    """
    tiles, C = mean.shape
    for name, x, shape in (("count", count, (tiles,)), ("mean", mean, (tiles, C)), ("m2", m2, (tiles, C))):
        check_buffer(OP, name, x, torch.float32, shape)
    arguments: tuple[torch.Tensor | None, ...] = (None, None, None)
    momentum = 0.0
    cumulative = False
    if running is not None:
        check_vectors(C, running_mean=running.mean, running_var=running.var)
        if running.tracked is not None:
            check_dtype(OP, "num_batches_tracked", running.tracked, (torch.int64,))
        cumulative = running.momentum is None
        if cumulative and running.tracked is None:
            refuse(OP, "momentum must be a number where num_batches_tracked is not given, got None")
        arguments = (running.mean, running.var, running.tracked)
        momentum = float(running.momentum or 0.0)
    out_mean, out_var = (empty((C,), torch.float32) for _ in range(2))
    # An average over all batches reads the count that the first program raises: one program then.
    block_c = runtime.next_power_of_2(C) if cumulative or runtime.INTERPRET else 8
    warps = 16 if tiles > 512 else 8
    block_t = max(1, min(512 * warps // block_c, runtime.next_power_of_2(tiles)))
    launch(
        _batch_norm_merge_kernel, (cdiv(C, block_c),),
        count, mean, m2, out_mean, out_var, *arguments, tiles, C, momentum,
        CUMULATIVE=cumulative, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=warps,
    )  # fmt: skip
    return out_mean, out_var
