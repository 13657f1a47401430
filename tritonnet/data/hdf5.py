r"""Datasets in one HDF5 file, read image by image.

    /images   (N, H, W) or (N, H, W, 1 or 3), uint8 or uint16
    /masks    (N, H, W) whole numbers; may be called /labels too
    /labels   (N,) instead, for classification: `tritonnet.data.labelled`

A file that `pack` wrote has an attribute `format` = "tritonnet-data"; its masks are class numbers and 255 (ignored), the
attributes `class_names`, `palette` and `mask_mapping` (JSON) say what they were made of, and /names (text) and /split (0
train, 1 val, 2 test) hold one entry an image. In other files the mapping is inferred as for folders.

Members are reached and decoded by the rules of `tritonnet.io.untrusted`: nothing outside the file, no size it cannot hold.
"""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tritonnet.data.dataset import CACHE_BYTES, Dataset, Sample, each, split
from tritonnet.data.image import DataError, RawMask, fit_image, resize_mask
from tritonnet.data.mapping import IGNORE, MaskMapping, default_names
from tritonnet.data.survey import Histogram, histogram, survey
from tritonnet.io import untrusted
from tritonnet.io.untrusted import explained

__all__ = ["open_hdf5", "open_members", "pack"]

_FORMAT = "tritonnet-data"
_SPLITS = ("train", "val", "test")
_AT_ONCE = 64  # samples decoded ahead while packing


def _say(member: h5py.Dataset, index: int) -> str:
    return f"{member.file.filename}: {member.name}[{index}]"


def _at(member: h5py.Dataset, index: int) -> np.ndarray:
    """One image or mask."""
    with explained(Path(_say(member, index)), DataError):
        values: np.ndarray = untrusted.read(member, [range(index, index + 1), *map(range, member.shape[1:])])[0]
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{_say(member, index)}: holds values outside 0..65535")
    return values


