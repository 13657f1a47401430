"""Which kernels a call runs on the GPU, and for how long."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

__all__ = ["KernelTime", "kernel_times", "table"]


@dataclass(frozen=True)
class KernelTime:
    """One kernel's launches within the call: how many, and their summed microseconds on the device."""

    name: str
    launches: int
    microseconds: float


def kernel_times(call: Callable[[], object]) -> list[KernelTime]:
    """Run `call` under the profiler and list its device work, kernels and copies, longest first.

    Args:
        call: what to profile; run it once before, so that nothing is compiled here.

    Returns:
        One entry a kernel name; empty on the interpreter.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded:
        call()
        torch.cuda.synchronize()
    found: dict[str, tuple[int, float]] = {}
    for event in recorded.events():
        if event.device_type == DeviceType.CUDA:
            launches, microseconds = found.get(event.name, (0, 0.0))
            found[event.name] = launches + 1, microseconds + event.device_time
    times = [KernelTime(name, launches, microseconds) for name, (launches, microseconds) in found.items()]
    return sorted(times, key=lambda time: -time.microseconds)


def table(times: list[KernelTime]) -> str:
    """The times as text, a line a kernel, with its share of the whole."""
    total = sum(time.microseconds for time in times) or 1.0
    lines = [f"{'kernel':44}{'launches':>9}{'us':>11}{'share':>8}"]
    lines += [f"{t.name[:43]:44}{t.launches:9}{t.microseconds:11.1f}{t.microseconds / total:8.1%}" for t in times]
    return "\n".join([*lines, f"{'total':44}{sum(t.launches for t in times):9}{total:11.1f}"])
