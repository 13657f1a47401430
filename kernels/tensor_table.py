"""Tables of addresses: how one launch reaches every parameter of a network.

    table[i, k]  the address of tensor i's k-th buffer (0: it has none), int64; the last column: how many elements
    blocks[b]    (i, chunk): program b works on elements chunk * BLOCK .. chunk * BLOCK + BLOCK - 1 of tensor i

Tables are made on the host and copied without waiting. They are kept by their content, so a training step whose buffers
lie where they lay before copies nothing. One made while a CUDA graph is captured is kept for good: each replay copies it
again from the same host memory, by a kernel: around a copy the launches of a graph stand still for 10 microseconds.

What all optimizers' kernels share stands here too: a row's buffers, the 16-bit copy, the count of a parameter's steps.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.runtime import INTERPRET, begin, cdiv, device, empty, flat, launch, refuse

__all__ = ["BLOCK", "Table", "Tables", "count_steps", "entry", "low_dtype", "row_of", "store_low", "upload"]

# with 8 warps one 16-byte access a thread and array: more takes the registers that keep many accesses in flight
BLOCK = 16384 if INTERPRET else 1024
KEPT = 16  # tables; buffers cycle through a few addresses in training
SPARE = 4  # tables of one shape that a capture may make: parameter groups of as many tensors, or clipping twice

Buffer = torch.Tensor


@dataclass(frozen=True)
class Table:
    """Device tables of one launch."""

    addresses: Buffer  # int64 (tensors, columns + 1)
    blocks: Buffer  # int32 (programs, 2)
    tensors: int
    elements: int  # of all tensors
    align: int  # of all addresses, in bytes
    host: tuple[Buffer, ...]  # what they were copied from

    def launch(self, kernel: Any, *args: Any, num_warps: int = 8, moved: float, **constants: Any) -> None:
        """Start `kernel`, a program a chunk of a tensor, on both tables and `args`; `moved`: bytes an element."""
        launch(
            kernel, (self.blocks.shape[0],), self.addresses, self.blocks, *args, num_warps=num_warps,
            moved=moved * self.elements, ALIGN=self.align, BLOCK=BLOCK, **constants,
        )  # fmt: skip


class Tables:
    """The tables of one optimizer."""

    def __init__(self) -> None:
        self._tables: OrderedDict[tuple[tuple[int, ...], ...], Table] = OrderedDict()
        self._captured: list[Table] = []
        self._blocks: dict[tuple[int, ...], tuple[Buffer, Buffer]] = {}
        self._spare: dict[tuple[int, int], list[tuple[Buffer, Buffer]]] = {}

    def get(self, op: str, *columns: Sequence[Buffer | None]) -> Table:
        """The table of `columns`: as many buffers in each, contiguous, on the device; the first gives the sizes.

        Raises:
            Refused: a buffer on another device or not contiguous; a capture without a step before it.
        """
        rows: list[tuple[int, ...]] = []
        for buffers in zip(*columns, strict=True):
            for buffer in buffers:
                if buffer is not None:
                    flat(op, "parameter, gradient or state", buffer)
            rows.append((*(0 if b is None else b.data_ptr() for b in buffers), buffers[0].numel()))
        key, shape = tuple(rows), (len(rows), len(columns) + 1)
        table = self._tables.get(key)
        if capturing():
            if table is None:
                # host memory for the copy cannot be had during a capture: the step before left some, and with it memory
                # on the device, since what a capture allocates would keep the memory of its graph for good
                if not self._spare.get(shape):
                    refuse(op, "step must be called once before each capture in a CUDA graph")
                table = self._make(key, *self._spare[shape].pop())
            # kept here only: its copy is part of the graph and is made by a replay, not now
            self._captured.append(table)
            return table
        if table is None:
            table = self._tables[key] = self._make(key, *_pair(shape, torch.int64))
        spare = self._spare.setdefault(shape, [])
        spare += [_pair(shape, torch.int64) for _ in range(SPARE - len(spare))]
        self._tables.move_to_end(key)
        while len(self._tables) > KEPT:
            self._tables.popitem(last=False)
        return table

    def _make(self, rows: tuple[tuple[int, ...], ...], host: Buffer, addresses: Buffer) -> Table:
        sizes = tuple(row[-1] for row in rows)
        if sizes not in self._blocks:
            pairs = [(i, chunk) for i, n in enumerate(sizes) for chunk in range(cdiv(n, BLOCK))]
            self._blocks[sizes] = _upload(pairs, *_pair((len(pairs), 2), torch.int32))
        # addresses that are multiples of 16 bytes may be accessed as wide
        align = 16 if all(address % 16 == 0 for row in rows for address in row[:-1]) else 4
        _upload(rows, host, addresses)
        host_blocks, blocks = self._blocks[sizes]
        return Table(addresses, blocks, len(rows), sum(sizes), align, (host, host_blocks))


def _pair(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Buffer, Buffer]:
    """Host memory that the device can copy from by itself, and as much on the device."""
    return torch.empty(shape, dtype=dtype, pin_memory=device().type == "cuda"), empty(shape, dtype)


def _upload(numbers: Sequence[tuple[int, ...]], host: Buffer, own: Buffer) -> tuple[Buffer, Buffer]:
    host.copy_(torch.tensor(numbers, dtype=host.dtype).view(host.shape))
    if capturing():
        return host, upload(host, own)
    return host, own.copy_(host, non_blocking=True)


@triton.jit
def _upload_kernel(host_ptr, own_ptr, n, BLOCK: tl.constexpr):
    begin()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(own_ptr + i, tl.load(host_ptr + i, mask=i < n, other=0), mask=i < n)


def upload(host: Buffer, own: Buffer) -> Buffer:
    """Copy host memory that the device can read, which must stay as it is until then, to `own`."""
    launch(_upload_kernel, (cdiv(own.numel(), 128),), host, own, own.numel(), BLOCK=128)
    return own


def capturing() -> bool:
    """Whether a CUDA graph is being recorded."""
    return device().type == "cuda" and torch.cuda.is_current_stream_capturing()


def low_dtype(op: str, lows: Sequence[Buffer | None]) -> tl.dtype | None:
    """The kernels' dtype of the 16-bit copies, None if there are none.

    Raises:
        Refused: two dtypes.
    """
    dtypes = {low.dtype for low in lows if low is not None}
    if len(dtypes) > 1:
        refuse(op, f"the 16-bit copies must have one dtype, got {sorted(map(str, dtypes))}")
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtypes.pop()] if dtypes else None


@triton.jit
def row_of(table_ptr, block_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """This program's row of a table of WIDTH columns: its number, where it begins, its first element, and how many it has."""
    i = tl.load(block_ptr + 2 * tl.program_id(0))
    row_ptr = table_ptr + i * WIDTH
    start = tl.load(block_ptr + 2 * tl.program_id(0) + 1).to(tl.int64) * BLOCK
    return i, row_ptr, start, tl.load(row_ptr + WIDTH - 1)


