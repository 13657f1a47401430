"""Evaluation beside its numbers: classes that do not fit, the best and worst images, the pictures."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import recordings  # noqa: F401
from pictures import fresh_model, regions
from PIL import Image

from tritonnet.data import DataError
from tritonnet.nn import capture
from tritonnet.nn.capture import Captured
from tritonnet.train import Inference, Metrics, Trained, evaluate, predict
from tritonnet.train.evaluation import extremes, write_pictures


def folder(root: Path, *values: int, count: int = 4) -> str:
    """Pictures of noise with masks of these values."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(regions(16, 16, 3, seed=i)).save(root / "images" / f"{i}.png")
        mask = np.array(values, np.uint8)[regions(16, 16, seed=i + 9) % len(values)]
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return str(root)


def test_best_and_worst_images_are_drawn(tmp_path: Path) -> None:
    trained = fresh_model()
    dataset, metrics = evaluate(trained, folder(tmp_path / "data", 0, 1), split="all")
    worst, best = extremes(metrics)
    assert len(worst) == len(best) == 2
    assert sorted(metrics.image_iou, key=lambda name: metrics.image_iou[name]) == worst + best[::-1]
    for stale in ("worst_4.png", "mine.png"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / stale).write_bytes(b"")
    write_pictures(tmp_path / "out", trained, dataset, metrics)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "confusion_matrix.png", "worst_1.png", "worst_2.png", "best_1.png", "best_2.png", "mine.png",
    }  # fmt: skip
    with Image.open(tmp_path / "out" / "worst_1.png") as sheet:
        shown = np.asarray(sheet.convert("RGB"))[18:274:16, :256:16]  # the picture's pixels, each 16 x 16 large
    assert np.array_equal(shown, regions(16, 16, 3, seed=int(worst[0])))


def test_recorded_forwards_score_and_predict_the_same(
    recordings: list[Captured],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    data, pictures = folder(tmp_path / "data", 0, 1), [regions(16, 16, 3, seed=i) for i in range(4)]
    large = regions(16, 40, 3)
    ends: list[Any] = []
    for eager in (10**9, 2):
        monkeypatch.setattr(capture, "EAGER", eager)
        trained = Trained(deepcopy(fresh_model().network), fresh_model().card)
        metrics = evaluate(trained, data, split="all", inference=Inference(batch_size=1))[1]
        masks = np.stack(trained.predict(pictures, batch_size=1))
        logits = [trained.logits(np.stack([picture]), trained.normalizer()) for picture in pictures]
        bands = Inference(tiles=True, tta="flips", batch_size=1).bands(trained, large, trained.normalizer())
        arrays = [masks, *(y.numpy() for y in logits), *(band.numpy() for band in bands)]
        ends.append((metrics, arrays))
    assert ends[0][0] == ends[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))
    assert len(recordings) == 1


def test_images_without_a_score_are_neither_best_nor_worst() -> None:
    scores = {"a": 0.5, "b": float("nan"), "c": 0.25}
    assert extremes(Metrics(*(0.0,) * 3, *((),) * 5, scores)) == (["c"], ["a"])
    assert extremes(Metrics(*(0.0,) * 3, *((),) * 5, {"b": float("nan")})) == ([], [])


def test_another_number_of_classes_is_named(tmp_path: Path) -> None:
    three, two = folder(tmp_path / "three", 0, 1, 2), folder(tmp_path / "two", 0, 1)
    with pytest.raises(DataError, match=r"three: the model knows 2 classes \(class 0, class 1\), the masks hold 3"):
        evaluate(fresh_model(2), three, split="all")
    evaluate(fresh_model(3), two, split="all")  # a class may be missing from a folder
    trained = fresh_model(2)
    trained.card["data"]["mask_mapping"] = {"rule": "threshold", "classes": 2, "values": {}}
    with pytest.raises(DataError, match="the model knows 2 classes"):  # 0, 1 and 2 would all be class 0
        evaluate(trained, three, split="all")
    with pytest.raises(DataError, match="mask value 255 is no class"):
        evaluate(fresh_model(2), folder(tmp_path / "other", 0, 255), split="all")


@pytest.mark.parametrize(
    ("classes", "how"),
    [(3, {"tiles": True}), (1, {"tiles": True, "tile_size": 8, "overlap": 0.5, "tta": "flips"}), (2, {"tta": "flips"})],
)
def test_what_predict_marks_is_what_evaluate_scores(classes: int, how: dict[str, Any], tmp_path: Path) -> None:
    """Counted by numpy over the files: with tiles at the pictures' own sizes, some smaller than a tile."""
    trained, inference, shapes = fresh_model(classes), Inference(**how), ((16, 16), (23, 19), (7, 20))
    names = len(trained.class_names)
    for i, shape in enumerate(shapes if "tiles" in how else shapes[:1] * 3):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(regions(*shape, 3, seed=i)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(regions(*shape, seed=i + 9) % names).save(tmp_path / "masks" / f"{i}.png")
    written = predict(trained, tmp_path, tmp_path / "out", inference=inference, tell=lambda _: None)
    found, truth = (
        [np.asarray(Image.open(folder / path.name)) for path in written]
        for folder in (tmp_path / "out" / "masks", tmp_path / "masks")
    )
    expected = sum(
        np.bincount((t.astype(int) * names + f).ravel(), minlength=names**2) for t, f in zip(truth, found, strict=True)
    )
    dataset, metrics = evaluate(trained, str(tmp_path), split="all", inference=inference)
    assert np.array_equal(np.ravel(metrics.matrix), expected)
    assert np.isnan(metrics.loss)
    write_pictures(tmp_path / "scores", trained, dataset, metrics, inference)
    (worst, *_), _ = extremes(metrics)
    with Image.open(tmp_path / "scores" / "worst_1.png") as sheet:
        side = found[int(worst)].shape[1]
        assert sheet.width == 3 * side * -(-256 // side) + 16
