"""Bilinear and nearest resampling of images to any size, up or down.

    y[n, p, q, c] = sum over h, w of weight(p, h) * weight(q, w) * x[n, h, w, c]
    dx[n, h, w, c] = sum over p, q of weight(p, h) * weight(q, w) * dy[n, p, q, c]
    weight(p, h) = max(0, 1 - |source(p) - h|)
    source(p) = min(max((p * A + B) / D, 0), H - 1)

with integers A, B, D (`Axis`): corners aligned: p * (H - 1) / (P - 1); otherwise (p + 1/2) * H / P - 1/2; nearest: p
* H / P rounded down. With a scale factor, 1 / scale_factor stands in place of H / P, as in PyTorch, unless corners
are aligned. The integers make the weights exact to one rounding, and forward and backward agree on them. So each
output reads at most 2 x 2 pixels, and each input pixel gathers from the run of outputs that read it, at most ceil(2 D
/ A) a side: no atomics, both passes deterministic. A weight of 0 times infinity is NaN, as in PyTorch's forward.
Cost: memory-bound, reads the one image and writes the other (repeated reads hit the cache).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import FLOATS, image_index, image_tile
from tritonnet.kernels.runtime import begin, check_dtype, empty, image, image_of, launch, pitch, refuse

__all__ = ["Axis", "axis", "upsample_bwd", "upsample_fwd"]


@dataclass(frozen=True)
class Axis:
    """source(p) = (p * a + b) / d along one side of `size` pixels, resampled to `out`; rounded down if `nearest`."""

    size: int
    out: int
    a: int
    b: int
    d: int
    nearest: bool

    @property
    def map(self) -> tuple[int, int, int]:
        """The kernels' numbers."""
        return self.a, self.b, self.d

    @property
    def reach(self) -> int:
        """The most outputs that read one input: those whose source lies within an open interval of length 2."""
        return min(math.ceil(2 * self.d / self.a), self.out)


def axis(
    size: int, out: int, align_corners: bool = False, scale_factor: float | None = None, nearest: bool = False
) -> Axis:
    """How `out` pixels sample `size` pixels along one side.

    Args:
        size: number of pixels of the image, at least 1.
        out: number of pixels of the result, at least 1.
        align_corners: whether the outermost pixels' centres coincide (else the images' edges do).
        scale_factor: used in place of out / size where corners are not aligned, as PyTorch does when it was given.
        nearest: copy the one pixel whose area holds the output's upper left corner.

    Raises:
        Refused: no pixel on one side, or a size whose products would pass 2**31.
    """
    if size < 1 or out < 1:
        refuse("interpolate", f"sizes must be at least 1, got {size} resampled to {out}")
    if align_corners and (size == 1 or out == 1):
        a, b, d = 1, 0, out  # every source is 0 or clamped to it
    elif align_corners:
        a, b, d = size - 1, 0, out - 1
    else:
        ratio = Fraction(out, size) if scale_factor is None else Fraction(scale_factor).limit_denominator(1000)
        a, b, d = ratio.denominator, 0, ratio.numerator
        if not nearest:
            a, b, d = 2 * a, a - d, 2 * d
    if max(size + 1, out + 1) * max(a, d) + abs(b) >= 2**31:
        refuse("interpolate", f"sizes must be at most about 32000 pixels, got {size} resampled to {out}")
    return Axis(size, out, a, b, d, nearest)


@triton.jit
def _source(p, A, B, D, last, NEAREST: tl.constexpr):
    """source(p) * D, an integer."""
    source = tl.minimum(tl.maximum(p * A + B, 0), last * D)
    if NEAREST:
        source = source // D * D
    return source


