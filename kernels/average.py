"""Running averages of all weights of a network in one launch.

    t = t + 1
    a = w                              (t = 1)
    a = a + (w - a) / t                (equal weights; otherwise with decay d:)
    a = a + (1 - d) * (w - a)

t counts the updates and lives on the device: a first, tiny launch counts, so that a CUDA graph can hold both. While the
error flag is up nothing changes, t included. Deterministic. Cost: memory-bound; reads a and w, writes a: 12 bytes an
element. Polyak & Juditsky 1992; Izmailov et al. 2018 (equal weights); in the form of PyTorch's AveragedModel.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import begin, check_dtype, launch
from tritonnet.kernels.tensor_table import Tables, entry, row_of

__all__ = ["average_update"]

Buffer = torch.Tensor


@triton.jit
def _average_count_kernel(count_ptr, fault_ptr):
    begin()
    tl.store(count_ptr, tl.load(count_ptr) + (tl.load(fault_ptr) == 0).to(tl.int64))


@triton.jit
def _average_chunk(a_ptr, w_ptr, live, first, rise):
    a = tl.load(a_ptr, mask=live, other=0.0)
    w = tl.load(w_ptr, mask=live, other=0.0)
    tl.store(a_ptr, tl.where(first, w, a + rise * (w - a)), mask=live)


@triton.jit
def _average_update_kernel(
    table_ptr, block_ptr, count_ptr, fault_ptr,
    rise,  # 1 - decay
    EQUAL: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    _, row_ptr, start, n = row_of(table_ptr, block_ptr, 3, BLOCK)
    lane = tl.arange(0, BLOCK)
    a_ptr = entry(row_ptr, 0, start, lane, ALIGN)
    w_ptr = entry(row_ptr, 1, start, lane, ALIGN)
    count = tl.load(count_ptr)
    if EQUAL:
        rise = 1.0 / count.to(tl.float32)
    if tl.load(fault_ptr) == 0:
        # accesses are only wide where no mask can cut through one
        if start + BLOCK <= n:
            _average_chunk(a_ptr, w_ptr, tl.full((BLOCK,), True, tl.int1), count == 1, rise)
        else:
            _average_chunk(a_ptr, w_ptr, start + lane < n, count == 1, rise)


def average_update(
    tables: Tables, averages: Sequence[Buffer], weights: Sequence[Buffer], count: Buffer, decay: float | None
) -> None:
    """Take `weights` into their `averages`, in place; not while the error flag is up.

    Args:
        tables: kept from update to update.
        averages: float32, contiguous.
        weights: float32, contiguous, of the same shapes.
        count: int64, one element on the device: the updates so far.
        decay: of the averages, 0 to 1; None weighs all updates alike.

    Raises:
        Refused: buffers elsewhere or not contiguous, or another dtype.
    """
    if not averages:
        return
    check_dtype("average", "count", count, (torch.int64,))
    for name, buffers in (("averages", averages), ("weights", weights)):
        for buffer in buffers:
            check_dtype("average", name, buffer, (torch.float32,))
    table, flag = tables.get("average", averages, weights), fault.flag()
    launch(_average_count_kernel, (1,), count, flag, num_warps=1)
    table.launch(_average_update_kernel, count, flag, 1.0 - (decay or 0.0), EQUAL=decay is None, moved=12)