def open_hdf5(
    path: Path,
    size: int,
    *,
    val: str | None = None,
    channels: int = 3,
    mapping: MaskMapping | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Dataset:
    """Open a file of images and masks; arguments and errors as for `open_dataset`.

    `val` of None is the file's own /split, else "every:5". Images are resized again where `size` is not the file's.
    """
    images, masks = open_members(path)
    if masks.shape != images.shape[:3]:
        raise DataError(f"{path}: {masks.name} must be {images.shape[:3]} for training, got {masks.shape}")
    about, own = _description(images.file, path, len(images))
    if "class_names" in about:
        K = len(about["class_names"])
        mapping = MaskMapping("values", K, {c: c for c in range(K)} | {IGNORE: IGNORE})
    if val is None and {"train", "val"} <= set(own):
        splits = own
    else:
        splits = split(about["names"], val or "every:5", own.get("test", ()))

    wide = images.dtype == np.uint16

    def look(index: int) -> Histogram:
        return histogram(RawMask(_at(masks, index).astype(np.int32)), _say(masks, index), size)

    found = survey(each(look, range(len(masks))), str(path), False, mapping)
    about.setdefault("mapping", found.mapping)
    about.setdefault("class_names", default_names(found.mapping.num_classes))
    divided = ", ".join(f"{len(chosen)} {part}" for part, chosen in splits.items() if chosen)
    resized = f", resized to {size}x{size}" if images.shape[1:3] != (size, size) else ""
    notes = [f"{len(images)} images of {images.shape[2]}x{images.shape[1]} in {path}{resized}: {divided}"]
    notes += [f"warning: {line}" for line in found.warnings] + found.notes(about["class_names"], splits["train"])

    def read(index: int, side: int | None) -> Sample:
        raw = resize_mask(_at(masks, index).astype(np.int32), side)
        image = fit_image(_at(images, index), side, channels=channels, wide=wide)
        return image, found.mapping.apply(raw, _say(masks, index))

    return Dataset(
        read=read, size=size, channels=channels, splits=splits, wide=wide, notes=notes, cache_bytes=cache_bytes, **about
    )


def _description(file: h5py.File, path: Path, count: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What `pack` wrote beside the images: arguments of Dataset, and the splits that hold samples."""
    try:
        said = untrusted.attributes(file, "format", "mask_mapping", "class_names", "palette", unread="?")
        if said.get("format") != _FORMAT:
            return {"names": [f"{i:06d}" for i in range(count)]}, {}
        names = [bytes(name).decode() for name in _values(file, "names", "S", count)]
        mapping = MaskMapping.from_json(json.loads(said["mask_mapping"]))
        about: dict[str, Any] = {
            "names": names, "mapping": mapping,
            "class_names": tuple(str(name) for name in json.loads(said["class_names"])),
            "palette": tuple((int(r), int(g), int(b)) for r, g, b in json.loads(said["palette"])),
        }  # fmt: skip
        if not mapping.num_classes == len(about["class_names"]) == len(about["palette"]) <= IGNORE:
            raise ValueError("classes, names and colours must be as many")
        if any("/" in name for name in names):  # names become file names
            raise ValueError("a name must not hold a slash")
        parts = _values(file, "split", "u", count)
    except (KeyError, OSError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: its description is damaged ({str(error)[:120]}); pack it anew") from None
    return about, {part: tuple(np.flatnonzero(parts == i).tolist()) for i, part in enumerate(_SPLITS) if i in parts}


def open_members(path: Path) -> tuple[h5py.Dataset, h5py.Dataset]:
    """The images of a file, and its masks or labels; only headers are read.

    Raises:
        DataError: not such a file, damaged, or of a kind that is not read for safety.
    """
    with explained(path, DataError, "no folder, and cannot be read as HDF5"):
        untrusted.check_start(path, "a folder or an HDF5 file")
        file = h5py.File(path, "r", locking=False)
        images = _member(file, "images", "u")
        targets = _member(file, "masks" if untrusted.has(file, "masks") else "labels", "iub")
    good = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not good or images.dtype.itemsize > 2 or 0 in images.shape:
        raise DataError(
            f"{path}: /images must be (N, H, W) or (N, H, W, 1 or 3) of uint8 or uint16, got {images.shape} {images.dtype}"
        )
    if targets.ndim not in (1, 3) or len(targets) != len(images):
        raise DataError(
            f"{path}: {targets.name} must be ({len(images)}, H, W) or ({len(images)},), got {targets.shape}"
        )
    return images, targets


def _member(file: h5py.File, name: str, kinds: str) -> h5py.Dataset:
    """A dataset of the file itself, of these dtype kinds."""
    if not untrusted.has(file, name):
        raise DataError(f"holds no /{name}; wanted are /images and /masks (or /labels)")
    found = untrusted.member(file, name, h5py.Dataset)
    if found.dtype.kind not in kinds:
        raise DataError(f"/{name} must be a dataset of {'text' if kinds == 'S' else 'whole numbers'}")
    return found


def _values(file: h5py.File, name: str, kinds: str, count: int) -> np.ndarray:
    """All of a dataset of `count` entries."""
    found = _member(file, name, kinds)
    if found.shape != (count,):
        raise DataError(f"/{name} must be {(count,)}, got {found.shape}")
    return untrusted.read(found)


def pack(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Write a dataset as training sees it (resized, masks as class numbers) to one file, an image a chunk.

    Masks are compressed; images are not, so that reading one costs little. Both have checksums.

    Raises:
        DataError: a damaged sample.
        OSError: the file cannot be written.
    """
    count, S = len(dataset), dataset.size
    parts = np.zeros(count, np.uint8)
    for i, part in enumerate(_SPLITS):
        parts[list(dataset.splits.get(part, ()))] = i
    with h5py.File(path, "w", libver=("v110", "v110"), locking=False) as file:  # `io.replacing` holds a lock
        file.attrs["format"] = np.bytes_(_FORMAT)
        for key in ("class_names", "palette", "mask_mapping"):
            file.attrs[key] = np.bytes_(json.dumps(dataset.config()[key]))
        file["names"] = np.array([name.encode() for name in dataset.names])
        file["split"] = parts
        shape = (count, S, S, dataset.channels)
        dtype = "u2" if dataset.wide else "u1"
        images = file.create_dataset("images", shape, dtype, chunks=(1, *shape[1:]), fletcher32=True)
        masks = file.create_dataset("masks", shape[:3], "u1", chunks=(1, S, S), compression="gzip", fletcher32=True)
        for start in range(0, count, _AT_ONCE):
            indices = range(start, min(start + _AT_ONCE, count))
            for i, (image, mask) in zip(indices, each(dataset.sample, indices), strict=True):
                images[i], masks[i] = image, mask
