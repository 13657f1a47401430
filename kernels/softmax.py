"""Softmax and its logarithm over the channels of an image buffer, or over the last axis of a row-major one.

    softmax      y[m, c] = exp(x[m, c] - top[m]) / total[m]            dx = y * (dy - sum over c of dy * y)
    log_softmax  y[m, c] = x[m, c] - top[m] - log(total[m])            dx = dy - exp(y) * sum over c of dy

    with top[m] = max over c of x[m, c] and total[m] = sum over c of exp(x[m, c] - top[m])

Subtracting the maximum keeps every exponent at 0 or below, so no finite input overflows. A row with NaN or +inf gives
NaN, and so does a row of -inf alone, as in PyTorch. The forward saves y: all the backward needs. Rows longer than a
tile are walked in blocks, with top and total corrected as a larger maximum turns up (Milakov & Gimelshein 2018,
algorithm 3). Deterministic. Cost: memory-bound; forward reads x, writes y; backward reads dy and y, writes dx (rows
above a tile are read twice).
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, empty, flat, image, launch, next_power_of_2, pitch, refuse

__all__ = ["load_rows", "row_tile", "row_totals", "rows", "softmax_bwd", "softmax_fwd"]


def row_tile(rows: int, channels: int, elements: int = 1024) -> tuple[tuple[int], dict[str, int]]:
    """Grid and tile of a kernel over rows of channels: all channels of a row up to 4096, then blocks of 4096.

    By default four elements a thread (eight spill at 3 channels).
    """
    block_c = min(next_power_of_2(channels), 4096)
    block_m = max(1, (65536 if INTERPRET else elements) // block_c)
    return (cdiv(rows, block_m),), {"BLOCK_M": block_m, "BLOCK_C": block_c, "num_warps": 8}


def rows(op: str, name: str, x: torch.Tensor) -> tuple[int, int, int]:
    """Check `x` and see it as a matrix: (rows, channels, elements from row to row).

    Raises:
        Refused: a buffer without dimensions, without channels, on another device, or with other strides.
    """
    if x.dim() == 4:
        n, h, w, c = image(op, name, x)
        return n * h * w, c, pitch(x)
    if x.dim() == 0 or x.shape[-1] == 0:
        refuse(op, f"{name} must have at least 1 channel, got shape {tuple(x.shape)}")
    c = int(x.shape[-1])
    return flat(op, name, x) // c, c, c


@triton.jit
def row_totals(x_ptr, m, M, x_pitch, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of rows `m`: the last block of values (all of them if C <= BLOCK_C; -inf beyond C), top and total."""
    x = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        x = load_rows(x_ptr, m, c, M, x_pitch, C)
        higher = tl.maximum(top, tl.max(x, 1))
        # a block of -inf alone must not make -inf - -inf
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        top = higher
    return x, tl.where(top == float("-inf"), 0.0, top), total


@triton.jit
def load_rows(
    x_ptr, m, c, M, x_pitch, C: tl.constexpr, SIGMOID: tl.constexpr = 0, BEYOND: tl.constexpr = float("-inf")
):
    """Channels `c` of rows `m` as fp32; `BEYOND` beyond C, 0 beyond M.

    A sigmoid is a softmax over a logit of 0 and its own: with SIGMOID = 1 channel 0 is that 0, and channel 1 the
    buffer's only one.
    """
    live = (m < M)[:, None] & (c < C)[None, :]
    if SIGMOID:
        live = live & (c > 0)[None, :]
    x = tl.load(x_ptr + m[:, None] * x_pitch + (c[None, :] - SIGMOID), mask=live, other=0.0).to(tl.float32)
    return tl.where((c < C)[None, :], x, BEYOND)


@triton.jit
def _softmax_fwd_kernel(
    x_ptr, y_ptr,
    M,  # rows
    C: tl.constexpr, X_PITCH: tl.constexpr, LOG: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    x, top, total = row_totals(x_ptr, m, M, X_PITCH, C, BLOCK_M, BLOCK_C)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)  # [C]
        if C > BLOCK_C:
            x = load_rows(x_ptr, m, c, M, X_PITCH, C)
        if LOG:
            y = x - top[:, None] - tl.log(total)[:, None]
        else:
            y = tl.exp(x - top[:, None]) / total[:, None]
        live = (m < M)[:, None] & (c < C)[None, :]
        tl.store(y_ptr + m[:, None] * C + c[None, :], y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _softmax_bwd_kernel(
    dy_ptr, y_ptr, dx_ptr,
    M,  # rows
    C: tl.constexpr, DY_PITCH: tl.constexpr, Y_PITCH: tl.constexpr, LOG: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    dy = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    y = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    inner = tl.zeros((BLOCK_M,), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)  # [C]
        dy = load_rows(dy_ptr, m, c, M, DY_PITCH, C, 0, 0.0)
        y = load_rows(y_ptr, m, c, M, Y_PITCH, C, 0, 0.0)
        inner += tl.sum(dy if LOG else dy * y, 1)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        live = (m < M)[:, None] & (c < C)[None, :]
        if C > BLOCK_C:
            dy = load_rows(dy_ptr, m, c, M, DY_PITCH, C, 0, 0.0)
            y = load_rows(y_ptr, m, c, M, Y_PITCH, C, 0, 0.0)
        dx = dy - tl.exp(y) * inner[:, None] if LOG else y * (dy - inner[:, None])
        tl.store(dx_ptr + m[:, None] * C + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)


def softmax_fwd(x: torch.Tensor, *, log: bool = False) -> torch.Tensor:
    """Softmax of `x` over its last buffer axis, or its logarithm.

    Args:
        x: (N, H, W, C) image buffer, pitch allowed, or (..., C) row-major; float32, bfloat16 or float16.
        log: give log(softmax(x)) instead.

    Returns:
        y, contiguous, of x's shape and dtype.

    Raises:
        Refused: no channels, or strides that are neither.
    """
    m, c, x_pitch = rows("softmax", "x", x)
    y = empty(tuple(x.shape), x.dtype)
    grid, tile = row_tile(m, c)
    launch(_softmax_fwd_kernel, grid, x, y, m, C=c, X_PITCH=x_pitch, LOG=log, **tile)
    return y


def softmax_bwd(dy: torch.Tensor, y: torch.Tensor, *, log: bool = False) -> torch.Tensor:
    """The gradient of `softmax_fwd`'s input.

    Args:
        dy: gradient of y, y's shape, pitch allowed.
        y: what `softmax_fwd(x, log=log)` returned.
        log: as given there.

    Returns:
        dx, contiguous, of y's shape and dtype.

    Raises:
        Refused: shapes that differ.
    """
    if dy.shape != y.shape:
        refuse("softmax", f"dy must have y's shape {tuple(y.shape)}, got {tuple(dy.shape)}")
    m, c, y_pitch = rows("softmax", "y", y)
    _, _, dy_pitch = rows("softmax", "dy", dy)
    dx = empty(tuple(y.shape), y.dtype)
    grid, tile = row_tile(m, c)
    launch(_softmax_bwd_kernel, grid, dy, y, dx, m, C=c, DY_PITCH=dy_pitch, Y_PITCH=y_pitch, LOG=log, **tile)
    return dx
