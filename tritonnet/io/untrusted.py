"""Reading HDF5 files that nobody vouches for: what model files, data files and `tritonnet inspect` share.

Objects are reached by hard links alone, one name at a time. Refused are soft, external and user-defined links, virtual
datasets and external storage, filters other than gzip, lzf, shuffle and fletcher32, types other than plain numbers and text of
fixed length, sizes that the file cannot hold, groups that contain themselves, and more than 64 levels.

Chunks are decoded here, not by HDF5: it trusts a filter to give as many bytes as a chunk has, and one that gives fewer ends the
process (HDF5 2.0: segmentation fault). Text of variable length is never read: HDF5 allocates the length that the file claims.
"""

import ctypes
import itertools
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py.h5z import FILTER_DEFLATE, FILTER_FLETCHER32, FILTER_LZF, FILTER_SHUFFLE

from tritonnet.io.atomic import FileError
from tritonnet.kernels.runtime import Refused

__all__ = [
    "FILTERS", "GZIP_RATIO", "SIGNATURE", "attributes", "check_start", "explained", "filters", "find", "has", "member",
    "open_beside_writer", "read", "shown", "walk",
]  # fmt: skip

FILTERS = {FILTER_DEFLATE: "gzip", FILTER_LZF: "lzf", FILTER_SHUFFLE: "shuffle", FILTER_FLETCHER32: "fletcher32"}
LONGEST_ATTRIBUTE = 2**16  # bytes
_LEVELS = 64
_LARGEST_CHUNK = 2**30  # bytes: a chunk is decoded whole
SIGNATURE = b"\x89HDF\r\n\x1a\n"
GZIP_RATIO = 1032  # the most that gzip can expand; lzf: 88
_WEIGHTS = np.arange(2**13, 0, -1, dtype=np.uint64)
_REASONS: dict[type, str] = {
    FileNotFoundError: "no such file or folder", IsADirectoryError: "is a folder; name a file in it, such as best.h5",
    PermissionError: "permission denied", BlockingIOError: "another process has it open",
}  # fmt: skip


@contextmanager
def explained(path: Path, kind: type[FileError] = FileError, trouble: str = "damaged or cut short") -> Iterator[None]:
    """Turn whatever goes wrong with the file into one line of type `kind`; `Refused`, a wrong argument, passes."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # h5py raises many types on damaged files
        line = (str(error).splitlines() or [type(error).__name__])[0]
        # of a file cut short HDF5 tells its own insides; of one the system refuses, with an errno, why
        inner = "synchronously open" in line and "errno" not in line
        said = f"{trouble}; copy it anew" if inner else f"{trouble} ({line})"
        reason = str(error) if isinstance(error, FileError) else _REASONS.get(type(error), said)
        raise kind(f"{path}: {shown(reason)}") from error


def shown(text: str) -> str:
    """Text from a file as a terminal may show it: one line, printable, not long."""
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return text if len(text) <= 300 else f"{text[:150]}...{text[-150:]}"


def check_start(path: Path, what: str = "an HDF5 file") -> int:
    """Raise `FileError` if the file does not begin as HDF5; else the flags a writer leaves (1 writing, 4 SWMR)."""
    with open(path, "rb") as raw:
        start = raw.read(12)
    if start[:8] != SIGNATURE:
        pytorch = start[:2] in (b"PK", b"\x80\x02")
        hint = "it looks like a PyTorch file; tritonnet.io.load_pth reads those" if pytorch else "not HDF5"
        raise FileError(f"not {what} ({hint})")
    return start[11] if len(start) == 12 and start[8] >= 3 else 0


def open_beside_writer(path: Path) -> h5py.File:
    """Open a file to read that another process appends to, or did until it was killed."""
    plan = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    plan.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    plan.set_file_locking(True, True)
    # HDF5 reads what does not match its checksum 100 times, waiting twice as long each time, so a damaged file would hang;
    # h5py has no name for that setting
    ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts(ctypes.c_int64(plan.id), ctypes.c_uint(25))
    return h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ, fapl=plan))


# --- the way to an object -------------------------------------------------------------------------------------------


def has(group: h5py.Group, name: str) -> bool:
    """Whether the group has that member, whatever it is; h5py's `in` would follow a link into another file."""
    return name != "" and bool(group.id.links.exists(name.encode()))


