"""Convolution kernels that gather through pointers: any stride, dilation, channel count, dtype and pitch.

The formulas stand in `conv2d`. Each pass is one GEMM whose image operand is never written out (implicit im2col):

    forward          y[m, k]     = sum over i of x[m, i] * w[i, k]      m = (n, p, q), i = (r, s, c)
    input gradient   dx[m, c]    = sum over i of dy[m, i] * w[i, c]     m = (n, h, w), i = (r, s, k)
    weight gradient  dw[k, j]    = sum over m of dy[m, k] * x[m, j]     j = (r, s, c)

At stride s the input gradient falls into s*s phases (h mod s, w mod s). To one phase belong the taps whose r satisfies
(h + pad - r*dilation) mod s = 0: every (s / gcd(s, dilation))-th one. So each phase is a dense GEMM of its own, and
no zero is multiplied. With few channels (FLAT) taps and channels are one axis, so that 3x3x3 fills a step of 32.
"""

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl

from tritonnet.kernels.batch_norm import Norm, coefficients, relu
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, flattens
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, launch, next_power_of_2, pitch

__all__ = ["dgrad", "dot", "fwd", "products", "split_sum", "wgrad"]


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """The sum of acc and a @ b, multiplied as `products` says."""
    if UPCAST:  # the interpreter multiplies the raw bits of 16-bit floats
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _conv2d_fwd_kernel(
    x_ptr, w_ptr, b_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, y_ptr,
    n_out, H, W, P, Q, C, K, x_pitch, y_pitch, eps,  # n_out = N * P * Q
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    FLAT: tl.constexpr, WHOLE_C: tl.constexpr, HAS_BIAS: tl.constexpr, NORM: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    blocks_n = tl.cdiv(K, BLOCK_N)
    m = (tl.program_id(0) // blocks_n) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] output pixel
    k = (tl.program_id(0) % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)  # [N] output channel
    n, p, q = m // (P * Q), m // Q % P, m % Q
    h0, w0 = p * STRIDE_H - PAD_H, q * STRIDE_W - PAD_W
    corner = ((n.to(tl.int64) * H + h0) * W + w0) * x_pitch  # [M] may lie outside the image; masked below
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if FLAT:
        for i0 in range(0, R * S * C, BLOCK_K):
            i = i0 + tl.arange(0, BLOCK_K)  # [K] (r, s, c)
            c = i % C
            dh, dw = (i // C // S) * DIL_H, (i // C % S) * DIL_W
            h, w = h0[:, None] + dh[None, :], w0[:, None] + dw[None, :]
            inside = (m < n_out)[:, None] & (i < R * S * C)[None, :] & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            x = tl.load(x_ptr + corner[:, None] + ((dh * W + dw) * x_pitch + c)[None, :], mask=inside, other=0.0)
            live = (i < R * S * C)[:, None] & (k < K)[None, :]
            f = tl.load(w_ptr + k[None, :] * (R * S * C) + i[:, None], mask=live, other=0.0)
            acc = dot(x, f, acc, PRECISION, UPCAST)
    else:
        steps = tl.cdiv(C, BLOCK_K)
        for step in range(R * S * steps):
            tap = step // steps
            c = (step % steps) * BLOCK_K + tl.arange(0, BLOCK_K)  # [K]
            dh, dw = (tap // S) * DIL_H, (tap % S) * DIL_W
            h, w = h0 + dh, w0 + dw
            inside = ((m < n_out) & (h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
            live = (k < K)[None, :]
            if not WHOLE_C:
                inside = inside & (c < C)[None, :]
                live = live & (c < C)[:, None]
            x = tl.load(
                x_ptr + (corner + (dh * W + dw).to(tl.int64) * x_pitch)[:, None] + c[None, :], mask=inside, other=0.0
            )
            f = tl.load(w_ptr + k[None, :] * (R * S * C) + (tap * C + c)[:, None], mask=live, other=0.0)
            acc = dot(x, f, acc, PRECISION, UPCAST)
    if HAS_BIAS:
        acc += tl.load(b_ptr + k, mask=k < K, other=0.0)[None, :]
    if NORM:
        mean, _, scale, shift = coefficients(mean_ptr, var_ptr, scale_ptr, shift_ptr, k, K, eps)
        acc = relu((acc - mean) * scale + shift)
    at = m.to(tl.int64)[:, None] * y_pitch + k[None, :]
    tl.store(y_ptr + at, acc.to(y_ptr.dtype.element_ty), mask=(m < n_out)[:, None] & (k < K)[None, :])


@triton.jit
def _first_tap(
    phase, STRIDE: tl.constexpr, PAD: tl.constexpr, DIL: tl.constexpr, STEP: tl.constexpr, TAPS: tl.constexpr
):
    """The first tap of a phase, or TAPS if none reaches it."""
    first = phase * 0 + TAPS
    for r in range(STEP):
        hit = ((phase + PAD - r * DIL) % STRIDE == 0) & (r < first)
        first = tl.where(hit, r, first)
    return first


@triton.jit
def _conv2d_dgrad_kernel(
    dy_ptr, w_ptr, b_ptr, dx_ptr,
    N, H, W, P, Q, C, K, dy_pitch, dx_pitch,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr,  # from one tap of a phase to the next
    WHOLE_K: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    blocks_n = tl.cdiv(C, BLOCK_N)
    pid = tl.program_id(0)
    c = (pid % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)  # [N] input channel
    phase = pid // blocks_n % (STRIDE_H * STRIDE_W)
    phase_h, phase_w = phase // STRIDE_W, phase % STRIDE_W
    rows, columns = (H - phase_h + STRIDE_H - 1) // STRIDE_H, (W - phase_w + STRIDE_W - 1) // STRIDE_W  # of this phase
    m = (pid // blocks_n // (STRIDE_H * STRIDE_W)) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] pixel of this phase
    live_m = m < N * rows * columns
    rows, columns = tl.maximum(rows, 1), tl.maximum(columns, 1)  # a phase without pixels divides by nothing
    n = m // (rows * columns)
    h, w = (m // columns % rows) * STRIDE_H + phase_h, (m % columns) * STRIDE_W + phase_w
    r0 = _first_tap(phase_h, STRIDE_H, PAD_H, DIL_H, STEP_H, R)
    s0 = _first_tap(phase_w, STRIDE_W, PAD_W, DIL_W, STEP_W, S)
    taps_h, taps_w = tl.cdiv(R - r0, STEP_H), tl.cdiv(S - s0, STEP_W)
    # whole quotients by the choice of r0 and s0, so rounding does not matter where they are negative
    p0, q0 = (h + PAD_H - r0 * DIL_H) // STRIDE_H, (w + PAD_W - s0 * DIL_W) // STRIDE_W
    corner = ((n.to(tl.int64) * P + p0) * Q + q0) * dy_pitch
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    steps = tl.cdiv(K, BLOCK_K)
    for step in range(taps_h * taps_w * steps):
        tap = step // steps
        i, j = tap // taps_w, tap % taps_w
        k = (step % steps) * BLOCK_K + tl.arange(0, BLOCK_K)  # [K]
        dp, dq = i * (STEP_H * DIL_H // STRIDE_H), j * (STEP_W * DIL_W // STRIDE_W)
        p, q = p0 - dp, q0 - dq
        inside = (live_m & (p >= 0) & (p < P) & (q >= 0) & (q < Q))[:, None]
        live = (c < C)[None, :]
        if not WHOLE_K:
            inside = inside & (k < K)[None, :]
            live = live & (k < K)[:, None]
        dy = tl.load(
            dy_ptr + (corner - (dp * Q + dq).to(tl.int64) * dy_pitch)[:, None] + k[None, :], mask=inside, other=0.0
        )
        base = ((r0 + i * STEP_H) * S + s0 + j * STEP_W) * C
        f = tl.load(w_ptr + k[:, None] * (R * S * C) + (base + c)[None, :], mask=live, other=0.0)
        acc = dot(dy, f, acc, PRECISION, UPCAST)
    if HAS_BIAS:
        acc += tl.load(b_ptr + c, mask=c < C, other=0.0)[None, :]
    at = ((n.to(tl.int64) * H + h) * W + w)[:, None] * dx_pitch + c[None, :]
    tl.store(dx_ptr + at, acc.to(dx_ptr.dtype.element_ty), mask=live_m[:, None] & (c < C)[None, :])


@triton.jit
def _conv2d_wgrad_kernel(
    dy_ptr, x_ptr, dw_ptr,  # dw: one (K, R, S, C) partial sum a split
    n_out, H, W, P, Q, C, K, x_pitch, dy_pitch, blocks_per_split,  # n_out = N * P * Q
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DIL_H: tl.constexpr, DIL_W: tl.constexpr,
    FLAT: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    blocks_m = tl.cdiv(K, BLOCK_M)
    pid = tl.program_id(0)
    k = (pid % blocks_m) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M] channel of dy
    column = pid // blocks_m
    if FLAT:
        j = column * BLOCK_N + tl.arange(0, BLOCK_N)  # [N] (r, s, c)
        live_n = j < R * S * C
        c, dh, dw = j % C, (j // C // S) * DIL_H, (j // C % S) * DIL_W
    else:
        blocks_n = tl.cdiv(C, BLOCK_N)
        c = (column % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)  # [N]
        live_n = c < C
        tap = column // blocks_n
        j = tap * C + c
    split = tl.program_id(1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(split * blocks_per_split, (split + 1) * blocks_per_split):
        m = block * BLOCK_K + tl.arange(0, BLOCK_K)  # [K] pixel
        n, p, q = m // (P * Q), m // Q % P, m % Q
        live_m = (m < n_out)[:, None]
        dy = tl.load(
            dy_ptr + m.to(tl.int64)[:, None] * dy_pitch + k[None, :], mask=live_m & (k < K)[None, :], other=0.0
        )
        if FLAT:
            h, w = (p * STRIDE_H - PAD_H)[:, None] + dh[None, :], (q * STRIDE_W - PAD_W)[:, None] + dw[None, :]
            at = ((n.to(tl.int64)[:, None] * H + h) * W + w) * x_pitch + c[None, :]
            inside = live_m & live_n[None, :] & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        else:
            h, w = p * STRIDE_H - PAD_H + (tap // S) * DIL_H, q * STRIDE_W - PAD_W + (tap % S) * DIL_W
            at = (((n.to(tl.int64) * H + h) * W + w) * x_pitch)[:, None] + c[None, :]
            inside = live_m & live_n[None, :] & ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
        x = tl.load(x_ptr + at, mask=inside, other=0.0)
        acc = dot(tl.trans(dy), x, acc, PRECISION, UPCAST)
    at = (split.to(tl.int64) * K + k)[:, None] * (R * S * C) + j[None, :]
    tl.store(dw_ptr + at, acc, mask=(k < K)[:, None] & live_n[None, :])


@triton.jit
def _split_sum_kernel(partial_ptr, y_ptr, n, splits, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr):
    begin()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    for first in tl.range(
        0, splits, BLOCK_S, loop_unroll_factor=4
    ):  # lane i adds splits i, i + BLOCK_S, ...: one order
        split = first + tl.arange(0, BLOCK_S)
        live = (split < splits)[:, None] & (at < n)[None, :]
        acc += tl.load(partial_ptr + split.to(tl.int64)[:, None] * n + at[None, :], mask=live, other=0.0)
    tl.store(y_ptr + at, tl.sum(acc, axis=0), mask=at < n)


def _window(g: Geometry) -> dict[str, int]:
    return {
        "R": g.R, "S": g.S, "STRIDE_H": g.stride[0], "STRIDE_W": g.stride[1], "PAD_H": g.pad[0], "PAD_W": g.pad[1],
        "DIL_H": g.dilation[0], "DIL_W": g.dilation[1],
    }  # fmt: skip


def products(x: torch.Tensor, tf32: bool) -> dict[str, Any]:
    """How `tl.dot` multiplies: IEEE float32 unless tf32 was asked for; 16-bit operands are exact either way."""
    precision = "tf32" if tf32 or x.dtype != torch.float32 else "ieee"
    return {"PRECISION": precision, "UPCAST": INTERPRET and x.dtype != torch.float32}


def fwd(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor, g: Geometry, t: Tile, tf32: bool,
    norm: Norm | None,
) -> None:  # fmt: skip
    """Write the convolution of x and w to y. Checked and allocated by `conv2d_fwd`."""
    n_out = g.N * g.P * g.Q
    launch(
        _conv2d_fwd_kernel, (cdiv(n_out, t.block_m) * cdiv(g.K, t.block_n),),
        x, w, bias, *(norm.buffers if norm else (None,) * 4), y,
        n_out, g.H, g.W, g.P, g.Q, g.C, g.K, pitch(x), pitch(y), norm.eps if norm else 0.0, **_window(g), **products(x, tf32),
        FLAT=flattens(g.C), WHOLE_C=g.C % t.block_k == 0, HAS_BIAS=bias is not None, NORM=norm is not None,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=t.block_k, num_warps=t.num_warps, num_stages=t.num_stages,
        flops=g.flops,
    )  # fmt: skip


def dgrad(
    dy: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, dx: torch.Tensor, g: Geometry, t: Tile, tf32: bool
) -> None:
    """Write the input gradient to dx. Checked and allocated by `conv2d_dgrad`."""
    (sh, sw), (dh, dw) = g.stride, g.dilation
    phase_pixels = g.N * cdiv(g.H, sh) * cdiv(g.W, sw)  # of the largest phase
    launch(
        _conv2d_dgrad_kernel, (cdiv(phase_pixels, t.block_m) * sh * sw * cdiv(g.C, t.block_n),),
        dy, w, bias, dx, g.N, g.H, g.W, g.P, g.Q, g.C, g.K, pitch(dy), pitch(dx), **_window(g), **products(dy, tf32),
        STEP_H=sh // gcd(sh, dh), STEP_W=sw // gcd(sw, dw), WHOLE_K=g.K % t.block_k == 0, HAS_BIAS=bias is not None,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=t.block_k, num_warps=t.num_warps, num_stages=t.num_stages,
        flops=g.flops,
    )  # fmt: skip


def wgrad(dy: torch.Tensor, x: torch.Tensor, partial: torch.Tensor, g: Geometry, t: Tile, tf32: bool) -> None:
    """Write the weight gradient's partial sums (splits, K, R, S, C). Checked and allocated by `conv2d_wgrad`."""
    n_out = g.N * g.P * g.Q
    flat = flattens(g.C)
    columns = cdiv(g.R * g.S * g.C, t.block_n) if flat else g.R * g.S * cdiv(g.C, t.block_n)
    launch(
        _conv2d_wgrad_kernel, (cdiv(g.K, t.block_m) * columns, t.splits),
        dy, x, partial, n_out, g.H, g.W, g.P, g.Q, g.C, g.K, pitch(x), pitch(dy), cdiv(cdiv(n_out, t.block_k), t.splits),
        **_window(g), **products(x, tf32), FLAT=flat,
        BLOCK_M=t.block_m, BLOCK_N=t.block_n, BLOCK_K=t.block_k, num_warps=t.num_warps, num_stages=t.num_stages,
        flops=g.flops,
    )  # fmt: skip


def split_sum(partial: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Add the partial sums (splits, ...) into y (...), float32, in a fixed order."""
    n = y.numel()
    # enough programs for every multiprocessor, or few elements a program and many splits at a time
    large = n >= 2**18
    rows = 1 if large else min(next_power_of_2(partial.shape[0]), 16)
    block = 16384 if INTERPRET else 512 if large else 128
    launch(
        _split_sum_kernel, (cdiv(n, block),), partial, y, n, partial.shape[0], BLOCK_S=rows, BLOCK=block, num_warps=4
    )
    return y
