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

from tritonnet.kernels.loss import loss_fwd, store_loss
from tritonnet.kernels.pointwise import FLOATS, flat_tile
from tritonnet.kernels.runtime import begin, check_dtype, logical, refuse
from tritonnet.kernels.softmax import rows

__all__ = ["mse_loss_fwd"]


@triton.jit
def _mse_loss_fwd_kernel(
    x_ptr, target_ptr, count_ptr, dx_ptr, loss_ptr, fault_ptr,
    n, factor,  # no counts
    C: tl.constexpr, X_PITCH: tl.constexpr, TARGET_PITCH: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    row, c = at // C, at % C
    x = tl.load(x_ptr + row * X_PITCH + c, mask=live, other=0.0).to(tl.float32)
    d = x - tl.load(target_ptr + row * TARGET_PITCH + c, mask=live, other=0.0).to(tl.float32)
    if dx_ptr is not None:
        tl.store(dx_ptr + at, (d * (2.0 * factor)).to(dx_ptr.dtype.element_ty), mask=live)
    store_loss(loss_ptr, fault_ptr, at, live, d * d, EACH)


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
    check_dtype(op, "input", x, FLOATS)
    check_dtype(op, "target", target, FLOATS)
    if target.shape != x.shape:
        refuse(op, f"target must have the input's shape {logical(x)}, got {logical(target)}")
    m, c, x_pitch = rows(op, "input", x)
    _, _, target_pitch = rows(op, "target", target)
    return loss_fwd(
        op, _mse_loss_fwd_kernel, flat_tile(m * c), x, (target,), m * c,
        shape=tuple(x.shape), reduction=reduction, gradient=gradient,
        C=c, X_PITCH=x_pitch, TARGET_PITCH=target_pitch,
    )  # fmt: skip
