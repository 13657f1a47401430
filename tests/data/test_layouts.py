"""Folders as they come: Carvana's names, other people's clutter, and faults that a beginner can mend."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import block, noise, put, write_pairs
from PIL import Image

from tritonnet.data import DataError, Dataset, check, open_dataset


def carvana(images: str, masks: str, root: Path) -> Dataset:
    for i in range(5):
        put(root / images / f"car {i}.jpg", noise(i))
        put(root / masks / f"car {i}_mask.gif", block(i))
    return open_dataset(root, 24)


@pytest.mark.parametrize(("images", "masks"), [(".", "."), ("images", "masks"), ("train", "train_masks")])
def test_carvana(images: str, masks: str, tmp_path: Path) -> None:
    data = carvana(images, masks, tmp_path)
    assert data.names == tuple(f"car {i}" for i in range(5))
    assert set(np.unique(data.sample(0)[1])) == {0, 1}
    (tmp_path / masks / "car 3_mask.gif").unlink()
    with pytest.raises(DataError, match=r"car 3\.jpg: has no mask; add .*car 3_mask\.png"):
        open_dataset(tmp_path, 24)


def test_other_files_with_such_names_make_no_layout(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise(1))
    (tmp_path / "a_mask.npy").touch()
    with pytest.raises(DataError, match=r"must hold images/ and masks/, and holds a\.png, a_mask\.npy"):
        open_dataset(tmp_path, 8)


def test_an_image_may_itself_be_called_mask(tmp_path: Path) -> None:
    for name in ("a", "a_mask"):
        put(tmp_path / "images" / f"{name}.png", noise(1))
        put(tmp_path / "masks" / f"{name}.png", block())
    assert open_dataset(tmp_path, 8, val="none").names == ("a", "a_mask")


def test_names_of_every_kind_and_clutter(tmp_path: Path) -> None:
    write_pairs(tmp_path, block)
    # the same name, as Linux and as macOS spell it
    os.rename(tmp_path / "images" / "n0.png", tmp_path / "images" / "K\u00f6rper Nr 1.PNG")
    os.rename(tmp_path / "masks" / "n0.png", tmp_path / "masks" / "Ko\u0308rper Nr 1.Png")
    for name in (".DS_Store", "._n1.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "images" / name).write_text("no picture")
    (tmp_path / "masks" / "__MACOSX").mkdir()
    data = open_dataset(tmp_path, 8)
    assert data.names[0] == "K\u00f6rper Nr 1"
    assert not any("warning" in note for note in data.notes)


def test_a_read_only_folder_is_enough(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data", block)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for mode in (0o555, 0o755):
        for folder in ("data", "data/images", "data/masks"):
            (tmp_path / folder).chmod(mode)
        if mode == 0o555:
            lines, faults = check(tmp_path / "data", 8)
    assert not faults
    assert lines[-1].startswith("Masks hold 0 and 255")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_turned_images_beside_masks_that_are_not(tmp_path: Path) -> None:
    write_pairs(tmp_path, block)
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn keeps the size
    (tmp_path / "images" / "n0.png").unlink()
    put(tmp_path / "images" / "n0.jpg", noise(0), exif=exif)
    assert any("1 images are turned upright as their EXIF" in note for note in open_dataset(tmp_path, 8).notes)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def move_in(folder: Path) -> None:
    (folder / "sub").mkdir()
    for path in folder.glob("*.png"):
        shutil.move(path, folder / "sub")


def one_in(folder: Path) -> None:
    (folder / "sub").mkdir()
    shutil.move(folder / "n0.png", folder / "sub")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda d: cut(d / "images" / "n1.png"), r"n1\.png: cannot be decoded"),
    "cut-mask": (lambda d: cut(d / "masks" / "n1.png"), r"masks/n1\.png: cannot be decoded"),
    "empty": (lambda d: (d / "images" / "n1.png").write_bytes(b""), r"n1\.png: is empty"),
    "twice-the-size": (lambda d: put(d / "masks" / "n1.png", block().repeat(2, 0).repeat(2, 1)), "is 48x40 pixels"),
    "no-mask": (lambda d: (d / "masks" / "n1.png").unlink(), r"n1\.png: has no mask; add .*masks/n1\.png"),
    "no-image": (lambda d: (d / "images" / "n1.png").unlink(), "mask without an image; add an image n1 or remove"),
    "other-file": (lambda d: (d / "images" / "notes.txt").touch(), r"notes\.txt: not a \.png"),
    "twins": (lambda d: put(d / "images" / "n1.bmp", noise(1)), "has the same name as"),
    "moved": (lambda d: one_in(d / "images"), "mask without an image"),
    "black": (lambda d: [put(p, block() * 0) for p in (d / "masks").iterdir()], "every pixel of every mask is 0"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_check_lists_the_fault_and_opening_refuses_it(case: str, tmp_path: Path) -> None:
    spoil, match = FAULTS[case]
    spoil(write_pairs(tmp_path, block))
    lines, faults = check(tmp_path, 8)
    assert len(faults) == 1
    assert "sizes: 24x20" in "\n".join(lines)
    with pytest.raises(DataError, match=match):
        raise DataError(faults[0])
    if case != "cut":  # the images' pixels are read by the check alone
        with pytest.raises(DataError, match=match):
            open_dataset(tmp_path, 8)
    if case == "moved":
        assert any("the folders in it are not searched (sub)" in line for line in lines)


def test_many_faults_are_all_listed(tmp_path: Path) -> None:
    write_pairs(tmp_path, block)
    for spoil in ("cut", "cut-mask", "other-file"):
        FAULTS[spoil][0](tmp_path)
    cut(tmp_path / "masks" / "n4.png")
    assert len(check(tmp_path, 8)[1]) == 4 - 1  # n1 has two, and its mask is the one that is named
    with pytest.raises(DataError, match=r"notes\.txt.* \(and 2 more: tritonnet data check "):
        open_dataset(tmp_path, 8)


def test_values_without_a_rule_are_shown(tmp_path: Path) -> None:
    write_pairs(tmp_path, lambda i: np.maximum(block(0, 100), (np.arange(24) > 12).astype(np.uint8) * 103))
    lines, faults = check(tmp_path, 8)
    assert "neither 0/255 nor class numbers" in faults[0]
    assert "mask values: 103 46 %, 0 38 %, 100 17 %" in lines


def test_folders_in_folders_are_named(tmp_path: Path) -> None:
    move_in(write_pairs(tmp_path, block) / "images")
    with pytest.raises(DataError, match="holds no picture but the folders sub, which are not searched"):
        check(tmp_path, 8)


def test_report(tmp_path: Path) -> None:
    write_pairs(tmp_path, block, 10)
    shutil.copy(tmp_path / "images" / "n0.png", tmp_path / "images" / "n4.png")
    # other bytes, the same pixels
    put(tmp_path / "images" / "n2.bmp", noise(1))
    (tmp_path / "images" / "n2.png").unlink()
    lines, faults = check(tmp_path, 8)
    assert not faults
    assert lines == [
        f"{tmp_path}: images/ and masks/, 10 images with a mask",
        "sizes: 24x20 (10)",
        "images: PNG RGB (9), BMP RGB (1)",
        "masks: PNG L (10)",
        "mask values: 0 77 %, 255 23 %",
        "equal images: 2 (n0.png [train] = n4.png [val]; n1.png [train] = n2.bmp [train])",
        "warning: the scores will flatter, equal images in different splits: 1 (n0.png [train] = n4.png [val])",
        "10 images: 8 train, 2 val",
        "Masks hold 0 and 255; 255 is taken as class 1 (foreground): 23 % of the pixels",
    ]
