"""The networks that are timed as a whole, ours and PyTorch's from the same weights, and PyTorch's ways to run them."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # torch_networks, when run as a program

import itertools

import tritonnet as tn
from bench.cases import DEVICE, GPU, let_torch_be_fast, nchw
from tritonnet.measure import Step, made_batch
from tritonnet.nn.capture import Captured

Call = Callable[[], Any]


@dataclass(frozen=True)
class Net:
    """What is timed: "unet-16-256-bf16" is a model, images a batch, their side in pixels, and a precision."""

    model: str
    batch: int
    side: int
    precision: str

    @classmethod
    def of(cls, text: str) -> "Net":
        """From its name."""
        model, batch, side, precision = text.split("-")
        return cls(model, int(batch), int(side), precision)

    def __str__(self) -> str:
        return f"{self.model}-{self.batch}-{self.side}-{self.precision}"

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 images (N, H, W, C) and labels (N, H, W) or, of whole images, (N,)."""
        if self.model == "mlp":  # an image is a row of side * side numbers
            images, labels = made_batch(self.batch, 1, 1, self.side**2, 10)
        else:
            images, labels = made_batch(self.batch, self.side, self.side, 3, 2 if self.model != "overfeat" else 10)
        return images, labels[:, 0, 0].contiguous() if self.model in ("mlp", "overfeat") else labels


WIDTH = 1 if GPU else 16  # the interpreter's networks are as much narrower


