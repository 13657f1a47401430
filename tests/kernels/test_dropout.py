"""Dropout: the mask is the numbers of `uniform`, the same in the backward, a new one each call, and torch's rules at the ends."""

import math
from typing import Any

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, assert_close, gap_untouched, pitched, randn, to64

import tritonnet as tn
from tritonnet import nn
from tritonnet.kernels import runtime
from tritonnet.kernels.dropout import dropout
from tritonnet.kernels.random import uniform
from tritonnet.kernels.runtime import Refused
from tritonnet.nn import functional as F
from tritonnet.ops.random import get_state, set_state

# name: (shape of the buffer, probability)
CASES = {
    "image": ((2, 5, 3, 6), 0.5),
    "one-channel": ((2, 3, 3, 1), 0.1),
    "matrix": ((7, 9), 0.9),
    "one": ((1,), 0.3),
    "scalar": ((), 0.3),
    "past-a-block": ((5, 13111), 0.2),
    "empty": ((0, 3, 3, 4), 0.5),
    "all": ((3, 5), 1.0),
}


def state(seed: int, offset: int = 0) -> torch.Tensor:
    return torch.tensor([seed, offset], device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_formula(name: str, dtype: torch.dtype) -> None:
    shape, p = CASES[name]
    x = randn(max(1, math.prod(shape)), dtype=dtype)[: math.prod(shape)].view(shape)
    u = to64(uniform(torch.empty(shape, device=DEVICE), state(2**40 + 3, 2**33), 0.0, 1.0))
    keep = (u >= torch.tensor(p).double()) / (1 - p) if p < 1 else torch.zeros_like(u)
    # one division rounded in float32, one product, one store
    assert_close(dropout(x, state(2**40 + 3, 2**33), p), to64(x) * keep, EPS[dtype] + 2**-23)


def test_a_pitch_changes_no_mask() -> None:
    x = randn(2, 5, 3, 7)
    view = pitched(x)
    assert torch.equal(dropout(view, state(4), 0.5), dropout(x, state(4), 0.5))
    assert gap_untouched(view)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scale(p: float) -> None:
    n = 200_000
    kept = to64(dropout(torch.ones(n, device=DEVICE), state(7), p))
    deviation = math.sqrt(p * (1 - p) / n)
    assert abs(float((kept != 0).double().mean()) - (1 - p)) < 5 * deviation
    assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / (1 - p)), 2**-23)
    # neighbours know nothing of each other: within a counter's four, and from one counter to the next
    for lag in (1, 2, 3, 4):
        both = float(((kept[lag:] != 0) & (kept[:-lag] != 0)).double().mean())
        assert abs(both - (1 - p) ** 2) < 5 * 2 * deviation


def test_backward_drops_what_the_forward_dropped() -> None:
    x = tn.from_torch(randn(2, 3, 5, 6), requires_grad=True)
    tn.manual_seed(3)
    first = F.dropout(x, 0.4)
    second = F.dropout(x, 0.4)  # draws between a forward and its backward change nothing
    tn.rand(10)
    dy = randn(2, 3, 5, 6, seed=1)
    for y in (first, second):
        x.grad = None
        y.backward(tn.from_torch(dy))
        mask = to64(y.torch()) / to64(x.torch().detach())
        assert_close(x.grad.torch(), to64(dy) * mask, 1e-6)
    assert not torch.equal(first.data == 0, second.data == 0)
    tn.manual_seed(3)
    assert torch.equal(F.dropout(x, 0.4).data, first.data)


def test_launches_that_are_replayed_draw_a_new_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph does: the same kernels, addresses and constants again."""
    recorded: list[tuple[Any, Any]] = []

    def launch(*args: Any, **constants: Any) -> None:
        recorded.append((args, constants))
        runtime.launch(*args, **constants)

    for module in ("random", "dropout"):
        monkeypatch.setattr(f"tritonnet.kernels.{module}.launch", launch)
    tn.manual_seed(3)
    ones = torch.ones(4, 50, device=DEVICE)
    x = tn.Tensor(ones, requires_grad=True)
    y = F.dropout(x, 0.5)
    y.backward(tn.Tensor(ones))
    seen = []
    for replay in range(3):
        if replay:
            for args, constants in recorded:
                runtime.launch(*args, **constants)
        assert torch.equal(x.grad.data, y.data)
        assert get_state() == (3, 50 * (replay + 1))
        seen.append(y.data.clone())
    tn.manual_seed(3)
    eager = [F.dropout(tn.Tensor(ones), 0.5).data for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(seen, eager, strict=True))
    assert not torch.equal(seen[0], seen[1])


def test_uses_up_the_processs_numbers() -> None:
    x = tn.from_torch(randn(3, 5))
    tn.manual_seed(9)
    F.dropout(x, 0.5)
    assert get_state() == (9, 4)  # 15 elements, four a counter
    expected = tn.rand(8).numpy()
    set_state((9, 4))
    assert (tn.rand(8).numpy() == expected).all()


def test_the_ends_are_torchs() -> None:
    x = tn.from_torch(randn(3, 4), requires_grad=True)
    layer = nn.Dropout(0.5)
    assert repr(layer) == repr(torch.nn.Dropout(0.5))
    before = get_state()
    assert layer.eval()(x) is x
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert get_state() == before
    assert layer.train()(x) is not x
    gone = F.dropout(x, 1.0)
    gone.backward(tn.from_torch(randn(3, 4)))
    assert not gone.data.any()
    assert not x.grad.data.any()
    bad = torch.tensor([float("nan"), float("inf")] * 50, device=DEVICE)
    y = dropout(bad, state(1), 0.5)
    assert bool(y[::2].isnan().all())
    assert 0 < int(y[1::2].isnan().sum()) < 50  # infinity times 0, as in torch


def test_refuses() -> None:
    x = tn.from_torch(randn(3))
    cases = {
        r"\[dropout\] p must be from 0 to 1, got 1.5": lambda: F.dropout(x, 1.5),
        r"\[Dropout\] p must be from 0 to 1, got nan": lambda: nn.Dropout(float("nan")),
        r"\[dropout\] inplace must be False, got True": lambda: F.dropout(x, inplace=True),
        r"\[Dropout\] inplace must be False, got True": lambda: nn.Dropout(inplace=True),
        "x must be float32 or bfloat16 or float16, got int64": lambda: F.dropout(tn.tensor([1, 2])),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
