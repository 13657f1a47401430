"""Focal loss and distance-aware loss of logits: loss and gradient from one pass over the logits.

A class c against the rest has the logit z and the probability p = sigmoid(z), its softmax:

    z[m, c]   = x[m, c] - log(sum over j != c of exp(x[m, j]))         a = -log p,  b = -log(1 - p)
    F(a, b)   = exp(-gamma * b) * a                                    that is (1 - p)^gamma * -log p
    F'(a, b)  = -exp(-gamma * b) * (exp(-b) + gamma * exp(-a) * a)     its derivative by z; that of F(b, a) is -F'(b, a)
    dx[m, j]  = sum over c of dloss/dz[m, c] * ((j == c) - q[m, c, j]) q: softmax over the classes other than c
    focal     loss[m] = w[t[m]] * balance * F(a, b) of c = t[m]        balance: alpha where t[m] > 0, else 1 - alpha
              mean    divides by the sum of w[t[m]]
    distance  loss[m] = w[t[m]] * sum over c > 0 of F(a, b) where c == t[m], else (1 - y[m, c])^beta * F(b, a)
              y[m, c] = exp(-d[m, c]^2 / (2 sigma^2))                  d: distance to the nearest pixel of c, distance.py
              mean    divides by the number of pixels with t[m] > 0, at least 1

One channel is a sigmoid: a softmax over a logit of 0, which is class 0, and the channel, which is class 1. A pixel
whose target is `ignore_index` contributes nothing, in the distances neither; one outside the classes neither, and sets
fault.LABEL. Nothing counted: the focal mean is NaN without a fault, the distance mean 0; the gradient is zero.
At most one class of a pixel has p > 1/2. Its a and b come from the sum over the others, those of the others from
log(1 - p), so nothing cancels; every exponent is 0 or below, so every logit may be +-1e4 and more.
The gradient is stored as in cross_entropy.py. Two-stage sums in a fixed order: deterministic. Cost: memory-bound; reads
t (twice for a mean), x and the distances, writes dx. At most 4096 classes: a pixel's lie in one tile.
Focal loss: Lin et al. 2017, eq. 5, in the softmax form without their sum over sigmoids. Distance-aware: the same with
the heat-map weights of Law & Deng 2018, eq. 1 (gamma and beta are their alpha and beta).
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.loss import check_classes, check_least, counted_weight, log1p, loss_fwd, mean_factor, store_loss
from tritonnet.kernels.runtime import begin, check_buffer, refuse
from tritonnet.kernels.softmax import load_rows, row_tile

__all__ = ["focal_loss_fwd"]


@triton.jit
def _focal(a, b, gamma):
    """F and F', of a = -log p and b = -log(1 - p)."""
    focus = tl.exp(-gamma * b)
    return focus * a, -focus * (tl.exp(-b) + gamma * tl.exp(-a) * a)


