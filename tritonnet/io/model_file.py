r"""Model files: HDF5, one schema, written atomically, read with suspicion.

    /                          attributes format = "tritonnet", format_version = 1
    /config                    JSON text: the model and its arguments, image scaling, classes, palette, mask mapping
    /model/<state_dict key>    arrays in torch's logical shape, C order
    /optimizer/<slot>/<key>    arrays (last.h5 only)
    /progress                  JSON text: epoch, step, position, seed, ... (last.h5 only)

Every dataset has an attribute `sha256`: the hash of the line "<path> <dtype> <shape>\n", for example
"/model/outc.conv.bias <f4 (2,)\n", followed by the array's bytes (C order, little-endian); JSON text is hashed the
same way with dtype and shape "json". So values, names and shapes are all guarded.

Reading visits only what the schema has, by the rules of `untrusted.py`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tritonnet.io.atomic import FileError, ModelFileError, replacing
from tritonnet.io.untrusted import attributes, check_start, explained, member, read

__all__ = ["FORMAT_VERSION", "ModelFile", "load_model", "save_model"]

FORMAT_VERSION = 1

Arrays = dict[str, np.ndarray]


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
    with (
        explained(Path(path), ModelFileError, "cannot be written"),
        replacing(path) as temporary,  # which holds the lock
        # "v110" checksums HDF5's own metadata, so that a flipped bit there is found as well
        h5py.File(temporary, "w", libver=("v110", "v110"), locking=False) as file,
    ):
        file.attrs["format"] = np.bytes_("tritonnet")
        file.attrs["format_version"] = np.int64(FORMAT_VERSION)
        _write_json(file, "config", config)
        _write_arrays(file, "model", model)
        if optimizer is not None:
            group = file.create_group("optimizer", track_order=True)
            for slot, arrays in optimizer.items():
                _write_arrays(group, slot, arrays)
        if progress is not None:
            _write_json(file, "progress", progress)


def load_model(path: str | os.PathLike[str], *, training: bool = True, weights: bool = True) -> ModelFile:
    """Read a model file and check every hash.

    Args:
        path: the file.
        training: False leaves the optimizer and the progress unread (None in the result).
        weights: False leaves the model unread ({} in the result).

    Raises:
        ModelFileError: no such file, no model file, another version, damaged, or of a kind that is not read for safety.
    """
    path = Path(path)
    with explained(path, ModelFileError):
        check_start(path, "a tritonnet model file")
        # model files are replaced, never changed in place, so reading needs no lock
        with h5py.File(path, "r", locking=False) as file:
            return _read(file, path, training, weights)


def _read(file: h5py.File, path: Path, training: bool, weights: bool) -> ModelFile:
    if attributes(file, "format") != {"format": "tritonnet"}:
        raise FileError("HDF5, but not a tritonnet model file (no attribute format = tritonnet)")
    version = attributes(file, "format_version").get("format_version")
    if version != FORMAT_VERSION:
        raise FileError(f"format version {version}, this tritonnet reads version {FORMAT_VERSION}")
    parts = set(file)
    if not {"config", "model"} <= parts <= {"config", "model", "optimizer", "progress"}:
        raise FileError(f"holds {sorted(parts)}; a model file has config, model, perhaps optimizer and progress")
    optimizer = progress = None
    if training and "optimizer" in parts:
        group = member(file, "optimizer", h5py.Group)
        optimizer = {slot: _read_arrays(member(group, slot, h5py.Group)) for slot in group}
    if training and "progress" in parts:
        progress = _read_json(file, "progress")
    model = _read_arrays(member(file, "model", h5py.Group)) if weights else {}
    return ModelFile(path, _read_json(file, "config"), model, optimizer, progress)


# --- one dataset ----------------------------------------------------------------------------------------------------


def _write_arrays(parent: h5py.Group, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    for key in (name, *arrays):
        if not isinstance(key, str) or not key or "/" in key or "\0" in key or key == ".":
            raise ValueError(f"{key!r} cannot name a dataset")
    group = parent.create_group(name, track_order=True)
    for key, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{key} is {array.dtype}, not numbers")
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        dataset = group.create_dataset(key, data=array)
        dataset.attrs["sha256"] = np.bytes_(_digest(f"{dataset.name} {array.dtype.str} {array.shape}", array))


def _read_arrays(group: h5py.Group) -> Arrays:
    arrays = {}
    for key in group:
        dataset = member(group, key, h5py.Dataset)
        if dataset.dtype.kind not in "fiu":
            raise FileError(f"{dataset.name} is of type {dataset.dtype}, not numbers")
        array = read(dataset)
        _check_digest(dataset, f"{dataset.name} {array.dtype.str} {array.shape}", array)
        arrays[key] = array
    return arrays


def _write_json(file: h5py.File, name: str, value: Mapping[str, Any]) -> None:
    # NaN stays legal: a run whose loss is not finite must still be savable
    text = json.dumps(dict(value)).encode()
    dataset = file.create_dataset(name, data=np.bytes_(text), dtype=h5py.string_dtype("utf-8", len(text)))
    dataset.attrs["sha256"] = np.bytes_(_digest(f"/{name} json json", text))


def _read_json(file: h5py.File, name: str) -> dict[str, Any]:
    dataset = member(file, name, h5py.Dataset)
    if dataset.dtype.kind != "S" or dataset.shape != ():
        raise FileError(f"{dataset.name} is not text")
    text = bytes(read(dataset)[()])
    _check_digest(dataset, f"/{name} json json", text)
    value = json.loads(text)
    if not isinstance(value, dict):
        raise FileError(f"{dataset.name} is not a JSON object")
    return value


def _digest(line: str, content: Any) -> str:
    # a flat view: hashlib takes no arrays of rank 0 and none that are empty in some axis
    data = content.reshape(-1).view(np.uint8).data if isinstance(content, np.ndarray) else content
    digest = hashlib.sha256(f"{line}\n".encode())
    digest.update(data)
    return digest.hexdigest()


def _check_digest(dataset: h5py.Dataset, line: str, content: Any) -> None:
    if str(attributes(dataset, "sha256").get("sha256")) != _digest(line, content):
        raise FileError(f"{dataset.name} does not match its sha256: the file is damaged")
