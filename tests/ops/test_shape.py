"""reshape, flatten, permute, to, pad: the same values elsewhere, compared exactly."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from helpers import DEVICE, DTYPES, gap_untouched, pitched
from hypothesis import given, settings
from hypothesis import strategies as st
from opcheck import check_op, make, randn

import tritonnet as tn
from tritonnet.kernels.pad import pad_fwd
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.shape import flatten, pad, permute, reshape, to

RESHAPES = {
    "images-to-rows": ((2, 3, 4, 5), (2, 60)),
    "rows-to-images": ((2, 60), (2, 3, 4, 5)),
    "images-to-images": ((2, 3, 4, 5), (3, 2, 5, 4)),
    "unknown": ((2, 3, 4, 5), (-1, 5)),
    "one-channel": ((2, 1, 4, 5), (2, 4, 5)),
    "to-vector": ((2, 3, 4, 5), (120,)),
    "to-number": ((1, 1, 1, 1), ()),
    "rank-5": ((2, 3, 4, 5), (2, 3, 2, 2, 5)),
    "empty": ((0, 3, 4, 5), (0, 60)),
}


@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("case", RESHAPES.values(), ids=RESHAPES.keys())
def test_reshape_keeps_torch_order(case: tuple, pitch: bool) -> None:
    shape, target = case
    check_op(lambda t: reshape(t, target), lambda t: t.reshape(target), (randn(*shape),), rtol=0, pitch=pitch)
    check_op(
        lambda t: reshape(t, *target) if target else t,
        lambda t: t.reshape(target),
        (randn(*shape).view(target),),
        rtol=0,
    )


@pytest.mark.parametrize("ends", [(0, -1), (1, -1), (2, 3), (1, 2), (-2, -2)], ids=str)
def test_flatten(ends: tuple[int, int]) -> None:
    check_op(lambda t: flatten(t, *ends), lambda t: torch.flatten(t, *ends), (randn(2, 3, 4, 5),), rtol=0, pitch=True)


def test_flatten_a_number() -> None:
    assert flatten(make(randn())).shape == (1,)


@pytest.mark.parametrize("dims", [*itertools.permutations(range(4)), (-1, 0, 1, 2)], ids=str)
def test_permute_images(dims: tuple[int, ...]) -> None:
    for pitch in (False, True):
        check_op(lambda t: permute(t, dims), lambda t: t.permute(dims), (randn(2, 3, 4, 5),), rtol=0, pitch=pitch)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 1, 4, 2)], ids=str)
def test_permute_other_ranks(shape: tuple[int, ...]) -> None:
    dims = tuple(reversed(range(len(shape))))
    check_op(lambda t: permute(t, *dims), lambda t: t.permute(dims), (randn(*shape),), rtol=0)


def test_to_casts_the_gradient_back() -> None:
    x = make(torch.arange(-4.0, 4.0, device=DEVICE).view(2, 4), requires_grad=True)
    y = to(x, torch.bfloat16)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y.torch().float(), x.torch())
    y.backward(make(x.torch().bfloat16()))
    assert x.grad.dtype == torch.float32
    assert torch.equal(x.grad.torch(), x.torch())
    assert to(x, torch.float32) is x
    assert not to(x, torch.int32).requires_grad


PADS = {
    "unet": ((2, 16, 4, 4), (0, 1, 1, 0)),
    "uneven": ((2, 3, 4, 5), (1, 2, 3, 4)),
    "columns-only": ((2, 3, 4, 5), (2, 1)),
    "crop": ((2, 3, 6, 7), (-1, -2, -2, -1)),
    "pad-and-crop": ((2, 3, 4, 5), (-2, 3, 2, -1)),
    "crop-all": ((2, 3, 4, 5), (-2, -3)),
    "one-pixel": ((1, 1, 1, 1), (1, 1, 1, 1)),
    "wide-C": ((1, 130, 2, 2), (1, 0, 0, 1)),
    "empty-batch": ((0, 3, 4, 5), (1, 1, 1, 1)),
    "empty-image": ((2, 3, 0, 5), (1, 1, 1, 1)),
    "nothing": ((2, 3, 4, 5), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("case", PADS.values(), ids=PADS.keys())
def test_pad(case: tuple, pitch: bool, dtype: torch.dtype) -> None:
    shape, pads = case
    x = randn(*shape, dtype=dtype)
    check_op(lambda t: pad(t, pads), lambda t: F.pad(t, pads), (x,), rtol=0, pitch=pitch)
    check_op(lambda t: pad(t, pads, "constant", -2.5), lambda t: F.pad(t, pads, value=-2.5), (x,), rtol=0, pitch=pitch)


amounts = st.integers(-2, 3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(4, 6), st.integers(4, 6), st.tuples(amounts, amounts, amounts, amounts))
def test_pad_anything(c: int, h: int, w: int, pads: tuple[int, int, int, int]) -> None:
    check_op(lambda t: pad(t, pads), lambda t: F.pad(t, pads), (randn(2, c, h, w),), rtol=0, pitch=True)


def test_pad_writes_a_slice() -> None:
    x, out = randn(2, 4, 5, 3), pitched(torch.zeros(2, 6, 6, 3, device=DEVICE))
    y = pad(tn.Tensor(x), (0, 1, 1, 1), out=out)
    assert y.data is out
    assert gap_untouched(out)
    assert torch.equal(out, pad_fwd(x, (0, 1, 1, 1), 0.0))


def test_refuses() -> None:
    x = make(randn(2, 3, 4, 5))
    cases = {
        r"\[reshape\] shape must hold 120 elements, got \(7, 7\)": lambda: reshape(x, 7, 7),
        r"\[reshape\] shape must hold 120 elements": lambda: reshape(x, (-1, 7)),
        r"\[reshape\] shape must hold 120 elements, got \(-1, -1\)": lambda: reshape(x, -1, -1),
        r"\[reshape\] shape must be integers": lambda: reshape(x, 60.0, 2),
        r"\[flatten\] start_dim and end_dim must be in order": lambda: flatten(x, 3, 1),
        r"\[permute\] dims must name each of 4 dimensions once": lambda: permute(x, 0, 1, 2, 2),
        r"dtype must be a torch.dtype other than float64": lambda: to(x, torch.float64),
        r"\[pad\] mode must be 'constant', got 'reflect'": lambda: pad(x, (1, 1), mode="reflect"),
        r"\[pad\] pad must hold 2 or 4 numbers": lambda: pad(x, (1, 1, 1, 1, 1, 1)),
        r"\[pad\] pad must leave at least 0 x 0 pixels": lambda: pad(x, (-3, -3)),
        r"\[pad\] input must have 4 dimensions": lambda: pad(make(randn(3, 4)), (1, 1)),
        r"\[pad\] out must have buffer shape \(2, 4, 7, 3\)": lambda: pad(x, (1, 1), out=randn(2, 4, 5, 3)),
        r"\[pad\] input must be float32 or bfloat16 or float16, got int32": lambda: pad(to(x, torch.int32), (1, 1)),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
