"""Initialisers: bounds, moments and torch's default initial values."""

import math

import pytest
import torch

import tritonnet as tn
from tritonnet import nn
from tritonnet.nn import init


def fresh(*shape: int) -> tn.Tensor:
    """A tensor of that logical shape."""
    return tn.from_torch(torch.zeros(*shape).to(tn.tensor(0).device))


# name: (initialiser, its torch namesake's expected standard deviation for a (64, 32, 3, 3) weight)
SPREADS = {
    "kaiming_uniform": (lambda t: init.kaiming_uniform_(t), math.sqrt(2 / 288)),
    "kaiming_uniform-a": (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), math.sqrt(1 / 3 / 288)),
    "kaiming_normal-fan_out": (
        lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"),
        math.sqrt(2 / 576),
    ),
    "xavier_uniform": (lambda t: init.xavier_uniform_(t), math.sqrt(2 / 864)),
    "xavier_normal-gain": (lambda t: init.xavier_normal_(t, gain=2.0), 2 * math.sqrt(2 / 864)),
    "uniform": (lambda t: init.uniform_(t, 2, 5), 3 / math.sqrt(12)),
    "normal": (lambda t: init.normal_(t, 1, 3), 3.0),
}


@pytest.mark.parametrize("name", SPREADS)
def test_spread(name) -> None:
    initialise, std = SPREADS[name]
    tn.manual_seed(0)  # whatever tests came before
    weight = fresh(64, 32, 3, 3)
    assert initialise(weight) is weight
    values = weight.torch().cpu().double()
    # 18432 numbers: the standard deviation's own error is below 0.6 %, the mean's below 0.75 % of std; four of those
    assert abs(float(values.std()) / std - 1) < 0.025
    mean = {"uniform": 3.5, "normal": 1.0}.get(name, 0.0)
    assert abs(float(values.mean()) - mean) < 0.03 * std
    if "uniform" in name:
        assert float((values - mean).abs().max()) <= std * math.sqrt(3) * (1 + 1e-6)


def test_constants() -> None:
    for value, initialise in ((0, init.zeros_), (1, init.ones_), (2.5, lambda t: init.constant_(t, 2.5))):
        assert (initialise(fresh(3, 5)).torch() == value).all()


def test_gains_and_fans_are_torchs() -> None:
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    for slope in (None, 0.2):
        assert init.calculate_gain("leaky_relu", slope) == pytest.approx(
            torch.nn.init.calculate_gain("leaky_relu", slope)
        )
    assert init.fan(fresh(6, 4, 3, 2), "fan_in") == 24
    assert init.fan(fresh(6, 4, 3, 2), "fan_out") == 36


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
def test_default_values_of_convolutions(kind) -> None:
    ours, theirs = getattr(nn, kind)(32, 48, 3), getattr(torch.nn, kind)(32, 48, 3)
    for name in ("weight", "bias"):
        a, b = getattr(ours, name).torch().cpu().detach(), getattr(theirs, name).detach()
        assert a.shape == b.shape
        bound = 1 / math.sqrt(theirs.weight.shape[1] * 9)
        assert float(a.abs().max()) <= bound
        assert float(a.abs().max()) > 0.9 * bound
        if name == "weight":
            assert float(a.std()) == pytest.approx(float(b.std()), rel=0.03)


def test_a_parameter_notices() -> None:
    weight = nn.Parameter(fresh(2, 2))
    init.ones_(weight)
    assert weight.version == 1


def test_seed_decides() -> None:
    drawn = []
    for seed in (3, 3, 4):
        tn.manual_seed(seed)
        drawn.append(nn.Conv2d(3, 4, 3).weight.numpy())
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


REFUSED = {
    "rank": (lambda: init.kaiming_uniform_(fresh(3)), "at least 2 dimensions, got 1"),
    "mode": (lambda: init.kaiming_uniform_(fresh(3, 3), mode="fan"), "mode must be fan_in or fan_out, got 'fan'"),
    "gain": (lambda: init.calculate_gain("swish"), "nonlinearity must be one of leaky_relu, .*, got 'swish'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name) -> None:
    call, message = REFUSED[name]
    with pytest.raises(tn.Refused, match=message):
        call()
