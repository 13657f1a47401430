"""Batches: every sample once, a pure function of (seed, epoch, index), resumable, and no thread left behind."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tritonnet.data import Batch, DataError, Dataset, Loader, MaskMapping


def numbered(count: int, wide: bool = False, broken: int = -1) -> Dataset:
    """Sample i holds its own number, so that batches show what they are made of."""

    def read(index: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
        if index == broken:
            raise DataError(f"s{index}: broken")
        image = np.arange(16, dtype=np.uint16 if wide else np.uint8).reshape(4, 4, 1) + index
        return image.astype(np.uint16 if wide else np.uint8), image[:, :, 0].astype(np.uint8)

    return Dataset(
        read=read, names=[f"s{i}" for i in range(count)], size=4, channels=1, class_names=("a", "b"), wide=wide,
        mapping=MaskMapping("values", 2, {0: 0, 1: 1}), splits={"train": tuple(range(count))},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        (x.images == y.images).all() and (x.masks == y.masks).all() and x.names == y.names and x.position == y.position
        for x, y in zip(a, b, strict=True)
    )


def test_every_sample_once_and_the_last_batch_kept() -> None:
    loader = Loader(numbered(11), range(11), 4)
    batches = list(loader.epoch(0))
    assert len(loader) == 3
    assert [len(b.names) for b in batches] == [4, 4, 3]
    assert [b.position for b in batches] == [4, 8, 11]
    assert sorted(int(i) for b in batches for i in b.indices) == list(range(11))
    for batch in batches:
        assert batch.images.shape == (len(batch.names), 4, 4, 1)
        assert batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist()
        assert batch.names == tuple(f"s{i}" for i in batch.indices)


def test_a_users_transform_sees_each_image_with_bits_of_its_own() -> None:
    def shift(image: np.ndarray, mask: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
        image += bits % 7
        return image, mask + np.uint8(1)

    def batches(epoch: int, threads: int = 2) -> list[Batch]:
        return list(Loader(numbered(11), range(11), 4, threads=threads, transform=shift).epoch(epoch))

    plain = list(Loader(numbered(11), range(11), 4).epoch(0))
    first = batches(0)
    assert same(first, batches(0, threads=1))
    assert not same(first, batches(1))
    added = np.concatenate([a.images[:, 0, 0, 0] - b.images[:, 0, 0, 0] for a, b in zip(first, plain, strict=True)])
    assert len(set(added.tolist())) > 2
    assert all((a.masks == b.masks + 1).all() for a, b in zip(first, plain, strict=True))


def test_without_shuffling_the_given_order_stays() -> None:
    batches = list(Loader(numbered(6), [5, 0, 3], 2, shuffle=False).epoch(7))
    assert [b.indices.tolist() for b in batches] == [[5, 0], [3]]


def test_order_and_flips_depend_on_seed_and_epoch_alone() -> None:
    def batches(epoch: int, seed: int = 3, threads: int = 2, ahead: int = 3) -> list[Batch]:
        data = numbered(40)
        return list(
            Loader(data, range(40), 8, seed=seed, hflip=True, vflip=True, threads=threads, ahead=ahead).epoch(epoch)
        )

    assert same(batches(1), batches(1, threads=5, ahead=1))
    assert not same(batches(1), batches(2))
    assert not same(batches(1), batches(1, seed=4))


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    assert Loader(numbered(8), range(8), 8, seed=1).order(0).tolist() == [7, 5, 0, 6, 3, 1, 4, 2]


def test_a_sample_is_flipped_alike_whatever_else_is_loaded() -> None:
    data = numbered(30)
    whole = {n: b.images[k] for b in Loader(data, range(30), 7, hflip=True).epoch(2) for k, n in enumerate(b.names)}
    part = {n: b.images[k] for b in Loader(data, range(10, 20), 3, hflip=True).epoch(2) for k, n in enumerate(b.names)}
    assert all((whole[name] == image).all() for name, image in part.items())


def test_flips_move_image_and_mask_alike_and_reach_every_side() -> None:
    corners = set()
    for epoch in range(40):
        for batch in Loader(numbered(1), [0], 1, hflip=True, vflip=True, threads=1).epoch(epoch):
            assert (batch.images[..., 0] == batch.masks).all()
            corners.add(int(batch.masks[0, 0, 0]))
    assert corners == {0, 3, 12, 15}


def test_about_half_are_flipped() -> None:
    (batch,) = Loader(numbered(200), range(200), 200, hflip=True, shuffle=False).epoch(0)
    flipped = int((batch.images[:, 0, 0, 0] != np.arange(200)).sum())
    assert 70 <= flipped <= 130  # 100 expected, standard deviation 7


def test_resuming_continues_the_epoch() -> None:
    loader = Loader(numbered(22), range(22), 4, seed=9, hflip=True)
    whole = list(loader.epoch(3))
    assert same(list(loader.epoch(3, whole[1].position)), whole[2:])
    assert list(loader.epoch(3, 22)) == []


def test_wide_datasets_give_int32() -> None:
    (batch,) = Loader(numbered(3, wide=True), range(3), 3).epoch(0)
    assert batch.images.dtype == np.int32


def test_leaving_early_ends_the_threads() -> None:
    for _ in Loader(numbered(100), range(100), 2, threads=4).epoch(0):
        break

    def fails() -> None:
        for _ in Loader(numbered(100), range(100), 2, threads=4).epoch(0):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()


def test_a_damaged_file_is_reported() -> None:
    batches = Loader(numbered(9, broken=5), range(9), 3, shuffle=False).epoch(0)
    assert next(batches).names == ("s0", "s1", "s2")
    with pytest.raises(DataError, match="s5: broken"):
        next(batches)


def test_no_sample_makes_no_batch() -> None:
    loader = Loader(numbered(3), [], 2)
    assert len(loader) == 0
    assert list(loader.epoch(0)) == []


def test_refuses() -> None:
    for name in ("batch_size", "threads", "ahead"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            Loader(numbered(3), range(3), **({"batch_size": 1} | {name: 0}))
    with pytest.raises(ValueError, match="position must be from 0 to 3, got 4"):
        Loader(numbered(3), range(3), 1).epoch(0, 4)
