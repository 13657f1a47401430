"""Cross-entropy, its gradient and its faults, against PyTorch in float64."""

import math

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, assert_close, check_gradients, gap_untouched, nhwc, pitched, randn, to64
from losscheck import REDUCTIONS, compare, ignore_index, labels, logits
from torch.nn import functional as torch_f

import tritonnet as tn
from tritonnet.kernels import fault
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.loss import cross_entropy

CASES = {  # logical shape of the logits, dtype of class indices
    "two-classes": ((2, 2, 9, 8), torch.uint8),
    "odd": ((3, 21, 5, 7), torch.int64),
    "one-class": ((2, 1, 3, 3), torch.int32),
    "past-a-block": ((1, 4100, 1, 3), torch.int64),
    "matrix": ((37, 10), torch.int64),
    "past-a-tile": ((1, 3, 130, 131), torch.uint8),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_indices_match_float64(case: str, weighted: bool, reduction: str, dtype: torch.dtype) -> None:
    shape, kind = CASES[case]
    x, x64 = logits(shape, dtype)
    target, ignore = labels(shape[:1] + shape[2:], min(shape[1], 200), kind, 5), ignore_index(kind)
    weight = randn(shape[1], seed=4).abs() if weighted else None
    expected = torch_f.cross_entropy(
        x64, target.cpu().long(), None if weight is None else to64(weight), ignore_index=ignore, reduction=reduction
    )
    ours = None if weight is None else tn.from_torch(weight)
    compare(cross_entropy(x, tn.Tensor(target), ours, ignore_index=ignore, reduction=reduction), expected, x, x64)
    assert int(fault.flag()) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_probabilities_match_float64(case: str, weighted: bool, reduction: str, dtype: torch.dtype) -> None:
    shape, _ = CASES[case]
    x, x64 = logits(shape, dtype)
    p = randn(*shape, seed=5).abs().to(dtype)  # need not sum to 1
    weight = randn(shape[1], seed=4).abs() if weighted else None
    target = tn.Tensor(pitched(nhwc(p).contiguous())) if p.dim() == 4 else tn.from_torch(p)
    expected = torch_f.cross_entropy(x64, to64(p), None if weight is None else to64(weight), reduction=reduction)
    ours = None if weight is None else tn.from_torch(weight)
    compare(cross_entropy(x, target, ours, reduction=reduction), expected, x, x64)


def test_directional_derivatives() -> None:
    target = tn.Tensor(labels((2, 4, 5), 3))
    shares = tn.from_torch(randn(2, 3, 4, 5, seed=8).abs())
    for t in (target, shares):
        check_gradients(lambda x, t=t: cross_entropy(x, t, reduction="none"), [randn(2, 3, 4, 5)])


def test_finite_at_large_logits() -> None:
    x = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4 - 1]], device=DEVICE)
    target = torch.tensor([0, 0, 1], device=DEVICE)
    loss, dx = cross_entropy_fwd(x, target, reduction="none")
    assert_close(loss, torch.tensor([0.0, 2e4, 1.0 + math.log1p(math.exp(-1))]), 1e-6)
    assert_close(dx.sum(1), torch.zeros(3), 0.0, 1e-6)
    assert int(fault.flag()) == 0


def test_ignored_pixels_may_hold_anything() -> None:
    x = pitched(randn(1, 2, 2, 3))
    x[0, 0, 0] = float("nan")
    target = torch.tensor([[[255, 1], [2, 0]]], dtype=torch.uint8, device=DEVICE)
    loss, dx = cross_entropy_fwd(x, target, ignore_index=255)
    expected = torch_f.cross_entropy(to64(x[0].reshape(4, 3)[1:]), target.view(-1)[1:].cpu().long())
    assert_close(loss, expected, 1e-6)
    assert torch.equal(dx[0, 0, 0], torch.zeros(3, device=DEVICE))
    assert gap_untouched(x)
    assert int(fault.flag()) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_label_outside_contributes_nothing_and_is_a_fault(reduction: str) -> None:
    x = randn(6, 3)
    target = torch.tensor([0, 3, 2, -1, 1, 2**32], device=DEVICE)  # 2**32 is 0 in 32 bits
    loss, dx = cross_entropy_fwd(x, target, reduction=reduction)
    inside = [0, 2, 4]
    expected = torch_f.cross_entropy(to64(x)[inside], target[inside].cpu(), reduction=reduction)
    assert_close(loss[inside] if reduction == "none" else loss, expected, 1e-6)
    assert not dx[[1, 3, 5]].any()
    assert dx[inside].any()
    assert int(fault.flag()) == fault.LABEL.value