def member(group: h5py.Group, name: str, *kinds: type) -> Any:
    """A member reached by a hard link, of one of the kinds; of a dataset, type and storage are checked."""
    path = f"{group.name.rstrip('/')}/{name}"
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise FileError(
            f"has no {path}" if link is None else f"{path} is a {type(link).__name__}, which is not followed"
        )
    found = group[name]
    if not isinstance(found, kinds):
        raise FileError(f"{path} is a {type(found).__name__}, not a {' or '.join(kind.__name__ for kind in kinds)}")
    if isinstance(found, h5py.Dataset):
        if found.file.swmr_mode and found.file.mode == "r":
            found.refresh()
        _check_dataset(found, path)
    return found


def find(file: h5py.File, path: str, *kinds: type) -> Any:
    """The object at `path`, such as "group/name", of one of the kinds; "/" is the root group."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > _LEVELS or not (parts or h5py.Group in kinds):
        raise FileError(f"{path} must name an array, at most {_LEVELS} levels deep")
    found: Any = file["/"]
    for part in parts[:-1]:
        found = member(found, part, h5py.Group)
    return member(found, parts[-1], *kinds) if parts else found


def walk(group: h5py.Group, seen: set[int], level: int = 0) -> Iterator[Any]:
    """The group with every group and dataset below it, a group before its members; `seen`: the groups met before."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen or level >= _LEVELS:
        raise FileError(f"{group.name}: groups must form a tree of at most {_LEVELS} levels")
    seen.add(address)
    yield group
    for name in group:
        found = member(group, name, h5py.Group, h5py.Dataset)
        yield from walk(found, seen, level + 1) if isinstance(found, h5py.Group) else (found,)


def attributes(holder: h5py.Group | h5py.Dataset, *only: str, unread: str = "") -> dict[str, Any]:
    """The attributes (those called `only` that are there): str, int, float, bool, or arrays of these.

    One of text of variable length is refused, or has the value `unread` if that is given.
    """
    found: dict[str, Any] = {}
    for name in [name for name in only if name in holder.attrs] if only else list(holder.attrs):
        place = f"{holder.name}: attribute {name}"
        attribute = holder.attrs.get_id(name)
        if attribute.get_storage_size() > LONGEST_ATTRIBUTE or attribute.shape is None:
            raise FileError(f"{place} must be from 1 to {LONGEST_ATTRIBUTE} bytes, has {attribute.get_storage_size()}")
        kind = attribute.get_type()
        if unread and isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
            found[name] = unread
            continue
        _check_type(kind, place)
        value = np.asarray(holder.attrs[name])
        value = np.char.decode(value, "utf-8", "replace") if value.dtype.kind == "S" else value
        found[name] = value.item() if value.ndim == 0 else value
    return found


# --- one dataset ----------------------------------------------------------------------------------------------------


def _check_type(kind: h5py.h5t.TypeID, place: str) -> None:
    """Text of fixed length, bool, or integers and floats of at most 8 bytes as numpy has them."""
    if isinstance(kind, h5py.h5t.TypeStringID):
        right = not kind.is_variable_str()
    elif isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID | h5py.h5t.TypeEnumID):
        right = kind.get_size() <= 8 and (kind.dtype == bool or h5py.h5t.py_create(kind.dtype).equal(kind))
    else:
        right = False
    if not right:
        name = type(kind).__name__.removeprefix("Type").removesuffix("ID").lower()
        raise FileError(f"{place} is of a type ({name}) that is not numbers or text of fixed length")


def filters(dataset: h5py.Dataset) -> list[int]:
    """The codes of the filters that a dataset's chunks went through, in that order."""
    plan = dataset.id.get_create_plist()
    return [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]


def _check_dataset(dataset: h5py.Dataset, path: str) -> None:
    if dataset.is_virtual or dataset.external:
        raise FileError(f"{path} keeps its values in another file, which is not opened")
    strangers = [code for code in filters(dataset) if code not in FILTERS] or filters(dataset)[len(FILTERS) :]
    if strangers:
        raise FileError(f"{path} uses HDF5 filter {strangers[0]}; {', '.join(FILTERS.values())} are read, once each")
    _check_type(dataset.id.get_type(), path)
    if dataset.shape is None:
        raise FileError(f"{path} has no shape")
    chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    if chunk > _LARGEST_CHUNK:
        raise FileError(f"{path} must have chunks of at most {_LARGEST_CHUNK} bytes, has {chunk}")
    stored = min(dataset.id.get_storage_size(), os.path.getsize(dataset.file.filename))
    most = stored * GZIP_RATIO if {FILTER_DEFLATE, FILTER_LZF} & set(filters(dataset)) else stored
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > most:
        raise FileError(f"{path} claims {claimed} bytes, the file holds at most {most} of them")


