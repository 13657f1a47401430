"""What was measured on: the card, its clock, the versions, and how fast the card can be at best."""

import ctypes
import datetime
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

from tritonnet.kernels import runtime
from tritonnet.measure.timer import measure

__all__ = ["Peak", "environment", "peak", "plain_copy", "sm_clock"]


@dataclass(frozen=True)
class Peak:
    """The best a card does: operations a second with 16-bit operands (None: unknown), bytes a second, and who says so."""

    flops: float | None
    bytes: float
    source: str

    def floor_ms(self, flops: float, bytes: float, dtype: torch.dtype) -> float | None:
        """The larger of the two bounds for that much work, in ms; None where the card's bound is not known."""
        if flops and (self.flops is None or dtype not in (torch.bfloat16, torch.float16)):
            return None
        return max(flops / self.flops if self.flops else 0.0, bytes / self.bytes) * 1e3


PEAKS = {
    "NVIDIA H200": Peak(
        790e12,
        4.3e12,
        "measured on one H200 with torch 2.11: a bfloat16 matrix product of random numbers, and a plain copy",
    )
}


@cache
def peak() -> Peak:
    """The peak of this process's GPU: from the table, else its bandwidth as a copy of 1 GiB shows it now."""
    name = torch.cuda.get_device_name(runtime.device())
    if name in PEAKS:
        return PEAKS[name]
    n = 2**30
    return Peak(
        None, 2 * n / measure(plain_copy(2 * n), flush=False).median_ms * 1e3, "a copy of 1 GiB, measured just now"
    )


def plain_copy(moved: float) -> Callable[[], object]:
    """A copy from device memory to device memory that moves so many bytes, half of them read and half written."""
    source, target = (runtime.empty((max(int(moved) // 2, 1),), torch.uint8) for _ in range(2))
    return lambda: target.copy_(source)


@cache
def _nvml() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """The driver's management library and its handle of this process's GPU; None where there is none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, uuid = ctypes.c_void_p(), f"GPU-{torch.cuda.get_device_properties(runtime.device()).uuid}"
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None
    return library, handle


def sm_clock(call: Callable[[], object]) -> int | None:
    """The multiprocessors' clock in MHz while `call` runs again and again; None where the driver does not say."""
    nvml = _nvml() if runtime.device().type == "cuda" else None
    if nvml is None:
        return None
    library, handle = nvml
    for _ in range(20):
        call()
    clock = ctypes.c_uint()
    failed = library.nvmlDeviceGetClockInfo(handle, 1, ctypes.byref(clock))  # 1: NVML_CLOCK_SM
    torch.cuda.synchronize()
    return None if failed else clock.value


@cache
def commit() -> str | None:
    """The commit of the files that run: $COMMIT, else git's answer; None where there is neither."""
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    asked = ("git", "describe", "--always", "--exclude=*", "--dirty= and uncommitted work")
    try:
        told = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def environment() -> dict[str, Any]:
    """What every row of results carries: GPU, versions, date, commit."""
    gpu = runtime.device().type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(runtime.device()) if gpu else None, "torch": str(torch.__version__),
        "triton": triton.__version__, "cudnn": torch.backends.cudnn.version() if gpu else None,  # type: ignore[no-untyped-call]
        "date": datetime.date.today().isoformat(), "commit": commit(),
    }  # fmt: skip
