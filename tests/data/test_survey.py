"""What is found out about masks before the first epoch: each surprise named in a line, each dead end refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import block, noise, put, write_pairs
from PIL import Image

from tritonnet.data import DataError, open_dataset

PIXELS = np.arange(480).reshape(20, 24)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def smooth(index: int) -> np.ndarray:
    """A mask with smooth edges: many values near 0 and 255."""
    return np.asarray(Image.fromarray(block(index)).resize((96, 80), Image.Resampling.BILINEAR).resize((24, 20)))


def bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8)


# masks, then what the notes must say
NOTES: dict[str, tuple[Callable[[int], np.ndarray], tuple[str, ...]]] = {
    "plain": (block, ("Masks hold 0 and 255; 255 is taken as class 1 (foreground): 23 % of the pixels",)),
    "zero-one": (lambda i: block(i, 1), ("Masks hold 0 and 1, nearly black in a viewer; 1 is taken as class 1",)),
    "inverted": (lambda i: 255 * bits(PIXELS > 9), ("class 1 fills 98 % of the pixels: are the masks inverted?",)),
    "few-pixels": (lambda i: 255 * bits(PIXELS == 9), ("all but 0.21 % of the pixels are background",)),
    "mostly-empty": (lambda i: block(i) * (i == 0), ("5 of 6 masks mark nothing", "n1.png")),
    "instances": (lambda i: bits(np.minimum(PIXELS // 30, i + 7)), ("if these count objects, save 0 and 1",)),
    "missing-number": (lambda i: bits(PIXELS % 3 * (1 + PIXELS % 3 // 2)), ("no mask holds class 2, 3",)),
    "smooth": (smooth, ("smeared as by JPEG or anti-aliasing; those from 128 on are taken as class 1",)),
    "stray-one": (lambda i: bits(np.where((i == 2) & (PIXELS == 9), 1, block(i))), ("those from 128 on are taken",)),
    "ids": (
        lambda i: bits(PIXELS % 3),
        ("Masks hold 0, 1 and 2, nearly black in a viewer; they are the class numbers; class 0: 33 %; class 1: 33 %",),
    ),
    "ignored": (lambda i: np.where(PIXELS < 48, 255, PIXELS % 2).astype(np.uint8), ("; 255 is ignored: 10 % of the",)),
    "two-ways": (
        lambda i: block(i, 1 if i < 4 else 255),
        ("2 of 6 masks hold 255 and no class but 0", "n4.png): 255 is ignored here; if it marks objects"),
    ),
    "colours": (
        lambda i: COLOURS[PIXELS % 3],
        (
            "(0, 0, 0) is taken as class 0: 33 %; (0, 255, 0) is taken as class 1: 33 %; (255, 0, 0) is taken as class 2",
        ),
    ),
    "white-background": (
        lambda i: np.where(block(i)[..., None] > 0, np.array([200, 0, 0], np.uint8), np.uint8(255)),
        ("(200, 0, 0) is taken as class 1 (foreground): 23 %",),
    ),
    "some-in-colour": (
        lambda i: block() if i else COLOURS[PIXELS % 3],
        ("(255, 255, 255) is taken as class 3",),
    ),
    "only-in-validation": (
        lambda i: bits(PIXELS % (3 if i == 4 else 2)),
        ("no image to train on holds class 2; choose another --val",),
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_notes(case: str, tmp_path: Path) -> None:
    mask, expected = NOTES[case]
    notes = "\n".join(open_dataset(write_pairs(tmp_path, mask), 24).notes)
    for text in expected:
        assert text in notes
    quiet = (
        "plain",
        "zero-one",
        "smooth",
        "stray-one",
        "ids",
        "ignored",
        "colours",
        "white-background",
        "some-in-colour",
    )
    assert ("warning: " in notes) == (case not in quiet)


def test_a_slip_of_the_brush(tmp_path: Path) -> None:
    write_pairs(tmp_path, lambda i: bits(np.where((i == 7) & (PIXELS == 9), 17, block(i))), count=12)
    notes = "\n".join(open_dataset(tmp_path, 24).notes)
    assert (
        f"class 1, 0.017 % of the pixels, is in one mask alone ({tmp_path}/masks/n7.png): is it meant to be one?"
        in notes
    )


def test_objects_that_vanish_when_resized(tmp_path: Path) -> None:
    write_pairs(tmp_path, lambda i: 255 * bits(PIXELS // 24 == 9) * bits(PIXELS % 24 > 4))
    assert not any("one value alone" in note for note in open_dataset(tmp_path, 24).notes)
    assert any("6 masks hold one value alone at this size" in note for note in open_dataset(tmp_path, 4).notes)


def test_a_palette_is_not_called_black(tmp_path: Path) -> None:
    write_pairs(tmp_path, block)
    for path in (tmp_path / "masks").iterdir():
        mask = Image.fromarray(bits(PIXELS % 3))
        mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        mask.save(path, transparency=0)  # a transparent background is a class like the others
    data = open_dataset(tmp_path, 24)
    assert data.palette == ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    assert data.notes[-1].startswith("Masks hold 0, 1 and 2; ")


def test_colours_reach_the_samples_and_the_model_file(tmp_path: Path) -> None:
    write_pairs(tmp_path, lambda i: COLOURS[PIXELS % 3])
    data = open_dataset(tmp_path, 24)
    assert data.palette == ((0, 0, 0), (0, 255, 0), (255, 0, 0))
    expected = np.array([0, 2, 1], np.uint8)[PIXELS % 3]
    resized = np.asarray(Image.fromarray(expected).resize((24, 24), Image.Resampling.NEAREST))
    assert (data.sample(1)[1] == resized).all()
    again = open_dataset(write_pairs(tmp_path / "b", lambda i: block()), 24, mapping=None)
    with pytest.raises(DataError, match="must be coded as those the model learnt from"):
        open_dataset(tmp_path, 24, mapping=again.mapping)
    with pytest.raises(DataError, match=r"mask value \(255, 255, 255\) is no class"):
        open_dataset(tmp_path / "b", 24, mapping=data.mapping)


def grey_noise(i: int) -> np.ndarray:
    return noise(i)[:, :, 0]


REFUSALS: dict[str, tuple[Callable[[int], np.ndarray], str]] = {
    "all-black": (lambda i: block() * 0, "every pixel of every mask is 0: nothing to learn"),
    "all-one-colour": (
        lambda i: np.full((20, 24, 3), (9, 0, 0), np.uint8),
        r"every pixel of every mask is \(9, 0, 0\)",
    ),
    "images": (noise, "different colours .*too many or too alike"),
    "grey-images": (grey_noise, r"different values .*is it a picture"),
    "smooth-colours": (lambda i: np.dstack([smooth(i), block(i) * 0, block(i) * 0]), "different colours"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str, tmp_path: Path) -> None:
    mask, match = REFUSALS[case]
    write_pairs(tmp_path, mask)
    with pytest.raises(DataError, match=match) as error:
        open_dataset(tmp_path, 24)
    assert "\n" not in str(error.value)


def test_a_photograph_among_16_bit_masks_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, block)
    for folder in ("images", "masks"):
        put(tmp_path / folder / "n3.png", np.arange(2400).reshape(40, 60).astype(np.uint16))
    with pytest.raises(DataError, match=r"n3\.png: holds 2400 different values: a picture"):
        open_dataset(tmp_path, 24)


def test_jpeg_colours_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, lambda i: COLOURS[PIXELS // 100 % 3])
    for path in list((tmp_path / "masks").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(DataError, match=r"different colours .*save them as PNG"):
        open_dataset(tmp_path, 24)
