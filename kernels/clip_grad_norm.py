"""Clipping of gradients by the norm of all of them together, in three launches.

    norm = sqrt(sum over every element of every gradient of g**2)
    y    = g * min(1, max_norm / (norm + 1e-6))

The first launch leaves a sum of squares a program, the second adds them up in one program and works out the factor, the
third multiplies. The factor stays on the device, so nothing waits for it and all can be captured in a CUDA graph. y is a
fresh buffer: a gradient's memory may be another tensor's gradient too. float32 throughout: squares above 3e38 make the
norm infinite, then y is 0, and NaN where g is infinite; a NaN makes every y NaN. Deterministic: the order of the sum
depends on the sizes alone. Cost: memory-bound; reads g twice, writes y: 12 bytes an element. Pascanu et al. 2013,
algorithm 1, with PyTorch's 1e-6.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels.runtime import begin, empty, launch
from tritonnet.kernels.tensor_table import Tables, entry, row_of

__all__ = ["clip_grad_norm"]

Buffer = torch.Tensor


@triton.jit
def _clip_grad_norm_square_kernel(table_ptr, block_ptr, partial_ptr, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    begin()
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 3, BLOCK)
    lane = tl.arange(0, BLOCK)
    g_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    # accesses are only wide where no mask can cut through one
    if start + BLOCK <= n:
        g = tl.load(g_ptr)
    else:
        g = tl.load(g_ptr, mask=start + lane < n, other=0.0)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(g * g))


@triton.jit
def _clip_grad_norm_merge_kernel(partial_ptr, norm_ptr, n, max_norm, BLOCK: tl.constexpr):
    begin()
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        acc += tl.load(partial_ptr + at, mask=at < n, other=0.0)
    norm = tl.sqrt(tl.sum(acc))
    factor = max_norm / (norm + 1e-6)
    tl.store(norm_ptr, norm)
    tl.store(norm_ptr + 1, tl.where(factor > 1.0, 1.0, factor))  # a NaN stays


@triton.jit
def _clip_grad_norm_scale_kernel(table_ptr, block_ptr, norm_ptr, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    begin()
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 3, BLOCK)
    lane = tl.arange(0, BLOCK)
    g_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    y_ptr = entry(row_ptr, 1, start, lane, ALIGN)
    factor = tl.load(norm_ptr + 1)
    if start + BLOCK <= n:
        tl.store(y_ptr, tl.load(g_ptr) * factor)
    else:
        tl.store(y_ptr, tl.load(g_ptr, mask=start + lane < n, other=0.0) * factor, mask=start + lane < n)


def clip_grad_norm(tables: Tables, grads: Sequence[Buffer], max_norm: float) -> tuple[Buffer, list[Buffer]]:
    """Scale gradients down so that their common norm is at most `max_norm`.

    Args:
        tables: kept from call to call.
        grads: at least one; float32, contiguous.
        max_norm: at least 0.

    Returns:
        The norm before (float32, no dimensions), and the scaled gradients, fresh buffers of the same shapes.

    Raises:
        Refused: buffers elsewhere or not contiguous.
    """
    scaled = [empty(tuple(g.shape), torch.float32) for g in grads]
    table = tables.get("clip_grad_norm", grads, scaled)
    programs = table.blocks.shape[0]
    partials, norm = empty((programs,), torch.float32), empty((2,), torch.float32)
    table.launch(_clip_grad_norm_square_kernel, partials, num_warps=4, moved=4)
    launch(_clip_grad_norm_merge_kernel, (1,), partials, norm, programs, float(max_norm), BLOCK=4096, num_warps=8)
    table.launch(_clip_grad_norm_scale_kernel, norm, num_warps=4, moved=8)
    return norm[0], scaled
