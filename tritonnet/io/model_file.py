r"""Model files: HDF5, one schema, written atomically, read with suspicion.

    /                          attributes format = "tritonnet", format_version = 1
    /config                    JSON text: the model and its arguments, image scaling, classes, palette, mask mapping
    /model/<state_dict key>    arrays in torch's logical shape, C order
    /optimizer/<slot>/<key>    arrays (last.h5 only)
    /progress                  JSON text: epoch, step, position, seed, ... (last.h5 only)

Every dataset has an attribute `sha256`: the hash of the line "<path> <dtype> <shape>\n", for example
"/model/outc.conv.bias <f4 (2,)\n", followed by the array's bytes (C order, little-endian); JSON text is hashed the
same way with dtype and shape "json". So values, names and shapes are all guarded.

Reading visits only what the schema has, through hard links alone. It refuses external and soft links, virtual and
external storage, filters other than gzip, shuffle and fletcher32, types other than numbers, and sizes the file cannot
hold.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tritonnet.io.atomic import ModelFileError, write_atomically

__all__ = ["FORMAT_VERSION", "ModelFile", "load_model", "save_model"]

FORMAT_VERSION = 1

Arrays = dict[str, np.ndarray]

_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_GZIP_RATIO = 1032  # the most that deflate can expand


@dataclass
class ModelFile:
    """What a model file holds.

    Attributes:
        path: where it was read.
        config: the dict given to `save_model`.
        model: state_dict key -> array in torch's logical shape.
        optimizer: slot -> key -> array, or None.
        progress: the dict given to `save_model`, or None.
    """

    path: Path
    config: dict[str, Any]
    model: Arrays
    optimizer: dict[str, Arrays] | None
    progress: dict[str, Any] | None


def save_model(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    model: Mapping[str, np.ndarray],
    optimizer: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file; a kill at any moment leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.
        config: JSON-able; what is needed to build the model again and to prepare its images.
        model: state_dict key -> number array of any shape in torch's logical order.
        optimizer: slot -> key -> array, such as "exp_avg" -> "outc.conv.bias"; None for a file without training state.
        progress: JSON-able; where training stands.

    Raises:
        ModelFileError: not JSON-able, not a number array, a key that HDF5 cannot name, or the disk refuses.
    """

    def write(temporary: Path) -> None:
        # "v110" checksums HDF5's own metadata, so that a flipped bit there is found as well
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            file.attrs["format"] = np.bytes_("tritonnet")
            file.attrs["format_version"] = np.int64(FORMAT_VERSION)
            _write_json(file, "config", config)
            _write_arrays(file.create_group("model", track_order=True), model)
            if optimizer is not None:
                group = file.create_group("optimizer", track_order=True)
                for slot, arrays in optimizer.items():
                    _check_key(slot)
                    _write_arrays(group.create_group(slot, track_order=True), arrays)
            if progress is not None:
                _write_json(file, "progress", progress)

    try:
        write_atomically(path, write)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{os.fspath(path)}: cannot be written ({_line(error)})") from error


