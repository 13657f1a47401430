"""Stochastic gradient descent over all parameters in one launch.

    g = dw + weight_decay * w
    b = momentum * b + (1 - dampening) * g        (on a parameter's first step b = g)
    w = w - lr * (g + momentum * b)               (Nesterov)
    w = w - lr * b                                (otherwise; without momentum b is g)

Polyak 1964 and Sutskever et al. 2013, in the form and the order of operations of PyTorch. While the error flag is up
nothing changes. The 16-bit copy of w is written in the same pass. A fresh b is zero, so only dampening needs to know
the first step: then a tiny launch counts steps before. Deterministic. Cost: memory-bound; reads dw w b, writes w b and
the copy: 22 bytes a parameter with one.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import launch
from tritonnet.kernels.tensor_table import BLOCK, LOW, Tables, count_steps, entry, low_dtype, row_of, store_low

__all__ = ["sgd_step"]

Buffer = torch.Tensor


@triton.jit
def _sgd_chunk(
    row_ptr, start, lane, live, lr, decay, momentum, rise,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DAMPENED: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    w_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    g_ptr = entry(row_ptr, 1, start, lane, ALIGN)
    w = tl.load(w_ptr, mask=live, other=0.0)
    g = tl.load(g_ptr, mask=live, other=0.0) + decay * w
    if MOMENTUM:
        b_ptr = entry(row_ptr, 2, start, lane, ALIGN)
        b = momentum * tl.load(b_ptr, mask=live, other=0.0) + rise * g
        if DAMPENED:
            step = tl.load(tl.load(row_ptr + 3).to(tl.pointer_type(tl.float32)))
            b = tl.where(step == 1.0, g, b)
        tl.store(b_ptr, b, mask=live)
        g = g + momentum * b if NESTEROV else b
    w -= lr * g
    tl.store(w_ptr, w, mask=live)
    store_low(row_ptr, 4, start, lane, live, w, LOW, ALIGN)


@triton.jit
def _sgd_step_kernel(
    table_ptr, block_ptr, lr_ptr, fault_ptr,
    decay, momentum, rise,  # rise: 1 - dampening
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DAMPENED: tl.constexpr,
    LOW: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 6, BLOCK)
    lane = tl.arange(0, BLOCK)
    lr = tl.load(lr_ptr)
    if tl.load(fault_ptr) == 0:
        # accesses are only wide where no mask can cut through one
        if start + BLOCK <= n:
            whole = tl.full((BLOCK,), True, tl.int1)
            _sgd_chunk(row_ptr, start, lane, whole, lr, decay, momentum, rise, MOMENTUM, NESTEROV, DAMPENED, LOW, ALIGN)
        else:
            _sgd_chunk(
                row_ptr,
                start,
                lane,
                start + lane < n,
                lr,
                decay,
                momentum,
                rise,
                MOMENTUM,
                NESTEROV,
                DAMPENED,
                LOW,
                ALIGN,
            )


def sgd_step(
    tables: Tables,
    params: Sequence[Buffer],
    grads: Sequence[Buffer],
    momentum_buffers: Sequence[Buffer | None],
    steps: Sequence[Buffer | None],
    lows: Sequence[Buffer | None],
    lr: Buffer,
    *,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One step of every parameter, in place; none while the error flag is up.

    Args:
        tables: the optimizer's, kept from step to step.
        params: float32, contiguous.
        grads: of params, the same shapes.
        momentum_buffers: the same shapes, zero before the first step; None without momentum.
        steps: with dampening: float32, one element each, how many steps parameter i has made; otherwise None.
        lows: 16-bit copies of params to refresh, or None.
        lr: float32, one element on the device, not negative.
        momentum: at least 0.
        dampening: of momentum, at most 1.
        weight_decay: at least 0.
        nesterov: look ahead along b.

    Raises:
        Refused: buffers elsewhere or not contiguous, or 16-bit copies of two dtypes.
    """
    if not params:
        return
    table = tables.get("sgd", params, grads, momentum_buffers, steps, lows)
    flag = fault.flag()
    dampened = momentum != 0 and dampening != 0
    if dampened:
        count_steps(table, 3)
    low = LOW[low_dtype("sgd", lows)]
    launch(
        _sgd_step_kernel, (table.blocks.shape[0],), table.addresses, table.blocks, lr, flag,
        float(weight_decay), float(momentum), 1.0 - dampening,
        MOMENTUM=momentum != 0, NESTEROV=nesterov, DAMPENED=dampened,
        LOW=low, ALIGN=table.align, BLOCK=BLOCK, num_warps=8,
        moved=table.elements * (12 + (8 if momentum else 0) + (2 if low else 0)),
    )  # fmt: skip
