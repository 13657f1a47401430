"""Tuning: a problem is read back from its name, and the fastest right candidate is chosen."""

from dataclasses import replace

import pytest
import torch
from helpers import GPU, assert_close

from tritonnet.kernels.conv2d_tiles import Geometry, Tile
from tritonnet.kernels.runtime import arch
from tritonnet.measure import tune as module
from tritonnet.measure.tune import Problem, candidates, tune

SHAPES = {
    "3x3": Geometry(2, 12, 10, 16, 12, 10, 32, 3, 3, (1, 1), (1, 1), (1, 1)),
    "dilated": Geometry(1, 9, 9, 16, 9, 9, 16, 3, 3, (1, 1), (2, 2), (2, 2)),
    "patches": Geometry(2, 8, 12, 16, 4, 6, 32, 2, 2, (2, 2), (0, 0), (1, 1)),
    "1x5": Geometry(1, 7, 8, 3, 7, 8, 4, 1, 5, (1, 1), (0, 2), (1, 1)),
}


@pytest.mark.parametrize("g", SHAPES.values(), ids=SHAPES)
def test_a_problem_is_read_back_from_its_name(g):
    assert Problem("conv2d_fwd", f"{g.key} float32", "gather").sizes() == (g, torch.float32)
    assert Problem("conv2d_fwd", f"{g.key} tf32", "tensormap").sizes() == (g, torch.float32)


@pytest.mark.parametrize("name", ["conv2d_fwd", "conv2d_dgrad", "conv2d_wgrad"])
def test_tf32_is_compared_with_the_pointer_kernels(name):
    g = SHAPES["3x3"]
    call = Problem(name, f"{g.key} tf32", "tensormap").call()
    ours, expected = call(Tile("tensormap", 64, 64, 16, 4, 2, rows=4)), call(Tile("gather", 32, 32, 16, 4, 2))
    assert ours.dtype == expected.dtype == torch.float32
    assert_close(ours, expected, 2**-11 if not GPU else 2**-9)


@pytest.mark.parametrize("name", ["conv2d_fwd", "conv2d_dgrad", "conv2d_wgrad"])
@pytest.mark.parametrize("g", SHAPES.values(), ids=SHAPES)
def test_candidates_begin_with_the_one_in_use_and_repeat_none(name, g):
    tiles = candidates(name, g, torch.float32, "gather")
    assert tiles[0] == module.pick_tile(name, g, torch.float32, "gather", arch())
    assert len(set(tiles)) == len(tiles) > 1


@pytest.mark.parametrize("name", ["conv2d_fwd", "conv2d_dgrad", "conv2d_wgrad"])
@pytest.mark.parametrize("height", [1, 3, 5, 12])
def test_boxes_of_candidates_are_powers_of_two(name, height, monkeypatch):
    g = Geometry(4, height, 3, 128, height, 3, 128, 3, 3, (1, 1), (1, 1), (1, 1))
    monkeypatch.setattr(module, "pick_tile", lambda *_: Tile("tensormap", 128, 128, 64, 4, 3))
    for tile in candidates(name, g, torch.bfloat16, "tensormap"):
        pixels = tile.block_k if name == "conv2d_wgrad" else tile.block_m
        sides = tile.images, tile.rows, pixels // tile.images // tile.rows
        assert all(side & (side - 1) == 0 for side in sides)
        assert sides[0] * sides[1] * sides[2] == pixels


def test_patches_lie_in_rows_that_a_tensor_map_takes():
    """Nine channels count of the 16 that `unfold` writes."""
    call = Problem("conv2d_wgrad", "9-16 3x1s1d1 2x4x8 float16", "tensormap").call()
    assert_close(
        call(Tile("tensormap", 64, 16, 16, 4, 2, splits=2, taps=3)), call(Tile("gather", 16, 16, 16, 4, 2)), 1e-5
    )


@pytest.mark.parametrize("name", ["conv2d_fwd", "conv2d_dgrad", "conv2d_wgrad"])
def test_the_fastest_right_tile_is_chosen(name, monkeypatch):
    """By a clock that likes small blocks; a tile that computes something else, or nothing, is not asked for."""
    good, wrong, broken = (
        Tile("gather", 32, 16, 16, 4, 2),
        Tile("gather", 16, 16, 16, 4, 2),
        Tile("none", 8, 8, 8, 4, 2),
    )
    slow = replace(good, block_m=64)
    monkeypatch.setattr(module, "candidates", lambda *_: [slow, good, wrong, broken])
    problem, asked, real = Problem(name, f"{SHAPES['3x3'].key} float32", "gather"), [], Problem.call

    def call(self):
        run = real(self)

        def spoilt(tile):
            asked.append(tile)
            if tile == broken:
                raise RuntimeError("does not compile")
            return run(tile) + 1 if tile == wrong else run(tile)

        return spoilt

    monkeypatch.setattr(Problem, "call", call)

    def clock(timed):
        timed()
        return asked[-1].block_m / 1000

    told = []
    table = tune([problem], 0, told.append, clock)
    assert Tile(**table[name][problem.key]) == good
    assert told == [f"{name} {problem.key}: 64.0 -> 32.0 us of 2 tiles"]
