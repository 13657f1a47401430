"""2-D convolution over channels-last images: forward, input gradient, weight gradient.

    y[n, p, q, k]  = b[k] + sum over r, s, c of x[n, h, w, c] * w[k, r, s, c]
    dx[n, h, w, c] = sum over r, s, k of dy[n, p, q, k] * w[k, r, s, c]
    dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] * x[n, h, w, c]

    where h = p * stride + r * dilation - pad, and w the same of q and s

A position outside the image counts as zero; in dx only whole quotients inside the output count. Sums are in float32.
A transposed convolution is the same three sums with the roles exchanged: its forward is dx (with a bias), its input
gradient y, its weight gradient dw with image and gradient exchanged.

This module holds what the three passes share, and the launchers; the kernels are implicit GEMMs (Chetlur et al. 2014,
"cuDNN: Efficient Primitives for Deep Learning", section 3.2), in three forms:

- `conv2d_gather`: pointers; any stride, dilation, channel count, dtype and pitch.
- `conv2d_tensormap`: tensor-map (TMA) loads, Hopper and later; stride 1, 16-bit operands, channels in multiples of 16;
- `conv2d_patch`: the same for a window that equals its stride (the U-Net's 2x2 stride 2).

In tf32 the last two multiply scaled float16 (`scaled`) and store float32. The launchers convert what comes as float32; who has
several passes to make asks first (`fwd_scales`, `dgrad_scales`), converts once and hands them `Scaled` operands.

A large image of few channels becomes one of more first, which the op keeps for the weight gradient (`unfold`).

Deterministic: every output has one writer; sums that several programs share are float32 partial sums, added in a fixed
order. FLOPs: 2 * N*P*Q * K * R*S*C each pass; bytes: each image once, plus the partial sums.
"""

from dataclasses import replace
from typing import Any

import torch

from tritonnet.kernels import conv2d_gather, conv2d_patch, conv2d_tensormap
from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.batch_norm_stats import check_vectors
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, kernel_form, mappable, pick_tile
from tritonnet.kernels.runtime import arch, cdiv, check_dtype, empty, image, image_of, refuse
from tritonnet.kernels.scaled import Operand, Scaled, scaled, values_of

