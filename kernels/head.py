"""A network's output head: batch normalisation, ReLU and a 1x1 convolution to a few channels, as one op.

    a[m, c]  = max(0, (x[m, c] - mean[c]) * rstd[c] * scale[c] + shift[c])      m over M = N*H*W pixels
    y[m, k]  = bias[k] + sum over c of a[m, c] * w[k, c]
    dw[k, c] = sum over m of dy[m, k] * a[m, c],      dbias[k] = sum over m of dy[m, k]
    g[m, c]  = sum over k of dy[m, k] * w[k, c], 0 where a <= 0

and dx, dscale, dshift from g as in `batch_norm`, with its edge rules. `a` is rounded to x's dtype before it is multiplied,
as if it had been stored. All sums over pixels follow from two, with n = (x - mean) * rstd and live = 1 where a > 0, else 0:

    P[k, c] = sum over m of dy[m, k] * live[m, c],         Q[k, c] = sum over m of dy[m, k] * live[m, c] * n[m, c]
    dw = scale * Q + shift * P,     dscale[c] = sum over k of w[k, c] * Q[k, c],     dshift[c] = sum over k of w[k, c] * P[k, c]

With few outputs every pass is bound by memory, and neither a nor its gradient needs to be in memory: each is computed
again from x where it is used. The forward saves what batch norm saves. Deterministic: one set of partial sums a program,
added in a fixed order. Cost: the forward reads x, the backward reads it twice and writes dx; module by module x's size is
read or written ten times.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.batch_norm import Norm, coefficients, feedback, merge_sums, relu
from tritonnet.kernels.batch_norm_stats import STAGES, check_image, check_vectors
from tritonnet.kernels.conv2d_gather import dot, products, split_sum
from tritonnet.kernels.runtime import (
    begin,
    beside,
    cdiv,
    check_dtype,
    empty,
    image_of,
    launch,
    next_power_of_2,
    pitch,
    refuse,
)

__all__ = ["head_bwd", "head_fits", "head_fwd"]

MOST_C, MOST_K = 128, 32  # a program holds all channels of its pixels


def head_fits(channels: int, outputs: int) -> bool:
    """Whether the kernels take a head from so many channels to so many."""
    return channels <= MOST_C and outputs <= MOST_K


@triton.jit
def _head_fwd_kernel(
    x_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, w_ptr, bias_ptr, y_ptr,
    pixels, C, K, x_pitch, eps,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    c, k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    mean, _, scale, shift = coefficients(mean_ptr, var_ptr, scale_ptr, shift_ptr, c, C, eps)
    w = tl.load(w_ptr + k[None, :] * C + c[:, None], mask=(c < C)[:, None] & (k < K)[None, :], other=0.0)  # [C, K]
    bias = tl.zeros((BLOCK_K,), tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + k, mask=k < K, other=0.0)
    steps = tl.cdiv(pixels, BLOCK_M)
    for i in range(tl.program_id(0), steps, tl.num_programs(0)):
        m = (steps - 1 - i) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        live = (m < pixels)[:, None]
        x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=live & (c < C)[None, :], other=0.0).to(tl.float32)
        a = relu((x - mean) * scale + shift).to(x_ptr.dtype.element_ty)
        y = dot(a, w, tl.zeros((BLOCK_M, BLOCK_K), tl.float32), PRECISION, UPCAST) + bias[None, :]
        tl.store(y_ptr + m[:, None] * K + k[None, :], y.to(y_ptr.dtype.element_ty), mask=live & (k < K)[None, :])


@triton.jit
def _head_bwd_stats_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, w_ptr, dscale_ptr, dshift_ptr, dw_ptr,
    pixels, C, K, dy_pitch, x_pitch, eps,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    begin()
    c, k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    pid = tl.program_id(0)
    mean, rstd, scale, shift = coefficients(mean_ptr, var_ptr, scale_ptr, shift_ptr, c, C, eps)
    P = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    Q = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    dbias = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for step in tl.range(pid, tl.cdiv(pixels, BLOCK_M), tl.num_programs(0), num_stages=STAGES):
        m = step * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        inside = (m < pixels)[:, None]
        dy = tl.load(dy_ptr + m[:, None] * dy_pitch + k[None, :], mask=inside & (k < K)[None, :], other=0.0)
        x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=inside & (c < C)[None, :], other=0.0)
        x = x.to(tl.float32) - mean
        dead = (x * scale + shift <= 0) | ~inside
        dbias += dy.to(tl.float32)
        dy = tl.trans(dy)
        P = dot(dy, tl.where(dead, 0.0, 1.0).to(x_ptr.dtype.element_ty), P, PRECISION, UPCAST)
        Q = dot(dy, tl.where(dead, 0.0, x * rstd).to(x_ptr.dtype.element_ty), Q, PRECISION, UPCAST)
    inside = (k < K)[:, None] & (c < C)[None, :]
    w = tl.load(w_ptr + k[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)  # [K, C]
    tl.store(dscale_ptr + pid * C + c, tl.sum(w * Q, 0), mask=c < C)
    tl.store(dshift_ptr + pid * C + c, tl.sum(w * P, 0), mask=c < C)
    part = dw_ptr + pid.to(tl.int64) * (K * C + K)  # dw, then dbias
    tl.store(part + k[:, None] * C + c[None, :], scale / rstd * Q + shift * P, mask=inside)
    tl.store(part + K * C + k, tl.sum(dbias, 0), mask=k < K)


@triton.jit
def _head_bwd_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, w_ptr, dscale_ptr, dshift_ptr, whole_dscale_ptr,
    whole_dshift_ptr, tiles, dx_ptr, pixels, C, K, dy_pitch, x_pitch, eps,
    TRAINING: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    begin()
    c, k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    mean, rstd, scale, shift = coefficients(mean_ptr, var_ptr, scale_ptr, shift_ptr, c, C, eps)
    back, slope = feedback(
        dscale_ptr, dshift_ptr, whole_dscale_ptr, whole_dshift_ptr, tiles, rstd, c, C, pixels, TRAINING, BLOCK_T
    )
    w = tl.load(w_ptr + k[:, None] * C + c[None, :], mask=(k < K)[:, None] & (c < C)[None, :], other=0.0)  # [K, C]
    steps = tl.cdiv(pixels, BLOCK_M)
    for i in range(tl.program_id(0), steps, tl.num_programs(0)):
        m = (steps - 1 - i) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)  # [M]
        dy = tl.load(
            dy_ptr + m[:, None] * dy_pitch + k[None, :], mask=(m < pixels)[:, None] & (k < K)[None, :], other=0.0
        )
        live = (m < pixels)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + m[:, None] * x_pitch + c[None, :], mask=live, other=0.0).to(tl.float32) - mean
        g = dot(dy, w, tl.zeros_like(x), PRECISION, UPCAST)
        dx = (tl.where(x * scale + shift <= 0, 0.0, g) - back - x * slope) * scale
        tl.store(dx_ptr + m[:, None] * C + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)


def _check(x: torch.Tensor, norm: Norm, w: torch.Tensor) -> tuple[int, int, int]:
    """Refuse what does not go together; return pixels, C and K."""
    N, H, W, C = check_image("input", x)
    check_vectors(C, running_mean=norm.mean, running_var=norm.var, weight=norm.w, bias=norm.b)
    check_dtype("head", "weight", w, (x.dtype,))
    if not w.is_contiguous() or w.dim() != 4 or tuple(w.shape[1:]) != (1, 1, C) or not head_fits(C, w.shape[0]):
        refuse("head", f"weight must be (K, 1, 1, {C}), K and C at most {MOST_K} and {MOST_C}, got {tuple(w.shape)}")
    return N * H * W, C, w.shape[0]


def _cut(x: torch.Tensor, K: int, load: int, most: int) -> tuple[int, dict[str, int]]:
    """Programs, and the block sizes: all channels, and `most` bytes of a channel's pixels or 16 KB, which registers hold."""
    pixels, C = x.shape[0] * x.shape[1] * x.shape[2], x.shape[3]
    block_c, block_k = max(16, next_power_of_2(C)), max(16, next_power_of_2(K))
    block_m = max(16, min(16384 // block_c, most) // x.element_size())
    if runtime.INTERPRET:
        block_m = min(65536 // block_c, max(16, next_power_of_2(pixels)))
    programs = min(cdiv(pixels, block_m), load * runtime.multiprocessors())
    num_warps = 4 if block_c * block_k <= 2048 else 8  # as many sums as there are weights
    return programs, {"BLOCK_M": block_m, "BLOCK_C": block_c, "BLOCK_K": block_k, "num_warps": num_warps}


def head_fwd(
    x: torch.Tensor, norm: Norm, w: torch.Tensor, bias: torch.Tensor | None = None, *, tf32: bool = False
) -> torch.Tensor:
    """Normalise `x` by the given statistics, clamp at 0, and sum its channels by weight.

    Args:
        x: (N, H, W, C) of float32, bfloat16 or float16, any pitch; C at most 128.
        norm: statistics, scale and shift of C channels.
        w: (K, 1, 1, C), x's dtype; K at most 32.
        bias: (K,), float32, or None.
        tf32: whether float32 products may round their operands to tf32.

    Returns:
        y (N, H, W, K) in x's dtype.

    Raises:
        Refused: wrong shapes or dtypes.
    """
    pixels, C, K = _check(x, norm, w)
    check_vectors(K, bias=bias)
    y = empty((*x.shape[:3], K), x.dtype)
    programs, blocks = _cut(x, K, 8, 256)
    launch(
        _head_fwd_kernel, (programs,), x, *norm.buffers, w, bias, y, pixels, C, K, pitch(x), norm.eps,
        HAS_BIAS=bias is not None, **products(x, tf32), **blocks,
    )  # fmt: skip
    return y


def head_bwd(
    dy: torch.Tensor, x: torch.Tensor, norm: Norm, w: torch.Tensor, *, tf32: bool = False, training: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `head_fwd`.

    Args:
        dy: gradient of y, (N, H, W, K), x's dtype, any pitch.
        x, norm, w, tf32: as in the forward.
        training: whether norm's statistics are x's own, so that they depend on x; else they are constants.

    Returns:
        dx (N, H, W, C) in x's dtype; float32 dscale (C,), dshift (C,), dw (K, 1, 1, C), dbias (K,).

    Raises:
        Refused: wrong shapes or dtypes.
    """
    pixels, C, K = _check(x, norm, w)
    image_of("head", "the gradient", dy, (*x.shape[:3], K), (x.dtype,))
    programs, blocks = _cut(x, K, 4, 64)
    sums = empty((programs, C), torch.float32), empty((programs, C), torch.float32)
    parts, total = empty((programs, K * C + K), torch.float32), empty((K * C + K,), torch.float32)
    launch(
        _head_bwd_stats_kernel, (programs,), dy, x, *norm.buffers, w, *sums, parts,
        pixels, C, K, pitch(dy), pitch(x), norm.eps, **products(x, tf32), **blocks, STAGES=STAGES,
    )  # fmt: skip
    dw, dbias = total[: K * C].view(K, 1, 1, C), total[K * C :]
    with beside(parts) as written:  # nothing waits for these
        split_sum(parts, total)
        written += [dw, dbias]
    dscale, dshift, shares, constants = merge_sums(*sums)
    dx = empty(tuple(x.shape), x.dtype)
    programs, blocks = _cut(x, K, 32, 64)
    launch(
        _head_bwd_kernel, (programs,), dy, x, *norm.buffers, w, *shares, dx,
        pixels, C, K, pitch(dy), pitch(x), norm.eps, TRAINING=training, **constants, **products(x, tf32), **blocks,
    )  # fmt: skip
    return dx, dscale, dshift, dw, dbias
