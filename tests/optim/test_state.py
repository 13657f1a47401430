"""Saving and loading an optimizer's state, by itself and from torch's."""

import pytest
import torch
from helpers import assert_close, randn

import tritonnet as tn
from tritonnet import optim
from tritonnet.kernels.runtime import Refused

SHAPES = [(5,), (3, 2, 3, 3), (4, 7)]
KINDS = {
    "adam": ("Adam", {"lr": 0.01}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd-dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 0.5}),
    "rmsprop": ("RMSprop", {"lr": 0.1, "momentum": 0.9, "centered": True}),
}


def parameters() -> list[tn.Parameter]:
    return [tn.Parameter(tn.from_torch(randn(*shape, seed=i))) for i, shape in enumerate(SHAPES)]


def steps(optimizer: optim.Optimizer, params: list[tn.Parameter], first: int, count: int) -> None:
    for step in range(first, first + count):
        for i, p in enumerate(params):
            p.grad = tn.from_torch(randn(*p.shape, seed=100 * step + i))
        optimizer.step()


@pytest.mark.parametrize("way", ["state_dict", "slots"])
@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_with_the_same_bits(kind: str, way: str) -> None:
    name, settings = KINDS[kind]
    params = parameters()
    whole = getattr(optim, name)(params, **settings)
    steps(whole, params, 0, 3)
    copies = [tn.Parameter(p.data.clone()) for p in params]
    resumed = getattr(optim, name)(copies, **settings)
    if way == "state_dict":
        resumed.load_state_dict(whole.state_dict())
    else:  # as a file holds it
        resumed.load_state_slots({s: {i: t.numpy() for i, t in v.items()} for s, v in whole.state_slots().items()})
    steps(whole, params, 3, 2)
    steps(resumed, copies, 3, 2)
    assert all(torch.equal(p.data, q.data) for p, q in zip(params, copies, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_reads_and_writes_torchs_structure(kind: str) -> None:
    name, settings = KINDS[kind]
    params = parameters()
    twins = [p.torch().detach().cpu().clone().requires_grad_() for p in params]
    theirs = getattr(torch.optim, name)(twins, **settings)
    for twin, p in zip(twins, params, strict=True):
        twin.grad = randn(*p.shape, seed=7).cpu()
    theirs.step()
    for p, twin in zip(params, twins, strict=True):
        p.data.copy_(twin.detach().permute(0, 2, 3, 1) if twin.dim() == 4 else twin.detach())
    ours = getattr(optim, name)(params, **{**settings, "lr": 0.5})
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == settings["lr"]
    steps(ours, params, 1, 2)
    back = {
        "state": {i: {k: v.torch().cpu() for k, v in s.items()} for i, s in ours.state_dict()["state"].items()},
        "param_groups": ours.state_dict()["param_groups"],
    }
    for step in (1, 2):
        for i, twin in enumerate(twins):
            twin.grad = randn(*twin.shape, seed=100 * step + i).cpu()
        theirs.step()
    for p, twin in zip(params, twins, strict=True):
        assert_close(p.torch(), twin, 1e-6)
    theirs.load_state_dict(back)  # torch takes ours
    assert theirs.param_groups[0]["lr"] == settings["lr"]


def test_state_is_a_copy() -> None:
    params = parameters()
    ours, other = optim.Adam(params), optim.Adam(parameters())
    steps(ours, params, 0, 1)
    other.load_state_dict(ours.state_dict())
    steps(ours, params, 1, 1)
    assert float(other.state_slots()["step"][0]) == 1.0
    assert float(ours.state_slots()["step"][0]) == 2.0


def test_slots_are_numbered_over_groups() -> None:
    params = parameters()
    ours = optim.SGD([{"params": params[:1]}, {"params": params[1:]}], momentum=0.9)
    params[2].grad = tn.from_torch(randn(4, 7))
    ours.step()
    assert list(ours.state_slots()["momentum_buffer"]) == [2]
    assert [g["params"] for g in ours.state_dict()["param_groups"]] == [[0], [1, 2]]


def test_refuses() -> None:
    params = parameters()
    ours = optim.Adam(params)
    steps(ours, params, 0, 1)
    saved = ours.state_dict()
    with pytest.raises(Refused, match="must have 2 parameter groups, got 1"):
        optim.Adam([{"params": params[:1]}, {"params": params[1:]}]).load_state_dict(saved)
    with pytest.raises(Refused, match="group 0 of the state dict must have 2 parameters, got 3"):
        optim.Adam(params[:2]).load_state_dict(saved)
    with pytest.raises(Refused, match=r"exp_avg of 0 must have shape \(4, 7\), got \(5,\)"):
        optim.Adam([params[2], params[1], params[0]]).load_state_dict(saved)
    with pytest.raises(Refused, match="the state must be of parameters 0 to 2, got one of 3"):
        ours.load_state_slots({"exp_avg": {3: randn(5)}})
    amsgrad = torch.optim.Adam([torch.ones(2, requires_grad=True)], amsgrad=True).state_dict()
    with pytest.raises(Refused, match="amsgrad must be False, got True"):
        optim.Adam(params[:1]).load_state_dict(amsgrad)
