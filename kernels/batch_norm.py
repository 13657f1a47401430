"""Batch normalisation of channels-last images, with an optional ReLU.

    y[m, c]  = (x[m, c] - mean[c]) * rstd[c] * w[c] + b[c]    m over M = N*H*W pixels, rstd[c] = 1 / sqrt(var[c] + eps)
    db[c]    = sum over m of g[m, c]                          g = dy; with a ReLU, 0 where y <= 0
    dw[c]    = sum over m of g[m, c] * (x[m, c] - mean[c]) * rstd[c]
    dx[m, c] = rstd[c] * w[c] * (g[m, c] - db[c] / M - (x[m, c] - mean[c]) * rstd[c] * dw[c] / M)
    dx[m, c] = rstd[c] * w[c] * g[m, c]                       for given statistics (evaluation)

Without w and b they are 1 and 0. mean and var are the batch's own (`batch_norm_stats`) or the running ones. A NaN
passes through the ReLU, and the gradient passes where y is NaN, as in PyTorch. Ioffe and Szegedy 2015, "Batch
Normalization", algorithm 1 and section 3.

The forward saves x, mean and var; the sign of y is computed again, so y need not be kept. Deterministic: no atomics,
one partial sum a program, added in a fixed order. One launch forward (the statistics take two more), three backward (two,
where the convolution behind has summed).
For a tf32 convolution the forward writes y as scaled float16 at once. That needs no pass for the largest element: over M values
none lies more than sqrt(M - 1) of their deviations from their mean, so y <= |w[c]| * sqrt(M) + b[c], or 0 where that is less.

Cost: memory-bound. The forward reads x and writes y; the backward reads x and dy twice and writes dx. The pass that
writes begins at the image's end, which the pass before has just left in the cache.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
import triton
import triton.language as tl

from tritonnet.kernels.batch_norm_stats import OP, STAGES, Running, check_image, check_vectors, pick_tile
from tritonnet.kernels.pointwise import FLOATS
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, empty, image_of, launch, next_power_of_2, pitch
from tritonnet.kernels.scaled import Scaled, magnitude, scale_of, store_inverse

__all__ = [
    "Norm", "Running", "batch_norm_bwd", "batch_norm_fwd", "batch_norm_relu_scaled", "coefficients", "feedback", "merge_sums",
    "relu",
]  # fmt: skip


FEW = 32  # tiles whose sums every program adds: a launch of its own would cost more


@dataclass(frozen=True)
class Norm:
    """Batch norm by given statistics, all float32 (C,): mean, biased variance, and scale and shift or None."""

    mean: torch.Tensor
    var: torch.Tensor
    w: torch.Tensor | None
    b: torch.Tensor | None
    eps: float = 1e-5

    @property
    def buffers(self) -> tuple[torch.Tensor | None, ...]:
        """The kernels' four pointers."""
        return self.mean, self.var, self.w, self.b


@triton.jit
def relu(y):
    """The larger of y and 0; not a maximum, so that NaN stays."""
    return tl.where(y < 0, 0.0, y)


@triton.jit
def coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps):
    """(mean, rstd, w * rstd, b) of channels c, each [1, C]."""
    mean = tl.load(mean_ptr + c, mask=c < C, other=0.0)[None, :]
    rstd = 1.0 / tl.sqrt(tl.load(var_ptr + c, mask=c < C, other=1.0) + eps)[None, :]
    scale = rstd
    b = tl.zeros_like(rstd)
    if w_ptr is not None:
        scale = rstd * tl.load(w_ptr + c, mask=c < C, other=0.0)[None, :]
    if b_ptr is not None:
        b = tl.load(b_ptr + c, mask=c < C, other=0.0)[None, :]
    return mean, rstd, scale, b


@triton.jit
def feedback(
    dw_ptr, db_ptr, whole_dw_ptr, whole_db_ptr, tiles, rstd, c, C, pixels, TRAINING: tl.constexpr, BLOCK_T: tl.constexpr
):  # fmt: skip
    """(db / M, rstd * dw / M) of channels c, each [1, C]: how the gradient returns through the batch's statistics.

    Every program adds the shares of the few `tiles`, and the first writes what they add up to, unless it is there already.
    """
    t = tl.arange(0, BLOCK_T)  # [T]
    at, live = t[:, None] * C + c[None, :], (t < tiles)[:, None] & (c < C)[None, :]
    dw = tl.sum(tl.load(dw_ptr + at, mask=live, other=0.0), 0)
    db = tl.sum(tl.load(db_ptr + at, mask=live, other=0.0), 0)
    if whole_dw_ptr is not None:
        if tl.program_id(0) == 0:
            tl.store(whole_dw_ptr + c, dw, mask=c < C)
            tl.store(whole_db_ptr + c, db, mask=c < C)
    shift = tl.zeros_like(rstd)
    slope = tl.zeros_like(rstd)
    if TRAINING:
        shift = db[None, :] / pixels
        slope = dw[None, :] * rstd / pixels
    return shift, slope


