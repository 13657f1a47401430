"""Datasets in folders: images with masks of the same name, and the Oxford-IIIT Pet layout.

    DIR/images/a.jpg  DIR/masks/a.png           any classes; the mapping from mask values is inferred
    DIR/images/a.jpg  DIR/annotations/trimaps/a.png, annotations/trainval.txt, annotations/test.txt
                                                 pet 1, background 0, the unsure border ignored (Parkhi et al., 2012)

Samples are in the order of the image files' sorted names. Opening reads every image's header and every mask (the
trimaps' values are known, so theirs are read when used), so most faults show before training starts.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tritonnet.data.dataset import CACHE_BYTES, Dataset, check_shape, each, find, read_names, split
from tritonnet.data.image import DataError, image_header, list_images, load_image, read_mask, resize_mask
from tritonnet.data.mapping import IGNORE, MaskMapping, default_palette, infer_mapping

__all__ = ["FolderDataset", "open_dataset"]

_TRIMAP = MaskMapping("values", 2, {1: 1, 2: 0, 3: IGNORE})


class FolderDataset(Dataset):
    """Image files and mask files. Made by `open_dataset`."""

    def __init__(self, images: Sequence[Path], masks: Sequence[Path], **about: object) -> None:
        super().__init__(names=[path.stem for path in images], **about)  # type: ignore[arg-type]
        self.images = tuple(images)
        self.masks = tuple(masks)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = load_image(self.images[index], self.size, channels=self.channels, wide=self.wide)
        raw, _ = read_mask(self.masks[index])
        return image, resize_mask(self.mapping.apply(raw, str(self.masks[index])), self.size)


def open_dataset(
    root: str | os.PathLike[str],
    size: int,
    *,
    val: str | None = None,
    channels: int = 3,
    mapping: MaskMapping | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> FolderDataset:
    """Open a folder of images and masks, or the Oxford-IIIT Pet dataset, recognised by what lies in `root`.

    Args:
        root: the folder.
        size: side S, in pixels, that images (bilinear) and masks (nearest) are resized to; at least 1.
        val: how to divide: see `split`. None is "every:5" for a folder; for the pets trainval.txt trains and test.txt
            validates. With the pets another spec divides trainval.txt and leaves test.txt as split "test".
        channels: 3, or 1; grey images are repeated to 3.
        mapping: the mask mapping of a trained model; None infers it over all masks.
        cache_bytes: memory for decoded samples.

    Raises:
        DataError: anything wrong with the folder or its files, in one line that names the file.
    """
    check_shape(size, channels)
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data wants a folder with images/ and masks/")
    pets = (root / "annotations" / "trimaps").is_dir()
    masks = root / "annotations" / "trimaps" if pets else root / "masks"
    for folder in (root / "images", masks):
        if not folder.is_dir():
            inside = ", ".join(sorted(entry.name for entry in root.iterdir())[:6]) or "nothing"
            raise DataError(f"{folder}: no such folder; {root} must hold images/ and masks/, and holds {inside}")
    if pets:
        return _open_pets(root, masks, size, val, channels, mapping, cache_bytes)
    return _open_folder(root, masks, size, val or "every:5", channels, mapping, cache_bytes)


def _open_folder(
    root: Path, folder: Path, size: int, val: str, channels: int, mapping: MaskMapping | None, cache_bytes: int
) -> FolderDataset:
    images, masks = _pair(list_images(root / "images"), _by_stem(list_images(folder)), extra_allowed=False)
    wide, lossy, notes = _check_sizes(images, masks)
    colours: dict[int, tuple[int, int, int]] = {}
    if mapping is None:
        mapping, colours = _infer(masks, folder, lossy)
    notes += [str(mapping)]
    K = mapping.num_classes
    palette = tuple(colours.get(c, colour) for c, colour in enumerate(default_palette(K)))
    class_names = ("background", "foreground") if K == 2 else tuple(f"class {c}" for c in range(K))
    splits = split([path.stem for path in images], val)
    notes += [f"{len(images)} images: {len(splits['train'])} train, {len(splits['val'])} validate (--val {val})"]
    return FolderDataset(
        images, masks, size=size, channels=channels, class_names=class_names, mapping=mapping, splits=splits, wide=wide,
        palette=palette, notes=notes, cache_bytes=cache_bytes,
    )  # fmt: skip


def _open_pets(
    root: Path, folder: Path, size: int, val: str | None, channels: int, mapping: MaskMapping | None, cache_bytes: int
) -> FolderDataset:
    listed: dict[str, list[str]] = {}
    for part in ("trainval", "test"):
        file = root / "annotations" / f"{part}.txt"
        if not file.is_file():
            raise DataError(f"{file}: no such file; the Oxford-IIIT Pet layout needs its two split files")
        # a line is: name, class, species, breed
        listed[part] = [line.split()[0] for line in read_names(file)]
        if not listed[part]:
            raise DataError(f"{file}: lists no image")
    # the published archive has MATLAB files among the images
    every = list(_by_stem(list_images(root / "images", others_allowed=True)).values())
    stems = [path.stem for path in every]
    wanted = {i for part, names in listed.items() for i in find(stems, names, root / "annotations" / f"{part}.txt")}
    images, masks = _pair([every[i] for i in sorted(wanted)], _by_stem(list_images(folder)), extra_allowed=True)
    wide, _, notes = _check_sizes(images, masks)
    names = [path.stem for path in images]
    train, test = (tuple(sorted(find(names, listed[part], part))) for part in ("trainval", "test"))
    notes += [f"Oxford-IIIT Pet: {len(train)} in trainval.txt, {len(test)} in test.txt; the unsure border is ignored"]
    if val is None or val == "test":
        splits = {"train": train, "val": test}
        notes += ["the test set chooses the best model (validation is test.txt); --val every:5 keeps the two apart"]
    else:
        inner = split([names[i] for i in train], val)
        splits = {part: tuple(train[i] for i in chosen) for part, chosen in inner.items()} | {"test": test}
        notes += [f"{len(splits['train'])} train, {len(splits['val'])} validate (--val {val}), {len(test)} test"]
    return FolderDataset(
        images, masks, size=size, channels=channels, class_names=("background", "pet"), mapping=mapping or _TRIMAP,
        splits=splits, wide=wide, notes=notes, cache_bytes=cache_bytes,
    )  # fmt: skip


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Files by name without extension; two of one name are refused."""
    stems: dict[str, Path] = {}
    for file in files:
        if file.stem in stems:
            raise DataError(f"{file}: has the same name as {stems[file.stem].name}; keep one of the two")
        stems[file.stem] = file
    return stems


