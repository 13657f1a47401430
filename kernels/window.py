"""What the pooling kernels share: the checks of a window, the size it leaves, and how outputs are cut into programs.

P = (H + 2 * pad - R) // stride + 1    outputs along an axis of H inputs, window R; alike Q from W and S

Memory-bound kernels want many programs with long rows of channels; nothing here depends on values.
"""

from dataclasses import dataclass

import torch

from tritonnet.kernels.runtime import INTERPRET, cdiv, check_dtype, image, next_power_of_2, refuse

__all__ = ["FLOATS", "Pair", "Tile", "check_window", "pick_tile"]

Pair = tuple[int, int]  # height, width
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Tile:
    """How an image is cut into programs: pixels x channels each."""

    pixels: int
    channels: int
    num_warps: int = 4

    def grid(self, pixels: int, channels: int) -> Pair:
        """Programs along pixels and along channels."""
        return cdiv(pixels, self.pixels), cdiv(channels, self.channels)


def pick_tile(pixels: int, channels: int) -> Tile:
    """About 2048 elements a program, in rows of up to 128 channels: a divisor of `channels` where 32 or more is one."""
    divisor = min(channels & -channels, 128)
    block_c = divisor if divisor >= 32 else min(next_power_of_2(channels), 128)
    if INTERPRET:  # an operation costs 30 us whatever its size
        return Tile(min(65536 // block_c, next_power_of_2(max(pixels, 1))), block_c)
    # channels that are no vectors take an address each, and those take registers
    return Tile((1024 if channels % 8 else 2048) // block_c, block_c)


def check_window(
    op: str, x: torch.Tensor, kernel_size: Pair, stride: Pair, padding: Pair, size: Pair | None = None
) -> tuple[int, int, int, int, int, int]:
    """Check the window that `op` moves over the image `x`, or over `size` where x is the gradient of its output.

    Returns:
        N, H, W, C of the pooled image, and P, Q of the output.

    Raises:
        Refused: x is no float image, a size below 1, padding beyond half the window, no room for one window, or a
            gradient of another shape than the output's.
    """
    name = "input" if size is None else "the gradient"
    check_dtype(op, name, x, FLOATS)
    N, H, W, C = image(op, name, x)
    H, W = size or (H, W)
    for name, pair, least in (("kernel_size", kernel_size, 1), ("stride", stride, 1), ("padding", padding, 0)):
        if min(pair) < least:
            refuse(op, f"{name} must be at least {least}, got {pair[0] if pair[0] == pair[1] else pair}")
    if any(2 * pad > size for pad, size in zip(padding, kernel_size, strict=True)):
        refuse(op, f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    P, Q = (
        (size + 2 * pad - window) // step + 1
        for size, window, step, pad in zip((H, W), kernel_size, stride, padding, strict=True)
    )
    if P < 1 or Q < 1:
        refuse(op, f"kernel_size {kernel_size} must fit into the padded input of {H} x {W}, padding {padding}")
    if size is not None and tuple(x.shape) != (N, P, Q, C):
        refuse(op, f"the gradient must have the output's buffer shape {(N, P, Q, C)}, got {tuple(x.shape)}")
    return N, H, W, C, P, Q
