"""The program: what it prints, and that a user's mistake is one line on stderr and exit code 2."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pictures import write_folder
from PIL import Image
from small import train_small

import tritonnet as tn
from tritonnet.cli import main
from tritonnet.cli.progress import TerminalListener
from tritonnet.kernels.runtime import INTERPRET
from tritonnet.train import Config, Listener

QUICK = (
    *("--model", "unet", "--base-channels", "4", "--depth", "1", "--size", "16"),
    *("--batch-size", "4", "--epochs", "1", "--cells", "5", "--precision", "fp32"),
)


def run(*arguments: str | Path) -> int:
    """The exit code of the program."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder made by the program, from a folder of images and masks beside it."""
    root = tmp_path_factory.mktemp("cli")
    data = write_folder(root / "data")
    assert run("train", "--data", data, *QUICK, "--out", root / "run") == 0
    return root / "run"


COMMANDS = [
    (),
    ("train",),
    ("evaluate",),
    ("predict",),
    ("summary",),
    ("inspect",),
    ("demo",),
    ("profile",),
    ("tune",),
    ("doctor",),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    text = capsys.readouterr().out
    assert "tritonnet" in text
    if command in (("train",), ("evaluate",), ("predict",), ("summary",), ("inspect",), ("profile",), ("tune",)):
        assert "Example" in text


def test_train_has_an_option_for_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help") == 0
    text = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')} " in text for field in fields(Config))
    assert "[default: 256; without a GPU 32]" in " ".join(text.replace("│", " ").split())


def test_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tritonnet.train.report.QUIET_SECONDS", -1.0)
    plain, bar = Listener(), TerminalListener()
    row = dict.fromkeys(("epoch", "train_loss", "val_loss", "iou", "dice", "pixel_accuracy", "images_per_second"), 1.0)
    for listener in (plain, bar):
        listener.begin(3, 10, 2, 0.0)  # a run that goes on after three of ten steps
        listener.step(10, 12.5)
        listener.epoch(row)
    assert bar.bar is not None
    assert bar.bar.tasks[0].completed == bar.bar.tasks[0].total
    assert bar.bar.tasks[0].fields["speed"] == "12.5 images/s, 0:00 left"
    bar.end()
    out = capsys.readouterr().out
    assert out.startswith("  step 10/10  12.5 images/s  0:00 left\n")
    assert out.count("epoch 1/2  train loss 1.0000") == 2


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "train" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"tritonnet {tn.__version__}\n"


def test_demo_says_how_many_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    configs: list[Config] = []
    app = importlib.import_module("tritonnet.cli.app")
    monkeypatch.setattr(app, "INTERPRET", True)
    monkeypatch.setattr(app, "train_network", lambda config, *_, **__: configs.append(config))
    with pytest.raises(AttributeError):
        main(["demo"])
    steps = configs[0].epochs * -(-(configs[0].cells * 4 // 5) // 8)
    run("demo", "--help")
    assert f"{steps} steps of 8 images" in " ".join(capsys.readouterr().out.split())


def test_train_prints_where_to_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *QUICK, "--out", tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "best validation IoU" in out
    assert f"{tmp_path / 'run'}/samples" in out


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", trained / "best.h5", "--split", "all") == 0
    out = capsys.readouterr().out
    title, background, foreground, pooled, worst, best = out.splitlines()[-6:]
    assert title.split() == ["class", "IoU", "Dice", "precision", "recall"]
    assert background.startswith("background ")
    assert foreground.startswith("foreground ")
    assert pooled.startswith(f"iou {float(foreground.split()[1]):.4f}  dice ")
    assert worst.startswith("worst  cell_")
    assert best.startswith("best   cell_")


def test_evaluate_as_json(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", trained / "best.h5", "--split", "train", "--json", "--out", tmp_path / "scores") == 0
    scores = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert sum(map(sum, scores["matrix"])) == 4 * 16 * 16
    assert len(scores["image_iou"]) == 4
    assert scores["iou"] == scores["class_iou"][1]
    assert {"worst_1.png", "best_1.png", "confusion_matrix.png"} <= {p.name for p in (tmp_path / "scores").iterdir()}


def test_predict(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", trained / "last.h5", trained.parent / "data" / "images", "--out", tmp_path) == 0
    assert f"5 masks in {tmp_path / 'masks'}" in capsys.readouterr().out
    assert len(list((tmp_path / "overlays").iterdir())) == 5


def test_predict_and_evaluate_in_tiles_as_json(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, data = ("--tiles", "--tile-size", 8, "--json"), trained.parent / "data"
    assert run("predict", trained / "best.h5", data / "images", "--out", tmp_path, *options) == 0
    out, err = capsys.readouterr()
    masks = json.loads(out)
    assert set(masks) == {str(path) for path in (tmp_path / "masks").iterdir()}
    assert len([line for line in err.splitlines() if ": background " in line]) == 5
    assert run("evaluate", trained / "best.h5", "--split", "all", *options) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["tiles"], scores["size"], scores["loss"]) == (True, 8, None)
    found = [sum(mask[name] for mask in masks.values()) for name in ("background", "foreground")]
    assert np.sum(scores["matrix"], axis=0).tolist() == found


def test_predict_tiles_and_names_what_it_could_not_read(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.full((20, 18, 3), 90, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "c.png").write_bytes(b"no picture")
    options = ("--tiles", "--overlap", "0.5", "--tile-size", "16", "--probabilities", tmp_path / "p.h5")
    assert run("predict", trained / "best.h5", tmp_path / "in", "--out", tmp_path / "out", *options) == 2
    assert "c.png: cannot be read as PNG, JPEG, TIFF, GIF or BMP" in (line := one_line(capsys))
    assert line.endswith("; 2 of 3 pictures are done")
    assert (tmp_path / "out" / "masks" / "sub" / "b.png").is_file()
    assert (tmp_path / "p.h5").is_file()


@pytest.mark.parametrize("named", ["", "last.h5"])
def test_resume_of_a_finished_run(named: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--resume", trained / named) == 0
    out = capsys.readouterr().out
    assert f"this run is finished; to train on from its weights: tritonnet train --init {trained}/best.h5" in out
    assert "on 1 image at 16 x 16" in out


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What `train` would have trained."""
    configs: list[Config] = []

    def keep(config: Config, *_: object) -> None:
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("tritonnet.cli.app"), "train_network", keep)
    return configs


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path, asked: list[Config]) -> None:
    file = tmp_path / "run.toml"
    file.write_text("epochs = 7\nlr = 0.5\nclip = 0.25\n")
    assert run("train", "--config", file, "--lr", "0.125") == 130
    (config,) = asked
    assert (config.epochs, config.lr, config.clip, config.momentum) == (7, 0.125, 0.25, 0.9)
    assert config == Config.for_machine(epochs=7, lr=0.125, clip=0.25)


def test_init_brings_its_network(trained: Path, asked: list[Config]) -> None:
    assert run("train", "--init", trained / "best.h5") == 130
    assert run("train", "--init", trained / "best.h5", "--size", "48") == 130
    for config, size in zip(asked, (16, 48), strict=True):
        assert (config.model, config.base_channels, config.depth, config.size) == ("unet", 4, 1, size)
        assert config.init == str(trained / "best.h5")


def test_sigterm_saves_and_exits_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_small(monkeypatch)
    monkeypatch.setattr(Listener, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run("train", *QUICK, "--out", tmp_path / "run") == 128 + signal.SIGTERM
    out = capsys.readouterr().out
    assert f"stopped after step 1 and saved; go on with: tritonnet train --resume {tmp_path / 'run'}" in out


def test_summary(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("summary", "--model", "poster") == 0
    assert "176,192" in capsys.readouterr().out
    assert run("summary", "--model", "resunet", "--base-channels", "4", "--depth", "1") == 0
    assert "decoder.0.up" in capsys.readouterr().out
    assert run("summary", "--base-channels", "4", "--depth", "1", "--skip", "add", "--down", "conv") == 0
    out = capsys.readouterr().out
    assert re.search(r"up1\.add +Add with row 7 ", out)
    assert re.search(r"maxpool_conv\.0 +Conv 2x2, stride 2 ", out)
    assert run("summary", trained / "best.h5") == 0
    assert "UNet: 1,754 parameters" in capsys.readouterr().out


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    code = run("profile", "--model", "poster", "--size", "32", "--batch-size", "2")
    out, err = capsys.readouterr()
    if INTERPRET:
        assert code == 2
        assert "error: [profile] a GPU must be there" in err
    else:
        assert code == 0
        assert "_adam_step_kernel" in out
        assert "of peak" in out


def test_tune(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if not INTERPRET:
        pytest.skip("takes a minute on a GPU; its parts are tested in tests/measure")
    assert run("tune", "--model", "poster", "--out", tmp_path / "table.json") == 2
    assert "error: [tune] a GPU must be there" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert "the convolution runs and is right" in capsys.readouterr().out


# --- mistakes ---


def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data")
    (data / "images" / "cell_0.png").write_bytes(b"no picture")
    assert run("train", "--data", data, *QUICK, "--out", tmp_path / "run") == 2
    assert "cell_0.png: cannot be read" in one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("tritonnet: error: ")
    return lines[0]


MISTAKES = {
    "no-command": (("fly",), "No such command"),
    "no-option": (("train", "--speed", "9"), "; tritonnet train --help explains"),
    "no-number": (("train", "--epochs", "many"), "--epochs"),
    "bad-choice": (("train", "--model", "vgg"), "model must be one of unet, resunet, poster, got 'vgg'"),
    "bad-loss": (("train", "--loss", "ce + iou"), "each term must be one of ce, focal, dice, distance, got 'iou'"),
    "bad-size": (("train", "--size", "0"), "size must be at least 1"),
    "too-large": (("train", "--size", "1000000"), "size must be at least 1 and at most 8192, got 1000000"),
    "of-unet": (("train", "--model", "poster", "--depth", "3"), "add --model unet, or leave out --depth"),
    "of-unet-too": (("summary", "--model", "poster", "--base-channels", "8"), "add --model unet"),
    "summary-too-small": (("summary", "--size", "3"), "got shape (N, 3, 3, 3)"),
    "out-below-a-file": (("train", *QUICK, "--out", "README/run"), "README/run: --out must be a folder that can be"),
    "predict-below-a-file": (("predict", "MODEL", "README", "--out", "README/x"), "README/x: --out must be"),
    "evaluate-below-a-file": (("evaluate", "MODEL", "--out", "README"), "README: --out must be"),
    "too-small": (("train", "--model", "unet", "--size", "8"), "size must be at least 16 for this network, got 8"),
    "no-data": (("train", "--data", "nowhere"), "nowhere"),
    "empty-data": (("train", "--data", "", *QUICK), "--data must not be empty"),
    "a-folder": (("evaluate", "."), "is a folder; name a file in it"),
    "no-classes": (("summary", "--classes", "0"), "--classes"),
    "bad-val": (("train", *QUICK, "--val", "every:1"), "every:1"),
    "no-model": (("predict", "none.h5", "x.png"), "none.h5"),
    "no-argument": (("predict",), "Missing argument"),
    "no-run": (("train", "--resume", "nowhere"), "must be a run folder"),
    "bad-config": (("train", "--config", "README"), "README must be TOML"),
    "no-config": (("train", "--config", "none.toml"), "none.toml must be a file such as the config.toml"),
    "no-init": (("train", *QUICK, "--init", "none.h5"), "none.h5: no such file"),
    "resume-with-options": (
        ("train", "--resume", "run", "--size", "8"),
        "leave out --size, or start a new run from its weights with --init run/best.h5",
    ),
    "bad-split": (("evaluate", "MODEL", "--split", "best"), "split must be one of"),
    "no-picture": (("predict", "MODEL", "nowhere.png"), "nowhere.png"),
    "not-a-model": (("evaluate", "README"), "README"),
    "bad-overlap": (("predict", "MODEL", "README", "--tiles", "--overlap", "1"), "be from 0 to below 1, got 1"),
    "overlap-of-no-tiles": (("predict", "MODEL", "README", "--overlap", "0.5"), "overlap must come with tiles"),
    "tile-too-small": (("predict", "MODEL", "README", "--tiles", "--tile-size", "1"), "tile_size must"),
    "bad-tta": (("predict", "MODEL", "README", "--tta", "all"), "tta must be one of none, flips"),
    "out-inside": (("predict", "MODEL", ".", "--out", "./out"), "must not lie in"),
    "no-folder-for-probabilities": (
        ("predict", "MODEL", "README", "--probabilities", "none/p.h5"),
        "must be a new file",
    ),
    "summary": (("summary", "--model", "poster", "--in-channels", "0"), "in_channels must be at least 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(
    name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README").write_text("no model file")
    arguments, says = MISTAKES[name]
    capsys.readouterr()
    assert run(*(trained / "best.h5" if argument == "MODEL" else argument for argument in arguments)) == 2
    assert says in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["README"]  # no half-made run folder


def test_names_keep_their_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--data", "two  blanks") == 2
    assert "two  blanks: no such folder" in one_line(capsys)


def test_host_memory_is_said(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def starve(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 34359738368 bytes")

    monkeypatch.setattr(importlib.import_module("tritonnet.cli.app"), "evaluate_model", starve)
    assert run("evaluate", trained / "best.h5") == 2
    assert "out of memory" in one_line(capsys)


def test_demo_spares_a_run_on_real_data(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--out", trained) == 2
    assert f"or go on with tritonnet train --resume {trained}" in one_line(capsys)
    assert (trained / "best.h5").is_file()


def test_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tritonnet", "train", "--data", str(tmp_path)]
    where = Path(__file__).parent.parent
    environment = {**os.environ, "TRITON_INTERPRET": "1"} if INTERPRET else dict(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, cwd=where, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tritonnet: error: ")
    assert done.stderr.count("\n") == 1
