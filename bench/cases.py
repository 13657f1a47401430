"""What the benchmarks of single operations share: their data, what a case is, and the one test that runs it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import tritonnet  # noqa: F401  first, so that kernels are defined for this device
from tritonnet.kernels import runtime

GPU = not runtime.INTERPRET
DEVICE = runtime.device()
LOW = torch.bfloat16 if GPU else torch.float32  # the interpreter's own bfloat16 would only cost time
# bfloat16 rounds each result by up to 2^-9, and the peer rounds too; float32 sums differ in their order alone
ROUNDING = {torch.bfloat16: 1e-2, torch.float32: 1e-5}

# batch, height = width, channels: the U-Net's images at three levels, and a single one
IMAGES = {
    "64@256 batch16": (16, 256, 64), "256@64 batch16": (16, 64, 256), "1024@16 batch16": (16, 16, 1024),
    "64@256 batch1": (1, 256, 64),
}  # fmt: skip

Call = Callable[[], Any]  # returns a buffer or a tuple of them


@dataclass
class Case:
    """Ours and theirs, both returning what is compared.

    Attributes:
        bytes: the least either must move: each buffer once a pass over it.
        flops: where products, not bytes, are the work.
        rtol: relative error allowed, in norm.
    """

    ours: Call
    theirs: Call
    bytes: float
    flops: float = 0.0
    rtol: float = ROUNDING[LOW]
    dtype: torch.dtype = LOW

    def check(self) -> None:
        """Run both once and compare every result."""
        mine, peers = (r if isinstance(r, tuple | list) else (r,) for r in (self.ours(), self.theirs()))
        for i, (a, b) in enumerate(zip(mine, peers, strict=True)):
            assert a.shape == b.shape, f"result {i} has shape {tuple(a.shape)}, the peer's {tuple(b.shape)}"
            error = float((a.double() - b.double()).norm() / b.double().norm())
            allowed = self.rtol
            assert error <= allowed, (
                f"result {i}: relative error {error:.3g}, allowed {allowed:.3g}: not timed"
            )  # NaN too


def let_torch_be_fast(tf32: bool) -> None:
    """PyTorch's settings for speed; whether its float32 products may round to tf32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def randn(*shape: int, dtype: torch.dtype = LOW) -> torch.Tensor:
    """Normal numbers, as gradients are."""
    return torch.randn(shape, device=DEVICE).to(dtype)


def active(*shape: int, dtype: torch.dtype = LOW) -> torch.Tensor:
    """What stands behind a ReLU: half of it zero."""
    return randn(*shape, dtype=dtype).relu_()


def labels(classes: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Class indices."""
    return torch.randint(0, classes, shape, device=DEVICE).to(dtype)


def nchw(x: torch.Tensor) -> torch.Tensor:
    """An (N, H, W, C) buffer as PyTorch's channels-last (N, C, H, W): a view."""
    return x.permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    """PyTorch's (N, C, H, W) as (N, H, W, C): a view."""
    return x.permute(0, 2, 3, 1)


def nbytes(*buffers: torch.Tensor) -> int:
    """Bytes of all of them together."""
    return sum(b.numel() * b.element_size() for b in buffers)


def fitted(arguments: Iterable[Any]) -> tuple[Any, ...]:
    """A case's arguments for this device: on the interpreter no number is above 8."""
    return tuple(min(a, 8) if isinstance(a, int) and not GPU else a for a in arguments)


def over(operations: Iterable[Callable[..., Case]], shapes: dict[str, tuple[Any, ...]]) -> Callable[..., None]:
    """The test of a module: each operation makes its case for each shape, which is asserted, then timed."""

    @pytest.mark.parametrize("shape", shapes)
    @pytest.mark.parametrize("operation", operations, ids=lambda operation: operation.__name__)
    def test(versus: Callable[..., None], operation: Callable[..., Case], shape: str) -> None:
        versus(operation.__name__, shape, operation(*fitted(shapes[shape])))

    return test
