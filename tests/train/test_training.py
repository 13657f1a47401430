"""The training loop: what it writes, that it learns, that it is reproducible, also when stopped."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import write_folder
from PIL import Image
from small import train_small

from tritonnet import io
from tritonnet.data import DataError
from tritonnet.io import ModelFileError
from tritonnet.kernels.fault import Fault
from tritonnet.kernels.runtime import Refused
from tritonnet.train import Config, Listener, Trained, evaluate, resume, train
from tritonnet.train.folder import COLUMNS, RunFolder, better
from tritonnet.train.training import Training

TINY = Config(base_channels=4, depth=1, size=16, batch_size=2, epochs=2, cells=5, checkpoint_seconds=0.0)


class Silent(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)

    def step(self, done: int, images_per_second: float) -> None:
        pass

    def epoch(self, row: object) -> None:
        pass


class Stops(Silent):
    """Interrupts training in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, done: int, images_per_second: float) -> None:
        if done == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(replace(TINY, out=str(folder)), Silent())
    return folder


def same(one: Path, other: Path) -> bool:
    """Whether two model files hold the same bits."""
    a, b = io.load_model(one), io.load_model(other)
    slots_a, slots_b = a.optimizer or {}, b.optimizer or {}
    pairs = [(a.model, b.model), *((slots_a[slot], slots_b[slot]) for slot in slots_a)]
    return slots_a.keys() == slots_b.keys() and all(
        x.keys() == y.keys() and all(np.array_equal(x[key], y[key]) for key in x) for x, y in pairs
    )


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_run_folder_is_complete(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "config.toml", "metrics.csv", "curves.png", "samples", "best.h5", "last.h5",
    }  # fmt: skip
    rows = table(finished)
    assert tuple(rows[0]) == COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["learning_rate"]) > float(rows[1]["learning_rate"])
    assert [path.name for path in (finished / "samples").iterdir()] == ["cells_00004.png"]
    assert Config.load(finished / "config.toml") == replace(TINY, out=str(finished))


@pytest.mark.parametrize("recompute", [0, 1])
def test_same_seed_same_weights(finished: Path, tmp_path: Path, recompute: int) -> None:
    train(replace(TINY, out=str(tmp_path / "run"), recompute=recompute), Silent())
    assert same(finished / "last.h5", tmp_path / "run" / "last.h5")
    assert same(finished / "best.h5", tmp_path / "run" / "best.h5")


def test_resumed_run_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(replace(TINY, out=str(tmp_path / "run")), Stops(at=3))  # in the second of two epochs of two steps
    assert len(table(tmp_path / "run")) == 1
    assert (io.load_model(tmp_path / "run" / "last.h5").progress or {})["step"] == 3
    resume(tmp_path / "run", Silent())
    assert same(finished / "last.h5", tmp_path / "run" / "last.h5")
    tiles = (io.load_model(tmp_path / "run" / "last.h5").progress or {})["tiles"]
    assert any("conv2d_wgrad" in passes for passes in tiles.values())
    assert same(finished / "best.h5", tmp_path / "run" / "best.h5")
    for ours, theirs in zip(table(finished), table(tmp_path / "run"), strict=True):
        assert [ours[name] for name in COLUMNS[:7]] == [theirs[name] for name in COLUMNS[:7]]


def test_best_is_what_evaluate_finds(finished: Path) -> None:
    _, metrics = evaluate(finished / "best.h5")
    assert metrics.iou == pytest.approx(max(float(row["iou"]) for row in table(finished)), rel=1e-5)


def test_a_model_of_before_there_was_a_choice_of_losses(finished: Path) -> None:
    trained = Trained.load(finished / "best.h5")
    expected = evaluate(trained)[1].loss
    del trained.card["run"]["loss"], trained.card["run"]["class_weights"]
    assert evaluate(trained)[1].loss == expected


def test_loss_falls(tmp_path: Path) -> None:
    config = replace(TINY, out=str(tmp_path / "run"), epochs=4, schedule="constant", lr=1e-2, flips=False)
    history = train(config, Silent()).history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adagrad", "rmsprop"])
