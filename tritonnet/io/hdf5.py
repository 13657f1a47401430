"""Arrays in HDF5 files, whole or in part: any rank, groups, attributes, compression, rows appended, readers beside a writer.

    with hdf5.open("scans.h5", "w") as file:
        file.append("images", batch, compression="gzip")  # makes it the first time; later rows go below
        file.set_attributes("images", {"unit": "mm"})
    with hdf5.open("scans.h5") as file:
        corner = file.read("images", np.s_[10:20, :, ::2])
        for block in file.blocks("images"):  # of rows, within 64 MiB of memory
            ...

Values are bool, integers and floats of at most 8 bytes, of any shape (rank 0 and empty too); in as numpy arrays or Tensors
(a 16-bit Tensor arrives as float32), out as numpy arrays. Complex numbers, text and objects are refused; attributes hold text.

Arrays are stored in chunks with a checksum each (HDF5's fletcher32), so whoever reads a part finds damage in it. Files of other
programs are read as well, by the rules of `untrusted.py`; a part that was never written is refused, not read as zeros.

Several processes: any number may have a file open for "r", or one for "a". "w" writes beside the file and puts the new one in its
place when closed, so readers keep the old one, and a kill or an exception leaves it. "a" changes the file itself: a kill then can
spoil it, except after `start_swmr` (single writer, multiple readers): others may read while rows are appended, and what was
flushed stays readable.
"""

import gc
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any, Self, TypeAlias

import h5py
import numpy as np

from tritonnet.autograd import Tensor
from tritonnet.io import untrusted
from tritonnet.io.atomic import FileError, replacing
from tritonnet.io.untrusted import explained
from tritonnet.kernels.runtime import refuse

__all__ = ["Entry", "File", "open"]

Index: TypeAlias = int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]

_VERSIONS = ("v110", "v110")  # these checksum HDF5's own metadata, and allow SWMR
_CHUNK = 2**20  # bytes of a chunk, about; of one that grows a sixteenth, since it is kept whole even for one row
_LONGEST_ROW = 2**24  # bytes; longer rows are cut by h5py's rule


@dataclass
class Entry:
    """An array or a group in a file, as its header has it.

    Attributes:
        name: its path in the file.
        shape: None for a group.
        dtype: numpy's name of the type, or "text".
        bytes: of the values in memory.
        stored: bytes they take in the file.
        chunks: shape of what is read and decoded at once, or None.
        filters: names of what a chunk went through.
        attributes: name -> value.
    """

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    bytes: int = 0
    stored: int = 0
    chunks: tuple[int, ...] | None = None
    filters: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def open(path: str | os.PathLike[str], mode: str = "r") -> "File":
    """Open a file, best in a `with` statement.

    Args:
        path: the file; its folder must exist.
        mode: "r" reads, also beside a writer that called `start_swmr`; "w" writes a new file, in place of `path` once closed;
            "a" changes a file or makes one.

    Raises:
        FileError: no such file, not HDF5, damaged, or open elsewhere.
    """
    return File(path, mode)


