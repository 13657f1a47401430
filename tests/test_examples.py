"""The examples run and print what they promise."""

import runpy
import sys
from pathlib import Path

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
