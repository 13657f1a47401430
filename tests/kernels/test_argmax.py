"""Argmax against PyTorch, exactly."""

import pytest
import torch
from helpers import DEVICE, DTYPES, nhwc, pitched, randn

import tritonnet as tn
from tritonnet.kernels import runtime
from tritonnet.kernels.argmax import argmax_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.softmax import argmax

CASES = {  # logical shape
    "two-classes": (2, 2, 9, 8),
    "odd": (1, 21, 5, 7),
    "one-channel": (2, 1, 3, 3),
    "past-a-block": (1, 4100, 1, 3),
    "matrix": (37, 10),
    "empty": (0, 4, 2, 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_matches_torch(case: str, dtype: torch.dtype) -> None:
    x = randn(*CASES[case]).round().to(dtype)  # few different values: rows have equals
    ours = tn.Tensor(pitched(nhwc(x).contiguous())) if x.dim() == 4 else tn.from_torch(x)
    y = argmax(ours, dim=1)
    assert y.dtype == torch.int64
    assert y.shape == tuple(x.shape[:1] + x.shape[2:])
    assert torch.equal(y.torch().cpu(), x.cpu().argmax(1))


def test_first_of_equals_wins() -> None:
    assert argmax_fwd(torch.ones(3, 5000, device=DEVICE)).tolist() == [0, 0, 0]


def test_nan_beats_any_number() -> None:
    x = torch.zeros(4, 5000)
    x[0, 3], x[0, 4999] = float("nan"), float("nan")
    x[1, 1], x[1, 4500] = float("inf"), float("nan")
    x[2] = float("-inf")
    x[3, 4200] = 1.0
    assert argmax_fwd(x.to(DEVICE)).tolist() == [3, 4500, 0, 4200]


def test_small_integers() -> None:
    x = randn(2, 3, 4, 200)
    for dtype in (torch.uint8, torch.int32):
        y = argmax_fwd(x, dtype=dtype)
        assert y.dtype == dtype
        assert torch.equal(y.long(), x.argmax(-1))


def test_refuses() -> None:
    with pytest.raises(Refused, match="at most 256 channels for uint8 indices, got 300"):
        argmax_fwd(randn(2, 300), dtype=torch.uint8)
    with pytest.raises(Refused, match="dtype must be int64 or int32 or uint8"):
        argmax_fwd(randn(2, 3), dtype=torch.float32)
    with pytest.raises(Refused, match="at least 1 channel"):
        argmax_fwd(runtime.empty((2, 3, 3, 0), torch.float32))
    x = tn.from_torch(randn(2, 3, 4, 5))
    with pytest.raises(Refused, match="keepdim must be False"):
        argmax(x, 1, keepdim=True)
    with pytest.raises(Refused, match="dim must be 1"):
        argmax(x)
