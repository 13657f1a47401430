"""What training sees of any dataset: square images and masks by index, names, classes, splits.

A dataset keeps decoded, resized samples in memory until `cache_bytes` are used (then it keeps those and decodes the
others each time), so later epochs cost no decoding.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tritonnet.data.image import DataError
from tritonnet.data.mapping import MaskMapping, default_palette
from tritonnet.io.untrusted import explained

__all__ = [
    "CACHE_BYTES", "THREADS", "Dataset", "attempt", "channel_statistics", "class_weights", "each", "split",
]  # fmt: skip

THREADS = min(8, os.cpu_count() or 1)  # that decode
CACHE_BYTES = 1 << 30  # 5461 RGB images of 256 x 256 with their masks

Sample = tuple[np.ndarray, np.ndarray]


def each(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """`[work(item) for item in items]` on threads; the first error is raised, and what was not begun is left."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def attempt(work: Callable[[Any], Any], items: Sequence[Any], faults: list[str]) -> list[Any]:
    """The same, but a DataError becomes a line of `faults` and None in the result."""

    def try_one(item: Any) -> Any:
        try:
            return work(item)
        except DataError as error:
            return error

    results = each(try_one, items)
    faults += [str(result) for result in results if isinstance(result, DataError)]
    return [None if isinstance(result, DataError) else result for result in results]


