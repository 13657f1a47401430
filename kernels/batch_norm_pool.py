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

from tritonnet.kernels.batch_norm import coefficients, feedback, merge_sums
from tritonnet.kernels.batch_norm_stats import APPLY, OP, REDUCE, check_image, check_vectors, pick_tile
from tritonnet.kernels.runtime import cdiv, empty, launch, pitch, refuse

__all__ = ["batch_norm_pool_bwd", "batch_norm_pool_fwd"]


@triton.jit
def _corner(n, p, q, live, corner, H, W):
    """Pixel [M, 1], int64, at a corner (0 to 3, row-major) of windows (n, p, q), and whether it is there."""
    h, w = 2 * p + corner // 2, 2 * q + corner % 2
    return ((n * H + h) * W + w).to(tl.int64)[:, None], live & ((h < H) & (w < W))[:, None]


@triton.jit
def _winner(x_ptr, n, p, q, live, c, H, W, x_pitch, mean, scale, b, dtype: tl.constexpr):
    """Which corner of each window has the largest y, as stored in `dtype`."""
    best = tl.full(live.shape, float("-inf"), tl.float32)
    winner = tl.zeros(live.shape, tl.int32)
    for corner in range(4):
        pixel, inside = _corner(n, p, q, live, corner, H, W)
        x = tl.load(x_ptr + pixel * x_pitch + c[None, :], mask=inside, other=0.0).to(tl.float32)
        y = (x - mean) * scale + b
        y = tl.where(y < 0, 0.0, y).to(dtype).to(tl.float32)
        take = (y > best) | (y != y)
        best = tl.where(take, y, best)
        winner = tl.where(take, corner, winner)
    return winner


