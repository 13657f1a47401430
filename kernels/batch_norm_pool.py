"""Batch normalisation, ReLU and 2x2 max pooling (stride 2) of channels-last images in one pass.

    y[n, h, w, c] = max(0, (x[n, h, w, c] - mean[c]) * rstd[c] * w[c] + b[c])
    z[n, p, q, c] = max over r < 2, s < 2 of y[n, 2p + r, 2q + s, c]
    g[n, h, w, c] = dy[n, h, w, c] + (dz[n, p, q, c] where (h, w) won its window), 0 where y <= 0

and db, dw, dx from g as in `batch_norm`. Edge rules as in `batch_norm` and `max_pool2d`: NaN passes through and wins,
of equals (as y is stored) the first wins, an odd last row or column is in no window. Without dy it is 0.

The forward saves what `batch_norm` saves: winners are found again from x, so no winner is stored, and no gradient image
is written between pooling and normalisation. Deterministic: partial sums are added in a fixed order.
Cost: memory-bound. The forward reads x, writes y and z; the backward reads x, dy and dz twice and writes dx.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.batch_norm import coefficients, feedback, merge_sums, relu
from tritonnet.kernels.batch_norm_stats import OP, check_image, check_vectors, pick_tile
from tritonnet.kernels.pointwise import FLOATS
from tritonnet.kernels.runtime import begin, cdiv, empty, image_of, launch, pitch, refuse

__all__ = ["batch_norm_pool_bwd", "batch_norm_pool_fwd"]


@triton.jit
def _windows(i, windows, H, W, ROWS, COLUMNS, c, C, BLOCK_M: tl.constexpr):
    """First and pooled pixel of the windows of step i, int64 [M, 1], and which of their pixels are there [M, C]."""
    m = i * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    n, p, q = m // (ROWS * COLUMNS), m // COLUMNS % ROWS, m % COLUMNS
    pixel = ((n * H + 2 * p) * W + 2 * q).to(tl.int64)[:, None]
    pooled = ((n * (H // 2) + p) * (W // 2) + q).to(tl.int64)[:, None]
    here = (m < windows)[:, None] & (c < C)[None, :]
    right = here & (2 * q + 1 < W)[:, None]
    below = here & (2 * p + 1 < H)[:, None]
    return pixel, pooled, here, right, below, right & below


@triton.jit
def _load(ptr, pixel, W, pitch, c, here, right, below, both):
    """The four pixels of each window, row-major, float32; 0 beyond the image."""
    at = ptr + pixel * pitch + c[None, :]
    row = W.to(tl.int64) * pitch
    return (
        tl.load(at, mask=here, other=0.0).to(tl.float32),
        tl.load(at + pitch, mask=right, other=0.0).to(tl.float32),
        tl.load(at + row, mask=below, other=0.0).to(tl.float32),
        tl.load(at + row + pitch, mask=both, other=0.0).to(tl.float32),
    )


@triton.jit
def _store(ptr, pixel, W, pitch, c, here, right, below, both, v0, v1, v2, v3):
    """The opposite of `_load`."""
    at = ptr + pixel * pitch + c[None, :]
    row = W.to(tl.int64) * pitch
    tl.store(at, v0.to(ptr.dtype.element_ty), mask=here)
    tl.store(at + pitch, v1.to(ptr.dtype.element_ty), mask=right)
    tl.store(at + row, v2.to(ptr.dtype.element_ty), mask=below)
    tl.store(at + row + pitch, v3.to(ptr.dtype.element_ty), mask=both)


@triton.jit
def _larger(y, best):
    """Whether y takes over from `best`, which comes before it."""
    return (y > best) | (y != y)


@triton.jit
def _gradient(g, x, won, dz, scale, b):
    """What reaches one pixel of each window from y and from z, through the ReLU."""
    return tl.where(x * scale + b <= 0, 0.0, g + tl.where(won, dz, 0.0))


@triton.jit
def _gradients(
    dy_ptr, dz_ptr, x_ptr, i, windows, H, W, ROWS, COLUMNS, c, C, dy_pitch, dz_pitch, x_pitch, mean, scale, b,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """(g, x - mean) of the four pixels of each window. All is loaded before anything is computed, to wait only once."""
    pixel, pooled, here, right, below, both = _windows(i, windows, H, W, ROWS, COLUMNS, c, C, BLOCK_M)
    x0, x1, x2, x3 = _load(x_ptr, pixel, W, x_pitch, c, here, right, below, both)
    dz = tl.load(dz_ptr + pooled * dz_pitch + c[None, :], mask=both, other=0.0).to(tl.float32)
    if dy_ptr is not None:
        g0, g1, g2, g3 = _load(dy_ptr, pixel, W, dy_pitch, c, here, right, below, both)
    else:
        g0 = tl.zeros_like(x0)
        g1, g2, g3 = g0, g0, g0
    x0, x1, x2, x3 = x0 - mean, x1 - mean, x2 - mean, x3 - mean
    best = relu(x0 * scale + b).to(dz_ptr.dtype.element_ty).to(tl.float32)  # as stored
    winner = tl.zeros_like(x0).to(tl.int32)
    y = relu(x1 * scale + b).to(dz_ptr.dtype.element_ty).to(tl.float32)
    take = _larger(y, best)
    best, winner = tl.where(take, y, best), tl.where(take, 1, winner)
    y = relu(x2 * scale + b).to(dz_ptr.dtype.element_ty).to(tl.float32)
    take = _larger(y, best)
    best, winner = tl.where(take, y, best), tl.where(take, 2, winner)
    y = relu(x3 * scale + b).to(dz_ptr.dtype.element_ty).to(tl.float32)
    winner = tl.where(_larger(y, best), 3, winner)
    g0 = _gradient(g0, x0, winner == 0, dz, scale, b)
    g1 = _gradient(g1, x1, winner == 1, dz, scale, b)
    g2 = _gradient(g2, x2, winner == 2, dz, scale, b)
    g3 = _gradient(g3, x3, winner == 3, dz, scale, b)
    return pixel, here, right, below, both, g0, g1, g2, g3, x0, x1, x2, x3


@triton.jit
def _batch_norm_pool_fwd_kernel(
    x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, y_ptr, z_ptr,
    windows, H, W, ROWS, COLUMNS, C, x_pitch, y_pitch, eps,  # windows = N * ROWS * COLUMNS, covering H x W
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, _, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    steps = tl.cdiv(windows, BLOCK_M)
    for step in range(tl.program_id(0), steps, tl.num_programs(0)):
        pixel, pooled, here, right, below, both = _windows(
            steps - 1 - step, windows, H, W, ROWS, COLUMNS, c, C, BLOCK_M
        )
        x0, x1, x2, x3 = _load(x_ptr, pixel, W, x_pitch, c, here, right, below, both)
        y0, y1 = relu((x0 - mean) * scale + b), relu((x1 - mean) * scale + b)
        y2, y3 = relu((x2 - mean) * scale + b), relu((x3 - mean) * scale + b)
        _store(y_ptr, pixel, W, y_pitch, c, here, right, below, both, y0, y1, y2, y3)
        z = tl.where(_larger(y1, y0), y1, y0)
        z = tl.where(_larger(y2, z), y2, z)
        z = tl.where(_larger(y3, z), y3, z)
        tl.store(z_ptr + pooled * C + c[None, :], z.to(z_ptr.dtype.element_ty), mask=both)


@triton.jit
def _batch_norm_pool_bwd_stats_kernel(
    dy_ptr, dz_ptr, x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dw_ptr, db_ptr,
    windows, H, W, ROWS, COLUMNS, C, dy_pitch, dz_pitch, x_pitch, eps,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, rstd, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    dw = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in range(tl.program_id(0), tl.cdiv(windows, BLOCK_M), tl.num_programs(0)):
        _, _, _, _, _, g0, g1, g2, g3, x0, x1, x2, x3 = _gradients(
            dy_ptr, dz_ptr, x_ptr, step, windows, H, W, ROWS, COLUMNS, c, C, dy_pitch, dz_pitch, x_pitch,
            mean, scale, b, BLOCK_M,
        )  # fmt: skip
        dw += (g0 * x0 + g1 * x1) + (g2 * x2 + g3 * x3)
        db += (g0 + g1) + (g2 + g3)
    at = tl.program_id(0) * C + c
    tl.store(dw_ptr + at[None, :], tl.sum(dw, 0)[None, :] * rstd, mask=(c < C)[None, :])
    tl.store(db_ptr + at, tl.sum(db, 0), mask=c < C)


@triton.jit
def _batch_norm_pool_bwd_kernel(
    dy_ptr, dz_ptr, x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dw_ptr, db_ptr, whole_dw_ptr, whole_db_ptr,
    tiles, dx_ptr, windows, pixels, H, W, ROWS, COLUMNS, C, dy_pitch, dz_pitch, x_pitch, eps,
    TRAINING: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, rstd, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    shift, slope = feedback(dw_ptr, db_ptr, whole_dw_ptr, whole_db_ptr, tiles, rstd, c, C, pixels, TRAINING, BLOCK_T)
    steps = tl.cdiv(windows, BLOCK_M)
    for step in range(tl.program_id(0), steps, tl.num_programs(0)):
        pixel, here, right, below, both, g0, g1, g2, g3, x0, x1, x2, x3 = _gradients(
            dy_ptr, dz_ptr, x_ptr, steps - 1 - step, windows, H, W, ROWS, COLUMNS, c, C, dy_pitch, dz_pitch, x_pitch,
            mean, scale, b, BLOCK_M,
        )  # fmt: skip
        if TRAINING:
            g0, g1 = g0 - shift - x0 * slope, g1 - shift - x1 * slope
            g2, g3 = g2 - shift - x2 * slope, g3 - shift - x3 * slope
        _store(dx_ptr, pixel, W, C, c, here, right, below, both, g0 * scale, g1 * scale, g2 * scale, g3 * scale)


def batch_norm_pool_fwd(
    x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, w: torch.Tensor | None, b: torch.Tensor | None,
    *, eps: float = 1e-5, out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Normalise `x` by the given statistics, scale, shift, clamp at 0, and pool the result.

    Args:
        x: (N, H, W, C) buffer of float32, bfloat16 or float16, any pitch; H and W 2 or more.
        mean: of each channel, float32 (C,).
        var: biased variance of each channel (not its root), float32 (C,).
        w: scale of each channel, float32 (C,), or None for 1.
        b: shift of each channel, float32 (C,), or None for 0.
        eps: added to var, 0 or more.
        out: where to write y, an (N, H, W, C) buffer of x's dtype and any pitch; a new one if None.

    Returns:
        y, shape (N, H, W, C), and z, shape (N, H // 2, W // 2, C).

    Raises:
        Refused: wrong shapes or dtypes.
    """
    N, H, W, C = check_image("input", x)
    check_vectors(C, running_mean=mean, running_var=var, weight=w, bias=b)
    if min(H, W) < 2:
        refuse("max_pool2d", f"kernel_size (2, 2) must fit into the input of {H} x {W}")
    y = empty((N, H, W, C), x.dtype) if out is None else image_of(OP, "out", out, (N, H, W, C), (x.dtype,))
    z = empty((N, H // 2, W // 2, C), x.dtype)
    windows = N * cdiv(H, 2) * cdiv(W, 2)
    grid, tile = pick_tile(windows, C, 1024, 32)
    launch(
        _batch_norm_pool_fwd_kernel, grid,
        x, mean, var, w, b, y, z, windows, H, W, cdiv(H, 2), cdiv(W, 2), C, pitch(x), pitch(y), float(eps), **tile,
    )  # fmt: skip
    return y, z


def batch_norm_pool_bwd(
    dy: torch.Tensor | None, dz: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor,
    w: torch.Tensor | None, b: torch.Tensor | None, *, eps: float = 1e-5, training: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `batch_norm_pool_fwd`.

    Args:
        dy: gradient of y, (N, H, W, C), any pitch; None where y has no other consumer than the pooling.
        dz: gradient of z, (N, H // 2, W // 2, C), any pitch, x's dtype.
        x: the forward's input.
        mean: as in the forward.
        var: as in the forward.
        w: as in the forward.
        b: as in the forward.
        eps: as in the forward.
        training: whether mean and var are x's own, so that they depend on x; else they are constants.

    Returns:
        dx in x's dtype, (N, H, W, C); dw and db, float32 (C,), also where w and b are None.

    Raises:
        Refused: wrong shapes or dtypes.
    """
    N, H, W, C = check_image("input", x)
    check_vectors(C, running_mean=mean, running_var=var, weight=w, bias=b)
    for gradient, shape in ((dy, (N, H, W, C)), (dz, (N, H // 2, W // 2, C))):
        if gradient is not None:
            image_of(OP, "the gradient", gradient, shape, FLOATS)
    rows, columns = cdiv(H, 2), cdiv(W, 2)
    windows = N * rows * columns
    sizes = (H, W, rows, columns, C, pitch(dy) if dy is not None else C, pitch(dz), pitch(x), float(eps))
    grid, tile = pick_tile(windows, C, 512, 16)
    sums = empty((grid[0], C), torch.float32), empty((grid[0], C), torch.float32)
    launch(_batch_norm_pool_bwd_stats_kernel, grid, dy, dz, x, mean, var, w, b, *sums, windows, *sizes, **tile)
    dw, db, shares, constants = merge_sums(*sums)
    dx = empty((N, H, W, C), x.dtype)
    grid, tile = pick_tile(windows, C, 256, 32)
    launch(
        _batch_norm_pool_bwd_kernel, grid, dy, dz, x, mean, var, w, b, *shares, dx, windows, N * H * W, *sizes,
        TRAINING=training, **constants, **tile,
    )  # fmt: skip
    return dx, dw, db
