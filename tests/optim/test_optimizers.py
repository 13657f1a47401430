"""SGD, Adam, AdamW, AdaGrad and RMSProp against torch.optim in float64 over 20 steps."""

from typing import Any

import pytest
import torch
from helpers import DEVICE, assert_close, error, nhwc, randn, to64

import tritonnet as tn
from tritonnet import optim
from tritonnet.kernels import fault, tensor_table
from tritonnet.kernels.runtime import Refused
from tritonnet.kernels.scaled import scaled

SHAPES = [(5,), (3, 2, 3, 3), (), (7, 130), (70001,), (1,)]  # the fifth is past a block
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "sgd-momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd-dampening": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "sgd-nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam-decay": ("Adam", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-5}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "adamw-zero-betas": ("AdamW", {"lr": 0.01, "betas": (0.0, 0.0), "eps": 1e-3, "weight_decay": 0.3}),
    "adagrad": ("Adagrad", {}),
    "adagrad-all": (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
    ),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop-momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "alpha": 0.9}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.01, "centered": True, "eps": 1e-4}),
    "rmsprop-all": (
        "RMSprop",
        {"lr": 0.01, "centered": True, "momentum": 0.5, "alpha": 0.8, "weight_decay": 0.1, "eps": 1e-2},
    ),
}


def parameters(shapes: list[tuple[int, ...]] = SHAPES) -> list[tn.Parameter]:
    return [tn.Parameter(tn.from_torch(numbers(shape, i))) for i, shape in enumerate(shapes)]


