"""The benchmark timer."""

import pytest

from tritonnet.kernels import runtime
from tritonnet.measure import Timing, measure


def test_times_every_repeat() -> None:
    calls = []
    timing = measure(lambda: calls.append(1), repeats=5, warmup=2)
    assert len(calls) == 7
    assert timing.repeats == 5
    assert 0 <= timing.low_ms <= timing.median_ms <= timing.high_ms


@pytest.mark.gpu
def test_replays_a_graph() -> None:
    import torch

    from tritonnet.kernels.fill import fill

    buffer = runtime.empty((1 << 26,), torch.float32)  # 256 MiB: above 20 us on any GPU
    timing = measure(lambda: fill(buffer, 3), repeats=5, graph=True)
    assert timing.median_ms > 0.02
    assert float(buffer[5]) == 3


def test_spread_is_a_share_of_the_median() -> None:
    assert Timing(2.0, 1.5, 2.5, 9).spread == 0.5


@pytest.mark.parametrize(("repeats", "warmup"), [(1, 1), (2, 0)])
def test_refuses(repeats: int, warmup: int) -> None:
    with pytest.raises(runtime.Refused, match="repeats must be at least 2"):
        measure(lambda: None, repeats=repeats, warmup=warmup)