__all__ = [
    "Tile", "conv2d_dgrad", "conv2d_fwd", "conv2d_wgrad", "dgrad_scales", "fwd_scales", "output_size", "same_padding",
    "transposed_size",
]  # fmt: skip

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def output_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Pixels along one side of a convolution's output: floor((size + before + after - dilation*(kernel-1) - 1) / stride) + 1."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def transposed_size(size: int, kernel: int, stride: int, pad: int, output_padding: int, dilation: int) -> int:
    """Pixels along one side of a transposed convolution's output."""
    return (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + output_padding + 1


def same_padding(kernel: int, dilation: int) -> tuple[int, int]:
    """Padding (before, after) with which a stride-1 convolution keeps the size; the odd pixel goes after, as in torch."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def _dtype(x: Operand) -> torch.dtype:
    """Of the numbers that x stands for."""
    return torch.float32 if isinstance(x, Scaled) else x.dtype


def _weights(op: str, weight: Operand, like: Operand) -> tuple[int, int, int, int]:
    w, device = values_of(weight), values_of(like).device
    if w.dim() != 4 or not w.is_contiguous():
        refuse(op, f"weight must be contiguous with 4 dimensions, got shape {tuple(w.shape)}")
    if _dtype(weight) != _dtype(like):
        refuse(op, f"weight must have the input's dtype {_dtype(like)}, got {_dtype(weight)}")
    if w.device != device:
        refuse(op, f"weight must be on {device}, got {w.device}")
    k, r, s, c = w.shape
    if min(k, r, s) < 1:
        refuse(op, f"weight must have at least one filter and one tap, got shape {tuple(w.shape)}")
    return k, r, s, c


def _check_window(op: str, stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    if min(stride) < 1:
        refuse(op, f"stride must be at least 1, got {stride}")
    if min(dilation) < 1:
        refuse(op, f"dilation must be at least 1, got {dilation}")


def _check_bias(op: str, bias: torch.Tensor | None, channels: int) -> None:
    if bias is not None and (tuple(bias.shape) != (channels,) or bias.dtype != torch.float32):
        refuse(op, f"bias must be float32 of shape ({channels},), got {bias.dtype} of shape {tuple(bias.shape)}")


def _form(g: Geometry, operands: tuple[Operand, ...], out: torch.Tensor | None, tf32: bool) -> str:
    """The form of the kernels that take this problem best. Float32 operands have no say in tf32: they are converted."""
    tf32 = tf32 or any(isinstance(x, Scaled) for x in operands)
    fixed = [values_of(x) for x in operands if not (tf32 and _dtype(x) == torch.float32)]
    return kernel_form(g, (*fixed, *([] if out is None else [out])), tf32)


def _operands(op: str, form: str, tf32: bool, a: Operand, b: Operand) -> tuple[Any, Any]:
    """Both operands as kernels of this form multiply them."""
    if form == "gather":
        if isinstance(a, Scaled) or isinstance(b, Scaled):
            refuse(op, "scaled operands must be those of a problem that tensor-map kernels take; give float32 ones")
        return a, b
    tf32 = tf32 or isinstance(a, Scaled) or isinstance(b, Scaled)
    return (scaled(a), scaled(b)) if tf32 and _dtype(a) == torch.float32 else (a, b)


def _fwd_geometry(
    x: Operand, w: Operand, stride: tuple[int, int], padding: tuple[int, int, int, int], dilation: tuple[int, int]
) -> Geometry:
    (N, H, W, C), (K, R, S, _), (top, bottom, left, right) = values_of(x).shape, values_of(w).shape, padding
    P = output_size(H, R, stride[0], top, bottom, dilation[0])
    Q = output_size(W, S, stride[1], left, right, dilation[1])
    return Geometry(N, H, W, C, P, Q, K, R, S, stride, (top, left), dilation)


def _fwd_form(
    g: Geometry, operands: tuple[Operand, ...], out: torch.Tensor | None, tf32: bool, norm: Norm | None
) -> str:
    form = _form(g, operands, out, tf32)
    return "gather" if form == "patch" and norm is not None else form


def fwd_scales(
    x: torch.Tensor, w: torch.Tensor, *, stride: tuple[int, int], padding: tuple[int, int, int, int],
    dilation: tuple[int, int], tf32: bool, out: torch.Tensor | None = None, norm: Norm | None = None, **_: object,
) -> bool:  # fmt: skip
    """Whether `conv2d_fwd` with these arguments, and so its gradients, multiply scaled float16."""
    g = _fwd_geometry(x, w, stride, padding, dilation)
    return tf32 and x.dtype == torch.float32 and _fwd_form(g, (x, w), out, tf32, norm) != "gather"


def dgrad_scales(
    dy: torch.Tensor, w: torch.Tensor, *, input_size: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int],
    dilation: tuple[int, int], tf32: bool, out: torch.Tensor | None = None,
) -> bool:  # fmt: skip
    """The same of `conv2d_dgrad`, as the forward of a transposed convolution."""
    (N, P, Q, _), (K, R, S, C) = dy.shape, w.shape
    g = Geometry(N, *input_size, C, P, Q, K, R, S, stride, pad, dilation)
    return tf32 and dy.dtype == torch.float32 and _form(g, (dy, w), out, tf32) != "gather"


def conv2d_fwd(
    x: Operand, w: Operand, bias: torch.Tensor | None = None, *,
    stride: tuple[int, int] = (1, 1), padding: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, out: torch.Tensor | None = None, statistics: bool = False, norm: Norm | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None]:  # fmt: skip
    """Convolve.

    Args:
        x: image (N, H, W, C), pitch allowed; float32, bfloat16, float16, or scaled float16 for float32.
        w: weights (K, R, S, C), x's dtype.
        bias: (K,), float32, or None.
        stride, dilation: vertical and horizontal, pixels, at least 1.
        padding: zeros above, below, left, right, pixels; negative ones crop.
        tf32: whether float32 products may keep 11 bits of their operands: tf32, or scaled float16.
        out: where to write, (N, P, Q, K), pitch allowed; allocated otherwise. Of x's dtype; float32 for scaled operands.
        statistics: also return what batch norm needs of y as stored, where the kernel can (else None).
        norm: batch norm by given statistics and a ReLU, applied to y in float32 before it is stored.
        tile: for tests and sweeps; picked otherwise.

    Returns:
        y (N, P, Q, K), and None or the tiles' (count (T,), mean (T, K), M2 (T, K)), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together, or an empty output.
    """
    op = "conv2d"
    N, H, W, C = image(op, "input", values_of(x))
    check_dtype(op, "input", values_of(x), FLOATS)
    K, R, S, wc = _weights(op, w, x)
    if wc != C:
        refuse(op, f"input must have the weight's {wc} channels, got {C}")
    _check_window(op, stride, dilation)
    _check_bias(op, bias, K)
    g = _fwd_geometry(x, w, stride, padding, dilation)
    if g.P < 1 or g.Q < 1:
        refuse(
            op,
            f"the kernel {R}x{S} (dilation {dilation}) must fit the padded input, got {H}x{W} with padding {padding}",
        )
    if norm is not None:
        check_vectors(K, running_mean=norm.mean, running_var=norm.var, weight=norm.w, bias=norm.b)
    shape, dtype = (N, g.P, g.Q, K), _dtype(x)
    y = empty(shape, dtype) if out is None else image_of(op, "out", out, shape, (dtype,))
    if tile is None:
        tile = pick_tile("conv2d_fwd", g, dtype, _fwd_form(g, (x, w), y, tf32, norm), arch())
    form = "gather" if tile.form == "patch" and norm is not None else tile.form
    pixels, filters = _operands(op, form, tf32, x, w)
    if form == "tensormap":
        return y, conv2d_tensormap.fwd(pixels, filters, bias, y, g, tile, statistics, norm)
    if form == "patch":
        conv2d_patch.fwd(pixels, filters, bias, y, g, tile)
    else:
        conv2d_gather.fwd(pixels, filters, bias, y, g, tile, tf32, norm)
    return y, None


def conv2d_dgrad(
    dy: Operand, w: Operand, bias: torch.Tensor | None = None, *, input_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, out: torch.Tensor | None = None, norm: Norm | None = None, z: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:  # fmt: skip
    """The gradient of the input; with a bias, the forward of a transposed convolution.

    Args:
        dy: gradient of the output (N, P, Q, K), pitch allowed; dtypes as in `conv2d_fwd`.
        w: weights (K, R, S, C), dy's dtype.
        bias: (C,), float32, added to every pixel, or None.
        input_size: H and W of the input, pixels.
        stride, dilation: as in the forward.
        pad: zeros above and left in the forward, pixels; may be negative (a crop).
        tf32, out, tile: as in `conv2d_fwd`; out is (N, H, W, C).
        norm, z: given where the input was relu(batch_norm(z)), z (N, H, W, C) in dx's dtype, pitch allowed: also return
            what that batch norm's backward needs of dx, where the kernel can (else None).

    Returns:
        dx (N, H, W, C), and None or the tiles' shares of the batch norm's (dw (T, C), db (T, C)), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together.
    """
    op = "conv2d_dgrad"
    N, P, Q, K = image(op, "input", values_of(dy))
    check_dtype(op, "input", values_of(dy), FLOATS)
    wk, R, S, C = _weights(op, w, dy)
    if wk != K:
        refuse(op, f"input must have the weight's {wk} channels, got {K}")
    if C < 1:
        refuse(op, f"weight must have at least one output channel, got shape {(wk, R, S, C)}")
    _check_window(op, stride, dilation)
    _check_bias(op, bias, C)
    H, W = input_size
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, pad, dilation)
    dtype = _dtype(dy)
    dx = empty((N, H, W, C), dtype) if out is None else image_of(op, "out", out, (N, H, W, C), (dtype,))
    if norm is not None and z is not None:
        check_vectors(C, running_mean=norm.mean, running_var=norm.var, weight=norm.w, bias=norm.b)
        image_of(op, "z", z, (N, H, W, C), (dtype,))
    if tile is None:
        tile = pick_tile("conv2d_dgrad", g, dtype, _form(g, (dy, w), dx, tf32), arch())
    pixels, filters = _operands(op, tile.form, tf32, dy, w)
    if tile.form == "tensormap":
        # how much of z the registers hold beside dx, by the compile-only tests; three taps of a tile leave row by row
        if dtype == torch.float32:
            fits = tile.block_m * tile.block_n <= 2048 * tile.num_warps
        else:
            rows = tile.block_m // 4 if tile.taps == 3 else tile.block_m
            fits = rows <= 128 and tile.block_n <= (128 if arch() == "sm_90" else 64)
        fits = (fits or tile.splits > 1) and z is not None and mappable(z)
        return dx, conv2d_tensormap.dgrad(pixels, filters, bias, dx, g, tile, *((norm, z) if fits else ()))
    if tile.form == "patch":
        conv2d_patch.dgrad(pixels, filters, bias, dx, g, tile)
    else:
        conv2d_gather.dgrad(pixels, filters, bias, dx, g, tile, tf32)
    return dx, None


def conv2d_wgrad(
    dy: Operand, x: Operand, *, kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, tile: Tile | None = None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of the weights.

    Args:
        dy: gradient of the output (N, P, Q, K), pitch allowed; dtypes as in `conv2d_fwd`.
        x: input (N, H, W, C), pitch allowed, dy's dtype.
        kernel_size: R and S.
        stride, pad, dilation, tf32, tile: as in `conv2d_dgrad`.

    Returns:
        dw (K, R, S, C), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together.
    """
    op = "conv2d_wgrad"
    N, P, Q, K = image(op, "dy", values_of(dy))
    n, H, W, C = image(op, "x", values_of(x))
    check_dtype(op, "x", values_of(x), FLOATS)
    if n != N or _dtype(x) != _dtype(dy):
        refuse(op, f"x must have dy's batch {N} and dtype {_dtype(dy)}, got {n} and {_dtype(x)}")
    _check_window(op, stride, dilation)
    R, S = kernel_size
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, pad, dilation)
    # of patches (`unfold`) the channels that count end anywhere: no weights are read, and the rest of a step reads as zeros
    patches = S == 1 and _dtype(x) != torch.float32
    form = _form(replace(g, C=cdiv(C, 16) * 16) if patches else g, (dy, x), None, tf32)
    tile = tile or pick_tile("conv2d_wgrad", g, _dtype(x), form, arch())
    small, big = _operands(op, tile.form, tf32, dy, x)
    splits = 1 if tile.form == "tensormap" else tile.splits  # those kernels add what they share
    partial = empty((splits, K, R, S, C), torch.float32)
    if tile.form == "tensormap":
        conv2d_tensormap.wgrad(small, big, partial, g, tile)
    elif tile.form == "patch":
        conv2d_patch.wgrad(small, big, partial, g, tile)
    else:
        conv2d_gather.wgrad(small, big, partial, g, tile, tf32)
    return partial[0] if splits == 1 else conv2d_gather.split_sum(partial, empty((K, R, S, C), torch.float32))
