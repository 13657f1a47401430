"""The memory-bound kernels of a U-Net step at its largest image (16 x 256 x 256 x 64, bfloat16), against PyTorch's."""

from collections.abc import Callable

import pytest
import torch

from tritonnet.kernels import upsample
from tritonnet.kernels.add import add_fwd
from tritonnet.kernels.batch_norm import batch_norm_bwd, batch_norm_fwd, batch_norm_stats
from tritonnet.kernels.cat import cat_fwd
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.max_pool2d import max_pool2d_bwd, max_pool2d_fwd
from tritonnet.kernels.relu import relu_fwd

N, SIDE, C = 16, 256, 64
IMAGE = N * SIDE * SIDE * C * 2  # bytes
F = torch.nn.functional


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(torch.bfloat16)


def nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def batch_norm_relu() -> tuple[Callable, Callable, float]:
    x, w, b = random(N, SIDE, SIDE, C), torch.rand(C, device="cuda"), torch.rand(C, device="cuda")

    def ours() -> torch.Tensor:
        mean, var = batch_norm_stats(x)
        return batch_norm_fwd(x, mean, var, w, b, relu=True)

    return ours, lambda: nhwc(F.relu(F.batch_norm(nchw(x), None, None, w, b, True))), 3 * IMAGE


def batch_norm_relu_backward() -> tuple[Callable, Callable, float]:
    x, dy, w, b = (
        random(N, SIDE, SIDE, C),
        random(N, SIDE, SIDE, C),
        torch.rand(C, device="cuda"),
        torch.rand(C, device="cuda"),
    )
    mean, var = batch_norm_stats(x)
    y, save_mean, save_rstd = torch.ops.aten.native_batch_norm(nchw(x), w, b, None, None, True, 0.1, 1e-5)
    active = F.relu(y)

    def theirs() -> torch.Tensor:
        g = torch.ops.aten.threshold_backward(nchw(dy), active, 0)
        grads = torch.ops.aten.native_batch_norm_backward(
            g, nchw(x), w, None, None, save_mean, save_rstd, True, 1e-5, [True, True, True]
        )
        return nhwc(grads[0])

    return lambda: batch_norm_bwd(dy, x, mean, var, w, b, relu=True)[0], theirs, 5 * IMAGE


def max_pool2d() -> tuple[Callable, Callable, float]:
    x = random(N, SIDE, SIDE, C)
    return lambda: max_pool2d_fwd(x, (2, 2), (2, 2), (0, 0))[0], lambda: nhwc(F.max_pool2d(nchw(x), 2)), 1.375 * IMAGE


def max_pool2d_backward() -> tuple[Callable, Callable, float]:
    x, dy = random(N, SIDE, SIDE, C), random(N, SIDE // 2, SIDE // 2, C)
    _, winner = max_pool2d_fwd(x, (2, 2), (2, 2), (0, 0))
    _, index = torch.ops.aten.max_pool2d_with_indices(nchw(x), [2, 2], [2, 2])

    def theirs() -> torch.Tensor:
        return nhwc(
            torch.ops.aten.max_pool2d_with_indices_backward(
                nchw(dy), nchw(x), [2, 2], [2, 2], [0, 0], [1, 1], False, index
            )
        )

    return lambda: max_pool2d_bwd(dy, winner, SIDE, SIDE, (2, 2), (2, 2), (0, 0)), theirs, 1.375 * IMAGE


def concatenate() -> tuple[Callable, Callable, float]:
    a, b = random(N, SIDE, SIDE, C), random(N, SIDE, SIDE, C)
    return lambda: cat_fwd((a, b), 3), lambda: nhwc(torch.cat((nchw(a), nchw(b)), 1)), 4 * IMAGE


def relu() -> tuple[Callable, Callable, float]:
    x = random(N, SIDE, SIDE, C)
    return lambda: relu_fwd(x), lambda: F.relu(x), 2 * IMAGE


def add() -> tuple[Callable, Callable, float]:
    a, b = random(N, SIDE, SIDE, C), random(N, SIDE, SIDE, C)
    return lambda: add_fwd(a, b), lambda: a + b, 3 * IMAGE


def bilinear() -> tuple[Callable, Callable, float]:
    x = random(N, SIDE // 2, SIDE // 2, C)
    axis = upsample.axis(SIDE // 2, SIDE, True)

    def theirs() -> torch.Tensor:
        return nhwc(F.interpolate(nchw(x), scale_factor=2, mode="bilinear", align_corners=True))

    return lambda: upsample.upsample_fwd(x, axis, axis), theirs, 1.25 * IMAGE


def cross_entropy() -> tuple[Callable, Callable, float]:
    x, target = random(N, SIDE, SIDE, 2), torch.randint(0, 2, (N, SIDE, SIDE), device="cuda")

    def theirs() -> torch.Tensor:
        logits = nchw(x).detach().requires_grad_()
        loss = F.cross_entropy(logits.float(), target)
        (gradient,) = torch.autograd.grad(loss, logits)
        return nhwc(gradient)

    return lambda: cross_entropy_fwd(x, target)[1], theirs, N * SIDE * SIDE * (4 + 4 + 16)


CASES = [
    batch_norm_relu, batch_norm_relu_backward, max_pool2d, max_pool2d_backward, concatenate, relu, add, bilinear, cross_entropy,
]  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_kernel(versus: Callable[..., None], make: Callable[[], tuple[Callable, Callable, float]]) -> None:
    ours, theirs, moved = make()
    versus(ours, theirs, rtol=1e-2, bytes=moved)
