"""2-D average pooling over channels-last images.

    y[n, p, q, c]  = sum over r < R, s < S of x[n, p*stride + r - pad, q*stride + s - pad, c] / count[p, q]
    dx[n, h, w, c] = sum over the windows (p, q) that cover (h, w) of dy[n, p, q, c] / count[p, q]

Padding is zeros. count is R * S, or with count_include_pad=False the number of positions inside the image.
The forward saves nothing: the gradient does not depend on x. Each input pixel gathers dy from the windows that cover
it, so there are no atomics and dx is bitwise reproducible. A NaN spreads to every window that covers it.
Cost: memory-bound. Forward reads x, writes y; backward reads dy, writes dx. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import pixel_tile
from tritonnet.kernels.runtime import begin, empty, launch, pitch
from tritonnet.kernels.window import Pair, check_window, pixel_index

__all__ = ["avg_pool2d_bwd", "avg_pool2d_fwd"]

OP = "avg_pool2d"


@triton.jit
def _count(p, q, H, W, R: tl.constexpr, S: tl.constexpr, STRIDE_H, STRIDE_W, PAD_H, PAD_W, ALL: tl.constexpr):
    """By what the sum over window (p, q) is divided, float32."""
    if ALL:
        return tl.full(p.shape, R * S, tl.float32)
    top, left = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
    rows = tl.minimum(top + R, H) - tl.maximum(top, 0)
    columns = tl.minimum(left + S, W) - tl.maximum(left, 0)
    return (rows * columns).to(tl.float32)


@triton.jit
def _avg_pool2d_fwd_kernel(
    x_ptr, y_ptr,
    n_out, H, W, P, Q, C, x_pitch,  # n_out = N * P * Q
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, ALL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live, n, p, q = pixel_index(n_out, P, Q, C, BLOCK_M, BLOCK_C)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for r in range(R):
        for s in range(S):
            h, w = p * STRIDE_H + r - PAD_H, q * STRIDE_W + s - PAD_W
            inside = live & ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
            at = ((n * H + h) * W + w).to(tl.int64)[:, None] * x_pitch + c[None, :]
            acc += tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = acc / _count(p, q, H, W, R, S, STRIDE_H, STRIDE_W, PAD_H, PAD_W, ALL)[:, None]
    tl.store(y_ptr + m.to(tl.int64)[:, None] * C + c[None, :], y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _avg_pool2d_bwd_kernel(
    dy_ptr, dx_ptr,
    n_in, H, W, P, Q, C, dy_pitch,  # n_in = N * H * W
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, ALL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live, n, h, w = pixel_index(n_in, H, W, C, BLOCK_M, BLOCK_C)
    dx = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for i in range((R + STRIDE_H - 1) // STRIDE_H):  # the windows that cover (h, w), last one first
        for j in range((S + STRIDE_W - 1) // STRIDE_W):
            p, q = (h + PAD_H) // STRIDE_H - i, (w + PAD_W) // STRIDE_W - j
            r, s = h + PAD_H - p * STRIDE_H, w + PAD_W - q * STRIDE_W
            inside = live & ((p >= 0) & (p < P) & (r < R) & (q >= 0) & (q < Q) & (s < S))[:, None]
            at = ((n * P + p) * Q + q).to(tl.int64)[:, None] * dy_pitch + c[None, :]
            dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
            count = _count(p, q, H, W, R, S, STRIDE_H, STRIDE_W, PAD_H, PAD_W, ALL)
            dx += tl.where(inside, dy / count[:, None], 0.0)  # outside, count may be 0
    tl.store(dx_ptr + m.to(tl.int64)[:, None] * C + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)


def avg_pool2d_fwd(
    x: torch.Tensor, kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool = True
) -> torch.Tensor:
    """Average `x` over windows.

    Args:
        x: (N, H, W, C) buffer of float32, bfloat16 or float16, any pitch.
        kernel_size: (R, S), pixels, 1 or more.
        stride: pixels from window to window, down and across, 1 or more.
        padding: pixels of zeros on both sides of each axis, 0 to half of kernel_size.
        count_include_pad: whether padded positions count in the divisor.

    Returns:
        y in x's dtype, (N, P, Q, C).

    Raises:
        Refused: another dtype, a size out of range, or no room for one window.
    """
    (N, H, W, C, P, Q), window = check_window(OP, x, kernel_size, stride, padding)
    y = empty((N, P, Q, C), x.dtype)
    grid, tile = pixel_tile(N * P * Q, C)
    launch(
        _avg_pool2d_fwd_kernel, grid, x, y, N * P * Q, H, W, P, Q, C, pitch(x), **window, ALL=count_include_pad, **tile
    )
    return y


def avg_pool2d_bwd(
    dy: torch.Tensor, H: int, W: int, kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool = True
) -> torch.Tensor:
    """Gradient of `avg_pool2d_fwd`.

    Args:
        dy: gradient of y, (N, P, Q, C), any pitch.
        H: height of the forward's input, pixels.
        W: its width, pixels.
        kernel_size: as in the forward.
        stride: as in the forward.
        padding: as in the forward.
        count_include_pad: as in the forward.

    Returns:
        dx in dy's dtype, (N, H, W, C).

    Raises:
        Refused: shapes that do not belong together, or a size out of range.
    """
    (N, _, _, C, P, Q), window = check_window(OP, dy, kernel_size, stride, padding, (H, W))
    dx = empty((N, H, W, C), dy.dtype)
    grid, tile = pixel_tile(N * H * W, C)
    launch(
        _avg_pool2d_bwd_kernel, grid, dy, dx, N * H * W, H, W, P, Q, C, pitch(dy),
        **window, ALL=count_include_pad, **tile,
    )  # fmt: skip
    return dx
