"""What the masks of a dataset hold, found before the first epoch: their values, the classes, and what will surprise.

Wrong mask values are the first cause of a network that predicts nothing, so each way there is named in a line.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tritonnet.data.image import DataError, RawMask
from tritonnet.data.mapping import IGNORE, MaskMapping, infer_colours, infer_mapping, percent, rgb

__all__ = ["Histogram", "Survey", "histogram", "survey"]

_MOST = 1024  # different values of one mask; a photograph has more


class Histogram(NamedTuple):
    """One mask: its raw values in rising order, the pixels of each, and whether a resize leaves but one of several."""

    name: str
    values: np.ndarray
    pixels: np.ndarray
    palette: dict[int, tuple[int, int, int]] | None
    coloured: bool
    vanishes: bool


@dataclass(frozen=True)
class Survey:
    """All masks together.

    Attributes:
        mapping: from raw values to classes.
        counts: pixels of each raw value.
        pixels: (masks, 256) pixels of each class and of IGNORE in each mask.
        colours: the colour of a class, where the masks give it one.
        warnings: lines for the user.
    """

    mapping: MaskMapping
    counts: dict[int, int]
    pixels: np.ndarray
    colours: dict[int, tuple[int, int, int]]
    warnings: tuple[str, ...]

    def notes(self, class_names: Sequence[str], train: Sequence[int]) -> list[str]:
        """For the user: classes that no mask in `train` (indices) holds, and what the values are taken for."""
        seen = self.pixels[list(train)].sum(axis=0)
        lost = [name for c, name in enumerate(class_names) if self.pixels[:, c].any() and not seen[c]]
        unseen = [f"warning: no image to train on holds {', '.join(lost)}; choose another --val"] if lost else []
        return [*unseen, self.mapping.describe(self.counts, class_names, bool(self.colours))]


def histogram(mask: RawMask, name: str, size: int) -> Histogram:
    """Count a mask.

    Args:
        mask: its raw values.
        name: the file, for messages.
        size: side of the square that training resizes it to, in pixels.

    Raises:
        DataError: far more values than classes can have.
    """
    if mask.coloured:
        values, pixels = np.unique(mask.values, return_counts=True)
    else:
        times = np.bincount(mask.values.ravel())
        values = np.flatnonzero(times)
        pixels = times[values]
    if len(values) > _MOST:
        kind = "colours" if mask.coloured else "values"
        raise DataError(f"{name}: holds {len(values)} different {kind}: a picture, or numbers of objects, but no mask")
    rows, columns = ((2 * np.arange(size) + 1) * side // (2 * size) for side in mask.values.shape)
    left = mask.values[rows][:, columns]
    vanishes = len(values) > 1 and bool((left == left[0, 0]).all())
    return Histogram(name, values, pixels, mask.palette, mask.coloured, vanishes)


def survey(masks: Sequence[Histogram], folder: str, lossy: bool, mapping: MaskMapping | None = None) -> Survey:
    """Infer the classes of all masks together, unless `mapping` gives them, and look for what is unusual.

    Args:
        masks: at least one; either all are coloured or none.
        folder: named in messages.
        lossy: whether any mask is a JPEG.
        mapping: what is known already.

    Raises:
        DataError: no rule fits, or palettes differ.
    """
    counts: Counter[int] = Counter()
    where: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    greyest = (0.0, "")
    for mask in masks:
        for value, pixels in zip(mask.values.tolist(), mask.pixels.tolist(), strict=True):
            counts[value] += pixels
            where.setdefault(value, mask.name)
        for value, colour in (mask.palette or {}).items():
            if colours.setdefault(value, colour) != colour:
                raise DataError(
                    f"{mask.name}: palette number {value} is the colour {colour}, but {colours[value]} in {where[value]}; "
                    "one number must mean one class: save the masks with one palette"
                )
        grey = mask.pixels[(mask.values >= 64) & (mask.values < 192)].sum() / mask.pixels.sum()
        greyest = max(greyest, (float(grey), mask.name))
    bare = [mask.name for mask in masks if mask.palette is None]
    if colours and bare:
        raise DataError(f"{bare[0]}: has no coloured palette while other masks have one; save all masks in one way")
    coloured = masks[0].coloured
    if mapping is None and coloured:
        mapping = infer_colours(counts, where, lossy, folder)
    elif mapping is None:
        mapping = infer_mapping(counts, where, lossy, greyest, folder)
    if coloured != (mapping.rule == "colours"):
        raise DataError(
            f"{folder}: masks must be coded as those the model learnt from, one is by colours, one by numbers"
        )
    if coloured:
        colours = {value: rgb(value) for value in mapping.values}
    by_class = np.stack([np.bincount(mapping.apply(mask.values, mask.name), mask.pixels, 256) for mask in masks])
    named = {c: colours[v] for v, c in mapping.values.items() if v in colours and c != IGNORE}
    return Survey(mapping, dict(counts), by_class, named, tuple(_warnings(mapping, masks, by_class)))


def _warnings(mapping: MaskMapping, masks: Sequence[Histogram], by_class: np.ndarray) -> list[str]:
    found = []
    names = [mask.name for mask in masks]
    total = by_class.sum(axis=0)
    foreground, counted = total[1:IGNORE].sum(), max(total[:IGNORE].sum(), 1)
    if mapping.num_classes == 2 and foreground > 0.95 * counted:
        found.append(f"class 1 fills {percent(foreground / counted)} of the pixels: are the masks inverted?")
    if foreground < 0.005 * counted:
        found.append(
            f"all but {percent(foreground / counted)} of the pixels are background: a network that marks nothing is "
            "right nearly everywhere; a larger --size or pictures cut to the objects help"
        )
    for c in np.flatnonzero((by_class[:, 1:IGNORE] > 0).sum(axis=0) == 1) + 1:
        share = total[c] / counted
        if len(names) >= 10 and mapping.num_classes > 2 and share < 0.001:
            name = names[int(np.argmax(by_class[:, c]))]
            found.append(
                f"class {c}, {percent(share)} of the pixels, is in one mask alone ({name}): is it meant to be one?"
            )
    empty = [name for name, row in zip(names, by_class, strict=True) if not row[1:IGNORE].any()]
    if empty:
        found.append(f"{len(empty)} of {len(names)} masks mark nothing (such as {empty[0]})")
    ignored = [name for name, row in zip(names, by_class, strict=True) if row[IGNORE] and not row[1:IGNORE].any()]
    if ignored:
        found.append(
            f"{len(ignored)} of {len(names)} masks hold 255 and no class but 0 (such as {ignored[0]}): 255 is ignored here; "
            "if it marks objects, write it as others do: 1"
        )
    lost = [mask.name for mask in masks if mask.vanishes]
    if lost:
        found.append(f"{len(lost)} masks hold one value alone at this size (such as {lost[0]}): choose a larger --size")
    absent = [str(c) for c in range(mapping.num_classes) if not total[c]]
    if absent:
        found.append(f"no mask holds class {', '.join(absent[:8])}")
    ends = {int(mask.values[-1]) for mask in masks if len(mask.values) == mask.values[-1] + 1}
    if mapping.rule == "values" and mapping.num_classes > 10 and len(ends) > 3 and len(absent) == 0:
        found.append("each mask holds 0, 1, 2, ... to another end: if these count objects, save 0 and 1 instead")
    return found
