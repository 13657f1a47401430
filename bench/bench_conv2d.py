"""Convolutions and transposed convolutions of the U-Net at 256x256, each pass against cuDNN.

`--batch` and `--precision` choose others than 16 and bf16. FLOPs: 2 * pixels * C * K * taps each pass; bytes: the two
images and the weights, once. The first convolution is timed as a training step runs it: patches, where it takes that way, are
made by the forward and kept for the weight gradient.
In tf32 each pass scales both its operands; a training step scales each once for all passes.
"""

from collections.abc import Callable

import pytest
import torch

from bench.cases import LOW, Case, fitted, let_torch_be_fast, nbytes, nchw, randn
from tritonnet.autograd import Context
from tritonnet.kernels import conv2d as conv
from tritonnet.kernels.runtime import join
from tritonnet.ops.conv import Conv2dFunction

# (C, K, height = width) of the U-Net's 3x3 convolutions at 256x256, encoder and decoder
LAYERS = [
    (64, 64, 256), (64, 128, 128), (128, 128, 128), (128, 256, 64), (256, 256, 64), (256, 512, 32), (512, 512, 32),
    (512, 1024, 16), (1024, 1024, 16), (1024, 512, 32), (512, 256, 64), (256, 128, 128), (128, 64, 256),
]  # fmt: skip
# (C, K, output side) of its transposed 2x2 stride 2 convolutions: C in, K out
UPS = [(1024, 512, 32), (512, 256, 64), (256, 128, 128), (128, 64, 256)]
# C, K, side of its first convolution (3x3 of an RGB image) and of its last (1x1, one logit a class)
FIRST, LAST = (3, 64, 256), (64, 2, 256)
PASSES = (
    "fwd", "dgrad", "wgrad", "up_fwd", "up_dgrad", "up_wgrad", "first_fwd", "first_wgrad", "last_fwd", "last_dgrad", "last_wgrad"
)  # fmt: skip
Setting = tuple[str, int, int, int, int, str]  # pass, C, K, side, batch, precision (bf16 or tf32)


def layers(name: str) -> list[tuple[int, int, int]]:
    """The layers of the U-Net that have this pass."""
    return {"up": UPS, "first": [FIRST], "last": [LAST]}.get(name.split("_")[0], LAYERS)


class Layer:
    """One pass of one layer with its data, ours and theirs."""

    def __init__(self, case: Setting) -> None:
        self.case = case
        name, c, k, side, batch, self.precision = case
        self.dtype = LOW if self.precision == "bf16" else torch.float32
        self.tf32 = self.precision == "tf32"
        let_torch_be_fast(self.tf32)

        def random(*shape: int) -> torch.Tensor:
            n, c, h, w = shape
            return nchw(randn(n, h, w, c, dtype=self.dtype))

        self.up = name.startswith("up_")
        small = side // 2 if self.up else side
        self.x, self.dy = random(batch, c, small, small), random(batch, k, side, side)
        if not name.startswith("first_"):
            self.x.relu_()
        self.taps = 2 if self.up else 1 if name.startswith("last_") else 3
        self.w = random(c, k, 2, 2) if self.up else random(k, c, self.taps, self.taps)
        self.flops = 2 * batch * small * small * c * k * self.taps**2
        if name == "first_wgrad":
            self.kept = self.first(*(t.permute(0, 2, 3, 1) for t in (self.x, self.w)))

    def versus(self) -> Case:
        """Ours beside theirs. A sum of rounded products errs by 1e-2 at most, also with tf32's 10 bits."""
        return Case(self.ours, self.theirs, nbytes(self.x, self.dy, self.w), self.flops, 1e-2, self.dtype)

    def theirs(self) -> torch.Tensor:
        """PyTorch's result, through cuDNN, as an NHWC buffer."""
        mask = [self.case[0].endswith("dgrad"), self.case[0].endswith("wgrad"), False]
        pad = [self.taps // 2 if not self.up else 0] * 2
        stride = [2, 2] if self.up else [1, 1]
        if any(mask):
            grads = torch.ops.aten.convolution_backward(
                self.dy, self.x, self.w, None, stride, pad, [1, 1], self.up, [0, 0], 1, mask)  # fmt: skip
            result = grads[0] if mask[0] else grads[1]
        else:
            result = torch.ops.aten.convolution(self.x, self.w, None, stride, pad, [1, 1], self.up, [0, 0], 1)
        return result.permute(0, 2, 3, 1)

    def first(self, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, Context]:
        """A network's first convolution by its op, and what that keeps: the image or its patches, which the forward makes."""
        ctx = Context((False, True, False))
        window = {"stride": (1, 1), "padding": (self.taps // 2,) * 4, "dilation": (1, 1), "tf32": self.tf32}
        return Conv2dFunction.forward(ctx, x, w, None, half=None, statistics=False, **window), ctx

    def ours(self) -> torch.Tensor:
        """The same by our launchers."""
        x, dy, w = (t.permute(0, 2, 3, 1) for t in (self.x, self.dy, self.w))
        side = self.case[3]
        name = self.case[0].removeprefix("last_")
        if name == "first_fwd":
            return self.first(x, w)[0]
        if name == "first_wgrad":
            dw = Conv2dFunction.backward(self.kept[1], dy)[1]
            join()
            return dw  # type: ignore[return-value]
        pad, common = self.taps // 2, {"tf32": self.tf32}
        if name == "fwd":
            return conv.conv2d_fwd(x, w, padding=(pad,) * 4, **common)[0]
        if name == "dgrad":
            return conv.conv2d_dgrad(dy, w, input_size=(side, side), pad=(pad, pad), **common)[0]
        if name == "wgrad":
            return conv.conv2d_wgrad(dy, x, kernel_size=(self.taps, self.taps), pad=(pad, pad), **common)
        if name == "up_fwd":
            return conv.conv2d_dgrad(x, w, input_size=(side, side), stride=(2, 2), **common)[0]
        if name == "up_dgrad":
            return conv.conv2d_fwd(dy, w, stride=(2, 2), **common)[0]
        return conv.conv2d_wgrad(x, dy, kernel_size=(2, 2), stride=(2, 2), **common)


CASES = [(name, *layer) for name in PASSES for layer in layers(name)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}@{case[3]}")
def test_conv2d(versus: Callable[..., None], pytestconfig: pytest.Config, case: tuple[str, int, int, int]) -> None:
    name, c, k, side = case
    batch, precision = pytestconfig.getoption("--batch"), pytestconfig.getoption("--precision")
    layer = Layer(fitted((*case, batch, precision)))
    versus("conv2d", f"{name} {c}-{k}@{side} batch{batch} {precision}", layer.versus())
