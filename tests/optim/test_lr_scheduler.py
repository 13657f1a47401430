"""Schedules against torch's."""

from typing import Any

import pytest
import torch
from helpers import randn

import tritonnet as tn
from tritonnet import optim
from tritonnet.kernels.runtime import Refused
from tritonnet.optim import lr_scheduler

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine": ("CosineAnnealingLR", {"T_max": 10}),
    "cosine-floor": ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.01}),
    "step": ("StepLR", {"step_size": 3}),
    "step-gamma": ("StepLR", {"step_size": 1, "gamma": 0.7}),
    "polynomial": ("PolynomialLR", {"total_iters": 9, "power": 0.9}),
    "polynomial-line": ("PolynomialLR", {}),
    "linear": ("LinearLR", {}),
    "linear-down": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.25, "total_iters": 8}),
    "lambda": ("LambdaLR", {"lr_lambda": lambda epoch: 1 / (1 + epoch)}),
    "lambdas": ("LambdaLR", {"lr_lambda": [lambda epoch: 0.5**epoch, lambda epoch: 1 - epoch / 30]}),
}


def optimizers() -> tuple[optim.SGD, torch.optim.SGD]:
    ours = [tn.Parameter(randn(3)), tn.Parameter(randn(2))]
    theirs = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    return tuple(  # type: ignore[return-value]
        module.SGD([{"params": [a]}, {"params": [b], "lr": 0.3}], lr=0.1)
        for module, (a, b) in ((optim, ours), (torch.optim, theirs))
    )


@pytest.mark.parametrize("case", CASES)
def test_rates_are_torchs(case: str) -> None:
    name, settings = CASES[case]
    ours, theirs = optimizers()
    mine, reference = (
        getattr(lr_scheduler, name)(ours, **settings),
        getattr(torch.optim.lr_scheduler, name)(theirs, **settings),
    )
    for _ in range(25):
        assert mine.get_last_lr() == pytest.approx(reference.get_last_lr(), rel=1e-9, abs=1e-12)
        assert [g["lr"] for g in ours.param_groups] == mine.get_last_lr()
        assert mine.last_epoch == reference.last_epoch
        theirs.step()
        mine.step()
        reference.step()


@pytest.mark.parametrize("case", CASES)
def test_goes_on_from_its_state(case: str) -> None:
    name, settings = CASES[case]
    ours, _ = optimizers()
    whole = getattr(lr_scheduler, name)(ours, **settings)
    for _ in range(4):
        whole.step()
    other, _ = optimizers()
    resumed = getattr(lr_scheduler, name)(other, **settings)
    other.load_state_dict(ours.state_dict())
    resumed.load_state_dict(whole.state_dict())
    again = getattr(lr_scheduler, name)(other, **settings, last_epoch=whole.last_epoch)
    assert again.last_epoch == 5
    whole.step()
    resumed.step()
    assert whole.get_last_lr() == resumed.get_last_lr() == again.get_last_lr()


PLATEAUS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "max": {"mode": "max", "patience": 1, "factor": 0.5},
    "absolute": {"threshold_mode": "abs", "threshold": 0.2, "patience": 2, "min_lr": [0.001, 0.05]},
    "cooldown": {"patience": 0, "cooldown": 2, "eps": 1e-3},
}


@pytest.mark.parametrize("case", PLATEAUS)
def test_plateau_is_torchs(case: str) -> None:
    ours, theirs = optimizers()
    mine = lr_scheduler.ReduceLROnPlateau(ours, **PLATEAUS[case])
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **PLATEAUS[case])
    numbers = [1 / (1 + 0.3 * min(epoch, 6)) + 0.05 * (epoch % 3) for epoch in range(40)]
    for epoch, number in enumerate(numbers):
        if epoch == 20:  # goes on from its state
            state, mine = mine.state_dict(), lr_scheduler.ReduceLROnPlateau(ours, **PLATEAUS[case])
            mine.load_state_dict(state)
        mine.step(float("nan") if epoch == 9 else number)
        reference.step(float("nan") if epoch == 9 else number)
        assert mine.get_last_lr() == pytest.approx([g["lr"] for g in theirs.param_groups], rel=1e-12)
        assert (mine.num_bad_epochs, mine.best) == (reference.num_bad_epochs, reference.best)
    assert mine.get_last_lr() != [0.1, 0.3]  # it did fall


def test_refuses() -> None:
    ours, theirs = optimizers()
    refusals = {
        "T_max must be at least 1, got 0": lambda: lr_scheduler.CosineAnnealingLR(ours, 0),
        "step_size must be at least 1, got 0": lambda: lr_scheduler.StepLR(ours, 0),
        "lr_lambda must be one function a parameter group, 2, got 1": lambda: lr_scheduler.LambdaLR(ours, [float]),
        "initial_lr must be in every parameter group": lambda: lr_scheduler.StepLR(ours, 2, last_epoch=3),
        "total_iters must be at least 1 and power above 0, got 0": lambda: lr_scheduler.PolynomialLR(ours, 0),
        "start_factor must be above 0 to 1": lambda: lr_scheduler.LinearLR(ours, 0.0),
        "total_iters must be at least 1, got 0": lambda: lr_scheduler.LinearLR(ours, total_iters=0),
        "mode must be min or max and threshold_mode rel or abs, got 'low'": lambda: lr_scheduler.ReduceLROnPlateau(
            ours, "low"
        ),
        "factor must be below 1": lambda: lr_scheduler.ReduceLROnPlateau(ours, factor=1.0),
        "optimizer must be a tritonnet Optimizer, got SGD": lambda: lr_scheduler.StepLR(theirs, 2),
    }
    for message, call in refusals.items():
        with pytest.raises(Refused, match=message):
            call()
