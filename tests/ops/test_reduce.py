"""sum, mean and the sum over pixels."""

import itertools
import math

import pytest
import torch
from helpers import DEVICE, DTYPES, assert_close, pitched, to64
from opcheck import check_op, make, randn

from tritonnet.kernels import sum as sum_module
from tritonnet.kernels.runtime import Refused
from tritonnet.kernels.sum import pixel_sum
from tritonnet.ops.reduce import mean, sum

OPS = {"sum": (sum, torch.sum), "mean": (mean, torch.mean)}
DIMS = [d for count in range(1, 5) for d in itertools.combinations(range(4), count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("dim", [None, -1, *DIMS], ids=str)
def test_images(dim: object, pitch: bool, dtype: torch.dtype) -> None:
    x = randn(2, 3, 4, 5, dtype=dtype)
    for ours, theirs in OPS.values():
        check_op(lambda t, f=ours: f(t, dim, True), lambda t, f=theirs: f(t, dim, True), (x,), pitch=pitch)
    check_op(lambda t: mean(t, dim), lambda t: torch.mean(t, dim), (x,), pitch=pitch)


SHAPES = {
    "vector": ((1000,), None),
    "number": ((), None),
    "matrix-rows": ((17, 130), 1),
    "matrix-columns": ((130, 17), 0),
    "rank-3-middle": ((3, 70, 5), 1),
    "one-channel": ((2, 1, 7, 7), (0, 2, 3)),
    "size-one": ((1, 1, 1, 1), (2,)),
    "wide-C": ((2, 130, 3, 3), (0, 2, 3)),
    "two-stages": ((1, 2, 300, 301), (0, 2, 3)),
    "two-stages-all": ((3, 1, 300, 101), None),
    "empty-batch": ((0, 3, 4, 4), (1,)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(case: tuple, dtype: torch.dtype) -> None:
    shape, dim = case
    # 90,000 terms of mean 1/4, whose sum float16 can hold; the interpreter adds a tile's terms in turn: about sqrt(30,000) eps
    rtol = 1e-5 if dtype == torch.float32 else None
    check_op(lambda t: sum(t, dim), lambda t: torch.sum(t, dim), ((randn(*shape, dtype=dtype) + 1) / 4,), rtol=rtol)


def test_empty() -> None:
    x = make(torch.empty(0, 3, 4, 4, device=DEVICE))
    assert sum(x).item() == 0
    assert math.isnan(mean(x).item())
    assert torch.equal(sum(x, (0, 2, 3)).torch(), torch.zeros(3, device=DEVICE))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integers_are_summed_exactly(dtype: torch.dtype) -> None:
    x = torch.arange(7 * 300, device=DEVICE).remainder(251).to(dtype).view(7, 300)
    if dtype == torch.int64:
        x = x + 2**40
    for dim in (None, 0, 1):
        y = sum(make(x), dim)
        assert y.dtype == torch.int64
        assert torch.equal(y.torch(), torch.sum(x, dim))


@pytest.mark.parametrize("shape", [(2, 5, 7, 16), (1, 3, 3, 3), (4, 1, 1, 130), (2, 150, 151, 1), (0, 2, 2, 5)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pixel_sum(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = randn(*shape, dtype=dtype) + 0.5
    for buffer in (x, pitched(x)):
        y = pixel_sum(buffer)
        assert y.dtype == torch.float32
        assert_close(y, to64(x).sum((0, 1, 2)), 1e-6)


def test_nan_spreads() -> None:
    x = randn(2, 3, 4, 5)
    x[1, 2, 3, 4] = float("nan")
    assert torch.equal(sum(make(x), (0, 2, 3)).torch().isnan().cpu(), torch.tensor([False, False, True]))


def test_same_bits_twice() -> None:
    x = make(randn(3, 5, 100, 90))
    assert torch.equal(sum(x).torch(), sum(x).torch())


def test_partial_sums_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    launch = sum_module.launch
    monkeypatch.setattr(sum_module, "launch", lambda *a, **k: (launches.append(a[0]), launch(*a, **k)))
    pixel_sum(randn(1, 300, 301, 2))
    assert len(launches) == 2


def test_refuses() -> None:
    x = make(randn(2, 3))
    cases = {
        r"\[sum\] dim must be from -2 to 1, got 2": lambda: sum(x, 2),
        r"\[sum\] dim must name each dimension once, got \(0, -2\)": lambda: sum(x, (0, -2)),
        r"\[mean\] input must be a floating-point": lambda: mean(make(torch.ones(2, dtype=torch.int32, device=DEVICE))),
        r"\[sum\] dtype must be None": lambda: sum(x, dtype=torch.float32),
        r"at most two groups": lambda: sum(make(randn(2, 2, 2, 2, 2, 2)), (0, 2, 4)),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
