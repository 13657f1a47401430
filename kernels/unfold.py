"""The patches of an image under a convolution's window, written out: for few channels, of which no pixel is a row of 16 bytes.

    y[n, p, q, (r, s, c)] = x[n, h, w, c]    where h = p * stride + r * dilation - top, and w the same of q and s

A position outside the image counts as zero, as in `conv2d`. (r, s, c) is the order of the weights (K, R, S, C), so that over
these patches the convolution is one of 1x1 for the tensor-map kernels (im2col: Chellapilla et al. 2006, "High Performance
Convolutional Neural Networks for Document Processing"). Patches and weights are widened alike by zeros, to 16 or a multiple
of 32 channels. The weight gradient needs the patches and not x, so they are kept in its place.

Exact; deterministic. Memory-bound: writes y once, 32 channels for a 3x3 window over RGB; x is read once from memory, R * S
times from the caches. A program writes pixels of one row of y: what decides whether h is inside, and where the row of x begins,
is computed once a column, which leaves one addition and one comparison for an element.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.conv2d import output_size
from tritonnet.kernels.conv2d_tiles import flattens
from tritonnet.kernels.runtime import INTERPRET, arch, begin, cdiv, empty, image, launch, next_power_of_2, pitch, refuse

__all__ = ["unfold", "unfolds"]


@triton.jit
def _unfold_kernel(
    x_ptr, w_ptr, y_ptr, wide_ptr,
    rows, H, W, P, Q, K, x_pitch,  # rows = N * P
    C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    across = tl.cdiv(Q, BLOCK_M)
    pid = tl.program_id(0)
    row = pid // across  # (n, p), or behind the last of them weights
    j = tl.arange(0, BLOCK_C)  # [C] (r, s, c)
    if row < rows:
        h = row % P * STRIDE_H - PAD_H + j // (S * C) * DIL_H
        # of the row of x: its first element, and how many it has; none where there is no such row
        first = (row // P * H + h).to(tl.int64) * (W * x_pitch)
        length = tl.where((j < R * S * C) & (h >= 0) & (h < H), W * x_pitch, 0)
        q = pid % across * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
        # before the row or past it exactly where w is outside, since c is less than the pitch
        at = (q * STRIDE_W * x_pitch)[:, None] + ((j // C % S * DIL_W - PAD_W) * x_pitch + j % C)[None, :]
        inside = at.to(tl.uint32) < length.to(tl.uint32)[None, :]  # before the row: a large number
        x = tl.load((x_ptr + first)[None, :] + at, mask=inside, other=0.0)
        to = (row.to(tl.int64) * Q + q)[:, None] * WIDTH + j[None, :]
        tl.store(y_ptr + to, x, mask=(q < Q)[:, None] & (j < WIDTH)[None, :])
    else:
        k = (pid - rows * across) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
        live = (k < K)[:, None]
        w = tl.load(w_ptr + k[:, None] * (R * S * C) + j[None, :], mask=live & (j < R * S * C)[None, :], other=0.0)
        tl.store(wide_ptr + k[:, None] * WIDTH + j[None, :], w, mask=live & (j < WIDTH)[None, :])


def _size(
    x: torch.Tensor, w: torch.Tensor, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> tuple[int, int]:  # fmt: skip
    """P and Q."""
    return (
        output_size(x.shape[1], w.shape[1], stride[0], padding[0], padding[1], dilation[0]),
        output_size(x.shape[2], w.shape[2], stride[1], padding[2], padding[3], dilation[1]),
    )


def unfolds(
    x: torch.Tensor, w: torch.Tensor, *, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> bool:  # fmt: skip
    """Whether a convolution runs faster over patches: of a large 16-bit image of few channels, where there are tensor maps.

    Arguments as those of `conv2d_fwd`.
    """
    (n, _, width, c), (k, r, s, wc) = x.shape, w.shape
    if not (arch().startswith("sm_") and int(arch()[3:]) >= 90 and x.dtype == w.dtype != torch.float32 and wc == c):
        return False
    p, q = _size(x, w, stride, padding, dilation)
    # of fewer pixels one launch more costs as much as it saves; offsets within a row are int32
    many = min(p, q) > 0 and n * p * q >= 2**16 and width * pitch(x) < 2**30
    return many and flattens(c) and r * s * c <= 256 and k % 16 == 0


def unfold(
    x: torch.Tensor, w: torch.Tensor, *, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Patches and weights with which the convolution of x with w is one of 1x1.

    Args:
        x: image (N, H, W, C), pitch allowed, with W times the pitch below 2**30.
        w: weights (K, R, S, C), contiguous.
        stride, padding, dilation: as in `conv2d_fwd`.

    Returns:
        The patches (N, P, Q, width) and weights (K, 1, 1, width), contiguous, each of its own dtype; the first R * S * C
        channels count, and the others are zero.

    Raises:
        Refused: x is no image, or w not of as many channels.
    """
    n, h, width, c = image("unfold", "input", x)
    k, r, s, wc = w.shape
    if wc != c:
        refuse("unfold", f"input must have the weight's {wc} channels, got {c}")
    p, q = _size(x, w, stride, padding, dilation)
    channels = 16 if r * s * c <= 16 else cdiv(r * s * c, 32) * 32
    y, wide = empty((n, p, q, channels), x.dtype), empty((k, 1, 1, channels), w.dtype)
    block_c = next_power_of_2(channels)
    block_m = min(next_power_of_2(q), (65536 if INTERPRET else 4096) // block_c)
    launch(
        _unfold_kernel, (n * p * cdiv(q, block_m) + cdiv(k, block_m),),
        x, w, y, wide, n * p, h, width, p, q, k, pitch(x), C=c, R=r, S=s, STRIDE_H=stride[0], STRIDE_W=stride[1],
        PAD_H=padding[0], PAD_W=padding[2], DIL_H=dilation[0], DIL_W=dilation[1],
        WIDTH=channels, BLOCK_M=block_m, BLOCK_C=block_c,
    )  # fmt: skip
    return y, wide
