"""Focal and distance-aware loss, their gradients and faults, against the formulas in float64."""

import math

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, assert_close, check_gradients, gap_untouched, pitched, randn, to64
from losscheck import REDUCTIONS, class_logits64, compare, ignore_index, labels, logits, reduce64

import tritonnet as tn
from tritonnet.kernels import fault
from tritonnet.kernels.distance import distance_fwd
from tritonnet.kernels.focal_loss import focal_loss_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.nn.functional import cross_entropy, distance_loss, focal_loss

CASES = {  # logical shape of the logits, dtype of class indices, gamma, alpha
    "sigmoid": ((2, 1, 9, 8), torch.uint8, 2.0, None),
    "two-classes": ((2, 2, 7, 5), torch.int64, 1.5, 0.25),
    "odd": ((3, 21, 5, 7), torch.int32, 2.0, 0.75),
    "root": ((1, 3, 4, 5), torch.int64, 0.5, None),
    "matrix": ((37, 10), torch.int64, 0.0, 0.1),
    "wide": ((1, 300, 3, 2), torch.int64, 2.0, None),
    "past-a-tile": ((1, 3, 150, 151), torch.uint8, 2.0, 0.5),
}


def focal64(x: torch.Tensor, t: torch.Tensor, w: torch.Tensor | None, ignore: int, gamma: float, alpha: float | None):
    """Of every pixel, and the sum of the weights."""
    log_p = class_logits64(x).log_softmax(1)
    counted = t != ignore
    t = torch.where(counted, t, 0)
    weight = (torch.ones(log_p.shape[1], dtype=torch.float64) if w is None else to64(w))[t] * counted
    picked = log_p.gather(1, t.unsqueeze(1)).squeeze(1)
    loss = -weight * (-torch.expm1(picked)) ** gamma * picked
    return loss * (1 if alpha is None else torch.where(t > 0, alpha, 1 - alpha)), weight.sum()


