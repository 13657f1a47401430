"""Binary cross-entropy with logits, its gradient and its faults, against PyTorch in float64."""

import math

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, TINY, assert_close, check_gradients, nhwc, pitched, randn, to64
from torch.nn import functional as torch_f

import tritonnet as tn
from tritonnet.kernels import fault
from tritonnet.kernels.binary_cross_entropy import binary_cross_entropy_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.loss import binary_cross_entropy_with_logits

CASES = {  # logical shape, and those of weight and pos_weight in torch's broadcasting
    "one-channel": ((2, 1, 9, 8), None, None),
    "odd": ((3, 5, 7, 6), (3, 5, 7, 6), (5, 1, 1)),
    "one-a-pixel": ((2, 3, 4, 5), (2, 1, 4, 5), (1,)),
    "one-a-channel": ((2, 3, 4, 5), (1, 3, 1, 1), (2, 3, 4, 5)),
    "matrix": ((37, 10), (10,), (37, 10)),
    "vector": ((13,), (13,), None),
    "past-a-tile": ((1, 1, 270, 260), None, (1, 1, 1)),
}
REDUCTIONS = ("mean", "sum", "none")


def make(x: torch.Tensor | None, requires_grad: bool = False) -> tn.Tensor | None:
    """A Tensor, with a pitch if it is an image."""
    if x is None or x.dim() != 4:
        return None if x is None else tn.from_torch(x, requires_grad)
    return tn.Tensor(pitched(nhwc(x).contiguous()), requires_grad=requires_grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_matches_float64(case: str, reduction: str, dtype: torch.dtype) -> None:
    shape, *weights = CASES[case]
    x, t = (3 * randn(*shape)).to(dtype), randn(*shape, seed=1).sigmoid().to(dtype)
    w, q = (None if s is None else randn(*s, seed=2 + i).abs() for i, s in enumerate(weights))
    x64 = to64(x).requires_grad_()
    expected = torch_f.binary_cross_entropy_with_logits(
        x64, to64(t), None if w is None else to64(w), reduction=reduction, pos_weight=None if q is None else to64(q)
    )
    ours = make(x, requires_grad=True)
    loss = binary_cross_entropy_with_logits(ours, make(t), make(w), reduction=reduction, pos_weight=make(q))
    assert loss.dtype == torch.float32
    assert loss.shape == tuple(expected.shape)
    # exp, log, a division and sums in float32, a few roundings each
    assert_close(loss.torch(), expected, 1e-6, 1e-12, "loss")
    dy = randn(expected.numel(), seed=9).view(expected.shape)
    loss.backward(make(dy))
    expected.backward(to64(dy))
    assert ours.grad.dtype == dtype
    assert_close(ours.grad.torch(), x64.grad, 1e-6 + 2 * EPS[dtype], TINY[dtype], "dx")
    assert int(fault.flag()) == 0


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_integers_with_ignored_ones(reduction: str, kind: torch.dtype) -> None:
    x = randn(2, 1, 9, 8)
    t = (randn(2, 9, 8, seed=1) > 0).to(kind)
    t[:, ::3] = 255 if kind == torch.uint8 else -1
    ignore = int(t[0, 0, 0])
    counted = (t != ignore).cpu()
    x64 = to64(x).requires_grad_()
    expected = torch_f.binary_cross_entropy_with_logits(x64[:, 0][counted], to64(t)[counted], reduction=reduction)
    ours = make(x, requires_grad=True)
    loss = binary_cross_entropy_with_logits(ours, tn.Tensor(t), reduction=reduction, ignore_index=ignore)
    assert_close(loss.torch()[:, 0].cpu()[counted] if reduction == "none" else loss.torch(), expected, 1e-6)
    loss.backward(None if loss.shape == () else tn.from_torch(torch.ones(loss.shape, device=DEVICE)))
    expected.sum().backward()
    assert_close(ours.grad.torch(), x64.grad, 1e-6)


def test_directional_derivative() -> None:
    t = tn.from_torch(randn(2, 3, 4, 5, seed=8).sigmoid())
    check_gradients(lambda x: binary_cross_entropy_with_logits(x, t, reduction="none"), [randn(2, 3, 4, 5)])


def test_finite_at_large_logits_and_accurate_at_small_losses() -> None:
    x = torch.tensor([1e4, 1e4, -1e4, -1e4, 20.0, -30.0], device=DEVICE)
    t = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], device=DEVICE)
    loss, dx = binary_cross_entropy_fwd(x, t, reduction="none")
    x64 = to64(x).requires_grad_()
    # PyTorch's form, -20 + (20 + log1p(exp(-20))), would keep few digits even in float64
    expected = torch.logaddexp(torch.zeros_like(x64), torch.where(to64(t) == 1, -x64, x64))
    expected.sum().backward()
    # the argument of exp is rounded: 30 * 2**-24
    assert torch.allclose(to64(loss), expected, rtol=4e-6, atol=0.0)
    assert torch.allclose(to64(dx), x64.grad, rtol=4e-6, atol=1e-37)
    assert int(fault.flag()) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_label_outside_contributes_nothing_and_is_a_fault(reduction: str) -> None:
    x, t = randn(5, 1), torch.tensor([[0], [2], [1], [255], [-1]], device=DEVICE)
    loss, dx = binary_cross_entropy_fwd(x, t, reduction=reduction)
    expected = torch_f.binary_cross_entropy_with_logits(to64(x)[::2][:2], to64(t)[::2][:2], reduction=reduction)
    assert_close(loss[[0, 2]] if reduction == "none" else loss, expected, 1e-6)
    assert not dx[[1, 3, 4]].any()
    assert dx[[0, 2]].all()
    assert int(fault.flag()) == fault.LABEL.value


