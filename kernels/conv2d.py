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

Deterministic: every output has one writer; the weight gradient is split over pixels into float32 partial sums which are added
in a fixed order. FLOPs: 2 * N*P*Q * K * R*S*C each pass; bytes: each image once, plus the partial sums.
"""

import functools
from dataclasses import dataclass

import torch

from tritonnet.kernels import tile_table
from tritonnet.kernels.runtime import (
    INTERPRET,
    arch,
    cdiv,
    check_dtype,
    empty,
    image,
    multiprocessors,
    next_power_of_2,
    pitch,
    refuse,
)

__all__ = [
    "Geometry",
    "Tile",
    "conv2d_dgrad",
    "conv2d_fwd",
    "conv2d_wgrad",
    "output_size",
    "same_padding",
    "transposed_size",
]

LARGEST_BLOCK = 2**19  # elements of one block on the interpreter, which is fastest with few large programs
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Tile:
    """How one pass is cut into programs.

    block_m x block_n is the output tile of the GEMM and block_k its step. For the forward and the input gradient m counts
    pixels and n output channels; for the weight gradient m counts channels of dy, n channels of x, and k pixels.
    """

    form: str  # "gather", "tensormap" or "patch"
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    splits: int = 1  # weight gradient: programs that share one tile of dw
    rows: int = (
        1  # tensormap: the pixel tile is images x rows x (pixels / images / rows); patch: rows x (pixels / rows)
    )
    images: int = 1
    taps: int = 1  # tensormap weight gradient: taps a program, 1 or the S = 3 of a row


@dataclass(frozen=True)
class Geometry:
    """The sizes of one convolution; `pad` is what lies above and to the left, P and Q say the rest."""

    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    K: int
    R: int
    S: int
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def key(self) -> str:
        """The name of this problem in a tile table."""
        window = f"{self.R}x{self.S}s{self.stride[0]}d{self.dilation[0]}"
        return f"{self.C}-{self.K} {window} {self.N}x{self.P}x{self.Q}"


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


@functools.cache
def pick_tile(name: str, g: Geometry, dtype: torch.dtype, form: str, arch: str) -> Tile:
    """The tile for pass `name`: from the architecture's table if the problem is in it, else by rule.

    The rule's numbers come from the sweep in bench/sweep_conv2d.py. Cached: it runs before every launch.
    """
    found = tile_table.lookup(arch, name, f"{g.key} {str(dtype).removeprefix('torch.')}")
    if found is not None:
        tile = Tile(**found)
        if tile.form in (form, "gather"):
            return tile
    if name == "conv2d_wgrad":
        return _pick_wgrad(g, dtype, form, arch)
    pixels = g.N * (g.P * g.Q if name == "conv2d_fwd" else g.H * g.W)
    depth, width = (g.C, g.K) if name == "conv2d_fwd" else (g.K, g.C)
    wide = dtype != torch.float32
    if INTERPRET:
        block_k, block_n = min(max(next_power_of_2(depth), 16), 64), min(max(next_power_of_2(width), 16), 256)
        most = LARGEST_BLOCK // max(block_k, block_n)
        return Tile("gather", min(max(next_power_of_2(pixels), 16), most), block_n, block_k, 4, 1)
    step = 64 if wide else 32  # channels a step of a tensor-map kernel: 128 bytes
    while depth % step:
        step //= 2
    if form == "patch":
        rows, columns = patch_box(g, 128)
        return Tile("patch", rows * columns, 128 if width > 64 else 64, step, 4, 3, rows=rows)
    if form == "tensormap":
        narrow = width <= 64
        side = (g.P, g.Q) if name == "conv2d_fwd" else (g.H, g.W)
        images, rows, columns = pixel_tile(g.N, *side, 256 if narrow and wide else 128)
        return Tile(
            "tensormap",
            images * rows * columns,
            64 if narrow else 128,
            step,
            4,
            2 if narrow else 3,
            rows=rows,
            images=images,
        )
    aligned = (
        depth % 8 == 0 and width % 8 == 0
    )  # else every element has an address of its own, and those take registers
    flat = name == "conv2d_fwd" and flattens(g.C)
    block_n = min(max(next_power_of_2(width), 16), 128 if wide else 64)
    block_k = 32 if flat else 16 if depth < 32 or not aligned else 64 if depth >= 64 and wide else 32
    block_m = 128 if flat or (aligned and (wide or block_n <= 32)) else 64
    heavy = block_n >= 128 or (
        name == "conv2d_dgrad" and (block_m * max(block_n, block_k) >= 8192 or min(depth, width) < 16)
    )
    return Tile("gather", block_m, block_n, block_k, 8 if heavy else 4, 3 if wide else 2)


def _pick_wgrad(g: Geometry, dtype: torch.dtype, form: str, arch: str) -> Tile:
    pixels = g.N * g.P * g.Q
    if INTERPRET:
        columns = g.R * g.S * g.C if flattens(g.C) else g.C
        block_m, block_n = (min(max(next_power_of_2(size), 16), 256) for size in (g.K, columns))
        most = LARGEST_BLOCK // max(block_m, block_n)
        return Tile("gather", block_m, block_n, min(max(next_power_of_2(pixels), 16), most), 4, 1)
    wide = dtype != torch.float32
    if form == "patch":
        rows, columns = patch_box(g, 64 if wide else 32)
        block_m, block_n = (128 if g.K > 64 else 64), (128 if g.C % 128 == 0 else 64)
        programs = cdiv(g.K, block_m) * cdiv(g.C, block_n) * g.R * g.S
        splits = split_count(programs, cdiv(g.N * g.P, rows) * cdiv(g.Q, columns), 2)
        return Tile(
            "patch", block_m, block_n, rows * columns, 8 if arch == "sm_100" else 4, 2, splits=splits, rows=rows
        )
    if form == "tensormap":
        row = wide and g.S == 3 and max(g.C, g.K) <= 256  # small tiles: three taps share one tile of dy
        step, stages = (64, 3) if wide and max(g.C, g.K) <= 64 else (32, 4) if row else (64, 2) if wide else (32, 2)
        images, rows, columns = pixel_tile(g.N, g.P, g.Q, step, wide=True)
        block_m, block_n = (128 if g.K > 64 else 64), (64 if row or g.C % 128 else 128)
        taps = 3 if row else 1
        programs = cdiv(g.K, block_m) * cdiv(g.C, block_n) * g.R * g.S // taps
        steps = cdiv(g.N, images) * cdiv(g.P, rows) * cdiv(g.Q, columns)
        warps = 8 if arch == "sm_100" and block_m * block_n >= 16384 else 4
        return Tile(
            "tensormap", block_m, block_n, step, warps, stages, split_count(programs, steps, 2), rows, images, taps
        )
    columns = g.R * g.S * g.C if flattens(g.C) else g.C
    block_m = min(max(next_power_of_2(g.K), 16), 128 if wide else 64)
    block_n = min(max(next_power_of_2(columns), 16), 128 if wide else 64)
    block_k = 64 if wide else 32
    programs = cdiv(g.K, block_m) * cdiv(columns, block_n) * (1 if flattens(g.C) else g.R * g.S)
    splits = split_count(programs, cdiv(pixels, block_k), 4)
    return Tile(
        "gather", block_m, block_n, block_k, 8 if block_m * block_n >= 16384 else 4, 3 if wide else 2, splits=splits
    )


def split_count(programs: int, steps: int, waves: int) -> int:
    """How many programs share one tile of dw: enough for `waves` programs a multiprocessor, at least 8 steps each."""
    return max(1, min(cdiv(waves * multiprocessors(), programs), steps // 8))


def flattens(channels: int) -> bool:
    """Whether taps and channels are one GEMM axis: with so few channels a tap alone would fill too little of a step."""
    return channels < 8 if INTERPRET else channels < 16


def pixel_tile(n: int, height: int, width: int, pixels: int, wide: bool = False) -> tuple[int, int, int]:
    """Images, rows and columns (powers of two, product `pixels`) that waste least; then the squarest, or the widest."""
    best: tuple[float, int, tuple[int, int, int]] | None = None
    columns = 1
    while columns <= pixels:
        for rows in (1 << i for i in range((pixels // columns).bit_length())):
            images = pixels // columns // rows
            covered = cdiv(n, images) * images * cdiv(height, rows) * rows * cdiv(width, columns) * columns
            rank = (covered, images * 1000 + (-columns if wide else abs(columns - 2 * rows)), (images, rows, columns))
            best = rank if best is None else min(best, rank)
        columns *= 2
    assert best is not None
    return best[2]


def patch_box(g: Geometry, pixels: int) -> tuple[int, int]:
    """Rows and columns of a patch kernel's pixel tile: as wide as the image, since its rows of all images are one axis."""
    columns = min(next_power_of_2(g.Q), pixels)
    return pixels // columns, columns