def distance64(
    x: torch.Tensor, t: torch.Tensor, w: torch.Tensor | None, ignore: int, sigma: float, alpha: float, beta: float
):
    """Of every pixel, and the number of pixels above class 0; distances by comparing every two pixels."""
    log_p = class_logits64(x).log_softmax(1)
    n, k, h, width = log_p.shape
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(width), indexing="ij"), -1).reshape(-1, 2).double()
    squared = ((place[:, None] - place) ** 2).sum(2)
    counted = t != ignore
    loss = torch.zeros(t.shape, dtype=torch.float64)
    for c in range(1, k):
        own = counted & (t == c)
        d2 = torch.where(own.view(n, 1, -1), squared, torch.inf).min(2).values.view(t.shape)
        y = torch.exp(-d2 / (2 * sigma**2))
        log_rest = torch.log(-torch.expm1(log_p[:, c]))
        near = (1 - y) ** beta * (alpha * log_p[:, c]).exp() * log_rest
        loss = loss - torch.where(own, (alpha * log_rest).exp() * log_p[:, c], near)
    weight = torch.ones(k, dtype=torch.float64) if w is None else to64(w)
    return loss * weight[torch.where(counted, t, 0)] * counted, (counted & (t > 0)).sum().clamp(min=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_focal_matches_float64(case: str, weighted: bool, reduction: str, dtype: torch.dtype) -> None:
    shape, kind, gamma, alpha = CASES[case]
    x, x64 = logits(shape, dtype)
    k = max(shape[1], 2)
    target, ignore = labels(shape[:1] + shape[2:], min(k, 200), kind, 5), ignore_index(kind)
    weight = 0.5 + randn(k, seed=4).abs() if weighted else None
    pixels, divisor = focal64(x64, target.cpu().long(), weight, ignore, gamma, alpha)
    loss = focal_loss(
        x, tn.Tensor(target), None if weight is None else tn.from_torch(weight),
        gamma=gamma, alpha=alpha, ignore_index=ignore, reduction=reduction,
    )  # fmt: skip
    compare(loss, reduce64(pixels, reduction, divisor), x, x64)
    assert int(fault.flag()) == 0
    assert x.ndim == 2 or gap_untouched(x.data)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", ["sigmoid", "two-classes", "odd", "root", "wide"])
def test_distance_matches_float64(case: str, weighted: bool, reduction: str, dtype: torch.dtype) -> None:
    shape, kind, alpha, _ = CASES[case]
    x, x64 = logits(shape, dtype)
    k = max(shape[1], 2)
    target, ignore = labels(shape[:1] + shape[2:], min(k, 4), kind, 5), ignore_index(kind)
    target[:, 1:] = target[:, 1:] * (target[:, 1:] == ignore)  # some distances above 1
    weight = 0.5 + randn(k, seed=4).abs() if weighted else None
    pixels, divisor = distance64(x64, target.cpu().long(), weight, ignore, 2.5, alpha, 4.0)
    loss = distance_loss(
        x, tn.Tensor(target), None if weight is None else tn.from_torch(weight),
        sigma=2.5, alpha=alpha, ignore_index=ignore, reduction=reduction,
    )  # fmt: skip
    # (1 - y)^4 of y near 1 keeps fewer digits: 4 roundings of y over 1 - y = 0.08
    compare(loss, reduce64(pixels, reduction, divisor), x, x64, rtol=2e-6)
    assert int(fault.flag()) == 0
    assert gap_untouched(x.data)


def test_focal_without_gamma_is_cross_entropy() -> None:
    x, target, weight = tn.from_torch(randn(2, 3, 4, 5)), tn.Tensor(labels((2, 4, 5), 3, ignored=4)), tn.rand(3)
    for arguments in ({}, {"weight": weight}):
        expected = cross_entropy(x, target, **arguments).torch()
        assert_close(focal_loss(x, target, gamma=0.0, **arguments).torch(), expected, 1e-6)


def test_two_channels_are_one_of_their_difference() -> None:
    x, target = randn(2, 2, 6, 5), tn.Tensor(labels((2, 6, 5), 2))
    one = tn.from_torch((x[:, 1:] - x[:, :1]).contiguous())
    for f in (focal_loss, distance_loss):
        assert_close(f(tn.from_torch(x), target).torch(), f(one, target).torch(), 1e-6)


def test_directional_derivatives() -> None:
    for channels in (1, 2, 4):
        target = tn.Tensor(labels((2, 4, 5), max(channels, 2), ignored=6))
        for module in (tn.nn.FocalLoss(alpha=0.3, reduction="none"), tn.nn.DistanceLoss(sigma=2.0, reduction="none")):
            check_gradients(lambda x, m=module, t=target: m(x, t), [randn(2, channels, 4, 5)])


def test_finite_and_right_at_large_logits() -> None:
    rows = [[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4 - 1, -1e4], [0, 0, 1e4], [-1e4, -1e4, -1e4], [3e4, 0, 0]]
    x = torch.tensor(rows, device=DEVICE).view(6, 1, 1, 3)
    for t in range(3):
        target = torch.full((6, 1, 1), t, dtype=torch.int64, device=DEVICE)
        for distance in (None, distance_fwd(target, 1, 2)):
            loss, dx = focal_loss_fwd(x, target, None, distance, reduction="none")
            x64 = to64(x).permute(0, 3, 1, 2).requires_grad_()
            log_p = x64.log_softmax(1)[:, :, 0, 0]
            # log(1 - p) from the others, since float64 too knows no 1 - p below 1e-16
            others = torch.stack([torch.cat((x64[:, :c], x64[:, c + 1 :]), 1).logsumexp(1) for c in range(3)], 1)
            log_rest = (others - x64.logsumexp(1, keepdim=True))[:, :, 0, 0]
            own, rest = log_p[:, t], (2 * log_p).exp() * log_rest  # distances are 0 or infinite here
            expected = -(2 * log_rest[:, t]).exp() * own
            if distance is not None:
                # class 0 has no term of its own
                expected = (expected if t else 0) - sum(rest[:, c] for c in (1, 2) if c != t)
            expected.sum().backward()
            assert_close(loss.view(-1), expected, 1e-6, 1e-6)
            assert_close(dx[:, 0, 0], x64.grad[:, :, 0, 0], 1e-6, 1e-6)
    assert int(fault.flag()) == 0


def test_one_logit_at_large_values() -> None:
    x = torch.tensor([1e4, -1e4, 1e4, -1e4, 60.0, -60.0], device=DEVICE).view(1, 1, 6, 1)
    target = torch.tensor([0, 1, 1, 0, 1, 0], device=DEVICE).view(1, 1, 6)
    loss, dx = focal_loss_fwd(x, target, reduction="sum")
    assert_close(loss, torch.tensor(2e4), 1e-6)
    assert_close(dx.view(-1), torch.tensor([1.0, -1, 0, 0, 0, 0]), 1e-6, 1e-30)
    loss, dx = focal_loss_fwd(x, target, None, distance_fwd(target), sigma=1e-3, reduction="sum")
    assert_close(loss, torch.tensor(2e4), 1e-6)
    assert int(fault.flag()) == 0


def test_no_foreground_divides_by_one_and_ignored_pixels_may_hold_anything() -> None:
    x = pitched(randn(1, 2, 3, 2))
    x[0, 0, 0] = float("nan")
    target = torch.zeros((1, 2, 3), dtype=torch.uint8, device=DEVICE)
    target[0, 0, 0] = 255
    loss, dx = focal_loss_fwd(x, target, None, distance_fwd(target, 1, 1, 255), ignore_index=255)
    p = (to64(x[..., 1] - x[..., 0])).sigmoid()
    assert_close(loss, -(p**2 * (1 - p).log()).nansum(), 1e-6)
    assert not dx[0, 0, 0].any()
    assert gap_untouched(x)
    assert int(fault.flag()) == 0


def test_nothing_counted() -> None:
    for shape in ((2, 3, 3, 2), (0, 3, 3, 2)):
        target = torch.full(shape[:3], -100, dtype=torch.int64, device=DEVICE)
        loss, dx = focal_loss_fwd(randn(*shape), target)
        assert math.isnan(float(loss))
        assert not dx.any()
        loss, dx = focal_loss_fwd(randn(*shape), target, None, distance_fwd(target))
        assert float(loss) == 0.0
        assert not dx.any()
    assert int(fault.flag()) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("distant", [False, True])
def test_faults(reduction: str, distant: bool) -> None:
    target = torch.tensor([0, 3, 2, -1, 1, 2**32], device=DEVICE).view(1, 2, 3)
    distance = distance_fwd(target, 1, 2) if distant else None
    x = randn(1, 2, 3, 3)
    _, dx = focal_loss_fwd(x, target, None, distance, reduction=reduction)
    assert dx.view(6, 3).any(1).tolist() == [True, False, True, False, True, False]
    assert int(fault.flag()) == fault.LABEL.value
    fault.flag().zero_()
    x[0, 0, 2, 1] = float("nan")
    focal_loss_fwd(x, target.clamp(0, 2), None, distance, reduction=reduction)
    assert int(fault.flag()) == fault.LOSS.value


def test_float16_gradient_survives_a_loss_scale() -> None:
    x, target = (3 * randn(1, 2, 64, 64)).half(), labels((1, 64, 64), 2)
    for f, distant in ((focal_loss, False), (distance_loss, True)):
        _, dx = focal_loss_fwd(
            x.permute(0, 2, 3, 1).contiguous(), target, None, distance_fwd(target) if distant else None
        )
        assert dx.dtype == torch.float32
        ours = tn.from_torch(x, True)
        f(ours, tn.Tensor(target)).backward(tn.tensor(1024.0))
        assert ours.grad.dtype == torch.float16
        assert_close(ours.grad.data, 1024 * to64(dx), EPS[torch.float16] * (2 if DEVICE.type == "cuda" else 4))


def test_second_backward_and_bits() -> None:
    target = tn.Tensor(labels((2, 33, 9), 3))
    for f in (focal_loss, distance_loss):
        x = tn.from_torch(randn(2, 3, 33, 9), True)
        loss = f(x, target)
        loss.backward(retain_graph=True)
        first = x.grad.data.clone()
        x.grad = None
        loss.backward(tn.tensor(3.0))
        assert_close(x.grad.data, 3 * to64(first), 1e-6)
        x.grad = None
        f(x, target).backward()
        assert torch.equal(x.grad.data, first)


REFUSED = {
    "gamma must be at least 0 and finite, got -1": lambda x, t: focal_loss(x, t, gamma=-1),
    "alpha must be from 0 to 1, got 2": lambda x, t: focal_loss(x, t, alpha=2),
    "sigma must be above 0 and finite, got 0": lambda x, t: distance_loss(x, t, sigma=0),
    "beta must be at least 0 and finite, got nan": lambda x, t: distance_loss(x, t, beta=float("nan")),
    r"weight must have shape \(3,\), one number a class, got \(2,\)": lambda x, t: focal_loss(x, t, tn.rand(2)),
    r"target must have shape \(2, 4, 5\) \(indices\)": lambda x, t: focal_loss(x, tn.Tensor(labels((2, 5, 4), 3))),
    r"distance must have shape \(2, 4, 5, 2\), got": lambda x, t: focal_loss_fwd(
        x.data, t.data, None, distance_fwd(t.data)
    ),
    "target .* must be int64 or int32 or uint8, got float32": lambda x, t: focal_loss(x, tn.rand(2, 4, 5)),
    "input must be float32 or bfloat16 or float16, got int64": lambda x, t: focal_loss(t, t),
    r"must have shape \(N, C\) or \(N, C, H, W\), got 3 dim": lambda x, t: focal_loss(tn.rand(2, 4, 5), t),
    "reduction must be one of none, mean, sum": lambda x, t: focal_loss(x, t, reduction="max"),
    "at most 4096 classes, got 4097": lambda x, t: focal_loss(tn.rand(1, 4097), tn.tensor([1])),
    "weight must not require a gradient": lambda x, t: focal_loss(x, t, tn.rand(3, requires_grad=True)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message: str) -> None:
    with pytest.raises(Refused, match=message):
        REFUSED[message](tn.from_torch(randn(2, 3, 4, 5)), tn.Tensor(labels((2, 4, 5), 3)))