@triton.jit
def _upsample_fwd_kernel(
    x_ptr, y_ptr,
    H, W, P, Q, C, x_pitch, y_pitch, HA, HB, HD, WA, WB, WD,
    NEAREST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    n, p, q, c, live = image_index(P, Q, C, BLOCK_P, BLOCK_Q, BLOCK_C)
    h_source, w_source = _source(p, HA, HB, HD, H - 1, NEAREST), _source(q, WA, WB, WD, W - 1, NEAREST)
    h0, w0 = h_source // HD, w_source // WD
    h1, w1 = tl.minimum(h0 + 1, H - 1), tl.minimum(w0 + 1, W - 1)
    h_part = (h_source - h0 * HD).to(tl.float32) / HD
    w_part = (w_source - w0 * WD).to(tl.float32) / WD
    top, bottom = (n * H + h0) * W, (n * H + h1) * W
    y = tl.load(x_ptr + (top + w0).to(tl.int64) * x_pitch + c, mask=live, other=0.0).to(tl.float32)
    if not NEAREST:
        x01 = tl.load(x_ptr + (top + w1).to(tl.int64) * x_pitch + c, mask=live, other=0.0).to(tl.float32)
        x10 = tl.load(x_ptr + (bottom + w0).to(tl.int64) * x_pitch + c, mask=live, other=0.0).to(tl.float32)
        x11 = tl.load(x_ptr + (bottom + w1).to(tl.int64) * x_pitch + c, mask=live, other=0.0).to(tl.float32)
        y = (1 - h_part) * ((1 - w_part) * y + w_part * x01) + h_part * ((1 - w_part) * x10 + w_part * x11)
    tl.store(y_ptr + ((n * P + p) * Q + q).to(tl.int64) * y_pitch + c, y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _first(h, A, B, D):
    """The first output whose source lies above h - 1; the very first for h = 0."""
    above = (h - 1) * D - B
    return tl.where((h == 0) | (above < 0), 0, tl.maximum(above, 0) // A + 1)


@triton.jit
def _upsample_bwd_kernel(
    dy_ptr, dx_ptr,
    H, W, P, Q, C, dy_pitch, HA, HB, HD, WA, WB, WD, h_reach, w_reach,
    NEAREST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    n, h, w, c, live = image_index(H, W, C, BLOCK_P, BLOCK_Q, BLOCK_C)
    h_first, w_first = _first(h, HA, HB, HD), _first(w, WA, WB, WD)
    acc = tl.zeros((BLOCK_P, BLOCK_Q, BLOCK_C), tl.float32)
    for i in range(h_reach):
        p = h_first + i
        h_part = tl.maximum(HD - tl.abs(_source(p, HA, HB, HD, H - 1, NEAREST) - h * HD), 0)
        for j in range(w_reach):
            q = w_first + j
            w_part = tl.maximum(WD - tl.abs(_source(q, WA, WB, WD, W - 1, NEAREST) - w * WD), 0)
            reads = live & (p < P) & (q < Q) & (h_part > 0) & (w_part > 0)
            at = ((n * P + p) * Q + q).to(tl.int64) * dy_pitch + c
            dy = tl.load(dy_ptr + at, mask=reads, other=0.0).to(tl.float32)
            acc += (h_part.to(tl.float32) / HD) * (w_part.to(tl.float32) / WD) * dy
    tl.store(dx_ptr + ((n * H + h) * W + w).to(tl.int64) * C + c, acc.to(dx_ptr.dtype.element_ty), mask=live)


def upsample_fwd(x: torch.Tensor, rows: Axis, columns: Axis, out: torch.Tensor | None = None) -> torch.Tensor:
    """Resample an image, bilinearly or to the nearest as its axes say.

    Args:
        x: (N, H, W, C), may have a pitch; float32, bfloat16 or float16.
        rows: how H is sampled (`axis`).
        columns: how W is sampled.
        out: an (N, rows.out, columns.out, C) image buffer of x's dtype to write into; made if left out.

    Raises:
        Refused: sizes that do not match, or `out` does not fit.
    """
    n, h, w, c = image("interpolate", "input", x)
    check_dtype("interpolate", "input", x, FLOATS)
    if (rows.size, columns.size) != (h, w):
        refuse("interpolate", f"axes must be for {h} x {w} pixels, got {rows.size} x {columns.size}")
    shape = (n, rows.out, columns.out, c)
    y = empty(shape, x.dtype) if out is None else image_of("interpolate", "out", out, shape, (x.dtype,))
    grid, tile = image_tile(*shape)
    launch(
        _upsample_fwd_kernel, grid, x, y, h, w, *shape[1:], pitch(x), pitch(y), *rows.map, *columns.map,
        NEAREST=rows.nearest, **tile,
    )  # fmt: skip
    return y


def upsample_bwd(dy: torch.Tensor, rows: Axis, columns: Axis) -> torch.Tensor:
    """The gradient of x: (N, H, W, C), contiguous, in dy's dtype. `dy` may have a pitch.

    Raises:
        Refused: sizes that do not match.
    """
    n, p, q, c = image("interpolate_bwd", "dy", dy)
    check_dtype("interpolate_bwd", "dy", dy, FLOATS)
    if (rows.out, columns.out) != (p, q):
        refuse("interpolate_bwd", f"axes must give {p} x {q} pixels, got {rows.out} x {columns.out}")
    dx = empty((n, rows.size, columns.size, c), dy.dtype)
    grid, tile = image_tile(n, rows.size, columns.size, c)
    launch(
        _upsample_bwd_kernel, grid, dy, dx, rows.size, columns.size, p, q, c, pitch(dy), *rows.map, *columns.map,
        rows.reach, columns.reach, NEAREST=rows.nearest, **tile,
    )  # fmt: skip
    return dx