@triton.jit
def _gradient(dy_ptr, x_ptr, pixel, inside, c, dy_pitch, x_pitch, mean, scale, b, won, dz):
    """(g, x - mean) of one corner."""
    x = tl.load(x_ptr + pixel * x_pitch + c[None, :], mask=inside, other=0.0).to(tl.float32) - mean
    g = tl.where(won, dz, 0.0)
    if dy_ptr is not None:
        g += tl.load(dy_ptr + pixel * dy_pitch + c[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.where(x * scale + b <= 0, 0.0, g), x


@triton.jit
def _batch_norm_pool_fwd_kernel(
    x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, y_ptr, z_ptr,
    windows, H, W, ROWS, COLUMNS, C, x_pitch, y_pitch, eps,  # windows = N * ROWS * COLUMNS, covering H x W
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, _, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    steps = tl.cdiv(windows, BLOCK_M)
    for i in range(tl.program_id(0), steps, tl.num_programs(0)):
        m = (steps - 1 - i) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] window
        live = (m < windows)[:, None] & (c < C)[None, :]
        n, p, q = m // (ROWS * COLUMNS), m // COLUMNS % ROWS, m % COLUMNS
        best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), tl.float32)
        for corner in range(4):
            pixel, inside = _corner(n, p, q, live, corner, H, W)
            x = tl.load(x_ptr + pixel * x_pitch + c[None, :], mask=inside, other=0.0).to(tl.float32)
            y = (x - mean) * scale + b
            y = tl.where(y < 0, 0.0, y)
            best = tl.where((y > best) | (y != y), y, best)
            tl.store(y_ptr + pixel * y_pitch + c[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)
        complete = live & ((p < H // 2) & (q < W // 2))[:, None]
        at = ((n * (H // 2) + p) * (W // 2) + q).to(tl.int64)[:, None] * C + c[None, :]
        tl.store(z_ptr + at, best.to(z_ptr.dtype.element_ty), mask=complete)


@triton.jit
def _batch_norm_pool_bwd_stats_kernel(
    dy_ptr, dz_ptr, x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dw_ptr, db_ptr,
    windows, H, W, ROWS, COLUMNS, C, dy_pitch, dz_pitch, x_pitch, eps,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, rstd, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    dw = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for step in range(tl.program_id(0), tl.cdiv(windows, BLOCK_M), tl.num_programs(0)):
        m = step * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] window
        live = (m < windows)[:, None] & (c < C)[None, :]
        n, p, q = m // (ROWS * COLUMNS), m // COLUMNS % ROWS, m % COLUMNS
        winner = _winner(x_ptr, n, p, q, live, c, H, W, x_pitch, mean, scale, b, dz_ptr.dtype.element_ty)
        complete = live & ((p < H // 2) & (q < W // 2))[:, None]
        at = ((n * (H // 2) + p) * (W // 2) + q).to(tl.int64)[:, None] * dz_pitch + c[None, :]
        dz = tl.load(dz_ptr + at, mask=complete, other=0.0).to(tl.float32)
        for corner in range(4):
            pixel, inside = _corner(n, p, q, live, corner, H, W)
            g, x = _gradient(dy_ptr, x_ptr, pixel, inside, c, dy_pitch, x_pitch, mean, scale, b, winner == corner, dz)
            dw += g * x
            db += g
    at = tl.program_id(0) * C + c
    tl.store(dw_ptr + at[None, :], tl.sum(dw, 0)[None, :] * rstd, mask=(c < C)[None, :])
    tl.store(db_ptr + at, tl.sum(db, 0), mask=c < C)


@triton.jit
def _batch_norm_pool_bwd_kernel(
    dy_ptr, dz_ptr, x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dw_ptr, db_ptr, dx_ptr,
    windows, pixels, H, W, ROWS, COLUMNS, C, dy_pitch, dz_pitch, x_pitch, eps,
    TRAINING: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C]
    mean, rstd, scale, b = coefficients(mean_ptr, var_ptr, w_ptr, b_ptr, c, C, eps)
    shift, slope = feedback(dw_ptr, db_ptr, rstd, c, C, pixels, TRAINING)
    steps = tl.cdiv(windows, BLOCK_M)
    for i in range(tl.program_id(0), steps, tl.num_programs(0)):
        m = (steps - 1 - i) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] window
        live = (m < windows)[:, None] & (c < C)[None, :]
        n, p, q = m // (ROWS * COLUMNS), m // COLUMNS % ROWS, m % COLUMNS
        winner = _winner(x_ptr, n, p, q, live, c, H, W, x_pitch, mean, scale, b, dz_ptr.dtype.element_ty)
        complete = live & ((p < H // 2) & (q < W // 2))[:, None]
        at = ((n * (H // 2) + p) * (W // 2) + q).to(tl.int64)[:, None] * dz_pitch + c[None, :]
        dz = tl.load(dz_ptr + at, mask=complete, other=0.0).to(tl.float32)
        for corner in range(4):
            pixel, inside = _corner(n, p, q, live, corner, H, W)
            g, x = _gradient(dy_ptr, x_ptr, pixel, inside, c, dy_pitch, x_pitch, mean, scale, b, winner == corner, dz)
            if TRAINING:
                g -= shift + x * slope
            tl.store(dx_ptr + pixel * C + c[None, :], (g * scale).to(dx_ptr.dtype.element_ty), mask=inside)


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
    y = empty((N, H, W, C), x.dtype) if out is None else out
    if check_image("out", y) != (N, H, W, C) or y.dtype != x.dtype:
        refuse(OP, f"out must be {(N, H, W, C)} of the input's {x.dtype}, got {tuple(y.shape)} of {y.dtype}")
    z = empty((N, H // 2, W // 2, C), x.dtype)
    windows = N * cdiv(H, 2) * cdiv(W, 2)
    tile = pick_tile(windows, C, 2048, APPLY)
    launch(
        _batch_norm_pool_fwd_kernel, (tile.programs, cdiv(C, tile.channels)),
        x, mean, var, w, b, y, z, windows, H, W, cdiv(H, 2), cdiv(W, 2), C, pitch(x), pitch(y), float(eps),
        BLOCK_M=tile.pixels, BLOCK_C=tile.channels, num_warps=tile.num_warps,
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
        if gradient is not None and check_image("the gradient", gradient) != shape:
            refuse(OP, f"the gradient must have the output's buffer shape {shape}, got {tuple(gradient.shape)}")
    rows, columns = cdiv(H, 2), cdiv(W, 2)
    windows = N * rows * columns
    sizes = (H, W, rows, columns, C, pitch(dy) if dy is not None else C, pitch(dz), pitch(x), float(eps))
    tile = pick_tile(windows, C, 1024, REDUCE)
    tile_dw, tile_db = (empty((tile.programs, C), torch.float32) for _ in range(2))
    launch(
        _batch_norm_pool_bwd_stats_kernel, (tile.programs, cdiv(C, tile.channels)),
        dy, dz, x, mean, var, w, b, tile_dw, tile_db, windows, *sizes,
        BLOCK_M=tile.pixels, BLOCK_C=tile.channels, num_warps=tile.num_warps,
    )  # fmt: skip
    dw, db = merge_sums(tile_dw, tile_db)
    dx = empty((N, H, W, C), x.dtype)
    tile = pick_tile(windows, C, 1024, APPLY)
    launch(
        _batch_norm_pool_bwd_kernel, (tile.programs, cdiv(C, tile.channels)),
        dy, dz, x, mean, var, w, b, dw, db, dx, windows, N * H * W, *sizes,
        TRAINING=training, BLOCK_M=tile.pixels, BLOCK_C=tile.channels, num_warps=tile.num_warps,
    )  # fmt: skip
    return dx, dw, db
