"""PosterUNet: its table row by row, its forward, the one-channel head."""

import numpy as np
import pytest
import torch
from helpers import assert_close, randn, to64
from torch_networks import TorchPoster

import tritonnet as tn
from tritonnet import models, nn
from tritonnet.models import summary

DOUBLE = ["Conv 3x3", "BatchNorm", "ReLU"] * 2
UP = "ConvTranspose 3x3, stride 2"
LAYERS = [
    "Input", *DOUBLE, "MaxPool 2", *DOUBLE, "MaxPool 2", *DOUBLE, UP, "Conv 3x3", "Concat with row 14", *DOUBLE, UP,
    "Conv 3x3", "Concat with row 7", *DOUBLE, "Conv 1x1", "Softmax", "Output",
]  # fmt: skip
SHAPES = [
    (3, 32, 32), *[(16, 32, 32)] * 6, (16, 16, 16), *[(32, 16, 16)] * 6, (32, 8, 8), *[(64, 8, 8)] * 6, (64, 16, 16),
    (32, 16, 16), (64, 16, 16), *[(32, 16, 16)] * 6, (32, 32, 32), (16, 32, 32), (32, 32, 32), *[(16, 32, 32)] * 6,
    *[(1, 32, 32)] * 3,
]  # fmt: skip
PARAMETERS = [
    0, 432, 32, 0, 2304, 32, 0, 0, 4608, 64, 0, 9216, 64, 0, 0, 18432, 128, 0, 36864, 128, 0, 36864, 18432, 0,
    18432, 64, 0, 9216, 64, 0, 9216, 4608, 0, 4608, 32, 0, 2304, 32, 0, 16, 0, 0,
]  # fmt: skip


@pytest.fixture(scope="module")
def poster() -> models.PosterUNet:
    return models.PosterUNet()


def test_the_table_row_by_row(poster) -> None:
    rows = summary.rows(poster, (3, 32, 32))
    assert [row.layer for row in rows] == LAYERS
    assert len(rows) == 42
    assert [row.shape for row in rows] == SHAPES
    assert [row.parameters for row in rows] == PARAMETERS
    assert sum(PARAMETERS) == 176_192


def test_summary_prints_the_table(poster, capsys) -> None:
    poster.summary()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 44
    assert lines[0].split() == ["row", "name", "layer", "output", "parameters"]
    assert lines[2].split() == ["2", "down1.double_conv.0", "Conv", "3x3", "16,32,32", "432"]
    assert lines[33].split() == ["33", "concat2", "Concat", "with", "row", "7", "32,32,32", "0"]
    assert lines[-1] == "PosterUNet: 176,192 parameters"
    assert poster.training, "a summary leaves the network as it was"
    assert poster.is_as_built()


def test_parameters_with_two_classes() -> None:
    assert sum(p.numel() for p in models.PosterUNet(3, 2).parameters()) == 176_208


def test_one_channel_of_softmax_is_one_everywhere(poster) -> None:
    assert (poster.whole(tn.from_torch(randn(1, 3, 8, 4))).numpy() == 1).all()


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_forward_and_gradients_like_torch(size) -> None:
    torch.manual_seed(1)
    theirs = TorchPoster(3, 2)
    ours = models.PosterUNet(3, 2)
    ours.load_state_dict(theirs.state_dict())
    x = randn(2, 3, *size)
    got, expected = ours(tn.from_torch(x)), theirs.double()(to64(x))
    assert_close(got.torch(), expected.detach(), 1e-5)
    dy = randn(*got.shape, seed=1)
    got.backward(tn.from_torch(dy))
    expected.backward(to64(dy))
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # a float32 network's gradients pass a dozen batch norms, each of which may multiply an error
        assert_close(mine.grad.torch(), other.grad, 1e-4, what=name)
    assert_close(ours.eval()(tn.from_torch(x)).torch(), theirs.eval()(to64(x)).detach(), 1e-5, what="evaluation")
    ours.down1.double_conv[2].register_forward_hook(lambda *_: None)
    assert not ours.is_as_built()
    assert_close(ours(tn.from_torch(x)).torch(), theirs(to64(x)).detach(), 1e-5, what="plain path")


def test_unet_summary(capsys) -> None:
    model = models.UNet(3, 2, base_channels=2, depth=2)
    model.up1.requires_grad_(False)
    model.summary((3, 17, 16))
    lines = capsys.readouterr().out.splitlines()
    assert lines[14].split() == ["14", "down1.maxpool_conv.1.double_conv.5", "ReLU", "4,8,8", "0"]
    assert any(line.split()[1:] == ["up2.concat", "Concat", "with", "row", "7", "4,17,16", "0"] for line in lines)
    total = sum(p.numel() for p in model.parameters())
    frozen = sum(p.numel() for p in model.up1.parameters())
    assert lines[-1] == f"UNet: {total:,} parameters ({total - frozen:,} trained)"
    assert sum(row.parameters for row in summary.rows(model, (3, 17, 16))) == total


def test_summary_shows_what_was_put_in() -> None:
    model = models.UNet(3, 2, base_channels=2, depth=1)
    model.inc.double_conv[2] = nn.Tanh()
    assert [row.layer for row in summary.rows(model, (3, 8, 8))][3] == "Tanh"


CONFIGS = {
    "unet": {
        "model": "unet",
        "in_channels": 1,
        "num_classes": 3,
        "base_channels": 2,
        "depth": 2,
        "upsample": "bilinear",
        "skip": "add",
        "down": "conv",
        "dropout": 0.2,
    },
    "resunet": {"model": "resunet", "in_channels": 1, "num_classes": 3, "base_channels": 2, "depth": 2},
    "poster": {"model": "poster", "in_channels": 3, "num_classes": 2},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_build_from_its_config(name) -> None:
    model = models.build(CONFIGS[name])
    assert model.config == CONFIGS[name]
    again = models.build(model.config)
    again.load_state_dict(model.state_dict())
    for key, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), again.state_dict()[key].numpy())


def test_build_refuses() -> None:
    with pytest.raises(tn.Refused, match=r"model must be one of unet, resunet, poster, got 'vgg'"):
        models.build({"model": "vgg"})
    with pytest.raises(tn.Refused, match=r"unet does not take these arguments: .*width"):
        models.build({"model": "unet", "width": 3})