def test_sigmoid_head_and_other_optimizers(tmp_path: Path, optimizer: str) -> None:
    data = write_folder(tmp_path / "data")
    out = tmp_path / "run"
    config = replace(
        TINY, data=str(data), out=str(out), head="sigmoid", optimizer=optimizer, epochs=1, weight_decay=1e-2
    )
    run = train(config, Silent())
    trained = Trained.load(out / "best.h5")
    assert trained.outputs == 1
    assert trained.network(trained.normalizer()(_byte_image())).shape == (1, 1, 16, 16)
    _, metrics = evaluate(trained)
    assert metrics.iou == pytest.approx(run.best["iou"], rel=1e-5)


@pytest.mark.parametrize("loss", ["ce + dice", "0.5*distance(sigma=3) + focal"])
def test_sum_of_losses_and_weights_from_the_data(loss: str, tmp_path: Path) -> None:
    data, out, listener = write_folder(tmp_path / "data"), tmp_path / "run", Silent()
    config = replace(TINY, data=str(data), out=str(out), loss=loss, class_weights="auto", epochs=1)
    run = train(config, listener)
    used = Config.load(out / "config.toml")
    assert used.loss == loss
    assert any(f"class weights {used.class_weights}: " in line for line in listener.heard)
    _, metrics = evaluate(out / "best.h5")
    assert metrics.loss == pytest.approx(run.history[-1]["val_loss"], rel=1e-5)
    first = (out / "last.h5").read_bytes()
    resume(out, Silent())  # takes the numbers, not the data's again
    assert Config.load(out / "config.toml") == used
    assert len(first) == (out / "last.h5").stat().st_size


