"""Cross-entropy of logits against class indices or probabilities: loss and gradient from one pass over the logits.

    log_p[m, c] = x[m, c] - top[m] - log(total[m])                       (see softmax.py)
    indices         loss[m] = -w[t[m]] * log_p[m, t[m]]                  dx[m, c] = w[t[m]] * (p[m, c] - (c == t[m]))
    probabilities   loss[m] = -sum over c of w[c] * t[m, c] * log_p[m, c]
                    dx[m, c] = p[m, c] * (sum over k of w[k] * t[m, k]) - w[c] * t[m, c]
    mean            divides by the sum of w[t[m]] over counted pixels; for probabilities by the number of pixels

A pixel whose index is `ignore_index` contributes nothing; one whose index is outside 0..C-1 neither, and sets
fault.LABEL. Nothing counted: the mean is NaN as in PyTorch, the gradient zero, and no fault is set. Every logit may be
+-1e4 and more: no exponent is above 0. The gradient is stored scaled for an upstream gradient of 1 (which is what
`loss.backward()` brings: then the backward moves no byte), hence the normaliser of the mean comes first, from a pass
over the targets alone. With float16 logits it is kept in float32 until the upstream gradient, which may be a loss
scale, is multiplied in: 1 / (N*H*W) is below what float16 resolves.
Two-stage sums in a fixed order: deterministic. Cost: memory-bound; reads t (twice for a mean over indices) and x,
writes dx.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from tritonnet.kernels.loss import check_labels, check_logits, counted_weight, loss_fwd, mean_factor, store_loss
from tritonnet.kernels.pointwise import FLOATS
from tritonnet.kernels.runtime import begin, check_dtype, logical, refuse
from tritonnet.kernels.softmax import load_rows, row_tile, row_totals, rows

__all__ = ["cross_entropy_fwd"]


@triton.jit
def _cross_entropy_indices_kernel(
    x_ptr, target_ptr, weight_ptr, count_ptr, dx_ptr, loss_ptr, fault_ptr,
    M, factor, ignore,  # M pixels
    C: tl.constexpr, X_PITCH: tl.constexpr, EACH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    t = tl.load(target_ptr + m, mask=m < M, other=0).to(tl.int64)
    weight, known = counted_weight(t, m < M, weight_ptr, fault_ptr, ignore, C)
    scale = weight * mean_factor(count_ptr, factor, None)
    x, top, total = row_totals(x_ptr, m, M, X_PITCH, C, BLOCK_M, BLOCK_C)
    picked = tl.zeros((BLOCK_M,), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)  # [C]
        if C > BLOCK_C:
            x = load_rows(x_ptr, m, c, M, X_PITCH, C)
        hit = t[:, None] == c[None, :]  # [M, C]
        picked += tl.sum(tl.where(hit, x, 0.0), 1)
        if dx_ptr is not None:
            dx = (tl.exp(x - top[:, None]) / total[:, None] - hit.to(tl.float32)) * scale[:, None]
            dx = tl.where(known[:, None], dx, 0.0)
            live = (m < M)[:, None] & (c < C)[None, :]
            tl.store(dx_ptr + m[:, None] * C + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)
    loss = tl.where(known, weight * (top - picked + tl.log(total)), 0.0)
    store_loss(loss_ptr, fault_ptr, m, m < M, loss, EACH)


@triton.jit
def _weighted_target(target_ptr, weight_ptr, m, c, M, target_pitch, C: tl.constexpr):
    t = load_rows(target_ptr, m, c, M, target_pitch, C, 0, 0.0)
    if weight_ptr is not None:
        t *= tl.load(weight_ptr + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    return t


@triton.jit
def _cross_entropy_probabilities_kernel(
    x_ptr, target_ptr, weight_ptr, count_ptr, dx_ptr, loss_ptr, fault_ptr,
    M, factor,  # M pixels; no counts
    C: tl.constexpr, X_PITCH: tl.constexpr, TARGET_PITCH: tl.constexpr, EACH: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    x, top, total = row_totals(x_ptr, m, M, X_PITCH, C, BLOCK_M, BLOCK_C)
    t = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    loss = tl.zeros((BLOCK_M,), tl.float32)
    mass = tl.zeros((BLOCK_M,), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)  # [C]
        if C > BLOCK_C:
            x = load_rows(x_ptr, m, c, M, X_PITCH, C)
        t = _weighted_target(target_ptr, weight_ptr, m, c, M, TARGET_PITCH, C)
        live = (m < M)[:, None] & (c < C)[None, :]
        loss += tl.sum(t * tl.where(live, top[:, None] - x + tl.log(total)[:, None], 0.0), 1)
        mass += tl.sum(t, 1)
    if dx_ptr is not None:
        for c0 in range(0, C, BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            if C > BLOCK_C:
                x = load_rows(x_ptr, m, c, M, X_PITCH, C)
                t = _weighted_target(target_ptr, weight_ptr, m, c, M, TARGET_PITCH, C)
            dx = (tl.exp(x - top[:, None]) / total[:, None] * mass[:, None] - t) * factor
            live = (m < M)[:, None] & (c < C)[None, :]
            tl.store(dx_ptr + m[:, None] * C + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)
    store_loss(loss_ptr, fault_ptr, m, m < M, loss, EACH)


def cross_entropy_fwd(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    *,
    gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cross-entropy and, from the same pass, the logits' gradient for an upstream gradient of 1 (see `loss.loss_bwd`).

    Args:
        x: logits, (N, H, W, C) image buffer, pitch allowed, or (N, C); float32, bfloat16 or float16.
        target: class indices (N, H, W) or (N,), int64, int32 or uint8, contiguous; or probabilities of x's shape,
            floating-point.
        weight: one a class, (C,) float32, or None.
        ignore_index: the class index that does not count; with probabilities it must be negative.
        reduction: "mean", "sum" or "none".
        gradient: whether the gradient is wanted.

    Returns:
        loss: float32, no dimensions; for "none" one a pixel, (N, H, W) or (N,).
        dx: contiguous, x's shape and dtype (float32 for float16 logits); None if not wanted.

    Raises:
        Refused: shapes or dtypes that do not fit, another reduction.
    """
    op = "cross_entropy"
    m, c, x_pitch = check_logits(op, x, weight)
    tile, inputs = row_tile(m, c), (target, weight)
    settings: dict[str, Any] = {
        "shape": tuple(x.shape[:-1]), "reduction": reduction, "gradient": gradient, "C": c, "X_PITCH": x_pitch,
    }  # fmt: skip
    if target.shape == x.shape:
        check_dtype(op, "target of the input's shape (class probabilities)", target, FLOATS)
        if ignore_index >= 0:
            refuse(op, f"ignore_index must be negative when target holds class probabilities, got {ignore_index}")
        settings["TARGET_PITCH"] = rows(op, "target", target)[2]
        return loss_fwd(op, _cross_entropy_probabilities_kernel, tile, x, inputs, m, **settings)
    check_labels(op, x, target, f" or {logical(x)} (probabilities)")
    settings["counted"] = (target, weight, ignore_index, c)
    return loss_fwd(op, _cross_entropy_indices_kernel, tile, x, inputs, m, ignore_index, **settings)
