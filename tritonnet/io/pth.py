"""PyTorch weight files. The one place that calls `torch.load`, and only with `weights_only=True`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from tritonnet.io.atomic import ModelFileError
from tritonnet.io.hdf5 import Entry

__all__ = ["load_pth", "shapes_pth"]

_EXTRA = "mask_values"  # a list of mask values that the widely used U-Net's files carry beside the weights


def load_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The weights in a `.pth` file: a state_dict, or a dict with a `state_dict` inside.

    Drops the key `mask_values` and the prefix `module.` that data-parallel training leaves.

    Returns:
        {key: array in torch's shape, C order}; bfloat16 becomes float32, exactly, since numpy has no bfloat16.

    Raises:
        ModelFileError: no such file, not a PyTorch file, or one that holds more than tensors.
    """
    return {name: _array(Path(path), name, value) for name, value in _tensors(Path(path), "cpu")}


def shapes_pth(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """What `load_pth` would read, without reading the values. Raises as it does."""
    for name, value in _tensors(Path(path), "meta"):
        size = value.numel() * value.element_size()
        yield Entry(name, tuple(value.shape), str(value.dtype).removeprefix("torch."), size, size)


def _tensors(path: Path, place: str) -> Iterator[tuple[str, torch.Tensor]]:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        loaded: Any = torch.load(path, map_location=place, weights_only=True)
    except Exception as error:  # torch raises its own, pickle's, zip's and the system's errors
        hint = "save it with torch.save(model.state_dict(), path)"
        if h5py.is_hdf5(path):
            hint = "it is HDF5: tritonnet.io.load_model(path).model has the weights of a model file"
        raise ModelFileError(f"{path}: not a PyTorch file of plain weights; {hint}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise ModelFileError(f"{path}: holds a {type(loaded).__name__}, not a state_dict")
    seen = set()
    for key, value in loaded.items():
        if key == _EXTRA:
            continue
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ModelFileError(f"{path}: entry {key!r} is a {type(value).__name__}, not a tensor; not a state_dict")
        name = key.removeprefix("module.")
        if name in seen:
            raise ModelFileError(f"{path}: holds both {name} and module.{name}")
        seen.add(name)
        yield name, value
    if not seen:
        raise ModelFileError(f"{path}: holds no weights")


def _array(path: Path, key: str, value: torch.Tensor) -> np.ndarray:
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise ModelFileError(f"{path}: entry {key!r} is not a plain tensor")
    value = value.detach()
    if value.dtype == torch.bfloat16:
        # a bfloat16 is the upper half of a float32
        bits = np.ascontiguousarray(value.view(torch.int16).numpy()).view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32)
    try:
        return np.array(value.numpy(), order="C")
    except TypeError:
        raise ModelFileError(f"{path}: entry {key!r} has the type {value.dtype}, which is not read") from None
