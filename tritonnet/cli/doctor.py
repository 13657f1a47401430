"""`tritonnet doctor`: what this machine has, and one kernel checked."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

import tritonnet
from tritonnet.kernels import runtime

__all__ = ["lines"]

PACKAGES = ("torch", "triton", "numpy", "h5py", "pillow", "typer", "matplotlib")


def lines() -> Iterator[tuple[str, str, bool]]:
    """(name, finding, whether it is well), one a line of the report."""
    yield "tritonnet", tritonnet.__version__, True
    yield "Python", platform.python_version(), sys.version_info >= (3, 11)
    for package in PACKAGES:
        try:
            yield package, version(package), True
        except PackageNotFoundError:
            yield package, "missing", False
    if runtime.INTERPRET:
        yield "GPU", "none: kernels run on Triton's interpreter, correct but slow", True
    else:
        card = torch.cuda.get_device_properties(runtime.device())
        size = f"{card.total_memory / 2**30:.0f} GiB, {runtime.multiprocessors()} multiprocessors"
        yield "GPU", f"{card.name}, {runtime.arch()}, {size}", True
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        yield "bf16", "yes" if there else "no: training uses fp32", True
    yield "kernel", *_check_a_kernel()


def _check_a_kernel() -> tuple[str, bool]:
    """A 3x3 convolution of whole numbers, exact in float32, against the definition in numpy."""
    image = np.arange(50, dtype=np.float32).reshape(1, 2, 5, 5) * 7 % 11 - 5
    weight = np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3) * 5 % 7 - 3
    windows = np.lib.stride_tricks.sliding_window_view(image[0], (3, 3), (1, 2))
    expected = np.einsum("cpqrs,kcrs->kpq", windows, weight)
    try:
        found = tritonnet.nn.functional.conv2d(tritonnet.from_numpy(image), tritonnet.from_numpy(weight)).numpy()[0]
    except Exception as error:  # whatever a broken driver or compiler raises is the finding
        return f"the convolution does not run: {type(error).__name__}: {' '.join(str(error).split())}", False
    if wrong := (found != expected).sum():
        return f"the convolution is wrong in {wrong} of {expected.size} values", False
    return "the convolution runs and is right", True
