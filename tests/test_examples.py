"""The examples run and print what they promise."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import write_folder

from tritonnet.train import Config

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_train_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data")
    small = {"model": "unet", "base_channels": 4, "depth": 1, "size": 16, "epochs": 1, "precision": "fp32"}
    monkeypatch.setattr(Config, "for_machine", lambda **chosen: Config(**{**small, **chosen}))
    run("train_your_own.py", str(data), str(tmp_path / "run"), monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "best IoU" in out
    assert "5 masks" in out
    code = (EXAMPLES / "train_your_own.py").read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize(
    ("arguments", "says"), [((), "usage: "), (("nowhere", "run"), "error: .*nowhere: no such folder")]
)
def test_train_your_own_takes_a_mistake_in_one_line(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=says) as ended:
        run("train_your_own.py", *arguments, monkeypatch=monkeypatch)
    assert "\n" not in str(ended.value)


def test_conv_transpose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("conv_transpose_4x4.py", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "x (1, 1, 4, 4)" in out
    assert "y (1, 1, 8, 8)" in out
    assert "[[ 4.  6.  8. 10." in out  # by hand: 4*1, 2*1 + 2*2, 4*2, 2*2 + 2*3


def test_write_a_kernel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("write_a_kernel.py", monkeypatch=monkeypatch)
    assert "largest difference" in capsys.readouterr().out


def test_initialisation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("initialisation.py", "--widths", "4,4,8,8", "--size", "6", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith("conv")]) == 4
    # by hand: sqrt(2 / (9 * 4)) / .01 = 23.57, sqrt(2 / (9 * 8)) / .01 = 16.67, and 23.57 * 16.67 * 16.67
    assert "shrinks 6.55e+03 times" in out
    assert "over 0.01 is 6.55e+03" in out


def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("mnist.py", "--limit", "16", "--epochs", "2", "--batch-size", "8", "--networks", "mlp", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "made digits, not MNIST: 16 images" in out
    first, second = (float(line.split("loss ")[1].split()[0]) for line in out.splitlines() if "loss" in line)
    assert second < first
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    for prefix in ("train", "t10k"):
        for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(4, dtype=np.uint8))):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4) for size in values.shape)
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(head + values.tobytes())
    run("mnist.py", "--data", str(tmp_path), "--epochs", "1", "--networks", "cnn", monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "MNIST: 4 images to train on, 4 to test with" in out
    assert "cnn: 421,642 parameters" in out
    assert "of the test images of MNIST" in out


def test_transfer_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--size 16 --base-channels 2 --depth 1 --many 5 --few 5 --epochs 1 --first-epochs 1 --lr 1e-2"
    run("transfer_learning.py", str(tmp_path / "out"), *small.split(), monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "starts anew: outc.conv.weight (2, 2, 1, 1), there (3, 2, 1, 1)" in out
    lines = out.splitlines()
    assert lines[-3].startswith("IoU of the cells on 1 validation images")
    assert lines[-2].split() == ["epoch", "anew", "tuned"]
    assert [float(number) >= 0 for number in lines[-1].split()] == [True] * 3
