"""Accumulation, averaging, early stopping, around a small network."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import write_folder
from PIL import Image
from small import train_small

from tritonnet import io
from tritonnet.train import Config, Listener, Run, evaluate, train

TINY = Config(depth=1, size=8, batch_size=4, epochs=1, cells=5, optimizer="sgd", lr=0.1, schedule="constant")


class Heard(Listener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)


def run(folder: Path, **settings: object) -> tuple[Run, dict[str, np.ndarray]]:
    """A finished run and the weights it ended with."""
    done = train(replace(TINY, out=str(folder), **settings), Heard())  # type: ignore[arg-type]
    return done, io.load_model(folder / "last.h5").model


@pytest.mark.parametrize(("size", "count", "clip"), [(1, 4, 0.01), (3, 2, 0.0)])
def test_accumulated_parts_are_one_batch(
    size: int, count: int, clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where parts are of different sizes, count different numbers of pixels, or none at all."""
    train_small(monkeypatch, norm="none")
    data = write_folder(tmp_path / "data")
    for number in range(5):
        mask = np.arange(256, dtype=np.uint8).reshape(16, 16) % 2
        mask[: 16 - 5 * number] = 255  # all rows of the first, none of the last, which validates
        Image.fromarray(mask).save(data / "masks" / f"cell_{number}.png")
    settings = {"data": str(data), "clip": clip, "momentum": 0.0}
    whole, expected = run(tmp_path / "whole", **settings)
    parts, found = run(tmp_path / "parts", batch_size=size, accumulate=count, **settings)
    # four sums of some 200 products in another order
    assert parts.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], rel=3e-6)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_averaged_weights_are_validated_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(monkeypatch)
    done, last = run(tmp_path / "run", batch_size=2, ema=0.75)
    run(tmp_path / "first", batch_size=2, max_seconds=1e-9)  # the first of its two steps alone
    weights = [io.load_model(tmp_path / "first" / "last.h5").model["head.weight"], last["head.weight"]]
    best = io.load_model(tmp_path / "run" / "best.h5").model
    assert best["head.weight"] == pytest.approx(0.75 * weights[0] + 0.25 * weights[1], rel=1e-6)
    assert best["norm.num_batches_tracked"] == 2
    _, metrics = evaluate(tmp_path / "run" / "best.h5")
    assert metrics.iou == pytest.approx(done.best["iou"], rel=1e-5, nan_ok=True)


def test_patience_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(monkeypatch)
    listener = Heard()
    done = train(replace(TINY, out=str(tmp_path / "run"), epochs=9, lr=1e-12, patience=2), listener)
    assert len(done.history) == 3  # nothing changes: the first epoch stays the best
    stopped, waited, empty = listener.heard[-3:]
    assert stopped == "no higher IoU for 2 epochs: stopped early"
    assert re.fullmatch(r"the steps waited \d+\.\d % of their time for images", waited)
    assert empty.startswith("no object was found in the validation images")


def test_augmentation_may_move_out_all_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a strip of labels that shifts often take out of the image: such a batch teaches nothing, and its loss is left out."""
    train_small(monkeypatch)
    data = write_folder(tmp_path / "data")
    for number in range(5):
        mask = np.full((16, 16), 255, np.uint8)
        mask[:2] = np.arange(16) % 2
        Image.fromarray(mask).save(data / "masks" / f"cell_{number}.png")
    done, _ = run(
        tmp_path / "run", data=str(data), size=16, batch_size=1, augment="shift=1", flips=False, epochs=3, lr=0.01
    )
    assert all(np.isfinite(row["train_loss"]) for row in done.history)
