"""Adam and AdamW over all parameters in one launch.

    g = dw + weight_decay * w          (Adam: L2)           w = w * (1 - lr * weight_decay)      (AdamW: decoupled)
    m = m + (1 - beta1) * (g - m)                           v = beta2 * v + (1 - beta2) * g**2
    w = w - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; in the order of operations of PyTorch. t counts a
parameter's steps. While the error flag is up nothing changes, the counts included. So t lives on the device: a first,
tiny launch counts, and works out what depends on t in float64 (1 - 0.999 in float32 would be off by 1e-5); the second
updates, and writes the 16-bit copy of w in the same pass. Deterministic. Cost: memory-bound; reads dw w m v, writes w m
v and the copy: 30 bytes a parameter with one.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import cdiv, empty, launch
from tritonnet.kernels.tensor_table import BLOCK, LOW, Tables, address, low_dtype, read, write

__all__ = ["adam_step"]

Buffer = torch.Tensor


@triton.jit
def _power(BASE: tl.constexpr, t, N: tl.constexpr):
    """BASE ** t in float64 for t < 2**24, by squaring: the same bits whichever steps led to t."""
    power = tl.full((N,), 1.0, tl.float64)
    base = tl.full((N,), BASE, tl.float64)
    for _ in range(24):
        power = tl.where(t % 2 == 1, power * base, power)
        base = base * base
        t = t // 2
    return power


@triton.jit
def _adam_count_kernel(
    table_ptr, lr_ptr, fault_ptr, factor_ptr,
    T,  # tensors
    BETA1: tl.constexpr, BETA2: tl.constexpr, DECAY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < T
    step_ptr = tl.load(table_ptr + 4 * T + i, mask=live, other=0).to(tl.pointer_type(tl.float32))
    sound = (tl.load(fault_ptr) == 0).to(tl.float32)
    step = tl.load(step_ptr, mask=live, other=0.0) + sound
    tl.store(step_ptr, step, mask=live)
    # 0 only while the very first step is skipped: its factors are not used
    t = tl.maximum(step, 1.0).to(tl.int32)
    lr = tl.load(lr_ptr).to(tl.float64)
    one = tl.full((BLOCK,), 1.0, tl.float64)
    tl.store(factor_ptr + i, (lr / (one - _power(BETA1, t, BLOCK))).to(tl.float32), mask=live)
    tl.store(factor_ptr + T + i, tl.sqrt(one - _power(BETA2, t, BLOCK)).to(tl.float32), mask=live)
    tl.store(factor_ptr + 2 * T + i, (one - lr * tl.full((BLOCK,), DECAY, tl.float64)).to(tl.float32), mask=live)


@triton.jit
def _adam_chunk(
    table_ptr, factor_ptr, T, i, at, n, decay, rise1, beta2, rise2, eps,
    DECOUPLED: tl.constexpr, LOW: tl.constexpr, ALIGNED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    w_ptr = address(table_ptr, 0, T, i, tl.float32, ALIGNED)
    m_ptr = address(table_ptr, 2, T, i, tl.float32, ALIGNED)
    v_ptr = address(table_ptr, 3, T, i, tl.float32, ALIGNED)
    w = read(w_ptr, at, n, WHOLE)
    g = read(address(table_ptr, 1, T, i, tl.float32, ALIGNED), at, n, WHOLE)
    m = read(m_ptr, at, n, WHOLE)
    v = read(v_ptr, at, n, WHOLE)
    if DECOUPLED:
        w *= tl.load(factor_ptr + 2 * T + i)
    else:
        g += decay * w
    m += rise1 * (g - m)
    v = beta2 * v + rise2 * g * g
    size, correction = tl.load(factor_ptr + i), tl.load(factor_ptr + T + i)
    w -= size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), correction) + eps)
    write(w_ptr, at, n, w, WHOLE)
    write(m_ptr, at, n, m, WHOLE)
    write(v_ptr, at, n, v, WHOLE)
    if LOW is not None:
        if tl.load(table_ptr + 5 * T + i) != 0:
            write(address(table_ptr, 5, T, i, LOW, ALIGNED), at, n, w, WHOLE)


@triton.jit
def _adam_step_kernel(
    table_ptr, block_ptr, factor_ptr, fault_ptr,
    T, decay, rise1, beta2, rise2, eps,  # T tensors; rise: 1 - beta
    DECOUPLED: tl.constexpr, LOW: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.load(block_ptr + 2 * tl.program_id(0))
    start = tl.load(block_ptr + 2 * tl.program_id(0) + 1).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    n = tl.load(table_ptr + 6 * T + i)
    if tl.load(fault_ptr) == 0:
        if start + BLOCK <= n:
            _adam_chunk(
                table_ptr, factor_ptr, T, i, at, n, decay, rise1, beta2, rise2, eps, DECOUPLED, LOW, ALIGNED, True
            )
        else:
            _adam_chunk(
                table_ptr, factor_ptr, T, i, at, n, decay, rise1, beta2, rise2, eps, DECOUPLED, LOW, ALIGNED, False
            )


def adam_step(
    tables: Tables,
    params: Sequence[Buffer],
    grads: Sequence[Buffer],
    exp_avgs: Sequence[Buffer],
    exp_avg_sqs: Sequence[Buffer],
    steps: Sequence[Buffer],
    lows: Sequence[Buffer | None],
    lr: Buffer,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
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
    factors = empty((3, table.tensors), torch.float32)
    flag = fault.flag()
    launch(
        _adam_count_kernel, (cdiv(table.tensors, 256),), table.addresses, lr, flag, factors, table.tensors,
        BETA1=float(betas[0]), BETA2=float(betas[1]), DECAY=float(weight_decay), BLOCK=256,
    )  # fmt: skip
    launch(
        _adam_step_kernel, (table.blocks.shape[0],), table.addresses, table.blocks, factors, flag,
        table.tensors, float(weight_decay), 1.0 - betas[0], float(betas[1]), 1.0 - betas[1], float(eps),
        DECOUPLED=decoupled, LOW=LOW[low_dtype("adam", lows)], ALIGNED=table.aligned, BLOCK=BLOCK,
    )  # fmt: skip
