"""Which kernels a call runs on the GPU, for how long, and how near to the card's peak."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tritonnet.kernels import runtime
from tritonnet.measure.machine import Peak

__all__ = ["KernelTime", "kernel_times", "table"]


@dataclass(frozen=True)
class KernelTime:
    """One kernel's launches within the call, summed up.

    Attributes:
        name: the kernel's; also that of a copy.
        launches: how many.
        microseconds: on the device.
        flops: floating-point operations; 0 where bytes are what counts.
        bytes: of its buffers, each counted once a launch; None for what was not launched by us.
        floor_us: the sum over the launches of the larger bound; None where one is not known.
    """

    name: str
    launches: int
    microseconds: float
    flops: float = 0.0
    bytes: float | None = None
    floor_us: float | None = None


def kernel_times(
    call: Callable[[], object], peak: Peak | None = None, dtype: torch.dtype = torch.float32
) -> list[KernelTime]:
    """Run `call` under the profiler and list its device work, kernels and copies, longest first.

    Args:
        call: what to profile; run it once before, so that nothing is compiled here. What it replays from a CUDA graph
            has times, but neither bytes nor FLOPs.
        peak: of the card, for the bounds.
        dtype: of the operands that the FLOPs are done with.

    Returns:
        One entry a kernel name; empty on the interpreter.
    """
    if runtime.device().type != "cuda":
        call()
        return []
    work: dict[str, list[tuple[float, float]]] = {}
    torch.cuda.synchronize()
    with (
        profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded,
        runtime.observing(lambda name, flops, moved: work.setdefault(name, []).append((flops, moved))),
    ):
        call()
        torch.cuda.synchronize()
    found: dict[str, tuple[int, float]] = {}
    for event in recorded.events():
        if event.device_type == DeviceType.CUDA:
            launches, microseconds = found.get(event.name, (0, 0.0))
            found[event.name] = launches + 1, microseconds + event.device_time
    times = [_joined(name, *found[name], work.get(name), peak, dtype) for name in found]
    return sorted(times, key=lambda time: -time.microseconds)


def _joined(
    name: str, launches: int, us: float, work: list[tuple[float, float]] | None, peak: Peak | None, dtype: torch.dtype
) -> KernelTime:
    if work is None or len(work) != launches:
        return KernelTime(name, launches, us)
    floors = [peak.floor_ms(flops, moved, dtype) if peak else None for flops, moved in work]
    floor = None if None in floors else 1e3 * sum(f for f in floors if f is not None)
    return KernelTime(name, launches, us, sum(f for f, _ in work), sum(b for _, b in work), floor)


def table(times: Sequence[KernelTime]) -> str:
    """The times as text, a line a kernel: its share of the whole, its rates, and its bound as a share of its time."""
    total = sum(time.microseconds for time in times) or 1.0
    lines = [f"{'kernel':40}{'launches':>9}{'us':>10}{'share':>8}{'MB':>9}{'GB/s':>7}{'TFLOP/s':>9}{'of peak':>9}"]
    for t in times:
        us = t.microseconds or float("nan")
        cells = [
            f"{t.name[:39]:40}{t.launches:9}{t.microseconds:10.1f}{t.microseconds / total:8.1%}",
            "" if t.bytes is None else f"{t.bytes / 1e6:9.1f}{t.bytes / us / 1e3:7.0f}",
            f"{t.flops / us / 1e6:9.0f}" if t.flops else " " * 9,
            "" if t.floor_us is None else f"{t.floor_us / us:9.1%}",
        ]
        lines.append(f"{cells[0]}{cells[1]:16}{cells[2]}{cells[3]}".rstrip())
    floors = [t.floor_us for t in times if t.floor_us is not None]
    bound = f"; the bounds of those that have one add up to {sum(floors):.1f} us" if floors else ""
    return "\n".join([*lines, f"{'total':40}{sum(t.launches for t in times):9}{total:10.1f}{bound}"])
