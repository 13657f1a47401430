"""What every launcher shares: the device, buffers with a pitch, checks, and the one call that starts a kernel.

An image buffer is a torch tensor of shape (N, H, W, C) over memory (N, H, W, pitch): contiguous, or a slice of channels of a
wider buffer. `pitch` is the number of elements from pixel to pixel, C or more; no other stride exists. Buffers of another
rank are row-major and contiguous.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.target_info import cuda_capability_geq

__all__ = [
    "INTERPRET", "Refused", "arch", "begin", "beside", "cdiv", "check_buffer", "check_dtype", "device", "empty", "flat", "image",
    "image_of", "join", "launch", "logical", "multiprocessors", "next_power_of_2", "observing", "only", "pitch", "recording",
    "refuse", "settle", "zeros",
]  # fmt: skip

notice = ""  # printed once, before the first launch
INTERPRET: bool = os.environ.get("TRITON_INTERPRET") == "1"


class Refused(ValueError):
    """What was asked for cannot be right, or is not there yet. The message names the op, the argument and the value."""


def refuse(op: str, message: str) -> NoReturn:
    """Raise `Refused`: `[op] message`. The message says what must hold and what came."""
    raise Refused(f"[{op}] {message}")


def only(op: str, hint: str = "nothing else is supported yet", **arguments: tuple[Any, Any]) -> None:
    """Refuse each argument `name=(value, supported)` whose value is not the supported one, naming it."""
    for name, (value, supported) in arguments.items():
        if value != supported:
            refuse(op, f"{name} must be {supported!r}, got {value!r}; {hint}")


def cdiv(a: int, b: int) -> int:
    """The quotient a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n`, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


# --- device ---------------------------------------------------------------------------------------------------------

_recorder: Callable[..., None] | None = None  # set while launches are recorded instead of run (see `recording`)
_recorded_arch: str | None = None
_observer: Callable[[str, float, float], None] | None = None  # told of each launch (see `observing`)
_properties: dict[str, Any] = {}

if (
    INTERPRET
):  # leaving out the checks for overflow of int32 saves a third of the time; a test that wants them sets them
    from triton.runtime.interpreter import InterpreterOptions, interpreter_builder

    interpreter_builder.options = InterpreterOptions(sanitize_overflow=False)
    # numpy's remarks on NaN and infinity from inside a kernel, which a GPU does not make; `fault` says what is wrong
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"triton\.runtime\.interpreter")

_CUDA = not INTERPRET and torch.cuda.is_available()  # asked once: every launcher asks for the device
_DEVICES = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if _CUDA else []
_CPU, _META = torch.device("cpu"), torch.device("meta")


def device() -> torch.device:
    """The one device of this process: the current CUDA device, else the CPU through the interpreter."""
    if _recorder is not None:
        return _META
    return _DEVICES[torch.cuda.current_device()] if _CUDA else _CPU


def arch() -> str:
    """Which tile table applies: "sm_90", "gfx942", or "interpreter"."""
    if _recorded_arch is not None:
        return _recorded_arch
    if not _CUDA:
        return "interpreter"
    if "arch" not in _properties:
        if torch.version.hip:
            _properties["arch"] = torch.cuda.get_device_properties(device()).gcnArchName.split(":")[0]
        else:
            major, minor = torch.cuda.get_device_capability(device())
            _properties["arch"] = f"sm_{major}{minor}"
    return str(_properties["arch"])


def multiprocessors() -> int:
    """Number of streaming multiprocessors of the device; 132 while recording, 1 on the interpreter."""
    if _recorder is not None:
        return 132
    if not _CUDA:
        return 1
    if "multiprocessors" not in _properties:
        _properties["multiprocessors"] = torch.cuda.get_device_properties(device()).multi_processor_count
    return int(_properties["multiprocessors"])


# --- buffers --------------------------------------------------------------------------------------------------------


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A fresh contiguous buffer on this process's device. Tests replace this to poison what a kernel must write."""
    return torch.empty(shape, dtype=dtype, device=device())


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A buffer of zeros, written by our own fill kernel."""
    from tritonnet.kernels.fill import fill  # fill launches through this module

    return fill(empty(shape, dtype), 0)


def pitch(x: torch.Tensor) -> int:
    """Elements from pixel to pixel of an (N, H, W, C) buffer."""
    return int(x.stride(2))


def logical(x: torch.Tensor) -> tuple[int, ...]:
    """The shape in torch's order, as messages show it: an (N, H, W, C) buffer counts as (N, C, H, W)."""
    return tuple(x.shape[d] for d in (0, 3, 1, 2)) if x.dim() == 4 else tuple(x.shape)


def image(op: str, name: str, x: torch.Tensor) -> tuple[int, int, int, int]:
    """Check that `x` is an (N, H, W, C) buffer with a pitch on this device, and return its sizes.

    Raises:
        Refused: another rank, another device, another stride, no channel, or N*H*W above 2**31 - 2**17.
    """
    if x.dim() != 4:
        refuse(op, f"{name} must have 4 dimensions (N, C, H, W), got {x.dim()}")
    if x.device != device():
        refuse(op, f"{name} must be on {device()}, got {x.device}")
    n, h, w, c = x.shape
    if c < 1:
        refuse(op, f"{name} must have at least 1 channel, got {c}")
    if n * h * w > 2**31 - 2**17:  # kernels step past the end by up to a block or two, in int32
        refuse(op, f"{name} must have at most 2**31 - 2**17 pixels (N*H*W), got {n * h * w}")
    step = x.stride(2)
    if x.numel() and (x.stride(3) != 1 or step < c or x.stride(1) != w * step or x.stride(0) != h * w * step):
        refuse(op, f"{name} must be channels-last with one pitch, got strides {tuple(x.stride())} for {tuple(x.shape)}")
    return n, h, w, c


def image_of(
    op: str, name: str, x: torch.Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]
) -> torch.Tensor:
    """Check that `x` is an image buffer of that (N, H, W, C) shape and one of these dtypes, and return it."""
    check_dtype(op, name, x, dtypes)
    if image(op, name, x) != shape:
        refuse(op, f"{name} must have buffer shape {shape}, got {tuple(x.shape)}")
    return x


def flat(op: str, name: str, x: torch.Tensor) -> int:
    """Check that `x` is contiguous and on this device, and return its number of elements."""
    if x.device != device():
        refuse(op, f"{name} must be on {device()}, got {x.device}")
    if not x.is_contiguous():
        refuse(op, f"{name} must be contiguous, got strides {tuple(x.stride())}")
    return x.numel()


def check_dtype(op: str, name: str, x: torch.Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    """Raise `Refused` unless `x` has one of the allowed dtypes."""
    if x.dtype not in allowed:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        refuse(op, f"{name} must be {wanted}, got {str(x.dtype).removeprefix('torch.')}")


def check_buffer(
    op: str, name: str, x: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], what: str = ""
) -> None:
    """Raise `Refused` unless `x` is contiguous, on this device, of that dtype and of that shape, which `what` explains."""
    check_dtype(op, name, x, (dtype,))
    flat(op, name, x)
    if tuple(x.shape) != shape:
        refuse(op, f"{name} must have shape {shape}{what}, got {tuple(x.shape)}")


# --- launches -------------------------------------------------------------------------------------------------------

_COMPILED = tl.constexpr(not INTERPRET)


@triton.jit
def begin(BRIEF: tl.constexpr = False):
    """A kernel's first statement: wait for the launch before.

    With it a kernel is made ready while the one before still runs (programmatic dependent launch; PTX, griddepcontrol;
    Hopper and later); without it, after that has ended. The programs of what follows a BRIEF one of few programs take their
    places at once; behind others they would keep those from the launches `beside` them.
    """
    if _COMPILED:
        if cuda_capability_geq(9):
            gdc_wait()
            if BRIEF:
                gdc_launch_dependents()


@functools.cache
def _early(kernel: Any) -> dict[str, bool]:
    """The compiler's option for a kernel that says `begin`, where the device knows it."""
    hopper = arch().startswith("sm_") and int(arch()[3:]) >= 90
    return {"launch_pdl": True} if hopper and "begin(" in kernel.src else {}


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, num_stages: int = 3, flops: float = 0,
    moved: float | None = None, **constants: Any,
) -> None:  # fmt: skip
    """Start `kernel` over `grid`; an empty grid is no launch.

    Args:
        kernel, grid, args: what to run, how often, on what.
        num_warps, num_stages: for the compiler.
        flops: floating-point operations, for a profile (see `observing`); 0 where bytes are what counts.
        moved: bytes read and written, for a profile; None: each buffer among `args` once.
        constants: constexpr arguments, by name.
    """
    global notice
    if 0 in grid:
        return
    if _observer is not None:
        buffers = (getattr(a, "base", a) for a in args)  # a tensor map has one
        sizes = (b.numel() * b.element_size() for b in buffers if isinstance(b, torch.Tensor))
        _observer(kernel.fn.__name__, flops, sum(sizes) if moved is None else moved)
    if _recorder is not None:
        _recorder(kernel, args, constants, num_warps, num_stages)
        return
    if notice:
        print(notice, file=sys.stderr)
        notice = ""
    kernel[grid](
        *args, num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True, **_early(kernel), **constants
    )


_side: list[Any] = []  # the second stream, once there is one
_beside: list[torch.Tensor] = []  # what launches on it read and write


@contextmanager
def beside(*buffers: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Within this context launch on a second stream, beside what this one goes on with, until `join`.

    For work that fills no GPU and whose result nothing waits for, as a weight gradient of few images; of much data it runs
    on the one stream. The context's value takes the results: `settle` knows them by it.

    Args:
        buffers: what the launches read; kept, since the allocator orders memory by the first stream alone.
    """
    # a profile counts each kernel's own time
    if not _CUDA or _recorder or _observer or sum(b.numel() for b in buffers) > 2**24:
        yield []
        return
    if not _side:
        _side.append(torch.cuda.Stream())
    _side[0].wait_stream(torch.cuda.current_stream())
    _beside.extend(buffers)
    with torch.cuda.stream(_side[0]):
        yield _beside


def join() -> None:
    """Let the stream wait for what was launched `beside` it."""
    if _beside:
        torch.cuda.current_stream().wait_stream(_side[0])
        _beside.clear()


def settle(buffer: torch.Tensor) -> None:
    """The same, if `buffer` was written there."""
    if any(b is buffer for b in _beside):
        join()


class recording:
    """Within this context launchers take and return `meta` buffers and `record` gets each launch instead of the device.

    This is how the compile-only tests collect what every launcher would run on `arch`, without a GPU.
    """

    def __init__(self, arch: str, record: Callable[..., None]) -> None:
        self.arch, self.record = arch, record

    def __enter__(self) -> None:
        global _recorder, _recorded_arch
        _recorder, _recorded_arch = self.record, self.arch

    def __exit__(self, *_: object) -> None:
        global _recorder, _recorded_arch
        _recorder = _recorded_arch = None


@contextmanager
def observing(observer: Callable[[str, float, float], None]) -> Iterator[None]:
    """Within this context `observer` is told of each launch before it happens: kernel, FLOPs, bytes read and written."""
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None
