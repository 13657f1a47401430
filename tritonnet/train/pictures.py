"""Pictures people look at: palette masks, overlays, samples side by side, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["contact_sheet", "draw_confusion", "draw_curves", "overlay", "save_mask", "shown", "side_by_side"]

IGNORED = (128, 128, 128)
SIDE = 256  # a sample's pictures are at least this wide


def shown(image: np.ndarray, among: Sequence[np.ndarray] = ()) -> np.ndarray:
    """An image (H, W, 1 or 3) as (H, W, 3) uint8.

    16-bit ones are stretched to their range, which is often a part of 16 bits, or to that of all images `among` which it is
    shown, as the network sees them.
    """
    if image.dtype != np.uint8:
        low, high = min(int(i.min()) for i in among or [image]), max(int(i.max()) for i in among or [image])
        image = ((image - low) / max(high - low, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def save_mask(path: Path, mask: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write an (H, W) array of class ids (255: not classified) as a PNG of the ids with a palette."""
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    picture.putpalette(_coloured(np.arange(256), palette).tobytes())
    picture.save(path)


def _coloured(mask: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    colours = np.full((256, 3), IGNORED, np.uint8)
    colours[: len(palette)] = palette
    coloured: np.ndarray = colours[mask]
    return coloured


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: Sequence[Sequence[int]], strength: float = 0.45
) -> Image.Image:
    """The image with every class but 0 tinted in its colour; `strength` from 0 to 1."""
    picture = Image.fromarray(shown(image))
    tinted = Image.blend(picture, Image.fromarray(_coloured(mask, palette)), strength)
    return Image.composite(tinted, picture, Image.fromarray(mask > 0))


def contact_sheet(tiles: Sequence[tuple[str, np.ndarray, np.ndarray]], palette: Sequence[Sequence[int]]) -> Image.Image:
    """Images with their masks outlined, ignored pixels greyed, in rows of up to 6.

    Args:
        tiles: (title, (S, S, 1 or 3) image, (S, S) uint8 class ids) of each.
        palette: a colour a class.
    """
    side, title = tiles[0][1].shape[0], 16
    zoom = -(-SIDE // side)
    step, columns = side * zoom + 6, min(6, len(tiles))
    sheet = Image.new("RGB", (columns * step + 6, -(-len(tiles) // columns) * (step + title) + 6), "white")
    draw = ImageDraw.Draw(sheet)
    images = [image for _, image, _ in tiles]
    for place, (name, image, mask) in enumerate(tiles):
        x, y = 6 + place % columns * step, 6 + place // columns * (step + title)
        pixels, ids = (np.repeat(np.repeat(array, zoom, 0), zoom, 1) for array in (shown(image, images), mask))
        wide = np.pad(ids, 1, "edge")
        edge = np.any(
            [ids != near for near in (wide[2:, 1:-1], wide[:-2, 1:-1], wide[1:-1, 2:], wide[1:-1, :-2])], axis=0
        )
        pixels = np.where((ids == 255)[..., None], pixels // 2 + 64, pixels)
        pixels = np.where((edge & (ids > 0))[..., None], _coloured(ids, palette), pixels).astype(np.uint8)
        # the built-in font may know no more than ASCII
        draw.text((x, y), name.encode("ascii", "replace").decode()[: side * zoom // 6], fill="black")
        sheet.paste(Image.fromarray(pixels), (x, y + title - 2))
    return sheet


def side_by_side(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, palette: Sequence[Sequence[int]], score: str
) -> Image.Image:
    """Image, truth and prediction in a row with their titles; `score` is printed beside the prediction's."""
    height, width = image.shape[:2]
    zoom = max(1, -(-SIDE // width))
    wide, high, title = width * zoom, height * zoom, 18
    sheet = Image.new("RGB", (3 * wide + 16, high + title), "white")
    draw = ImageDraw.Draw(sheet)
    pictures = (shown(image), _coloured(truth, palette), _coloured(prediction, palette))
    for column, (name, pixels) in enumerate(zip(("image", "truth", f"prediction  {score}"), pictures, strict=True)):
        draw.text((column * (wide + 8) + 4, 3), name, fill="black")
        large = Image.fromarray(pixels).resize((wide, high), Image.Resampling.NEAREST)
        sheet.paste(large, (column * (wide + 8), title))
    return sheet


def draw_curves(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Losses and scores over the epochs of metrics.csv as one PNG."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    names = {"iou": "IoU", "dice": "Dice", "pixel_accuracy": "pixel accuracy"}
    for axes, lines in ((losses, {"train_loss": "training", "val_loss": "validation"}), (scores, names)):
        for name, words in lines.items():
            axes.plot(epochs, [row[name] for row in history], marker="." if len(epochs) < 40 else "", label=words)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set_title("loss")
    scores.set_title("validation")
    scores.set_ylim(0, 1)
    figure.savefig(path, dpi=100)


def draw_confusion(path: Path, matrix: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """A confusion matrix (row: true class, column: predicted) as a PNG: the share of each row, the pixels in figures."""
    from matplotlib.figure import Figure

    counts = np.array(matrix, np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.5 * len(names), 20.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (truth, found), share in np.ndenumerate(shares) if len(names) <= 20 else ():
        text, colour = f"{share:.1%}\n{counts[truth, found]:,}", "white" if share > 0.5 else "black"
        axes.text(found, truth, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    figure.savefig(path, dpi=100)
