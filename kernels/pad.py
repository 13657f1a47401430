"""Padding of images with a constant, and cropping by negative amounts.

    y[n, p, q, c] = x[n, p - top, q - left, c] where that pixel exists, else value
    dx[n, h, w, c] = dy[n, h + top, w + left, c] where that pixel exists, else 0: padding by the negated amounts

Exact; deterministic. Memory-bound: reads x once, writes y once. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import FLOATS, image_index, image_tile
from tritonnet.kernels.runtime import begin, check_dtype, empty, image, image_of, launch, pitch, refuse

__all__ = ["pad_fwd"]


@triton.jit
def _pad_fwd_kernel(
    x_ptr, y_ptr,
    H, W, P, Q, C, x_pitch, y_pitch, top, left, value,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    n, p, q, c, live = image_index(P, Q, C, BLOCK_P, BLOCK_Q, BLOCK_C)
    h, w = p - top, q - left
    inside = live & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    x = tl.load(x_ptr + ((n * H + h) * W + w).to(tl.int64) * x_pitch + c, mask=inside, other=0).to(tl.float32)
    y = tl.where(inside, x, value)
    tl.store(y_ptr + ((n * P + p) * Q + q).to(tl.int64) * y_pitch + c, y.to(y_ptr.dtype.element_ty), mask=live)


def pad_fwd(
    x: torch.Tensor, pads: tuple[int, int, int, int], value: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Pad an image's edges with `value`; a negative amount crops.

    Args:
        x: (N, H, W, C), may have a pitch; float32, bfloat16 or float16.
        pads: pixels to add at left, right, top, bottom.
        value: any number.
        out: an (N, H + top + bottom, W + left + right, C) image buffer of x's dtype to write into; made if left out.

    Raises:
        Refused: less than nothing would remain, or `out` does not fit.
    """
    n, h, w, c = image("pad", "input", x)
    check_dtype("pad", "input", x, FLOATS)
    left, right, top, bottom = pads
    p, q = h + top + bottom, w + left + right
    if p < 0 or q < 0:
        refuse("pad", f"pad must leave at least 0 x 0 pixels, got {p} x {q} from {h} x {w} by {tuple(pads)}")
    shape = (n, p, q, c)
    y = empty(shape, x.dtype) if out is None else image_of("pad", "out", out, shape, (x.dtype,))
    grid, tile = image_tile(n, p, q, c)
    launch(_pad_fwd_kernel, grid, x, y, h, w, p, q, c, pitch(x), pitch(y), top, left, float(value), **tile)
    return y
