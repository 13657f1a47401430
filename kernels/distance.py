"""The exact squared Euclidean distance of every pixel to the nearest pixel of a class.

    f[n, h, w]   = 0 where target[n, h, w] is the class and not `ignore_index`, else infinity
    g[n, h, w]   = min over h' of (h - h')^2 + f[n, h', w]
    y[n, h, w]   = min over w' of (w - w')^2 + g[n, h, w']          (pixels^2)

Two passes of one kernel (Felzenszwalb & Huttenlocher 2012, eq. 2 and section 3: the transform separates), each a
minimum over every pixel of the line, without their envelope: that would walk a line in order. Each pass stores its
result transposed, so that the next reads along the lines side by side. An image without the class has infinite
distances; an ignored pixel is never the nearest, but has a distance. Whole numbers below 2^24 are exact in float32, so
every distance below 4096 pixels is; a longer one is off by at most 2^-23 of its square. No integer is squared, so none
can overflow. A minimum has no order: deterministic.
Cost: compute-bound, 3 operations for each pixel and each pixel of its row and of its column: 3 N H W (H + W) for each
class (1.6 GFLOP for 16 images of 256 x 256, 103 GFLOP at 1024 x 1024); moves 13 bytes a pixel.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.loss import INTEGERS
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, check_dtype, empty, flat, launch, next_power_of_2, refuse

__all__ = ["distance_fwd"]


@triton.jit
def _distance_fwd_kernel(
    x_ptr, y_ptr,
    N, P, Q, lines, y_class, y_pixel,  # Q lines of P pixels a plane; y_class, y_pixel: elements of y between classes, pixels
    first, ignore,
    LABELS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    begin()
    line = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)  # [Q] of all planes
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)  # [P]
    plane, q = line // Q, line % Q
    k, n = plane // N, plane % N
    x_ptr += (n if LABELS else plane) * P * Q + q
    best = tl.full((BLOCK_P, BLOCK_Q), float("inf"), tl.float32)
    for other in range(P):
        f = tl.load(x_ptr + other * Q, mask=line < lines, other=0)
        if LABELS:
            t = f.to(tl.int64)
            f = tl.where((t == first + k) & (t != ignore), 0.0, float("inf"))
        d = (p - other).to(tl.float32)
        best = tl.minimum(best, (d * d)[:, None] + f[None, :])
    at = (k * y_class + (n * Q + q) * P * y_pixel)[None, :] + p[:, None].to(tl.int64) * y_pixel
    tl.store(y_ptr + at, best, mask=(p < P)[:, None] & (line < lines)[None, :])


def distance_fwd(target: torch.Tensor, first: int = 1, count: int = 1, ignore_index: int = -100) -> torch.Tensor:
    """The squared distance of every pixel to the nearest one of each of some classes.

    Args:
        target: class indices (N, H, W), int64, int32 or uint8, contiguous.
        first: the first of the classes.
        count: how many classes from there on, at least 1.
        ignore_index: a target that is no class.

    Returns:
        (N, H, W, count) float32, in pixels^2; infinity where an image does not have the class.

    Raises:
        Refused: another shape or dtype.
    """
    op = "distance_transform"
    check_dtype(op, "target", target, INTEGERS)
    flat(op, "target", target)
    if target.dim() != 3 or target.shape[1] * target.shape[2] > 2**31 - 1:
        refuse(op, f"target must have shape (N, H, W) with at most 2**31 - 1 pixels H*W, got {tuple(target.shape)}")
    if count < 1:
        refuse(op, f"count must be at least 1, got {count}")
    n, h, w = target.shape
    columns = empty((count, n, w, h), torch.float32)
    y = empty((n, h, w, count), torch.float32)
    for x, out, p, q, y_class, y_pixel in ((target, columns, h, w, n * h * w, 1), (columns, y, w, h, 1, count)):
        lines = count * n * q
        block_p = min(next_power_of_2(p), 512 if INTERPRET else 64)
        block_q = min(next_power_of_2(lines), 65536 // block_p if INTERPRET else 32)
        launch(
            _distance_fwd_kernel, (cdiv(lines, block_q), cdiv(p, block_p)), x, out,
            n, p, q, lines, y_class, y_pixel, first, ignore_index,
            LABELS=x is target, BLOCK_P=block_p, BLOCK_Q=block_q,
        )  # fmt: skip
    return y
