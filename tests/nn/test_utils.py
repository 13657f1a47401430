"""clip_grad_norm_ against torch's, in float64."""

import math

import pytest
import torch
from helpers import assert_close, pitched, randn, to64

import tritonnet as tn
from tritonnet.kernels.runtime import Refused
from tritonnet.nn.utils import clip_grad_norm_

SHAPES = [(5,), (3, 2, 3, 3), (), (70001,), (1,)]  # the fourth is past a block
# a norm of n squares: each product and addition rounds, the errors of a tree of n terms grow with log2(n) < 17
RTOL = 2e-6


def parameters(factor: float = 1.0) -> list[tn.Parameter]:
    params = [tn.Parameter(tn.from_torch(randn(*shape))) for shape in SHAPES]
    for i, p in enumerate(params):
        p.grad = tn.from_torch(randn(*p.shape, seed=i + 1) * factor)
    return params


@pytest.mark.parametrize("max_norm", [1.0, 1e6, 0.0], ids=str)
def test_is_torchs(max_norm: float) -> None:
    params = parameters()
    twins = [torch.zeros(p.shape, dtype=torch.float64).requires_grad_() for p in params]
    for p, twin in zip(params, twins, strict=True):
        twin.grad = to64(p.grad.torch())
    expected = torch.nn.utils.clip_grad_norm_(twins, max_norm)
    norm = clip_grad_norm_(params, max_norm)
    assert norm.shape == ()
    assert_close(norm.data, expected, RTOL)
    for p, twin in zip(params, twins, strict=True):
        assert_close(p.grad.torch(), twin.grad, RTOL)


def test_below_the_norm_nothing_changes() -> None:
    params = parameters()
    before = [p.grad.data.clone() for p in params]
    clip_grad_norm_(params, 1e6)
    assert all(torch.equal(p.grad.data, b) for p, b in zip(params, before, strict=True))


def test_same_bits_again() -> None:
    one, other = parameters(), parameters()
    assert torch.equal(clip_grad_norm_(one, 0.5).data, clip_grad_norm_(other, 0.5).data)
    assert all(torch.equal(p.grad.data, q.grad.data) for p, q in zip(one, other, strict=True))


def test_a_gradient_shared_by_two_is_scaled_once_for_each() -> None:
    a, b = (tn.Parameter(tn.from_torch(randn(4, seed=i))) for i in range(2))
    (a + b).sum().backward()
    clip_grad_norm_([a, b], 1.0)
    for p in (a, b):  # eight ones have the norm sqrt(8)
        assert_close(p.grad.data, torch.full((4,), 8**-0.5), RTOL)


def test_gradients_that_are_no_float32_blocks() -> None:
    p = tn.Parameter(tn.from_torch(randn(2, 5, 3, 3)))
    gradient = randn(2, 3, 3, 5, seed=1)
    p.grad = tn.Tensor(pitched(gradient))
    norm = clip_grad_norm_(p, 1.0)  # one Tensor, as torch allows
    assert_close(norm.data, to64(gradient).norm(), RTOL)
    assert_close(p.grad.data, to64(gradient) / to64(gradient).norm(), RTOL)


def test_without_gradients_the_norm_is_0() -> None:
    assert clip_grad_norm_([tn.Parameter(tn.from_torch(randn(3)))], 1.0).item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spreads_as_in_torch(bad: float) -> None:
    params = parameters()
    params[0].grad.data[2] = bad
    twin = torch.zeros(5, requires_grad=True)
    twin.grad = params[0].grad.data.cpu().clone()
    torch.nn.utils.clip_grad_norm_([twin], 1.0)
    norm = clip_grad_norm_(params, 1.0)
    assert not math.isfinite(norm.item())
    assert torch.equal(params[0].grad.data.cpu().isnan(), twin.grad.isnan())


def test_refuses() -> None:
    params = parameters()
    with pytest.raises(Refused, match="max_norm must be at least 0, got -1"):
        clip_grad_norm_(params, -1)
    with pytest.raises(Refused, match=r"norm_type must be 2\.0, got inf"):
        clip_grad_norm_(params, 1.0, math.inf)
    with pytest.raises(Refused, match="error_if_nonfinite must be False"):
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
