"""ResUNet against the paper's network written in torch, float64: forward and every gradient, on both paths, any image size."""

import pytest
import torch
from helpers import GPU, assert_close, randn, to64
from torch import nn

import tritonnet as tn
from tritonnet import models
from tritonnet.kernels import runtime
from tritonnet.models import summary
from tritonnet.nn import Identity
from tritonnet.nn import functional as F


class Unit(nn.Module):
    """Figure 1(b) of Zhang et al. 2018, with a projection on the shortcut where shapes differ."""

    def __init__(self, c: int, k: int, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        if not first:
            self.norm1 = nn.BatchNorm2d(c)
        self.conv1, self.norm2 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if c == k and stride == 1 else nn.Conv2d(c, k, 1, stride, bias=False)
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x if self.first else torch.relu(self.norm1(x)))
        return self.conv2(torch.relu(self.norm2(y))) + self.shortcut(x)


class TorchResUNet(nn.Module):
    """Table 1: levels 1 to depth + 1 down, then as many up but one, each behind an up-sampling and a concatenation."""

    def __init__(self, in_channels: int, num_classes: int, base: int, depth: int) -> None:
        super().__init__()
        width = [base * 2**i for i in range(depth + 1)]
        self.encoder = nn.ModuleList([Unit(in_channels, base, first=True)])
        self.encoder.extend(Unit(width[i], width[i + 1], 2) for i in range(depth))
        self.decoder = nn.ModuleList()
        for i in range(depth - 1, -1, -1):
            level = nn.Module()
            level.unit = Unit(width[i + 1] + width[i], width[i])
            self.decoder.append(level)
        self.head = nn.Conv2d(base, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for unit in self.encoder:
            x = unit(x)
            skips.append(x)
        for level, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            up = nn.functional.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=True)
            x = level.unit(torch.cat((skip, up), 1))
        return self.head(x)


def networks(in_channels: int, base: int, depth: int) -> tuple[models.ResUNet, TorchResUNet]:
    """Ours and torch's with the same values, running statistics included."""
    torch.manual_seed(0)
    theirs = TorchResUNet(in_channels, 2, base, depth)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2),
                (module.weight, 0.5, 2), (module.bias, -1, 1),
            ):  # fmt: skip
                nn.init.uniform_(value, low, high)
    ours = models.ResUNet(in_channels, 2, base, depth)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs.double()


# name: (channels in, base_channels, depth, image (N, H, W), training)
CASES = {
    "even": (3, 4, 2, (2, 8, 12), True),
    "odd": (3, 3, 2, (1, 9, 7), True),
    "evaluation": (3, 4, 2, (1, 10, 5), False),
    "same-channels": (4, 4, 1, (2, 5, 6), True),  # the first shortcut is the identity
    "least": (1, 2, 3, (2, 8, 8), True),
}


@pytest.mark.parametrize("path", ["fused", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_like_torch(name: str, path: str) -> None:
    c, base, depth, (n, h, w), training = CASES[name]
    ours, theirs = networks(c, base, depth)
    ours.train(training), theirs.train(training)
    calls = []
    if path == "plain":
        ours.decoder[0].unit.conv2.register_forward_hook(lambda *_: calls.append(1))
    assert ours.is_as_built() == (path == "fused")
    x = randn(n, c, h, w)
    mine, host = tn.from_torch(x, requires_grad=True), to64(x).requires_grad_()
    got, expected = ours(mine), theirs(host)
    assert got.shape == (n, 2, h, w)
    assert len(calls) == (path == "plain")
    assert_close(got.torch(), expected.detach(), 1e-5)
    dy = randn(*got.shape, seed=1)
    got.backward(tn.from_torch(dy))
    expected.backward(to64(dy))
    # float32 gradients pass a dozen batch norms, each of which may multiply an error
    assert_close(mine.grad.torch(), host.grad, 1e-4, what="input gradient")
    for (key, p), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(p.grad.torch(), other.grad, 1e-4, 1e-6, what=key)
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key].torch(), value, 1e-5, what=key)


@pytest.mark.skipif(not GPU, reason="16-bit matrix products need a GPU")
@pytest.mark.parametrize(("precision", "rtol"), [("bf16", 5e-2), ("fp16", 1e-2), ("tf32", 5e-3)])
def test_lower_precisions(precision: str, rtol: float) -> None:
    ours, theirs = networks(3, 16, 3)
    x = randn(2, 3, 65, 48)
    with tn.precision(precision), torch.no_grad():
        # rounding errors of about 30 layers add up like a random walk: sqrt(30) x eps x a few
        assert_close(ours.eval()(tn.from_torch(x)).torch(), theirs.eval()(to64(x)), rtol)


def test_fused_means_one_operation(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = networks(3, 4, 1)
    y = ours(tn.from_torch(randn(1, 3, 4, 6)))
    tn.graph(y)
    lines = [line.split(" = ")[1].split("(")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines.count("BatchNormReluConv2d") == 5  # two a unit, but one in the first
    assert "BatchNorm" not in lines
    assert "ReLU" not in lines


def test_replaced_child_is_called() -> None:
    ours, theirs = networks(3, 4, 1)

    class Spy(Identity):
        def forward(self, input: tn.Tensor) -> tn.Tensor:
            return F.relu(input)

    ours.encoder[1].relu2 = Spy()
    assert not ours.is_as_built()
    x = randn(2, 3, 5, 4)
    assert_close(ours(tn.from_torch(x)).torch(), theirs(to64(x)).detach(), 1e-5)


def test_size_of_the_papers_network() -> None:
    with runtime.recording("sm_90", lambda *_: None):
        ours = models.ResUNet(3, 1)
    convolutions = sum(p.numel() for key, p in ours.named_parameters() if ".conv" in key)
    assert convolutions == 7_780_032  # the paper says 7.8 million
    assert sum(p.numel() for p in ours.parameters()) == 8_216_769


def test_summary() -> None:
    rows = summary.rows(models.ResUNet(3, 2, base_channels=2, depth=1), (3, 9, 8))
    assert [(row.layer, row.shape) for row in rows if row.name.startswith("decoder.0.") and "unit" not in row.name] == [
        ("UpsampleTo", (4, 9, 8)),
        ("Concat with row 7", (6, 9, 8)),
    ]
    assert sum("Add with row" in row.layer for row in rows) == 3


def test_refuses() -> None:
    with pytest.raises(tn.Refused, match="depth must be at least 1, got 0"):
        models.ResUNet(3, 2, depth=0)
    with pytest.raises(tn.Refused, match="H and W at least 4, got shape"):
        models.ResUNet(3, 2, 2, 2)(tn.from_torch(randn(1, 3, 3, 8)))
