"""Tiles: the table wins over the rule, what was pinned over the table, and what was chosen is noted."""

import json
from dataclasses import replace

import pytest
import torch

from tritonnet.kernels import tile_table
from tritonnet.kernels.conv2d_tiles import Geometry, Tile, pick_tile
from tritonnet.kernels.runtime import Refused

G = Geometry(3, 9, 9, 5, 9, 9, 7, 3, 3, (1, 1), (1, 1), (1, 1))  # in no table
KEY = f"{G.key} float32"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No tile of these tests outlives them."""
    monkeypatch.setattr(tile_table, "_pinned", {})
    monkeypatch.setattr(tile_table, "_chosen", {})
    pick_tile.cache_clear()
    yield
    pick_tile.cache_clear()


def test_choice_is_noted_and_can_be_pinned():
    first = pick_tile("conv2d_fwd", G, torch.float32, "gather", "sm_90")
    noted = json.loads(json.dumps(tile_table.chosen()))
    assert Tile(**noted["sm_90"]["conv2d_fwd"][KEY]) == first
    other = Tile("gather", 32, 16, 16, 2, 1)
    noted["sm_90"]["conv2d_fwd"][KEY] = dict(vars(other))
    tile_table.pin(noted)
    assert pick_tile("conv2d_fwd", G, torch.float32, "gather", "sm_90") == first, "tiles in use stay"
    pick_tile.cache_clear()
    assert pick_tile("conv2d_fwd", G, torch.float32, "gather", "sm_90") == other
    assert pick_tile("conv2d_fwd", G, torch.float32, "gather", "sm_80") != other


def test_tf32_has_tiles_of_its_own_then_bfloat16s_then_the_rules(monkeypatch):
    monkeypatch.setattr("tritonnet.kernels.conv2d_tiles.INTERPRET", False)
    g = replace(G, C=16, K=32)
    boxes = {"bfloat16": Tile("tensormap", 64, 64, 16, 4, 4), "tf32": Tile("tensormap", 128, 64, 16, 4, 3)}
    gather = {"float32": Tile("gather", 32, 32, 16, 2, 2), "bfloat16": Tile("gather", 32, 32, 16, 4, 2)}
    rule = pick_tile("conv2d_fwd", g, torch.float32, "tensormap", "sm_90")
    assert rule.form == "tensormap"
    for tiles, form, expected in (
        (boxes, "tensormap", boxes["tf32"]), (boxes | gather, "tensormap", boxes["tf32"]),
        ({"bfloat16": boxes["bfloat16"]}, "tensormap", boxes["bfloat16"]),
        (gather, "tensormap", rule), (gather, "gather", gather["float32"]),
    ):  # fmt: skip
        monkeypatch.setattr(tile_table, "_pinned", {})
        tile_table.pin({"sm_90": {"conv2d_fwd": {f"{g.key} {name}": vars(tile) for name, tile in tiles.items()}}})
        pick_tile.cache_clear()
        assert pick_tile("conv2d_fwd", g, torch.float32, form, "sm_90") == expected
        noted = "float32" if form == "gather" else "tf32"
        assert tile_table.chosen()["sm_90"]["conv2d_fwd"][f"{g.key} {noted}"] == vars(expected)


def test_user_table_wins_over_the_shipped_one(monkeypatch, tmp_path):
    tile = {"form": "gather", "block_m": 32, "block_n": 32, "block_k": 16, "num_warps": 4, "num_stages": 2}
    (tmp_path / "sm_90.json").write_text(json.dumps({"conv2d_dgrad": {KEY: tile}}))
    monkeypatch.setenv("TRITONNET_CACHE", str(tmp_path))
    tile_table._tables.cache_clear()
    try:
        assert pick_tile("conv2d_dgrad", G, torch.float32, "gather", "sm_90") == Tile(**tile)
    finally:
        tile_table._tables.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"sm_90\.json must be a table that `tritonnet tune` wrote, but .*; delete it or tune again"),
        ('{"conv2d_dgrad": {"x": 3}}', "but a tile must be an object"),
        (
            json.dumps({"conv2d_dgrad": {KEY: {"form": "gather", "cluster": 2}}}),
            "must have a tile of this version's fields",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(monkeypatch, tmp_path, text, message):
    (tmp_path / "sm_90.json").write_text(text)
    monkeypatch.setenv("TRITONNET_CACHE", str(tmp_path))
    tile_table._tables.cache_clear()
    try:
        with pytest.raises(Refused, match=message):
            pick_tile("conv2d_dgrad", G, torch.float32, "gather", "sm_90")
    finally:
        tile_table._tables.cache_clear()


def test_a_tile_of_a_form_that_does_not_fit_is_left_out():
    box = Tile("tensormap", 128, 128, 64, 4, 3, rows=8)
    tile_table.pin({"sm_90": {"conv2d_fwd": {KEY: dict(vars(box))}}})
    assert pick_tile("conv2d_fwd", G, torch.float32, "gather", "sm_90").form == "gather"
