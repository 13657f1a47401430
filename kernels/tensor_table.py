"""Tables of addresses: how one launch reaches every parameter of a network.

    table[i, k]  the address of tensor i's k-th buffer (0: it has none), int64; the last column: how many elements
    blocks[b]    (i, chunk): program b works on elements chunk * BLOCK .. chunk * BLOCK + BLOCK - 1 of tensor i

Tables are made on the host and copied without waiting. They are kept by their content, so a training step whose buffers
lie where they lay before copies nothing; one made while a CUDA graph is captured is kept for good, since each replay
copies it again from the same host memory.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton.language as tl

from tritonnet.kernels.runtime import INTERPRET, cdiv, device, empty, flat, refuse

__all__ = ["BLOCK", "LOW", "Table", "Tables", "low_dtype"]

# with 8 warps one 16-byte access a thread and array: more takes the registers that keep many accesses in flight
BLOCK = 16384 if INTERPRET else 1024
KEPT = 16  # tables; buffers cycle through a few addresses in training

Buffer = torch.Tensor
LOW = {None: None, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Table:
    """Device tables of one launch."""

    addresses: Buffer  # int64 (tensors, columns + 1)
    blocks: Buffer  # int32 (programs, 2)
    tensors: int
    align: int  # of all addresses, in bytes
    host: tuple[Buffer, ...]  # what they were copied from


class Tables:
    """The tables of one optimizer."""

    def __init__(self) -> None:
        self._tables: OrderedDict[tuple[tuple[int, ...], ...], Table] = OrderedDict()
        self._blocks: dict[tuple[int, ...], tuple[Buffer, Buffer]] = {}
        self._captured: list[Table] = []

    def get(self, op: str, *columns: Sequence[Buffer | None]) -> Table:
        """The table of `columns`: as many buffers in each, contiguous, on the device; the first gives the sizes.

        Raises:
            Refused: a buffer on another device or not contiguous.
        """
        rows: list[tuple[int, ...]] = []
        for buffers in zip(*columns, strict=True):
            for buffer in buffers:
                if buffer is not None:
                    flat(op, "parameter, gradient or state", buffer)
            rows.append((*(0 if b is None else b.data_ptr() for b in buffers), buffers[0].numel()))
        key = tuple(rows)
        table = self._tables.get(key)
        if table is None:
            sizes = tuple(row[-1] for row in rows)
            if sizes not in self._blocks:
                self._blocks[sizes] = _upload(_block_map(sizes))
            host, here = _upload(torch.tensor(rows, dtype=torch.int64))
            host_blocks, blocks = self._blocks[sizes]
            # addresses that are multiples of 16 bytes may be accessed as wide
            align = 16 if all(address % 16 == 0 for row in rows for address in row[:-1]) else 4
            table = self._tables[key] = Table(here, blocks, len(rows), align, (host, host_blocks))
            if device().type == "cuda" and torch.cuda.is_current_stream_capturing():
                self._captured.append(table)
        self._tables.move_to_end(key)
        while len(self._tables) > KEPT:
            self._tables.popitem(last=False)
        return table


def _block_map(sizes: tuple[int, ...]) -> Buffer:
    pairs = [number for i, n in enumerate(sizes) for chunk in range(cdiv(n, BLOCK)) for number in (i, chunk)]
    return torch.tensor(pairs, dtype=torch.int32).view(-1, 2)


def _upload(host: Buffer) -> tuple[Buffer, Buffer]:
    """The host's numbers (in memory the device can copy from by itself) and their copy on the device."""
    if device().type == "cuda":
        pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
        host = pinned.copy_(host)
    return host, empty(tuple(host.shape), host.dtype).copy_(host, non_blocking=True)


def low_dtype(op: str, lows: Sequence[Buffer | None]) -> torch.dtype | None:
    """The dtype of the 16-bit copies, None if there are none.

    Raises:
        Refused: two dtypes.
    """
    dtypes = {low.dtype for low in lows if low is not None}
    if len(dtypes) > 1:
        refuse(op, f"the 16-bit copies must have one dtype, got {sorted(map(str, dtypes))}")
    return dtypes.pop() if dtypes else None
