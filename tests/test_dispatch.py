"""Torch computes nothing: every op, loss, optimizer, metric and the input conversion runs on allocation, views and plain copies.

A dispatch mode sees each torch operator that is called, forward and backward. What the interpreter does inside a kernel launch
is left out by a hook around `runtime.launch`.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DEVICE
from pictures import fresh_model, regions
from small import train_small
from torch.utils._python_dispatch import TorchDispatchMode

import tritonnet as tn
from tritonnet import models, nn, ops, optim
from tritonnet.kernels import runtime
from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.fill import fill
from tritonnet.kernels.scaled import scaled
from tritonnet.nn import functional as F
from tritonnet.ops import conv
from tritonnet.train import Config, Listener
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.folder import RunFolder
from tritonnet.train.objective import Objective
from tritonnet.train.tiling import tiled
from tritonnet.train.training import Training

ALLOWED = {
    "empty", "empty_strided", "new_empty", "set_",  # memory
    "view", "as_strided", "permute", "select", "slice", "detach", "alias", "t",  # the same memory, seen differently
    "lift_fresh", "_local_scalar_dense",  # Python numbers in and out
    "promote_types",  # of two dtypes; sees no tensor
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Collects every torch operator that is not in the list, while no kernel is being launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launching = 0
        self.computed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not self.launching and not (name in ALLOWED or (name == "copy_" and plain_copy(*args[:2]))):
            self.computed.append(f"{name}{[tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]}")
        return func(*args, **(kwargs or {}))


def plain_copy(to: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether a copy moves bytes only: it converts nothing, repeats nothing and reorders nothing."""
    return (to.dtype, to.shape, to.stride()) == (source.dtype, source.shape, source.stride())