def numbers(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return randn(max(1, torch.Size(shape).numel()), seed=seed).view(shape)


def give(params: list[tn.Parameter], twins: list[list[torch.Tensor]], step: int, without: int | None = None) -> None:
    """The same gradients to our parameters and to their twins; none to number `without`."""
    for i, p in enumerate(params):
        gradient = numbers(p.shape, 100 * step + i)
        p.grad = None if i == without else tn.from_torch(gradient)
        for twin in twins:
            twin[i].grad = None if i == without else gradient.cpu().to(twin[i].dtype)


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_twenty_steps_against_float64(case: str) -> None:
    name, settings = OPTIMIZERS[case]
    params = parameters()
    twins = [[p.torch().detach().cpu().to(dtype).clone() for p in params] for dtype in (torch.float64, torch.float32)]
    ours = getattr(optim, name)(params, **settings)
    theirs = [getattr(torch.optim, name)([x.requires_grad_() for x in twin], **settings) for twin in twins]
    for step in range(20):
        # the second parameter starts late, the fourth pauses: each counts its own steps
        give(params, twins, step, without=1 if step < 3 else 3 if step % 4 == 0 else None)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    ends = [
        torch.cat([x.detach().double().cpu().flatten() for x in end]) for end in ([p.torch() for p in params], *twins)
    ]
    # PyTorch's own float32 against float64 is the measure
    assert error(ends[0], ends[1]) <= 1.5 * error(ends[2], ends[1])
    for p, twin in zip(params, twins[0], strict=True):
        # a few roundings in each of 20 steps, of gradients of either sign, whose sum may be small
        assert_close(p.torch(), twin, 5e-6)
        for slot, value in ours.state[p].items():
            expected = theirs[0].state[twin].get(slot)
            if expected is not None:
                assert_close(value.torch(), expected, 5e-6, 1e-12, slot)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", ["sgd-momentum", "adamw", "adagrad", "rmsprop-all"])
def test_16_bit_copy_is_written_in_the_same_step(case: str, dtype: torch.dtype) -> None:
    name, settings = OPTIMIZERS[case]
    params = parameters()
    optimizer = getattr(optim, name)(params, **settings)
    lows = {i: params[i].in_dtype(dtype).data for i in (0, 1, 4)}
    give(params, [], 0)
    optimizer.step()
    for i, p in enumerate(params):
        assert (p.low is not None) == (i in lows)
        assert p.version == 1
        if i in lows:
            assert p.low is lows[i]
            assert torch.equal(p.low, tn.from_torch(p.data.clone().view(-1)).to(dtype).data.view(p.low.shape))
            assert_close(p.low, p.data, 2**-7)


@pytest.mark.parametrize("case", ["sgd-momentum", "adamw"])
def test_scaled_copy_is_written_in_the_same_step(case: str) -> None:
    name, settings = OPTIMIZERS[case]
    params = parameters()
    optimizer = getattr(optim, name)(params, **settings)
    copies = {i: params[i].scaled() for i in (0, 1, 4)}
    for step in range(2):
        give(params, [], step)
        optimizer.step()
    for i, p in enumerate(params):
        assert p.low is copies.get(i)
        if i in copies:
            fresh = scaled(p.data)
            assert torch.equal(p.low.values, fresh.values)
            assert torch.equal(p.low.inverse, fresh.inverse)
    params[0].data.mul_(3)
    params[0].changed()
    optimizer.zero_grad()
    give(params, [], 2)
    optimizer.step()  # leaves a copy alone that is not of these weights
    assert params[0].scaled() is copies[0]
    assert torch.equal(copies[0].values, scaled(params[0].data).values)


@pytest.mark.parametrize(
    "case", ["sgd", "sgd-momentum", "sgd-dampening", "adam", "adamw", "adagrad-all", "rmsprop-all"]
)
def test_step_is_skipped_while_the_flag_is_up(case: str) -> None:
    name, settings = OPTIMIZERS[case]
    params, twins = parameters(SHAPES[:4]), parameters(SHAPES[:4])
    ours, plain = (getattr(optim, name)(p, **settings) for p in (params, twins))
    for step in range(4):
        give(params, [], step)
        # the first and the third step fail: as if they had not been
        fault.flag().fill_(fault.LOSS.value if step in (0, 2) else 0)
        before = [p.data.clone() for p in params]
        ours.step()
        assert all(torch.equal(p.data, b) for p, b in zip(params, before, strict=True)) == (step in (0, 2))
        if step not in (0, 2):
            give(twins, [], step)
            plain.step()
    for p, twin in zip(params, twins, strict=True):
        assert torch.equal(p.data, twin.data)
        assert all(torch.equal(v.data, plain.state[twin][k].data) for k, v in ours.state[p].items())


def test_learning_rate_may_change_and_groups_have_their_own() -> None:
    params = parameters(SHAPES[:3])
    twins = [p.torch().detach().cpu().double().clone().requires_grad_() for p in params]
    ours = optim.SGD([{"params": params[:2], "lr": 0.5}, {"params": params[2], "momentum": 0.9}], lr=0.1)
    theirs = torch.optim.SGD([{"params": twins[:2], "lr": 0.5}, {"params": twins[2:], "momentum": 0.9}], lr=0.1)
    for step in range(4):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.5 / (step + 1)
        give(params, [twins], step)
        ours.step()
        theirs.step()
    for p, twin in zip(params, twins, strict=True):
        assert_close(p.torch(), twin, 1e-6)


def test_gradients_that_are_no_float32_blocks() -> None:
    p = tn.Parameter(tn.from_torch(randn(3, 5, 2, 2)))
    before = to64(p.data)
    gradient = nhwc(randn(3, 9, 2, 2, seed=1)).contiguous()[..., 2:7]
    p.grad = tn.Tensor(gradient)  # a channel slice
    optim.SGD([p], lr=1.0).step()
    assert_close(p.data, before - to64(gradient), 1e-6)
    before = to64(p.data)
    p.grad = tn.Tensor(torch.ones((3, 2, 2, 5), dtype=torch.float16, device=DEVICE))
    optim.SGD([p], lr=1.0).step()
    assert_close(p.data, before - 1, 1e-6)


def test_addresses_that_are_not_aligned() -> None:
    wide = randn(2 * 4099 + 1)
    p, expected = tn.Parameter(wide[1:4100]), to64(wide[1:4100] - wide[4100:8199])
    p.grad = tn.Tensor(wide[4100:8199])
    assert p.data.data_ptr() % 16 == 4
    optim.SGD([p], lr=1.0).step()
    assert_close(p.data, expected, 1e-6)
    assert bool((wide[4100:8199] == p.grad.data).all())


def test_tables_are_made_once_for_the_same_addresses() -> None:
    params = parameters(SHAPES[:3])
    optimizer = optim.Adam(params)
    give(params, [], 0)
    for _ in range(3):
        optimizer.step()
    assert len(optimizer._tables._tables) == 1
    table = next(iter(optimizer._tables._tables.values()))
    assert table.tensors == 3
    assert table.blocks.shape == (sum(-(-p.numel() // tensor_table.BLOCK) for p in params), 2)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["sgd-momentum", "adamw", "adagrad-all", "rmsprop-all"])
def test_captured_step_is_the_eager_one(case: str) -> None:
    name, settings = OPTIMIZERS[case]
    params, twins = parameters(SHAPES[:4]), parameters(SHAPES[:4])
    ours, plain = (getattr(optim, name)(p, **settings) for p in (params, twins))
    for optimizer, leaves in ((ours, params), (plain, twins)):
        give(leaves, [], 0)
        optimizer.step()
    give(params, [], 1)
    gradients = [p.grad.data for p in params]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for step in range(2, 6):
        for i, (p, gradient) in enumerate(zip(params, gradients, strict=True)):
            gradient.copy_(
                nhwc(numbers(p.shape, 100 * step + i)) if len(p.shape) == 4 else numbers(p.shape, 100 * step + i)
            )
        give(twins, [], step)
        for optimizer in (ours, plain):
            optimizer.param_groups[0]["lr"] = 0.1 / step
        ours.publish()
        graph.replay()
        plain.step()
        assert all(torch.equal(p.data, twin.data) for p, twin in zip(params, twins, strict=True))


@pytest.mark.gpu
def test_groups_of_as_many_tensors_are_captured() -> None:
    first, second = parameters(SHAPES[:3]), parameters(SHAPES[:3])
    optimizer = optim.Adam([{"params": first}, {"params": second, "lr": 0.01}])
    for leaves in (first, second):
        give(leaves, [], 0)
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    graph.replay()
    assert int(optimizer.state[second[2]]["step"]) == 2


def test_a_constant_gradient_leaves_centered_rmsprop_finite() -> None:
    """v - a**2 goes to 0, and below it where it is rounded."""
    p = tn.Parameter(tn.from_torch(randn(4099)))
    optimizer = optim.RMSprop([p], alpha=0.5, centered=True)
    p.grad = tn.from_torch(randn(4099, seed=1))
    for _ in range(40):
        optimizer.step()
    square, mean = (optimizer.state[p][slot].data for slot in ("square_avg", "grad_avg"))
    assert bool((square - mean * mean < 0).any())
    assert bool(p.data.isfinite().all())


def test_zero_grad() -> None:
    params = parameters(SHAPES[:2])
    optimizer = optim.SGD(params)
    give(params, [], 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.data.any() and p.grad.shape == p.shape for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    optimizer.step()  # nothing to do
    assert optimizer.state_dict()["state"] == {}


def test_closure_and_a_network_that_learns() -> None:
    w = tn.Parameter(tn.from_torch(randn(4, 3)))
    x, target = tn.from_torch(randn(4, 3, seed=1)), tn.Tensor(torch.tensor([0, 1, 2, 0], device=DEVICE))
    optimizer = optim.Adam([w], lr=0.3)

    def closure() -> tn.Tensor:
        optimizer.zero_grad()
        loss = tn.nn.functional.cross_entropy(w * x, target)
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(15)]
    assert losses[-1] < 0.2 * losses[0]


def test_repr() -> None:
    text = repr(optim.SGD(parameters(SHAPES[:1]), lr=0.5))
    assert text.startswith("SGD (\nParameter Group 0\n")
    assert "    lr: 0.5\n" in text
    assert "params" not in text


def test_refuses() -> None:
    p = parameters(SHAPES[:1])
    refusals = {
        "lr must be a number, at least 0, got -1": lambda: optim.SGD(p, lr=-1),
        "weight_decay must be a number, at least 0, got nan": lambda: optim.Adam(p, weight_decay=float("nan")),
        "momentum must be a number, at least 0": lambda: optim.SGD(p, momentum=-0.1),
        "dampening must be at most 1": lambda: optim.SGD(p, momentum=0.9, dampening=2.0),
        "nesterov needs momentum above 0 and no dampening": lambda: optim.SGD(p, nesterov=True),
        r"betas\[1\] must be in \[0, 1\), got 1.0": lambda: optim.Adam(p, betas=(0.9, 1.0)),
        "eps must be a number, at least 0": lambda: optim.AdamW(p, eps=-1e-8),
        "lr_decay must be a number, at least 0, got -1": lambda: optim.Adagrad(p, lr_decay=-1),
        "initial_accumulator_value must be a number, at least 0": lambda: optim.Adagrad(
            p, initial_accumulator_value=-0.1
        ),
        r"\[Adagrad\] maximize must be False, got True": lambda: optim.Adagrad(p, maximize=True),
        r"\[Adagrad\] fused must be None, got True": lambda: optim.Adagrad(p, fused=True),
        "alpha must be from 0 to 1, got 1.5": lambda: optim.RMSprop(p, alpha=1.5),
        r"\[RMSprop\] momentum must be a number, at least 0, got -1": lambda: optim.RMSprop(p, momentum=-1),
        "capturable must be False, got True": lambda: optim.RMSprop(p, capturable=True),
        r"\[RMSprop\] maximize must be False, got True": lambda: optim.RMSprop(p, maximize=True),
        "amsgrad must be False, got True": lambda: optim.Adam(p, amsgrad=True),
        "maximize must be False, got True": lambda: optim.AdamW(p, maximize=True),
        "fused must be None, got True": lambda: optim.SGD(p, fused=True),
        "foreach must be None, got True": lambda: optim.Adam(p, foreach=True),
        "params must hold at least one parameter": lambda: optim.SGD([]),
        "params must be an iterable of parameters": lambda: optim.SGD(p[0]),
        "params must be tritonnet Tensors, got Tensor": lambda: optim.SGD([torch.ones(2)]),
        "must not be given more than once": lambda: optim.SGD([p[0], p[0]]),
        "params must be float32 leaves": lambda: optim.SGD([p[0] * 2.0]),
    }
    for message, call in refusals.items():
        with pytest.raises(Refused, match=message):
            call()
    p[0].grad = tn.from_torch(randn(6))
    with pytest.raises(Refused, match=r"\[SGD\] a gradient must have its parameter's shape \(5,\), got \(6,\)"):
        optim.SGD(p).step()