@triton.jit
def _focal_loss_fwd_kernel(
    x_ptr, target_ptr, weight_ptr, distance_ptr, count_ptr, dx_ptr, loss_ptr, fault_ptr,
    M, factor, ignore, gamma, alpha, beta, spread, least,  # M pixels; spread: -1 / (2 sigma^2)
    C: tl.constexpr, SIGMOID: tl.constexpr, X_PITCH: tl.constexpr, EACH: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    c = tl.arange(0, BLOCK_C)  # [C]
    t = tl.load(target_ptr + m, mask=m < M, other=0).to(tl.int64)
    weight, known = counted_weight(t, m < M, weight_ptr, fault_ptr, ignore, C)
    if alpha is not None:
        weight *= tl.where(t > 0, alpha, 1.0 - alpha)
    x = load_rows(x_ptr, m, c, M, X_PITCH, C, SIGMOID)  # [M, C]
    hit = t[:, None] == c[None, :]
    # `one` is the class whose p may be above 1/2 and count: the target, or else the first largest
    one = hit
    if distance_ptr is not None:
        first = tl.min(tl.where(x == tl.max(x, 1)[:, None], c[None, :], BLOCK_C), 1)
        one = first[:, None] == c[None, :]
    others = tl.where(one, float("-inf"), x)
    top = tl.max(others, 1)
    q = tl.exp(others - top[:, None])
    total = tl.sum(q, 1)
    z = tl.sum(tl.where(one, x, 0.0), 1) - top - tl.log(total)
    tail = log1p(tl.exp(-tl.abs(z)))
    a_one, b_one = tl.maximum(-z, 0.0) + tail, tl.maximum(z, 0.0) + tail
    a = tl.where(one, a_one[:, None], top[:, None] - x + (tl.log(total) + b_one)[:, None])
    p = tl.exp(-a)
    b = tl.where(one, b_one[:, None], -log1p(-p))
    if distance_ptr is None:
        has_term = hit & known[:, None]
        value, slope = _focal(a, b, gamma)
    else:
        has_term = ((c > 0) & (c < C))[None, :] & known[:, None]
        at = m[:, None] * (C - 1) + (c[None, :] - 1)
        d2 = tl.load(distance_ptr + at, mask=has_term, other=float("inf"))
        far = tl.exp(beta * tl.log(tl.maximum(1.0 - tl.exp(d2 * spread), 1e-37)))
        value, slope = _focal(tl.where(hit, a, b), tl.where(hit, b, a), gamma)
        value, slope = tl.where(hit, value, far * value), tl.where(hit, slope, -far * slope)
    loss = weight * tl.sum(tl.where(has_term, value, 0.0), 1)
    if dx_ptr is not None:
        own = tl.sum(tl.where(one & has_term, slope, 0.0), 1)
        rest = tl.where(has_term & ~one, slope / (1.0 - p), 0.0)
        dx = tl.where(one, own[:, None], rest - own[:, None] * q / total[:, None]) - p * tl.sum(rest, 1)[:, None]
        dx = tl.where(known[:, None], dx * (weight * mean_factor(count_ptr, factor, least))[:, None], 0.0)
        live = (m < M)[:, None] & ((c >= SIGMOID) & (c < C))[None, :]
        at = m[:, None] * (C - SIGMOID) + (c[None, :] - SIGMOID)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=live)
    store_loss(loss_ptr, fault_ptr, m, m < M, loss, EACH)


def focal_loss_fwd(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, distance: torch.Tensor | None = None,
    *, gamma: float = 2.0, alpha: float | None = None, beta: float = 4.0, sigma: float = 10.0,
    ignore_index: int = -100, reduction: str = "mean", gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Focal loss, or with `distance` the distance-aware loss, and the logits' gradient for an upstream gradient of 1.

    Args:
        x: logits, (N, H, W, C) image buffer, pitch allowed, or (N, C); float32, bfloat16 or float16. K = C classes, but
            K = 2 for one channel.
        target: class indices (N, H, W) or (N,), int64, int32 or uint8, contiguous.
        weight: one a class, (K,) float32, or None.
        distance: (N, H, W, K - 1), what `distance_fwd(target, 1, K - 1, ignore_index)` returns, or None.
        gamma: how much less a pixel counts the better it is classified, 0 or more.
        alpha: weight of the classes above 0, from 0 to 1; class 0 has 1 - alpha. None: 1 for all.
        beta: how much less a pixel near the class counts, 0 or more.
        sigma: how near that is, in pixels, above 0.
        ignore_index: the target that does not count.
        reduction: "mean", "sum" or "none".
        gradient: whether the gradient is wanted.

    Returns:
        loss: float32, no dimensions; for "none" one a pixel, (N, H, W) or (N,).
        dx: contiguous, x's shape and dtype (float32 for float16 logits); None if not wanted.

    Raises:
        Refused: shapes or dtypes that do not fit, a number outside its range, another reduction, more than 4096 classes.
    """
    op = "focal_loss" if distance is None else "distance_loss"
    check_least(op, gamma=gamma, beta=beta)
    if not 0 < sigma < float("inf"):
        refuse(op, f"sigma must be above 0 and finite, got {sigma}")
    if alpha is not None and not 0 <= alpha <= 1:
        refuse(op, f"alpha must be from 0 to 1, got {alpha}")
    m, channels, x_pitch, c = check_classes(op, x, target, weight)
    divided, first, least = weight, 0, None  # by what the mean divides
    if distance is not None:
        check_buffer(op, "distance", distance, torch.float32, (*target.shape, c - 1))
        divided, first, least = None, 1, 1.0
    return loss_fwd(
        op, _focal_loss_fwd_kernel, row_tile(m, c), x, (target, weight, distance),
        m, ignore_index, float(gamma), None if alpha is None else float(alpha), float(beta), -0.5 / sigma / sigma, least,
        shape=tuple(target.shape), reduction=reduction, gradient=gradient, least=least,
        counted=(target, divided, ignore_index, c, first), C=c, SIGMOID=c - channels, X_PITCH=x_pitch,
    )  # fmt: skip
