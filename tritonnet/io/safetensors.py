"""safetensors files, in and out: an 8-byte header length, a JSON header, the arrays' bytes one after another.

Source: the format's description in the README of huggingface/safetensors.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonnet.io.atomic import ModelFileError, write_atomically

__all__ = ["load_safetensors", "save_safetensors"]

_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
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

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays:
                file.write(array.tobytes())

    try:
        write_atomically(path, write)
    except OSError as error:
        raise ModelFileError(f"{os.fspath(path)}: cannot be written ({error})") from error


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read arrays; bfloat16 becomes float32, exactly, since numpy has no bfloat16.

    Returns:
        {key: array in torch's logical shape, C order}.

    Raises:
        ModelFileError: no such file, not a safetensors file, cut short, or of a type that is not read.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        length = int.from_bytes(content[:8], "little")
        if len(content) < 8 or length > min(len(content) - 8, _LONGEST_HEADER):
            raise ValueError("the header is cut short")
        header = json.loads(content[8 : 8 + length])
        data = memoryview(content)[8 + length :]
        return {key: _array(entry, data) for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not a safetensors file ({error})") from None


def _array(entry: Mapping[str, Any], data: memoryview) -> np.ndarray:
    begin, end = (int(at) for at in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    half = entry["dtype"] == "BF16"
    dtype = np.dtype("<u2") if half else np.dtype(_TYPES[str(entry["dtype"])])
    fits = min(shape, default=0) >= 0 and math.prod(shape) * dtype.itemsize == end - begin
    if not (fits and 0 <= begin <= end <= len(data)):
        raise ValueError("an array does not fit the file")
    array = np.frombuffer(data[begin:end], dtype).reshape(shape)
    # a bfloat16 is the upper half of a float32
    return (array.astype(np.uint32) << 16).view(np.float32) if half else array.copy()
