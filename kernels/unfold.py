"""Convolution of images of few channels, of which no pixel is a row of 16 bytes, over their patches, which are written out.

    z[n, h, q, (s, c)] = x[n, h, w, c]                  where w = q * stride + s * dilation - left
    y = the convolution of z with the weights as (K, R, 1, (s, c)): down columns alone, by tensor maps

With a stride down the columns, or where all taps fit 16 channels, the patches hold all taps, z[n, p, q, (r, s, c)], and the
convolution over them is one of 1x1 (im2col: Chellapilla et al. 2006, "High Performance Convolutional Neural Networks for
Document Processing"). A position outside the image counts as zero, as in `conv2d`. Patches and weights are widened alike by
zeros, to 16 or a multiple of 32 channels. The weight gradient needs the patches and not x, so they are kept in its place.

Exact but for the convolution; deterministic. Memory-bound: writes z once, 16 channels for 3x3 over RGB; x is read once from
memory, S times from the caches. A program writes pixels of one row of z: what decides whether h is inside, and where the row
of x begins, is computed once a column, which leaves one addition and one comparison for an element.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from tritonnet.kernels.conv2d import Tile, conv2d_fwd, conv2d_wgrad, output_size
from tritonnet.kernels.conv2d_tiles import flattens
from tritonnet.kernels.runtime import INTERPRET, arch, begin, cdiv, empty, image, launch, next_power_of_2, pitch, refuse

__all__ = ["unfold", "unfolded_fwd", "unfolded_wgrad", "unfolds"]

Pair = tuple[int, int]
Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@triton.jit
def _unfold_kernel(
    x_ptr, w_ptr, z_ptr, wide_ptr,
    rows, H, W, P, Q, filters, x_pitch,  # rows = N * P; filters = K * R / DOWN
    C: tl.constexpr, DOWN: tl.constexpr, S: tl.constexpr,  # DOWN: taps of a column in a patch
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    blocks = tl.cdiv(Q, BLOCK_M)
    pid = tl.program_id(0)
    row = pid // blocks  # (n, p), or behind the last of them weights
    j = tl.arange(0, BLOCK_C)  # [C] (r, s, c)
    if row < rows:
        h = row % P * STRIDE_H - PAD_H + j // (S * C) * DIL_H
        # of the row of x: its first element, and how many it has; none where there is no such row
        first = (row // P * H + h).to(tl.int64) * (W * x_pitch)
        length = tl.where((j < DOWN * S * C) & (h >= 0) & (h < H), W * x_pitch, 0)
        q = pid % blocks * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
        # before the row or past it exactly where w is outside, since c is less than the pitch
        at = (q * STRIDE_W * x_pitch)[:, None] + ((j // C % S * DIL_W - PAD_W) * x_pitch + j % C)[None, :]
        inside = at.to(tl.uint32) < length.to(tl.uint32)[None, :]  # before the row: a large number
        x = tl.load((x_ptr + first)[None, :] + at, mask=inside, other=0.0)
        to = (row.to(tl.int64) * Q + q)[:, None] * WIDTH + j[None, :]
        tl.store(z_ptr + to, x, mask=(q < Q)[:, None] & (j < WIDTH)[None, :])
    else:
        k = (pid - rows * blocks) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] filter, and its taps that a patch has not
        live = (k < filters)[:, None]
        at, counts = k[:, None] * (DOWN * S * C) + j[None, :], (j < DOWN * S * C)[None, :]
        w = tl.load(w_ptr + at, mask=live & counts, other=0.0)
        tl.store(wide_ptr + k[:, None] * WIDTH + j[None, :], w, mask=live & (j < WIDTH)[None, :])


def _down(c: int, kernel_size: Pair, stride: Pair) -> int:
    """Taps of a column in a patch: all, or one where the convolution over the patches can have the others."""
    r, s = kernel_size
    return r if stride[0] > 1 or r * s * c <= 16 else 1


def unfolds(
    x: torch.Tensor, w: torch.Tensor, *, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair
) -> bool:
    """Whether a convolution runs faster over patches: of a large 16-bit image of few channels, where there are tensor maps.

    Arguments as those of `conv2d_fwd`.
    """
    (n, h, width, c), (k, r, s, wc) = x.shape, w.shape
    if not (arch().startswith("sm_") and int(arch()[3:]) >= 90 and x.dtype == w.dtype != torch.float32 and wc == c):
        return False
    p = output_size(h, r, stride[0], padding[0], padding[1], dilation[0])
    q = output_size(width, s, stride[1], padding[2], padding[3], dilation[1])
    # of fewer pixels one launch more costs as much as it saves; offsets within a row are int32
    many = min(p, q) > 0 and n * p * q >= 2**16 and width * pitch(x) < 2**30
    return many and flattens(c) and _down(c, (r, s), stride) * s * c <= 256 and k % 16 == 0


def unfold(
    x: torch.Tensor, w: torch.Tensor, *, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches of x, and the weights for them.

    Args:
        x: image (N, H, W, C), pitch allowed, with W times the pitch below 2**30.
        w: weights (K, R, S, C), contiguous.
        stride, padding, dilation: as in `conv2d_fwd`.

    Returns:
        Patches (N, H, Q, width) and weights (K, R, 1, width), of which the first S * C channels count; or where a patch has
        all taps, (N, P, Q, width), (K, 1, 1, width) and R * S * C. Contiguous; the other channels are zero.

    Raises:
        Refused: x is no image, or w not of as many channels.
    """
    n, h, width, c = image("unfold", "input", x)
    k, r, s, wc = w.shape
    if wc != c:
        refuse("unfold", f"input must have the weight's {wc} channels, got {c}")
    down = _down(c, (r, s), stride)
    p, top = h, 0
    if down == r:
        p, top = output_size(h, r, stride[0], padding[0], padding[1], dilation[0]), padding[0]
    q = output_size(width, s, stride[1], padding[2], padding[3], dilation[1])
    channels = 16 if down * s * c <= 16 else cdiv(down * s * c, 32) * 32
    z, wide = empty((n, p, q, channels), x.dtype), empty((k, r // down, 1, channels), w.dtype)
    block_c = next_power_of_2(channels)
    block_m = min(next_power_of_2(q), (65536 if INTERPRET else 4096) // block_c)
    filters = k * r // down
    launch(
        _unfold_kernel, (n * p * cdiv(q, block_m) + cdiv(filters, block_m),),
        x, w, z, wide, n * p, h, width, p, q, filters, pitch(x), C=c, DOWN=down, S=s, STRIDE_H=stride[0], STRIDE_W=stride[1],
        PAD_H=top, PAD_W=padding[2], DIL_H=dilation[0], DIL_W=dilation[1],
        WIDTH=channels, BLOCK_M=block_m, BLOCK_C=block_c,
    )  # fmt: skip
    return z, wide


def unfolded_fwd(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *,
    stride: Pair, padding: tuple[int, int, int, int], dilation: Pair, **more: Any,
) -> tuple[torch.Tensor, Moments | None, torch.Tensor]:  # fmt: skip
    """`conv2d_fwd`, whose arguments these are, by way of patches: its results, and the patches for `unfolded_wgrad`."""
    z, wide = unfold(x, w, stride=stride, padding=padding, dilation=dilation)
    window: dict[str, Any] = {}
    if wide.shape[1] > 1:
        window = {"padding": (*padding[:2], 0, 0), "dilation": (dilation[0], 1)}
    return *conv2d_fwd(z, wide, bias, **window, **more), z


def unfolded_wgrad(
    dy: torch.Tensor, patches: torch.Tensor, *, channels: int, kernel_size: Pair, stride: Pair, pad: Pair, dilation: Pair,
    tf32: bool = False, tile: Tile | None = None,
) -> torch.Tensor:  # fmt: skip
    """`conv2d_wgrad`, whose arguments these are, from the patches of an image of so many channels."""
    r, s = kernel_size
    down = _down(channels, kernel_size, stride)
    window: dict[str, Any] = {"kernel_size": (r // down, 1)}
    if r > down:
        window |= {"pad": (pad[0], 0), "dilation": (dilation[0], 1)}
    dw = conv2d_wgrad(dy, patches[..., : down * s * channels], tf32=tf32, tile=tile, **window)
    return dw.view(-1, r, s, channels)
