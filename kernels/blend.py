"""Adding a tile to the image it was cut from, weighted and mirrored back: how predictions of tiles and flips are averaged.

    y[n, top + p, left + q, c] += rows[p] * columns[q] * x[n, p', q', c]

    p' = P - 1 - p where the rows are mirrored, else p;  q' = Q - 1 - q where the columns are, else q

The weight of a pixel is a product of one number a row and one a column, so a window that falls off towards its edges
(a Gaussian) takes P + Q numbers. Where the weights of all tiles over a pixel add up to 1, y is their weighted mean.
Pixels outside the tile are left as they are. Each element is touched once a launch, and launches run in order: no
atomics, the same bits every time. Computed in float32. Cost: memory-bound; reads x, reads and writes the same part of y.
From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import FLOATS, image_index, image_tile
from tritonnet.kernels.runtime import begin, check_buffer, check_dtype, image, launch, pitch, refuse

__all__ = ["blend"]


@triton.jit
def _blend_kernel(
    x_ptr, y_ptr, rows_ptr, columns_ptr,
    P, Q, C, H, W, x_pitch, y_pitch, top, left,
    MIRROR_ROWS: tl.constexpr, MIRROR_COLUMNS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    n, p, q, c, live = image_index(P, Q, C, BLOCK_P, BLOCK_Q, BLOCK_C)
    weight = tl.load(rows_ptr + p, mask=p < P, other=0.0) * tl.load(columns_ptr + q, mask=q < Q, other=0.0)
    x_p = P - 1 - p if MIRROR_ROWS else p
    x_q = Q - 1 - q if MIRROR_COLUMNS else q
    x = tl.load(x_ptr + ((n * P + x_p) * Q + x_q).to(tl.int64) * x_pitch + c, mask=live, other=0.0).to(tl.float32)
    at = ((n * H + top + p) * W + left + q).to(tl.int64) * y_pitch + c
    tl.store(y_ptr + at, tl.load(y_ptr + at, mask=live, other=0.0) + weight * x, mask=live)


def blend(
    x: torch.Tensor, y: torch.Tensor, top: int, left: int, rows: torch.Tensor, columns: torch.Tensor,
    mirrored: tuple[bool, bool] = (False, False),
) -> torch.Tensor:  # fmt: skip
    """Add tiles `x`, one an image, to the images `y` at one place.

    Args:
        x: (N, P, Q, C), may have a pitch; float32, bfloat16 or float16.
        y: (N, H, W, C), may have a pitch; float32; written in place.
        top, left: the pixel of y under x's first, so that all of x lies inside.
        rows: (P,) float32, a weight for each row of y that x covers, from `top` on.
        columns: (Q,) float32, likewise from `left` on.
        mirrored: whether x's rows (upside down) and its columns (left for right) run the other way.

    Returns:
        y.

    Raises:
        Refused: shapes or dtypes that do not fit, or a tile that does not lie inside.
    """
    n, p, q, c = image("blend", "x", x)
    images, h, w, channels = image("blend", "y", y)
    check_dtype("blend", "x", x, FLOATS)
    check_dtype("blend", "y", y, (torch.float32,))
    if (images, channels) != (n, c):
        refuse("blend", f"y must have x's {n} images and {c} channels, got {images} and {channels}")
    if not (0 <= top <= h - p and 0 <= left <= w - q):
        refuse("blend", f"a tile of {p} x {q} must lie inside {h} x {w} pixels, got row {top}, column {left}")
    for name, weights, size in (("rows", rows, p), ("columns", columns, q)):
        check_buffer("blend", name, weights, torch.float32, (size,), ", weights of pixels")
    grid, tile = image_tile(n, p, q, c)
    launch(
        _blend_kernel, grid, x, y, rows, columns, p, q, c, h, w, pitch(x), pitch(y), top, left,
        MIRROR_ROWS=mirrored[0], MIRROR_COLUMNS=mirrored[1], **tile,
    )  # fmt: skip
    return y