@dataclass(kw_only=True, eq=False)
class Dataset:
    """Images and masks of one size, by index.

    Args:
        read: (index, side) -> new arrays, image and mask as `sample` gives them but of that side, or (None) as large as
            they are stored: (H, W, channels) and (H, W).
        names: one a sample, in the dataset's order.
        size: side S of images and masks, in pixels, at least 1.
        channels: 1 or 3.
        class_names: K of them, the background first.
        mapping: from raw mask values to classes.
        splits: indices of "train", "val" and perhaps "test".
        wide: whether images have 16 bits a value.
        palette: K colours; none for the default ones.
        notes: lines for the user.
        cache_bytes: memory for decoded samples, at least 0.
    """

    read: Callable[[int, int | None], Sample]
    names: Sequence[str]
    size: int
    channels: int
    class_names: tuple[str, ...]
    mapping: MaskMapping
    splits: dict[str, tuple[int, ...]]
    wide: bool = False
    palette: tuple[tuple[int, int, int], ...] = ()
    notes: Sequence[str] = ()
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        check_shape(self.size, self.channels)
        self.names, self.notes = tuple(self.names), tuple(self.notes)
        self.palette = self.palette or default_palette(self.num_classes)
        self._kept: dict[int, Sample] = {}
        self._lock = threading.Lock()

    @property
    def num_classes(self) -> int:
        """K, the background included."""
        return len(self.class_names)

    @property
    def scale(self) -> float:
        """What brings a stored value to 0..1: 1/255, or 1/65535 for 16-bit images."""
        return 1 / 65535 if self.wide else 1 / 255

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int) -> Sample:
        """Image (S, S, channels), uint8 or uint16, and mask (S, S), uint8 in 0..K-1 or IGNORE.

        The arrays are read-only; any thread may ask.

        Raises:
            DataError: the file is damaged, or its mask holds a value that is no class.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image, mask = self.read(index, self.size)
        image.flags.writeable = mask.flags.writeable = False
        with self._lock:
            if (len(self._kept) + 1) * (image.nbytes + mask.nbytes) <= self.cache_bytes:  # all are as large
                self._kept[index] = image, mask
        return image, mask

    def config(self) -> dict[str, Any]:
        """What a model file must remember to prepare images as in training and to name its classes. JSON-able."""
        return {
            "size": self.size, "channels": self.channels, "wide": self.wide, "scale": self.scale,
            "class_names": list(self.class_names), "palette": [list(colour) for colour in self.palette],
            "mask_mapping": self.mapping.to_json(),
        }  # fmt: skip


def check_shape(size: int, channels: int) -> None:
    """Refuse a size or channel number that no dataset can have."""
    if size < 1:
        raise DataError(f"size must be at least 1 pixel, got {size}")
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")


def split(names: Sequence[str], spec: str, test: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """Divide samples into "train" and "val", those apart that are "test".

    Args:
        names: in the dataset's order.
        spec: "every:N" (index % N == N - 1 is validation), a fraction such as "0.2" (that share, evenly spread: 0.2 is
            every:5), "none" (all train), or the path of a file with one validation name a line (with or without an
            extension).
        test: indices of samples that are left out of both.

    Raises:
        DataError: not such a spec, an unknown name, or an empty side.
    """
    others = sorted({*range(len(names))} - {*test})
    count = len(others)
    if spec == "none":
        chosen: set[int] = set()
    elif spec.startswith("every:"):
        step = int(spec[6:]) if spec[6:].isdigit() else 0
        if step < 2:
            raise DataError(f"--val {spec}: N of every:N must be a whole number of at least 2")
        chosen = set(range(step - 1, count, step))
    elif (share := _fraction(spec)) is not None:
        if not 0 < share < 1:
            raise DataError(f"--val {spec}: the fraction must be above 0 and below 1")
        chosen = {i for i in range(count) if (i + 1) * share // 1 > i * share // 1}
    elif Path(spec).is_file():
        chosen = set(find([names[i] for i in others], read_names(Path(spec)), spec))
    else:
        raise DataError(f"--val {spec}: not every:N, not a fraction such as 0.2, and no such split file")
    parts = {
        "train": tuple(i for at, i in enumerate(others) if at not in chosen),
        "val": tuple(others[at] for at in sorted(chosen)),
    }
    if spec != "none" and not all(parts.values()):
        empty = "training" if parts["val"] else "validation"
        remedy = "choose another split, such as every:2" if count > 1 else "add images"
        raise DataError(f"--val {spec} leaves no image of {count} for {empty}; {remedy}")
    return parts | ({"test": tuple(test)} if test else {})


def find(names: Sequence[str], wanted: Sequence[str], file: str | Path) -> list[int]:
    """Indices of the names a split file lists; `a.png` finds `a`."""
    at = {name: i for i, name in enumerate(names)}
    found = []
    for name in wanted:
        index = at.get(name, at.get(Path(name).stem))
        if index is None:
            raise DataError(f"{file}: lists {name}, which is not among the {len(names)} images; correct the file")
        found.append(index)
    return found


def read_names(file: Path) -> list[str]:
    """The lines of a split file, without empty ones and comments (#)."""
    with explained(file, DataError, "cannot be read as text"):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _fraction(spec: str) -> Fraction | None:
    try:
        return Fraction(spec)
    except (ValueError, ZeroDivisionError):
        return None


def channel_statistics(
    dataset: Dataset, indices: Sequence[int] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, of values x `dataset.scale` (so 0..1).

    Summed in whole numbers, so exact and the same in any order. A constant channel gets standard deviation 1.

    Args:
        dataset: what to read; this also fills its cache.
        indices: which samples; None for the training split.

    Raises:
        DataError: no sample, or a damaged file.
    """
    indices = dataset.splits["train"] if indices is None else indices
    if len(indices) == 0:
        raise DataError("there is no training image to take the mean and standard deviation of")

    def sums(index: int) -> np.ndarray:
        values = dataset.sample(index)[0].reshape(-1, dataset.channels).astype(np.int64)
        return np.stack([values.sum(axis=0), (values * values).sum(axis=0)])

    pixels = len(indices) * dataset.size**2
    mean, std = [], []
    for c in zip(*(s.T.tolist() for s in each(sums, indices)), strict=True):
        total, squares = sum(s[0] for s in c), sum(s[1] for s in c)
        variance = (pixels * squares - total * total) / pixels**2
        mean.append(total / pixels * dataset.scale)
        std.append(variance**0.5 * dataset.scale if variance > 0 else 1.0)
    return tuple(mean), tuple(std)


def class_weights(dataset: Dataset, indices: Sequence[int] | None = None) -> tuple[float, ...]:
    """A weight a class, the rarer the higher: pixels / (classes * pixels of the class), ignored pixels left out.

    So all classes weigh the same in sum, and a pixel 1 on average. A class without a pixel gets 1 and is not counted
    among the classes. Six digits, so that they can be written down.

    Args:
        dataset: what to read; this also fills its cache.
        indices: which samples; None for the training split.

    Raises:
        DataError: a damaged file.
    """
    indices = dataset.splits["train"] if indices is None else indices
    K = dataset.num_classes
    counts = sum(each(lambda i: np.bincount(dataset.sample(i)[1].ravel(), minlength=256)[:K], indices)).tolist()
    present = sum(count > 0 for count in counts)
    return tuple(float(f"{sum(counts) / (present * count):.6g}") if count else 1.0 for count in counts)
