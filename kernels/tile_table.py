"""Which tile a problem runs with: shipped tables by architecture (kernels/tiles/<arch>.json), then a per-user cache.

    table[pass][problem] = the fields of the op's Tile

A table is what `tritonnet tune` found. The user's own lies in $TRITONNET_CACHE (default ~/.cache/tritonnet)/<arch>.json
and wins over the shipped one. Nothing is timed at run time, so two runs pick the same
tiles. What a process chose is noted; a run that goes on after a table changed pins what it had and keeps its bits.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

from tritonnet.kernels.runtime import refuse

__all__ = ["chosen", "lookup", "note", "pin", "user_table"]

Table = dict[str, dict[str, dict[str, Any]]]

_pinned: dict[str, Table] = {}  # by architecture
_chosen: dict[str, Table] = {}


def _read(path: Path) -> Table:
    try:
        table = json.loads(path.read_text()) if path.is_file() else {}
        if not all(isinstance(tile, dict) for tiles in table.values() for tile in tiles.values()):
            raise ValueError("a tile must be an object")
    except (ValueError, AttributeError) as error:
        refuse("tiles", f"{path} must be a table that `tritonnet tune` wrote, but {error}; delete it or tune again")
    return table


def user_table(arch: str) -> Path:
    """Where the user's own table lies."""
    return Path(os.environ.get("TRITONNET_CACHE", "~/.cache/tritonnet")).expanduser() / f"{arch}.json"


@functools.cache
def _tables(arch: str) -> tuple[Table, ...]:
    return _read(user_table(arch)), _read(Path(__file__).parent / "tiles" / f"{arch}.json")


def lookup(arch: str, name: str, problem: str) -> dict[str, Any] | None:
    """The tile's fields for pass `name` of `problem` on `arch`, or None."""
    for table in (_pinned.get(arch, {}), *_tables(arch)):
        found = table.get(name, {}).get(problem)
        if found is not None:
            return found
    return None


def note(arch: str, name: str, problem: str, tile: dict[str, Any]) -> None:
    """Remember that pass `name` of `problem` runs with a tile of these fields."""
    _chosen.setdefault(arch, {}).setdefault(name, {})[problem] = tile


def chosen() -> dict[str, Table]:
    """What this process chose so far, by architecture: JSON-able, for `pin`."""
    return _chosen


def pin(tiles: dict[str, Table]) -> None:
    """From now on choose these tiles, as `chosen` gave them, before any table's. Tiles already in use stay."""
    for arch, table in tiles.items():
        for name, problems in table.items():
            _pinned.setdefault(arch, {}).setdefault(name, {}).update(problems)
