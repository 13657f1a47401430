"""How long the device stood still because a batch was not there yet."""

import time
from typing import Any

import torch

from tritonnet.kernels import runtime


class Waiting:
    """Adds up the time from the end of a step, on the device, to the start of the next; itself it waits for nothing."""

    def __init__(self) -> None:
        self.idle = self.whole = 0.0  # seconds
        self.gaps: list[tuple[Any, Any]] = []
        self.last: Any = None

    def ready(self) -> None:
        """The device has got all its work so far: from its end on it waits."""
        self.last = _now()

    def go_on(self) -> None:
        """Here it gets more."""
        self.gaps.append((self.last, _now()))

    def add(self, seconds: float) -> None:
        """The device is done with all of it, which took so long."""
        self.idle += sum(_seconds(*gap) for gap in self.gaps)
        self.whole += seconds
        self.gaps.clear()

    def share(self) -> float:
        """Of the time, from 0 to 1."""
        return self.idle / self.whole if self.whole else 0.0


def _now() -> Any:
    if runtime.device().type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(end, float) else float(start.elapsed_time(end)) / 1e3
