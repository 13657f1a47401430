"""From pictures to masks: class ids at the picture's own size, palette PNGs and overlays."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from tritonnet.autograd import Tensor, precision
from tritonnet.data import DataError, Dataset, list_images, load_image
from tritonnet.kernels import runtime
from tritonnet.kernels.argmax import argmax_fwd
from tritonnet.nn import functional as F
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.metrics import Metrics
from tritonnet.train.pictures import overlay, save_mask, side_by_side
from tritonnet.train.trained import Trained

__all__ = ["predict", "predict_classes", "write_samples"]

AT_ONCE = 8  # images a forward


def predict_classes(
    trained: Trained,
    images: np.ndarray,
    sizes: Sequence[tuple[int, int]] | None = None,
    normalizer: Normalizer | None = None,
) -> list[np.ndarray]:
    """The class of every pixel.

    Args:
        trained: the network.
        images: (N, S, S, channels) uint8, or uint16 for a network of 16-bit images, in any number.
        sizes: (height, width) to give each result: the logits are resized bilinearly. Without it: as the images.
        normalizer: in place of the network's own (for images of another bit depth).

    Returns:
        N arrays (H, W) of uint8 class ids.
    """
    normalizer = normalizer or trained.normalizer()
    found = []
    with trained.network.evaluating(), precision(trained.precision):
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            pixels = part if part.dtype == np.uint8 else part.astype(np.int32)
            logits = trained.network(normalizer(to_device(pixels)))
            for i in range(len(part)):
                one = Tensor(logits.data[i : i + 1])
                if sizes is not None and sizes[start + i] != one.shape[2:]:
                    one = F.interpolate(one, size=sizes[start + i], mode="bilinear", align_corners=False)
                found.append(_argmax(one))
    return found


def _argmax(logits: Tensor) -> np.ndarray:
    if logits.shape[1] == 1:  # a sigmoid's logit z is a softmax's (0, z)
        logits = F.cat((Tensor(runtime.zeros(tuple(logits.data.shape), logits.dtype)), logits), dim=1)
    classes: np.ndarray = Tensor(argmax_fwd(logits.data, dtype=torch.uint8)).numpy()[0]
    return classes


def predict(
    model: Trained | str | Path, images: str | Path, out: str | Path, *, tell: Callable[[str], None] = print
) -> list[Path]:
    """Write a palette-PNG mask and an overlay for every picture, at the picture's own size.

    Args:
        model: a model file, or what `Trained.load` made of one.
        images: a picture, or a folder of pictures.
        out: folder for `masks/<stem>.png` (pixel value = class id) and `overlays/<stem>.png`.
        tell: gets a line a picture.

    Returns:
        The masks' paths.

    Raises:
        DataError, ModelFileError: what is wrong with the files.
    """
    trained = model if isinstance(model, Trained) else Trained.load(model)
    pictures = list_images(images)
    masks, overlays = Path(out) / "masks", Path(out) / "overlays"
    stems: dict[str, Path] = {}
    for picture in pictures:
        if picture.stem in stems:
            raise DataError(
                f"{picture}: its mask would overwrite that of {stems[picture.stem].name}; rename one of them"
            )
        stems[picture.stem] = picture
    _spare_what_is_there(pictures, masks, overlays)
    for folder in (masks, overlays):
        folder.mkdir(parents=True, exist_ok=True)
    normalizer = trained.normalizer()
    written = []
    for start in range(0, len(pictures), AT_ONCE):
        part = pictures[start : start + AT_ONCE]
        seen = [load_image(path, trained.size, channels=trained.channels, wide=trained.wide) for path in part]
        shown = [load_image(path) for path in part]
        sizes = [(picture.shape[0], picture.shape[1]) for picture in shown]
        found = predict_classes(trained, np.stack(seen), sizes, normalizer)
        for path, pixels, mask in zip(part, shown, found, strict=True):
            # the mask last: one without its overlay is not of our making
            overlay(pixels, mask, trained.palette).save(overlays / f"{path.stem}.png")
            save_mask(masks / f"{path.stem}.png", mask, trained.palette)
            written.append(masks / f"{path.stem}.png")
            shares = np.bincount(mask.ravel(), minlength=len(trained.class_names)) / mask.size
            tell(
                f"{path.name}: " + ", ".join(f"{n} {s:.1%}" for n, s in zip(trained.class_names, shares, strict=False))
            )
    return written


def _spare_what_is_there(pictures: Sequence[Path], masks: Path, overlays: Path) -> None:
    """Refuse to write over the pictures themselves, or over masks that were not predicted, such as those trained on."""
    for picture in pictures:
        mask, shown = (folder / f"{picture.stem}.png" for folder in (masks, overlays))
        if picture.resolve() in (mask.resolve(), shown.resolve()):
            raise DataError(f"{picture}: its result would overwrite it; choose another --out")
        if mask.exists() and not shown.exists():
            raise DataError(f"{mask}: is there already and was not written by predict; choose another --out")


def write_samples(folder: Path, trained: Trained, dataset: Dataset, indices: Sequence[int]) -> None:
    """Draw image, truth and prediction side by side with the IoU printed, a PNG a sample."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [dataset.sample(index) for index in indices]
    normalizer = Normalizer(trained.card["mean"], trained.card["std"], dataset.scale)
    found = predict_classes(trained, np.stack([image for image, _ in pairs]), None, normalizer)
    for index, (image, truth), prediction in zip(indices, pairs, found, strict=True):
        counted = truth < len(trained.class_names)
        classes = len(trained.class_names)
        pixels = truth[counted].astype(np.int64) * classes + prediction[counted]
        matrix = np.bincount(pixels, minlength=classes * classes).reshape(classes, classes)
        shown = image if image.dtype == np.uint8 else (image // 257).astype(np.uint8)
        shown = np.broadcast_to(shown, (*shown.shape[:2], 3))
        score = f"IoU {Metrics.from_matrix(matrix.tolist()).iou:.3f}"
        side_by_side(shown, truth, prediction, trained.palette, score).save(folder / f"{dataset.names[index]}.png")
