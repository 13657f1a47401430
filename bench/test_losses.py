"""The losses and the distance transform on two-class masks (16 images of 256 x 256, logits bfloat16), against PyTorch.

PyTorch has none of them, so theirs are compositions; loss and gradient are timed together. Its distance transform is the
same comparison along columns and rows, by broadcasting.
"""

from collections.abc import Callable

import pytest
import torch

from tritonnet.kernels.dice_loss import dice_loss_bwd, dice_loss_fwd
from tritonnet.kernels.distance import distance_fwd
from tritonnet.kernels.focal_loss import focal_loss_fwd
from tritonnet.kernels.runtime import device

N, SIDE = 16, 256
PIXELS = N * SIDE * SIDE
F = torch.nn.functional
Case = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], float]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks with one foreground pixel in a hundred."""
    x = torch.randn((N, SIDE, SIDE, 2), device=device()).to(torch.bfloat16)
    return x, (torch.rand((N, SIDE, SIDE), device=device()) < 0.01).long()


def gradient(loss: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    logits = x.detach().requires_grad_()
    return torch.autograd.grad(loss(logits.float()), logits)[0]


def squared_distance(mask: torch.Tensor) -> torch.Tensor:
    place = torch.arange(SIDE, dtype=torch.float32, device=mask.device)
    apart = (place[:, None] - place) ** 2
    f = torch.where(mask == 1, 0.0, torch.inf)
    f = (apart[:, :, None] + f[:, None]).amin(2)
    return (apart + f[:, :, None]).amin(3)


def distance_transform() -> Case:
    _, t = inputs()
    return lambda: distance_fwd(t), lambda: squared_distance(t)[..., None], PIXELS * 20


def focal() -> Case:
    x, t = inputs()

    def loss(z: torch.Tensor) -> torch.Tensor:
        log_p = F.log_softmax(z, -1).gather(-1, t[..., None])
        return (-((1 - log_p.exp()) ** 2) * log_p).mean()

    return lambda: focal_loss_fwd(x, t)[1], lambda: gradient(loss, x), PIXELS * (8 + 16)


def distance() -> Case:
    x, t = inputs()

    def loss(z: torch.Tensor) -> torch.Tensor:
        p = F.log_softmax(z, -1)
        near = (1 - torch.exp(-squared_distance(t) / 200)) ** 4 * (2 * p[..., 1]).exp() * p[..., 0]
        return -torch.where(t == 1, (2 * p[..., 0]).exp() * p[..., 1], near).sum() / (t == 1).sum()

    return lambda: focal_loss_fwd(x, t, None, distance_fwd(t))[1], lambda: gradient(loss, x), PIXELS * (20 + 8 + 16 + 4)


def dice() -> Case:
    x, t = inputs()
    one = torch.ones((), device=device())

    def ours() -> torch.Tensor:
        _, terms = dice_loss_fwd(x, t)
        return dice_loss_bwd(one, terms, x, t)

    def loss(z: torch.Tensor) -> torch.Tensor:
        p, hit = F.softmax(z, -1), torch.stack((1 - t, t), -1)
        return (1 - (2 * (p * hit).sum((1, 2)) + 1e-5) / (p.sum((1, 2)) + hit.sum((1, 2)) + 1e-5)).mean()

    return ours, lambda: gradient(loss, x), PIXELS * (4 + 8 + 8 + 8)


@pytest.mark.parametrize("make", [distance_transform, focal, distance, dice], ids=lambda make: make.__name__)
def test_loss(versus: Callable[..., None], make: Callable[[], Case]) -> None:
    ours, theirs, moved = make()
    versus(ours, theirs, rtol=0.0 if make is distance_transform else 1e-2, bytes=moved)
