"""What `tritonnet data check` finds: every fault of a folder's files, equal images, and what the masks are taken for."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tritonnet.data.dataset import Dataset, attempt, each
from tritonnet.data.folder import Files, examine, make_dataset
from tritonnet.data.hdf5 import open_hdf5
from tritonnet.data.image import load_image
from tritonnet.data.mapping import default_names, percent

__all__ = ["check"]


def check(root: str | Path, size: int, val: str | None = None) -> tuple[list[str], list[str]]:
    """Read every file of a dataset.

    Args:
        root: a folder or HDF5 file as for `open_dataset`.
        size: side S in pixels that training would resize to.
        val: how to divide, as for `open_dataset`.

    Returns:
        The report's lines, and the faults: what keeps training from starting.

    Raises:
        DataError: nothing there to report on, or (HDF5) the first fault.
    """
    root = Path(root)
    if root.is_file():
        dataset: Dataset = open_hdf5(root, size, val=val, cache_bytes=0)
        hashes = each(lambda index: _digest(dataset.sample(index)[0]), range(len(dataset)))
        return [*_equal(dataset.names, hashes, dataset.splits), *dataset.notes], []
    files = examine(root, size)
    images = [pair.image for pair in files.pairs]
    found = attempt(_look, images, files.faults)
    hashes = [None if one is None else one[0] for one in found]
    lines = _files_report(files) if files.pairs else [f"{files.root}: {files.layout}, no image with a mask"]
    tops = [one[1] for pair, one in zip(files.pairs, found, strict=True) if pair.head.wide and one is not None]
    if dim := [top for top in tops if top < 2**14]:
        files.warnings.append(
            f"{len(dim)} of {len(files.pairs)} images have 16 bits a value but use none above {max(dim)} of 65535: beside "
            "others, or for a network that learnt from others, they are nearly black; write them with the full range"
        )
    names = [image.name for image in images]
    if files.faults:
        taken = files.masks
        lines += [*_equal(names, hashes, {}), *(f"warning: {line}" for line in files.warnings)]
        lines += taken.notes(default_names(taken.mapping.num_classes), range(len(taken.pixels))) if taken else []
        return lines, files.faults
    dataset = make_dataset(files, size, val, 3, 0)
    return [*lines, *_equal(names, hashes, dataset.splits), *dataset.notes], []


def _look(path: Path) -> tuple[bytes, int]:
    """A picture's digest and its largest value, 16 bits."""
    pixels = load_image(path, wide=True)
    return _digest(pixels), int(pixels.max())


def _digest(pixels: Any) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _files_report(files: Files) -> list[str]:
    """Layout, sizes, kinds of files, and the histogram of the masks' values."""
    pairs = files.pairs
    lines = [f"{files.root}: {files.layout}, {len(pairs)} images with a mask"]
    lines += [
        _counted("sizes", (f"{p.head.size[0]}x{p.head.size[1]}" for p in pairs)),
        _counted("images", (f"{p.head.format} {p.head.mode}" for p in pairs)),
        _counted("masks", (f"{p.mask_head.format} {p.mask_head.mode}" for p in pairs)),
    ]
    total = sum(files.counts.values())
    shown = ", ".join(f"{value} {percent(pixels / total)}" for value, pixels in files.counts.most_common(8))
    more = f", and {len(files.counts) - 8} more" if len(files.counts) > 8 else ""
    return [*lines, f"mask values: {shown}{more}"]


def _counted(title: str, kinds: Iterable[str]) -> str:
    found = Counter(kinds).most_common()
    more = f", and {len(found) - 6} more" if len(found) > 6 else ""
    return f"{title}: " + ", ".join(f"{kind} ({n})" for kind, n in found[:6]) + more


def _equal(names: Sequence[str], hashes: Sequence[bytes | None], splits: dict[str, tuple[int, ...]]) -> list[str]:
    """Images with the same pixels, and those of them that training and validation share."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(hashes):
        if digest is not None:
            groups[digest].append(index)
    part = {index: f" [{name}]" for name, indices in splits.items() for index in indices}
    equal = [group for group in groups.values() if len(group) > 1]
    leaks = [group for group in equal if len({part.get(index) for index in group}) > 1]
    lines = []
    for what, found in (("equal images", equal), ("equal images in different splits", leaks)):
        shown = "; ".join(" = ".join(names[i] + part.get(i, "") for i in group[:4]) for group in found[:4])
        warning = "warning: the scores will flatter, " if found is leaks and leaks else ""
        lines.append(f"{warning}{what}: {len(found)} ({shown})" if found else f"{what}: none")
    return lines
