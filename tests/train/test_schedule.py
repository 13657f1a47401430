"""The learning rates of training against torch's schedules, step by step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import tritonnet as tn
from tritonnet.train import Config
from tritonnet.train.schedule import Schedule

EPOCHS, STEPS = 8, 3
S = torch.optim.lr_scheduler
CASES: dict[str, tuple[dict[str, object], Callable[[torch.optim.Optimizer], S.LRScheduler]]] = {
    "cosine": ({}, lambda o: S.CosineAnnealingLR(o, EPOCHS * STEPS)),
    "polynomial": ({"power": 2.0}, lambda o: S.PolynomialLR(o, EPOCHS * STEPS, 2.0)),
    "step": ({"decay_epochs": 2, "decay_factor": 0.5}, lambda o: S.StepLR(o, 2 * STEPS, 0.5)),
    "constant": ({}, lambda o: S.ConstantLR(o, 1.0)),
}


def schedule(**settings: object) -> Schedule:
    config = replace(Config(epochs=EPOCHS, lr=0.1), **settings)  # type: ignore[arg-type]
    return Schedule(config, tn.optim.SGD([tn.Parameter(tn.tensor([1.0]))], lr=0.1), STEPS)


def rates(scheduler: S.LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", CASES)
def test_rates_are_torchs(name: str) -> None:
    settings, make = CASES[name]
    ours = schedule(schedule=name, **settings)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    expected = rates(make(optimizer), optimizer, EPOCHS * STEPS)
    assert [ours.rate(step) for step in range(EPOCHS * STEPS)] == pytest.approx(expected, rel=1e-9)


def test_warm_up_is_a_linear_schedule_before_the_other() -> None:
    ours = schedule(schedule="cosine", warmup=5)
    expected = []
    for steps, make in ((5, lambda o: S.LinearLR(o, 1 / 6, 1.0, 5)), (19, lambda o: S.CosineAnnealingLR(o, 19))):
        optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        expected += rates(make(optimizer), optimizer, steps)
    assert [ours.rate(step) for step in range(EPOCHS * STEPS)] == pytest.approx(expected, rel=1e-9)


def test_plateau_follows_the_validation_loss() -> None:
    ours = schedule(schedule="plateau", decay_epochs=2, decay_factor=0.5)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    reference = S.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.81, 0.8, 0.79, 0.85, 0.9]):
        assert ours.rate(epoch * STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        ours.epoch({"val_loss": loss})
        reference.step(loss)
    assert ours.level == pytest.approx(0.025)


def test_the_clock_shortens_the_cosine() -> None:
    assert schedule().rate(0, passed=0.5) == pytest.approx(0.05)
    assert schedule().rate(0, passed=2.0) == 0.0
