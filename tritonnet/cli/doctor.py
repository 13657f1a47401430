"""`tritonnet doctor`: what this machine has, and one kernel checked."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

import tritonnet
from tritonnet.kernels import runtime

__all__ = ["lines"]

PACKAGES = ("torch", "triton", "numpy", "h5py", "pillow", "typer", "matplotlib")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def lines() -> Iterator[tuple[str, str, bool]]:
    """(name, finding, whether it is well), one a line of the report."""
    yield "tritonnet", tritonnet.__version__, True
    yield "Python", platform.python_version(), sys.version_info >= (3, 11)
    for package in PACKAGES:
        found = _version(package)
        yield package, found, found != "missing"
    if runtime.INTERPRET:
        yield "GPU", "none: kernels run on Triton's interpreter, correct but slow", True
    else:
        properties = torch.cuda.get_device_properties(runtime.device())
        size = f"{properties.total_memory / 2**30:.0f} GiB, {runtime.multiprocessors()} multiprocessors"
        yield "GPU", f"{properties.name}, {runtime.arch()}, {size}", True
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield "bf16", "yes" if bf16 else "no: training uses fp32", True
    yield "kernel", *_check_a_kernel()


def _check_a_kernel() -> tuple[str, bool]:
    """A 3x3 convolution of whole numbers, exact in float32, against the definition in Python."""
    side, channels, outputs = 5, 2, 3
    image = [[[[(7 * c + 3 * h + 5 * w) % 11 - 5 for w in range(side)] for h in range(side)] for c in range(channels)]]
    weight = [
        [[[(2 * k + 5 * c + 3 * r + s) % 7 - 3 for s in range(3)] for r in range(3)] for c in range(channels)]
        for k in range(outputs)
    ]
    try:
        numbers = (tritonnet.tensor(image, dtype=torch.float32), tritonnet.tensor(weight, dtype=torch.float32))
        result = tritonnet.nn.functional.conv2d(*numbers).numpy()
    except Exception as error:  # whatever a broken driver or compiler raises is the finding
        return f"the convolution does not run: {type(error).__name__}: {' '.join(str(error).split())}", False
    inner = range(side - 2)
    wrong = sum(
        float(result[0, k, p, q])
        != sum(
            image[0][c][p + r][q + s] * weight[k][c][r][s] for c in range(channels) for r in range(3) for s in range(3)
        )
        for k in range(outputs)
        for p in inner
        for q in inner
    )
    if wrong:
        return f"the convolution is wrong in {wrong} of {outputs * (side - 2) ** 2} values", False
    return "the convolution runs and is right", True
