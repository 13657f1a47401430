"""Tables of addresses: how one launch reaches every parameter of a network.

    table[k, i]  the address of tensor i's k-th buffer (0: it has none), int64; the last row holds numbers of elements
    blocks[b]    (i, chunk): program b works on elements chunk * BLOCK .. chunk * BLOCK + BLOCK - 1 of tensor i

Tables are made on the host and copied without waiting. They are kept by their content, so a training step whose buffers
lie where they lay before copies nothing; one made while a CUDA graph is captured is kept for good, since each replay
copies it again from the same host memory.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tritonnet.kernels.runtime import INTERPRET, cdiv, device, empty, flat, refuse

__all__ = ["BLOCK", "LOW", "Table", "Tables", "address", "low_dtype", "read", "write"]

BLOCK = 65536 if INTERPRET else 1024
KEPT = 16  # tables; buffers cycle through a few addresses in training

Buffer = torch.Tensor
LOW = {None: None, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def address(table_ptr, K: tl.constexpr, T, i, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Row `K` of tensor `i` as a pointer; `ALIGNED`: to 16 bytes, so that accesses may be as wide."""
    ptr = tl.load(table_ptr + K * T + i).to(tl.pointer_type(TYPE))
    return tl.multiple_of(ptr, 16) if ALIGNED else ptr


@triton.jit
def read(ptr, at, n, WHOLE: tl.constexpr):
    """Elements `at` below `n`; `WHOLE`: all of them are (a mask would keep accesses narrow)."""
    if WHOLE:
        return tl.load(ptr + at).to(tl.float32)
    else:
        return tl.load(ptr + at, mask=at < n, other=0.0).to(tl.float32)


@triton.jit
def write(ptr, at, n, x, WHOLE: tl.constexpr):
    """Store what `read` would read."""
    if WHOLE:
        tl.store(ptr + at, x.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr + at, x.to(ptr.dtype.element_ty), mask=at < n)


@dataclass(frozen=True)
class Table:
    """Device tables of one launch."""

    addresses: Buffer  # int64 (rows + 1, tensors)
    blocks: Buffer  # int32 (programs, 2)
    tensors: int
    aligned: bool
    host: tuple[Buffer, ...]  # what they were copied from


class Tables:
    """The tables of one optimizer."""

    def __init__(self) -> None:
        self._tables: OrderedDict[tuple[int, ...], Table] = OrderedDict()
        self._blocks: dict[tuple[int, ...], tuple[Buffer, Buffer]] = {}
        self._captured: list[Table] = []

    def get(self, op: str, *rows: Sequence[Buffer | None]) -> Table:
        """The table of `rows`: as many buffers in each, contiguous, on the device; those of rows[0] give the sizes.

        Raises:
            Refused: a buffer on another device or not contiguous.
        """
        addresses: list[int] = []
        for buffers in rows:
            for buffer in buffers:
                if buffer is None:
                    addresses.append(0)
                else:
                    flat(op, "parameter, gradient or state", buffer)
                    addresses.append(buffer.data_ptr())
        sizes = tuple(0 if buffer is None else buffer.numel() for buffer in rows[0])
        key = (len(rows), *addresses, *sizes)
        table = self._tables.get(key)
        if table is None:
            shape = (len(rows) + 1, len(sizes))
            host, here = _upload(torch.tensor([*addresses, *sizes], dtype=torch.int64).view(shape))
            if sizes not in self._blocks:
                self._blocks[sizes] = _upload(_block_map(sizes))
            host_blocks, blocks = self._blocks[sizes]
            table = Table(here, blocks, len(sizes), all(a % 16 == 0 for a in addresses), (host, host_blocks))
            self._tables[key] = table
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
