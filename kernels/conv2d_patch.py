"""Convolution kernels for a window that equals its stride: patches that do not overlap; by tensor map, operands as there.

The formulas stand in `conv2d`. With R = stride, no padding and no dilation every input pixel lies in exactly one patch,
so the input is a rank-5 array big[n*P + p, r, q, s, c] = x[n, p*R + r, q*S + s, c] (a view: one tensor map), and

    forward          y[m, k]        = sum over r, s, c of big[m, r, s, c] * w[k, r, s, c]
    input gradient   big[m, r, s, c] = sum over k of dy[m, k] * w[k, r, s, c]
    weight gradient  dw[k, r, s, c] = sum over m of dy[m, k] * big[m, r, s, c]

are plain matrix products over pixels m = (n*P + p, q). The input gradient is the forward of the U-Net's 2x2 stride 2
transposed convolution. As in `conv2d_tensormap` the pixels are operand B. Deterministic; each image is read or written once a
tile of the other side's channels.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tritonnet.kernels.conv2d_tiles import Geometry, Tile
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, launch, pitch
from tritonnet.kernels.scaled import Operand, descaled, inverse_of, values_of

__all__ = ["dgrad", "fwd", "wgrad"]


@triton.jit
def _conv2d_patch_kernel(
    in_map, w_map, in_inverse_ptr, w_inverse_ptr, b_ptr, out_map,
    Q, C, K,  # big has C channels, small has K and rows of Q pixels
    R: tl.constexpr, S: tl.constexpr,
    SPREAD: tl.constexpr,  # from small to big (input gradient) rather than from big to small (forward)
    HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    width = C if SPREAD else K  # channels that come out, a tap
    depth = K if SPREAD else C  # channels that are summed, a tap
    blocks = tl.cdiv(width, BLOCK_N)
    o0 = (tl.program_id(0) % blocks) * BLOCK_N
    if SPREAD:
        tap_out = tl.program_id(0) // blocks % (R * S)
        box = tl.program_id(0) // blocks // (R * S)
        taps = 1
    else:
        box = tl.program_id(0) // blocks
        taps = R * S
    boxes_w = tl.cdiv(Q, COLUMNS)
    row0, q0 = box // boxes_w * ROWS, box % boxes_w * COLUMNS
    steps = tl.cdiv(depth, BLOCK_K)
    acc = tl.zeros((BLOCK_N, ROWS * COLUMNS), tl.float32)
    for step in range(taps * steps):
        tap = step // steps
        i0 = step % steps * BLOCK_K
        if SPREAD:
            x = in_map.load([row0, q0, i0])
            f = tl.trans(w_map.load([i0, tap_out * C + o0]))
        else:
            x = in_map.load([row0, tap // S, q0, tap % S, i0])
            f = w_map.load([o0, tap * C + i0])
        x = tl.reshape(x, (ROWS * COLUMNS, BLOCK_K))
        if UPCAST:
            x, f = x.to(tl.float32), f.to(tl.float32)
        acc = tl.dot(f, tl.trans(x), acc)
    acc = descaled(acc, in_inverse_ptr, w_inverse_ptr)
    if HAS_BIAS:
        o = o0 + tl.arange(0, BLOCK_N)
        acc += tl.load(b_ptr + o, mask=o < width, other=0.0)[:, None]
    y = tl.trans(acc.to(out_map.dtype))
    if SPREAD:
        out_map.store([row0, tap_out // S, q0, tap_out % S, o0], tl.reshape(y, (ROWS, 1, COLUMNS, 1, BLOCK_N)))
    else:
        out_map.store([row0, q0, o0], tl.reshape(y, (ROWS, COLUMNS, BLOCK_N)))


@triton.jit
def _conv2d_patch_wgrad_kernel(
    small_map, big_map, small_inverse_ptr, big_inverse_ptr,
    dw_ptr,  # one (K, R, S, C) partial sum a split
    Q, C, K, boxes, boxes_per_split,
    R: tl.constexpr, S: tl.constexpr, FLAT: tl.constexpr, UPCAST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    begin()
    BLOCK_K: tl.constexpr = ROWS * COLUMNS
    blocks_m, blocks_n = tl.cdiv(K, BLOCK_M), tl.cdiv(C, BLOCK_N)
    pid = tl.program_id(0)
    k0, c0 = (pid % blocks_m) * BLOCK_M, (pid // blocks_m % blocks_n) * BLOCK_N
    tap = pid // blocks_m // blocks_n
    split = tl.program_id(1)
    boxes_w = tl.cdiv(Q, COLUMNS)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for box in range(split * boxes_per_split, tl.minimum((split + 1) * boxes_per_split, boxes)):
        row0, q0 = box // boxes_w * ROWS, box % boxes_w * COLUMNS
        if FLAT:
            dy = small_map.load([box * BLOCK_K, k0])
        else:
            dy = tl.reshape(small_map.load([row0, q0, k0]), (BLOCK_K, BLOCK_M))
        x = tl.reshape(big_map.load([row0, tap // S, q0, tap % S, c0]), (BLOCK_K, BLOCK_N))
        if UPCAST:
            dy, x = dy.to(tl.float32), x.to(tl.float32)
        acc = tl.dot(tl.trans(dy), x, acc)
    k, c = k0 + tl.arange(0, BLOCK_M), c0 + tl.arange(0, BLOCK_N)
    at = (split.to(tl.int64) * K + k)[:, None] * (R * S * C) + (tap * C + c)[None, :]
    acc = descaled(acc, small_inverse_ptr, big_inverse_ptr)
    tl.store(dw_ptr + at, acc, mask=(k < K)[:, None] & (c < C)[None, :])


def _small(y: torch.Tensor, rows: int, columns: int, block: int) -> TensorDescriptor:
    """Tensor map [n*P + p, q, k] over an image buffer (N, P, Q, K)."""
    n, p, q, k = y.shape
    return TensorDescriptor(y, [n * p, q, k], [q * pitch(y), pitch(y), 1], [rows, columns, block])


def _big(x: torch.Tensor, g: Geometry, rows: int, columns: int, block: int) -> TensorDescriptor:
    """Tensor map [n*P + p, r, q, s, c] over an image buffer (N, P*R, Q*S, C)."""
    step = pitch(x)
    strides = [g.R * g.W * step, g.W * step, g.S * step, step, 1]
    return TensorDescriptor(x, [g.N * g.P, g.R, g.Q, g.S, g.C], strides, [rows, 1, columns, 1, block])


def _run(
    source: TensorDescriptor, x: Operand, w: Operand, bias: torch.Tensor | None, target: TensorDescriptor, g: Geometry, t: Tile,
    spread: bool,
) -> None:  # fmt: skip
    """Launch; `source` is the map of `x`'s values."""
    columns = t.block_m // t.rows
    boxes = cdiv(g.N * g.P, t.rows) * cdiv(g.Q, columns)
    outputs = g.R * g.S * cdiv(g.C, t.block_n) if spread else cdiv(g.K, t.block_n)
    block = [t.block_k, t.block_n] if spread else [t.block_n, t.block_k]
    w_map = TensorDescriptor(values_of(w), [g.K, g.R * g.S * g.C], [g.R * g.S * g.C, 1], block)
    launch(
        _conv2d_patch_kernel, (boxes * outputs,), source, w_map, inverse_of(x), inverse_of(w), bias, target, g.Q, g.C, g.K,
        R=g.R, S=g.S, SPREAD=spread, HAS_BIAS=bias is not None, UPCAST=INTERPRET and source.base.dtype != torch.float32,
        ROWS=t.rows, COLUMNS=columns, BLOCK_N=t.block_n, BLOCK_K=t.block_k, num_warps=t.num_warps, num_stages=t.num_stages,
        flops=g.flops,
    )  # fmt: skip


