"""What the tests of losses share: logits, labels, and the comparison of a loss and its gradient with float64."""

import torch
from helpers import DEVICE, EPS, TINY, assert_close, nhwc, pitched, randn, to64

import tritonnet as tn

REDUCTIONS = ("mean", "sum", "none")


def logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[tn.Tensor, torch.Tensor]:
    """Ours, with a pitch, and the reference's."""
    x = (3 * randn(*shape)).to(dtype)
    ours = tn.Tensor(pitched(nhwc(x).contiguous()), requires_grad=True) if x.dim() == 4 else tn.from_torch(x, True)
    return ours, to64(x).requires_grad_()


def labels(shape: tuple[int, ...], classes: int, dtype: torch.dtype = torch.int64, ignored: int = 0) -> torch.Tensor:
    """Class indices; with `ignored` every so many is one to ignore: 255 as uint8, else -100."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, classes, shape, generator=generator).to(dtype)
    if ignored:
        target.view(-1)[::ignored] = ignore_index(dtype)
    return target.to(DEVICE)


def ignore_index(dtype: torch.dtype) -> int:
    """What `labels` marks with."""
    return 255 if dtype == torch.uint8 else -100


def compare(loss: tn.Tensor, expected: torch.Tensor, x: tn.Tensor, x64: torch.Tensor, rtol: float = 1e-6) -> None:
    """The loss, and the logits' gradient for an upstream gradient other than 1."""
    assert loss.dtype == torch.float32
    assert loss.shape == tuple(expected.shape)
    # exp, log and sums in float32, a few roundings each
    assert_close(loss.torch(), expected, rtol, 1e-12, "loss")
    dy = 0.7 * randn(expected.numel(), seed=9).view(expected.shape)
    loss.backward(tn.from_torch(dy))
    expected.backward(to64(dy))
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
    # rounded before and after the upstream gradient is multiplied in
    assert_close(x.grad.torch(), x64.grad, rtol + 2 * EPS[x.dtype], TINY[x.dtype], "dx")


def reduce64(loss: torch.Tensor, reduction: str, divisor: torch.Tensor | float) -> torch.Tensor:
    """Float64 losses of pixels as `reduction` wants them."""
    return loss if reduction == "none" else loss.sum() / (divisor if reduction == "mean" else 1)


def class_logits64(x: torch.Tensor) -> torch.Tensor:
    """Logits (N, C, ...) with a channel a class: a single one gets a 0 before it."""
    return torch.cat((torch.zeros_like(x), x), 1) if x.shape[1] == 1 else x
