"""SGD with momentum, Adam, AdaGrad and RMSProp over all parameters of the U-Net.

Ours also writes the bfloat16 copies that the next step reads.
The weights start at 0, so that what is compared after a step is the update itself. Small rates: over all repeats nothing grows.
Bytes: gradient, weight and state read, weight, state and copy written.
"""

import torch

import tritonnet as tn
from bench.cases import DEVICE, GPU, Case, over
from tritonnet.autograd import Parameter

NETWORKS = {"unet 31.0 M": (64, 4), "unet 1.9 M": (16, 4)}


def _parameters(base: int, depth: int) -> tuple[list[Parameter], list[torch.nn.Parameter]]:
    """A U-Net's parameters twice, zero, with the same gradients."""
    mine, theirs = [], []
    for p in tn.models.UNet(3, 2, base, min(depth, 4 if GPU else 1)).parameters():
        gradient = 1e-3 * torch.randn(p.data.shape, device=DEVICE)
        own = Parameter(torch.zeros_like(gradient))
        own.in_dtype(torch.bfloat16)
        own.grad = tn.Tensor(gradient)
        peer = torch.nn.Parameter(torch.zeros_like(gradient))
        peer.grad = gradient.clone()
        mine.append(own)
        theirs.append(peer)
    return mine, theirs


def _case(mine: list[Parameter], theirs: list[torch.nn.Parameter], ours: object, peer: object, bytes_each: int) -> Case:
    def step(optimizer: object, results: list[torch.Tensor]) -> list[torch.Tensor]:
        optimizer.step()
        return results

    return Case(
        lambda: step(ours, [p.data for p in mine]), lambda: step(peer, [p.detach() for p in theirs]),
        bytes_each * sum(p.numel() for p in theirs), rtol=1e-5, dtype=torch.float32,
    )  # fmt: skip


def sgd(base: int, depth: int) -> Case:
    mine, theirs = _parameters(base, depth)
    peer = torch.optim.SGD(theirs, lr=1e-4, momentum=0.9, fused=True)
    return _case(mine, theirs, tn.optim.SGD(mine, lr=1e-4, momentum=0.9), peer, 22)


def adam(base: int, depth: int) -> Case:
    mine, theirs = _parameters(base, depth)
    peer = torch.optim.Adam(theirs, lr=1e-5, fused=True, capturable=GPU)
    return _case(mine, theirs, tn.optim.Adam(mine, lr=1e-5), peer, 30)


def adagrad(base: int, depth: int) -> Case:
    mine, theirs = _parameters(base, depth)
    # the fused one is the CPU's alone; the start value keeps a first step from being as long for every gradient
    settings = {"lr": 1e-4, "initial_accumulator_value": 1.0}
    peer = torch.optim.Adagrad(theirs, foreach=True, **settings)
    return _case(mine, theirs, tn.optim.Adagrad(mine, **settings), peer, 22)


def rmsprop(base: int, depth: int) -> Case:
    mine, theirs = _parameters(base, depth)
    peer = torch.optim.RMSprop(theirs, lr=1e-5, momentum=0.9, foreach=True, capturable=GPU)
    return _case(mine, theirs, tn.optim.RMSprop(mine, lr=1e-5, momentum=0.9), peer, 30)


test_optim = over([sgd, adam, adagrad, rmsprop], NETWORKS)