def _form(g: Geometry, buffers: tuple[torch.Tensor, ...], tf32: bool) -> str:
    """Which kernels take this problem best. Tensor maps want rows of 16 bytes and channels in multiples of 16."""
    hopper = arch().startswith("sm_") and int(arch()[3:]) >= 90
    fits = g.C % 16 == 0 and g.K % 16 == 0 and all(
        (b.dtype != torch.float32 or tf32) and b.data_ptr() % 16 == 0 and pitch(b) * b.element_size() % 16 == 0 for b in buffers
    )  # fmt: skip
    if not hopper or not fits or g.N == 0:
        return "gather"
    if g.stride == (1, 1):
        return "tensormap"
    whole = (g.H, g.W) == (g.P * g.R, g.Q * g.S) and g.pad == (0, 0) and g.dilation == (1, 1)
    return "patch" if whole and g.stride == (g.R, g.S) else "gather"


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


def _output(op: str, out: torch.Tensor | None, shape: tuple[int, int, int, int], dtype: torch.dtype) -> torch.Tensor:
    if out is None:
        return empty(shape, dtype)
    image(op, "out", out)
    if tuple(out.shape) != shape or out.dtype != dtype:
        refuse(op, f"out must be {dtype} of buffer shape {shape}, got {out.dtype} of {tuple(out.shape)}")
    return out


