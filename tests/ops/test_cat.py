"""Concatenation by copy and by layout: compared exactly."""

import pytest
import torch
from helpers import DEVICE, DTYPES
from opcheck import check_op, make, randn

import tritonnet as tn
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.activation import relu
from tritonnet.ops.cat import cat, wide
from tritonnet.ops.upsample import interpolate

CASES = {
    "unet": ([(2, 16, 4, 4), (2, 16, 4, 4)], 1),
    "uneven": ([(2, 3, 4, 5), (2, 1, 4, 5), (2, 17, 4, 5)], 1),
    "one": ([(2, 3, 4, 5)], 1),
    "batch": ([(2, 3, 4, 5), (1, 3, 4, 5)], 0),
    "rows": ([(2, 3, 4, 5), (2, 3, 2, 5)], 2),
    "columns": ([(2, 3, 4, 5), (2, 3, 4, 1)], -1),
    "vectors": ([(3,), (4,)], 0),
    "matrices": ([(3, 2), (3, 5)], 1),
    "empty-batch": ([(0, 3, 4, 5), (0, 2, 4, 5)], 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_by_copy(case: tuple, pitch: bool, dtype: torch.dtype) -> None:
    shapes, dim = case
    xs = [randn(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    check_op(lambda *t: cat(t, dim), lambda *t: torch.cat(t, dim), xs, rtol=0, pitch=pitch)


def test_default_dim_is_the_first() -> None:
    assert cat([make(randn(2, 3)), make(randn(4, 3))]).shape == (6, 3)


def test_dtypes_widen() -> None:
    xs = [make(torch.ones(2, device=DEVICE, dtype=d), requires_grad=True) for d in (torch.bfloat16, torch.float32)]
    y = cat(xs)
    y.backward(y.detach())
    assert y.dtype == torch.float32
    assert [x.grad.dtype for x in xs] == [torch.bfloat16, torch.float32]


def test_neighbours_are_not_copied() -> None:
    buffer = wide(2, 4, 5, 8, torch.float32)
    buffer.copy_(randn(2, 4, 5, 8))
    a, b, c = (tn.Tensor(buffer[..., s]) for s in (slice(0, 3), slice(3, 5), slice(5, 8)))
    whole = cat((a, b, c), dim=1)
    assert whole.data.data_ptr() == buffer.data_ptr()
    assert torch.equal(whole.data, buffer)
    part = cat((b, c), dim=1)
    assert part.data.data_ptr() == b.data.data_ptr()
    assert torch.equal(part.data, buffer[..., 3:])


@pytest.mark.parametrize("order", [(1, 0), (0, 2), (0, 0)], ids=str)
def test_others_are_copied(order: tuple[int, int]) -> None:
    buffer = randn(2, 4, 5, 9)
    slices = [buffer[..., 0:3], buffer[..., 3:6], buffer[..., 6:9]]
    y = cat([tn.Tensor(slices[i]) for i in order], dim=1)
    assert y.data.data_ptr() != slices[order[0]].data_ptr()
    assert torch.equal(y.data, torch.cat([slices[i] for i in order], 3))


def test_slices_past_the_last_channel_are_not_neighbours() -> None:
    buffer = randn(1, 1, 4, 6)  # channels 3..5 of one pixel and 0..2 of the next lie side by side
    a, b = buffer[:, :, :3, 3:], buffer[:, :, 1:, :3]
    y = cat([tn.Tensor(a), tn.Tensor(b)], dim=1)
    assert torch.equal(y.data, torch.cat([a, b], 3))


class WriteFunction(tn.Function):
    """A producer of its own channels of a wider buffer."""

    @staticmethod
    def forward(ctx: tn.autograd.Context, x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(x)

    @staticmethod
    def backward(ctx: tn.autograd.Context, dy: torch.Tensor) -> torch.Tensor:
        return dy


def test_skip_by_layout_equals_skip_by_copy() -> None:
    x, dy = randn(2, 3, 4, 6), make(randn(2, 6, 4, 6, seed=9))
    results = []
    for by_layout in (False, True):
        t = make(x, requires_grad=True)
        buffer = wide(2, 4, 6, 6, torch.float32)
        skip = WriteFunction.apply(t, out=buffer[..., :3]) if by_layout else t
        small = interpolate(relu(t), size=(2, 3), mode="bilinear")
        up = interpolate(small, size=(4, 6), mode="bilinear", out=buffer[..., 3:] if by_layout else None)
        y = cat((skip, up), dim=1)
        assert (y.data.data_ptr() == buffer.data_ptr()) == by_layout
        y.backward(dy)
        results.append((y.torch(), t.grad.torch()))
    for copied, laid in zip(*results, strict=True):
        assert torch.equal(copied, laid)


def test_refuses() -> None:
    x = make(randn(2, 3, 4, 5))
    cases = {
        r"\[cat\] tensors must hold at least one tensor": lambda: cat([]),
        r"\[cat\] dim must be from -4 to 3, got 4": lambda: cat([x], 4),
        r"\[cat\] tensors must be of equal shape but for dim": lambda: cat([x, make(randn(2, 3, 4, 4))], 1),
        r"\[Cat\] input 1 must be a tritonnet Tensor, got torch.Tensor": lambda: cat([x, x.torch()], 1),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
