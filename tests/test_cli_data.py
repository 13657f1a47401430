"""`tritonnet data`: what it prints, what it writes, and mistakes in one line."""

from pathlib import Path

import numpy as np
import pytest
from pictures import block, noise, put, write_folder, write_pairs
from PIL import Image

from tritonnet.cli import main
from tritonnet.train import Trained

QUICK = (
    *("--model", "unet", "--base-channels", "4", "--depth", "1", "--size", "16"),
    *("--batch-size", "4", "--epochs", "1", "--precision", "fp32"),
)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def run(*arguments: str | Path) -> int:
    """The exit code of the program."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("tritonnet: error: ")
    return lines[0]


def test_dim_16_bit_images_are_named_and_drawn_dim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "in", block)
    for i in range(6):  # of 12 and of 16 bits
        grey = noise(i)[..., 0].astype(np.uint16) * (16 if i < 3 else 257)
        (tmp_path / "in" / "images" / f"n{i}.png").unlink()
        Image.fromarray(grey).save(tmp_path / "in" / "images" / f"n{i}.tif")
    assert run("data", "check", tmp_path / "in") == 0
    assert "3 of 6 images have 16 bits a value but use none above 4080 of 65535" in capsys.readouterr().out
    assert run("data", "preview", tmp_path / "in", "--size", 16, "--out", tmp_path / "sheet.png") == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    step = sheet.shape[1] // 6
    dark, bright = (sheet[60:200, n * step + 20 : n * step + 100].mean() for n in (0, 5))
    assert dark < bright / 4


@pytest.mark.parametrize("command", [(), ("check",), ("pack",), ("preview",)])
def test_help_teaches(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", *command, "--help") == 0
    assert "tritonnet data " in capsys.readouterr().out
    if not command:
        assert run("data") == 0
        assert "preview" in capsys.readouterr().out


def test_check_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path, block)
    assert run("data", "check", tmp_path, "--val", "every:2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Masks hold 0 and 255; 255 is taken as class 1 (foreground): 23 % of the pixels"
    assert "6 images: 3 train, 3 val" in lines


def test_check_lists_faults_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path, block)
    (tmp_path / "images" / "n1.png").write_bytes(b"")
    (tmp_path / "masks" / "n2.png").unlink()
    assert run("data", "check", tmp_path) == 2
    printed = capsys.readouterr()
    assert printed.out.count("FAULT: ") == 2
    assert printed.err == f"tritonnet: error: {tmp_path}: training could not start; mend what is marked FAULT above\n"


def test_train_says_it_before_the_first_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "data", lambda i: block() * 0 + (np.arange(24) > 0))  # all but one column
    assert run("train", "--data", tmp_path / "data", *QUICK, "--out", tmp_path / "run") == 0
    out = capsys.readouterr().out
    warning, sentence = out.index("warning: class 1 fills 96 %"), out.index("Masks hold 0 and 1")
    assert warning < sentence < out.index("epoch 1/1")
    for path in (tmp_path / "data" / "masks").iterdir():
        put(path, block() * 0)
    assert run("train", "--data", tmp_path / "data", *QUICK, "--out", tmp_path / "run2") == 2
    assert "every pixel of every mask is 0: nothing to learn" in one_line(capsys)


def test_pack_trains_like_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data")
    assert run("data", "pack", data, tmp_path / "d.h5", "--size", "16") == 0
    assert "5 images of 16x16 in" in capsys.readouterr().out
    for source in ("data", "d.h5"):
        assert run("train", "--data", tmp_path / source, *QUICK, "--out", tmp_path / f"run-{source}") == 0
    scores = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best validation IoU")]
    assert len(scores) == 2
    assert scores[0] == scores[1]
    # a model of the one knows the masks of the other
    assert run("evaluate", tmp_path / "run-d.h5" / "best.h5", "--data", data) == 0
    assert run("evaluate", tmp_path / "run-data" / "best.h5", "--data", tmp_path / "d.h5") == 0
    assert run("data", "check", tmp_path / "d.h5", "--size", "16") == 0
    assert "equal images: none" in capsys.readouterr().out


def test_colours_go_from_masks_to_predictions(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", lambda i: COLOURS[np.arange(480).reshape(20, 24) // 50 % 3])
    assert run("train", "--data", data, *QUICK, "--out", tmp_path / "run") == 0
    trained = Trained.load(tmp_path / "run" / "best.h5")
    assert trained.mapping.rule == "colours"
    assert trained.palette == [(0, 0, 0), (0, 255, 0), (255, 0, 0)]
    assert run("predict", tmp_path / "run" / "best.h5", data / "images", "--out", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "masks" / "n0.png") as mask:
        assert mask.getpalette()[:9] == [0, 0, 0, 0, 255, 0, 255, 0, 0]
    # what was predicted is a dataset again
    assert run("evaluate", tmp_path / "run" / "best.h5", "--data", data, "--split", "all") == 0


def test_preview_draws_outlines(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", lambda i: np.where(np.arange(24) < 3, 255, block(i, 1)).astype(np.uint8))
    put(tmp_path / "data" / "images" / "n0.tif", noise(0)[:, :, 0].astype(np.uint16) * 9)  # 16 bits, and dark
    (tmp_path / "data" / "images" / "n0.png").unlink()
    sheet = tmp_path / "new" / "\u00fcbersicht 1.png"
    assert run("data", "preview", tmp_path / "data", "--out", sheet, "--size", "24", "--count", "4") == 0
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    side = 24 * 11  # enlarged to at least 256
    assert pixels.shape == (side + 6 + 16 + 6, 4 * (side + 6) + 6, 3)
    first = pixels[6 + 14 : 6 + 14 + side, 6 : 6 + side]
    cyan = (first == (0, 210, 255)).all(axis=2)
    assert 0 < cyan.mean() < 0.1  # lines, not areas
    assert first.max() > 200  # stretched to the range of what the picture holds
    ignored = first[:, : 24 * 3 * 11 // 24]
    assert ignored.min() >= 64
    assert ignored.max() < 192


def test_preview_shows_what_augmentation_does(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", block)
    sheets = [tmp_path / f"{name}.png" for name in ("plain", "first", "second")]
    for sheet, augment in zip(sheets, ("", "rotate, elastic", "rotate, elastic"), strict=True):
        assert (
            run(
                "data",
                "preview",
                tmp_path / "data",
                "--out",
                sheet,
                "--size",
                "24",
                "--count",
                "2",
                "--augment",
                augment,
            )
            == 0
        )
    plain, first, second = (sheet.read_bytes() for sheet in sheets)
    assert first == second != plain


MISTAKES = {
    "bad-augmentation": (("preview", "DATA", "--augment", "spin"), "augment: must be names among turns, rotate"),
    "no-data": (("check", "nowhere"), "nowhere: no such folder"),
    "no-argument": (("check",), "Missing argument"),
    "bad-size": (("check", "DATA", "--size", "0"), "--size"),
    "bad-val": (("check", "DATA", "--val", "every:1"), "every:1"),
    "exists": (("pack", "DATA", "there.h5"), "there.h5: is there already"),
    "no-folder": (("pack", "DATA", "no/where.h5", "--size", "8"), "no/where.h5: cannot be written (No such file"),
    "bad-ending": (("preview", "DATA", "--out", "sheet.doc"), "sheet.doc: must end in one of .png"),
    "not-hdf5": (("check", "there.h5"), "there.h5: not a folder or an HDF5 file"),
    "no-count": (("preview", "DATA", "--count", "0"), "--count"),
    "no-command": (("fly",), "No such command"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("data"), block)
    Path("there.h5").write_text("no HDF5")
    arguments, says = MISTAKES[name]
    assert run("data", *("data" if argument == "DATA" else argument for argument in arguments)) == 2
    assert says in one_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "there.h5"]
