"""Augmentation of training images and their masks, and the network's input of them, in one pass.

    u[n, h, w]    = affine[n] @ (h - (H-1)/2, w - (W-1)/2, 1) + ((H-1)/2, (W-1)/2) + d[n, h, w]     where a pixel comes from
    d[n, h, w]    = sum over i, j of k(a - i) * k(b - j) * grid[n, :, i, j]      a = h (G-1) / (H-1), b = w (G-1) / (W-1)
    t[n, h, w]    = mask[n, u] of the nearest pixel
    v[n, h, w, c] = image[n, u, c] * scale, bilinear between the four pixels around u
    v             = clip((v - 1/2) * contrast[n] + 1/2 + brightness[n])^gamma[n]         clip: to 0..1
    y             = (clip(v + noise[n] * normal(key[n], h, w, c)) - mean[c]) * rstd[c]

Outside the image u is mirrored at the border pixels. k is Keys' cubic (a = -1/2), so the G x G displacements of the
coarse grid are met exactly and a pixel's is smooth between; beyond the grid its border counts on. Images and masks move by
the same u. Without a turn by other than 90 degrees, a scale or a displacement, u is whole and pixels are copied exactly.
Normal numbers: Philox by (key, pixel, channel), see random.py. No number depends on tiles or on what ran before;
deterministic. Cost: memory-bound, reads about four pixels a pixel (from the cache) and the grid, writes y and t once.
Sources: Ronneberger et al. 2015, section 3.1 (elastic deformation from a coarse grid, mirroring); Keys 1981, "Cubic
convolution interpolation for digital image processing".
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import FLOATS, flat_tile
from tritonnet.kernels.random import cos_sin
from tritonnet.kernels.runtime import begin, check_buffer, check_dtype, empty, flat, launch, refuse

__all__ = ["PARAMETERS", "augment_fwd"]

PARAMETERS = 10  # a sample's: affine (2, 3) row by row, brightness, contrast, gamma, noise


@triton.jit
def _cubic(x):
    """Keys' kernel, a = -1/2: 1 at 0, 0 at the other whole numbers, none beyond 2."""
    x = tl.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tl.where(x < 1, near, tl.where(x < 2, far, 0.0))


@triton.jit
def _mirror(u, side):
    """`u` back in 0..side - 1, mirrored at both ends as often as needed."""
    last = 1.0 * (side - 1)  # a side of 1 is a constant to the compiler, which has no `to`
    period = tl.maximum(2.0 * last, 1.0)
    u -= tl.floor(u / period) * period
    return tl.minimum(tl.maximum(tl.minimum(u, period - u), 0.0), last)


