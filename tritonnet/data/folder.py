"""Datasets in folders, recognised by what lies there.

    DIR/images/a.jpg  DIR/masks/a.png              any classes; the mapping from mask values is inferred
    DIR/train/a.jpg   DIR/train_masks/a_mask.gif   Carvana; `_mask` may also end the names in masks/
    DIR/a.jpg         DIR/a_mask.gif               the same in one folder
    DIR/images/a.jpg  DIR/annotations/trimaps/a.png, annotations/trainval.txt, annotations/test.txt
                                                    pet 1, background 0, the unsure border ignored (Parkhi et al., 2012)

Samples are in the order of the image files' sorted names. Opening reads every image's header and every mask, so most
faults show before training starts.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tritonnet.data.dataset import CACHE_BYTES, Dataset, Sample, attempt, check_shape, find, read_names, split
from tritonnet.data.hdf5 import open_hdf5
from tritonnet.data.image import (
    PICTURES,
    DataError,
    Header,
    image_header,
    list_images,
    load_image,
    read_mask,
    resize_mask,
)  # fmt: skip
from tritonnet.data.mapping import IGNORE, MaskMapping, default_names, default_palette, rgb
from tritonnet.data.survey import Histogram, Survey, histogram, survey

__all__ = ["Files", "examine", "make_dataset", "open_dataset"]

_TRIMAP = MaskMapping("values", 2, {1: 1, 2: 0, 3: IGNORE})
_LAYOUTS = (("images", "annotations/trimaps"), ("images", "masks"), ("train", "train_masks"))


class Pair(NamedTuple):
    """An image file with its mask, and what their headers say."""

    image: Path
    mask: Path
    head: Header
    mask_head: Header


@dataclass
class Files:
    """What lies in a folder.

    Attributes:
        root: the folder.
        layout: how it was recognised, for the user.
        pairs: images with masks that have no fault.
        faults: a line for every other file, or for what is wrong with all of them.
        warnings: lines for the user.
        parts: for the pets, the names in trainval.txt and test.txt.
        counts: pixels of each value or colour over all masks.
        masks: what they are taken for; None where a fault keeps it unknown.
    """

    root: Path
    layout: str
    pairs: list[Pair] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[object] = field(default_factory=Counter)
    masks: Survey | None = None


def open_dataset(
    root: str | os.PathLike[str],
    size: int,
    *,
    val: str | None = None,
    channels: int = 3,
    mapping: MaskMapping | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Dataset:
    """Open a folder in one of the layouts above, or an HDF5 file (`tritonnet.data.hdf5`).

    Args:
        root: the folder or file.
        size: side S, in pixels, that images (bilinear) and masks (nearest) are resized to; at least 1.
        val: how to divide: see `split`. None is "every:5"; for the pets trainval.txt trains and test.txt validates.
            With the pets another spec divides trainval.txt and leaves test.txt as split "test".
        channels: 3, or 1; grey images are repeated to 3.
        mapping: the mask mapping of a trained model; None infers it over all masks.
        cache_bytes: memory for decoded samples.

    Raises:
        DataError: anything wrong with the folder or its files, in one line that names the file.
    """
    check_shape(size, channels)
    root = Path(root)
    if root.is_file():
        return open_hdf5(root, size, val=val, channels=channels, mapping=mapping, cache_bytes=cache_bytes)
    files = examine(root, size, mapping)
    if files.faults:
        more = len(files.faults) - 1
        raise DataError(files.faults[0] + (f" (and {more} more: tritonnet data check {root})" if more else ""))
    return make_dataset(files, size, val, channels, cache_bytes)


def examine(root: Path, size: int, mapping: MaskMapping | None = None) -> Files:
    """Pair the files of a folder, read the images' headers and the masks.

    Raises:
        DataError: the folder has none of the layouts, no picture, or no split files where it needs them.
    """
    files, images, masks = _find(root)
    rows = _pair(files, images, masks)
    heads = attempt(image_header, [path for row in rows for path in row], files.faults)
    for (image, mask), head, mask_head in zip(rows, heads[::2], heads[1::2], strict=True):
        if head is None or mask_head is None:
            continue
        if head.size != mask_head.size:
            turned = f" upright (its EXIF orientation is {head.orientation})" if head.orientation != 1 else ""
            files.faults.append(
                f"{mask}: is {mask_head.size[0]}x{mask_head.size[1]} pixels, but its image {image.name} is "
                f"{head.size[0]}x{head.size[1]}{turned}; save the mask in the same size and orientation"
            )
            continue
        files.pairs.append(Pair(image, mask, head, mask_head))
    turned_alone = [pair.image.name for pair in files.pairs if pair.head.orientation != pair.mask_head.orientation]
    if turned_alone:
        files.warnings.append(
            f"{len(turned_alone)} images are turned upright as their EXIF data ask, their masks are not (such as "
            f"{turned_alone[0]}): see whether they fit with tritonnet data preview"
        )
    if files.pairs:
        _examine_masks(files, size, mapping or (_TRIMAP if files.parts else None))
    return files


def _examine_masks(files: Files, size: int, mapping: MaskMapping | None) -> None:
    def look(path: Path) -> Histogram:
        return histogram(read_mask(path, coloured=coloured), str(path), size)

    faults: list[str] = []
    coloured = mapping is not None and mapping.rule == "colours"
    found = attempt(look, [pair.mask for pair in files.pairs], faults)
    if len({one.coloured for one in found if one is not None}) > 1:  # where some have colours, all are read so
        coloured, faults = True, []
        found = attempt(look, [pair.mask for pair in files.pairs], faults)
    files.faults += faults
    files.pairs = [pair for pair, masks in zip(files.pairs, found, strict=True) if masks is not None]
    masks = [one for one in found if one is not None]
    for one in masks:
        for value, pixels in zip(one.values.tolist(), one.pixels.tolist(), strict=True):
            files.counts[rgb(value) if one.coloured else value] += pixels
    lossy = any(pair.mask_head.lossy for pair in files.pairs)
    try:
        if masks:
            files.masks = survey(masks, str(files.pairs[0].mask.parent), lossy, mapping)
            files.warnings += files.masks.warnings
    except DataError as error:
        files.faults.append(str(error))


def make_dataset(files: Files, size: int, val: str | None, channels: int, cache_bytes: int) -> Dataset:
    """The dataset of files without a fault; arguments as for `open_dataset`."""
    names = [_name(pair.image) for pair in files.pairs]
    wide = sum(pair.head.wide for pair in files.pairs)
    notes = [f"{wide} of {len(names)} images have 16 bits a value; all are read as 16 bits"] if wide else []
    assert files.masks is not None
    mapping, colours = files.masks.mapping, files.masks.colours
    K = mapping.num_classes
    class_names = ("background", "pet") if files.parts else default_names(K)
    if files.parts:
        train, test = (tuple(sorted(find(names, files.parts[part], part))) for part in ("trainval", "test"))
        listed = f"{len(train)} in trainval.txt, {len(test)} in test.txt"
        notes += [f"Oxford-IIIT Pet: {listed}; the unsure border is ignored"]
        if val is None or val == "test":
            splits = {"train": train, "val": test}
            notes += ["the test set chooses the best model (validation is test.txt); --val every:5 keeps the two apart"]
        else:
            splits = split(names, val, test)
    else:
        splits = split(names, val or "every:5")
    divided = ", ".join(f"{len(chosen)} {part}" for part, chosen in splits.items() if chosen)
    notes += [f"{len(names)} images: {divided}"]
    notes += [f"warning: {line}" for line in files.warnings] + files.masks.notes(class_names, splits["train"])

    def read(index: int, side: int | None) -> Sample:
        image, path, *_ = files.pairs[index]
        raw = read_mask(path, coloured=mapping.rule == "colours").values
        mask = mapping.apply(resize_mask(raw, side), str(path))  # what is passed over was counted in the survey
        return load_image(image, side, channels=channels, wide=wide > 0), mask

    return Dataset(
        read=read, names=names, size=size, channels=channels, class_names=class_names, mapping=mapping, splits=splits,
        wide=wide > 0, notes=notes, cache_bytes=cache_bytes,
        palette=tuple(colours.get(c, colour) for c, colour in enumerate(default_palette(K))),
    )  # fmt: skip


def _find(root: Path) -> tuple[Files, list[Path], list[Path]]:
    """The layout of a folder, its images and its masks."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data wants a folder with images/ and masks/, or an HDF5 file")
    for image_part, mask_part in _LAYOUTS:
        if (root / image_part).is_dir() and (root / mask_part).is_dir():
            break
    else:
        inside = sorted(root.iterdir())
        masks = [file for file in inside if file.stem.endswith("_mask") and file.suffix.lower() in PICTURES]
        if masks:
            images = [file for file in list_images(root, others_allowed=True) if file not in set(masks)]
            return Files(root, "NAME and NAME_mask"), images, masks
        missing = root / "masks" if (root / "images").is_dir() else root / "images"
        found = ", ".join(path.name for path in inside[:6]) or "nothing"
        raise DataError(f"{missing}: no such folder; {root} must hold images/ and masks/, and holds {found}")
    files = Files(root, f"{image_part}/ and {mask_part}/")
    if mask_part == "annotations/trimaps":
        for part in ("trainval", "test"):
            # a line is: name, class, species, breed
            files.parts[part] = [line.split()[0] for line in read_names(root / "annotations" / f"{part}.txt")]
            if not files.parts[part]:
                raise DataError(f"{root / 'annotations' / part}.txt: lists no image")
        # the published archive has MATLAB files among the images
        images = list_images(root / image_part, others_allowed=True)
        stems, wanted = [_name(path) for path in images], set()
        for part, names in files.parts.items():
            wanted |= {stems[i] for i in find(stems, names, root / "annotations" / f"{part}.txt")}
        images = [image for image in images if _name(image) in wanted]
        return files, images, list_images(root / mask_part, others_allowed=True)
    return files, _listed(root / image_part, files), _listed(root / mask_part, files)


