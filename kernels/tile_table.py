"""Which tile a problem runs with: shipped tables by architecture (kernels/tiles/<arch>.json), then a per-user cache.

    table[pass][problem] = the fields of the op's Tile

A table is what a sweep found (`bench/sweep_conv2d.py`). The user's own sweeps lie in $TRITONNET_CACHE (default
~/.cache/tritonnet)/<arch>.json and win over the shipped ones. Nothing is timed at run time, so two runs pick the same tiles.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["lookup"]

Table = dict[str, dict[str, dict[str, Any]]]


def _read(path: Path) -> Table:
    return json.loads(path.read_text()) if path.is_file() else {}


@functools.cache
def _tables(arch: str) -> tuple[Table, ...]:
    cache = Path(os.environ.get("TRITONNET_CACHE", "~/.cache/tritonnet")).expanduser()
    return _read(cache / f"{arch}.json"), _read(Path(__file__).parent / "tiles" / f"{arch}.json")


def lookup(arch: str, name: str, problem: str) -> dict[str, Any] | None:
    """The tile's fields for pass `name` of `problem` on `arch`, or None."""
    for table in _tables(arch):
        found = table.get(name, {}).get(problem)
        if found is not None:
            return found
    return None
