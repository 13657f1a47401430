"""Convolution kernels whose images arrive by tensor map (TMA): stride 1, 16-bit, or float32 as scaled float16.

The formulas stand in `conv2d`. A tile of pixels is a box [images, rows, columns, channels] of a rank-4 tensor map; a tap
moves the box, and what lies outside the image reads as zero, so padding costs nothing. The GEMM is transposed,

    forward          acc[k, m] += w[k, i] * x[m, i]^T          m = pixel of the box, i = (c, r, s), taps innermost
    input gradient   acc[c, m] += w[i, c]^T * dy[m, i]^T       i = (k, r, s), taps mirrored
    weight gradient  acc[k, c] += dy[m, k]^T * x[m, c]         one program a tile (tap or column of three, k, c), or several

because the matrix unit reads operand B from shared memory as it arrived; as operand A a reshaped box would pass through
registers. Taps innermost re-read one channel slice of the image from L2. Where operands are `Scaled` (tf32) the sums are
multiplied by both inverses before anything else is done with them.

Few channels leave a tile little work for the bytes it draws from L2, which then bound it. There REUSE lets six rows of x, each
read once a column of taps, meet all taps of four rows of y, for 3x3 and the like.

Where the tiles of an output are too few for the multiprocessors, `splits` programs share one: each leaves the sum over its run
of i in float32 (STAGE "part"), and a second launch adds these in their order and does the rest (STAGE "sum"). In the weight
gradient only those tiles are shared that do not fill a whole wave of programs (`whole` others, each by one program).

What a batch norm beside the convolution needs is computed before a tile leaves the registers (EPILOGUE):

    statistics   (count, mean, M2) of the tile's values as stored; `batch_norm_merge` puts the tiles together
    norm         y = relu(batch_norm(y)) by given statistics
    sums         the input gradient dy of relu(batch_norm(z)): this tile's share of dw and db, as `batch_norm` defines them
"""

from dataclasses import dataclass
from typing import Any  # noqa: F401  (in type comments)

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tritonnet.kernels.batch_norm import Norm, coefficients, relu
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, wgrad_tiles
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, empty, launch, multiprocessors, next_power_of_2, pitch
from tritonnet.kernels.scaled import Operand, descaled, inverse_of, values_of

__all__ = ["dgrad", "fwd", "wgrad"]


@triton.jit
def _weights(w_map, tap, k0, c0, C, K, MIRROR: tl.constexpr, UPCAST: tl.constexpr):
    """The weights [k, c] of a tap."""
    if MIRROR:
        f = tl.trans(w_map.load([c0, tap * K + k0]))
    else:
        f = w_map.load([k0, tap * C + c0])
    return f.to(tl.float32) if UPCAST else f  # the interpreter multiplies the raw bits of 16-bit floats


@triton.jit
def _pixels(x_map, n, p, q, c0, COUNT: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr):
    """The box [c, m] of x from image n, row p and column q on."""
    x = tl.reshape(x_map.load([n, p, q, c0]), (COUNT, BLOCK_K))
    return tl.trans(x.to(tl.float32) if UPCAST else x)