def _listed(folder: Path, files: Files) -> list[Path]:
    """The pictures of a folder; another file is a fault."""
    inside = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(("_", "."))]
    if inside:
        files.warnings.append(f"{folder}: the folders in it are not searched ({', '.join(sorted(inside)[:6])})")
    try:
        return list_images(folder)
    except DataError as error:
        files.faults.append(str(error))
        return list_images(folder, others_allowed=True)


def _name(path: Path) -> str:
    """A file's name without its extension, in one spelling where Unicode has two (macOS stores the longer)."""
    return unicodedata.normalize("NFC", path.stem)


def _pair(files: Files, images: Sequence[Path], masks: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Images with their masks; what is left over is a fault, but for masks of pets that no split lists."""
    faults = files.faults
    at: dict[str, Path] = {}
    for image in images:
        if (twin := at.setdefault(_name(image), image)) != image:
            faults.append(f"{image}: has the same name as {twin.name}; keep one of the two")
    found: dict[str, Path] = {}
    for mask in masks:
        name = _name(mask)
        name = name if name in at else name.removesuffix("_mask")
        if (twin := found.setdefault(name, mask)) != mask:
            faults.append(f"{mask}: has the same name as {twin.name}; keep one of the two")
        elif name not in at and not files.parts:
            faults.append(f"{mask}: mask without an image; add an image {_name(mask)} or remove the mask")
    ending = "_mask" if masks[0].stem.endswith("_mask") else ""
    faults += [
        f"{image}: has no mask; add {masks[0].parent / name}{ending}.png"
        for name, image in at.items()
        if name not in found
    ]
    return [(image, found[name]) for name, image in at.items() if name in found]
