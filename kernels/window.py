"""What the pooling kernels share: the checks of a window, the size it leaves, and which pixels a program has.

P = (H + 2 * pad - R) // stride + 1    outputs along an axis of H inputs, window R; alike Q from W and S
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import FLOATS
from tritonnet.kernels.runtime import check_dtype, image, image_of, refuse

__all__ = ["Pair", "check_window", "pixel_index"]

Pair = tuple[int, int]  # height, width


@triton.jit
def pixel_index(total, H, W, C, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's pixels m [M] of N x H x W, channels c [C], which of both exist [M, C]; and image, row, column of m."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    live = ((m >= 0) & (m < total))[:, None] & (c < C)[None, :]  # m wraps in the last program of 2**31 pixels
    return m, c, live, m // (H * W), m // W % H, m % W


def check_window(
    op: str, x: torch.Tensor, kernel_size: Pair, stride: Pair, padding: Pair, size: Pair | None = None
) -> tuple[tuple[int, int, int, int, int, int], dict[str, int]]:
    """Check the window that `op` moves over the image `x`, or over `size` where x is the gradient of its output.

    Returns:
        N, H, W, C of the pooled image and P, Q of the output; the kernels' constants of the window.

    Raises:
        Refused: x is no float image, a size below 1, padding beyond half the window, no room for one window, or a
            gradient of another shape than the output's.
    """
    name = "input" if size is None else "the gradient"
    check_dtype(op, name, x, FLOATS)
    N, H, W, C = image(op, name, x)
    H, W = size or (H, W)
    for what, pair, least in (("kernel_size", kernel_size, 1), ("stride", stride, 1), ("padding", padding, 0)):
        if min(pair) < least:
            refuse(op, f"{what} must be at least {least}, got {pair[0] if pair[0] == pair[1] else pair}")
    if any(2 * pad > size for pad, size in zip(padding, kernel_size, strict=True)):
        refuse(op, f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    P, Q = (
        (size + 2 * pad - window) // step + 1
        for size, window, step, pad in zip((H, W), kernel_size, stride, padding, strict=True)
    )
    if P < 1 or Q < 1:
        refuse(op, f"kernel_size {kernel_size} must fit into the padded input of {H} x {W}, padding {padding}")
    if size is not None:
        image_of(op, name, x, (N, P, Q, C), FLOATS)
    (R, S), (STRIDE_H, STRIDE_W), (PAD_H, PAD_W) = kernel_size, stride, padding
    window = {"R": R, "S": S, "STRIDE_H": STRIDE_H, "STRIDE_W": STRIDE_W, "PAD_H": PAD_H, "PAD_W": PAD_W}
    return (N, H, W, C, P, Q), window
