"""Made cells: pure functions of (seed, index, size), with foreground and background in most pictures."""

import numpy as np
import pytest

from tritonnet.data import Cells, DataError, channel_statistics


def test_a_picture_is_a_pure_function_of_seed_and_index() -> None:
    first, again, other = Cells(6, 32, 1), Cells(60, 32, 1), Cells(6, 32, 2)
    for i in (5, 0):
        assert all((a == b).all() for a, b in zip(first.sample(i), again.sample(i), strict=True))
        assert (first.sample(i)[0] != other.sample(i)[0]).any()
    assert (first.sample(0)[1] != first.sample(1)[1]).any()


def test_shapes_types_and_classes() -> None:
    cells = Cells(10, 24)
    image, mask = cells.sample(0)
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((24, 24, 3), np.uint8, (24, 24), np.uint8)
    assert cells.class_names == ("background", "cell")
    assert cells.splits["val"] == (4, 9)


def test_cells_are_a_fair_share_brighter_than_the_background_and_not_trivially_so() -> None:
    cells = Cells(60, 32)
    samples = [cells.sample(i) for i in range(60)]
    masks = np.stack([m for _, m in samples]).astype(bool)
    assert 0.1 < masks.mean() < 0.4
    assert set(np.unique(masks)) == {False, True}
    light = np.stack([i.mean(axis=2) for i, _ in samples])
    assert light[masks].mean() > light[~masks].mean() + 20
    # no single brightness separates them: the best threshold leaves IoU below what a small network reaches
    best = max((masks & (light > t)).sum() / (masks | (light > t)).sum() for t in range(20, 200, 4))
    assert best < 0.85
    mean, std = channel_statistics(cells)
    assert all(0.1 < m < 0.6 for m in mean)
    assert all(0.05 < s < 0.4 for s in std)


def test_the_same_shapes_at_every_size() -> None:
    small, large = Cells(3, 32).sample(2)[1], Cells(3, 64).sample(2)[1]
    # only pixels on outlines may differ
    assert (large[::2, ::2] != small).mean() < 0.1


def test_refuses() -> None:
    for count, size in ((0, 32), (4, 7)):
        with pytest.raises(DataError, match=f"got count {count} and size {size}"):
            Cells(count, size)