def test_loss_that_is_not_finite_is_a_fault() -> None:
    for reduction in REDUCTIONS:
        fault.flag().zero_()
        x = randn(4, 3)
        x[2, 1] = float("nan")
        cross_entropy_fwd(x, labels((4,), 3), reduction=reduction)
        assert int(fault.flag()) == fault.LOSS.value


def test_nothing_counted_is_nan_without_a_fault() -> None:
    for x in (randn(2, 3), randn(0, 3)):
        target = torch.full((x.shape[0],), -100, dtype=torch.int64, device=DEVICE)
        loss, dx = cross_entropy_fwd(x, target)
        assert math.isnan(float(loss))
        assert not dx.any()
        assert math.isnan(float(torch_f.cross_entropy(x.cpu(), target.cpu())))
        loss, dx = cross_entropy_fwd(x, target, reduction="sum")
        assert float(loss) == 0.0
        assert not dx.any()
    loss, _ = cross_entropy_fwd(randn(0, 3), randn(0, 3))
    assert math.isnan(float(loss))
    assert int(fault.flag()) == 0


def test_upstream_gradient_of_one_moves_nothing_and_a_second_backward_is_right() -> None:
    x, _x64 = logits((2, 3, 4, 5))
    target = labels((2, 4, 5), 3)
    loss = cross_entropy(x, tn.Tensor(target))
    _, once = cross_entropy_fwd(x.data, target)
    loss.backward(retain_graph=True)
    first = x.grad.data
    assert torch.equal(first, once)
    x.grad = None
    loss.backward(tn.tensor(3.0), retain_graph=True)
    assert_close(x.grad.data, 3 * to64(first), 1e-6)
    assert torch.equal(first, once)
    loss.backward()
    assert_close(x.grad.data, 4 * to64(first), 1e-6)


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    loss, dx = cross_entropy_fwd(randn(2, 3), labels((2,), 3), gradient=False)
    assert dx is None
    assert math.isfinite(float(loss))


def test_float16_gradient_survives_a_loss_scale() -> None:
    x = (3 * randn(1, 64, 64, 2)).half()
    target = labels((1, 64, 64), 2)
    _, dx = cross_entropy_fwd(x, target)
    assert dx.dtype == torch.float32
    logits16 = tn.Tensor(x, requires_grad=True)
    cross_entropy(logits16, tn.Tensor(target)).backward(tn.tensor(1024.0))
    assert logits16.grad.dtype == torch.float16
    assert_close(logits16.grad.data, 1024 * to64(dx), EPS[torch.float16] * (2 if DEVICE.type == "cuda" else 4))


def test_same_bits_every_time() -> None:
    x, target = randn(2, 33, 65, 3), labels((2, 33, 65), 3)
    first, second = (cross_entropy_fwd(x, target) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_refuses() -> None:
    x, target = tn.from_torch(randn(2, 3, 4, 5)), tn.Tensor(labels((2, 4, 5), 3))
    refusals = {
        "label_smoothing must be 0.0, got 0.1": {"label_smoothing": 0.1},
        "size_average must be None, got True": {"size_average": True},
        "reduction must be one of none, mean, sum, got 'max'": {"reduction": "max"},
        r"weight must have shape \(3,\), one number a class, got \(2,\)": {"weight": tn.from_torch(randn(2))},
        "weight must not require a gradient": {"weight": tn.from_torch(randn(3), True)},
    }
    for message, arguments in refusals.items():
        with pytest.raises(Refused, match=message):
            cross_entropy(x, target, **arguments)
    with pytest.raises(Refused, match=r"target must have shape \(2, 4, 5\)"):
        cross_entropy(x, tn.Tensor(labels((2, 5, 4), 3)))
    with pytest.raises(Refused, match=r"target \(class indices\) must be int64 or int32 or uint8, got float32"):
        cross_entropy(x, tn.from_torch(randn(2, 4, 5)))
    with pytest.raises(Refused, match=r"class probabilities.* must be float32"):
        cross_entropy(x, tn.from_torch(labels((2, 3, 4, 5), 3)))
    with pytest.raises(Refused, match="ignore_index must be negative"):
        cross_entropy(x, x, ignore_index=1)
    with pytest.raises(Refused, match=r"input must have shape \(N, C\) or \(N, C, H, W\)"):
        cross_entropy(tn.from_torch(randn(3)), target)
    with pytest.raises(Refused, match="input must be float32 or bfloat16 or float16, got int64"):
        cross_entropy(target, target)
