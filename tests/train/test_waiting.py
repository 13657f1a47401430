"""The time between two steps counts, that within them does not."""

import pytest
import torch
from helpers import GPU

from tritonnet.train import waiting
from tritonnet.train.waiting import Waiting


def test_gaps_between_steps_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 3.0, 10.0, 11.0, 20.0, 100.0, 100.5, 109.0])
    monkeypatch.setattr(waiting, "_now", lambda: next(times))
    clock = Waiting()
    assert clock.share() == 0
    clock.ready()
    for _ in range(2):  # 3 and 1 seconds
        clock.go_on()
        clock.ready()
    clock.add(20.0)
    clock.ready()
    clock.go_on()  # half a second
    clock.ready()
    clock.add(10.0)
    assert clock.share() == pytest.approx(4.5 / 30)


def test_the_device_says_how_long_it_stood_still() -> None:
    clock = Waiting()
    clock.ready()
    clock.go_on()
    if GPU:
        torch.cuda.synchronize()
    clock.add(1000.0)
    assert 0 <= clock.share() < 0.1
