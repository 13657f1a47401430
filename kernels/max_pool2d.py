"""2-D max pooling over channels-last images.

    y[n, p, q, c] = max over r < R, s < S of x[n, p*stride + r - pad, q*stride + s - pad, c]

Padding never wins. On a tie the first position in row-major order wins, and a NaN beats any number, as in PyTorch.
The forward also writes `winner`, which of the R*S positions won, one byte an output (int32 above 15x15): all that the
backward needs, since each input pixel gathers dy from the windows that cover it. So no atomics, and dx is bitwise
reproducible. Where windows tile the image (stride = kernel_size, no padding) the backward instead takes each window
once and writes all of its pixels.
Cost: memory-bound. Forward reads x, writes y + winner; backward reads dy + winner, writes dx. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import pixel_tile
from tritonnet.kernels.runtime import begin, cdiv, check_buffer, empty, launch, pitch
from tritonnet.kernels.window import Pair, check_window, pixel_index

__all__ = ["max_pool2d_bwd", "max_pool2d_fwd"]

OP = "max_pool2d"


@triton.jit
def _max_pool2d_fwd_kernel(
    x_ptr, y_ptr, winner_ptr,
    n_out, H, W, P, Q, C, x_pitch,  # n_out = N * P * Q
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live, n, p, q = pixel_index(n_out, P, Q, C, BLOCK_M, BLOCK_C)
    best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), tl.float32)
    winner = tl.full((BLOCK_M, BLOCK_C), -1, tl.int32)
    for r in range(R):
        for s in range(S):
            h, w = p * STRIDE_H + r - PAD_H, q * STRIDE_W + s - PAD_W
            inside = live & ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
            at = ((n * H + h) * W + w).to(tl.int64)[:, None] * x_pitch + c[None, :]
            x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
            # winner < 0 lets an all -inf window still name a real pixel
            take = inside & ((x > best) | (x != x) | (winner < 0))
            best = tl.where(take, x, best)
            winner = tl.where(take, r * S + s, winner)
    at = m.to(tl.int64)[:, None] * C + c[None, :]
    tl.store(y_ptr + at, best.to(y_ptr.dtype.element_ty), mask=live)
    tl.store(winner_ptr + at, winner.to(winner_ptr.dtype.element_ty), mask=live)


@triton.jit
def _max_pool2d_bwd_kernel(
    dy_ptr, winner_ptr, dx_ptr,
    n_in, H, W, P, Q, C, dy_pitch,  # n_in = N * H * W
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live, n, h, w = pixel_index(n_in, H, W, C, BLOCK_M, BLOCK_C)
    dx = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for i in range((R + STRIDE_H - 1) // STRIDE_H):  # the windows that cover (h, w), last one first
        for j in range((S + STRIDE_W - 1) // STRIDE_W):
            p, q = (h + PAD_H) // STRIDE_H - i, (w + PAD_W) // STRIDE_W - j
            r, s = h + PAD_H - p * STRIDE_H, w + PAD_W - q * STRIDE_W
            inside = live & ((p >= 0) & (p < P) & (r < R) & (q >= 0) & (q < Q) & (s < S))[:, None]
            pixel = ((n * P + p) * Q + q).to(tl.int64)[:, None]
            winner = tl.load(winner_ptr + pixel * C + c[None, :], mask=inside, other=0).to(tl.int32)
            dy = tl.load(dy_ptr + pixel * dy_pitch + c[None, :], mask=inside, other=0.0).to(tl.float32)
            dx += tl.where(winner == (r * S + s)[:, None], dy, 0.0)
    tl.store(dx_ptr + m.to(tl.int64)[:, None] * C + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)


@triton.jit
def _max_pool2d_bwd_tiled_kernel(
    dy_ptr, winner_ptr, dx_ptr,
    windows, H, W, P, Q, ROWS, COLUMNS, C, dy_pitch,  # windows = N * ROWS * COLUMNS, enough of them to cover H x W
    R: tl.constexpr, S: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    # a pixel is a window here, also the incomplete ones at the far edges
    _, c, live, n, p, q = pixel_index(windows, ROWS, COLUMNS, C, BLOCK_M, BLOCK_C)
    complete = live & ((p < P) & (q < Q))[:, None]
    pixel = ((n * P + p) * Q + q).to(tl.int64)[:, None]
    winner = tl.load(winner_ptr + pixel * C + c[None, :], mask=complete, other=0).to(tl.int32)
    dy = tl.load(dy_ptr + pixel * dy_pitch + c[None, :], mask=complete, other=0.0).to(tl.float32)
    for r in range(R):
        for s in range(S):
            h, w = p * R + r, q * S + s
            at = ((n * H + h) * W + w).to(tl.int64)[:, None] * C + c[None, :]
            dx = tl.where(winner == r * S + s, dy, 0.0)
            tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=live & ((h < H) & (w < W))[:, None])


def max_pool2d_fwd(
    x: torch.Tensor, kernel_size: Pair, stride: Pair, padding: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool `x` and remember the winners.

    Args:
        x: (N, H, W, C) buffer of float32, bfloat16 or float16, any pitch.
        kernel_size: (R, S), pixels, 1 or more.
        stride: pixels from window to window, down and across, 1 or more.
        padding: pixels of minus infinity on both sides of each axis, 0 to half of kernel_size.

    Returns:
        y in x's dtype and winner = r * S + s (uint8, or int32 above 15x15), both (N, P, Q, C).

    Raises:
        Refused: another dtype, a size out of range, or no room for one window.
    """
    (N, H, W, C, P, Q), window = check_window(OP, x, kernel_size, stride, padding)
    y = empty((N, P, Q, C), x.dtype)
    winner = empty((N, P, Q, C), torch.uint8 if kernel_size[0] * kernel_size[1] <= 15 * 15 else torch.int32)
    grid, tile = pixel_tile(N * P * Q, C)
    launch(_max_pool2d_fwd_kernel, grid, x, y, winner, N * P * Q, H, W, P, Q, C, pitch(x), **window, **tile)
    return y, winner


