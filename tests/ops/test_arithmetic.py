"""add, sub, mul, neg: broadcasting, gradients, dtypes."""

import pytest
import torch
from helpers import DTYPES, check_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from opcheck import check_op, make, randn

import tritonnet as tn
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.arithmetic import add, mul, neg, sub

SHAPES = {
    "equal": ((2, 3, 4, 5), (2, 3, 4, 5)),
    "equal-64": ((2, 64, 3, 5), (2, 64, 3, 5)),
    "flat": ((1021,), (1021,)),
    "per-channel": ((2, 3, 4, 5), (3, 1, 1)),
    "per-channel-4d": ((2, 17, 4, 5), (1, 17, 1, 1)),
    "along-W": ((2, 3, 4, 5), (5,)),
    "rank-2": ((2, 3, 4, 5), (4, 5)),
    "rank-3": ((2, 3, 4, 5), (3, 4, 5)),
    "mask": ((2, 3, 4, 5), (2, 1, 4, 5)),
    "number-tensor": ((2, 3, 4, 5), ()),
    "both-ways": ((2, 1, 4, 1), (1, 3, 1, 5)),
    "alternating": ((2, 1, 4, 1), (2, 3, 4, 5)),
    "matrix-row": ((4, 5), (5,)),
    "matrix-column": ((4, 5), (4, 1)),
    "rank-5": ((2, 2, 2, 2, 3), (2, 2, 2, 2, 3)),
    "one-pixel": ((2, 7, 1, 1), (7, 1, 1)),
    "one-channel": ((2, 1, 4, 5), (1, 1, 5)),
    "empty": ((0, 3, 4, 5), (3, 1, 1)),
}
OPS = {
    "add": (add, torch.add),
    "add-alpha": (lambda a, b: add(a, b, alpha=0.5), lambda a, b: torch.add(a, b, alpha=0.5)),
    "sub": (sub, torch.sub),
    "mul": (mul, torch.mul),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shapes", "pitch"),
    [
        pytest.param(shapes, pitch, id=f"{name}-pitch" if pitch else name)
        for name, shapes in SHAPES.items()
        for pitch in (False, True)[: 1 + any(len(shape) == 4 for shape in shapes)]
    ],
)
@pytest.mark.parametrize("ops", OPS.values(), ids=OPS.keys())
def test_broadcast(ops: tuple, shapes: tuple, pitch: bool, dtype: torch.dtype) -> None:
    a, b = (randn(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes))
    check_op(*ops, (a, b), pitch=pitch)
    check_op(lambda x, y: ops[0](y, x), lambda x, y: ops[1](y, x), (a, b), pitch=pitch)


sizes = st.sampled_from([1, 2, 3, 5])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(sizes, min_size=1, max_size=4), st.data())
def test_any_shapes(shape: list[int], data: st.DataObject) -> None:
    pair = []
    for _ in range(2):
        drop = data.draw(st.integers(0, len(shape)))
        pair.append([size if data.draw(st.booleans()) else 1 for size in shape[drop:]])
    for op, reference in ((sub, torch.sub), (mul, torch.mul)):
        check_op(op, reference, [randn(*s, seed=i) for i, s in enumerate(pair)])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7,), ()])
def test_numbers(shape: tuple[int, ...]) -> None:
    x = randn(*shape)
    ops = (
        lambda t: t + 2,
        lambda t: 2.5 + t,
        lambda t: t - 1.5,
        lambda t: 1 - t,
        lambda t: t * 3,
        lambda t: 0.25 * t,
        lambda t: t / 4,
        lambda t: -t,
    )
    for op in ops:
        check_op(op, op, (x,))
    check_op(lambda t: add(t, 3, alpha=2), lambda t: torch.add(t, 3, alpha=2), (x,))
    check_op(neg, torch.neg, (x,), pitch=True)


def test_dtypes() -> None:
    a, low, half = (make(randn(3, dtype=d)) for d in (torch.float32, torch.bfloat16, torch.float16))
    for op in (add, mul):
        assert op(low, a).dtype == torch.float32
        assert op(low, half).dtype == torch.float32
        assert op(low, low).dtype == torch.bfloat16
        assert op(half, 2).dtype == torch.float16


def test_gradient_keeps_each_dtype() -> None:
    # integers of few bits: exact in bfloat16, so the interpreter's truncation does not show
    a = make(torch.arange(-3.0, 4.0).to(randn(1).device), requires_grad=True)
    b = make(a.torch().bfloat16() + 1, requires_grad=True)
    mul(a, b).backward(make(torch.ones_like(a.torch())))
    assert a.grad.dtype == torch.float32
    assert torch.equal(a.grad.torch(), b.torch().float())
    assert b.grad.dtype == torch.bfloat16
    assert torch.equal(b.grad.torch().float(), a.torch())


def test_same_tensor_twice() -> None:
    check_op(lambda t: mul(t, t), lambda t: t * t, (randn(2, 3, 4, 5),))
    check_gradients(lambda a, b: mul(add(a, b), sub(a, b)), [randn(2, 3, 4, 5), randn(3, 1, 1, seed=1)])


def test_integer_numbers_beyond_float32_range_of_exactness() -> None:
    assert add(make(randn(1) * 0), 2**24).item() == 2**24


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    n = 2**31 + 100
    x = tn.Tensor(torch.ones(n, dtype=torch.float16, device="cuda"))
    y = add(x, x)
    assert torch.equal(y.torch()[-200:], torch.full((200,), 2.0, dtype=torch.float16, device="cuda"))
    del y
    wide = tn.Tensor(x.torch()[: 2**31].view(1, 2**14, 2**14, 8)[..., :3])
    assert (add(wide, wide).data[:, -1] == 2).all()


def test_refuses() -> None:
    x, integers = make(randn(2, 3, 4, 5)), make(torch.zeros(3, dtype=torch.int32, device=randn(1).device))
    cases = {
        r"\[add\] shapes must broadcast, got \(2, 3, 4, 5\) and \(2, 1, 1\)": lambda: add(x, make(randn(2, 1, 1))),
        r"\[mul\] shapes must broadcast": lambda: mul(x, make(randn(3))),
        r"\[add\] input must be float32 or bfloat16 or float16, got int32": lambda: add(integers, 1),
        r"\[mul\] other must be float32 or bfloat16 or float16, got int32": lambda: mul(x, integers),
        r"\[mul\] other must be a tritonnet Tensor or a number, got <class 'str'>": lambda: mul(x, "2"),
        r"\[add\] other must be a tritonnet Tensor or a number, got <class 'torch.Tensor'>": lambda: add(x, randn(5)),
        r"at most 4 dimensions, got 5": lambda: add(make(randn(2, 2, 2, 2, 2)), make(randn(2))),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
