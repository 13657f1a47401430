"""Binary cross-entropy of logits: loss and gradient from one pass over the logits.

    softplus(z) = max(z, 0) + log(1 + exp(-|z|))
    loss[i] = w[i] * (q[i] * t[i] * softplus(-x[i]) + (1 - t[i]) * softplus(x[i]))         q = pos_weight
    dx[i]   = w[i] * ((1 - t[i]) * sigmoid(x[i]) - q[i] * t[i] * sigmoid(-x[i]))
    mean    divides by the number of elements; for integer targets by the number of those that count

No exponent is above 0, so every logit may be +-1e4 and more; log(1 + u) keeps its digits for small u (Kahan). Targets
are probabilities, or integers 0 and 1: then those equal to `ignore_index` contribute nothing, others neither and set
fault.LABEL. The weights are broadcast by two steps, from row to row and from channel to channel. The gradient is scaled
for an upstream gradient of 1, as in cross_entropy.py, and float32 for float16 logits.
Two-stage sums in a fixed order: deterministic. Cost: memory-bound; reads x and t, writes dx.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.loss import INTEGERS, counted_weight, log1p, loss_fwd, mean_factor, store_loss
from tritonnet.kernels.pointwise import FLOATS, flat_tile
from tritonnet.kernels.runtime import begin, check_dtype, flat, logical, refuse
from tritonnet.kernels.softmax import rows

__all__ = ["binary_cross_entropy_fwd"]


@triton.jit
def _binary_cross_entropy_fwd_kernel(
    x_ptr, target_ptr, weight_ptr, pos_weight_ptr, count_ptr, dx_ptr, loss_ptr, fault_ptr,
    n, factor, ignore, weight_row, weight_channel, pos_row, pos_channel,
    C: tl.constexpr, X_PITCH: tl.constexpr, TARGET_PITCH: tl.constexpr, LABELS: tl.constexpr, EACH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    row, c = at // C, at % C
    x = tl.load(x_ptr + row * X_PITCH + c, mask=live, other=0.0).to(tl.float32)
    if LABELS:
        label = tl.load(target_ptr + at, mask=live, other=0).to(tl.int64)
        weight, known = counted_weight(label, live, None, fault_ptr, ignore, 2)
        t = label.to(tl.float32)
    else:
        weight, known = live.to(tl.float32), live
        t = tl.load(target_ptr + row * TARGET_PITCH + c, mask=live, other=0.0).to(tl.float32)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + row * weight_row + c * weight_channel, mask=live, other=0.0).to(tl.float32)
    positive = t
    if pos_weight_ptr is not None:
        positive *= tl.load(pos_weight_ptr + row * pos_row + c * pos_channel, mask=live, other=0.0).to(tl.float32)
    u = tl.exp(-tl.abs(x))
    tail = log1p(u)
    loss = positive * (tl.maximum(-x, 0.0) + tail) + (1.0 - t) * (tl.maximum(x, 0.0) + tail)
    # tl.maximum drops a NaN, tail keeps it
    loss = tl.where(known, weight * loss, 0.0)
    if dx_ptr is not None:
        large, small = 1.0 / (1.0 + u), u / (1.0 + u)  # sigmoid(|x|), sigmoid(-|x|)
        dx = (1.0 - t) * tl.where(x >= 0.0, large, small) - positive * tl.where(x >= 0.0, small, large)
        dx = tl.where(known, weight * dx * mean_factor(count_ptr, factor, None), 0.0)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=live)
    store_loss(loss_ptr, fault_ptr, at, live, loss, EACH)


def _steps(name: str, weight: torch.Tensor | None, x: torch.Tensor) -> tuple[int, int]:
    """How far `weight` moves from row to row and from channel to channel of `x`.

    Raises:
        Refused: it is not of x's shape, one a pixel, one a channel, or one in all.
    """
    op = "binary_cross_entropy_with_logits"
    if weight is None:
        return 0, 0
    check_dtype(op, name, weight, FLOATS)
    c = x.shape[-1]
    if weight.numel() == 1:
        return 0, 0
    per_channel = (c, 1, 1) if x.dim() == 4 else (c,)
    if tuple(weight.shape) in (per_channel, (1,) * (x.dim() - 1) + (c,)):
        return 0, 1
    if weight.shape[:-1] == x.shape[:-1] and weight.shape[-1] in (1, c):
        _, _, pitch = rows(op, name, weight)
        return pitch, int(weight.shape[-1] == c)
    shape = "(C, 1, 1)" if x.dim() == 4 else "(C,)"
    wanted = f"the input's shape, one channel of it, {shape}, or one element"
    return refuse(op, f"{name} must have {wanted}; got {logical(weight)}")


def binary_cross_entropy_fwd(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    pos_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    *,
    ignore_index: int = -100,
    gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Binary cross-entropy with logits and, from the same pass, the logits' gradient for an upstream gradient of 1.

    Args:
        x: logits, (N, H, W, C) image buffer, pitch allowed, or (..., C) row-major; float32, bfloat16 or float16.
        target: probabilities of x's shape, floating-point; or integers 0 and 1 (int64, int32, uint8), contiguous, of
            x's shape or, for one channel, without the channel axis.
        weight: factor of an element's loss: x's shape, one channel of it, one a channel, or one element.
        pos_weight: factor of the term of t, the same shapes.
        reduction: "mean", "sum" or "none".
        ignore_index: the integer target that does not count.
        gradient: whether the gradient is wanted.

    Returns:
        loss: float32, no dimensions; for "none" of x's shape, contiguous.
        dx: contiguous, x's shape and dtype (float32 for float16 logits); None if not wanted.

    Raises:
        Refused: shapes or dtypes that do not fit, another reduction.
    """
    op = "binary_cross_entropy_with_logits"
    check_dtype(op, "input", x, FLOATS)
    m, c, x_pitch = rows(op, "input", x)
    weight_row, weight_channel = _steps("weight", weight, x)
    pos_row, pos_channel = _steps("pos_weight", pos_weight, x)
    n = m * c
    labels = not target.dtype.is_floating_point
    if target.shape != x.shape and not (labels and c == 1 and target.shape == x.shape[:-1]):
        refuse(op, f"target must have the input's shape {logical(x)}, got {logical(target)}")
    counted: tuple[object, ...] = ()
    target_pitch = c
    if labels:
        check_dtype(op, "target", target, INTEGERS)
        flat(op, "target", target)
        counted = (target, None, ignore_index, 2)
    else:
        check_dtype(op, "target", target, FLOATS)
        _, _, target_pitch = rows(op, "target", target)
    return loss_fwd(
        op, _binary_cross_entropy_fwd_kernel, flat_tile(n), x, (target, weight, pos_weight),
        n, ignore_index, weight_row, weight_channel, pos_row, pos_channel,
        shape=tuple(x.shape), reduction=reduction, gradient=gradient, counted=counted,
        C=c, X_PITCH=x_pitch, TARGET_PITCH=target_pitch, LABELS=labels,
    )  # fmt: skip