def fwd(x: Operand, w: Operand, bias: torch.Tensor | None, y: torch.Tensor, g: Geometry, t: Tile) -> None:
    """Write the convolution to y. See `conv2d_fwd`."""
    columns = t.block_m // t.rows
    big = _big(values_of(x), g, t.rows, columns, t.block_k)
    _run(big, x, w, bias, _small(y, t.rows, columns, t.block_n), g, t, False)


def dgrad(dy: Operand, w: Operand, bias: torch.Tensor | None, dx: torch.Tensor, g: Geometry, t: Tile) -> None:
    """Write the input gradient to dx. See `conv2d_dgrad`."""
    columns = t.block_m // t.rows
    small = _small(values_of(dy), t.rows, columns, t.block_k)
    _run(small, dy, w, bias, _big(dx, g, t.rows, columns, t.block_n), g, t, True)


def wgrad(dy: Operand, x: Operand, partial: torch.Tensor, g: Geometry, t: Tile) -> None:
    """Write the weight gradient's partial sums (splits, K, R, S, C). See `conv2d_wgrad`."""
    columns = t.block_k // t.rows
    boxes = cdiv(g.N * g.P, t.rows) * cdiv(g.Q, columns)
    flat = (columns == g.Q and (g.N * g.P) % t.rows == 0) or (t.rows == 1 and g.Q % columns == 0)
    small, big = values_of(dy), values_of(x)
    pixels = TensorDescriptor(small, [g.N * g.P * g.Q, g.K], [pitch(small), 1], [t.block_k, t.block_m])
    launch(
        _conv2d_patch_wgrad_kernel, (cdiv(g.K, t.block_m) * cdiv(g.C, t.block_n) * g.R * g.S, t.splits),
        pixels if flat else _small(small, t.rows, columns, t.block_m), _big(big, g, t.rows, columns, t.block_n),
        inverse_of(dy), inverse_of(x), partial, g.Q, g.C, g.K, boxes, cdiv(boxes, t.splits), R=g.R, S=g.S, FLAT=flat,
        UPCAST=INTERPRET and big.dtype != torch.float32, ROWS=t.rows, COLUMNS=columns, BLOCK_M=t.block_m, BLOCK_N=t.block_n,
        num_warps=t.num_warps, num_stages=t.num_stages, flops=g.flops,
    )  # fmt: skip
