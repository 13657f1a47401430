"""Softmax and log-softmax against PyTorch in float64."""

import pytest
import torch
from helpers import DEVICE, DTYPES, check_gradients, gap_untouched, pitched, randn, to64
from opcheck import check_op

import tritonnet as tn
from tritonnet.kernels import runtime
from tritonnet.kernels.runtime import Refused
from tritonnet.kernels.softmax import softmax_bwd, softmax_fwd
from tritonnet.ops.softmax import log_softmax, softmax

OPS = {"softmax": (softmax, torch.softmax), "log_softmax": (log_softmax, torch.log_softmax)}
CASES = {  # logical shape, dim
    "two-classes": ((2, 2, 9, 8), 1),
    "odd": ((1, 21, 5, 7), 1),
    "one-channel": ((2, 1, 3, 3), 1),
    "one-pixel": ((3, 5, 1, 1), -3),
    "past-a-block": ((1, 4100, 1, 3), 1),
    "matrix": ((37, 10), -1),
    "vector": ((17,), 0),
    "three": ((3, 5, 6), 2),
    "empty": ((0, 4, 2, 2), 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_matches_float64(ops: tuple, case: str, pitch: bool, dtype: torch.dtype) -> None:
    shape, dim = CASES[case]
    op, reference = ops
    x = 3 * randn(*shape, dtype=dtype)
    check_op(lambda t: op(t, dim), lambda t: reference(t, dim), (x,), pitch=pitch)


def test_directional_derivatives() -> None:
    for op in (softmax, log_softmax):
        check_gradients(lambda t, op=op: op(t, 1), [randn(2, 3, 4, 5)])


def test_large_logits_do_not_overflow() -> None:
    x = torch.tensor([[1e4, -1e4, 1e4 - 1], [1e38, 0.0, -1e38]], device=DEVICE)
    for log, reference in ((False, torch.softmax), (True, torch.log_softmax)):
        y = softmax_fwd(x, log=log)
        assert torch.allclose(to64(y), reference(to64(x), -1), rtol=1e-6)


def test_infinities_and_nan_as_in_pytorch() -> None:
    inf, nan = float("inf"), float("nan")
    # the last row: a whole first block of -inf must not spoil the second one
    x = torch.full((5, 4100), -inf)
    x[0, :4], x[1, 2], x[2, 1], x[4, 4099] = torch.tensor([0.0, 1.0, -inf, 2.0]), nan, inf, 1.0
    x = x.to(DEVICE)
    for log, reference in ((False, torch.softmax), (True, torch.log_softmax)):
        y, expected = to64(softmax_fwd(x, log=log)), reference(to64(x), -1)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.allclose(y.nan_to_num(), expected.nan_to_num(), rtol=1e-6)


def test_gap_is_left_alone() -> None:
    x, dy = pitched(randn(2, 3, 4, 5)), pitched(randn(2, 3, 4, 5, seed=1))
    y = softmax_fwd(x)
    softmax_bwd(dy, pitched(y))
    assert gap_untouched(x)
    assert gap_untouched(dy)


def test_refuses() -> None:
    x = tn.from_torch(randn(2, 3, 4, 5))
    with pytest.raises(Refused, match="dim must be 1, the channels of a 4-D tensor, got 3"):
        softmax(x, 3)
    with pytest.raises(Refused, match="dim must be 1, the last dimension of a 2-D tensor, got None"):
        log_softmax(tn.from_torch(randn(2, 3)))
    with pytest.raises(Refused, match="dtype must be None"):
        softmax(x, 1, dtype=torch.float32)
    with pytest.raises(Refused, match="input must have at least 1 dimension"):
        softmax(tn.tensor(1.0), 0)
    with pytest.raises(Refused, match="at least 1 channel"):
        softmax_fwd(runtime.empty((3, 0), torch.float32))
    with pytest.raises(Refused, match="dy must have y's shape"):
        softmax_bwd(randn(2, 3), randn(3, 2))
