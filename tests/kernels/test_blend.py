"""Blending a tile into an image: against float64, at its edges, mirrored, and what it must leave alone."""

import pytest
import torch
from helpers import DEVICE, DTYPES, assert_close, gap_untouched, pitched, randn, to64

from tritonnet.kernels.blend import blend
from tritonnet.kernels.runtime import Refused

CASES = {  # N, (P, Q), (H, W), C, (top, left)
    "inside": (1, (4, 6), (11, 13), 3, (2, 5)),
    "corner": (2, (4, 5), (7, 9), 2, (3, 4)),
    "whole": (3, (8, 8), (8, 8), 1, (0, 0)),
    "one-pixel": (1, (1, 1), (3, 2), 17, (2, 1)),
    "past-a-tile": (1, (3, 2100), (4, 2101), 1, (1, 1)),
    "many-channels": (1, (2, 3), (2, 4), 1030, (0, 1)),
}
FLIPS = [(False, False), (False, True), (True, False), (True, True)]


def expected(x, y, top, left, rows, columns, mirrored):  # type: ignore[no-untyped-def]
    tile = to64(x).flip([axis for axis, turned in zip((1, 2), mirrored, strict=True) if turned])
    y = to64(y).clone()
    y[:, top : top + tile.shape[1], left : left + tile.shape[2]] += (
        to64(rows)[:, None, None] * to64(columns)[:, None] * tile
    )
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mirrored", FLIPS)
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str, mirrored: tuple[bool, bool], dtype: torch.dtype) -> None:
    n, (p, q), (h, w), c, (top, left) = CASES[name]
    x = pitched(randn(n, p, q, c, dtype=dtype))
    y = pitched(randn(n, h, w, c, seed=1))
    rows, columns = randn(p, seed=2), randn(q, seed=3)
    wanted = expected(x, y, top, left, rows, columns, mirrored)
    assert blend(x, y, top, left, rows, columns, mirrored) is y
    assert_close(y, wanted, rtol=3e-7)  # two products and a sum, 2**-24 each
    assert gap_untouched(y)


def test_what_is_outside_stays_as_it_was() -> None:
    y = torch.full((1, 5, 6, 2), float("nan"), device=DEVICE)
    y[:, 1:3, 2:5] = 0
    blend(randn(1, 2, 3, 2), y, 1, 2, randn(2), randn(3))
    assert int(y.isnan().sum()) == 2 * (30 - 6)


def test_mirrored_back_four_quarters_are_the_tile() -> None:
    x = randn(2, 4, 4, 3)
    quarter, one = torch.full((4,), 0.25, device=DEVICE), torch.ones(4, device=DEVICE)
    y = torch.zeros(2, 4, 4, 3, device=DEVICE)
    for mirrored in FLIPS:
        blend(x.flip([a + 1 for a in (0, 1) if mirrored[a]]).contiguous(), y, 0, 0, quarter, one, mirrored)
    assert torch.equal(y, x)  # quarters of one number, exact in binary


def test_empty_batch() -> None:
    y = torch.zeros(0, 4, 4, 2, device=DEVICE)
    assert blend(randn(0, 2, 2, 2), y, 0, 0, randn(2), randn(2)) is y


def test_refuses() -> None:
    x, y, weights = randn(1, 2, 2, 3), randn(1, 4, 4, 3), randn(2)
    refused = {
        "a tile of 2 x 2 must lie inside 4 x 4 pixels, got row 3, column 0": (x, y, 3, 0, weights, weights),
        "got row 0, column -1": (x, y, 0, -1, weights, weights),
        "y must have x's 1 images and 3 channels, got 1 and 2": (x, randn(1, 4, 4, 2), 0, 0, weights, weights),
        "y must be float32, got float16": (x, y.half(), 0, 0, weights, weights),
        "x must be float32 or bfloat16 or float16": (x.long(), y, 0, 0, weights, weights),
        r"rows must have shape \(2,\), weights of pixels, got \(3,\)": (x, y, 0, 0, randn(3), weights),
        "columns must be float32": (x, y, 0, 0, weights, weights.half()),
    }
    for says, arguments in refused.items():
        with pytest.raises(Refused, match=says):
            blend(*arguments)
