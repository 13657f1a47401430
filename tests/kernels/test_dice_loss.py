"""Soft Dice loss, its gradient and its faults, against the formula in float64."""

import math

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, assert_close, check_gradients, gap_untouched, pitched, randn, to64
from losscheck import REDUCTIONS, class_logits64, compare, ignore_index, labels, logits

import tritonnet as tn
from tritonnet.kernels import fault
from tritonnet.kernels.dice_loss import dice_loss_bwd, dice_loss_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.nn.functional import dice_loss

CASES = {  # logical shape of the logits, dtype of class indices, include_background, batch
    "sigmoid": ((2, 1, 9, 8), torch.uint8, True, False),
    "sigmoid-batch": ((3, 1, 5, 4), torch.uint8, False, True),
    "two-classes": ((2, 2, 7, 5), torch.int64, False, False),
    "odd": ((3, 21, 5, 7), torch.int32, True, True),
    "one-image": ((1, 3, 4, 5), torch.int64, True, True),
    "wide": ((2, 300, 3, 2), torch.int64, False, False),
    "past-a-tile": ((2, 3, 150, 151), torch.uint8, True, False),
}


def dice64(
    x: torch.Tensor,
    t: torch.Tensor,
    w: torch.Tensor | None,
    ignore: int,
    background: bool,
    batch: bool,
    nr: float,
    dr: float,
) -> torch.Tensor:
    """One value an image and term; without the images if `batch`."""
    counted = (t != ignore).unsqueeze(1)
    p = class_logits64(x).softmax(1) * counted
    k = p.shape[1]
    hit = (torch.arange(k).view(1, k, 1, 1) == t.unsqueeze(1)) & counted
    dims = (0, 2, 3) if batch else (2, 3)
    f = 1 - (2 * (p * hit).sum(dims) + nr) / (p.sum(dims) + hit.sum(dims) + dr)
    f = f if w is None else f * to64(w)
    return f if background and x.shape[1] > 1 else f[..., 1:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_matches_float64(case: str, weighted: bool, reduction: str, dtype: torch.dtype) -> None:
    shape, kind, background, batch = CASES[case]
    x, x64 = logits(shape, dtype)
    k = max(shape[1], 2)
    target, ignore = labels(shape[:1] + shape[2:], min(k, 200), kind, 5), ignore_index(kind)
    weight = 0.5 + randn(k, seed=4).abs() if weighted else None
    smooth = {"smooth_nr": 0.3, "smooth_dr": 0.1} if weighted else {}
    terms = dice64(x64, target.cpu().long(), weight, ignore, background, batch, *(smooth.values() or (1e-5, 1e-5)))
    loss = dice_loss(
        x, tn.Tensor(target), None if weight is None else tn.from_torch(weight),
        include_background=background, batch=batch, ignore_index=ignore, reduction=reduction, **smooth,
    )  # fmt: skip
    compare(loss, {"mean": terms.mean(), "sum": terms.sum(), "none": terms}[reduction], x, x64)
    assert int(fault.flag()) == 0
    assert gap_untouched(x.data)


def test_directional_derivatives() -> None:
    for channels in (1, 3):
        target = tn.Tensor(labels((2, 4, 5), max(channels, 2), ignored=6))
        for batch in (False, True):
            module = tn.nn.DiceLoss(reduction="none", batch=batch)
            check_gradients(lambda x, m=module, t=target: m(x, t), [randn(2, channels, 4, 5)])


def test_perfect_is_zero_absent_class_is_by_the_smoothing_alone() -> None:
    target = labels((1, 4, 5), 2)
    x = 1e4 * (torch.arange(3, device=DEVICE) == target.unsqueeze(-1)).float()
    loss, _ = dice_loss_fwd(x, target, reduction="none", smooth_nr=1.0, smooth_dr=4.0)
    # class 2 is neither there nor predicted: 1 - 1 / 4
    sizes = [2 * float((target == c).sum()) for c in range(3)]
    assert_close(loss, torch.tensor([[1 - (size + 1) / (size + 4) for size in sizes]]), 1e-6)
    assert float(dice_loss_fwd(x, target, include_background=False, smooth_nr=0.0, smooth_dr=0.1)[0]) >= 0
    assert int(fault.flag()) == 0


def test_finite_at_large_logits() -> None:
    for channels in (1, 3):
        x = 1e4 * randn(2, 4, 5, channels).sign()
        target = labels((2, 4, 5), max(channels, 2))
        loss, terms = dice_loss_fwd(x, target)
        dx = dice_loss_bwd(torch.ones((), device=DEVICE), terms, x, target)
        assert 0 < float(loss) < 1
        assert bool(dx.isfinite().all())
    assert int(fault.flag()) == 0


def test_ignored_pixels_may_hold_anything() -> None:
    x = pitched(randn(1, 2, 3, 2))
    target = labels((1, 2, 3), 2)
    target[0, 0, 0] = -100
    expected, _ = dice_loss_fwd(x, target)
    x[0, 0, 0] = float("nan")
    loss, terms = dice_loss_fwd(x, target)
    assert torch.equal(loss, expected)
    assert not dice_loss_bwd(torch.ones((), device=DEVICE), terms, x, target)[0, 0, 0].any()
    assert int(fault.flag()) == 0


def test_nothing_counted() -> None:
    x, target = tn.from_torch(randn(2, 3, 4, 5), True), tn.Tensor(labels((2, 4, 5), 3, ignored=1))
    loss = dice_loss(x, target)  # 1 - smooth_nr / smooth_dr
    assert_close(loss.torch(), torch.tensor(0.0), 0, 1e-6)
    loss.backward()
    assert not x.grad.data.any()
    none, labels_of_none = tn.from_torch(randn(0, 3, 4, 5)), tn.Tensor(labels((0, 4, 5), 3))
    assert math.isnan(dice_loss(none, labels_of_none).item())
    assert dice_loss(none, labels_of_none, reduction="sum").item() == 0
    assert_close(dice_loss(none, labels_of_none, batch=True).torch(), torch.tensor(0.0), 0, 1e-6)
    assert dice_loss(none, labels_of_none, reduction="none").shape == (0, 3)
    assert int(fault.flag()) == 0


def test_faults() -> None:
    x, target = randn(1, 2, 3, 3), torch.tensor([0, 3, 2, -1, 1, 2**32], device=DEVICE).view(1, 2, 3)
    for reduction in REDUCTIONS:
        fault.flag().zero_()
        loss, terms = dice_loss_fwd(x, target, reduction=reduction)
        dx = dice_loss_bwd(torch.ones_like(loss), terms, x, target)
        assert dx.view(6, 3).any(1).tolist() == [True, False, True, False, True, False]
        assert int(fault.flag()) == fault.LABEL.value
        fault.flag().zero_()
        broken = x.clone()
        broken[0, 0, 2, 1] = float("nan")
        dice_loss_fwd(broken, target.clamp(0, 2), reduction=reduction)
        assert int(fault.flag()) == fault.LOSS.value


def test_float16_gradient_survives_a_loss_scale() -> None:
    x, target = (3 * randn(1, 2, 64, 64)).half(), labels((1, 64, 64), 2)
    x64 = to64(x).requires_grad_()
    dice64(x64, target.cpu(), None, -100, True, False, 1e-5, 1e-5).mean().backward()
    ours = tn.from_torch(x, True)
    dice_loss(ours, tn.Tensor(target)).backward(tn.tensor(1024.0))
    assert ours.grad.dtype == torch.float16
    # the interpreter cuts where the device rounds
    assert_close(ours.grad.torch(), 1024 * x64.grad, EPS[torch.float16] * (1 if DEVICE.type == "cuda" else 2))


def test_second_backward_and_bits() -> None:
    target = tn.Tensor(labels((2, 33, 65), 3))
    x = tn.from_torch(randn(2, 3, 33, 65), True)
    loss = dice_loss(x, target)
    loss.backward(retain_graph=True)
    first = x.grad.data.clone()
    x.grad = None
    loss.backward()
    assert torch.equal(x.grad.data, first)
    assert torch.equal(dice_loss(x, target).data, loss.data)


REFUSED = {
    "smooth_nr must be at least 0 and finite, got -1": {"smooth_nr": -1},
    "smooth_dr must be at least 0 and finite, got inf": {"smooth_dr": float("inf")},
    "reduction must be one of none, mean, sum": {"reduction": "max"},
    r"weight must have shape \(3,\), one number a class, got \(2,\)": {"weight": tn.rand(2)},
    r"target must have shape \(2, 4, 5\) \(indices\), got": {"target": tn.Tensor(labels((2, 5, 4), 3))},
    r"input must have 4 dimensions \(N, C, H, W\), got 2": {"input": tn.rand(2, 3)},
    "ignore_index must be an integer, got 1.5": {"ignore_index": 1.5},
    "at most 4096 classes, got 4097": {"input": tn.rand(1, 4097, 1, 1), "target": tn.tensor([[[1]]])},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message: str) -> None:
    arguments = {"input": tn.from_torch(randn(2, 3, 4, 5)), "target": tn.Tensor(labels((2, 4, 5), 3))}
    with pytest.raises(Refused, match=message):
        dice_loss(**(arguments | REFUSED[message]))
