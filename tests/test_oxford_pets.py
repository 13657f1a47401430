"""The pets' experiment on made cells: its runs, their file, the report, and the statistics in it."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from losscheck import compare, labels, logits
from pictures import write_folder

import tritonnet as tn
from tritonnet.data import DataError, Loader, open_dataset
from tritonnet.train.batches import Normalizer
from tritonnet.train.objective import Objective

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = (
    "--size 16 --base-channels 2 --depth 1 --images 5 --test 2 --epochs 1,2 --lr-adam 1e-2 --seeds 0 --precision fp32"
)


@pytest.fixture
def pets(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The example's modules."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from oxford_pets import intervals, jobs, learners, report, run, torch_learner

    return SimpleNamespace(
        intervals=intervals, jobs=jobs, learners=learners, report=report, run=run, torch_learner=torch_learner
    )


def start(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["oxford_pets_experiment.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "oxford_pets_experiment.py"), run_name="__main__")


def test_runs_once_and_reports(
    pets: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_folder(tmp_path / "data", 8), tmp_path / "report"
    arguments = ("--data", data, "--out", out, "--only", "main", *SMALL.split())
    start(monkeypatch, *arguments)
    heard = capsys.readouterr().out
    assert "4 of 4 runs are to be made" in heard
    rows = pets.jobs.read(out / "rows.jsonl")
    assert len(rows) == 4
    for ours, theirs in (rows[:2], rows[2:]):
        assert (ours["job"].framework, theirs["job"].framework) == ("tritonnet", "torch-benchmark")
        # from the same weights on the same batches: what float32 rounds differently in eight steps
        assert np.allclose(ours["first_losses"], theirs["first_losses"], rtol=1e-3)
        assert ours["first_losses"][0] == pytest.approx(theirs["first_losses"][0], rel=1e-5)
        assert ours["tested"] == theirs["tested"]
        assert len(ours["val_iou"]) == len(ours["epoch_seconds"]) == 2
        assert len(ours["first_losses"]) == 8
    written = (out / "rows.jsonl").read_bytes()
    (out / "rows.jsonl").write_bytes(written + b'{"job": {"grou')  # a run was killed while it wrote
    start(monkeypatch, *arguments)
    assert "0 of 4 runs are to be made" in capsys.readouterr().out
    pets.jobs.append(out / "rows.jsonl", rows[0])
    assert len(pets.jobs.read(out / "rows.jsonl")) == 5
    text, page = ((out / name).read_text() for name in ("report.md", "report.html"))
    assert "| 2, best |" in text
    assert "| adam | 2, best | 1 |" in text
    assert page.count("data:image/png;base64,") == page.count("data:image/jpeg;base64,") == 1
    assert "http" not in page
    assert {"curves.png", "test_images.jpg"} <= {path.name for path in out.iterdir()}


def test_refuses_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pets: SimpleNamespace
) -> None:
    data = write_folder(tmp_path / "data", 6)
    cases = {
        "--only must be of main, parity": ("--only", "mian", "--data", data),
        "rows.jsonl: must hold the rows of at least one run": ("--report",),
        "--data must be given": (),
        "2 test and at least 5 training images must be there, of 6": ("--only", "main", "--data", data, *SMALL.split()),
    }
    for message, arguments in cases.items():
        with pytest.raises(SystemExit) as stopped:
            start(monkeypatch, "--out", tmp_path / "out", *arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_splits(pets: SimpleNamespace, tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path / "data", 20), 16)
    job = pets.jobs.Job(images=10, test=3)
    train, val, test = pets.run.split(dataset, job)
    assert (len(train), len(val), len(test)) == (8, 2, 3)
    assert len({*train, *val, *test}) == 13
    assert pets.run.split(dataset, replace(job, seed=1))[2] != test
    more, _, same = pets.run.split(dataset, replace(job, images=15))
    assert same == test
    assert set(train) <= set(more)
    with pytest.raises(DataError, match="of 20 images"):
        pets.run.split(dataset, replace(job, images=18))


def test_groups(pets: SimpleNamespace) -> None:
    rates = {"adam": 1e-4, "sgd": 1e-2}
    made = {group: pets.jobs.jobs(group, pets.jobs.Job(), rates, (0, 1)) for group in pets.jobs.GROUPS}
    counts = {
        "main": 8,
        "parity": 12,
        "upsample": 2,
        "losses": 8,
        "skip": 2,
        "resunet": 2,
        "scale": 22,
        "recipes": 8,
        "recipes-few": 8,
    }
    assert {group: len(found) for group, found in made.items()} == counts
    assert len({job for found in made.values() for job in found}) == sum(counts.values())
    assert {job.precision for job in made["parity"]} == {"fp32"}
    assert {job.lr for job in made["main"] if job.optimizer == "sgd"} == {1e-2}
    assert {(job.images, job.test) for job in made["recipes"]} == {(0, 0)}


def test_recipes(
    pets: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two folders, in one file of rows."""
    short = {"plain": {"epochs": (1,), "batch": 4}, "recommended": {"epochs": (2,), "batch": 4}}
    monkeypatch.setitem(pets.jobs.LENGTHS, "recipes", short)
    monkeypatch.setitem(pets.jobs.LENGTHS, "recipes-few", short)
    for name, groups in {"cells": "recipes", "others": "recipes-few"}.items():
        data = write_folder(tmp_path / name, 10)
        start(monkeypatch, "--data", data, "--out", tmp_path, "--only", groups, *SMALL.split())
    assert "4 of 4 runs are to be made" in capsys.readouterr().out
    rows = pets.jobs.read(tmp_path / "rows.jsonl")
    assert [(row["job"].data, row["split"]) for row in rows] == (
        [("cells", [8, 2, 2])] * 4 + [("others", [4, 1, 2])] * 4
    )
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert (ours["job"].framework, theirs["job"].framework) == ("tritonnet", "torch-benchmark")
        assert np.allclose(ours["first_losses"], theirs["first_losses"], rtol=1e-3)
        assert ours["scores"].keys() == theirs["scores"].keys() == {str(ours["job"].epochs[0])}
    text = (tmp_path / "report.md").read_text()
    assert "| cells | own split, 8 / 2 | recommended | PyTorch | 1 |" in text
    assert "| others | 4 + 1 / 2 | recommended, tritonnet - PyTorch | 1 |" in text
    assert "| cells | own split, 8 / 2 | PyTorch, recommended - plain | 1 |" in text
    assert "The paper's table" not in text