def mlp(side: int, ns: Any) -> list[Any]:
    """MNIST's multilayer perceptron: side * side, 512, 512, 10, with ReLU between; `ns` is our `nn` or PyTorch's."""
    sizes = [side**2, 512 // WIDTH, 512 // WIDTH, 10]
    layers: list[Any] = [ns.Flatten()]
    for c, k in itertools.pairwise(sizes):
        layers += [ns.Linear(c, k), ns.ReLU()]
    return layers[:-1]


def overfeat(side: int, ns: Any) -> list[Any]:
    """Overfeat [fast] as soumith/convnet-benchmarks has it: five convolutions, three linear layers."""
    pixels = (((side - 11) // 4 + 1) // 2 - 4) // 2 // 2  # a side of the last pooling's result
    widths = [3, *(w // WIDTH for w in (96, 256, 512, 1024, 1024))]
    layers: list[Any] = []
    for i, (kernel, stride, pad, pool) in enumerate(
        [(11, 4, 0, True), (5, 1, 0, True), (3, 1, 1, False), (3, 1, 1, False), (3, 1, 1, True)]
    ):
        layers += [ns.Conv2d(widths[i], widths[i + 1], kernel, stride, pad), ns.ReLU()]
        layers += [ns.MaxPool2d(2, 2)] if pool else []
    sizes = [widths[5] * pixels**2, 3072 // WIDTH, 4096 // WIDTH, 1000 // WIDTH]
    layers.append(ns.Flatten())
    for c, k in itertools.pairwise(sizes):
        layers += [ns.Linear(c, k), ns.ReLU()]
    return layers[:-1]


def our_network(net: Net) -> tn.nn.Module:
    """Ours."""
    if net.model == "mlp":
        return tn.nn.Sequential(*mlp(net.side, tn.nn))
    if net.model == "overfeat":
        return tn.nn.Sequential(*overfeat(net.side, tn.nn))
    if net.model == "poster":
        return tn.models.PosterUNet(3, 2)
    network = tn.models.UNet(3, 2, 64 // WIDTH, 4 if GPU else 1)
    if net.model == "recompute":
        network.recompute()
    return network


def their_network(net: Net) -> nn.Module:
    """PyTorch's, from the same random numbers each time."""
    from torch_networks import TorchPoster, TorchUNet  # the tests' references

    torch.manual_seed(0)
    if net.model == "mlp":
        return nn.Sequential(*mlp(net.side, nn))
    if net.model == "overfeat":
        return nn.Sequential(*overfeat(net.side, nn))
    return TorchPoster(3, 2) if net.model == "poster" else TorchUNet(3, 2, 64 // WIDTH, 4 if GPU else 1)


def our_step(net: Net) -> Step:
    """Ours, with PyTorch's weights."""
    network = our_network(net)
    network.load_state_dict(their_network(net).state_dict())
    return Step(network, net.data()[0].shape[3], net.precision)


def our_graph(step: Step, images: torch.Tensor, labels: torch.Tensor) -> Call:
    """A training step as the training program runs it, recorded."""
    captured = Captured(step, step.network, step.optimizer.publish, alone=True)
    for _ in range(3):  # the third time records
        captured(images, labels)
    return lambda: captured(images, labels)


# --- PyTorch's ways: torch.compile's mode, and whether it all runs as one CUDA graph

PEERS: dict[str, tuple[str | None, bool]] = {
    "eager": (None, False), "graph": (None, True), "compile": ("default", False), "compile-graph": ("default", True),
    "max-autotune": ("max-autotune-no-cudagraphs", False), "max-autotune-graph": ("max-autotune-no-cudagraphs", True),
}  # fmt: skip


class Peer:
    """PyTorch's network by one of its ways: channels-last, autocast (or tf32), fused Adam, cudnn.benchmark.

    For inference the convolutions' weights are bfloat16 from the start, and torch.compile freezes the weights.

    Args:
        net: what to run.
        name: a key of PEERS.
        kind: "step" (a training step), "gradients" (without the optimizer) or "forward" (inference).
    """

    def __init__(self, net: Net, name: str, kind: str) -> None:
        mode, self.graph = PEERS[name]
        start = time.perf_counter()
        self.net, self.kind = net, kind
        let_torch_be_fast(tf32=net.precision != "fp32")
        self.low = torch.bfloat16 if net.precision == "bf16" and GPU else torch.float32
        self.network = their_network(net).to(DEVICE).to(memory_format=torch.channels_last)
        images, labels = net.data()
        self.images, self.labels = images, labels.long()
        self.mean, self.rstd = (torch.full((images.shape[3],), value, device=DEVICE) for value in (0.5, 4.0))
        body: Any = self._logits if kind == "forward" else self._loss
        if kind == "forward":
            self.network.eval()
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                    module.to(self.low)
        else:
            self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, fused=True, capturable=self.graph)
        if mode:
            import torch._dynamo as dynamo  # slow to import
            import torch._inductor.config as inductor

            dynamo.reset()
            inductor.freezing = kind == "forward"
            body = torch.compile(body, mode=mode, dynamic=False)
        self.body = body
        # inference_mode spares eager PyTorch some work; torch.compile's freezing wants no_grad
        self.mode = nullcontext if kind != "forward" else torch.no_grad if mode else torch.inference_mode
        self.run: Call = self._once
        self.first = self._warm_up()
        self.setup_s = time.perf_counter() - start

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        x = nchw((images.float() * (1 / 255) - self.mean) * self.rstd)
        if self.kind == "forward":
            return self.network(x.to(self.low))
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.low == torch.bfloat16):
            return self.network(x)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self._logits(images).float()
        return F.cross_entropy(logits, labels)

    def _once(self) -> torch.Tensor:
        with self.mode():
            if self.kind == "forward":
                return self.body(self.images)
            loss = self.body(self.images, self.labels)
            loss.backward()
            if self.kind == "step":
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss.detach()

    def _warm_up(self) -> torch.Tensor:
        """What the first run gave; then, for a graph, record as PyTorch's manual says: warmed up on the stream it records."""
        if not self.graph:
            first = self._once().clone()
            self._once()
            return first
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first = self._once().clone()
            for _ in range(3):
                self._once()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.result = self._once()
        self.run = graph.replay
        graph.replay()
        torch.cuda.synchronize()
        return first