def conv2d_fwd(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *,
    stride: tuple[int, int] = (1, 1), padding: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, out: torch.Tensor | None = None, statistics: bool = False, tile: Tile | None = None,
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
        tile: for tests and sweeps; picked otherwise.

    Returns:
        y (N, P, Q, K), and None or the tiles' (count (T,), mean (T, K), M2 (T, K)), float32.

    Raises:
        Refused: sizes, dtypes or devices that do not go together, or an empty output.
    """
    from tritonnet.kernels import conv2d_gather, conv2d_patch, conv2d_tensormap

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
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, (top, left), dilation)
    y = _output(op, out, (N, P, Q, K), x.dtype)
    if tile is None:
        tile = pick_tile("conv2d_fwd", g, x.dtype, _form(g, (x, w, y), tf32), arch())
    if tile.form == "tensormap":
        return conv2d_tensormap.fwd(x, w, bias, y, g, tile, statistics)
    if tile.form == "patch":
        conv2d_patch.fwd(x, w, bias, y, g, tile)
    else:
        conv2d_gather.fwd(x, w, bias, y, g, tile, tf32)
    return y, None


def conv2d_dgrad(
    dy: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, input_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, out: torch.Tensor | None = None, tile: Tile | None = None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of the input; with a bias, the forward of a transposed convolution.

    Args:
        dy: gradient of the output (N, P, Q, K), pitch allowed.
        w: weights (K, R, S, C), dy's dtype.
        bias: (C,), float32, added to every pixel, or None.
        input_size: H and W of the input, pixels.
        stride, dilation: as in the forward.
        pad: zeros above and left in the forward, pixels; may be negative (a crop).
        tf32, out, tile: as in `conv2d_fwd`; out is (N, H, W, C).

    Returns:
        dx (N, H, W, C).

    Raises:
        Refused: sizes, dtypes or devices that do not go together.
    """
    from tritonnet.kernels import conv2d_gather, conv2d_patch, conv2d_tensormap

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
    dx = _output(op, out, (N, H, W, C), dy.dtype)
    if tile is None:
        tile = pick_tile("conv2d_dgrad", g, dy.dtype, _form(g, (dy, w, dx), tf32), arch())
    if tile.form == "tensormap":
        conv2d_tensormap.dgrad(dy, w, bias, dx, g, tile)
    elif tile.form == "patch":
        conv2d_patch.dgrad(dy, w, bias, dx, g, tile)
    else:
        conv2d_gather.dgrad(dy, w, bias, dx, g, tile, tf32)
    return dx


def conv2d_wgrad(
    dy: torch.Tensor, x: torch.Tensor, *, kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1),
    tf32: bool = False, tile: Tile | None = None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of the weights.

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
    from tritonnet.kernels import conv2d_gather, conv2d_patch, conv2d_tensormap

    op = "conv2d_wgrad"
    N, P, Q, K = image(op, "dy", dy)
    n, H, W, C = image(op, "x", x)
    check_dtype(op, "x", x, FLOATS)
    if n != N or x.dtype != dy.dtype:
        refuse(op, f"x must have dy's batch {N} and dtype {dy.dtype}, got {n} and {x.dtype}")
    _check_window(op, stride, dilation)
    R, S = kernel_size
    g = Geometry(N, H, W, C, P, Q, K, R, S, stride, pad, dilation)
    if tile is None:
        tile = pick_tile("conv2d_wgrad", g, x.dtype, _form(g, (dy, x), tf32), arch())
    partial = empty((tile.splits, K, R, S, C), torch.float32)
    if tile.form == "tensormap":
        conv2d_tensormap.wgrad(dy, x, partial, g, tile)
    elif tile.form == "patch":
        conv2d_patch.wgrad(dy, x, partial, g, tile)
    else:
        conv2d_gather.wgrad(dy, x, partial, g, tile, tf32)
    if tile.splits == 1:
        return partial[0]
    return conv2d_gather.split_sum(partial, empty((K, R, S, C), torch.float32))
