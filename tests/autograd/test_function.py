"""The backward walk: consumers, accumulation, freed graphs, recording switched off, and what is refused."""

import gc

import pytest
import torch
from helpers import DEVICE, assert_close, randn, to64

import tritonnet as tn
from tritonnet import nn, ops
from tritonnet.autograd import Function, function


def leaf(*values: float) -> tn.Tensor:
    return tn.tensor([float(value) for value in values], requires_grad=True)


def test_many_consumers_and_one_tensor_twice() -> None:
    x = randn(2, 3, 4, 4)
    ours, theirs = tn.from_torch(x.contiguous(), requires_grad=True), to64(x).requires_grad_()
    y = ours * ours.relu() + ours.sum(1, keepdim=True) * ours + ops.cat([ours, ours, ours], 1).mean() * ours
    expected = theirs * theirs.relu() + theirs.sum(1, keepdim=True) * theirs + theirs.mean() * theirs
    y.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert_close(ours.grad.torch(), theirs.grad, 1e-5)


def test_gradients_accumulate_and_a_graph_can_be_kept() -> None:
    x = leaf(1, 2, 3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.numpy().tolist() == [4, 8, 12]
    with pytest.raises(tn.Refused, match="the graph must not have been freed"):
        y.backward()
    (x * 2).backward(tn.tensor([1.0, 10.0, 100.0]))
    assert x.grad.numpy().tolist() == [6, 28, 212]


def test_a_long_chain_needs_no_recursion() -> None:
    x = leaf(1)
    y = x
    for _ in range(3000):
        y = y.reshape(1, 1).reshape(1)
    y.backward()
    assert x.grad.numpy().tolist() == [1]
    del y
    gc.collect()


def test_no_grad_and_detach_record_nothing() -> None:
    x = leaf(1)
    with tn.no_grad():
        assert not (x * 2).requires_grad
        with pytest.raises(KeyError), tn.no_grad():
            raise KeyError
        assert not tn.is_grad_enabled()
    assert tn.is_grad_enabled()
    assert tn.no_grad()(lambda: x * 2)().is_leaf
    y = (x * 2).detach()
    assert y.is_leaf
    assert not y.requires_grad


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (None, "gradient must be given for a tensor of more than one element"),
        (torch.ones(1, 2, 2, 2, device=DEVICE), "gradient must be a tritonnet Tensor, got torch.Tensor"),
        (1.0, "gradient must be a tritonnet Tensor, got float"),
        (tn.tensor([1.0]), r"gradient must have shape \(1, 2, 2, 2\), got \(1,\)"),
    ],
)
def test_refuses_a_gradient(gradient, message) -> None:
    y = tn.rand(1, 2, 2, 2, requires_grad=True) * 2
    with pytest.raises(tn.Refused, match=message):
        y.backward(gradient)


def test_refuses_what_has_no_derivative() -> None:
    with pytest.raises(tn.Refused, match="root must be a tritonnet Tensor, got int"):
        tn.graph(3)
    with pytest.raises(tn.Refused, match="must have been computed from one with requires_grad"):
        tn.tensor(1.0).backward()
    with pytest.raises(tn.Refused, match="create_graph must be False"):
        leaf(1).sum().backward(create_graph=True)
    with pytest.raises(tn.Refused, match="only a leaf's flag"):
        (leaf(1) * 2).requires_grad_(False)
    with pytest.raises(tn.Refused, match="requires_grad needs a floating-point tensor"):
        tn.tensor([1], requires_grad=True)


@pytest.mark.parametrize(
    "change", [lambda p: nn.init.constant_(p, 5), nn.init.uniform_, lambda p: tn.optim.SGD([p], lr=1).step()]
)
@pytest.mark.parametrize("kind", [tn.Tensor, tn.Parameter])
def test_a_leaf_changed_after_its_use_is_noticed(kind, change) -> None:
    p = kind(tn.tensor([1.0, 2.0]).data, requires_grad=True)
    loss = (p * p).sum()
    (p * p).sum().backward()
    change(p)
    with pytest.raises(tn.Refused, match="an input of Mul was changed after the forward"):
        loss.backward()


def test_gradients_that_share_memory_are_not_zeroed_together() -> None:
    module, other, dy = nn.Module(), tn.Parameter(tn.tensor([1.0])), tn.tensor([1.0])
    module.weight = tn.Parameter(tn.tensor([2.0]))
    (module.weight + other).backward(dy)
    module.zero_grad(set_to_none=False)
    assert (float(module.weight.grad), float(other.grad), float(dy)) == (0, 1, 1)


def test_graph_prints_operations(capsys) -> None:
    x = leaf(1, 2)
    tn.graph((x * x).sum())
    assert capsys.readouterr().out == "%1 = Mul(leaf(2,), leaf(2,))\n%2 = Sum(%1)\n%3 = Reshape(%2)\n"


def test_an_error_in_the_middle_waits_for_what_runs_beside(monkeypatch) -> None:
    """Gradients that are there already must be whole, and what was kept for the second stream must go."""

    class Broken(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, dy):
            assert not joined
            raise MemoryError

    joined = []
    monkeypatch.setattr(function, "join", lambda: joined.append(True))
    x = tn.from_torch(randn(3), requires_grad=True)
    with pytest.raises(MemoryError):
        ops.sum(Broken.apply(x)).backward()
    assert joined == [True]
