"""Random numbers by counter."""

import math

import pytest
import torch
from helpers import DEVICE, DTYPES, to64

import tritonnet as tn
from tritonnet.kernels import random as kernels
from tritonnet.kernels import runtime
from tritonnet.kernels.runtime import Refused
from tritonnet.ops.random import get_state, manual_seed, normal_, rand, randn, set_state, uniform_


def buffer(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return runtime.empty((n,), dtype)


def at(seed: int, offset: int) -> torch.Tensor:
    """The state on the device."""
    return torch.tensor([seed, offset], device=DEVICE)


# from the known answers of the Random123 library: philox4x32 10, counter and key all zero, and all ones
def test_known_answers() -> None:
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    y = kernels.uniform(buffer(4), at(0, 0), 0.0, 1.0)
    assert [round(float(v) * 2**24) for v in y] == [word >> 8 for word in words]


def philox(seed: int, counter: int) -> list[int]:
    """The definition, in Python's integers."""
    mask = 0xFFFFFFFF
    c, k = [counter & mask, counter >> 32, 0, 0], [seed & mask, seed >> 32]
    for _ in range(10):
        high, low = divmod(0xD2511F53 * c[0], 1 << 32)
        other_high, other_low = divmod(0xCD9E8D57 * c[2], 1 << 32)
        c = [other_high ^ c[1] ^ k[0], other_low, high ^ c[3] ^ k[1], low]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 + 7, 2**63 - 1])
@pytest.mark.parametrize("offset", [0, 1, 2**32 - 2, 2**40])
def test_definition(seed: int, offset: int) -> None:
    words = [word for i in range(4) for word in philox(seed, offset + i)]
    y = kernels.uniform(buffer(15), at(seed, offset), 0.0, 1.0)
    assert [round(float(v) * 2**24) for v in y] == [word >> 8 for word in words[:15]]
    z = kernels.normal(buffer(16), at(seed, offset), 0.0, 1.0)
    expected = []
    for a, b in zip(words[::2], words[1::2], strict=True):
        radius, angle = math.sqrt(-2 * math.log(((a >> 8) + 1) / 2**24)), 2 * math.pi * ((b >> 8) / 2**24 - 0.5)
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    assert torch.allclose(to64(z), torch.tensor(expected, dtype=torch.float64), atol=1e-5)


def test_position_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kernels.uniform(buffer(5000), at(7, 0), -1.0, 1.0)
    assert torch.equal(kernels.uniform(buffer(1001), at(7, 0), -1.0, 1.0), whole[:1001])
    assert torch.equal(kernels.uniform(buffer(4000), at(7, 250), -1.0, 1.0), whole[1000:])
    launch = kernels.launch

    def small_tiles(kernel: object, grid: tuple[int], *args: object, BLOCK: int, **options: object) -> None:
        launch(kernel, (runtime.cdiv(1250, 64),), *args, BLOCK=64, **options)

    monkeypatch.setattr(kernels, "launch", small_tiles)
    assert torch.equal(kernels.uniform(buffer(5000), at(7, 0), -1.0, 1.0), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(dtype: torch.dtype) -> None:
    n = 40000
    u = to64(kernels.uniform(buffer(n, dtype), at(3, 0), 2.0, 5.0))
    assert u.min() >= 2
    assert u.max() <= 5
    # four standard errors of mean (3 / sqrt(12 n)) and variance
    assert abs(u.mean() - 3.5) < 4 * 3 / math.sqrt(12 * n) + 1e-3
    assert abs(u.var() - 0.75) < 0.02
    z = (to64(kernels.normal(buffer(n, dtype), at(3, 0), 1.0, 2.0)) - 1) / 2
    moments = [float((z**k).mean()) for k in range(1, 5)]
    # four standard errors of the first four moments of a normal: variances 1, 2, 15, 96 over n
    for moment, expected, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(moment - expected) < 4 * math.sqrt(variance / n) + 2e-3
    pairs = z.view(-1, 4).T.corrcoef() - torch.eye(4)
    assert pairs.abs().max() < 4 / math.sqrt(n / 4)


def test_seed_and_state() -> None:
    manual_seed(5)
    first = randn(3, 5, 2, 7).numpy()
    state = get_state()
    second = rand(100).numpy()
    assert state == (5, 53)  # 210 elements, four a counter
    set_state(state)
    assert (rand(100).numpy() == second).all()
    tn.manual_seed(5)
    assert (randn(3, 5, 2, 7).numpy() == first).all()
    manual_seed(6)
    assert not (randn(3, 5, 2, 7).numpy() == first).any()


def test_shapes() -> None:
    assert rand(2, 3, 4, 5).shape == (2, 3, 4, 5)
    assert rand((2, 3)).shape == (2, 3)
    assert rand().shape == ()
    assert rand(0, 3).numel() == 0
    assert rand(3, requires_grad=True).requires_grad
    assert rand(3, dtype=torch.float16).dtype == torch.float16


def test_in_place() -> None:
    p = tn.Parameter(torch.zeros(4, 3, device=DEVICE))
    data, version = p.data, p.version
    assert uniform_(p, -1, 1) is p
    assert p.data is data
    assert p.version == version + 1
    assert (data != 0).all()
    t = tn.tensor([0.0, 0.0])
    assert normal_(t, 100, 1) is t
    assert (abs(t.numpy() - 100) < 8).all()


def test_refuses() -> None:
    cases = {
        "seed must be an integer from 0": lambda: manual_seed(-1),
        "seed must be an integer from 0 to": lambda: manual_seed(1.5),
        "position must be an integer": lambda: set_state((1, -2)),
        "sizes must be integers from 0 up": lambda: rand(2, -1),
        "y must be float32 or bfloat16 or float16, got int64": lambda: uniform_(tn.tensor([1, 2])),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