class File:
    """An open file; see `open`. Names are paths such as "group/name"; groups come to be with what is in them.

    Every method raises FileError for what is wrong with the file, and Refused for an argument that cannot be right.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str = "r") -> None:
        if mode not in ("r", "w", "a"):
            refuse("hdf5.open", f"mode must be 'r', 'w' or 'a', got {mode!r}")
        self.path, self.mode = Path(path), mode
        self._own: set[str] = set()  # arrays made here: HDF5 may decode their chunks
        with explained(self.path), ExitStack() as stack:
            # `replacing` holds a lock of its own
            place = stack.enter_context(replacing(self.path)) if mode == "w" else self.path
            there = mode == "r" or (mode == "a" and self.path.exists())
            flags = untrusted.check_start(self.path) if there else 0
            locking = False if mode == "w" else "best-effort"
            try:
                if mode == "r" and flags & 4:
                    self._file = untrusted.open_beside_writer(self.path)
                else:
                    self._file = h5py.File(place, mode, libver=_VERSIONS, track_order=True, locking=locking)
            except OSError as error:
                if not flags or isinstance(error, BlockingIOError):
                    raise
                told = "another process appends to it, or was killed as it wrote; then HDF5's `h5clear -s FILE` opens it again"
                raise FileError(told) from error
            stack.callback(self._file.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Close; after an exception a file opened with "w" is dropped, and what was there before stays."""
        with explained(self.path, trouble="cannot be written"):
            self._stack.__exit__(*error)

    def close(self) -> None:
        """Close, and with "w" put the new file in place."""
        self.__exit__(None, None, None)

    def flush(self) -> None:
        """Hand everything written to the system; readers beside a writer see what was flushed."""
        with self._writing("flush"):
            self._file.flush()

    def start_swmr(self) -> None:
        """From here on others may open the file to read, while this one, open for "a", appends to arrays it has."""
        with self._writing("start_swmr"):
            if self.mode != "a":
                refuse("hdf5.start_swmr", "mode must be 'a', got 'w', which readers see once it is closed")
            self._file.swmr_mode = True

    # --- reading ---

    def names(self, group: str = "/") -> list[str]:
        """The members of a group, in the order they were made."""
        with explained(self.path):
            return list(self._find(group, h5py.Group))

    def entry(self, name: str, unread: str = "") -> Entry:
        """What the header of an array or group says. `unread` stands for attributes that are not read, else refused."""
        with explained(self.path):
            return self._entry(self._find(name, h5py.Group, h5py.Dataset), unread)

    def entries(self, unread: str = "") -> list[Entry]:
        """`entry` of every group and array, the root first and a group before its members."""
        with explained(self.path):
            return [self._entry(found, unread) for found in untrusted.walk(self._file["/"], set())]

    def read(self, name: str, index: Index = ...) -> np.ndarray:
        """An array, or the part that numpy's `array[index]` would give; nothing else is read.

        Args:
            name: of the array.
            index: integers, slices and `...`, as in `np.s_[2:5, ..., -1]`; negative ones count from the end, and steps
                are positive, as in torch.
        """
        # a chunk that its writer was changing does not match its checksum
        for _ in range(9 if self._file.swmr_mode else 0):
            with suppress(FileError):
                return self._read(name, index)
        return self._read(name, index)

    def _open_arrays(self) -> int:
        return int(h5py.h5f.get_obj_count(self._file.id, h5py.h5f.OBJ_DATASET))

    def _read(self, name: str, index: Index) -> np.ndarray:
        with explained(self.path):
            if self._file.swmr_mode and self._open_arrays():
                gc.collect()  # some may be held by the frames of an exception alone
            if self._file.swmr_mode and self._open_arrays():
                # HDF5 2.0 gives one chunk for another after it refreshed an array that is open twice
                raise FileError("beside a writer, one thread of a process may read at a time")
            dataset = self._array(name)
            ranges, shape = _picked(dataset.shape, index)
            return untrusted.read(dataset, ranges).reshape(shape)

    def blocks(self, name: str, rows: int | None = None, *, memory: int = 2**26) -> Iterator[np.ndarray]:
        """An array in blocks of rows (along its first axis), one after another.

        Args:
            name: of the array, of rank 1 at least.
            rows: rows of a block, the last but for what is left. None takes as many as `memory` allows, in whole chunks.
            memory: bytes for two blocks (a loop holds one while the next is read) and the chunk being decoded.
        """
        entry = self.entry(name)
        shape = entry.shape or refuse("hdf5.blocks", f"{name} must be an array with rows, got the shape {entry.shape}")
        row, whole = max(1, entry.bytes // max(1, shape[0])), (entry.chunks or (1,))[0]
        # a chunk as stored, decoded, and turned by the shuffle
        chunk = 3 * math.prod(entry.chunks or (0,)) * (entry.bytes // (math.prod(shape) or 1))
        most = (memory - chunk) // (2 * row)
        if not 1 <= (rows or 1) <= most:
            refuse(
                "hdf5.blocks", f"memory must be {2 * row} bytes for each of {rows or 1} rows and {chunk}, got {memory}"
            )
        step = rows or (most // whole * whole or most)
        for at in range(0, shape[0], step):
            yield self.read(name, slice(at, at + step))

    # --- writing ---

    def write(self, name: str, value: Any, index: Index | None = None, **storage: Any) -> None:
        """A new array, or with `index` a part of one that is there.

        Args:
            name: of the array.
            value: numpy array, Tensor, number or nested list; with `index` what broadcasts to that part, and whose values
                the array's type holds.
            index: as for `read`.
            storage: of a new array: `compression`, "gzip" (smaller) or "lzf" (faster), both after a byte shuffle; `chunks`,
                the shape of what is read and decoded at once [default: as many whole rows as make 1 MiB].
        """
        with self._writing("write"):
            array = _values(value)
            if index is None:
                self._make(name, array.shape, array.dtype, array, **storage)
                return
            dataset, own = self._target(name)
            ranges, shape = _picked(dataset.shape, index)
            values = _fitting(array, dataset, shape).reshape([len(r) for r in ranges])
            if not own:
                untrusted.read(dataset, ranges)  # HDF5 decodes what it changes in part: see first that it can
            if values.size:
                dataset[tuple(slice(r.start, r.stop, r.step) for r in ranges)] = values

    def create(self, name: str, shape: tuple[int, ...], dtype: Any, **storage: Any) -> None:
        """A new array of zeros, to be written part by part; its space is taken at once. `storage`: see `write`."""
        with self._writing("create"):
            self._make(name, tuple(shape), np.dtype(dtype), None, **storage)

    def append(self, name: str, rows: Any, **storage: Any) -> None:
        """Add rows below those of an array that `append` made; make it if it is not there. `storage`: see `write`.

        Shape: rows (n, ...), where all but n is the same each time.
        """
        with self._writing("append"):
            array = _values(rows)
            if array.ndim == 0 or 0 in array.shape[1:]:
                refuse("hdf5.append", f"rows must be of shape (n, ...), all but n positive, got {array.shape}")
            group, last = self._place(name)
            if not untrusted.has(group, last):
                self._make(name, (0, *array.shape[1:]), array.dtype, None, grows=True, **storage)
            dataset, own = self._target(name)
            if not dataset.ndim or dataset.maxshape[0] is not None:
                refuse("hdf5.append", f"{name} must be made by append, got an array of the fixed shape {dataset.shape}")
            before, chunk, row = len(dataset), dataset.chunks[0], dataset.shape[1:]
            values = _fitting(array, dataset, (len(array), *row))
            if not own:
                untrusted.read(dataset, [range(before - before % chunk, before), *map(range, row)])  # as in `write`
            dataset.resize(before + len(array), 0)
            dataset[before:] = values

    def set_attributes(self, name: str, values: Mapping[str, Any]) -> None:
        """Give an array or group ("/": the file) attributes: text, numbers, or number arrays, of at most 63 KiB."""
        with self._writing("set_attributes"):
            holder = self._find(name, h5py.Group, h5py.Dataset)
            for key, value in values.items():
                array = np.asarray(value.encode() or b"\0" if isinstance(value, str) else value)
                text = array.dtype.kind == "S"
                if not (text or _numbers(array.dtype)) or not 0 < array.nbytes <= 63 * 2**10:
                    refuse("hdf5", f"{key} must be text or numbers of at most 63 KiB, got {value!r:.100}")
                holder.attrs.create(key, array, dtype=h5py.string_dtype("utf-8", array.itemsize) if text else None)

    # --- inside ---

    def _writing(self, method: str) -> AbstractContextManager[None]:
        if self.mode == "r":
            refuse(f"hdf5.{method}", f"{self.path} must be open with 'w' or 'a', got 'r'")
        return explained(self.path, trouble="cannot be written")

    def _find(self, name: str, *kinds: type) -> Any:
        if self.mode != "r":  # what is checked is what the file holds
            self._file.flush()
        return untrusted.find(self._file, name, *kinds)

    def _array(self, name: str) -> Any:
        dataset = self._find(name, h5py.Dataset)
        if dataset.dtype.kind == "S":
            raise FileError(f"{name} is text, not numbers")
        return dataset

    def _target(self, name: str) -> tuple[Any, bool]:
        own = name.strip("/") in self._own
        return self._file[name] if own else self._array(name), own

    def _entry(self, found: Any, unread: str) -> Entry:
        attributes = untrusted.attributes(found, unread=unread)
        if isinstance(found, h5py.Group):
            return Entry(found.name, attributes=attributes)
        filters = tuple(untrusted.FILTERS[code] for code in untrusted.filters(found))
        size, stored = found.size * found.dtype.itemsize, found.id.get_storage_size()
        dtype = "text" if found.dtype.kind == "S" else found.dtype.name
        return Entry(found.name, found.shape, dtype, size, stored, found.chunks, filters, attributes)

    def _place(self, name: str) -> tuple[Any, str]:
        """The group that holds `name`, made if it is not there, and the last word of `name`."""
        *path, last = name.strip("/").split("/")
        if not all(part.strip(".\0") == part != "" for part in (*path, last)):
            refuse("hdf5", f"name must be words with / between, got {name!r}")
        group: Any = self._file["/"]
        for part in path:
            there = untrusted.has(group, part)
            group = untrusted.member(group, part, h5py.Group) if there else group.create_group(part, track_order=True)
        return group, last

    def _make(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], array: np.ndarray | None, *, grows: bool = False,
        compression: str | None = None, chunks: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        if not _numbers(dtype) or compression not in (None, "gzip", "lzf"):
            refuse("hdf5", f"{name} must be numbers of at most 8 bytes, gzip, lzf or None, got {dtype}, {compression}")
        group, last = self._place(name)
        if untrusted.has(group, last) or self._file.swmr_mode:
            refuse("hdf5", f"{name} must be a new name, before start_swmr; a part of what is there is written by index")
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if shape == ():
            plan.set_layout(h5py.h5d.COMPACT)  # beside the object's header, whose checksum covers it
            kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create(h5py.h5s.SCALAR)
            made = h5py.h5d.create(group.id, last.encode(), kind, space, plan)
            h5py.Dataset(made)[()] = 0 if array is None else array
        elif 0 in shape and not grows:
            group.create_dataset(last, shape, dtype)
        else:
            if array is None and not grows:
                plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            group.create_dataset(
                last, shape, dtype, array, dcpl=plan, maxshape=(None, *shape[1:]) if grows else None, fletcher32=True,
                chunks=chunks or _chunks(shape, dtype.itemsize, grows), compression=compression, shuffle=compression is not None,
            )  # fmt: skip
        self._own.add(name.strip("/"))


def _numbers(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def _values(value: Any) -> np.ndarray:
    return np.asarray(value.numpy() if isinstance(value, Tensor) else value)


def _fitting(array: np.ndarray, dataset: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array in the dataset's type and that shape, if they hold its values (floats may be rounded)."""
    with np.errstate(all="ignore"):
        values = array.astype(dataset.dtype) if _numbers(array.dtype) else None
    if values is None or (dataset.dtype.kind != "f" and not np.array_equal(values, array)):
        refuse("hdf5", f"{dataset.name} must get values that {dataset.dtype} holds, got others as {array.dtype}")
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        refuse("hdf5", f"values must broadcast to {shape}, that part of {dataset.name}, got {array.shape}")


def _chunks(shape: tuple[int, ...], itemsize: int, grows: bool) -> tuple[int, ...] | bool:
    row = math.prod(shape[1:]) * itemsize
    rows = max(1, (_CHUNK // 16 if grows else _CHUNK) // row)
    return row > _LONGEST_ROW or (rows if grows else min(rows, shape[0]), *shape[1:])


def _picked(shape: tuple[int, ...], index: Index) -> tuple[list[range], tuple[int, ...]]:
    """What `index` means for an array of that shape: a range for each dimension, and the shape of the part."""
    parts: tuple[Any, ...] = index if isinstance(index, tuple) else (index,)
    at = next((i for i, part in enumerate(parts) if part is ...), None)
    parts, at = ((*parts, ...), len(parts)) if at is None else (parts, at)
    parts = parts[:at] + (slice(None),) * (len(shape) + 1 - len(parts)) + parts[at + 1 :]
    try:
        picks: list[Any] = [range(size)[part] for size, part in zip(shape, parts, strict=True)]
    except (IndexError, TypeError, ValueError) as error:
        refuse("hdf5", f"index must be integers, slices and one ... that fit {shape}, got {index!r} ({error})")
    ranges = [pick if isinstance(pick, range) else range(pick, pick + 1) for pick in picks]
    if any(r.step < 1 for r in ranges) or any(isinstance(part, bool) for part in parts):
        refuse("hdf5", f"index must have positive steps and no bool, got {index!r}")
    return ranges, tuple(len(pick) for pick in picks if isinstance(pick, range))
