"""A whole training step of the U-Net (31,037,698 parameters at 256x256) and of the poster's network, against PyTorch.

A step is forward, loss, backward, Adam. PyTorch runs channels-last under autocast (or tf32), with fused Adam; both are timed
eager and as one CUDA graph. Inputs are random; correctness of the networks is what the tests are for, here the losses of the
first step are compared.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tritonnet as tn
from tritonnet.train.graph import CapturedStep

# model, batch, side, precision
CASES = [
    ("unet", 16, 256, "bf16"), ("unet", 1, 256, "bf16"), ("unet", 16, 256, "tf32"), ("poster", 32, 32, "bf16"),
    ("poster", 1, 32, "bf16"),
]  # fmt: skip


def torch_network(model: str) -> torch.nn.Module:
    from torch_networks import TorchPoster, TorchUNet  # the tests' references

    return TorchUNet(3, 2) if model == "unet" else TorchPoster(3, 2)


class Ours:
    def __init__(self, case: tuple[str, int, int, str], theirs: torch.nn.Module) -> None:
        model, _, _, precision = case
        tn.set_precision(precision)
        self.network = tn.models.UNet(3, 2) if model == "unet" else tn.models.PosterUNet(3, 2)
        self.network.load_state_dict(theirs.state_dict())
        self.optimizer = tn.optim.Adam(self.network.parameters(), lr=1e-4)
        self.loss_function = tn.nn.CrossEntropyLoss()

    def step(self, images: torch.Tensor, masks: torch.Tensor) -> tn.Tensor:
        loss = self.loss_function(self.network(tn.Tensor(images)), tn.Tensor(masks))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


class Theirs:
    def __init__(self, case: tuple[str, int, int, str]) -> None:
        model, _, _, precision = case
        self.network = torch_network(model).cuda().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, fused=True, capturable=True)
        self.autocast = precision == "bf16"
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True

    def step(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.autocast):
            loss = torch.nn.functional.cross_entropy(self.network(images), masks)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def captured(step: Callable[..., Any], *inputs: torch.Tensor) -> Callable[[], Any]:
    """PyTorch's step as one CUDA graph, recorded as its manual says."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*inputs)
    return graph.replay


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-batch{c[1]}-{c[3]}")
def test_step(versus: Callable[..., None], case: tuple[str, int, int, str], mode: str) -> None:
    model, batch, side, precision = case
    torch.manual_seed(0)
    theirs = Theirs(case)
    ours = Ours(case, theirs.network)
    images = torch.randn(batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
    masks = torch.randint(0, 2, (batch, side, side), device="cuda")
    mine = images.permute(0, 2, 3, 1)
    first = float(ours.step(mine, masks).item()), float(theirs.step(images, masks))
    assert abs(first[0] - first[1]) <= 2e-2 * abs(first[1]), f"losses of the first step: {first}"
    if mode == "graph":
        recorded, peer = CapturedStep(ours.step, ours.optimizer.publish), captured(theirs.step, images, masks)
    else:
        recorded, peer = ours.step, lambda: theirs.step(images, masks)
    for _ in range(3):  # the third time records
        recorded(mine, masks)
    name = f"{model}-batch{batch}-{precision}-{mode}"
    versus(lambda: recorded(mine, masks), peer, rtol=None, flush=False, graph=False, case=name)
