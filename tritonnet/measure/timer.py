"""The one timer of every benchmark.

On a GPU a call is timed between two CUDA events, after the L2 cache was overwritten, so that it reads from memory as it
would in a network; filling the cache also keeps the queue busy while Python launches the call. On the interpreter a
call is timed by the clock, which says nothing about a GPU. The median comes with its spread, since clocks vary.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tritonnet.kernels import runtime
from tritonnet.kernels.fill import fill

__all__ = ["Timing", "measure"]


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: the median, and the quartiles around it."""

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        return (self.high_ms - self.low_ms) / self.median_ms if self.median_ms else 0.0


def measure(
    call: Callable[[], object], *, repeats: int = 20, warmup: int = 3, flush: bool = True, graph: bool = False
) -> Timing:
    """Time `call`, whose work goes to the current stream.

    Args:
        call: what to time; it is run `warmup + repeats` times (and twice more with `graph`).
        repeats: timed calls, at least 2.
        warmup: untimed calls before, at least 1 (the first one compiles).
        flush: overwrite the L2 cache before each call.
        graph: record the call in a CUDA graph and time its replay, which leaves out the cost of launching. Nothing in
            the call may wait for the device. Ignored on the interpreter.
    """
    if repeats < 2 or warmup < 1:
        runtime.refuse("measure", f"repeats must be at least 2 and warmup at least 1, got {repeats} and {warmup}")
    for _ in range(warmup):
        call()
    times = (
        _on_gpu(call, repeats, flush, graph)
        if torch.cuda.is_available() and not runtime.INTERPRET
        else _by_clock(call, repeats)
    )
    low, median, high = statistics.quantiles(times, n=4)
    return Timing(median, low, high, repeats)


def _by_clock(call: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _on_gpu(call: Callable[[], object], repeats: int, flush: bool, graph: bool) -> list[float]:
    if graph:
        recorded = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(recorded):
            call()
        call = recorded.replay
        call()
    cache = torch.cuda.get_device_properties(runtime.device()).L2_cache_size
    junk = runtime.empty((2 * cache // 4,), torch.float32)
    starts, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(repeats)] for _ in range(2))  # type: ignore[no-untyped-call]
    for start, end in zip(starts, ends, strict=True):
        if flush:
            fill(junk, 0)
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]
