"""Folders as users have them: pairing, splits, mask mapping, the pets' layout, and every complaint."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tritonnet.data import IGNORE, DataError, Dataset, MaskMapping, channel_statistics, open_dataset, split


def put(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def picture(i: int, height: int = 10, width: int = 12) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(i)).integers(0, 256, (height, width, 3), np.uint8)


def half(value: int = 255, height: int = 10, width: int = 12) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = value
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(10):
        put(tmp_path / "images" / f"n{i}.png", picture(i))
        put(tmp_path / "masks" / f"n{i}.png", half())
    return tmp_path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    trimap = np.array([[1, 2], [3, 2]], np.uint8).repeat(8, 0).repeat(8, 1)
    for i in range(8):
        put(tmp_path / "images" / f"Cat_{i}.jpg", picture(i, 16, 16))
        put(tmp_path / "annotations" / "trimaps" / f"Cat_{i}.png", trimap)
    (tmp_path / "images" / "Cat_7.mat").touch()
    (tmp_path / "annotations" / "trimaps" / "._Cat_0.png").write_text("left by an archiver")
    (tmp_path / "annotations" / "trainval.txt").write_text("".join(f"Cat_{i} 1 1 1\n" for i in (4, 0, 1, 2, 3)))
    (tmp_path / "annotations" / "test.txt").write_text("#Image CLASS-ID SPECIES BREED ID\nCat_6 1 1 1\nCat_5 1 1 1\n")
    return tmp_path


def test_folder(folder: Path) -> None:
    data = open_dataset(folder, 8)
    assert data.names == tuple(f"n{i}" for i in range(10))
    assert data.splits == {"train": (0, 1, 2, 3, 5, 6, 7, 8), "val": (4, 9)}
    assert (data.num_classes, data.class_names, data.scale, data.wide) == (
        2,
        ("background", "foreground"),
        1 / 255,
        False,
    )
    image, mask = data.sample(3)
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((8, 8, 3), np.uint8, (8, 8), np.uint8)
    assert (mask == half(1, 8, 8)).all()
    assert any("255 is taken as class 1 (foreground): 50 %" in note for note in data.notes)
    config = json.loads(json.dumps(data.config()))
    assert MaskMapping.from_json(config["mask_mapping"]) == data.mapping


def test_file_kinds_mix(folder: Path) -> None:
    put(folder / "images" / "m.jpg", picture(11)[:, :, 0])
    put(folder / "masks" / "m.gif", half())
    put(folder / "images" / "o.bmp", picture(12))
    put(folder / "masks" / "o.bmp", half()[:, :, None].repeat(3, 2))
    (folder / "images" / ".DS_Store").touch()
    data = open_dataset(folder, 6)
    assert data.names[0] == "m"
    assert {int(v) for i in range(12) for v in np.unique(data.sample(i)[1])} == {0, 1}


def test_16_bit_images_make_the_dataset_wide(folder: Path) -> None:
    put(folder / "images" / "n0.png", picture(0)[:, :, 0].astype(np.uint16) * 200)
    data = open_dataset(folder, 8, channels=1)
    assert data.wide
    assert data.scale == 1 / 65535
    assert data.sample(1)[0].dtype == np.uint16
    assert any("16 bits" in note for note in data.notes)


def test_coloured_palette_masks_give_their_colours(tmp_path: Path) -> None:
    for i in range(5):
        put(tmp_path / "images" / f"{i}.png", picture(i, 4, 6))
        mask = Image.new("P", (6, 4))
        mask.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0])
        mask.putdata([0, 1, 2] * 8)
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{i}.png")
    data = open_dataset(tmp_path, 4)
    assert data.palette == ((0, 0, 0), (250, 0, 0), (0, 250, 0))
    assert data.class_names == ("class 0", "class 1", "class 2")
    mask.putpalette([0, 0, 0, 0, 0, 250, 0, 250, 0])
    mask.save(tmp_path / "masks" / "4.png")
    with pytest.raises(DataError, match=r"4\.png: palette number 1 is the colour"):
        open_dataset(tmp_path, 4)


def test_a_stored_mapping_is_used_instead(folder: Path) -> None:
    mapping = MaskMapping("values", 2, {0: 1, 255: 0})
    data = open_dataset(folder, 8, mapping=mapping)
    assert data.sample(0)[1][0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"masks/n0\.png: mask value 0 is no class"):
        open_dataset(folder, 8, mapping=MaskMapping("values", 2, {1: 0, 255: 1}))


def test_exif_turns_the_image_and_the_sizes_must_agree(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "images" / "n0.png").unlink()
    # stored 12 x 10 (width x height) with a quarter turn: 10 wide and 12 high upright
    put(folder / "images" / "n0.jpg", picture(0), exif=exif)
    with pytest.raises(
        DataError, match=r"n0\.png: is 12x10 pixels, .*n0\.jpg is 10x12 upright \(its EXIF orientation is 6"
    ):
        open_dataset(folder, 8)
    put(folder / "masks" / "n0.png", half(255, 12, 10))
    assert open_dataset(folder, 8).sample(0)[0].shape == (8, 8, 3)


def test_cache_keeps_what_fits(folder: Path) -> None:
    one = 8 * 8 * 4
    data = open_dataset(folder, 8, cache_bytes=2 * one)
    for i in range(4):
        data.sample(i)
    assert data.sample(0)[0] is data.sample(0)[0]
    assert data.sample(3)[0] is not data.sample(3)[0]
    assert (data.sample(3)[0] == data.sample(3)[0]).all()
    with pytest.raises(ValueError, match="read-only"):
        data.sample(0)[0][0] = 0


def test_pets(pets: Path) -> None:
    data = open_dataset(pets, 16)
    assert data.names == tuple(f"Cat_{i}" for i in range(7))
    assert data.splits == {"train": (0, 1, 2, 3, 4), "val": (5, 6)}
    assert data.class_names == ("background", "pet")
    assert set(np.unique(data.sample(0)[1])) == {0, 1, IGNORE}
    assert any("test set" in note for note in data.notes)
    apart = open_dataset(pets, 16, val="every:5")
    assert apart.splits == {"train": (0, 1, 2, 3), "val": (4,), "test": (5, 6)}


def test_pets_refuse(pets: Path) -> None:
    def complains(match: str) -> None:
        with pytest.raises(DataError, match=match):
            open_dataset(pets, 16)

    test = pets / "annotations" / "test.txt"
    test.write_text("Dog_1 1 1 1\n")
    complains(r"test\.txt: lists Dog_1")
    test.write_text("\n")
    complains("lists no image")
    test.unlink()
    complains(r"test\.txt: no such file")
    test.write_text("Cat_5\n")
    (pets / "annotations" / "trimaps" / "Cat_5.png").unlink()
    complains(r"Cat_5\.jpg: has no mask; add .*trimaps/Cat_5\.png")


SPECS = {
    "every:5": [4, 9],
    "every:2": [1, 3, 5, 7, 9],
    "0.2": [4, 9],
    "0.25": [3, 7],
    "1/3": [2, 5, 8],
    "none": [],
}


@pytest.mark.parametrize("spec", SPECS)
def test_split(spec: str) -> None:
    parts = split([f"n{i}" for i in range(10)], spec)
    assert parts["val"] == tuple(SPECS[spec])
    assert sorted(parts["train"] + parts["val"]) == list(range(10))


def test_split_file(tmp_path: Path) -> None:
    file = tmp_path / "val.txt"
    file.write_text("n3.png\n\n# a note\nn1\n")
    assert split([f"n{i}" for i in range(5)], str(file)) == {"train": (0, 2, 4), "val": (1, 3)}
    file.write_text("n9\n")
    with pytest.raises(DataError, match=r"val\.txt: lists n9"):
        split(["n0", "n1"], str(file))


@pytest.mark.parametrize("spec", ["every:1", "every:x", "1.5", "0", "nowhere.txt", "every:99"])
def test_split_refuses(spec: str) -> None:
    with pytest.raises(DataError, match=f"--val {spec}"):
        split([f"n{i}" for i in range(10)], spec)


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-picture": (lambda d: (d / "images" / "n3.png").write_text("x"), r"images/n3\.png: cannot be read as PNG"),
    "no-masks": (lambda d: (d / "masks").rename(d / "labels"), r"masks: no such folder; .* holds images, labels"),
    "empty": (lambda d: [f.unlink() for f in (d / "images").iterdir()], "images: the folder holds no picture"),
    "coloured": (lambda d: put(d / "masks" / "n3.png", picture(3)), r"different colours .*n3\.png"),
    "a-photograph": (
        lambda d: put(d / "masks" / "n3.png", picture(3)[:, :, 0]),
        r"different values .* look at .*n3\.png",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str, folder: Path) -> None:
    spoil, match = REFUSALS[case]
    spoil(folder)
    with pytest.raises(DataError, match=match) as error:
        open_dataset(folder, 8)
    assert "\n" not in str(error.value)


def test_refuses_arguments(folder: Path) -> None:
    for arguments, match in (((0, 3), "size must be"), ((8, 2), "channels must be")):
        with pytest.raises(DataError, match=match):
            open_dataset(folder, arguments[0], channels=arguments[1])
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(folder / "nowhere", 8)


@pytest.mark.parametrize("wide", [False, True])
def test_channel_statistics_are_those_of_the_training_split(wide: bool, folder: Path) -> None:
    if wide:
        put(folder / "images" / "n0.png", picture(0)[:, :, 0].astype(np.uint16) * 200)
    data = open_dataset(folder, 8)
    values = np.stack([data.sample(i)[0] for i in data.splits["train"]]).astype(np.float64) * data.scale
    mean, std = channel_statistics(data)
    # both sides are exact up to a few roundings of float64
    assert np.allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-12)
    assert np.allclose(std, values.std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_has_deviation_one() -> None:
    def read(index: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
        return np.full((4, 4, 1), 51, np.uint8), np.zeros((4, 4), np.uint8)

    mapping = MaskMapping("values", 2, {0: 0, 1: 1})
    about = {"names": ["a"], "class_names": ("a", "b"), "splits": {"train": (0,)}}
    data = Dataset(read=read, size=4, channels=1, mapping=mapping, **about)
    assert channel_statistics(data) == ((51 / 255,), (1.0,))
    with pytest.raises(DataError, match="no training image"):
        channel_statistics(data, [])