@triton.jit
def _batch_norm_bound_kernel(w_ptr, b_ptr, inverse_ptr, C, root, BLOCK_C: tl.constexpr):
    begin()
    top = tl.zeros((BLOCK_C,), tl.int32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        bound = tl.full((BLOCK_C,), 1.0, tl.float32) * root
        if w_ptr is not None:
            bound *= tl.abs(tl.load(w_ptr + c, mask=c < C, other=0.0))
        if b_ptr is not None:
            bound += tl.load(b_ptr + c, mask=c < C, other=0.0)
        # of a channel far below zero the ReLU leaves nothing that would need room
        top = tl.maximum(top, magnitude(tl.maximum(bound, 0.0)))
    store_inverse(inverse_ptr, tl.max(top, 0))


@triton.jit
def _batch_norm_fwd_kernel(
    x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, inverse_ptr, y_ptr,
    pixels, C, x_pitch, y_pitch, eps,
    RELU: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, _, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    if inverse_ptr is not None:
        scale, b = scale * scale_of(inverse_ptr), b * scale_of(inverse_ptr)
    steps = tl.cdiv(pixels, BLOCK_M)
    for i in range(tl.program_id(0), steps, tl.num_programs(0)):
        m = (steps - 1 - i) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        live = (m < pixels)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=live, other=0.0).to(tl.float32)
        y = (x - mean) * scale + b
        if RELU:
            y = relu(y)
        if inverse_ptr is not None:
            # of a channel without deviation, rounding of a large mean may lie further off than any number could
            y = tl.where((y > 65504.0) & (y < float("inf")), 65504.0, y)
        tl.store(y_ptr + m[:, None] * y_pitch + c[None, :], y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _batch_norm_bwd_stats_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dw_ptr, db_ptr,
    pixels, C, dy_pitch, x_pitch, eps,
    RELU: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, rstd, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    dw = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in tl.range(tl.program_id(0), tl.cdiv(pixels, BLOCK_M), tl.num_programs(0), num_stages=STAGES):
        m = step * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        live = (m < pixels)[:, None] & (c < C)[None, :]
        g = tl.load(dy_ptr + m[:, None] * dy_pitch + c[None, :], mask=live, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=live, other=0.0).to(tl.float32) - mean
        if RELU:
            g = tl.where(x * scale + b <= 0, 0.0, g)
        dw += g * x
        db += g
    at = tl.program_id(0) * C + c
    tl.store(dw_ptr + at[None, :], tl.sum(dw, 0)[None, :] * rstd, mask=(c < C)[None, :])
    tl.store(db_ptr + at, tl.sum(db, 0), mask=c < C)


@triton.jit
def _batch_norm_bwd_merge_kernel(
    tile_dw_ptr, tile_db_ptr, dw_ptr, db_ptr,
    tiles, C,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin(BRIEF=True)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    dw = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)  # [T]
        live = (t < tiles)[:, None] & (c < C)[None, :]
        at = t.to(tl.int64)[:, None] * C + c[None, :]
        dw += tl.load(tile_dw_ptr + at, mask=live, other=0.0)
        db += tl.load(tile_db_ptr + at, mask=live, other=0.0)
    tl.store(dw_ptr + c, tl.sum(dw, 0), mask=c < C)
    tl.store(db_ptr + c, tl.sum(db, 0), mask=c < C)


@triton.jit
def _batch_norm_bwd_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dw_ptr, db_ptr, whole_dw_ptr, whole_db_ptr,
    tiles, dx_ptr, pixels, C, dy_pitch, x_pitch, eps,
    RELU: tl.constexpr, TRAINING: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, rstd, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    shift, slope = feedback(dw_ptr, db_ptr, whole_dw_ptr, whole_db_ptr, tiles, rstd, c, C, pixels, TRAINING, BLOCK_T)
    steps = tl.cdiv(pixels, BLOCK_M)
    for i in range(tl.program_id(0), steps, tl.num_programs(0)):
        m = (steps - 1 - i) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        live = (m < pixels)[:, None] & (c < C)[None, :]
        g = tl.load(dy_ptr + m[:, None] * dy_pitch + c[None, :], mask=live, other=0.0).to(tl.float32)
        if RELU or TRAINING:
            x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=live, other=0.0).to(tl.float32) - mean
        if RELU:
            g = tl.where(x * scale + b <= 0, 0.0, g)
        if TRAINING:
            g -= shift + x * slope
        tl.store(dx_ptr + m[:, None] * C + c[None, :], (g * scale).to(dx_ptr.dtype.element_ty), mask=live)


def batch_norm_fwd(
    x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, w: torch.Tensor | None, b: torch.Tensor | None,
    *, eps: float = 1e-5, relu: bool = False, out: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Normalise `x` by the given statistics, scale and shift, and clamp at 0 if `relu`.

    Args:
        x: (N, H, W, C) buffer of float32, bfloat16 or float16, any pitch.
        mean: of each channel, float32 (C,).
        var: biased variance of each channel (not its root), float32 (C,).
        w: scale of each channel, float32 (C,), or None for 1.
        b: shift of each channel, float32 (C,), or None for 0.
        eps: added to var, 0 or more.
        relu: whether negative results become 0.
        out: where to write, an (N, H, W, C) buffer of any pitch and float dtype; a new one of x's dtype if None.

    Returns:
        y, shape (N, H, W, C).

    Raises:
        Refused: wrong shapes or dtypes.
    """
    N, H, W, C = check_image("input", x)
    check_vectors(C, running_mean=mean, running_var=var, weight=w, bias=b)
    y = empty((N, H, W, C), x.dtype) if out is None else image_of(OP, "out", out, (N, H, W, C), FLOATS)
    pixels = N * H * W
    grid, tile = pick_tile(pixels, C, 4096, 16)
    launch(
        _batch_norm_fwd_kernel, grid, x, mean, var, w, b, None, y, pixels, C, pitch(x), pitch(y), float(eps),
        RELU=relu, **tile,
    )  # fmt: skip
    return y


def batch_norm_relu_scaled(
    x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, w: torch.Tensor | None, b: torch.Tensor | None, *, eps: float = 1e-5
) -> Scaled:  # fmt: skip
    """`batch_norm_fwd` with a ReLU by x's own mean and variance, in float32, as scaled float16.

    Its scale comes from a bound, so the largest element may lie as far as sqrt(N*H*W) below 2^15.
    """
    N, H, W, C = check_image("input", x)
    check_vectors(C, running_mean=mean, running_var=var, weight=w, bias=b)
    y = Scaled(empty((N, H, W, C), torch.float16), empty((1,), torch.float32))
    pixels = N * H * W
    launch(_batch_norm_bound_kernel, (1,), w, b, y.inverse, C, sqrt(pixels), BLOCK_C=min(next_power_of_2(C), 1024))
    grid, tile = pick_tile(pixels, C, 4096, 16)
    launch(
        _batch_norm_fwd_kernel, grid, x, mean, var, w, b, y.inverse, y.values, pixels, C, pitch(x), C, float(eps),
        RELU=True, **tile,
    )  # fmt: skip
    return y


def merge_sums(
    tile_dw: torch.Tensor, tile_db: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...], dict[str, int]]:
    """Add up partial sums, two buffers of float32 (tiles, C), over the tiles, or leave it to `feedback`.

    Returns:
        dw and db, float32 (C,), and what a kernel takes for `feedback`, which writes them where the tiles are few.
    """
    tiles, C = tile_dw.shape
    dw, db = (empty((C,), torch.float32) for _ in range(2))
    if 0 < tiles <= FEW:
        return dw, db, (tile_dw, tile_db, dw, db, tiles), {"BLOCK_T": next_power_of_2(tiles)}
    block_c = next_power_of_2(C) if INTERPRET else 8
    launch(
        _batch_norm_bwd_merge_kernel, (cdiv(C, block_c),),
        tile_dw, tile_db, dw, db, tiles, C,
        BLOCK_T=min(1024, next_power_of_2(tiles)), BLOCK_C=block_c, num_warps=16 if tiles > 512 else 8,
    )  # fmt: skip
    return dw, db, (dw, db, None, None, 1), {"BLOCK_T": 1}


def batch_norm_bwd(
    dy: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor,
    w: torch.Tensor | None, b: torch.Tensor | None, *, eps: float = 1e-5, relu: bool = False, training: bool = True,
    sums: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `batch_norm_fwd`.

    Args:
        dy: gradient of y, (N, H, W, C), any pitch.
        x: the forward's input.
        mean: as in the forward, and so var, w, b, eps and relu.
        var: as in the forward.
        w: as in the forward.
        b: as in the forward.
        eps: as in the forward.
        relu: as in the forward.
        training: whether mean and var are x's own, so that they depend on x; else they are constants.
        sums: shares of dw and db, float32 (tiles, C) each, where `conv2d_dgrad` has computed them with dy.

    Returns:
        dx in x's dtype, (N, H, W, C); dw and db, float32 (C,), also where w and b are None.

    Raises:
        Refused: wrong shapes or dtypes.
    """
    N, H, W, C = check_image("input", x)
    check_vectors(C, running_mean=mean, running_var=var, weight=w, bias=b)
    image_of(OP, "the gradient", dy, (N, H, W, C), FLOATS)
    pixels = N * H * W
    if sums is None:
        grid, tile = pick_tile(pixels, C, 2048, 4, 2)
        sums = empty((grid[0], C), torch.float32), empty((grid[0], C), torch.float32)
        launch(
            _batch_norm_bwd_stats_kernel, grid, dy, x, mean, var, w, b, *sums, pixels, C, pitch(dy), pitch(x), float(eps),
            RELU=relu, STAGES=STAGES, **tile,
        )  # fmt: skip
    dw, db, shares, constants = merge_sums(*sums)
    dx = empty((N, H, W, C), x.dtype)
    grid, tile = pick_tile(pixels, C, 4096, 4)
    launch(
        _batch_norm_bwd_kernel, grid, dy, x, mean, var, w, b, *shares, dx, pixels, C, pitch(dy), pitch(x), float(eps),
        RELU=relu, TRAINING=training, **constants, **tile,
    )  # fmt: skip
    return dx, dw, db
