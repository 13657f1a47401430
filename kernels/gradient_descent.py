"""SGD, AdaGrad and RMSProp over all parameters in one launch: gradient descent, scaled or not, with or without momentum.

    g = dw + weight_decay * w
    v = v + g**2  (AdaGrad)                      v = alpha * v + (1 - alpha) * g**2  (RMSProp)
    a = a + (1 - alpha) * (g - a)                (centered RMSProp; otherwise a is 0)
    u = g / (sqrt(v - a**2) + eps)               (SGD: g)
    b = momentum * b + (1 - dampening) * u       (on a parameter's first step with dampening: u)
    s = u + momentum * b  (Nesterov)             s = b  (other momentum)             s = u  (no momentum)
    w = w - lr / (1 + (t - 1) * lr_decay) * s

Polyak 1964 and Sutskever et al. 2013 (momentum); Duchi et al. 2011, with a diagonal matrix (AdaGrad); Hinton 2012,
lecture 6e, and Graves 2013, equations 38 to 41 (RMSProp, centered); in PyTorch's form and order, but for v - a**2: where
rounding makes it negative, it counts as 0. t counts a parameter's steps on the device, in a first, tiny launch, where
something depends on it: a fresh b is zero, so the first step is another with dampening alone. While the error flag is up
nothing changes, t included. The 16-bit copy of w is written in the same pass. Deterministic. Cost: memory-bound; reads dw
and w, writes w and the copy: 14 bytes a parameter with one, and 8 more for each of v, a and b.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import begin
from tritonnet.kernels.tensor_table import Tables, count_steps, entry, low_dtype, row_of, store_low

__all__ = ["descent_step"]

Buffer = torch.Tensor


@triton.jit
def _descent_chunk(
    row_ptr, start, lane, live, rate, first, decay, keep, rise, eps, momentum, share,
    ADAPTIVE: tl.constexpr, CENTERED: tl.constexpr, MOMENTUM: tl.constexpr, DAMPENED: tl.constexpr,
    NESTEROV: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    w_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    w = tl.load(w_ptr, mask=live, other=0.0)
    u = tl.load(entry(row_ptr, 1, start, lane, ALIGN), mask=live, other=0.0) + decay * w
    if ADAPTIVE:
        v_ptr = entry(row_ptr, 2, start, lane, ALIGN)
        v = keep * tl.load(v_ptr, mask=live, other=0.0) + rise * u * u
        tl.store(v_ptr, v, mask=live)
        if CENTERED:
            a_ptr = entry(row_ptr, 3, start, lane, ALIGN)
            a = tl.load(a_ptr, mask=live, other=0.0)
            a += rise * (u - a)
            tl.store(a_ptr, a, mask=live)
            v = tl.maximum(v - a * a, 0.0)
        u = u / (tl.sqrt(v) + eps)
    if MOMENTUM:
        b_ptr = entry(row_ptr, 4, start, lane, ALIGN)
        b = momentum * tl.load(b_ptr, mask=live, other=0.0) + share * u
        if DAMPENED:
            b = tl.where(first, u, b)
        tl.store(b_ptr, b, mask=live)
        u = u + momentum * b if NESTEROV else b
    w -= rate * u
    tl.store(w_ptr, w, mask=live)
    store_low(row_ptr, 6, start, lane, live, w, LOW, ALIGN)


@triton.jit
def _descent_step_kernel(
    table_ptr, block_ptr, lr_ptr, fault_ptr,
    fall, decay, keep, rise, eps, momentum, share,  # fall: lr_decay; keep, rise: of v and a; share: 1 - dampening
    ADAPTIVE: tl.constexpr, CENTERED: tl.constexpr, MOMENTUM: tl.constexpr, DAMPENED: tl.constexpr,
    NESTEROV: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 8, BLOCK)
    lane = tl.arange(0, BLOCK)
    rate = tl.load(lr_ptr)
    first = False
    if tl.load(fault_ptr) == 0:
        if ADAPTIVE or DAMPENED:  # steps are counted
            step = tl.load(tl.load(row_ptr + 5).to(tl.pointer_type(tl.float32)))
            first = step == 1.0
            # rounded exactly: every element has its error
            rate = tl.div_rn(rate, 1.0 + (step - 1.0) * fall)
        # accesses are only wide where no mask can cut through one
        if start + BLOCK <= n:
            whole = tl.full((BLOCK,), True, tl.int1)
            _descent_chunk(
                row_ptr, start, lane, whole, rate, first, decay, keep, rise, eps, momentum, share,
                ADAPTIVE, CENTERED, MOMENTUM, DAMPENED, NESTEROV, LOW, ALIGN,
            )  # fmt: skip
        else:
            _descent_chunk(
                row_ptr, start, lane, start + lane < n, rate, first, decay, keep, rise, eps, momentum, share,
                ADAPTIVE, CENTERED, MOMENTUM, DAMPENED, NESTEROV, LOW, ALIGN,
            )  # fmt: skip


def descent_step(
    tables: Tables, params: Sequence[Buffer], grads: Sequence[Buffer], squares: Sequence[Buffer | None],
    grad_avgs: Sequence[Buffer | None], momentum_buffers: Sequence[Buffer | None], steps: Sequence[Buffer | None],
    lows: Sequence[Buffer | None], lr: Buffer, *, weight_decay: float, alpha: float | None = None, lr_decay: float = 0.0,
    eps: float = 0.0, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
) -> None:  # fmt: skip
    """One step of every parameter, in place; none while the error flag is up.

    Args:
        tables: the optimizer's, kept from step to step.
        params: float32, contiguous.
        grads: of params, the same shapes.
        squares: sums or running averages of their squares (v above), the same shapes; None for SGD.
        grad_avgs: running averages of grads, the same shapes, for centered RMSProp; otherwise None.
        momentum_buffers: the same shapes, zero before the first step; None without momentum.
        steps: float32, one element each: how many steps parameter i has made; for SGD with dampening only, else None.
        lows: 16-bit copies of params to refresh, or None.
        lr: float32, one element on the device, not negative.
        weight_decay: at least 0.
        alpha: RMSProp's decay rate, 0 to 1; None: AdaGrad or SGD.
        lr_decay: of AdaGrad, at least 0.
        eps: at least 0.
        momentum: at least 0.
        dampening: of momentum, at most 1.
        nesterov: look ahead along b.

    Raises:
        Refused: buffers elsewhere or not contiguous, or 16-bit copies of two dtypes.
    """
    if not params:
        return
    table = tables.get("optimizer", params, grads, squares, grad_avgs, momentum_buffers, steps, lows)
    adaptive, centered, dampened = squares[0] is not None, grad_avgs[0] is not None, momentum != 0 and dampening != 0
    if adaptive or dampened:
        count_steps(table, 5)
    low = low_dtype("optimizer", lows)
    keep, rise = (1.0, 1.0) if alpha is None else (float(alpha), 1.0 - alpha)
    table.launch(
        _descent_step_kernel, lr, fault.flag(), float(lr_decay), float(weight_decay), keep, rise, float(eps),
        float(momentum), 1.0 - dampening, moved=12 + 8 * (adaptive + centered + (momentum != 0)) + 2 * (low is not None),
        ADAPTIVE=adaptive, CENTERED=centered, MOMENTUM=momentum != 0, DAMPENED=dampened, NESTEROV=nesterov, LOW=low,
    )  # fmt: skip
