"""Mean squared error: loss and gradient from one pass.

    loss[i] = (x[i] - t[i])^2            dx[i] = 2 * (x[i] - t[i])            dt[i] = -dx[i]
    mean    divides by the number of elements; of none it is NaN, as in PyTorch, without a fault

Computed in float32 whatever x and t are stored in. The gradient is stored as in cross_entropy.py. A loss that is not
finite sets fault.LOSS. Two-stage sums in a fixed order: deterministic. Cost: memory-bound; reads x and t, writes dx.
From the definition.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.loss import FLOATS, check_reduction, flag_not_finite, loss_merge, room_for_gradient
from tritonnet.kernels.runtime import INTERPRET, cdiv, check_dtype, empty, launch, logical, refuse
from tritonnet.kernels.softmax import rows

__all__ = ["mse_loss_fwd"]


@triton.jit
def _mse_loss_fwd_kernel(
    x_ptr, target_ptr, dx_ptr, loss_ptr, fault_ptr,
    n, scale,  # scale: 2 / n for a mean
    C: tl.constexpr, X_PITCH: tl.constexpr, TARGET_PITCH: tl.constexpr, EACH: tl.constexpr, LOSS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    row, c = at // C, at % C
    x = tl.load(x_ptr + row * X_PITCH + c, mask=live, other=0.0).to(tl.float32)
    d = x - tl.load(target_ptr + row * TARGET_PITCH + c, mask=live, other=0.0).to(tl.float32)
    if dx_ptr is not None:
        tl.store(dx_ptr + at, (d * scale).to(dx_ptr.dtype.element_ty), mask=live)
    if EACH:
        tl.store(loss_ptr + at, d * d, mask=live)
        flag_not_finite(d * d, fault_ptr, LOSS)
    else:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(d * d))


def mse_loss_fwd(
    x: torch.Tensor, target: torch.Tensor, reduction: str = "mean", *, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean squared error and, from the same pass, x's gradient for an upstream gradient of 1 (see `loss.loss_bwd`).

    Args:
        x: (N, H, W, C) image buffer, pitch allowed, or (..., C) row-major; float32, bfloat16 or float16.
        target: of x's shape, pitch allowed, one of the same dtypes.
        reduction: "mean", "sum" or "none".
        gradient: whether the gradient is wanted.

    Returns:
        loss: float32, no dimensions; for "none" of x's shape, contiguous.
        dx: contiguous, x's shape and dtype (float32 for float16); None if not wanted. The target's is its negative.

    Raises:
        Refused: shapes that differ, another dtype, another reduction.
    """
    op = "mse_loss"
    check_reduction(op, reduction)
    check_dtype(op, "input", x, FLOATS)
    check_dtype(op, "target", target, FLOATS)
    if target.shape != x.shape:
        refuse(op, f"target must have the input's shape {logical(x)}, got {logical(target)}")
    m, c, x_pitch = rows(op, "input", x)
    _, _, target_pitch = rows(op, "target", target)
    n = m * c
    block = 65536 if INTERPRET else 2048
    each = reduction == "none"
    divisor = float(n) if reduction == "mean" else 1.0
    dx = room_for_gradient(x) if gradient else None
    partials = empty(tuple(x.shape) if each else (cdiv(n, block),), torch.float32)
    launch(
        _mse_loss_fwd_kernel, (cdiv(n, block),), x, target, dx, partials, fault.flag(),
        n, 2.0 / divisor if divisor else 0.0,
        C=c, X_PITCH=x_pitch, TARGET_PITCH=target_pitch, EACH=each, LOSS=fault.LOSS, BLOCK=block,
    )  # fmt: skip
    return (partials if each else loss_merge(partials, None, divisor)), dx