@contextmanager
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Watch torch in this context; launches are let through."""
    watch, launch = Watch(), runtime.launch

    @functools.wraps(launch)
    def hooked(*args: Any, **kwargs: Any) -> None:
        watch.launching += 1
        try:
            launch(*args, **kwargs)
        finally:
            watch.launching -= 1

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("tritonnet.") and getattr(module, "launch", None) is launch:
            monkeypatch.setattr(module, "launch", hooked)
    with watch:
        yield watch


@pytest.fixture(autouse=True)
def poison() -> None:
    """No poison here: torch would write it."""


@pytest.fixture
def g() -> SimpleNamespace:
    """Inputs, made before torch is watched."""
    tn.manual_seed(0)

    def leaf(*shape: int) -> tn.Tensor:
        return tn.randn(*shape, requires_grad=True)

    return SimpleNamespace(
        x=leaf(2, 3, 6, 6), y=leaf(2, 3, 6, 6), row=leaf(1, 3, 1, 1), matrix=leaf(4, 5), scale=leaf(3), shift=leaf(3),
        mean=tn.randn(3), var=tn.rand(3), tracked=tn.tensor(0), dense=leaf(4, 5), w=leaf(4, 3, 3, 3),
        wt=leaf(3, 4, 2, 2), bias=leaf(4), wide=leaf(1, 16, 4, 4), square=leaf(16, 16, 3, 3),
        low=tn.Tensor(tn.randn(2, 3, 6, 6).data.to(torch.bfloat16)),
        norm=nn.BatchNorm2d(3),
        labels=tn.tensor(np.arange(72, dtype=np.int64).reshape(2, 6, 6) % 3),
        share=tn.rand(2, 3, 6, 6), classes=tn.tensor([1.0, 2.0, 0.5]), numbers=np.ones((2, 3, 4, 4), np.float32),
        images=np.full((2, 8, 8, 3), 7, np.uint8),
    )  # fmt: skip


def norm(f: Callable[..., Any], training: bool) -> Callable[[SimpleNamespace], Any]:
    """A call of one of the batch norms."""
    return lambda g: f(g.x, g.mean, g.var, g.scale, g.shift, training, num_batches_tracked=g.tracked)


CALLS: dict[str, Callable[[SimpleNamespace], Any]] = {
    "add": lambda g: g.x + g.row + 1.5,
    "argmax": lambda g: ops.argmax(g.x, 1),
    "avg_pool2d": lambda g: F.avg_pool2d(g.x, 3, 2, 1),
    "batch_norm": norm(F.batch_norm, True),
    "batch_norm-evaluation": norm(F.batch_norm, False),
    "batch_norm_relu": norm(F.batch_norm_relu, True),
    "batch_norm_relu_conv2d": lambda g: ops.batch_norm_relu_conv2d(g.x, g.norm.arguments(), g.w)[0],
    "batch_norm_relu_max_pool2d": lambda g: norm(ops.batch_norm_relu_max_pool2d, True)(g)[1],
    "binary_cross_entropy_with_logits": lambda g: F.binary_cross_entropy_with_logits(g.x, g.share),
    "cat": lambda g: F.cat((g.x, g.y), dim=1),
    "conv2d": lambda g: F.conv2d(g.x, g.w, g.bias, stride=2, padding=1),
    "conv2d-bf16": lambda g: in_bf16(lambda: F.conv2d(g.x, g.w, g.bias, padding="same")),
    "conv2d-tf32": lambda g: in_tf32(lambda: F.conv2d(g.wide, g.square, padding=1)),
    "conv2d-patches": lambda g: by_patches(g),
    "conv2d_batch_norm_relu": lambda g: evaluated(g),
    "conv2d_moments": lambda g: ops.conv2d_moments(g.x, g.w, g.bias)[0],
    "conv_transpose2d": lambda g: F.conv_transpose2d(g.x, g.wt, g.bias, stride=2),
    "cross_entropy": lambda g: F.cross_entropy(g.x, g.labels, g.classes),
    "cross_entropy-none": lambda g: F.cross_entropy(g.x, g.labels, reduction="none"),
    "cross_entropy-probabilities": lambda g: F.cross_entropy(g.x, g.share),
    "dice_loss": lambda g: F.dice_loss(g.x, g.labels, g.classes),
    "dice_loss-none": lambda g: F.dice_loss(g.x, g.labels, batch=True, reduction="none"),
    "distance_loss": lambda g: F.distance_loss(g.x, g.labels, g.classes),
    "distance_transform": lambda g: ops.distance_transform(g.labels, 1, 2),
    "dropout": lambda g: F.dropout(g.x, 0.3),
    "flatten": lambda g: F.flatten(g.x, 1),
    "focal_loss": lambda g: 0.5 * F.focal_loss(g.x, g.labels, alpha=0.25) + F.focal_loss(g.y, g.labels),
    "interpolate": lambda g: F.interpolate(g.x, scale_factor=2, mode="bilinear", align_corners=True),
    "linear": lambda g: F.linear(g.matrix, g.dense, g.bias) + in_bf16(lambda: F.linear(g.matrix, g.dense)),
    "log_softmax": lambda g: F.log_softmax(g.x, dim=1),
    "manual_seed": lambda g: tn.manual_seed(1),
    "max_pool2d": lambda g: F.max_pool2d(g.x, 2),
    "mean": lambda g: g.x.mean((2, 3)),
    "mse_loss": lambda g: F.mse_loss(g.x, g.y),
    "mul": lambda g: g.x * g.row * 2.0,
    "neg": lambda g: -g.x,
    "pad": lambda g: F.pad(g.x, (1, 0, 2, 1)),
    "permute": lambda g: g.x.permute(0, 2, 3, 1),
    "rand": lambda g: tn.rand(2, 3),
    "randn": lambda g: tn.randn(2, 3),
    "relu": lambda g: F.relu(g.x),
    "reshape": lambda g: g.x.reshape(6, 36),
    "sigmoid": lambda g: F.sigmoid(g.x),
    "softmax": lambda g: F.softmax(g.x, dim=1),
    "softmax-matrix": lambda g: F.softmax(g.matrix, dim=1),
    "sub": lambda g: g.x - g.y,
    "sum": lambda g: g.x.sum((0, 2, 3)) + g.x.sum(),
    "tanh": lambda g: F.tanh(g.x),
    "to": lambda g: g.x.to(torch.bfloat16),
    "wide": lambda g: ops.wide(2, 4, 4, 8, torch.float32),
    # tensors in and out
    "from_numpy": lambda g: tn.from_numpy(g.numbers),
    "numpy": lambda g: (g.x.numpy(), g.low.numpy()),
    "tensor": lambda g: tn.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "torch": lambda g: g.x.torch(),
    "item": lambda g: float(g.classes.sum()),
    # a tensor with several consumers, whose gradients are added up
    "shared": lambda g: F.relu(g.x) + g.x * g.x,
    "initialisers": lambda g: [init(g.w.detach()) for init in (nn.init.kaiming_normal_, nn.init.xavier_uniform_)],
}


def in_bf16(call: Callable[[], Any]) -> Any:
    with tn.precision("bf16"):
        return call()


def in_tf32(call: Callable[[], Any]) -> Any:
    with tn.precision("tf32"):
        return call()


def test_scaling_computes_nothing_with_torch(g: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch) as watch:
        scaled(g.x.data)
    assert not watch.computed, watch.computed


def evaluated(g: SimpleNamespace) -> Any:
    norm = Norm(g.bias.data, g.bias.data, None, None)
    with tn.no_grad():
        return ops.conv2d_batch_norm_relu(g.x, g.w, g.bias, norm=norm)


def by_patches(g: SimpleNamespace) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "unfolds", lambda *_, **__: True)
        return in_bf16(lambda: F.conv2d(g.x, g.w, g.bias, stride=2, padding=1))


def backward(result: Any) -> None:
    """Follow a result back to its leaves."""
    if isinstance(result, tn.Tensor) and result.requires_grad:
        ones = runtime.empty(tuple(result.data.shape), result.dtype)
        result.backward(tn.Tensor(fill(ones, 1)))


@pytest.mark.parametrize("name", CALLS)
def test_op_computes_nothing_with_torch(name: str, g: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch) as watch:
        backward(CALLS[name](g))
    assert not watch.computed, watch.computed


def test_every_op_is_called() -> None:
    called = {name.partition("-")[0] for name in CALLS}
    assert set(ops.__all__) | set(F.__all__) <= called


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.1),
    "sgd-nesterov": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda parameters: optim.Adam(parameters, weight_decay=0.01),
    "adamw": lambda parameters: optim.AdamW(parameters),
    "adagrad": lambda parameters: optim.Adagrad(parameters, initial_accumulator_value=0.1),
    "rmsprop": lambda parameters: optim.RMSprop(parameters, momentum=0.9, centered=True),
}
NETWORKS: dict[str, tuple[str, Callable[[], models.Segmenter]]] = {
    "unet": ("bf16", lambda: models.UNet(3, 2, base_channels=4, depth=2)),
    "unet-bilinear": ("fp32", lambda: models.UNet(3, 1, base_channels=4, depth=2, upsample="bilinear")),
    "unet-add-conv": ("fp32", lambda: models.UNet(3, 2, 4, 1, skip="add", down="conv", dropout=0.5)),
    "resunet": ("fp32", lambda: models.ResUNet(3, 2, base_channels=4, depth=1)),
    "poster": ("fp32", lambda: models.PosterUNet(3, 2)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_computes_nothing_with_torch(name: str, g: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(3, 4, 3)
    optimizer = OPTIMIZERS[name](layer.parameters())
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    with watching(monkeypatch) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            layer(g.x).sum().backward()
            optimizer.step()
            schedule.step()
    assert not watch.computed, watch.computed


def test_clipping_and_averaging_compute_nothing_with_torch(g: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.BatchNorm2d(3)
    averaged = optim.swa_utils.AveragedModel(layer)
    with watching(monkeypatch) as watch:
        layer(g.x).sum().backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
        averaged.update_parameters(layer)
        averaged(g.x)
    assert not watch.computed, watch.computed


@pytest.mark.parametrize("name", NETWORKS)
def test_training_computes_nothing_with_torch(name: str, g: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input conversion, forward, loss, backward, optimizer, metric, prediction: one step of training and its evaluation."""
    precision, build = NETWORKS[name]
    network = build()
    optimizer = optim.Adam(network.parameters())
    with watching(monkeypatch) as watch, tn.precision(precision):
        labels = tn.Tensor(to_device(np.zeros((2, 8, 8), np.uint8)))
        objective = Objective(network.num_classes)
        matrix = objective.matrix()
        x = Normalizer((0.5,) * 3, (0.25,) * 3, 1 / 255)(to_device(g.images))
        network.train()
        loss = objective.loss(network(x), labels)
        loss.backward()
        optimizer.step()
        network.eval()
        with tn.no_grad():
            objective.count(network(x), labels, matrix)
        loss.item()
        matrix.numpy()
        network.predict(g.images)
    assert not watch.computed, watch.computed


