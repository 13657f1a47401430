"""A run that is stopped after any step and resumed ends with the bits of one that was not; signals stop at a whole step."""

import csv
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import train_small

from tritonnet import io
from tritonnet.data import DataError
from tritonnet.kernels.fault import Fault
from tritonnet.train import Config, Listener, resume, train
from tritonnet.train.training import Training

# two epochs of two steps, each of two parts
TINY = Config(depth=1, size=8, batch_size=1, accumulate=2, epochs=2, cells=5, checkpoint_seconds=1e9)
CASES = {
    "adam": replace(TINY, clip=0.5, ema=0.9, warmup=2, schedule="polynomial"),
    "sgd": replace(
        TINY,
        optimizer="sgd",
        schedule="plateau",
        decay_epochs=1,
        accumulate=1,
        batch_size=2,
        augment="turns, rotate, elastic, noise",
    ),
    "rmsprop-dropout": replace(TINY, optimizer="rmsprop", dropout=0.3),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(monkeypatch)


class Quiet(Listener):
    """Keeps what it is told, and stops training after step `at`, by an exception or a signal."""

    def __init__(self, at: int = 0, number: int = 0) -> None:
        self.heard: list[str] = []
        self.at, self.number = at, number

    def message(self, text: str) -> None:
        self.heard.append(text)

    def step(self, done: int, images_per_second: float) -> None:
        if done == self.at and self.number:
            signal.raise_signal(self.number)
        elif done == self.at:
            raise KeyboardInterrupt

    def epoch(self, row: object) -> None:
        pass


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Everything a model file holds in numbers."""
    file = io.load_model(path)
    slots = {f"{slot}/{key}": array for slot, part in (file.optimizer or {}).items() for key, array in part.items()}
    return {**file.model, **slots}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.mark.parametrize("case", CASES)
def test_stopped_after_every_step_ends_with_the_same_bits(case: str, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(replace(CASES[case], out=str(whole)), Quiet())
    stops = [(1, 0), (2, signal.SIGTERM), (3, signal.SIGINT), (4, 0)]  # step 2 and 4: before their epoch's validation
    for at, number in stops:
        listener = Quiet(at, number)
        with pytest.raises(KeyboardInterrupt) as stopped:
            train(replace(CASES[case], out=str(run)), listener) if at == 1 else resume(run, listener)
        assert (stopped.value.args or (0,))[0] == number
        assert listener.heard[-1] == f"stopped after step {at} and saved; go on with: tritonnet train --resume {run}"
        progress = io.load_model(run / "last.h5").progress or {}
        assert (progress["epoch"], progress["step"], progress["position"]) == ((at - 1) // 2, at, 4 - at % 2 * 2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resume(run, Quiet())
    for name in ("last.h5", "best.h5"):
        ours, theirs = arrays(whole / name), arrays(run / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert table(whole) == table(run)
    assert ("average/n_averaged" in arrays(run / "last.h5")) == (case == "adam")


class Killed(Quiet):
    """Ends as nothing that is caught would, in the middle of an epoch."""

    def step(self, done: int, images_per_second: float) -> None:
        if done == 4:
            raise SystemExit


def test_a_kill_loses_what_came_after_the_last_save(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    config = replace(CASES["sgd"], checkpoint_seconds=0.0)
    train(replace(config, out=str(whole)), Quiet())
    with pytest.raises(SystemExit):
        train(replace(config, out=str(run)), Killed())
    progress = io.load_model(run / "last.h5").progress or {}
    assert (progress["epoch"], progress["step"], progress["position"]) == (1, 3, 2)
    resume(run, Quiet())
    ours, theirs = arrays(whole / "last.h5"), arrays(run / "last.h5")
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert table(whole) == table(run)


def test_refuses_another_batch(tmp_path: Path) -> None:
    config = replace(TINY, out=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        train(config, Quiet(at=1))
    replace(config, accumulate=1).save(tmp_path / "run" / "config.toml")
    with pytest.raises(DataError, match=r"config\.toml: accumulate must be 2, as it was, got 1"):
        resume(tmp_path / "run", Quiet())


def test_a_second_signal_within_a_step_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Training, *_: object) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "step", step)
    listener = Quiet()
    with pytest.raises(KeyboardInterrupt):
        train(replace(TINY, out=str(tmp_path / "run")), listener)
    assert listener.heard[-1] == "stopped; nothing was saved yet"
    assert not (tmp_path / "run" / "last.h5").exists()


def test_a_fault_is_not_saved_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Fault, match=r"first in step 2 of epoch 1, learning rate 1e\+30\); try --lr 1e\+29, --clip 1"):
        train(replace(TINY, out=str(run), optimizer="sgd", lr=1e30, schedule="constant"), Quiet(at=2))
    assert not (run / "last.h5").exists()


def test_divergence_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was due to be saved, and the second epoch's loss is not finite: best.h5 holds the first."""
    monkeypatch.setattr("tritonnet.train.schedule.Schedule.rate", lambda *_: 1e-3 if _[1] < 2 else 1e30)
    run = tmp_path / "run"
    with pytest.raises(Fault, match=r"in step 4 of epoch 2, .*; .*best\.h5 is kept, of epoch 1: --init .*best\.h5"):
        train(replace(TINY, out=str(run), optimizer="sgd"), Quiet())
    assert io.load_model(run / "best.h5").model
    assert len(table(run)) == 1
