"""From pictures to masks: class ids at the picture's own size, palette PNGs and overlays, probabilities.

A picture is resized to the size S x S that the network was trained at, as evaluation does, and its S x S logits are
resized bilinearly to the picture's own size: so a picture of S x S pixels gets the very mask that `evaluate` scores.
That suits pictures that show what the training pictures showed, whatever their resolution. With tiles nothing is
resized: the network sees windows of the picture at full resolution (see tiling.py), which suits pictures much larger
than those trained on but of the same magnification, such as a whole slide.

Memory: a resized picture of H x W pixels takes 4 * H * W * K bytes on the device for its K classes, once; with tiles it
does not depend on H. On the host lies one picture with its mask, and the S x S pixels of `batch_size`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from tritonnet.autograd import Tensor
from tritonnet.data import DataError, Dataset, list_images, load_image
from tritonnet.data.image import PICTURES, fit_image, image_header
from tritonnet.kernels.argmax import argmax_fwd
from tritonnet.kernels.runtime import refuse
from tritonnet.nn import functional as F
from tritonnet.train.batches import Normalizer
from tritonnet.train.config import LARGEST
from tritonnet.train.folder import check_out
from tritonnet.train.metrics import Metrics
from tritonnet.train.pictures import overlay, save_mask, side_by_side
from tritonnet.train.tiling import tiled
from tritonnet.train.trained import Trained

__all__ = ["RESIZED", "Inference", "masks", "predict", "write_samples"]

BAND = 256  # rows of a resized picture whose probabilities are computed at a time


@dataclass(frozen=True)
class Inference:
    """How `predict` and `evaluate` apply a network to pictures.

    Args:
        tiles: compute overlapping tiles at full resolution instead of resizing.
        tile_size: side of a tile in pixels, from `trained.least` to 8192; None for the size trained at.
        overlap: of neighbouring tiles, as a share of their side from 0 to below 1; None for 0.25.
        tta: "flips" averages the probabilities of the image and its three mirror images; "none".
        batch_size: resized pictures or tiles computed at a time, at least 1.

    Raises:
        Refused: a number or choice out of range, or what goes with tiles alone.
    """

    tiles: bool = False
    tile_size: int | None = None
    overlap: float | None = None
    tta: str = "none"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.overlap is not None and not (self.tiles and 0 <= self.overlap < 1):
            refuse("inference", f"overlap must come with tiles and be from 0 to below 1, got {self.overlap}")
        if self.tta not in ("none", "flips"):
            refuse("inference", f"tta must be one of none, flips, got {self.tta!r}")

    @property
    def plain(self) -> bool:
        """Whether the network's one result is all: logits, not averaged."""
        return not self.tiles and self.tta == "none"

    def side(self, trained: Trained) -> int:
        """Of a tile, or of the square that a picture is resized to, in pixels."""
        size, least, most = self.tile_size, trained.least, LARGEST
        if size is not None and not (self.tiles and least <= size <= most):
            refuse("inference", f"tile_size must come with tiles and be from {least} to {most} here, got {size}")
        return size or trained.size

    def bands(self, trained: Trained, image: np.ndarray, normalizer: Normalizer) -> Iterator[Tensor]:
        """Class probabilities (see `tiled`) of an image of its own size, or of S x S pixels without tiles."""
        overlap = 0.25 if self.overlap is None else self.overlap
        return tiled(trained, image, normalizer, self.side(trained), overlap, self.tta == "flips", self.batch_size)

    def sample(self, trained: Trained, dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, true mask and the one of the likeliest classes: of their own size with tiles, else S x S."""
        image, truth = dataset.read(index, None) if self.tiles else dataset.sample(index)
        found = np.empty(truth.shape, np.uint8)
        _fill(found, None, self.bands(trained, image, trained.normalizer(dataset.scale)), logits=False)
        return image, truth, found


RESIZED = Inference()


def predict(
    model: Trained | str | Path,
    images: str | Path,
    out: str | Path,
    *,
    inference: Inference = RESIZED,
    probabilities: str | Path | None = None,
    tell: Callable[[str], None] = print,
) -> dict[Path, dict[str, int]]:
    """Write a palette-PNG mask and an overlay for every picture, at the picture's own size.

    Args:
        model: a model file, or what `Trained.load` made of one.
        images: a picture, or a folder of pictures, its sub-folders included; a folder of folders, with `images` among
            them, means that one. Colours become grey (or grey colours) and 16 bits 8 (or the reverse), as in training.
        out: folder for `masks/<name>.png` (pixel value = class id) and `overlays/<name>.png`, in sub-folders as found.
        inference: resized or in tiles, averaged over mirror images or not.
        probabilities: an HDF5 file to make: for each picture a dataset (K, H, W) float32 of its mask's name, with the
            names of the K classes as its attribute `class_names`.
        tell: gets a line a picture, and a line for a file that is none.

    Returns:
        How many pixels of each class a mask holds, by the mask's path.

    Raises:
        DataError, ModelFileError: what is wrong with the files. Pictures that cannot be read are named once all others
            are done.
        Refused: a number or choice out of range.
    """
    trained = model if isinstance(model, Trained) else Trained.load(model)
    inference.side(trained)  # refuses one out of range before anything is written
    check_out(out)
    pictures = _find(Path(images), Path(out), tell)
    if probabilities is not None and (Path(probabilities).exists() or not Path(probabilities).parent.is_dir()):
        raise DataError(f"{probabilities}: must be a new file in a folder that is there, to hold the probabilities")
    classes, written, failed = trained.class_names, {}, []
    for target in (Path(out) / kind / name for kind in ("masks", "overlays") for name in pictures):
        target.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(probabilities, "w-") if probabilities is not None else nullcontext() as file:
        for name, found in _maps(trained, pictures, inference):
            if isinstance(found, DataError):
                failed.append(found)
                tell(str(found))
                continue
            seen, store = load_image(pictures[name], wide=image_header(pictures[name]).wide), None
            mask = np.empty(seen.shape[:2], np.uint8)
            if file is not None:
                store = file.create_dataset(name, (len(classes), *mask.shape), np.float32, compression=1, shuffle=True)
                store.attrs["class_names"] = np.array([c.encode() for c in classes])
            _fill(mask, store, found, logits=inference.plain)
            # the mask last: one without its overlay is not of our making
            overlay(seen, mask, trained.palette).save(Path(out) / "overlays" / name)
            save_mask(Path(out) / "masks" / name, mask, trained.palette)
            pixels = dict(zip(classes, np.bincount(mask.ravel(), minlength=len(classes)).tolist(), strict=True))
            written[Path(out) / "masks" / name] = pixels
            tell(f"{pictures[name]}: " + ", ".join(f"{c} {n / mask.size:.1%}" for c, n in pixels.items()))
    if failed:
        more = f" (so are {len(failed) - 1} more, named above)" if len(failed) > 1 else ""
        raise DataError(f"{failed[0]}{more}; {len(written)} of {len(pictures)} pictures are done")
    return written


def masks(trained: Trained, images: Sequence[np.ndarray] | np.ndarray, inference: Inference) -> list[np.ndarray]:
    """What `Trained.predict` returns."""
    inference.side(trained)  # refuses one out of range
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] == 3:
        refuse("predict", f"images must be a list, got an array of shape {images.shape}; pass one image as [image]")
    for image in images:
        shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
        if dtype not in (np.uint8, np.uint16) or 0 in shape or len(shape) < 2 or shape[2:] not in ((), (1,), (3,)):
            refuse("predict", f"each must be uint8 or uint16, (H, W) or (H, W, 1 or 3), got {dtype} of shape {shape}")
    found, normalizer = [np.empty(image.shape[:2], np.uint8) for image in images], trained.normalizer()
    size, at_once = (None, 1) if inference.tiles else (trained.size, inference.batch_size)
    for start in range(0, len(images), at_once):
        part, out = images[start : start + at_once], found[start : start + at_once]
        fitted = [fit_image(image, size, channels=trained.channels, wide=trained.wide) for image in part]
        for mask, bands in zip(
            out, _fitted_bands(trained, fitted, [m.shape for m in out], inference, normalizer), strict=True
        ):
            _fill(mask, None, bands, logits=inference.plain)
    return found


def _fitted_bands(
    trained: Trained, fitted: Sequence[np.ndarray], sizes: Sequence[Sequence[int]], inference: Inference, normalizer: Normalizer
) -> Iterator[Iterable[Tensor]]:  # fmt: skip
    """Of each image, as large as tiles want it or S x S, its logits (resized, no flips) or probabilities at its own size."""
    if inference.plain:
        maps = trained.logits(np.stack([*fitted]), normalizer)
        yield from (_bands(Tensor(maps.data[i : i + 1]), (size[0], size[1])) for i, size in enumerate(sizes))
        return
    for image, size in zip(fitted, sizes, strict=True):
        bands = inference.bands(trained, image, normalizer)
        yield bands if inference.tiles else _bands(next(bands), (size[0], size[1]))


def _find(path: Path, out: Path, tell: Callable[[str], None]) -> dict[str, Path]:
    """The pictures, each by the name of its mask and overlay, such as `folder/a.png`, in order.

    Refuses what would overwrite a picture, or a mask that was not predicted, such as those trained on.
    """
    if not path.is_dir():
        root, found = path.parent, list_images(path)
    else:
        inside = any(file.is_file() and not file.name.startswith(".") for file in path.iterdir())
        root = path / "images" if (path / "images").is_dir() and not inside else path  # as for training
        if root.resolve() in (out.resolve(), *out.resolve().parents):
            raise DataError(f"{out}: must not lie in {root}, the folder that is read; choose another --out")
        files = [f for f in sorted(root.rglob("*")) if f.is_file() and "/." not in f"/{f.relative_to(root)}"]
        found = [file for file in files if file.suffix.lower() in PICTURES]
        for file in sorted({*files} - {*found}):
            tell(f"{file}: is no picture, passed over")
        if not found:
            raise DataError(f"{path}: the folder holds no picture; put {', '.join(PICTURES)} files there")
    pictures: dict[str, Path] = {}
    for picture in found:
        name = f"{picture.relative_to(root).with_suffix('')}.png"
        mask, shown = out / "masks" / name, out / "overlays" / name
        if name in pictures:
            raise DataError(f"{picture}: its mask would overwrite that of {pictures[name].name}; rename one of them")
        if picture.resolve() in (mask.resolve(), shown.resolve()):
            raise DataError(f"{picture}: its result would overwrite it; choose another --out")
        if mask.exists() and not shown.exists():
            raise DataError(f"{mask}: is there already and was not written by predict; choose another --out")
        pictures[name] = picture
    return pictures


def _maps(
    trained: Trained, pictures: Mapping[str, Path], inference: Inference
) -> Iterator[tuple[str, Iterable[Tensor] | DataError]]:
    """Of each picture its logits (resized, no flips) or probabilities as bands from the top, or why it cannot be read."""
    normalizer, names = trained.normalizer(), [*pictures]
    size, at_once = (None, 1) if inference.tiles else (trained.size, inference.batch_size)
    for start in range(0, len(names), at_once):
        seen: dict[str, np.ndarray] = {}
        for name in names[start : start + at_once]:
            try:
                seen[name] = load_image(pictures[name], size, channels=trained.channels, wide=trained.wide)
            except DataError as error:
                yield name, error
        if seen:
            sizes = [image_header(pictures[name]).size[::-1] for name in seen]
            yield from zip(seen, _fitted_bands(trained, [*seen.values()], sizes, inference, normalizer), strict=True)


def _bands(small: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """A (1, K, S, S) map at another size, some rows at a time."""
    full = small if small.shape[2:] == size else F.interpolate(small, size=size, mode="bilinear")
    for top in range(0, size[0], BAND):
        band = full.data[0, top : top + BAND]
        yield Tensor(band.view(1, *band.shape))


def _fill(mask: np.ndarray, store: h5py.Dataset | None, bands: Iterable[Tensor], *, logits: bool) -> None:
    """The likeliest class of each pixel into `mask` (H, W), the probabilities into `store` (K, H, W), band by band."""
    height, width = mask.shape
    top = 0
    for band in bands:
        classes = Tensor(argmax_fwd(band.data, dtype=torch.uint8)).numpy()[0]
        below = min(top + len(classes), height)
        mask[top:below] = classes[: below - top, :width]
        if store is not None:
            values = F.softmax(band, dim=1) if logits else band
            store[:, top:below] = values.numpy()[0, :, : below - top, :width]
        top = below


def write_samples(
    folder: Path, trained: Trained, dataset: Dataset, indices: Sequence[int], names: Sequence[str] = (),
    inference: Inference = RESIZED,
) -> bool:  # fmt: skip
    """Draw image, truth and prediction side by side with the IoU printed, a PNG a sample.

    `names` are the files', without `.png`; by default those of the images. Returns whether anything but class 0 was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if inference.plain:
        pairs = [dataset.sample(index) for index in indices]
        logits = trained.logits(np.stack([image for image, _ in pairs]), trained.normalizer(dataset.scale))
        found = Tensor(argmax_fwd(logits.data, dtype=torch.uint8)).numpy()
        samples = [(*pair, mask) for pair, mask in zip(pairs, found, strict=True)]
    else:
        samples = [inference.sample(trained, dataset, index) for index in indices]
    classes, names = len(trained.class_names), names or [dataset.names[index] for index in indices]
    for name, (image, truth, prediction) in zip(names, samples, strict=True):
        counted = truth < classes
        pixels = truth[counted].astype(np.int64) * classes + prediction[counted]
        matrix = np.bincount(pixels, minlength=classes * classes).reshape(classes, classes)
        score = f"IoU {Metrics.from_matrix(matrix.tolist()).iou:.3f}"
        side_by_side(image, truth, prediction, trained.palette, score).save(folder / f"{name}.png")
    return any(prediction.any() for _, _, prediction in samples)