def load_model(path: str | os.PathLike[str], *, training: bool = True) -> ModelFile:
    """Read a model file and check every hash.

    Args:
        path: the file.
        training: False leaves the optimizer and the progress unread (None in the result).

    Raises:
        ModelFileError: no such file, no model file, another version, damaged, or of a kind that is not read for safety.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            start = raw.read(8)
        if start != _SIGNATURE:
            pytorch = start[:2] in (b"PK", b"\x80\x02")
            hint = "it looks like a PyTorch file; tritonnet.io.load_pth reads those" if pytorch else "not HDF5"
            raise ModelFileError(f"not a tritonnet model file ({hint})")
        # model files are replaced, never changed in place, so reading needs no lock
        with h5py.File(path, "r", locking=False) as file:
            return _read(file, path, training)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path}: is a folder; name a model file, such as {path / 'best.h5'}") from None
    except PermissionError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # h5py raises many types on damaged files, with texts about its own insides
        raise ModelFileError(f"{path}: damaged or cut short; copy it anew, or take the run's other .h5 file") from error


def _read(file: h5py.File, path: Path, training: bool) -> ModelFile:
    if _attribute(file, "format") != "tritonnet":
        raise ModelFileError("HDF5, but not a tritonnet model file (no attribute format = tritonnet)")
    version = file.attrs["format_version"]
    if version != FORMAT_VERSION:
        raise ModelFileError(f"format version {version}, this tritonnet reads version {FORMAT_VERSION}")
    parts = set(_names(file))
    if not {"config", "model"} <= parts <= {"config", "model", "optimizer", "progress"}:
        raise ModelFileError(f"holds {sorted(parts)}; a model file has config, model, perhaps optimizer and progress")
    optimizer = progress = None
    if training and "optimizer" in parts:
        group = _member(file, "optimizer", h5py.Group)
        optimizer = {slot: _read_arrays(_member(group, slot, h5py.Group)) for slot in _names(group)}
    if training and "progress" in parts:
        progress = _read_json(file, "progress")
    model = _read_arrays(_member(file, "model", h5py.Group))
    return ModelFile(path, _read_json(file, "config"), model, optimizer, progress)


# --- one dataset ----------------------------------------------------------------------------------------------------


def _write_arrays(group: h5py.Group, arrays: Mapping[str, np.ndarray]) -> None:
    for key, value in arrays.items():
        _check_key(key)
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{key} is {array.dtype}, not numbers")
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        dataset = group.create_dataset(key, data=array)
        dataset.attrs["sha256"] = np.bytes_(_digest(f"{dataset.name} {array.dtype.str} {array.shape}", array))


def _read_arrays(group: h5py.Group) -> Arrays:
    arrays = {}
    for key in _names(group):
        dataset = _member(group, key, h5py.Dataset)
        if dataset.dtype.kind not in "fiu" or dataset.dtype.itemsize > 8:
            raise ModelFileError(f"{dataset.name} is of type {dataset.dtype}, not numbers")
        array = np.asarray(dataset[()])
        _check_digest(dataset, f"{dataset.name} {array.dtype.str} {array.shape}", array)
        arrays[key] = array
    return arrays


def _write_json(file: h5py.File, name: str, value: Mapping[str, Any]) -> None:
    # NaN stays legal: a run whose loss is not finite must still be savable
    text = json.dumps(dict(value)).encode()
    dataset = file.create_dataset(name, data=np.bytes_(text), dtype=h5py.string_dtype("utf-8", len(text)))
    dataset.attrs["sha256"] = np.bytes_(_digest(f"/{name} json json", text))


def _read_json(file: h5py.File, name: str) -> dict[str, Any]:
    dataset = _member(file, name, h5py.Dataset)
    if dataset.dtype.kind != "S" or dataset.shape != ():
        raise ModelFileError(f"{dataset.name} is not text")
    text = bytes(dataset[()])
    _check_digest(dataset, f"/{name} json json", text)
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ModelFileError(f"{dataset.name} is not a JSON object")
    return value


def _digest(line: str, content: Any) -> str:
    # a flat view: hashlib takes no arrays of rank 0 and none that are empty in some axis
    data = content.reshape(-1).view(np.uint8).data if isinstance(content, np.ndarray) else content
    digest = hashlib.sha256(f"{line}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def _check_digest(dataset: h5py.Dataset, line: str, content: Any) -> None:
    if _attribute(dataset, "sha256") != _digest(line, content):
        raise ModelFileError(f"{dataset.name} does not match its sha256: the file is damaged")


def _check_key(key: str) -> None:
    if not isinstance(key, str) or not key or "/" in key or "\0" in key or key == ".":
        raise ValueError(f"{key!r} cannot name a dataset")


# --- suspicion ------------------------------------------------------------------------------------------------------


def _names(group: h5py.Group) -> list[str]:
    if len(group) > 1_000_000:
        raise ModelFileError(f"{group.name} claims {len(group)} members")
    return list(group)


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    """A member reached by a hard link, of the kind the schema has there, whose storage is in the file."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ModelFileError(f"{group.name.rstrip('/')}/{name} is a {type(link).__name__}, which is not followed")
    found = group[name]
    if not isinstance(found, kind):
        raise ModelFileError(f"{found.name} is a {type(found).__name__}, not a {kind.__name__}")
    if isinstance(found, h5py.Dataset):
        _check_storage(found)
    return found


def _check_storage(dataset: h5py.Dataset) -> None:
    plan = dataset.id.get_create_plist()
    if dataset.is_virtual or dataset.external:
        raise ModelFileError(f"{dataset.name} keeps its values in another file, which is not opened")
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    strangers = [code for code in filters if code not in _FILTERS]
    if strangers:
        raise ModelFileError(f"{dataset.name} uses HDF5 filter {strangers[0]}; gzip, shuffle, fletcher32 are read")
    if dataset.shape is None:
        raise ModelFileError(f"{dataset.name} has no shape")
    stored = min(dataset.id.get_storage_size(), os.path.getsize(dataset.file.filename))
    most = stored * _GZIP_RATIO if h5py.h5z.FILTER_DEFLATE in filters else stored
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if claimed > most:
        raise ModelFileError(f"{dataset.name} claims {claimed} bytes, the file holds at most {most} of them")


def _attribute(holder: h5py.Group | h5py.Dataset, name: str) -> str:
    """A short text attribute; "" if there is none."""
    if name not in holder.attrs:
        return ""
    found = holder.attrs.get_id(name)
    if found.shape != () or found.dtype.kind != "S" or found.dtype.itemsize > 128:
        raise ModelFileError(f"{holder.name}: attribute {name} is not a short text")
    return bytes(holder.attrs[name]).decode("ascii", "replace")


def _line(error: BaseException) -> str:
    """The first line of an error, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
