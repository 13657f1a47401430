"""Which augmentation an image gets: ranges, the same amounts again, what is read from the command line."""

import numpy as np
import pytest

from tritonnet.data import Augmentation, DataError

INDICES = np.arange(500)


def test_amounts_are_a_function_of_seed_epoch_and_index() -> None:
    some = Augmentation.parse("rotate, elastic, noise, turns")
    assert some is not None
    drawn = some.draw(3, 1, INDICES, 64)
    part = some.draw(3, 1, INDICES[100:200], 64)
    assert all(np.array_equal(a[100:200], b) for a, b in zip(drawn, part, strict=True))
    for other in (some.draw(4, 1, INDICES, 64), some.draw(3, 2, INDICES, 64)):
        assert not any(np.array_equal(a, b) for a, b in zip(drawn, other, strict=True))


def test_amounts_lie_in_their_range_and_fill_it() -> None:
    drawn = Augmentation(
        rotate=30, scale=0.5, shift=0.1, elastic=0.02, brightness=0.2, contrast=0.3, gamma=0.4, noise=0.05
    ).draw(0, 0, INDICES, 100)
    p = drawn.parameters.astype(np.float64)
    angle, zoom = np.rad2deg(np.arctan2(p[:, 3], p[:, 0])), np.hypot(p[:, 3], p[:, 0])
    for values, low, high in (
        (angle, -30, 30), (zoom, 1 / 1.5, 1.5), (p[:, 2], -10, 10), (p[:, 5], -10, 10), (p[:, 6], -0.2, 0.2),
        (p[:, 7], 1 / 1.3, 1.3), (p[:, 8], 1 / 1.4, 1.4), (p[:, 9], 0, 0.05),
    ):  # fmt: skip
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
        assert values.max() - values.min() > 0.95 * (high - low)
    assert drawn.grid.shape == (500, 2, 3, 3)
    assert abs(drawn.grid.mean()) < 5 * 2 / 9000**0.5
    assert abs(drawn.grid.std() - 2) < 0.1
    assert len(set(drawn.keys.tolist())) == 500


def test_nothing_asked_for_is_the_identity() -> None:
    drawn = Augmentation().draw(0, 0, INDICES, 100)
    assert np.array_equal(drawn.parameters, np.tile(np.array([1, 0, 0, 0, 1, 0, 0, 1, 1, 0], np.float32), (500, 1)))
    assert not drawn.grid.any()


def test_quarter_turns_are_exact_and_equally_likely() -> None:
    maps = Augmentation(turns=1).draw(0, 0, INDICES, 100).parameters[:, [0, 1, 3, 4]]
    kinds, counts = np.unique(maps, axis=0, return_counts=True)
    assert len(kinds) == 4
    assert set(kinds.ravel().tolist()) == {-1.0, 0.0, 1.0}
    assert counts.min() > 80  # of 125 expected


def test_parse() -> None:
    assert Augmentation.parse("") is None
    assert Augmentation.parse(" rotate , elastic=0.1") == Augmentation(rotate=15, elastic=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spin", "must be names among turns, rotate, .*, got 'spin'"),
        ("rotate=x", "rotate must be from 0 to 180, got 'x'"),
        ("elastic=-1", "elastic must be from 0 to 0.5, got '-1'"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Augmentation.parse(text)
