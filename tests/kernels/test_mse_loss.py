"""Mean squared error, both gradients and its faults, against PyTorch in float64."""

import math

import pytest
import torch
from helpers import DTYPES, EPS, TINY, assert_close, check_gradients, gap_untouched, nhwc, pitched, randn, to64
from losscheck import REDUCTIONS, compare, logits
from torch.nn import functional as torch_f

import tritonnet as tn
from tritonnet.kernels import fault
from tritonnet.kernels.mse_loss import mse_loss_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.nn.functional import mse_loss

CASES = {
    "image": (2, 3, 5, 7),
    "one-channel": (2, 1, 3, 3),
    "vector": (13,),
    "cube": (2, 3, 5),
    "past-a-tile": (1, 3, 150, 151),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", CASES)
def test_matches_float64(case: str, reduction: str, dtype: torch.dtype) -> None:
    shape = CASES[case]
    x, x64 = logits(shape, dtype)
    t = randn(*shape, seed=1).to(dtype)
    target = tn.Tensor(pitched(nhwc(t).contiguous(), 2), requires_grad=True) if t.dim() == 4 else tn.from_torch(t, True)
    t64 = to64(t).requires_grad_()
    compare(mse_loss(x, target, reduction=reduction), torch_f.mse_loss(x64, t64, reduction=reduction), x, x64)
    assert_close(target.grad.torch(), t64.grad, 1e-6 + 3 * EPS[dtype], TINY[dtype], "dt")
    assert int(fault.flag()) == 0
    assert x.ndim != 4 or gap_untouched(x.data)


def test_module_directional_derivative_and_second_backward() -> None:
    check_gradients(tn.nn.MSELoss(reduction="none"), [randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1)])
    x, t = tn.from_torch(randn(4, 3), True), tn.from_torch(randn(4, 3, seed=1), True)
    loss = tn.nn.MSELoss()(x, t)
    loss.backward(retain_graph=True)
    loss.backward(tn.tensor(2.0))
    expected = 3 * 2 * to64(x.data - t.data) / 12
    assert_close(x.grad.data, expected, 1e-6)
    assert_close(t.grad.data, -expected, 1e-6)


def test_nothing_is_nan_without_a_fault_and_nan_is_one() -> None:
    assert math.isnan(float(mse_loss_fwd(randn(0, 3), randn(0, 3))[0]))
    assert float(mse_loss_fwd(randn(0, 3), randn(0, 3), "sum")[0]) == 0
    assert int(fault.flag()) == 0
    for reduction in REDUCTIONS:
        fault.flag().zero_()
        mse_loss_fwd(randn(3) + float("nan"), randn(3), reduction)
        assert int(fault.flag()) == fault.LOSS.value


def test_finite_and_right_at_large_values() -> None:
    x, t = randn(5) * 0 + 1e4, randn(5) * 0 - 1e4
    loss, dx = mse_loss_fwd(x, t, "sum")
    assert_close(loss, torch.tensor(5 * 4e8), 1e-6)
    assert_close(dx, torch.full((5,), 4e4), 1e-6)


def test_refuses() -> None:
    x = tn.from_torch(randn(2, 3))
    for message, call in {
        "target must have the input's shape": lambda: mse_loss(x, tn.from_torch(randn(3))),
        "target must be float32 or bfloat16 or float16, got int64": lambda: mse_loss(
            x, tn.tensor([[1, 2, 3], [1, 2, 3]])
        ),
        "reduction must be one of none, mean, sum, got 'max'": lambda: mse_loss(x, x, reduction="max"),
        "weight must be None": lambda: mse_loss(x, x, weight=x),
        "size_average must be None, got True": lambda: tn.nn.MSELoss(size_average=True),
    }.items():
        with pytest.raises(Refused, match=message):
            call()
