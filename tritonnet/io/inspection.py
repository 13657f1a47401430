"""A file listed for reading, from its headers: model and data files in HDF5, safetensors, PyTorch's `.pth`."""

import json
import math
import os
from pathlib import Path

from tritonnet.io import hdf5
from tritonnet.io.atomic import FileError
from tritonnet.io.hdf5 import Entry
from tritonnet.io.model_file import load_model
from tritonnet.io.pth import shapes_pth
from tritonnet.io.safetensors import shapes_safetensors
from tritonnet.io.untrusted import SIGNATURE, explained, shown

__all__ = ["inspect"]


def inspect(path: str | os.PathLike[str], *, check: bool = False) -> list[str]:
    """The lines of a table: what kind of file it is, its arrays, groups and attributes, and what a model file was made with.

    Args:
        path: an HDF5, safetensors or `.pth` file.
        check: read all values too, and compare every checksum that the file has.

    Raises:
        FileError: no such file, another kind, damaged, or of a kind that is not read for safety.
    """
    path = Path(path)
    with explained(path), open(path, "rb") as raw:
        start = raw.read(9)
    if start[:8] == SIGNATURE:
        return _hdf5(path, check)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return ["PyTorch weights; the format has no checksums", *_table(list(shapes_pth(path)))]
    if start[8:] == b"{":
        return ["safetensors; the format has no checksums", *_table(list(shapes_safetensors(path)))]
    raise FileError(f"{path}: must be HDF5, safetensors or PyTorch weights; its first bytes are none of those")


def _hdf5(path: Path, check: bool) -> list[str]:
    with hdf5.open(path) as file:
        entries = file.entries(unread="(text of variable length, not read)")
        root = entries[0].attributes
        model = root.get("format") == "tritonnet"
        for entry in entries if check and not model else []:
            if entry.chunks and entry.dtype != "text":
                for _ in file.blocks(entry.name, entry.chunks[0], memory=2**63):
                    pass
    if model:
        config = load_model(path, training=check, weights=check).config
        held = "every SHA-256 holds" if check else "--check compares the SHA-256 of each array"
        lines = [f"tritonnet model, format version {root.get('format_version')}; {held}"]
        for entry in entries:
            entry.attributes.pop("sha256", None)
        return [*lines, *(shown(f"  {key} = {json.dumps(config[key])}") for key in config), *_table(entries[1:])]
    summed = sum("fletcher32" in entry.filters for entry in entries)
    return [
        f"HDF5; {summed} arrays have checksums{', which hold' if check else '; --check compares them'}",
        *_table(entries),
    ]


def _table(entries: list[Entry]) -> list[str]:
    rows: list[tuple[str, ...]] = [("name", "shape", "type", "bytes", "stored", "chunks", "filters")]
    for entry in entries:
        shape, chunks = (" x ".join(map(str, sizes or ())) for sizes in (entry.shape, entry.chunks))
        sizes = f"{entry.bytes:,}", f"{entry.stored:,}"
        array = (shape or "scalar", entry.dtype, *sizes, chunks, " ".join(entry.filters))
        rows.append((shown(entry.name), *(("group", *[""] * 5) if entry.shape is None else array)))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    turned = [f"{{:{'>' if i in (3, 4) else '<'}{w}}}" for i, w in enumerate(wide)]  # numbers to the right
    lines = ["  ".join(turned).format(*row).rstrip() for row in rows]
    for i, entry in reversed(list(enumerate(entries, 1))):
        lines[i + 1 : i + 1] = [shown(f"    @{name} = {value}") for name, value in entry.attributes.items()]
    arrays = [entry for entry in entries if entry.shape is not None]
    values = sum(math.prod(entry.shape or ()) for entry in arrays)
    return [*lines, f"{len(arrays)} arrays, {values:,} values, {sum(entry.bytes for entry in arrays):,} bytes"]
