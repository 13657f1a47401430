"""Tiles and flips: where tiles lie, what they weigh, their mean against float64, and the memory they take."""

import gc
import sys

import numpy as np
import pytest
import torch
from pictures import fresh_model, regions
from torch.multiprocessing.reductions import StorageWeakRef

from tritonnet.kernels import runtime
from tritonnet.nn import functional as F
from tritonnet.train.tiling import FLIPS, starts, tiled, weights
from tritonnet.train.trained import Trained


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (16, 16, 0.25, [0]),
        (17, 16, 0.25, [0, 1]),
        (40, 16, 0.25, [0, 12, 24]),
        (41, 16, 0.25, [0, 12, 24, 25]),
        (32, 16, 0.0, [0, 16]),
        (33, 16, 0.5, [0, 8, 16, 17]),
        (6, 4, 0.99, [0, 1, 2]),
    ],
)
def test_starts(length: int, tile: int, overlap: float, expected: list[int]) -> None:
    assert starts(length, tile, overlap) == expected


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_weights_add_up_over_every_pixel(overlap: float) -> None:
    for length in (16, 23, 61):
        begins = starts(length, 16, overlap)
        table = weights(begins, 16, 0.25).cpu().double().numpy()
        total = np.zeros(length)
        for begin, row in zip(begins, table, strict=True):
            total[begin : begin + 16] += row
        assert np.allclose(total, 0.25, rtol=1e-6, atol=0)
    assert weights([0], 16).tolist() == [[1.0] * 16]


def reference(
    trained: Trained, image: np.ndarray, tile: int, begins: tuple[list[int], list[int]], flips: bool
) -> np.ndarray:
    """The weighted mean in float64: weights are summed beside the values, which are divided by them at the end."""
    away = (np.arange(tile) - (tile - 1) / 2) / (tile / 8)
    bell = np.exp(-(away**2) / 2)
    total = np.zeros((len(trained.class_names), *image.shape[:2]))
    weight = np.zeros(image.shape[:2])
    places = [(slice(top, top + tile), slice(left, left + tile)) for top in begins[0] for left in begins[1]]
    for rows, columns in FLIPS if flips else FLIPS[:1]:
        turn = (slice(None, None, -1 if rows else 1), slice(None, None, -1 if columns else 1))
        logits = trained.logits(np.stack([image[at][turn] for at in places]), trained.normalizer()).numpy()
        p = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        for at, part in zip(places, p / p.sum(1, keepdims=True), strict=True):
            total[(slice(None), *at)] += np.outer(bell, bell) * part[(slice(None), *turn)]
            weight[at] += np.outer(bell, bell)
    return total / weight


def gathered(trained: Trained, image: np.ndarray, *how: object) -> np.ndarray:
    return np.concatenate([band.numpy()[0] for band in tiled(trained, image, trained.normalizer(), *how)], axis=1)


@pytest.mark.parametrize(("classes", "flips", "batch_size"), [(3, False, 2), (1, True, 16)])
def test_mean_against_float64(classes: int, flips: bool, batch_size: int) -> None:
    trained, image = fresh_model(classes), regions(20, 30, 3)
    found = gathered(trained, image, 16, 0.25, flips, batch_size)
    # the four sums of float32 products, and the softmax in float32
    assert np.allclose(found, reference(trained, image, 16, ([0, 4], [0, 12, 14]), flips), rtol=0, atol=2e-6)
    assert found.std(axis=(1, 2)).min() > 1e-3, "the classes must differ from place to place, or nothing was tested"


def test_one_tile_is_the_network_s_own_result() -> None:
    trained, image = fresh_model(3), regions(16, 16, 3)
    expected = F.softmax(trained.logits(np.stack([image]), trained.normalizer()), dim=1).numpy()[0]
    assert np.array_equal(gathered(trained, image, 16, 0.25, False, 16), expected)


def test_flips_are_averaged_and_do_not_know_up_from_down() -> None:
    trained, image = fresh_model(2), regions(16, 16, 3, seed=1)
    found = gathered(trained, image, 16, 0.25, True, 16)
    assert np.allclose(found, reference(trained, image, 16, ([0], [0]), True), rtol=0, atol=1e-6)
    mirrored = gathered(trained, image[::-1], 16, 0.25, True, 16)
    assert np.allclose(mirrored[:, ::-1], found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 20, 3), (20, 3, 3), (1, 1, 3)])
def test_pictures_smaller_than_a_tile_are_mirrored(shape: tuple[int, ...]) -> None:
    trained, image = fresh_model(2), regions(*shape)
    found = gathered(trained, image, 16, 0.25, False, 16)
    rows, columns = (np.r_[: max(side, 16)] % (2 * side) for side in shape[:2])
    whole = image[np.minimum(rows, 2 * shape[0] - 1 - rows)][:, np.minimum(columns, 2 * shape[1] - 1 - columns)]
    assert np.array_equal(found, gathered(trained, whole, 16, 0.25, False, 16))


def test_16_bit_pictures() -> None:
    trained, image = fresh_model(2, 1, wide=True), regions(18, 16, 1).astype(np.uint16) * 257
    assert np.allclose(
        gathered(trained, image, 16, 0.5, False, 16), reference(trained, image, 16, ([0, 2], [0]), False), atol=2e-6
    )


def test_memory_does_not_grow_with_the_height(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture of four bands no buffer is larger than one, and two of (nearly) that size are alive at once."""
    allocate, large, sizes, most = runtime.empty, list[StorageWeakRef](), list[int](), 0
    tile, height, width, classes, batch_size = 16, 52, 64, 9, 2
    band = tile * width * classes  # more than the network's widest activation for two tiles: 2 x 16 x 16 x 8

    def counted(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nonlocal most
        buffer = allocate(shape, dtype)
        sizes.append(buffer.numel())
        if buffer.numel() > 0.7 * band:  # a band, or what is done of one
            gc.collect()  # the interpreter's own rings of references
            large.append(StorageWeakRef(buffer.untyped_storage()))
            most = max(most, sum(not storage.expired() for storage in large))
        return buffer

    trained = fresh_model(classes)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("tritonnet.") and getattr(module, "empty", None) is allocate:
            monkeypatch.setattr(module, "empty", counted)
    rows = 0
    for part in tiled(trained, regions(height, width, 3), trained.normalizer(), tile, 0.25, False, batch_size):
        rows += part.numpy().shape[2]
    assert rows == height
    assert max(sizes) == band
    assert most == 2
