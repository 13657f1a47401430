"""Adam and AdamW over all parameters in one launch.

    g = dw + weight_decay * w          (Adam: L2)           w = w * (1 - lr * weight_decay)      (AdamW: decoupled)
    m = m + (1 - beta1) * (g - m)                           v = beta2 * v + (1 - beta2) * g**2
    w = w - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; in PyTorch's order but for 1 / sqrt(1 - beta2**t),
a factor. t counts a parameter's steps. While the error flag is up nothing changes, the counts included. So t lives on
the device: a first, tiny launch counts, and works out what depends on t in float64 (1 - 0.999 in float32 would be off
by 1e-5); the second updates, and writes the 16-bit copy of w in the same pass. Deterministic. Cost: memory-bound; reads
dw w m v, writes w m v and the copy: 30 bytes a parameter with one.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import begin, cdiv, empty, launch
from tritonnet.kernels.tensor_table import Tables, entry, low_dtype, row_of, store_low

__all__ = ["adam_step"]

Buffer = torch.Tensor


@triton.jit
def _adam_count_kernel(
    table_ptr, lr_ptr, fault_ptr, factor_ptr,
    T,  # tensors
    LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr, DECAY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin(BRIEF=True)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [T]
    live = i < T
    step_ptr = tl.load(table_ptr + i * 7 + 4, mask=live, other=0).to(tl.pointer_type(tl.float32))
    sound = (tl.load(fault_ptr) == 0).to(tl.float32)
    step = tl.load(step_ptr, mask=live, other=0.0) + sound
    tl.store(step_ptr, step, mask=live)
    # 0 only while the very first step is skipped: its factors are not used
    t = tl.maximum(step, 1.0).to(tl.float64)
    one = tl.full((BLOCK,), 1.0, tl.float64)
    correction1 = one - tl.exp(t * tl.full((BLOCK,), LOG_BETA1, tl.float64))
    correction2 = one - tl.exp(t * tl.full((BLOCK,), LOG_BETA2, tl.float64))
    lr = tl.load(lr_ptr).to(tl.float64)
    keep = one - lr * tl.full((BLOCK,), DECAY, tl.float64)
    tl.store(factor_ptr + i * 3, (lr / correction1).to(tl.float32), mask=live)
    tl.store(factor_ptr + i * 3 + 1, (one / tl.sqrt(correction2)).to(tl.float32), mask=live)
    tl.store(factor_ptr + i * 3 + 2, keep.to(tl.float32), mask=live)


@triton.jit
def _adam_chunk(
    row_ptr, factor_ptr, start, lane, live, decay, rise1, beta2, rise2, eps,
    DECOUPLED: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    w_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    g_ptr = entry(row_ptr, 1, start, lane, ALIGN)
    m_ptr = entry(row_ptr, 2, start, lane, ALIGN)
    v_ptr = entry(row_ptr, 3, start, lane, ALIGN)
    w = tl.load(w_ptr, mask=live, other=0.0)
    g = tl.load(g_ptr, mask=live, other=0.0)
    m = tl.load(m_ptr, mask=live, other=0.0)
    v = tl.load(v_ptr, mask=live, other=0.0)
    if DECOUPLED:
        w *= tl.load(factor_ptr + 2)
    else:
        g += decay * w
    m += rise1 * (g - m)
    v = beta2 * v + rise2 * g * g
    w -= tl.load(factor_ptr) * m / (tl.sqrt(v) * tl.load(factor_ptr + 1) + eps)
    tl.store(w_ptr, w, mask=live)
    tl.store(m_ptr, m, mask=live)
    tl.store(v_ptr, v, mask=live)
    store_low(row_ptr, 5, start, lane, live, w, LOW, ALIGN)


@triton.jit
def _adam_step_kernel(
    table_ptr, block_ptr, factor_ptr, fault_ptr,
    decay, rise1, beta2, rise2, eps,  # rise: 1 - beta
    DECOUPLED: tl.constexpr, LOW: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    i, row_ptr, start, n = row_of(table_ptr, block_ptr, 7, BLOCK)
    lane = tl.arange(0, BLOCK)
    factor_ptr += i * 3
    if tl.load(fault_ptr) == 0:
        # accesses are only wide where no mask can cut through one
        if start + BLOCK <= n:
            whole = tl.full((BLOCK,), True, tl.int1)
            _adam_chunk(row_ptr, factor_ptr, start, lane, whole, decay, rise1, beta2, rise2, eps, DECOUPLED, LOW, ALIGN)
        else:
            live = start + lane < n
            _adam_chunk(row_ptr, factor_ptr, start, lane, live, decay, rise1, beta2, rise2, eps, DECOUPLED, LOW, ALIGN)


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else float("-inf")


def adam_step(
    tables: Tables, params: Sequence[Buffer], grads: Sequence[Buffer], exp_avgs: Sequence[Buffer | None],
    exp_avg_sqs: Sequence[Buffer | None], steps: Sequence[Buffer | None], lows: Sequence[Buffer | None], lr: Buffer, *,
    betas: Sequence[float], eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """One step of every parameter, in place; none while the error flag is up.

    Args:
        tables: the optimizer's, kept from step to step.
        params: float32, contiguous.
        grads: of params, the same shapes.
        exp_avgs: running averages of grads, the same shapes.
        exp_avg_sqs: running averages of their squares, the same shapes.
        steps: float32, one element each: how many steps parameter i has made.
        lows: 16-bit copies of params to refresh, or None.
        lr: float32, one element on the device, not negative.
        betas: decay rates of the two averages, each in [0, 1).
        eps: at least 0.
        weight_decay: at least 0.
        decoupled: AdamW's weight decay rather than L2.

    Raises:
        Refused: buffers elsewhere or not contiguous, or 16-bit copies of two dtypes.
    """
    if not params:
        return
    table = tables.get("adam", params, grads, exp_avgs, exp_avg_sqs, steps, lows)
    factors = empty((table.tensors, 3), torch.float32)
    flag = fault.flag()
    launch(
        _adam_count_kernel, (cdiv(table.tensors, 256),), table.addresses, lr, flag, factors, table.tensors,
        LOG_BETA1=_log(betas[0]), LOG_BETA2=_log(betas[1]), DECAY=float(weight_decay), BLOCK=256,
    )  # fmt: skip
    low = low_dtype("adam", lows)
    table.launch(
        _adam_step_kernel, factors, flag, float(weight_decay), 1.0 - betas[0], float(betas[1]), 1.0 - betas[1], float(eps),
        DECOUPLED=decoupled, LOW=low, moved=28 if low is None else 30,
    )  # fmt: skip