def _byte_image():  # type: ignore[no-untyped-def]
    from tritonnet.train.batches import to_device

    return to_device(np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    "network",
    [
        {"upsample": "bilinear"},
        {"skip": "add", "down": "conv", "dropout": 0.3},
        {"model": "resunet"},
    ],
    ids=lambda network: "-".join(map(str, network.values())),
)
def test_networks_and_ignored_pixels(network: dict[str, Any], tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    mask = np.full((16, 16), 255, np.uint8)
    mask[:8, :8] = 1
    mask[4:8, :8] = 0
    for path in (data / "masks").iterdir():
        Image.fromarray(mask).save(path)
    train(replace(TINY, data=str(data), out=str(tmp_path / "run"), epochs=1, **network), Silent())
    trained = Trained.load(tmp_path / "run" / "best.h5")
    assert {"model": "unet", "depth": 1, **network}.items() <= trained.network.config.items()
    _, metrics = evaluate(trained)
    assert sum(map(sum, metrics.matrix)) == 64  # the one validation image's pixels that count


def test_time_limit_ends_a_run(tmp_path: Path) -> None:
    config = replace(TINY, out=str(tmp_path / "run"), epochs=1000, max_seconds=0.01)
    run = train(config, Silent())
    assert len(run.history) == 1
    assert (run.folder / "best.h5").is_file()


def test_says_what_the_data_is(tmp_path: Path) -> None:
    listener = Silent()
    train(replace(TINY, data=str(write_folder(tmp_path / "data")), out=str(tmp_path / "run"), epochs=1), listener)
    assert any("255" in line for line in listener.heard)  # how mask values became classes
    assert any("4 images to train on, 1 to validate" in line for line in listener.heard)


def test_epochs_follow_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images are seen often: 2 steps an epoch make 75 epochs of 150. Many are seen three times."""
    monkeypatch.chdir(tmp_path)
    config, listener = replace(TINY, epochs=0), Silent()
    assert Training(config, RunFolder("run", fresh=True), listener).config.epochs == 75
    assert listener.heard[-1] == "75 epochs of 2 steps; --epochs chooses otherwise"
    monkeypatch.setattr("tritonnet.train.training.FEW_STEPS", 4)
    train_small(monkeypatch)
    run = train(replace(config, batch_size=1, out="run"), Silent())
    assert len(run.history) == run.config.epochs == Config.load(run.folder / "config.toml").epochs == 3


@pytest.mark.parametrize("classes", [2, 3])
def test_finding_nothing_is_said(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(monkeypatch)
    data, listener = write_folder(tmp_path / "data"), Silent()
    for path in (data / "masks").iterdir():
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % classes).save(path)
    weights = ",".join(["1e6", *["1"] * (classes - 1)])
    config = replace(TINY, data=str(data), out=str(tmp_path / "run"), lr=1.0, class_weights=weights)
    train(config, listener)
    where = "the validation images" if classes == 2 else "samples/"
    assert listener.heard[-1] == (
        f"no object was found in {where}; try --epochs 6 or another --lr than 1; "
        f"look at the masks with: tritonnet data check {data}"
    )


def test_a_run_that_died_before_its_first_save(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    says = "the run in it was not saved yet: if it is over, remove the folder"
    with pytest.raises(DataError, match=f"found none; {says}"):
        resume(run, Silent())
    with pytest.raises(DataError, match=f"choose another --out; {says}"):
        train(replace(TINY, out=str(run)), Silent())


def test_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(TINY, out=str(tmp_path / "run"), epochs=1), Listener())
    assert "epoch 1/1  train loss " in capsys.readouterr().out


def test_divergence_is_said(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="lower the learning rate"):
        train(replace(TINY, out=str(tmp_path / "run"), optimizer="sgd", lr=1e30), Silent())


def test_better_prefers_numbers_and_the_earlier() -> None:
    assert better({"iou": 0.5}, None)
    assert better({"iou": 0.5}, {"iou": float("nan")})
    assert not better({"iou": float("nan")}, {"iou": 0.1})
    assert not better({"iou": 0.5}, {"iou": 0.5})


def test_refuses(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a new or empty folder"):
        train(replace(TINY, out=str(finished)), Silent())
    with pytest.raises(DataError, match="found none"):
        resume(tmp_path, Silent())
    with pytest.raises(DataError, match="split must be one of train, val, all, got 'test'"):
        evaluate(finished / "best.h5", split="test")
    (tmp_path / "run").mkdir()
    for name in ("config.toml", "metrics.csv"):
        (tmp_path / "run" / name).write_bytes((finished / name).read_bytes())
    (tmp_path / "run" / "last.h5").write_bytes((finished / "best.h5").read_bytes())
    with pytest.raises(DataError, match="is it a copy of best"):
        resume(tmp_path / "run", Silent())


def test_refuses_a_damaged_best_before_it_goes_on(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "best.h5").write_bytes((finished / "best.h5").read_bytes()[:5000])
    with pytest.raises(ModelFileError, match=r"best\.h5: damaged or cut short"):
        resume(tmp_path / "run", Silent())


@pytest.mark.parametrize("ignored", [(0, 1, 2, 3), (4,)], ids=["train", "val"])
def test_refuses_masks_that_ignore_every_pixel(ignored: tuple[int, ...], tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    for index in range(5):
        mask = np.arange(256, dtype=np.uint8).reshape(16, 16) % 2
        Image.fromarray(mask * 0 + 255 if index in ignored else mask).save(data / "masks" / f"cell_{index}.png")
    with pytest.raises(DataError, match="is ignored at 16 x 16, which leaves nothing to learn or score"):
        train(replace(TINY, data=str(data), out=str(tmp_path / "run")), Silent())
    assert not (tmp_path / "run").exists()


def test_split_file_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folder(tmp_path / "data")
    (tmp_path / "val.txt").write_text("cell_1\n")
    monkeypatch.chdir(tmp_path)
    train(replace(TINY, data=str(data), out=str(tmp_path / "run"), epochs=1, val="val.txt"), Silent())
    monkeypatch.chdir("/")
    dataset, _ = evaluate(tmp_path / "run" / "best.h5")
    assert dataset.splits["val"] == (1,)


def test_one_image_can_be_evaluated(finished: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", count=1)
    path = data / "masks" / "cell_0.png"
    Image.fromarray(np.array(Image.open(path)) // 255).save(path)  # the values of made cells
    dataset, metrics = evaluate(finished / "best.h5", str(data), split="all")
    assert len(dataset) == 1
    assert sum(map(sum, metrics.matrix)) == 256


def test_sigmoid_refuses_three_classes(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    for path in (data / "masks").iterdir():
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 3).save(path)
    with pytest.raises(Refused, match="head sigmoid is for 2 classes, the masks hold 3"):
        train(replace(TINY, data=str(data), out=str(tmp_path / "run"), head="sigmoid"), Silent())
