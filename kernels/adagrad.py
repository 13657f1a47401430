"""AdaGrad and RMSProp over all parameters in one launch.

    g = dw + weight_decay * w
    v = v + g**2                               (AdaGrad)         v = alpha * v + (1 - alpha) * g**2         (RMSProp)
    a = a + (1 - alpha) * (g - a)              (centered RMSProp; otherwise a is 0)
    u = g / (sqrt(v - a**2) + eps)
    b = momentum * b + u                       (with momentum; otherwise b is u)
    w = w - lr / (1 + (t - 1) * lr_decay) * b

Duchi et al. 2011, with a diagonal matrix; Hinton 2012, lecture 6e; Graves 2013, equations 38 to 41 (centered); in
PyTorch's form and order, but for v - a**2: where rounding makes it negative, it counts as 0. t counts a parameter's steps
on the device, in a first, tiny launch. While the error flag is up nothing changes, t included. The 16-bit copy of w is
written in the same pass. Deterministic. Cost: memory-bound; reads dw w v, writes w v and the copy: 22 bytes a parameter
with one, and 8 more for each of a and b.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import launch
from tritonnet.kernels.tensor_table import BLOCK, LOW, Tables, count_steps, entry, low_dtype, row_of, store_low

__all__ = ["adagrad_step"]

Buffer = torch.Tensor


@triton.jit
def _adagrad_chunk(
    row_ptr, start, lane, live, rate, decay, keep, rise, eps, momentum,
    CENTERED: tl.constexpr, MOMENTUM: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    w_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    v_ptr = entry(row_ptr, 2, start, lane, ALIGN)
    w = tl.load(w_ptr, mask=live, other=0.0)
    g = tl.load(entry(row_ptr, 1, start, lane, ALIGN), mask=live, other=0.0) + decay * w
    v = keep * tl.load(v_ptr, mask=live, other=0.0) + rise * g * g
    tl.store(v_ptr, v, mask=live)
    if CENTERED:
        a_ptr = entry(row_ptr, 3, start, lane, ALIGN)
        a = tl.load(a_ptr, mask=live, other=0.0)
        a += rise * (g - a)
        tl.store(a_ptr, a, mask=live)
        v = tl.maximum(v - a * a, 0.0)
    u = g / (tl.sqrt(v) + eps)
    if MOMENTUM:
        b_ptr = entry(row_ptr, 4, start, lane, ALIGN)
        u += momentum * tl.load(b_ptr, mask=live, other=0.0)
        tl.store(b_ptr, u, mask=live)
    w -= rate * u
    tl.store(w_ptr, w, mask=live)
    store_low(row_ptr, 6, start, lane, live, w, LOW, ALIGN)


@triton.jit
def _adagrad_step_kernel(
    table_ptr, block_ptr, lr_ptr, fault_ptr,
    fall, decay, keep, rise, eps, momentum,  # fall: lr_decay; AdaGrad's keep and rise are 1, RMSProp's alpha and 1 - alpha
    CENTERED: tl.constexpr, MOMENTUM: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 8, BLOCK)
    lane = tl.arange(0, BLOCK)
    if tl.load(fault_ptr) == 0:
        step = tl.load(tl.load(row_ptr + 5).to(tl.pointer_type(tl.float32)))
        # rounded exactly: every element has its error
        rate = tl.div_rn(tl.load(lr_ptr), 1.0 + (step - 1.0) * fall)
        # accesses are only wide where no mask can cut through one
        if start + BLOCK <= n:
            whole = tl.full((BLOCK,), True, tl.int1)
            _adagrad_chunk(
                row_ptr, start, lane, whole, rate, decay, keep, rise, eps, momentum, CENTERED, MOMENTUM, LOW, ALIGN
            )  # fmt: skip
        else:
            live = start + lane < n
            _adagrad_chunk(
                row_ptr, start, lane, live, rate, decay, keep, rise, eps, momentum, CENTERED, MOMENTUM, LOW, ALIGN
            )  # fmt: skip


def adagrad_step(
    tables: Tables,
    params: Sequence[Buffer],
    grads: Sequence[Buffer],
    squares: Sequence[Buffer],
    grad_avgs: Sequence[Buffer | None],
    momentum_buffers: Sequence[Buffer | None],
    steps: Sequence[Buffer],
    lows: Sequence[Buffer | None],
    lr: Buffer,
    *,
    alpha: float | None = None,
    lr_decay: float = 0.0,
    eps: float,
    weight_decay: float,
    momentum: float = 0.0,
) -> None:
    """One step of every parameter, in place; none while the error flag is up.

    Args:
        tables: the optimizer's, kept from step to step.
        params: float32, contiguous.
        grads: of params, the same shapes.
        squares: sums or running averages of their squares (v above), the same shapes.
        grad_avgs: running averages of grads, the same shapes, for centered RMSProp; otherwise None.
        momentum_buffers: the same shapes, zero before the first step; None without momentum.
        steps: float32, one element each: how many steps parameter i has made.
        lows: 16-bit copies of params to refresh, or None.
        lr: float32, one element on the device, not negative.
        alpha: RMSProp's decay rate, 0 to 1; None: AdaGrad.
        lr_decay: at least 0.
        eps: at least 0.
        weight_decay: at least 0.
        momentum: at least 0.

    Raises:
        Refused: buffers elsewhere or not contiguous, or 16-bit copies of two dtypes.
    """
    if not params:
        return
    table = tables.get("adagrad", params, grads, squares, grad_avgs, momentum_buffers, steps, lows)
    count_steps(table, 5)
    centered, low = grad_avgs[0] is not None, LOW[low_dtype("adagrad", lows)]
    keep, rise = (1.0, 1.0) if alpha is None else (float(alpha), 1.0 - alpha)
    launch(
        _adagrad_step_kernel, (table.blocks.shape[0],), table.addresses, table.blocks, lr, fault.flag(),
        float(lr_decay), float(weight_decay), keep, rise, float(eps), float(momentum),
        CENTERED=centered, MOMENTUM=momentum != 0, LOW=low, ALIGN=table.align, BLOCK=BLOCK, num_warps=8,
        moved=table.elements * (20 + (8 if centered else 0) + (8 if momentum else 0) + (2 if low else 0)),
    )  # fmt: skip
