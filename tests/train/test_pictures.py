"""Pictures: palette masks, overlays, samples, curves."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tritonnet.data import default_palette
from tritonnet.train.pictures import draw_confusion, draw_curves, overlay, save_mask, side_by_side

PALETTE = [(0, 0, 0), (250, 20, 30), (10, 200, 90)]
MASK = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)


def test_mask_values_are_class_ids_in_colour(tmp_path: Path) -> None:
    save_mask(tmp_path / "mask.png", MASK, PALETTE)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture), MASK)
        colours = np.array(picture.convert("RGB"))
    assert colours[0, 1].tolist() == [250, 20, 30]
    assert colours[0, 2].tolist() == [10, 200, 90]
    assert colours[1, 0].tolist() == [128, 128, 128]


def test_overlay_leaves_the_background_as_it_was() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    tinted = np.array(overlay(image, MASK, PALETTE, strength=0.5))
    assert tinted[0, 0].tolist() == [100, 100, 100]
    assert tinted[0, 1].tolist() == [175, 60, 65]


@pytest.mark.parametrize("ground", [(10, 10, 10), (150, 85, 40), (220, 130, 60), (220, 140, 180), (225, 215, 230)])
def test_the_first_class_is_seen_on_dark_and_stained_images(ground: tuple[int, int, int]) -> None:
    image = np.full((1, 2, 3), ground, np.uint8)
    left, right = np.array(overlay(image, np.array([[0, 1]], np.uint8), default_palette(2)))[0].astype(int)
    assert abs(left - right).max() > 60


def test_side_by_side_shows_three_pictures() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    sheet = np.array(side_by_side(image, MASK, MASK, PALETTE, "IoU 1.000"))
    assert sheet.shape[1] >= 3 * 256
    for column in (0, 1, 2):  # the picture's last pixel, below the titles
        found = sheet[-1, column * (258 + 8) + 257].tolist()
        assert found == ([100, 100, 100] if column == 0 else [0, 0, 0])


def test_curves_are_a_picture(tmp_path: Path) -> None:
    row = {"train_loss": 1.0, "val_loss": 2.0, "iou": float("nan"), "dice": 0.5, "pixel_accuracy": 0.5}
    draw_curves(tmp_path / "curves.png", [{"epoch": 1.0, **row}, {"epoch": 2.0, **row}])
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1000, 400)


def test_curves_are_labelled_in_words_over_whole_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    names = ("train_loss", "val_loss", "iou", "dice", "pixel_accuracy")
    draw_curves(tmp_path / "curves.png", [{"epoch": float(epoch), **dict.fromkeys(names, 0.5)} for epoch in (1, 2, 3)])
    words = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn[0].axes]
    assert words == [["training", "validation"], ["IoU", "Dice", "pixel accuracy"]]
    assert all(tick == round(tick) for axes in drawn[0].axes for tick in axes.get_xticks())


def test_confusion_matrix_is_a_picture(tmp_path: Path) -> None:
    for classes in (2, 30):
        draw_confusion(
            tmp_path / "matrix.png", np.eye(classes, dtype=int).tolist(), [f"class {c}" for c in range(classes)]
        )
        with Image.open(tmp_path / "matrix.png") as picture:
            assert picture.size == (500, 500) if classes == 2 else (1900, 1900)
            blues = np.asarray(picture.convert("RGB"))
        assert (blues == [8, 48, 107]).all(axis=2).any()  # a whole row is right