def test_tiled_prediction_computes_nothing_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles, flips, blending, the mean over flips, a sigmoid's second logit, up-sampling: all but files."""
    trained, image = fresh_model(1), regions(20, 18, 3)
    normalizer = trained.normalizer()
    with watching(monkeypatch) as watch:
        for band in tiled(trained, image, normalizer, 16, 0.25, True, 2):
            band.numpy()
        averaged = next(tiled(trained, image[:16, :16], normalizer, 16, 0.25, True, 2))
        F.interpolate(averaged, size=(5, 7), mode="bilinear").numpy()
    # a graph object of PyTorch's keeps its random generator's seed and offset, unused here
    own = {"fill_[(1,)]"} if DEVICE.type == "cuda" else set()
    assert not set(watch.computed) - own, watch.computed


def test_the_programs_step_computes_nothing_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that can be asked for: parts of a batch, clipping, averages, a schedule; and the losses read."""
    train_small(monkeypatch)
    config = Config(
        depth=1, size=8, cells=5, batch_size=1, accumulate=2, clip=0.1, ema=0.9, warmup=2, augment="elastic, noise"
    )
    training = Training(config, RunFolder(tmp_path / "run", fresh=True), Listener())
    with watching(monkeypatch) as watch:
        for batch in training.loader.epoch(0):
            training.update(batch)
        assert len(training.read_losses()) == 2
        training.shown()
    assert not watch.computed, watch.computed


TORCH_WORK: dict[str, Callable[[torch.Tensor], object]] = {
    "add": lambda x: x + 1,
    "fill": lambda x: x.fill_(0),
    "zeros": lambda x: torch.zeros(3),
    "convert": lambda x: x.to(torch.float16),
    "converting-copy": lambda x: torch.empty(x.shape, dtype=torch.float16).copy_(x),
    "reordering-copy": lambda x: x.t().contiguous(),
    "random": lambda x: torch.rand(3),
    "sum": lambda x: x.sum(),
}


@pytest.mark.parametrize("name", TORCH_WORK)
def test_watch_sees_torch_compute(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3)
    with watching(monkeypatch) as watch:
        TORCH_WORK[name](x)
    assert watch.computed