@triton.jit
def entry(row_ptr, k, start, lane, ALIGN: tl.constexpr):
    """Pointers to elements start + lane of a row's k-th buffer, float32."""
    return tl.multiple_of(tl.load(row_ptr + k).to(tl.pointer_type(tl.float32)), ALIGN) + start + lane


@triton.jit
def store_low(row_ptr, k, start, lane, live, w, LOW: tl.constexpr, ALIGN: tl.constexpr):
    """Write w to the 16-bit copy in the k-th column, if there is one."""
    if LOW is not None:
        low = tl.load(row_ptr + k)
        if low != 0:
            low_ptr = tl.multiple_of(low.to(tl.pointer_type(LOW)), ALIGN)
            tl.store(low_ptr + start + lane, w.to(LOW), mask=live)


@triton.jit
def _count_steps_kernel(table_ptr, fault_ptr, T, width, k, BLOCK: tl.constexpr):
    begin()
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < T
    step_ptr = tl.load(table_ptr + i * width + k, mask=live, other=0).to(tl.pointer_type(tl.float32))
    sound = (tl.load(fault_ptr) == 0).to(tl.float32)
    tl.store(step_ptr, tl.load(step_ptr, mask=live, other=0.0) + sound, mask=live)


def count_steps(table: Table, k: int) -> None:
    """Add 1 to the step count (float32, one element) in the k-th column of each row, unless the error flag is up."""
    grid, width = (cdiv(table.tensors, 256),), table.addresses.shape[1]
    launch(_count_steps_kernel, grid, table.addresses, fault.flag(), table.tensors, width, k, BLOCK=256)
