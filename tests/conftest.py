"""What every test gets: one BLAS thread, poisoned buffers, a clean error flag, fp32."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest

import tritonnet as tn
from tritonnet.kernels import conv2d, conv2d_tiles, fault, runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if runtime.INTERPRET:
        skip = pytest.mark.skip(reason="needs a GPU")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every buffer a launcher allocates with NaN (integers: their smallest value), to catch unwritten outputs."""
    import torch

    allocate = runtime.empty

    def poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        buffer = allocate(shape, dtype)
        return buffer.fill_(float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min)

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("tritonnet.") and getattr(module, "empty", None) is allocate:
            monkeypatch.setattr(module, "empty", poisoned)


@pytest.fixture(autouse=True)
def clean_state() -> None:
    """Every test starts in fp32 with the error flag down."""
    tn.set_precision("fp32")
    fault.flag().zero_()


@pytest.fixture
def tensor_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter take the tensor-map kernels, in small tiles."""
    real = conv2d.pick_tile

    def small(name: str, g: conv2d_tiles.Geometry, dtype: Any, form: str, arch: str) -> conv2d_tiles.Tile:
        if form == "gather":
            return real(name, g, dtype, form, arch)
        if name == "conv2d_wgrad":
            return conv2d_tiles.Tile(form, 16, 16, 32, 4, 2, splits=2, rows=2)
        return conv2d_tiles.Tile(form, 64, 32, 16, 4, 2, rows=2)

    if runtime.INTERPRET:
        monkeypatch.setattr(conv2d_tiles, "arch", lambda: "sm_90")
        monkeypatch.setattr(conv2d, "pick_tile", small)
