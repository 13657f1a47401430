"""Bilinear and nearest resampling."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from helpers import DEVICE, DTYPES, check_gradients, gap_untouched, pitched
from hypothesis import given, settings
from hypothesis import strategies as st
from opcheck import check_op, make, randn

import tritonnet as tn
from tritonnet.kernels.runtime import Refused
from tritonnet.kernels.upsample import axis, upsample_fwd
from tritonnet.ops.upsample import interpolate

CASES = {
    "unet": ((2, 16, 4, 4), {"scale_factor": 2}),
    "odd": ((2, 3, 5, 7), {"size": (9, 13)}),
    "down": ((2, 3, 9, 8), {"size": (4, 3)}),
    "up-and-down": ((1, 3, 3, 9), {"size": (8, 4)}),
    "same": ((1, 3, 4, 5), {"size": (4, 5)}),
    "to-one": ((1, 3, 4, 5), {"size": 1}),
    "from-one": ((2, 5, 1, 1), {"size": (3, 4)}),
    "fraction": ((1, 3, 5, 7), {"scale_factor": 1.5}),
    "fraction-recomputed": ((1, 3, 5, 7), {"scale_factor": 1.3, "recompute_scale_factor": True}),
    "small-fraction": ((1, 2, 9, 11), {"scale_factor": (0.4, 2.7)}),
    "wide-C": ((1, 130, 2, 3), {"scale_factor": 2.0}),
    "one-channel": ((2, 1, 3, 3), {"size": (7, 5)}),
}
MODES = {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear"},
    "corners": {"mode": "bilinear", "align_corners": True},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_float64(case: tuple, mode: dict, pitch: bool, dtype: torch.dtype) -> None:
    shape, arguments = case
    x = randn(*shape, dtype=dtype)
    check_op(
        lambda t: interpolate(t, **arguments, **mode),
        lambda t: F.interpolate(t, **arguments, **mode),
        (x,),
        pitch=pitch,
    )


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_empty_batch(mode: dict) -> None:  # which torch refuses
    assert interpolate(make(randn(0, 3, 4, 4)), scale_factor=2, **mode).shape == (0, 3, 8, 8)


side = st.integers(1, 12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(side, side, side, side, st.sampled_from(list(MODES.values())))
def test_any_ratio(h: int, w: int, p: int, q: int, mode: dict) -> None:
    def reference(t: torch.Tensor) -> torch.Tensor:
        return F.interpolate(t, size=(p, q), **mode)

    check_op(lambda t: interpolate(t, size=(p, q), **mode), reference, (randn(1, 2, h, w),))


def test_the_gather_reaches_every_output() -> None:
    for size, out, corners in itertools.product(range(1, 40), range(1, 40), (False, True)):
        a = axis(size, out, corners)
        sources = [min(max(p * a.a + a.b, 0), (size - 1) * a.d) for p in range(out)]
        for h in range(size):
            readers = [p for p, source in enumerate(sources) if abs(source - h * a.d) < a.d]
            above = (h - 1) * a.d - a.b
            first = 0 if h == 0 or above < 0 else above // a.a + 1
            assert all(first <= p < first + a.reach for p in readers), (size, out, corners, h)


def test_constant_stays_constant() -> None:
    x = make(torch.full((1, 2, 5, 7), 3.0, device=DEVICE))
    assert (interpolate(x, size=(11, 3), mode="bilinear").torch() - 3).abs().max() < 1e-6


def test_writes_a_slice() -> None:
    x, out = randn(2, 4, 5, 3), pitched(torch.zeros(2, 8, 10, 3, device=DEVICE))
    y = interpolate(tn.Tensor(x), scale_factor=2, mode="bilinear", out=out)
    assert y.data is out
    assert gap_untouched(out)
    assert torch.equal(out, upsample_fwd(x, axis(4, 8), axis(5, 10)))


def test_directional_derivative() -> None:
    check_gradients(lambda t: interpolate(t, size=(5, 9), mode="bilinear", align_corners=True), [randn(2, 3, 4, 5)])


def test_same_bits_twice() -> None:
    gradients = []
    for _ in range(2):
        x = make(randn(2, 3, 5, 5), requires_grad=True)
        interpolate(x, size=(13, 11), mode="bilinear").backward(make(randn(2, 3, 13, 11, seed=1)))
        gradients.append(x.grad.torch())
    assert torch.equal(*gradients)


def test_refuses() -> None:
    x = make(randn(2, 3, 4, 5))
    cases = {
        r"mode must be 'nearest' or 'bilinear', got 'bicubic'": lambda: interpolate(x, 8, mode="bicubic"),
        r"align_corners must be None for mode 'nearest'": lambda: interpolate(x, 8, align_corners=True),
        r"antialias must be False": lambda: interpolate(x, 8, mode="bilinear", antialias=True),
        r"one of size and scale_factor must be given, got None": lambda: interpolate(x),
        r"one of size and scale_factor must be given, got 8": lambda: interpolate(x, 8, 2),
        r"size must be one or two positive numbers, got 0": lambda: interpolate(x, 0),
        r"size must be one or two positive numbers, got \(1, 2, 3\)": lambda: interpolate(x, (1, 2, 3)),
        r"sizes must be at least 1, got 4 resampled to 0": lambda: interpolate(x, scale_factor=0.1),
        r"sizes must be at most about 32000": lambda: interpolate(x, (4, 10**9), mode="bilinear"),
        r"input must have 4 dimensions": lambda: interpolate(make(randn(3, 4)), 8),
        r"out must have buffer shape \(2, 8, 8, 3\)": lambda: interpolate(x, 8, out=randn(2, 8, 9, 3)),
        r"input must be float32 or bfloat16 or float16": lambda: interpolate(x.to(torch.int32), 8),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