def test_learners_take_the_same_steps(pets: SimpleNamespace, tmp_path: Path) -> None:
    """Schedule, augmented batches, loss and average, by gradient descent, whose steps do not magnify a rounding."""
    dataset = open_dataset(write_folder(tmp_path / "data", 6), 16)
    job = pets.jobs.Job(
        optimizer="sgd", lr=0.1, weight_decay=0.01, schedule="cosine", loss="0.5*ce + dice", augment="rotate, gamma",
        ema=0.5, batch=4, epochs=(2,), size=16, base_channels=2, depth=1, precision="fp32",
    )  # fmt: skip
    loader = Loader(dataset, range(6), 4, hflip=True)
    normalizer = Normalizer((0.5,) * 3, (0.25,) * 3, dataset.scale)
    learners = [kind(job, normalizer, 2) for kind in (pets.learners.Learner, pets.torch_learner.TorchLearner)]
    losses = [[learner.epoch(loader, 0) + learner.epoch(loader, 1)] for learner in learners]
    assert np.allclose(*losses, rtol=1e-4)
    ours, theirs = (list(learner.weights().values()) for learner in learners)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if mine.dtype == torch.float32:  # not the count of batches, which is copied or averaged, and not used
            assert np.allclose(mine.numpy(), other.cpu().numpy(), rtol=1e-3, atol=1e-4)
    images = next(loader.epoch(0)).images
    assert np.allclose(*(learner.logits(images) for learner in learners), rtol=1e-3, atol=1e-3)
    plain, mirrored = learners[0].score(loader), pets.run.mirrored(learners[0], loader)
    assert sum(map(sum, plain.matrix)) == sum(map(sum, mirrored.matrix))
    assert plain.matrix == learners[1].score(loader).matrix


