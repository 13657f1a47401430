"""safetensors files, in and out: an 8-byte header length, a JSON header, the arrays' bytes one after another.

Source: the format's description in the README of huggingface/safetensors.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tritonnet.io.atomic import ModelFileError, replacing
from tritonnet.io.hdf5 import Entry
from tritonnet.io.untrusted import explained

__all__ = ["load_safetensors", "save_safetensors", "shapes_safetensors"]

_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "BF16": "<u2", "U16": "<u2", "U8": "|u1",
}  # fmt: skip
_NAMES = {text: name for name, text in _TYPES.items()}
_LONGEST_HEADER = 100_000_000  # the limit of the format's own reader


def save_safetensors(
    path: str | os.PathLike[str], model: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays, atomically.

    Args:
        path: the file; its folder must exist.
        model: state_dict key -> number array in torch's logical shape.
        metadata: texts to keep beside them.

    Raises:
        ModelFileError: an array of another type, or the disk refuses.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    arrays = []
    at = 0
    for key, value in model.items():
        array = np.asarray(value)
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        if array.dtype.str not in _NAMES:
            raise ModelFileError(f"{os.fspath(path)}: {key} is {array.dtype}, which safetensors does not hold")
        header[key] = {
            "dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes],
        }  # fmt: skip
        arrays.append(array)
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays start aligned

    with (
        explained(Path(path), ModelFileError, "cannot be written"),
        replacing(path) as temporary,
        temporary.open("wb") as file,
    ):
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(array.tobytes() for array in arrays)


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read arrays; bfloat16 becomes float32, exactly, since numpy has no bfloat16.

    Returns:
        {key: array in torch's logical shape, C order}.

    Raises:
        ModelFileError: no such file, not a safetensors file, cut short, or of a type that is not read.
    """
    return {entry.name: _array(entry, file.read(entry.bytes)) for entry, file in _entries(Path(path))}


def shapes_safetensors(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """What `load_safetensors` would read, without reading the values. Raises as it does."""
    return (entry for entry, _ in _entries(Path(path)))


def _entries(path: Path) -> Iterator[tuple[Entry, BinaryIO]]:
    """Each array with the file, which stands at its first byte."""
    with explained(path, ModelFileError, "not a safetensors file"), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        left = os.fstat(file.fileno()).st_size - 8 - length
        if left < 0 or length > _LONGEST_HEADER:
            raise ValueError("the header is cut short")
        header = json.loads(file.read(length), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        at = 0
        # the format has arrays side by side, without gap or overlap; so none is larger than the file, nor all together
        for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            if entry["dtype"] not in _TYPES:
                raise ValueError(f"{key} has the type {entry['dtype']}, which is not read")
            shape, size = tuple(entry["shape"]), np.dtype(_TYPES[entry["dtype"]]).itemsize
            plain = len(shape) <= 64 and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
            if not plain or begin != at or not math.prod(shape) * size == end - begin <= left - at:
                raise ValueError(f"{key} does not fit the file")
            at = end
            file.seek(8 + length + begin)
            yield Entry(key, shape, entry["dtype"], end - begin, end - begin), file
        if at != left:
            raise ValueError("the file is longer than its arrays")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _array(entry: Entry, data: bytes) -> np.ndarray:
    array = np.frombuffer(data, _TYPES[entry.dtype]).reshape(entry.shape or ())
    # a bfloat16 is the upper half of a float32
    return (array.astype(np.uint32) << 16).view(np.float32) if entry.dtype == "BF16" else array.copy()