def max_pool2d_bwd(
    dy: torch.Tensor, winner: torch.Tensor, H: int, W: int, kernel_size: Pair, stride: Pair, padding: Pair
) -> torch.Tensor:
    """Gradient of `max_pool2d_fwd`.

    Args:
        dy: gradient of y, (N, P, Q, C), any pitch.
        winner: as the forward wrote it, (N, P, Q, C), contiguous.
        H: height of the forward's input, pixels.
        W: its width, pixels.
        kernel_size: as in the forward.
        stride: as in the forward.
        padding: as in the forward.

    Returns:
        dx in dy's dtype, (N, H, W, C).

    Raises:
        Refused: shapes that do not belong together, or a size out of range.
    """
    (N, _, _, C, P, Q), window = check_window(OP, dy, kernel_size, stride, padding, (H, W))
    check_buffer(OP, "winner", winner, winner.dtype, (N, P, Q, C))
    dx = empty((N, H, W, C), dy.dtype)
    if stride == kernel_size and padding == (0, 0):
        (R, S), rows, columns = kernel_size, cdiv(H, kernel_size[0]), cdiv(W, kernel_size[1])
        grid, tile = pixel_tile(N * rows * columns, C)
        launch(
            _max_pool2d_bwd_tiled_kernel, grid,
            dy, winner, dx, N * rows * columns, H, W, P, Q, rows, columns, C, pitch(dy), R=R, S=S, **tile,
        )  # fmt: skip
    else:
        grid, tile = pixel_tile(N * H * W, C)
        launch(_max_pool2d_bwd_kernel, grid, dy, winner, dx, N * H * W, H, W, P, Q, C, pitch(dy), **window, **tile)
    return dx