def test_loss_that_is_not_finite_is_a_fault() -> None:
    for reduction in REDUCTIONS:
        fault.flag().zero_()
        binary_cross_entropy_fwd(
            torch.full((3,), float("nan"), device=DEVICE), torch.ones(3, device=DEVICE), reduction=reduction
        )
        assert int(fault.flag()) == fault.LOSS.value


def test_nothing_counted_is_nan_without_a_fault() -> None:
    ignored = torch.full((4, 1), 255, dtype=torch.uint8, device=DEVICE)
    loss, dx = binary_cross_entropy_fwd(randn(4, 1), ignored, ignore_index=255)
    assert math.isnan(float(loss))
    assert not dx.any()
    loss, _ = binary_cross_entropy_fwd(randn(0, 1), randn(0, 1))
    assert math.isnan(float(loss))
    assert int(fault.flag()) == 0


def test_second_backward_is_right() -> None:
    x, t = tn.from_torch(randn(4, 3), True), tn.from_torch(randn(4, 3, seed=1).sigmoid())
    loss = binary_cross_entropy_with_logits(x, t)
    loss.backward(retain_graph=True)
    first = to64(x.grad.data)
    loss.backward(tn.tensor(2.0))
    assert_close(x.grad.data, 3 * first, 1e-6)


def test_refuses() -> None:
    x = tn.from_torch(randn(2, 3, 4, 5))
    refusals = {
        "reduce must be None, got True": {"reduce": True},
        "reduction must be one of none, mean, sum, got 'max'": {"reduction": "max"},
        r"weight must have the input's shape, .*got \(5,\)": {"weight": tn.from_torch(randn(5))},
        "pos_weight must have the input's shape": {"pos_weight": tn.from_torch(randn(3))},
        "pos_weight must not require a gradient": {"pos_weight": tn.from_torch(randn(1), True)},
    }
    for message, arguments in refusals.items():
        with pytest.raises(Refused, match=message):
            binary_cross_entropy_with_logits(x, x, **arguments)
    with pytest.raises(Refused, match="target must have the input's shape"):
        binary_cross_entropy_with_logits(x, tn.from_torch(randn(2, 4, 5)))
    with pytest.raises(Refused, match="target must have the input's shape"):
        binary_cross_entropy_with_logits(x, tn.Tensor(torch.zeros((2, 4, 5), dtype=torch.uint8, device=DEVICE)))
    with pytest.raises(Refused, match="target must be int64 or int32 or uint8, got int8"):
        binary_cross_entropy_with_logits(
            tn.from_torch(randn(2)), tn.Tensor(torch.zeros(2, dtype=torch.int8, device=DEVICE))
        )