def _pair(images: list[Path], masks: dict[str, Path], *, extra_allowed: bool) -> tuple[list[Path], list[Path]]:
    """Images with their masks."""
    _by_stem(images)
    lonely = [path for path in images if path.stem not in masks]
    if lonely:
        more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
        raise DataError(f"{lonely[0]}{more}: has no mask; add {next(iter(masks.values())).parent}/{lonely[0].stem}.png")
    extra = sorted(set(masks) - {path.stem for path in images})
    if extra and not extra_allowed:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise DataError(f"{masks[extra[0]]}{more}: mask without an image; add images/{extra[0]}.png or remove the mask")
    return images, [masks[path.stem] for path in images]


def _check_sizes(images: Sequence[Path], masks: Sequence[Path]) -> tuple[bool, bool, list[str]]:
    """Refuse a mask of another size than its image. Any image of 16 bits? Any mask a JPEG? Notes for the user."""
    heads, mask_heads = each(image_header, images), each(image_header, masks)
    for image, mask, head, mask_head in zip(images, masks, heads, mask_heads, strict=True):
        if head.size != mask_head.size:
            turned = f" upright (its EXIF orientation is {head.orientation})" if head.orientation != 1 else ""
            raise DataError(
                f"{mask}: is {mask_head.size[0]}x{mask_head.size[1]} pixels, but its image {image.name} is "
                f"{head.size[0]}x{head.size[1]}{turned}; save the mask in the same size and orientation"
            )
    wide = sum(head.wide for head in heads)
    notes = [f"{wide} of {len(images)} images have 16 bits a value; all are read as 16 bits"] if wide else []
    return wide > 0, any(head.jpeg for head in mask_heads), notes


def _infer(masks: Sequence[Path], folder: Path, lossy: bool) -> tuple[MaskMapping, dict[int, tuple[int, int, int]]]:
    """Read all masks; the mapping, and the colour of each class where coloured palettes give one."""
    counts = np.zeros(65536, np.int64)
    where: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    coloured: list[Path] = []
    greyest = (0.0, "")

    def histogram(path: Path) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[int, int, int]] | None]:
        raw, used = read_mask(path)
        histo = np.bincount(raw.ravel())
        values = np.flatnonzero(histo)
        return values, histo[values], used

    for path, (values, times, used) in zip(masks, each(histogram, masks), strict=True):
        counts[values] += times
        for value in values:
            where.setdefault(int(value), path.name)
        greyest = max(greyest, (float(times[(values >= 64) & (values < 192)].sum() / times.sum()), path.name))
        if used is not None:
            coloured.append(path)
        for value, colour in (used or {}).items():
            if colours.setdefault(value, colour) != colour:
                raise DataError(
                    f"{path}: palette number {value} is the colour {colour}, but {colours[value]} in {where[value]}; "
                    "one number must mean one class: save the masks with one palette"
                )
    if coloured and len(coloured) < len(masks):
        raise DataError(f"{coloured[0]}: has a coloured palette while other masks have none; save all masks in one way")
    mapping = infer_mapping(counts, where, lossy, greyest, str(folder))
    return mapping, {c: colours[v] for v, c in mapping.values.items() if v in colours and c != IGNORE}