@triton.jit
def _augment_fwd_kernel(
    x_ptr, mask_ptr, parameter_ptr, grid_ptr, key_ptr, mean_ptr, rstd_ptr, y_ptr, t_ptr,
    pixels, H, W, C, G, scale,  # pixels = N * H * W
    PARAMETERS: tl.constexpr, ELASTIC: tl.constexpr, NOISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [M]
    live = m < pixels
    n, h, w = m // (H * W), m // W % H, m % W
    p_ptr = parameter_ptr + n * PARAMETERS
    a = h.to(tl.float32) - 0.5 * (H - 1)
    b = w.to(tl.float32) - 0.5 * (W - 1)
    row = tl.load(p_ptr, mask=live, other=0.0) * a + tl.load(p_ptr + 1, mask=live, other=0.0) * b
    column = tl.load(p_ptr + 3, mask=live, other=0.0) * a + tl.load(p_ptr + 4, mask=live, other=0.0) * b
    row += tl.load(p_ptr + 2, mask=live, other=0.0) + 0.5 * (H - 1)
    column += tl.load(p_ptr + 5, mask=live, other=0.0) + 0.5 * (W - 1)
    if ELASTIC:
        a = h.to(tl.float32) * (G - 1) / tl.maximum(H - 1, 1)
        b = w.to(tl.float32) * (G - 1) / tl.maximum(W - 1, 1)
        first, left = tl.floor(a), tl.floor(b)
        for tap in range(16):
            i, j = first + (tap // 4 - 1), left + (tap % 4 - 1)
            weight = _cubic(a - i) * _cubic(b - j)
            i = tl.minimum(tl.maximum(i.to(tl.int32), 0), G - 1)
            j = tl.minimum(tl.maximum(j.to(tl.int32), 0), G - 1)
            at = (n * 2 * G + i) * G + j
            row += weight * tl.load(grid_ptr + at, mask=live, other=0.0)
            column += weight * tl.load(grid_ptr + at + G * G, mask=live, other=0.0)
    row, column = _mirror(row, H), _mirror(column, W)
    image = n.to(tl.int64) * H * W
    near = image + tl.floor(row + 0.5).to(tl.int32) * W + tl.floor(column + 0.5).to(tl.int32)
    tl.store(t_ptr + m, tl.load(mask_ptr + near, mask=live, other=0), mask=live)
    top, left = tl.floor(row), tl.floor(column)
    down, across = row - top, column - left
    corner = image + top.to(tl.int32) * W + left.to(tl.int32)
    below = tl.where(top.to(tl.int32) < H - 1, W, 0)
    right = tl.where(left.to(tl.int32) < W - 1, 1, 0)
    brightness = tl.load(p_ptr + 6, mask=live, other=0.0) + 0.5
    contrast = tl.load(p_ptr + 7, mask=live, other=0.0)
    gamma = tl.load(p_ptr + 8, mask=live, other=1.0)
    for c in range(C):
        v00 = tl.load(x_ptr + corner * C + c, mask=live, other=0).to(tl.float32)
        v01 = tl.load(x_ptr + (corner + right) * C + c, mask=live, other=0).to(tl.float32)
        v10 = tl.load(x_ptr + (corner + below) * C + c, mask=live, other=0).to(tl.float32)
        v11 = tl.load(x_ptr + (corner + below + right) * C + c, mask=live, other=0).to(tl.float32)
        upper, lower = v00 + (v01 - v00) * across, v10 + (v11 - v10) * across
        v = (upper + (lower - upper) * down) * scale
        v = tl.minimum(tl.maximum((v - 0.5) * contrast + brightness, 0.0), 1.0)
        v = tl.where(gamma == 1.0, v, tl.exp(gamma * tl.log(tl.maximum(v, 1e-30))))
        if NOISE:
            key = tl.load(key_ptr + n, mask=live, other=0)
            low, high = (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)
            r0, r1, _, _ = tl.philox(0, (h * W + w).to(tl.uint32), low * 0 + c, low, high)
            radius = tl.sqrt(-2.0 * tl.log(((r0 >> 8).to(tl.float32) + 1.0) / 16777216))
            cos, _ = cos_sin((r1 >> 8).to(tl.float32) / 16777216)
            v = tl.minimum(tl.maximum(v + tl.load(p_ptr + 9, mask=live, other=0.0) * radius * cos, 0.0), 1.0)
        y = (v - tl.load(mean_ptr + c)) * tl.load(rstd_ptr + c)
        tl.store(y_ptr + m.to(tl.int64) * C + c, y.to(y_ptr.dtype.element_ty), mask=live)


def augment_fwd(
    x: torch.Tensor, mask: torch.Tensor, parameters: torch.Tensor, grid: torch.Tensor | None, keys: torch.Tensor | None,
    mean: torch.Tensor, rstd: torch.Tensor, scale: float, dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Augment images with their masks, and normalise them for a network.

    Args:
        x: images (N, H, W, C), uint8 or int32, contiguous; at most 2**30 pixels.
        mask: class numbers (N, H, W), uint8, contiguous.
        parameters: (N, 10) float32: the affine map (2, 3) from an output pixel to its source, row by row, in pixels from
            the centre; brightness (added, of images in 0..1), contrast (1: unchanged), gamma (1), noise (its deviation).
        grid: displacements (N, 2, G, G) float32, down and right, pixels, G at least 2; None for none.
        keys: (N,) int64, of each image's noise; None for no noise.
        mean, rstd: (C,) float32, as for `image_input`.
        scale: brings values to 0..1, e.g. 1/255.
        dtype: of the result: float32, bfloat16 or float16.

    Returns:
        y (N, H, W, C) as `dtype`, and the masks (N, H, W) uint8.

    Raises:
        Refused: another dtype or shape.
    """
    op = "augment"
    check_dtype(op, "images", x, (torch.uint8, torch.int32))
    check_dtype(op, "masks", mask, (torch.uint8,))
    if x.dim() != 4 or tuple(mask.shape) != tuple(x.shape[:3]):
        refuse(op, f"masks must have the images' (N, H, W), got {tuple(mask.shape)} for images {tuple(x.shape)}")
    n, h, w, c = x.shape
    if n * h * w > 2**30:
        refuse(op, f"images must have at most 2**30 pixels (N*H*W), got {n * h * w}")
    check_buffer(op, "parameters", parameters, torch.float32, (n, PARAMETERS))
    check_buffer(op, "mean", mean, torch.float32, (c,))
    check_buffer(op, "rstd", rstd, torch.float32, (c,))
    if grid is not None:
        side = max(grid.shape[-1], 2)
        check_buffer(op, "grid", grid, torch.float32, (n, 2, side, side))
    if keys is not None:
        check_buffer(op, "keys", keys, torch.int64, (n,))
    flat(op, "images", x)
    flat(op, "masks", mask)
    y, t = empty((n, h, w, c), dtype), empty((n, h, w), torch.uint8)
    check_dtype(op, "dtype", y, FLOATS)
    tiles, tile = flat_tile(n * h * w, 256)
    launch(
        _augment_fwd_kernel, tiles, x, mask, parameters, grid, keys, mean, rstd, y, t,
        n * h * w, h, w, c, 0 if grid is None else grid.shape[-1], float(scale),
        PARAMETERS=PARAMETERS, ELASTIC=grid is not None, NOISE=keys is not None, **tile,
    )  # fmt: skip
    return y, t
