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
from tritonnet.kernels.runtime import cdiv, launch
from tritonnet.kernels.tensor_table import BLOCK, LOW, Tables, address, low_dtype, read, write

__all__ = ["sgd_step"]

Buffer = torch.Tensor


@triton.jit
def _sgd_count_kernel(table_ptr, fault_ptr, T, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < T
    step_ptr = tl.load(table_ptr + 3 * T + i, mask=live, other=0).to(tl.pointer_type(tl.float32))
    sound = (tl.load(fault_ptr) == 0).to(tl.float32)
    tl.store(step_ptr, tl.load(step_ptr, mask=live, other=0.0) + sound, mask=live)


@triton.jit
def _sgd_chunk(
    table_ptr, T, i, at, n, lr, decay, momentum, rise,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DAMPENED: tl.constexpr,
    LOW: tl.constexpr, ALIGNED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    w_ptr = address(table_ptr, 0, T, i, tl.float32, ALIGNED)
    w = read(w_ptr, at, n, WHOLE)
    g = read(address(table_ptr, 1, T, i, tl.float32, ALIGNED), at, n, WHOLE) + decay * w
    if MOMENTUM:
        b_ptr = address(table_ptr, 2, T, i, tl.float32, ALIGNED)
        b = read(b_ptr, at, n, WHOLE)
        if DAMPENED:
            step = tl.load(address(table_ptr, 3, T, i, tl.float32, False))
            b = tl.where(step == 1.0, g, momentum * b + rise * g)
        else:
            b = momentum * b + g
        write(b_ptr, at, n, b, WHOLE)
        g = g + momentum * b if NESTEROV else b
    w -= lr * g
    write(w_ptr, at, n, w, WHOLE)
    if LOW is not None:
        if tl.load(table_ptr + 4 * T + i) != 0:
            write(address(table_ptr, 4, T, i, LOW, ALIGNED), at, n, w, WHOLE)


@triton.jit
def _sgd_step_kernel(
    table_ptr, block_ptr, lr_ptr, fault_ptr,
    T, decay, momentum, rise,  # T tensors; rise: 1 - dampening
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DAMPENED: tl.constexpr,
    LOW: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.load(block_ptr + 2 * tl.program_id(0))
    start = tl.load(block_ptr + 2 * tl.program_id(0) + 1).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    n = tl.load(table_ptr + 5 * T + i)
    lr = tl.load(lr_ptr)
    if tl.load(fault_ptr) == 0:
        if start + BLOCK <= n:
            _sgd_chunk(
                table_ptr, T, i, at, n, lr, decay, momentum, rise, MOMENTUM, NESTEROV, DAMPENED, LOW, ALIGNED, True
            )
        else:
            _sgd_chunk(
                table_ptr, T, i, at, n, lr, decay, momentum, rise, MOMENTUM, NESTEROV, DAMPENED, LOW, ALIGNED, False
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
        launch(_sgd_count_kernel, (cdiv(table.tensors, 256),), table.addresses, flag, table.tensors, BLOCK=256)
    launch(
        _sgd_step_kernel, (table.blocks.shape[0],), table.addresses, table.blocks, lr, flag,
        table.tensors, float(weight_decay), float(momentum), 1.0 - dampening,
        MOMENTUM=momentum != 0, NESTEROV=nesterov, DAMPENED=dampened,
        LOW=LOW[low_dtype("sgd", lows)], ALIGNED=table.aligned, BLOCK=BLOCK,
    )  # fmt: skip
