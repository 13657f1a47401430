"""ReLU, sigmoid, tanh."""

import pytest
import torch
from helpers import DEVICE, DTYPES, check_gradients, to64
from opcheck import check_op, make, randn

from tritonnet.kernels.runtime import Refused
from tritonnet.ops.activation import relu, sigmoid, tanh

OPS = {"relu": (relu, torch.relu), "sigmoid": (sigmoid, torch.sigmoid), "tanh": (tanh, torch.tanh)}
SHAPES = {
    "image": (2, 16, 5, 7),
    "odd": (1, 3, 5, 7),
    "one-channel": (2, 1, 3, 3),
    "one-pixel": (2, 5, 1, 1),
    "flat": (2053,),
    "number": (),
    "empty": (0, 4, 2, 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_against_float64(ops: tuple, shape: tuple, pitch: bool, dtype: torch.dtype) -> None:
    # near saturation 1 - y cancels: that is for the forward alone, below
    check_op(*ops, (0.5 * randn(*shape, dtype=dtype),), pitch=pitch)


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_far_from_zero(ops: tuple) -> None:
    x = torch.cat([s * torch.logspace(-6, 4, 101) for s in (1, -1)]).to(DEVICE)
    y, expected = to64(ops[0](make(x)).torch()), ops[1](to64(x))
    # exp(x) carries the rounding of its argument: |x| eps, up to 6e-6 where float32 ends; below 1e-37 it is zero
    assert ((y - expected).abs() <= 1e-5 * expected.abs() + 1e-37).all()


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_nan_and_infinity(ops: tuple) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], device=DEVICE)
    y, expected = ops[0](make(x)).torch(), ops[1](x)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y[1:], expected[1:])


def test_relu_gradient_is_zero_at_zero_and_passes_nan() -> None:
    x = make(torch.tensor([-1.0, -0.0, 0.0, 1.0, float("nan")], device=DEVICE), requires_grad=True)
    relu(x).backward(make(torch.full((5,), 3.0, device=DEVICE)))
    assert x.grad.torch().tolist() == [0, 0, 0, 3, 3]


def test_directional_derivatives() -> None:
    for op in (sigmoid, tanh):
        check_gradients(op, [randn(2, 3, 4, 5)])


def test_refuses() -> None:
    integers = make(torch.ones(3, dtype=torch.int64, device=DEVICE))
    with pytest.raises(Refused, match="inplace must be False"):
        relu(make(randn(3)), inplace=True)
    for op in (relu, sigmoid, tanh):
        with pytest.raises(Refused, match="input must be float32 or bfloat16 or float16, got int64"):
            op(integers)
