"""Starting from another model: what fits is taken over, the rest starts anew, and both are said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_folder
from PIL import Image
from small import Small, train_small

import tritonnet as tn
from tritonnet import io
from tritonnet.io import ModelFileError
from tritonnet.kernels.runtime import Refused
from tritonnet.train import Config, Listener, Trained, train
from tritonnet.train.finetune import initialise, network_of


class Heard(Listener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)


def test_three_classes_from_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(monkeypatch)
    config = Config(depth=1, size=8, batch_size=4, epochs=1, cells=5, lr=1e-9)
    train(replace(config, out=str(tmp_path / "two")), Heard())
    data = write_folder(tmp_path / "data")
    for path in (data / "masks").iterdir():
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 3).save(path)
    listener, best = Heard(), tmp_path / "two" / "best.h5"
    train(replace(config, out=str(tmp_path / "three"), data=str(data), init=str(best)), listener)
    expected = "starts anew: head.weight (3, 2, 1, 1), there (2, 2, 1, 1); head.bias (3,), there (2,)"
    (said,) = (line for line in listener.heard if line.startswith(f"from {best}: 6 of 8 tensors, "))
    assert said.endswith(expected)
    ours, theirs = (Trained.load(tmp_path / run / "best.h5").network.state_dict() for run in ("three", "two"))
    # a step at such a learning rate changes a weight by 1e-9
    assert np.abs(ours["first.weight"].numpy() - theirs["first.weight"].numpy()).max() <= 1e-8
    assert ours["head.weight"].shape == (3, 2, 1, 1)


def test_published_weights_and_another_number_of_channels(tmp_path: Path) -> None:
    model = tn.models.UNet(3, 2, base_channels=2, depth=1)
    state = {key: torch.from_numpy(value.numpy()) for key, value in model.state_dict().items()}
    torch.save({**state, "mask_values": [0, 255]}, tmp_path / "unet.pth")
    grey, lines = tn.models.UNet(1, 2, base_channels=2, depth=1), []
    initialise(grey, tmp_path / "unet.pth", lines.append)
    assert lines[0].endswith("; starts anew: inc.double_conv.0.weight (2, 1, 3, 3), there (2, 3, 3, 3)")
    assert np.array_equal(grey.state_dict()["outc.conv.weight"].numpy(), model.state_dict()["outc.conv.weight"].numpy())
    io.save_safetensors(tmp_path / "unet.safetensors", {k: v.numpy() for k, v in model.state_dict().items()})
    initialise(model, tmp_path / "unet.safetensors", lines.append)
    assert lines[1].endswith("40 of 40 tensors, 524 of 524 numbers")
    assert network_of(tmp_path / "unet.pth") == {}


def test_a_run_says_which_network_it_holds(tmp_path: Path) -> None:
    model = tn.models.UNet(3, 5, base_channels=2, depth=1, upsample="bilinear")
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    io.save_model(tmp_path / "best.h5", {"model": model.config, "data": {"size": 48}}, weights)
    found = {"model": "unet", "base_channels": 2, "depth": 1, "upsample": "bilinear", "size": 48}
    found |= {"skip": "concat", "down": "pool", "dropout": 0.0}
    assert network_of(tmp_path / "best.h5") == found


def test_refuses(tmp_path: Path) -> None:
    model = tn.models.UNet(3, 2, base_channels=2, depth=1)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    io.save_model(tmp_path / "best.h5", {}, weights)
    before = Small(3, 2)
    with pytest.raises(Refused, match=r"init must be a model of this network, got .*best\.h5 with 0 of 21 numbers"):
        initialise(before, tmp_path / "best.h5", print)
    with pytest.raises(Refused, match="choose --model, --base-channels, --depth, --upsample, --skip and --down as"):
        initialise(tn.models.UNet(3, 2, base_channels=4, depth=1), tmp_path / "best.h5", print)
    with pytest.raises(ModelFileError, match="no such file"):
        initialise(before, tmp_path / "none.h5", print)
