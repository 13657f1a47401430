"""What to do when GPU memory runs out: smaller batches are tried, and their need is measured."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from tritonnet.kernels import runtime

__all__ = ["advice", "available", "guarded", "peak"]

GIB = 2**30
T = TypeVar("T")


def guarded(step: Callable[[], T]) -> T | None:
    """What `step` returns, or None if memory ran out; nothing holds the step's buffers then."""
    try:
        return step()
    except RuntimeError as error:
        # a recording that fails for that may say so only in the error before
        if not any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__context__)):
            raise
    return None


def available() -> int:
    """Bytes that this process has or could have; 0 without a GPU."""
    if runtime.device().type != "cuda":
        return 0
    return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())


def peak(step: Callable[[], object]) -> int | None:
    """The bytes in use at most while `step` runs, 0 without a GPU; None if memory runs out."""
    gpu = runtime.device().type == "cuda"
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if guarded(step) is None:
        return None
    return int(torch.cuda.max_memory_allocated()) if gpu else 0


def advice(attempt: Callable[[int], int | None], images: int, accumulate: int, there: int) -> str:
    """What a step needs and which batch fits, for the user.

    Args:
        attempt: runs a step of so many images and returns its peak in bytes, or None if it does not fit.
        images: a batch that did not fit.
        accumulate: batches a step.
        there: bytes that could be had, 0 if unknown.
    """
    fits, too_many = 0, images
    peaks: dict[int, int] = {}
    while too_many - fits > 1:
        n = (fits + too_many) // 2
        used = attempt(n)
        if used is None:
            too_many = n
        else:
            fits, peaks[n] = n, used
    text = f"GPU memory must hold a batch of {images} images and its gradients"
    measured = sorted(peaks.items())[-2:]
    if len(measured) == 2 and measured[1][1] > measured[0][1]:
        (few, less), (many, more) = measured
        need = more + (more - less) / (many - few) * (images - many)
        text += f", which need about {need / GIB:.1f} GiB"
    text += f", got {there / GIB:.1f} GiB" if there else ", got less"
    if not fits:
        return f"{text}: not even one image fits; choose a smaller --size, --base-channels or --depth"
    divisor = next(n for n in range(fits, 0, -1) if images % n == 0)
    same = f"--batch-size {divisor} --accumulate {accumulate * images // divisor}"
    return f"{text}; the largest batch that fits is {fits}: use --batch-size {fits}, or for steps as large {same}"
