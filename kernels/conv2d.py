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
- `conv2d_tensormap`: tensor-map (TMA) loads, Hopper and later; stride 1, 16-bit or tf32, channels in multiples of 16;
- `conv2d_patch`: the same for a window that equals its stride (the U-Net's 2x2 stride 2).

A large image of few channels becomes one of more first, which the op keeps for the weight gradient (`unfold`).

Deterministic: every output has one writer; sums that several programs share are float32 partial sums, added in a fixed
order. FLOPs: 2 * N*P*Q * K * R*S*C each pass; bytes: each image once, plus the partial sums.
"""

from dataclasses import replace

import torch

from tritonnet.kernels import conv2d_gather, conv2d_patch, conv2d_tensormap
from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.batch_norm_stats import check_vectors
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, kernel_form, pick_tile
from tritonnet.kernels.convert import bfloat16_pair
from tritonnet.kernels.runtime import arch, cdiv, check_dtype, empty, image, image_of, refuse

__all__ = ["Tile", "conv2d_dgrad", "conv2d_fwd", "conv2d_wgrad", "output_size", "same_padding", "transposed_size"]

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


def _weights(op: str, w: torch.Tensor, like: torch.Tensor) -> tuple[int, int, int, int]:
    if w.dim() != 4 or not w.is_contiguous():
        refuse(op, f"weight must be contiguous with 4 dimensions, got shape {tuple(w.shape)}")
    if w.dtype != like.dtype:
        refuse(op, f"weight must have the input's dtype {like.dtype}, got {w.dtype}")
    if w.device != like.device:
        refuse(op, f"weight must be on {like.device}, got {w.device}")
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


def conv2d_fwd(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *,
    stride: tuple[int, int] = (1, 1), padding: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, out: torch.Tensor | None = None, statistics: bool = False, norm: Norm | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None]:  # fmt: skip
    """Convolve.

    Args:
        x: image (N, H, W, C), pitch allowed; float32, bfloat16 or float16.
        w: weights (K, R, S, C), x's dtype.
        bias: (K,), float32, or None.
        stride, dilation: vertical and horizontal, pixels, at least 1.
        padding: zeros above, below, left, right, pixels; negative ones crop.
        tf32: whether float32 products may round their operands to tf32.
        out: where to write, (N, P, Q, K), pitch allowed; allocated otherwise.
        statistics: also return what batch norm needs of y as stored, where the kernel can (else None).
        norm: batch norm by given statistics and a ReLU, applied to y in float32 before it is stored.
        tile: for tests and sweeps; picked otherwise.

    Returns:
        y (N, P, Q, K), and None or the tiles' (count (T,), mean (T, K), M2 (T, K)), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together, or an empty output.
    """
    op = "conv2d"
    N, H, W, C = image(op, "input", x)
    check_dtype(op, "input", x, FLOATS)
    K, R, S, wc = _weights(op, w, x)
    if wc != C:
        refuse(op, f"input must have the weight's {wc} channels, got {C}")
    _check_window(op, stride, dilation)
    _check_bias(op, bias, K)
    top, bottom, left, right = padding
    P, Q = (
        output_size(H, R, stride[0], top, bottom, dilation[0]),
        output_size(W, S, stride[1], left, right, dilation[1]),
    )
    if P < 1 or Q < 1:
        refuse(
            op,
            f"the kernel {R}x{S} (dilation {dilation}) must fit the padded input, got {H}x{W} with padding {padding}",
        )
    if norm is not None:
        check_vectors(K, running_mean=norm.mean, running_var=norm.var, weight=norm.w, bias=norm.b)
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, (top, left), dilation)
    y = empty((N, P, Q, K), x.dtype) if out is None else image_of(op, "out", out, (N, P, Q, K), (x.dtype,))
    if tile is None:
        form = kernel_form(g, (x, w, y), tf32)
        form = "gather" if form == "patch" and norm is not None else form
        tile = pick_tile("conv2d_fwd", g, x.dtype, form, arch())
    if tile.form == "tensormap":
        return y, conv2d_tensormap.fwd(x, w, bias, y, g, tile, statistics, norm)
    if tile.form == "patch" and norm is None:
        conv2d_patch.fwd(x, w, bias, y, g, tile)
    else:
        conv2d_gather.fwd(x, w, bias, y, g, tile, tf32, norm)
    return y, None


def conv2d_dgrad(
    dy: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, input_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, out: torch.Tensor | None = None, norm: Norm | None = None, z: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:  # fmt: skip
    """The gradient of the input; with a bias, the forward of a transposed convolution.

    Args:
        dy: gradient of the output (N, P, Q, K), pitch allowed.
        w: weights (K, R, S, C), dy's dtype.
        bias: (C,), float32, added to every pixel, or None.
        input_size: H and W of the input, pixels.
        stride, dilation: as in the forward.
        pad: zeros above and left in the forward, pixels; may be negative (a crop).
        tf32, out, tile: as in `conv2d_fwd`; out is (N, H, W, C).
        norm, z: given where the input was relu(batch_norm(z)), z (N, H, W, C) in dy's dtype, pitch allowed: also return
            what that batch norm's backward needs of dx, where the kernel can (else None).

    Returns:
        dx (N, H, W, C), and None or the tiles' shares of the batch norm's (dw (T, C), db (T, C)), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together.
    """
    op = "conv2d_dgrad"
    N, P, Q, K = image(op, "input", dy)
    check_dtype(op, "input", dy, FLOATS)
    wk, R, S, C = _weights(op, w, dy)
    if wk != K:
        refuse(op, f"input must have the weight's {wk} channels, got {K}")
    if C < 1:
        refuse(op, f"weight must have at least one output channel, got shape {tuple(w.shape)}")
    _check_window(op, stride, dilation)
    _check_bias(op, bias, C)
    H, W = input_size
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, pad, dilation)
    dx = empty((N, H, W, C), dy.dtype) if out is None else image_of(op, "out", out, (N, H, W, C), (dy.dtype,))
    buffers: tuple[torch.Tensor, ...] = (dy, w, dx)
    if norm is not None and z is not None:
        check_vectors(C, running_mean=norm.mean, running_var=norm.var, weight=norm.w, bias=norm.b)
        buffers = (dy, w, dx, image_of(op, "z", z, (N, H, W, C), (dy.dtype,)))
    if tile is None:
        tile = pick_tile("conv2d_dgrad", g, dy.dtype, kernel_form(g, buffers, tf32), arch())
    if tile.form == "tensormap":
        # how much of z the registers hold beside dx, by the compile-only tests
        channels = 128 if arch() == "sm_90" and dy.dtype != torch.float32 else 64
        fits = tile.splits > 1 or (tile.block_m <= 128 and tile.block_n <= channels)
        return dx, conv2d_tensormap.dgrad(dy, w, bias, dx, g, tile, *((norm, z) if fits else ()))
    if tile.form == "patch":
        conv2d_patch.dgrad(dy, w, bias, dx, g, tile)
    else:
        conv2d_gather.dgrad(dy, w, bias, dx, g, tile, tf32)
    return dx, None


def conv2d_wgrad(
    dy: torch.Tensor, x: torch.Tensor, *, kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, tile: Tile | None = None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of the weights.

    The matrix unit transposes no tf32 operand, and both would have to be. So with `tf32` the tensor-map kernels get each
    image as a sum of two bfloat16 ones and add three of the four products, which rounds to 16 bits, tf32 itself to 11.

    Args:
        dy: gradient of the output (N, P, Q, K), pitch allowed.
        x: input (N, H, W, C), pitch allowed, dy's dtype.
        kernel_size: R and S.
        stride, pad, dilation, tf32, tile: as in `conv2d_dgrad`.

    Returns:
        dw (K, R, S, C), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together.
    """
    op = "conv2d_wgrad"
    N, P, Q, K = image(op, "dy", dy)
    n, H, W, C = image(op, "x", x)
    check_dtype(op, "x", x, FLOATS)
    if n != N or x.dtype != dy.dtype:
        refuse(op, f"x must have dy's batch {N} and dtype {dy.dtype}, got {n} and {x.dtype}")
    _check_window(op, stride, dilation)
    R, S = kernel_size
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, pad, dilation)
    # of patches (`unfold`) the channels that count end anywhere: no weights are read, and the rest of a step reads as zeros
    patches = S == 1 and x.dtype != torch.float32
    form = tile.form if tile else kernel_form(replace(g, C=cdiv(C, 16) * 16) if patches else g, (dy, x), tf32)
    pairs = [(dy, x)]
    if tf32 and x.dtype == torch.float32 and form != "gather":
        (dy_high, dy_low), (x_high, x_low) = bfloat16_pair(dy), bfloat16_pair(x)
        pairs = [(dy_high, x_high), (dy_high, x_low), (dy_low, x_high)]
    tile = tile or pick_tile("conv2d_wgrad", g, pairs[0][0].dtype, form, arch())
    sums = 1 if tile.form == "tensormap" else tile.splits  # those kernels add what they share
    partial = empty((len(pairs) * sums, K, R, S, C), torch.float32)
    for number, (dy, x) in enumerate(pairs):
        part = partial[number * sums : (number + 1) * sums]
        if tile.form == "tensormap":
            conv2d_tensormap.wgrad(dy, x, part, g, tile)
        elif tile.form == "patch":
            conv2d_patch.wgrad(dy, x, part, g, tile)
        else:
            conv2d_gather.wgrad(dy, x, part, g, tile, tf32)
    if len(partial) == 1:
        return partial[0]
    return conv2d_gather.split_sum(partial, empty((K, R, S, C), torch.float32))