def read(dataset: h5py.Dataset, ranges: Sequence[range] | None = None) -> np.ndarray:
    """Values of a dataset that `member` gave, those at `ranges` (one a dimension) or all; the result and a chunk in memory.

    Shape: (len(r) for r in ranges).
    """
    ranges = [range(size) for size in dataset.shape] if ranges is None else ranges
    values = np.empty([len(r) for r in ranges], dataset.dtype)
    if values.size and not dataset.chunks:
        values[...] = dataset[tuple(slice(r.start, r.stop, r.step) for r in ranges)]
    elif values.size:
        codes = filters(dataset)
        corners = (
            range(r.start // size * size, r[-1] + 1, size) for r, size in zip(ranges, dataset.chunks, strict=True)
        )
        for corner in itertools.product(*corners):
            source, target = [], []
            for r, at, size in zip(ranges, corner, dataset.chunks, strict=True):
                # those of the range that lie in this chunk: the first at or after its start, the first at or after its end
                i, k = (min(len(r), max(0, -((r.start - edge) // r.step))) for edge in (at, at + size))
                target.append(slice(i, k))
                source.append(slice(r.start + i * r.step - at, r.start + k * r.step - at, r.step))
            if all(part.start < part.stop for part in target):
                values[tuple(target)] = _chunk(dataset, corner, codes)[tuple(source)]
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _chunk(dataset: h5py.Dataset, corner: tuple[int, ...], codes: list[int]) -> np.ndarray:
    place = f"{dataset.name}, chunk at {corner}"
    try:
        skipped, data = dataset.id.read_direct_chunk(corner)
    except RuntimeError as error:
        raise FileError(f"{place} was never written, or is damaged") from error
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    for i, code in reversed(list(enumerate(codes))):
        if skipped >> i & 1:
            continue
        if code == FILTER_DEFLATE:
            stream = zlib.decompressobj()
            data = stream.decompress(data, size + 5)  # with a checksum perhaps, and a byte to see what is too long
            data = data if stream.eof else b""
        elif code == FILTER_LZF:
            data = _unpacked(data, size)
        elif code == FILTER_SHUFFLE:
            data = np.frombuffer(data, np.uint8).reshape(dataset.dtype.itemsize, -1).T.tobytes()
        else:
            data, sums = data[:-4], data[-4:]
            if _fletcher32(data) != [int.from_bytes(half, "little") % 65535 for half in (sums[:2], sums[2:])]:
                raise FileError(f"{place} does not match its checksum: the file is damaged")
    if len(data) != size:
        raise FileError(f"{place} must be {size} bytes, is not: the file is damaged")
    values = np.frombuffer(data, np.uint8) != 0 if dataset.dtype == bool else np.frombuffer(data, dataset.dtype)
    return values.reshape(dataset.chunks)


def _unpacked(data: bytes, size: int) -> bytes:
    """A chunk of lzf, which h5py has as an HDF5 filter alone: it goes through a dataset in memory, with a mark at its end."""
    mark = os.urandom(32)
    with h5py.File("lzf", "w", driver="core", backing_store=False) as file:
        scratch = file.create_dataset("chunk", (size + 32,), "u1", chunks=(size + 32,), compression="lzf")
        scratch.id.write_direct_chunk((0,), data + b"\x1f" + mark)  # 31: 32 bytes as they are
        values: bytes = scratch[()].tobytes()
    return values[:size] if values[size:] == mark else b""


def _fletcher32(data: bytes) -> list[int]:
    """Both sums of HDF5's checksum, mod 65535: of the 16-bit words, and of that sum after each word."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2")
    first = second = 0
    for at in range(0, len(words), len(_WEIGHTS)):
        block = words[at : at + len(_WEIGHTS)].astype(np.uint64)
        second += len(block) * first + int(block @ _WEIGHTS[-len(block) :])
        first += int(block.sum())
    return [first % 65535, second % 65535]
