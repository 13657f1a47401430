"""The one timer of every benchmark.

On a GPU a call is timed between two CUDA events. Before each call more memory than the L2 cache holds is read, so that the call
finds its inputs in memory as it would in a network (and no lines that would first have to be written back); that also
keeps the queue busy while Python launches the call. Calls to be compared take turns, since the clocks of a card wander.
On the interpreter a call is timed by the clock, which says nothing about a GPU.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from tritonnet.kernels import runtime
from tritonnet.kernels.sum import sum_fwd

__all__ = ["Timing", "compare", "measure"]

Call = Callable[[], object]


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


def compare(
    calls: Sequence[Call],
    *,
    rounds: int = 5,
    repeats: int = 4,
    warmup: int = 3,
    flush: bool = True,
    graph: bool = False,
) -> list[Timing]:
    """Time `calls`, whose work goes to the current stream, in turns: each round times each of them `repeats` times.

    Args:
        calls: what to time; each is run `warmup + rounds * repeats` times (and twice more with `graph`).
        rounds: turns each call gets, at least 1.
        repeats: timed calls a turn; at least 2 over all rounds.
        warmup: untimed calls before, at least 1 (the first one compiles).
        flush: clear the L2 cache before each call.
        graph: record each call in a CUDA graph and time its replay, which leaves out the cost of launching. Nothing in
            a call may wait for the device. Ignored on the interpreter.

    Returns:
        One Timing a call, over all its rounds.
    """
    if rounds * repeats < 2 or warmup < 1:
        got = f"{rounds * repeats} and {warmup}"
        runtime.refuse("measure", f"repeats must be at least 2 and warmup at least 1, got {got}")
    for call in calls:
        for _ in range(warmup):
            call()
    gpu = runtime.device().type == "cuda"
    if gpu and graph:
        calls = [_Recorded(call) for call in calls]
    clear = _clearing() if gpu and flush else None
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, times, strict=True):
            own += _on_gpu(call, repeats, clear) if gpu else _by_clock(call, repeats)
    quartiles = (statistics.quantiles(own, n=4) for own in times)
    return [Timing(median, low, high, rounds * repeats) for low, median, high in quartiles]


def measure(call: Call, *, repeats: int = 20, warmup: int = 3, flush: bool = True, graph: bool = False) -> Timing:
    """Time one call; see `compare`."""
    return compare([call], rounds=1, repeats=repeats, warmup=warmup, flush=flush, graph=graph)[0]


def _by_clock(call: Call, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


class _Recorded:
    """A call as a CUDA graph. It keeps the call, and so the buffers that the graph goes on reading."""

    def __init__(self, call: Call) -> None:
        self.call, self.graph = call, torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            call()
        self.graph.replay()

    def __call__(self) -> None:
        self.graph.replay()


@cache
def _clearing() -> Call:
    """Reads four times the L2 cache; a graph itself, so that Python stays ahead of the device."""
    size = torch.cuda.get_device_properties(runtime.device()).L2_cache_size
    junk = runtime.zeros((size,), torch.float32)
    sum_fwd(junk, (0,))
    return _Recorded(lambda: sum_fwd(junk, (0,)))


def _on_gpu(call: Call, repeats: int, clear: Call | None) -> list[float]:
    starts, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(repeats)] for _ in range(2))  # type: ignore[no-untyped-call]
    for start, end in zip(starts, ends, strict=True):
        if clear:
            clear()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]
