"""The whole network by the yardstick: how far is torch's own float32 from torch's float64?

From the same weights and batches, torch trains in float64 and in float32, and tritonnet in float32. The loss of the
first step must agree to 1e-6.
The gradients of the first step and the state after the last may be at most 3 times as far from float64 as torch's
float32 is: the median of the ratio over five seeds, since a single seed may flip a ReLU or a pooling winner by chance.
"""

import statistics

import pytest
import torch
from helpers import DEVICE, to64
from torch_networks import TorchPoster, TorchUNet

import tritonnet as tn
from tritonnet import models, nn

Values = dict[str, torch.Tensor]


def distance(a: Values, b: Values) -> tuple[float, float]:
    """||a - b|| / ||b|| over all tensors together, and of the worst single one."""
    parts = {key: (float((a[key] - b[key]).norm()), float(b[key].norm())) for key in b}
    whole = sum(d * d for d, _ in parts.values()) ** 0.5 / sum(n * n for _, n in parts.values()) ** 0.5
    return whole, max(d / n for d, n in parts.values() if n > 0)


def batch(seed: int, step: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and class indices on the CPU."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    x = torch.randn(*shape, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)[:, 0]
    return x, (smooth > 0).long()


def train_torch(model: torch.nn.Module, seed: int, steps: int, shape: tuple[int, ...]) -> tuple[float, Values, Values]:
    """First loss, first gradients, last state, all as float64."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        x, target = batch(seed, step, shape)
        loss = torch.nn.functional.cross_entropy(model(x.to(dtype)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            first = float(loss.detach()), {name: to64(p.grad) for name, p in model.named_parameters()}
    return *first, {name: to64(value) for name, value in model.state_dict().items()}


def train_ours(model: nn.Module, seed: int, steps: int, shape: tuple[int, ...]) -> tuple[float, Values, Values]:
    """The same with tritonnet."""
    optimizer = tn.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        x, target = batch(seed, step, shape)
        loss = nn.CrossEntropyLoss()(model(tn.from_torch(x.to(DEVICE))), tn.from_torch(target.to(DEVICE)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            first = float(loss), {name: to64(p.grad.torch()) for name, p in model.named_parameters()}
    return *first, {name: to64(value.torch()) for name, value in model.state_dict().items()}


# name: (network, torch's, arguments, image shape, steps)
CASES = {
    "transposed": (models.UNet, TorchUNet, (3, 2, 4, 2), (2, 3, 16, 16), 3),
    "bilinear": (models.UNet, TorchUNet, (3, 3, 4, 1, "bilinear"), (2, 3, 15, 18), 1),
}
GPU_CASES = {
    "transposed-16": (models.UNet, TorchUNet, (3, 2, 16, 4), (4, 3, 64, 64), 20),
    "bilinear-16": (models.UNet, TorchUNet, (3, 2, 16, 4, "bilinear"), (4, 3, 63, 50), 20),
    "poster-32": (models.PosterUNet, TorchPoster, (3, 2), (8, 3, 32, 32), 20),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.gpu) for name in GPU_CASES)])
def test_parity(name) -> None:
    ours_class, torch_class, arguments, shape, steps = (CASES | GPU_CASES)[name]
    ratios: dict[str, list[float]] = {}
    ours = ours_class(*arguments)
    for seed in range(5):
        torch.manual_seed(seed)
        theirs = torch_class(*arguments)
        ours.load_state_dict(theirs.state_dict())
        exact = torch_class(*arguments).double()
        exact.load_state_dict(theirs.state_dict())
        loss, gradients, state = train_ours(ours, seed, steps, shape)
        loss64, gradients64, state64 = train_torch(exact, seed, steps, shape)
        _, gradients32, state32 = train_torch(theirs, seed, steps, shape)
        assert abs(loss - loss64) <= 1e-6 * abs(loss64), f"seed {seed}: loss {loss}, float64 {loss64}"
        pairs = {"gradients": (gradients, gradients32, gradients64)}
        if steps > 1:  # after one step of Adam, lr * sign(gradient), all three states agree to the last bits
            pairs["state"] = (state, state32, state64)
        for what, (mine, single, double) in pairs.items():
            for kind, a, b in zip(("whole", "worst"), distance(mine, double), distance(single, double), strict=True):
                ratios.setdefault(f"{what}, {kind}", []).append(a / b)
    for what, values in ratios.items():
        assert statistics.median(values) <= 3, f"{what}: {[f'{v:.2g}' for v in values]} times as far as torch's float32"
