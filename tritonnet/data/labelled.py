"""Images with one class each: MNIST, CIFAR-10, CIFAR-100, or an HDF5 file with /images and one-dimensional /labels.

    MNIST      train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-... (also .gz): the IDX format, a magic number
               0 0 8 rank, then the sizes as big-endian 32-bit numbers, then the bytes (LeCun, Cortes, Burges)
    CIFAR-10   data_batch_1.bin to data_batch_5.bin, test_batch.bin: a label byte, then 3x32x32 bytes an image
    CIFAR-100  train.bin, test.bin: two label bytes, coarse and fine, then the same (Krizhevsky, 2009)

The Python version of CIFAR is pickled, and reading a pickle runs what it says; it is refused.
"""

import gzip
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tritonnet.data.hdf5 import open_members
from tritonnet.data.image import DataError
from tritonnet.io import untrusted
from tritonnet.io.untrusted import explained

__all__ = ["Labelled", "open_labelled"]

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR = {  # label bytes, then the files of each split
    "cifar-10-batches-bin": (1, {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}),
    "cifar-100-binary": (2, {"train": ["train.bin"], "test": ["test.bin"]}),
}
_PICKLES = ("data_batch_1", "meta", "cifar-10-batches-py", "cifar-100-python")


class Labelled(NamedTuple):
    """Images and their classes.

    Attributes:
        images: (N, H, W) or (N, H, W, C) uint8, or uint16 from HDF5.
        labels: (N,) int64 in 0..K-1.
        class_names: K of them.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def open_labelled(root: str | os.PathLike[str], split: str = "train") -> Labelled:
    """Read a dataset, recognised by the files in `root`.

    Args:
        root: the folder, or an HDF5 file (all of it is split "train").
        split: "train" or "test".

    Raises:
        DataError: no such files, damaged ones, or the pickled version of CIFAR.
    """
    root = Path(root)
    if split not in ("train", "test"):
        raise DataError(f"{root}: split must be train or test, got {split}")
    if root.is_file():
        images, targets = open_members(root)
        if targets.ndim != 1 or split != "train":
            raise DataError(f"{root}: {targets.name} must be (N,) and split train, got {targets.shape} and {split}")
        with explained(root, DataError):
            labels = untrusted.read(targets)
            return _checked(root, untrusted.read(images), labels, _numbered(int(labels.max()) + 1))
    prefix = "train" if split == "train" else "t10k"
    for ending in ("-ubyte", "-ubyte.gz"):
        if (file := root / f"{prefix}-images-idx3{ending}").is_file():
            labels = _read_idx(root / f"{prefix}-labels-idx1{ending}", 1)
            return _checked(root, _read_idx(file, 3), labels, tuple("0123456789"))
    for folder, (label_bytes, files) in _CIFAR.items():
        place = root / folder if (root / folder).is_dir() else root
        if (place / files["test"][0]).is_file():
            return _read_cifar(place, files[split], label_bytes)
    if any((root / name).exists() for name in _PICKLES):
        raise DataError(f"{root}: CIFAR's Python version is pickled and not read; download its binary version")
    inside = ", ".join(sorted(path.name for path in root.glob("*"))[:6]) or "nothing"
    raise DataError(f"{root}: must hold MNIST (train-images-idx3-ubyte.gz) or CIFAR (data_batch_1.bin), holds {inside}")


def _read_idx(file: Path, rank: int) -> np.ndarray:
    """An array of bytes; no more is read than the file's own size allows."""
    reader, ratio = (gzip.open, untrusted.GZIP_RATIO) if file.suffix == ".gz" else (open, 1)
    with explained(file, DataError, "cannot be read as IDX; download it again"), reader(file, "rb") as stream:
        head = stream.read(4 + 4 * rank)
        magic, *shape = (int.from_bytes(head[at : at + 4]) for at in range(0, 4 + 4 * rank, 4))
        if magic != 8 * 256 + rank:
            raise ValueError(f"its magic number must be {8 * 256 + rank}, got {magic}")
        size = math.prod(shape)
        content = stream.read(size + 1) if size <= os.path.getsize(file) * ratio else b""
        if len(content) != size or size == 0:
            raise ValueError(f"its header claims {size} bytes, which it does not hold")
        return np.frombuffer(content, np.uint8).reshape(shape)


def _read_cifar(folder: Path, files: list[str], label_bytes: int) -> Labelled:
    parts, record = [], label_bytes + 3072
    for file in files:
        with explained(folder / file, DataError, "cannot be read; download it again"):
            parts.append(np.fromfile(folder / file, np.uint8))
            if not len(parts[-1]) or len(parts[-1]) % record:
                raise DataError(f"must hold records of {record} bytes, got {len(parts[-1])}; download it again")
    every = np.concatenate(parts).reshape(-1, record)
    images = np.ascontiguousarray(every[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    listed = folder / "fine_label_names.txt"
    names = _CIFAR10 if label_bytes == 1 else tuple(listed.read_text().split()) if listed.is_file() else _numbered(100)
    return _checked(folder, images, every[:, label_bytes - 1], names)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {c}" for c in range(count))


def _checked(root: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Labelled:
    if len(images) != len(labels) or not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(
            f"{root}: must hold a label in 0..{len(names) - 1} for each of {len(images)} images, got {len(labels)} labels "
            f"in {labels.min()}..{labels.max()}"
        )
    return Labelled(images, labels.astype(np.int64), names)
