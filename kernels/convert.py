"""Change of dtype and of layout, and the input conversion of training and prediction.

    cast, copy     y[i] = x[i] as y's dtype (floats by way of float32, rounded to nearest even)
    nchw_to_nhwc   y[n, h, w, c] = x[n, c, h, w], and back; any dtype
    image_input    y[n, h, w, c] = (x[n, h, w, c] * scale - mean[c]) * rstd[c]

Exact but for the rounding at the store; deterministic. Memory-bound: reads x once, writes y once. The transposition
reads and writes whole rows: the tile is turned over in shared memory. From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.pointwise import FLOATS, Walk, offset, tile_index, walk
from tritonnet.kernels.runtime import (
    INTERPRET,
    begin,
    cdiv,
    check_dtype,
    flat,
    image,
    launch,
    next_power_of_2,
    pitch,
    refuse,
)

__all__ = ["as_dtype", "cast", "copy", "image_input", "nchw_to_nhwc", "nhwc_to_nchw"]

Buffer = torch.Tensor


@triton.jit
def _copy_kernel(
    x_ptr, y_ptr,
    rows, D1, D2, columns, x0, x1, x2, x3, y0, y1, y2, y3,
    VIA_FLOAT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live = tile_index(rows, columns, BLOCK_M, BLOCK_C)
    x = tl.load(x_ptr + offset(m, c, D1, D2, x0, x1, x2, x3), mask=live, other=0)
    if VIA_FLOAT:
        x = x.to(tl.float32)
    tl.store(y_ptr + offset(m, c, D1, D2, y0, y1, y2, y3), x.to(y_ptr.dtype.element_ty), mask=live)


def copy(x: Buffer, out: Buffer) -> Buffer:
    """Write `x` (any strides) to `out` (same shape, any strides and dtype) and return `out`.

    Raises:
        Refused: different shapes, another device, float64.
    """
    if x.shape != out.shape:
        refuse("copy", f"out must have shape {tuple(x.shape)}, got {tuple(out.shape)}")
    if x.device != runtime.device() or out.device != runtime.device():
        refuse("copy", f"buffers must be on {runtime.device()}, got {x.device} and {out.device}")
    if torch.float64 in (x.dtype, out.dtype):
        refuse("copy", "dtype must not be float64")
    loop = walk("copy", x.shape, x.stride(), out.stride())
    # a copy within one dtype moves bits; otherwise a float on either side is converted by way of float32
    via_float = x.dtype != out.dtype and (x.is_floating_point() or out.is_floating_point())
    x_steps, out_steps = loop.strides
    launch(_copy_kernel, loop.grid, x, out, *loop.sizes, *x_steps, *out_steps, VIA_FLOAT=via_float, **loop.tile)
    return out


def cast(x: Buffer, dtype: torch.dtype) -> Buffer:
    """A fresh contiguous copy of `x` (any shape, images with a pitch too) as `dtype`.

    Raises:
        Refused: float64.
    """
    return copy(x, runtime.empty(tuple(x.shape), dtype))


def as_dtype(x: Buffer, dtype: torch.dtype) -> Buffer:
    """`x` itself if it is contiguous and of that dtype, else a copy that is."""
    return x if x.dtype == dtype and x.is_contiguous() else cast(x, dtype)


@triton.jit
def _transpose_kernel(x_ptr, y_ptr, rows, columns, x_pitch, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    begin()
    across = tl.cdiv(columns, BLOCK_C)
    down = tl.cdiv(rows, BLOCK_M)
    pid = tl.program_id(0)
    n = (pid // across // down).to(tl.int64)
    m = (pid // across % down).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] row of x, column of y
    c = (pid % across).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)  # [C] column of x, row of y
    live = (m < rows)[:, None] & (c < columns)[None, :]  # [M, C]
    x = tl.load(x_ptr + (n * rows + m)[:, None] * x_pitch + c[None, :], mask=live, other=0)
    live = (c < columns)[:, None] & (m < rows)[None, :]  # [C, M]
    tl.store(y_ptr + (n * columns + c)[:, None] * rows + m[None, :], tl.trans(x), mask=live)


def _transpose(x: Buffer, y: Buffer, n: int, rows: int, columns: int, x_pitch: int) -> Buffer:
    # 4096 elements, 64 x 64 where both sides have as many: whole 128-byte lines on both sides
    side, elements = (4096, 65536) if INTERPRET else (64, 4096)
    block_c = min(next_power_of_2(columns), max(side, elements // next_power_of_2(rows)), elements)
    block_m = min(next_power_of_2(rows), elements // block_c)
    grid = (n * cdiv(rows, block_m) * cdiv(columns, block_c),)
    launch(_transpose_kernel, grid, x, y, rows, columns, x_pitch, BLOCK_M=block_m, BLOCK_C=block_c)
    return y


def nchw_to_nhwc(x: Buffer) -> Buffer:
    """From a contiguous (N, C, H, W) buffer to a contiguous (N, H, W, C) one of its dtype (a view, of one channel).

    Raises:
        Refused: not contiguous, or another rank.
    """
    flat("nchw_to_nhwc", "x", x)
    if x.dim() != 4:
        refuse("nchw_to_nhwc", f"x must have 4 dimensions (N, C, H, W), got {x.dim()}")
    n, c, h, w = x.shape
    if c == 1 or h * w == 1:
        return x.view(n, h, w, c)
    return _transpose(x, runtime.empty((n, h, w, c), x.dtype), n, c, h * w, h * w)


def nhwc_to_nchw(x: Buffer) -> Buffer:
    """From an (N, H, W, C) image buffer to a contiguous (N, C, H, W) one of its dtype (may be a view of one channel).

    Raises:
        Refused: not an image buffer.
    """
    n, h, w, c = image("nhwc_to_nchw", "x", x)
    if x.is_contiguous() and (c == 1 or h * w == 1):
        return x.view(n, c, h, w)
    return _transpose(x, runtime.empty((n, c, h, w), x.dtype), n, h * w, c, pitch(x))


@triton.jit
def _image_input_kernel(
    x_ptr, mean_ptr, rstd_ptr, y_ptr,
    pixels, C, x_pitch, scale,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, c, live = tile_index(pixels, C, BLOCK_M, BLOCK_C)
    mean = tl.load(mean_ptr + c, mask=c < C, other=0.0)
    rstd = tl.load(rstd_ptr + c, mask=c < C, other=0.0)
    x = tl.load(x_ptr + m * x_pitch + c, mask=live, other=0).to(tl.float32)
    y = (x * scale - mean) * rstd
    tl.store(y_ptr + m * C + c, y.to(y_ptr.dtype.element_ty), mask=live)


def image_input(x: Buffer, mean: Buffer, rstd: Buffer, scale: float, dtype: torch.dtype) -> Buffer:
    """Scale and normalise images for a network.

    Args:
        x: (N, H, W, C) uint8, int32 or float32.
        mean: (C,) float32, channel means after scaling.
        rstd: (C,) float32, one over the channels' standard deviations.
        scale: brings values to 0..1, e.g. 1/255.
        dtype: of the result: float32, bfloat16 or float16.

    Returns:
        (N, H, W, C) as `dtype`.

    Raises:
        Refused: another dtype or shape.
    """
    n, h, w, c = image("image_input", "x", x)
    check_dtype("image_input", "x", x, (torch.uint8, torch.int32, torch.float32))
    for name, statistic in (("mean", mean), ("rstd", rstd)):
        runtime.check_buffer("image_input", name, statistic, torch.float32, (c,), ", one number a channel")
    y = runtime.empty((n, h, w, c), dtype)
    check_dtype("image_input", "dtype", y, FLOATS)
    loop = Walk((n * h * w, 1, 1, c), ())  # not merged: each channel has its mean
    launch(_image_input_kernel, loop.grid, x, mean, rstd, y, n * h * w, c, pitch(x), float(scale), **loop.tile)
    return y