@pytest.mark.parametrize("loss", ["ce", "dice", "0.5*ce + dice"])
def test_losses_are_ours(pets: SimpleNamespace, loss: str) -> None:
    x, x64 = logits((3, 2, 5, 6))
    masks = labels((3, 5, 6), 2, torch.uint8, ignored=7)
    ours = Objective(2, loss).loss(x, tn.Tensor(masks))
    compare(ours, pets.torch_learner.loss_of(loss, x64, masks.cpu().long()), x, x64)


def test_t_distribution(pets: SimpleNamespace) -> None:
    for degrees, expected in {1: 12.7062, 4: 2.77645, 9: 2.26216, 30: 2.04227}.items():  # Student's tables
        assert pets.intervals.t_quantile(degrees) == pytest.approx(expected, abs=1e-4)
    assert pets.intervals.interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.30265 / 3**0.5, abs=1e-4))
    assert pets.intervals.written([0.25]) == "0.250"
    assert pets.intervals.written([0.25, 0.26]) == "0.255 ± 0.064 (0.250, 0.260)"
    assert pets.intervals.verdict([1.0, 1.1, 0.9]) == "confirmed"
    assert pets.intervals.verdict([-1.0, -1.1, -0.9]) == "contradicted"
    assert pets.intervals.verdict([-1.0, 1.1, 0.9]).startswith("not decided")
    assert pets.intervals.verdict([1.0]).startswith("not decided")


def test_claims_are_worded_by_the_numbers(pets: SimpleNamespace) -> None:
    """Adam takes less memory and more epochs; 60 epochs are best; bilinear is worse."""
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        for group, optimizer, upsample, gib, at in (
            ("main", "adam", "transposed", 1.0, 40),
            ("main", "sgd", "transposed", 2.0, 20),
            ("upsample", "adam", "bilinear", 1.0, 40),
        ):
            noise, lower = 0.01 * seed, 0.2 * (upsample == "bilinear")
            scores = {5: 0.3, 30: 0.5, 60: 0.7, 90: 0.6}
            rows.append({
                "job": pets.jobs.Job(group=group, optimizer=optimizer, upsample=upsample, seed=seed),
                "environment": {"gpu": None, "torch": "2", "triton": "3", "date": "today", "commit": "none"},
                "scores": {
                    str(epochs): {"best": [v + noise - lower] * 3, "last": [v + noise - lower] * 3}
                    for epochs, v in scores.items()
                },
                "train_loss": [0.5] * 90, "val_iou": [0.1] * (at + seed) + [0.6] * (90 - at - seed),
                "epoch_seconds": [0.1] * 90, "peak_gib": gib + noise, "first_losses": [0.7] * 31,
            })  # fmt: skip
    lines = {line[0]: line for block in pets.report.claims(rows) if block[0] == "table" for line in block[2]}
    assert lines["Adam needs fewer epochs than SGD to 95 % of the final IoU (epochs less)"][2:] == [
        "-20.0 ± 0.0", "contradicted"
    ]  # fmt: skip
    assert lines["Adam needs less memory than SGD (GiB less)"][3] == "confirmed"
    assert lines["90 epochs overfit: 60 are better, Adam (last epoch's IoU)"][2:] == ["0.100 ± 0.000", "confirmed"]
    assert lines["bilinear is better than transposed after 5 epochs (IoU)"][3] == "contradicted"
    (table,) = (block for block in pets.report.variants(rows) if block[0] == "table")
    assert table[2][2][6] == "-0.200 ± 0.000"
    more = [row | {"job": replace(row["job"], group="scale", images=75, batch=4)} for row in rows[:1]]
    (table,) = (block for block in pets.report.scale(rows + more) if block[0] == "table")
    assert table[1:] == (
        ["images", "batch 1", "batch 4"], [["31", "0.610 ± 0.025", "–"], ["75", "–", "0.600"]]
    )  # fmt: skip