@triton.jit
def _inside(m, n, p, q, N, P, Q, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Whether pixel m of the box from image n, row p and column q on is one."""
    return (n + m // (ROWS * COLUMNS) < N) & (p + m // COLUMNS % ROWS < P) & (q + m % COLUMNS < Q)


@triton.jit
def _conv2d_box_kernel(
    x_map, w_map, x_inverse_ptr, w_inverse_ptr, b_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, z_map,
    y_map, count_ptr, part0_ptr, part1_ptr,  # of each tile: mean and M2, or dw and db
    split_ptr,  # (splits, boxes, K, BLOCK_M) sums of a run of steps, float32
    N, P, Q, C, K, boxes, splits, eps,  # C channels of x are summed over, K come out; P x Q pixels of y
    R: tl.constexpr, S: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_W: tl.constexpr,  # from y's pixel to x's, tap 0
    DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    MIRROR: tl.constexpr,  # input gradient: taps run backward, and weights lie (C, R*S*K): transposed on the way
    HAS_BIAS: tl.constexpr, EPILOGUE: tl.constexpr, STAGE: tl.constexpr,
    SPLITS: tl.constexpr,  # in STAGE "sum", to load all of them at once
    REUSE: tl.constexpr, UPCAST: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    BLOCK_M: tl.constexpr = IMAGES * ROWS * COLUMNS
    blocks_k = tl.cdiv(K, BLOCK_N)
    k0 = (tl.program_id(0) % blocks_k) * BLOCK_N
    box = tl.program_id(0) // blocks_k
    boxes_h, boxes_w = tl.cdiv(P, ROWS), tl.cdiv(Q, COLUMNS)
    n0, p0, q0 = box // (boxes_h * boxes_w) * IMAGES, box // boxes_w % boxes_h * ROWS, box % boxes_w * COLUMNS
    k = k0 + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if STAGE == "sum":
        for split in tl.static_range(SPLITS):
            at = ((split * boxes + box).to(tl.int64) * K + k)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
            acc += tl.load(split_ptr + at, mask=(k < K)[:, None], other=0.0)
    else:
        first, last = 0, (S if REUSE else R * S) * tl.cdiv(C, BLOCK_K)
        if STAGE == "part":
            run = tl.cdiv(last, splits)
            first = tl.program_id(1) * run
            last = tl.minimum(first + run, last)
        if REUSE:
            a0 = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
            a1 = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
            a2 = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
            a3 = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
            top = p0 + SHIFT_H - (2 if MIRROR else 0)
            for step in range(first, last):
                c0 = step // S * BLOCK_K
                q = q0 + SHIFT_W + (step % S) * (-DIL_W if MIRROR else DIL_W)
                f0 = _weights(w_map, step % S + (2 * S if MIRROR else 0), k0, c0, C, K, MIRROR, UPCAST)
                f1 = _weights(w_map, step % S + S, k0, c0, C, K, MIRROR, UPCAST)
                f2 = _weights(w_map, step % S + (0 if MIRROR else 2 * S), k0, c0, C, K, MIRROR, UPCAST)
                x0 = _pixels(x_map, n0, top, q, c0, COLUMNS, BLOCK_K, UPCAST)
                x1 = _pixels(x_map, n0, top + 1, q, c0, COLUMNS, BLOCK_K, UPCAST)
                x2 = _pixels(x_map, n0, top + 2, q, c0, COLUMNS, BLOCK_K, UPCAST)
                x3 = _pixels(x_map, n0, top + 3, q, c0, COLUMNS, BLOCK_K, UPCAST)
                x4 = _pixels(x_map, n0, top + 4, q, c0, COLUMNS, BLOCK_K, UPCAST)
                x5 = _pixels(x_map, n0, top + 5, q, c0, COLUMNS, BLOCK_K, UPCAST)
                # the four rows take turns: a product that adds to the one before it has to wait for it
                a0, a1, a2, a3 = tl.dot(f0, x0, a0), tl.dot(f0, x1, a1), tl.dot(f0, x2, a2), tl.dot(f0, x3, a3)
                a0, a1, a2, a3 = tl.dot(f1, x1, a0), tl.dot(f1, x2, a1), tl.dot(f1, x3, a2), tl.dot(f1, x4, a3)
                a0, a1, a2, a3 = tl.dot(f2, x2, a0), tl.dot(f2, x3, a1), tl.dot(f2, x4, a2), tl.dot(f2, x5, a3)
        else:
            for step in range(first, last):
                tap = step % (R * S)
                c0 = step // (R * S) * BLOCK_K
                dh, dw = (tap // S) * DIL_H, (tap % S) * DIL_W
                if MIRROR:
                    dh, dw = -dh, -dw
                x = _pixels(x_map, n0, p0 + SHIFT_H + dh, q0 + SHIFT_W + dw, c0, BLOCK_M, BLOCK_K, UPCAST)
                acc = tl.dot(_weights(w_map, tap, k0, c0, C, K, MIRROR, UPCAST), x, acc)
    # what is summed so far: a box, or its four rows one by one, which takes fewer registers
    PARTS: tl.constexpr = 4 if REUSE else 1
    HEIGHT: tl.constexpr = 1 if REUSE else ROWS
    PART_M: tl.constexpr = BLOCK_M // PARTS
    m = tl.arange(0, PART_M)
    if REUSE:
        accs = (a0, a1, a2, a3)  # type: Any
    else:
        accs = (acc,)
    if STAGE == "part":
        at = ((tl.program_id(1) * boxes + box).to(tl.int64) * K + k)[:, None] * BLOCK_M + m[None, :]
        for i in tl.static_range(PARTS):
            tl.store(split_ptr + at + i * PART_M, accs[i], mask=(k < K)[:, None])
    else:
        ys = ()  # type: Any
        for i in tl.static_range(PARTS):
            y = descaled(accs[i], x_inverse_ptr, w_inverse_ptr)
            if HAS_BIAS:
                y += tl.load(b_ptr + k, mask=k < K, other=0.0)[:, None]
            if EPILOGUE == "norm":
                mean, _, scale, shift = coefficients(mean_ptr, var_ptr, scale_ptr, shift_ptr, k, K, eps)
                y = relu((y - tl.trans(mean)) * tl.trans(scale) + tl.trans(shift))
            y = y.to(y_map.dtype)
            # stored before it is summed: fewer registers at a time
            y_map.store([n0, p0 + i, q0, k0], tl.reshape(tl.trans(y), (IMAGES, HEIGHT, COLUMNS, BLOCK_N)))
            ys += (y,)
        part0 = tl.zeros((BLOCK_N,), tl.float32)
        part1 = tl.zeros((BLOCK_N,), tl.float32)
        if EPILOGUE == "statistics":
            count = 0.0
            for i in tl.static_range(PARTS):
                inside = _inside(m, n0, p0 + i, q0, N, P, Q, HEIGHT, COLUMNS)
                count += tl.sum(inside.to(tl.float32), axis=0)
                part0 += tl.sum(tl.where(inside[None, :], ys[i].to(tl.float32), 0.0), axis=1)
            part0 /= count
            for i in tl.static_range(PARTS):
                inside = _inside(m, n0, p0 + i, q0, N, P, Q, HEIGHT, COLUMNS)
                off = tl.where(inside[None, :], ys[i].to(tl.float32) - part0[:, None], 0.0)
                part1 += tl.sum(off * off, axis=1)
            tl.store(count_ptr + box, count)
        if EPILOGUE == "sums":
            mean, rstd, scale, shift = coefficients(mean_ptr, var_ptr, scale_ptr, shift_ptr, k, K, eps)
            for i in tl.static_range(PARTS):
                z = tl.reshape(z_map.load([n0, p0 + i, q0, k0]), (PART_M, BLOCK_N))
                z = tl.trans(z).to(tl.float32) - tl.trans(mean)
                inside = _inside(m, n0, p0 + i, q0, N, P, Q, HEIGHT, COLUMNS)
                live = inside[None, :] & ~(z * tl.trans(scale) + tl.trans(shift) <= 0)
                g = tl.where(live, ys[i].to(tl.float32), 0.0)
                part0 += tl.sum(g * z, axis=1)
                part1 += tl.sum(g, axis=1)
            part0 *= tl.sum(rstd, axis=0)
        if EPILOGUE == "statistics" or EPILOGUE == "sums":
            tl.store(part0_ptr + box * K + k, part0, mask=k < K)
            tl.store(part1_ptr + box * K + k, part1, mask=k < K)


@triton.jit
def _wgrad_tile(tile, K, C, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(k0, c0, first tap) of a tile of the weight gradient."""
    blocks_m, blocks_n = tl.cdiv(K, BLOCK_M), tl.cdiv(C, BLOCK_N)
    return (tile % blocks_m) * BLOCK_M, (tile // blocks_m % blocks_n) * BLOCK_N, tile // blocks_m // blocks_n


@triton.jit
def _conv2d_box_wgrad_kernel(
    dy_map, x_map, dy_inverse_ptr, x_inverse_ptr,
    dw_ptr, part_ptr,  # part: of each split of each shared tile [TAPS, BLOCK_M, BLOCK_N]
    P, Q, C, K, boxes, boxes_per_split, whole, shared,  # tiles: the first `whole`, then `shared` ones by several programs each
    R: tl.constexpr, S: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    TAPS: tl.constexpr,  # taps a program: 1, or the 3 of a column, which share dy
    FLAT: tl.constexpr,  # whether the box is one run of pixels, so that dy needs no reshape
    UPCAST: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    begin()
    BLOCK_K: tl.constexpr = IMAGES * ROWS * COLUMNS
    pid = tl.program_id(0)
    alone, number = pid < whole, pid - whole
    first = tl.where(alone, 0, number // shared * boxes_per_split)
    last = tl.where(alone, boxes, tl.minimum(first + boxes_per_split, boxes))
    k0, c0, tap = _wgrad_tile(tl.where(alone, pid, whole + number % shared), K, C, BLOCK_M, BLOCK_N)
    dh, dw = (tap // S) * DIL_H - PAD_H, (tap % S) * DIL_W - PAD_W
    boxes_h, boxes_w = tl.cdiv(P, ROWS), tl.cdiv(Q, COLUMNS)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc1 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc2 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for box in range(first, last):
        n0, p0, q0 = box // (boxes_h * boxes_w) * IMAGES, box // boxes_w % boxes_h * ROWS, box % boxes_w * COLUMNS
        if FLAT:
            dy = dy_map.load([box * BLOCK_K, k0])
        else:
            dy = tl.reshape(dy_map.load([n0, p0, q0, k0]), (BLOCK_K, BLOCK_M))
        x = tl.reshape(x_map.load([n0, p0 + dh, q0 + dw, c0]), (BLOCK_K, BLOCK_N))
        if UPCAST:
            dy, x = dy.to(tl.float32), x.to(tl.float32)
        acc = tl.dot(tl.trans(dy), x, acc)
        if TAPS == 3:
            x1 = tl.reshape(x_map.load([n0, p0 + dh + DIL_H, q0 + dw, c0]), (BLOCK_K, BLOCK_N))
            x2 = tl.reshape(x_map.load([n0, p0 + dh + 2 * DIL_H, q0 + dw, c0]), (BLOCK_K, BLOCK_N))
            if UPCAST:
                x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
            acc1 = tl.dot(tl.trans(dy), x1, acc1)
            acc2 = tl.dot(tl.trans(dy), x2, acc2)
    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    live = (k0 + m < K)[:, None] & (c0 + n < C)[None, :]
    out = dw_ptr + k0.to(tl.int64) * (R * S * C) + tap * C + c0
    if pid >= whole:
        out = part_ptr + number.to(tl.int64) * (TAPS * BLOCK_M * BLOCK_N)
    # from one row to the next, and from one tap to the next
    row, step = tl.where(alone, R * S * C, BLOCK_N), tl.where(alone, S * C, BLOCK_M * BLOCK_N)
    at = out + m[:, None] * row + n[None, :]
    tl.store(at, descaled(acc, dy_inverse_ptr, x_inverse_ptr), mask=live)
    if TAPS == 3:
        tl.store(at + step, descaled(acc1, dy_inverse_ptr, x_inverse_ptr), mask=live)
        tl.store(at + 2 * step, descaled(acc2, dy_inverse_ptr, x_inverse_ptr), mask=live)


@triton.jit
def _conv2d_box_wgrad_sum_kernel(
    part_ptr, dw_ptr, C, K, whole, shared, splits,
    R: tl.constexpr, S: tl.constexpr, TAPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    tile = tl.program_id(0)
    k0, c0, tap = _wgrad_tile(whole + tile, K, C, BLOCK_M, BLOCK_N)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k, c, tap = k0 + i // BLOCK_N % BLOCK_M, c0 + i % BLOCK_N, tap + i // (BLOCK_M * BLOCK_N) * S
    live = (k < K) & (c < C)
    acc = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    # lane i adds splits i, i + BLOCK_S, ...: one order
    for first in tl.range(0, splits, BLOCK_S, loop_unroll_factor=4):
        split = first + tl.arange(0, BLOCK_S)
        at = (split * shared + tile).to(tl.int64)[:, None] * (TAPS * BLOCK_M * BLOCK_N) + i[None, :]
        acc += tl.load(part_ptr + at, mask=(split < splits)[:, None] & live[None, :], other=0.0)
    tl.store(dw_ptr + (k.to(tl.int64) * (R * S) + tap) * C + c, tl.sum(acc, axis=0), mask=live)


def _map(x: torch.Tensor, block: list[int]) -> TensorDescriptor:
    """A tensor map over an image buffer; boxes of `block` elements."""
    n, h, w, c = x.shape
    step = pitch(x)
    return TensorDescriptor(x, [n, h, w, c], [h * w * step, w * step, step, 1], block)


@dataclass(frozen=True)
class _Box:
    images: int
    rows: int
    columns: int

    @staticmethod
    def of(t: Tile, pixels: int) -> "_Box":
        return _Box(t.images, t.rows, pixels // t.images // t.rows)

    def count(self, n: int, height: int, width: int) -> int:
        return cdiv(n, self.images) * cdiv(height, self.rows) * cdiv(width, self.columns)

    def constants(self) -> dict[str, int]:
        return {"IMAGES": self.images, "ROWS": self.rows, "COLUMNS": self.columns}


def _run(
    x: Operand, w: Operand, bias: torch.Tensor | None, y: torch.Tensor, g: Geometry, t: Tile, shift: tuple[int, int],
    mirror: bool, epilogue: str, norm: Norm | None, z: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:  # fmt: skip
    """Launch; return what the epilogue leaves of each box: (count, mean, M2), or (count, dw, db) without the count."""
    box = _Box.of(t, t.block_m)
    source, filters = values_of(x), values_of(w)
    block = [t.block_k, t.block_n] if mirror else [t.block_n, t.block_k]
    w_map = TensorDescriptor(filters, [g.K, g.R * g.S * g.C], [g.R * g.S * g.C, 1], block)
    n, p, q, k = y.shape
    boxes = box.count(n, p, q)
    whole, row = [box.images, box.rows, box.columns], [1, 1, box.columns]
    moments = None
    if epilogue in ("statistics", "sums"):
        moments = empty((boxes,), torch.float32), empty((boxes, k), torch.float32), empty((boxes, k), torch.float32)
    reuse = t.taps == 3
    split = empty((t.splits, boxes, k, t.block_m), torch.float32) if t.splits > 1 else None

    def start(stage: str, block_n: int, splits: int, num_warps: int, flops: int) -> None:
        ends, sums = stage != "part", stage != "sum"
        side = row if reuse and sums else whole
        launch(
            _conv2d_box_kernel, (boxes * cdiv(k, block_n), splits),
            _map(source, [*side, t.block_k]) if sums else None, w_map if sums else None,
            *((inverse_of(x), inverse_of(w), bias) if ends else (None,) * 3),
            *(norm.buffers if norm and ends else (None,) * 4), None if z is None or not ends else _map(z, [*side, block_n]),
            _map(y, [*side, block_n]) if ends else None, *(moments if moments and ends else (None,) * 3), split,
            n, p, q, source.shape[3], k, boxes, t.splits, norm.eps if norm else 0.0,
            R=g.R, S=g.S, SHIFT_H=shift[0], SHIFT_W=shift[1], DIL_H=g.dilation[0], DIL_W=g.dilation[1],
            MIRROR=mirror, HAS_BIAS=ends and bias is not None, EPILOGUE=epilogue if ends else "", STAGE=stage,
            SPLITS=0 if sums else t.splits, REUSE=reuse and sums, UPCAST=INTERPRET and source.dtype != torch.float32,
            **box.constants(), BLOCK_N=block_n, BLOCK_K=t.block_k, num_warps=num_warps, num_stages=t.num_stages, flops=flops,
        )  # fmt: skip

    if split is None:
        start("", t.block_n, 1, t.num_warps, g.flops)
    else:
        start("part", t.block_n, t.splits, t.num_warps, g.flops)
        # a few channels a program, so that all multiprocessors add, several programs each
        start("sum", min(t.block_n, max(16, next_power_of_2(cdiv(boxes * k, 4 * multiprocessors())))), 1, 4, 0)
    return moments


def fwd(
    x: Operand, w: Operand, bias: torch.Tensor | None, y: torch.Tensor, g: Geometry, t: Tile, statistics: bool,
    norm: Norm | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:  # fmt: skip
    """Write the convolution to y; with `statistics` return each box's (count, mean, M2). See `conv2d_fwd`."""
    epilogue = "norm" if norm else "statistics" if statistics else ""
    return _run(x, w, bias, y, g, t, (-g.pad[0], -g.pad[1]), False, epilogue, norm, None)


def dgrad(
    dy: Operand, w: Operand, bias: torch.Tensor | None, dx: torch.Tensor, g: Geometry, t: Tile,
    norm: Norm | None = None, z: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor] | None:  # fmt: skip
    """Write the input gradient to dx; with `norm` and `z` return each box's dw and db. See `conv2d_dgrad`."""
    parts = _run(dy, w, bias, dx, g, t, g.pad, True, "sums" if norm else "", norm, z)
    return parts[1:] if parts else None


def wgrad(dy: Operand, x: Operand, dw: torch.Tensor, g: Geometry, t: Tile) -> None:
    """Write the weight gradient to dw (1, K, R, S, C). See `conv2d_wgrad`."""
    box = _Box.of(t, t.block_k)
    side = [box.images, box.rows, box.columns]
    boxes = box.count(g.N, g.P, g.Q)
    run = (box.columns == g.Q or box.rows == 1) and (box.rows == g.P or box.images == 1) and (
        box.columns == g.Q or box.images == 1
    )  # fmt: skip
    flat = run and g.N % box.images == 0 and g.P % box.rows == 0 and g.Q % box.columns == 0
    source, image = values_of(dy), values_of(x)
    dy_map = (
        TensorDescriptor(source, [g.N * g.P * g.Q, g.K], [pitch(source), 1], [t.block_k, t.block_m])
        if flat else _map(source, [*side, t.block_m])
    )  # fmt: skip
    tiles = wgrad_tiles(g, t.block_m, t.block_n, t.taps)
    whole = tiles if t.splits == 1 else min(t.whole, tiles)
    shared = tiles - whole
    size = t.taps * t.block_m * t.block_n
    part = empty((t.splits * shared, size), torch.float32) if shared else dw
    window = {"R": g.R, "S": g.S, "TAPS": t.taps, "BLOCK_M": t.block_m, "BLOCK_N": t.block_n}
    launch(
        _conv2d_box_wgrad_kernel, (whole + shared * t.splits,),
        dy_map, _map(image, [*side, t.block_n]), inverse_of(dy), inverse_of(x), dw, part,
        g.P, g.Q, g.C, g.K, boxes, cdiv(boxes, t.splits), whole, max(shared, 1),
        PAD_H=g.pad[0], PAD_W=g.pad[1], DIL_H=g.dilation[0], DIL_W=g.dilation[1], FLAT=flat,
        UPCAST=INTERPRET and image.dtype != torch.float32, **window, **box.constants(),
        num_warps=t.num_warps, num_stages=t.num_stages, flops=g.flops,
    )  # fmt: skip
    if shared:
        # of few elements few programs and many splits at a time; a block divides the size, whatever the taps
        rows = 16 if shared * size <= 2**13 else 1
        block = min(t.block_m * t.block_n, 128 if rows > 1 else 512)
        launch(
            _conv2d_box_wgrad_sum_kernel, (shared, size // block), part, dw, g.C, g.K, whole, shared, t.splits,
            BLOCK_S=rows, BLOCK=block, num_warps=4, **window,
        )  # fmt: skip
