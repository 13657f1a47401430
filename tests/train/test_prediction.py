"""Prediction: from pictures to masks of their own size, the numbers that evaluation gives, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pictures import fresh_model, regions, write_folder
from PIL import Image

from tritonnet.data import DataError, load_image
from tritonnet.io import ModelFileError, save_model
from tritonnet.kernels.runtime import Refused
from tritonnet.train import Inference, Trained, evaluate, predict
from tritonnet.train.tiling import tiled


def quiet(_: str) -> None:
    pass


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)
    return path


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.array(picture)


def only_mask(picture: Path, out: Path, trained: Trained | None = None, **how: Any) -> np.ndarray:
    (path,) = predict(trained or fresh_model(), picture, out, tell=quiet, **how)
    return mask_of(path)


def test_masks_have_the_pictures_sizes(tmp_path: Path) -> None:
    shapes = {"wide": (9, 40), "tall": (21, 10), "same": (16, 16)}
    for stem, shape in shapes.items():
        save(tmp_path / "in" / f"{stem}.png", regions(*shape, 3))
    save(tmp_path / "in" / "grey.bmp", regions(12, 18, 1))
    told: list[str] = []
    masks = predict(fresh_model(), tmp_path / "in", tmp_path / "out", tell=told.append)
    assert [path.stem for path in masks] == ["grey", "same", "tall", "wide"]
    assert len(told) == 4
    for stem, shape in {**shapes, "grey": (12, 18)}.items():
        mask = mask_of(tmp_path / "out" / "masks" / f"{stem}.png")
        assert mask.shape == shape
        assert set(np.unique(mask)) <= {0, 1}
        with Image.open(tmp_path / "out" / "overlays" / f"{stem}.png") as picture:
            assert picture.size == shape[::-1]


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_written_masks_score_what_evaluate_finds(classes: int, tmp_path: Path) -> None:
    """The pooled IoU, counted by numpy over the files, is exactly evaluate's: one number, however it is asked for."""
    trained, pixels = fresh_model(classes), 0
    right, either = np.zeros((2, max(classes, 2)), np.int64)
    for i in range(5):
        save(tmp_path / "data" / "images" / f"{i}.png", regions(16, 16, 3, seed=i))
        truth = regions(16, 16, 1, seed=i + 50) % max(classes, 2)
        truth[0, :3] = i % 2  # the truth need not have anything to do with it
        save(tmp_path / "data" / "masks" / f"{i}.png", truth)
    predict(trained, tmp_path / "data", tmp_path / "out", tell=quiet)
    per_image = {}
    for i in range(5):
        mask = mask_of(tmp_path / "out" / "masks" / f"{i}.png")
        truth = np.array(Image.open(tmp_path / "data" / "masks" / f"{i}.png"))
        both = [np.count_nonzero((mask == c) & (truth == c)) for c in range(len(right))]
        one = [np.count_nonzero((mask == c) | (truth == c)) for c in range(len(right))]
        right, either, pixels = right + both, either + one, pixels + mask.size
        shares = [b / o for b, o in zip(both, one, strict=True) if o]
        per_image[str(i)] = both[1] / one[1] if len(right) == 2 else sum(shares) / len(shares)
    _, metrics = evaluate(trained, str(tmp_path / "data"), split="all")
    assert metrics.class_iou == tuple((right / either).tolist())
    assert metrics.iou == (right[1] / either[1] if len(right) == 2 else sum((right / either).tolist()) / classes)
    assert metrics.pixel_accuracy == right.sum() / pixels
    assert metrics.image_iou == per_image
    assert min(metrics.class_iou) > 0.01, "every class must be found somewhere, or nothing was tested"


def test_agrees_with_the_network_s_own_predict(tmp_path: Path) -> None:
    trained = fresh_model(3)
    trained.network.set_normalization(trained.card["mean"], trained.card["std"])
    images = np.stack([regions(16, 16, 3, seed=i) for i in range(3)])
    masks = [
        next(iter(predict(trained, save(tmp_path / f"{i}.png", image), tmp_path / "out", tell=quiet)))
        for i, image in enumerate(images)
    ]
    assert np.array_equal(np.stack([mask_of(path) for path in masks]), trained.network.predict(images))


def test_arrays_get_the_masks_of_files(tmp_path: Path) -> None:
    """Images of any sizes in memory, grey ones too, more than one batch of them."""
    trained = fresh_model()
    images = [regions(*shape, seed=i) for i, shape in enumerate([(23, 19, 3), (9, 40), (16, 16, 3), (12, 14, 1)])]
    for i, image in enumerate(images):
        save(tmp_path / "in" / f"{i}.png", image)
    files = predict(trained, tmp_path / "in", tmp_path / "out", tell=quiet)
    masks = trained.predict(images, batch_size=3)
    assert [mask.dtype for mask in masks] == [np.uint8] * 4
    assert all(np.array_equal(mask, mask_of(file)) for mask, file in zip(masks, files, strict=True))
    assert len({int(mask.sum()) for mask in masks}) > 1
    for name, how in (("flips", Inference(tta="flips")), ("cut", Inference(tiles=True, tile_size=8))):
        files = predict(trained, tmp_path / "in", tmp_path / name, inference=how, tell=quiet)
        found = trained.predict(images, inference=how)
        assert all(np.array_equal(mask, mask_of(file)) for mask, file in zip(found, files, strict=True))
    stack = np.stack([images[0], images[0]])
    assert all(np.array_equal(mask, masks[0]) for mask in trained.predict(stack))


NO_IMAGES = {
    r"got an array of shape \(8, 8, 3\); pass one image as \[image\]": np.zeros((8, 8, 3), np.uint8),
    r"got float32 of shape \(8, 8, 3\)": [np.zeros((8, 8, 3), np.float32)],
    r"got uint8 of shape \(8, 8, 4\)": [np.zeros((8, 8, 4), np.uint8)],
    r"got uint8 of shape \(0, 8\)": [np.zeros((0, 8), np.uint8)],
    r"got uint8 of shape \(8,\)": np.zeros((8, 8), np.uint8),
    "got str": ["a.png"],
}


@pytest.mark.parametrize("says", NO_IMAGES)
def test_refuses_what_is_no_image(says: str) -> None:
    with pytest.raises(Refused, match=says):
        fresh_model().predict(NO_IMAGES[says])  # type: ignore[arg-type]


WAYS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "resized": ({}, (23, 19)),
    "resized-flips": ({"tta": "flips"}, (23, 19)),
    "tiles": ({"tiles": True}, (23, 19)),
    "tiles-flips": ({"tiles": True, "tta": "flips", "overlap": 0.5, "tile_size": 8, "batch_size": 3}, (9, 12)),
    "one-small-tile": ({"tiles": True}, (7, 5)),
}


@pytest.mark.parametrize("way", WAYS)
def test_probabilities(way: str, tmp_path: Path) -> None:
    """Stored one a picture, they add up to 1, and the mask is the likeliest class."""
    how, shape = WAYS[way]
    for name in ("a.png", "sub/b.bmp"):
        save(tmp_path / "in" / name, regions(*shape, 3, seed=len(name)))
    trained, file = fresh_model(3), tmp_path / "p.h5"
    predict(trained, tmp_path / "in", tmp_path / "out", inference=Inference(**how), probabilities=file, tell=quiet)
    with h5py.File(file) as stored:
        for name in ("a.png", "sub/b.png"):
            values, mask = stored[name][:], mask_of(tmp_path / "out" / "masks" / name)
            assert values.shape == (3, *shape)
            assert list(stored[name].attrs["class_names"]) == [b"class 0", b"class 1", b"class 2"]
            assert np.allclose(values.sum(0), 1, rtol=0, atol=1e-6)
            assert np.array_equal(values.argmax(0), mask)
            picture = tmp_path / "in" / ("a.png" if name == "a.png" else "sub/b.bmp")
            assert np.allclose(values, expected(trained, picture, shape, how), rtol=0, atol=1e-5)


def expected(trained: Trained, picture: Path, shape: tuple[int, int], how: dict[str, Any]) -> np.ndarray:
    """What a picture's stored probabilities must be; resized by torch in float64, tiled as test_tiling.py checks."""
    flips, normalizer = "tta" in how, trained.normalizer()
    if "tiles" in how:
        tile, overlap = how.get("tile_size", 16), how.get("overlap", 0.25)
        bands = tiled(trained, np.array(Image.open(picture)), normalizer, tile, overlap, flips, 16)
        values: np.ndarray = np.concatenate([band.numpy()[0] for band in bands], 1)[:, : shape[0], : shape[1]]
        return values
    small = load_image(picture, 16)
    averaged = tiled(trained, small, normalizer, 16, 0.25, True, 16)
    source = next(averaged) if flips else trained.logits(np.stack([small]), normalizer)
    full = torch.nn.functional.interpolate(torch.from_numpy(source.numpy()).double(), size=shape, mode="bilinear")[0]
    return (full if flips else full.softmax(0)).numpy()  # type: ignore[no-any-return]


def test_tiles_see_full_resolution(tmp_path: Path) -> None:
    picture = save(tmp_path / "a.png", regions(24, 24, 3))
    resized, cut = (
        only_mask(picture, tmp_path / name, inference=how)
        for name, how in (("resized", Inference()), ("cut", Inference(tiles=True)))
    )
    assert (resized != cut).any()
    whole = only_mask(picture, tmp_path / "24", inference=Inference(tiles=True, tile_size=24))
    assert 0.9 < (cut == whole).mean() < 1  # a tile's border sees less of its surroundings


@pytest.mark.parametrize(("channels", "wide"), [(1, False), (3, False), (1, True)])
def test_pictures_are_converted_as_in_training(channels: int, wide: bool, tmp_path: Path) -> None:
    """Colours for a grey network, grey for one of colours, 8 bits for one of 16."""
    colour = save(tmp_path / "colour.png", regions(16, 16, 3))
    grey = save(tmp_path / "grey.png", np.asarray(Image.open(colour).convert("L")))
    trained = fresh_model(2, channels, wide=wide)
    a, b = (only_mask(path, tmp_path / "out", trained=trained) for path in (colour, grey))
    seen = np.asarray(Image.open(grey))[..., None].repeat(channels, 2)
    logits = trained.logits(np.stack([seen.astype(np.uint16) * 257 if wide else seen]), trained.normalizer())
    assert np.array_equal(b, logits.numpy()[0].argmax(0))
    assert np.array_equal(a, b) == (channels == 1)


def test_folders(tmp_path: Path) -> None:
    """Sub-folders are kept; what is no picture gets a line; hidden files get none."""
    for name in ("a.png", "deep/er/a.png", "deep/b.JPG", ".hidden/c.png", "deep/.d.png"):
        save(tmp_path / "in" / name, regions(16, 16, 3))
    (tmp_path / "in" / "deep" / "notes.txt").write_text("not a picture")
    told: list[str] = []
    masks = predict(fresh_model(), tmp_path / "in", tmp_path / "out", tell=told.append)
    assert [path.relative_to(tmp_path / "out" / "masks").as_posix() for path in masks] == [
        "a.png",
        "deep/b.png",
        "deep/er/a.png",
    ]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["a.png"] * 4 + ["b.png"] * 2
    assert [line for line in told if "passed over" in line] == [
        f"{tmp_path / 'in/deep/notes.txt'}: is no picture, passed over"
    ]


@pytest.mark.parametrize("tiles", [False, True])
def test_one_unreadable_picture_does_not_stop_the_others(tiles: bool, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.png", regions(16, 16, 3))
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    told: list[str] = []
    with pytest.raises(DataError, match=r"in/b\.png: cannot be read .*; 2 of 3 pictures are done"):
        predict(fresh_model(), tmp_path / "in", tmp_path / "out", inference=Inference(tiles=tiles), tell=told.append)
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.png", "c.png"]
    assert sum("b.png: cannot be read" in line for line in told) == 1


def test_spares_what_is_there(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", count=2)
    truth = (data / "masks" / "cell_0.png").read_bytes()
    with pytest.raises(DataError, match="was not written by predict; choose another --out"):
        predict(fresh_model(), data, data)
    assert (data / "masks" / "cell_0.png").read_bytes() == truth
    assert not (data / "overlays").exists()
    for _ in range(2):  # its own masks it writes anew
        predict(fresh_model(), data, tmp_path / "out", tell=quiet)
    with pytest.raises(DataError, match="its result would overwrite it"):
        predict(fresh_model(), tmp_path / "out" / "overlays", tmp_path / "out")
    for out in (data / "images", data / "images" / "deeper"):
        with pytest.raises(DataError, match=r"must not lie in .*images, the folder that is read; choose another --out"):
            predict(fresh_model(), data, out)
    (tmp_path / "p.h5").write_bytes(b"something")
    with pytest.raises(DataError, match="must be a new file in a folder that is there"):
        predict(fresh_model(), data, tmp_path / "new", probabilities=tmp_path / "p.h5")
    assert (tmp_path / "p.h5").read_bytes() == b"something"
    assert not (tmp_path / "new").exists()


OUT_OF_RANGE = {
    "overlap must come with tiles and be from 0 to below 1, got 0.5": {"overlap": 0.5},
    "be from 0 to below 1, got 1": {"tiles": True, "overlap": 1},
    "be from 0 to below 1, got nan": {"tiles": True, "overlap": float("nan")},
    "tile_size must come with tiles and be from 4 to 8192 here, got 3": {"tiles": True, "tile_size": 3},
    "from 4 to 8192 here, got 1000000": {"tiles": True, "tile_size": 1000000},
    "tile_size must come with tiles": {"tile_size": 16},
    "tta must be one of none, flips, got 'rotations'": {"tta": "rotations"},
}


@pytest.mark.parametrize("says", OUT_OF_RANGE)
def test_refuses_what_is_out_of_range(says: str, tmp_path: Path) -> None:
    picture = save(tmp_path / "a.png", regions(16, 16, 3))
    with pytest.raises(Refused, match=says):
        predict(fresh_model(depth=2), picture, tmp_path / "out", inference=Inference(**OUT_OF_RANGE[says]))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_refuses(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        save(tmp_path / "in" / name, np.zeros((8, 8), np.uint8))
    trained = fresh_model()
    with pytest.raises(DataError, match="would overwrite that of"):
        predict(trained, tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder holds no picture"):
        predict(trained, tmp_path / "empty", tmp_path / "out")
    save_model(tmp_path / "other.h5", {"something": 1}, {"weight": np.zeros(3, np.float32)})
    with pytest.raises(ModelFileError, match="must hold model, data"):
        Trained.load(tmp_path / "other.h5")
    card = {**trained.card, "model": {**trained.card["model"], "num_classes": 3}}
    replace(trained, card=card).save(tmp_path / "odd.h5")
    with pytest.raises(ModelFileError, match="the weights must fit the network"):
        Trained.load(tmp_path / "odd.h5")
    replace(trained, card={**trained.card, "data": {}}).save(tmp_path / "bare.h5")
    with pytest.raises(ModelFileError, match="size"):
        Trained.load(tmp_path / "bare.h5")


def test_what_a_mask_holds_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "in" / "sub" / "a.png", regions(23, 19, 3))
    told: list[str] = []
    ((path, pixels),) = predict(fresh_model(), tmp_path / "in", tmp_path / "out", tell=told.append).items()
    mask = mask_of(path)
    assert pixels == {"class 0": int((mask == 0).sum()), "class 1": int((mask == 1).sum())}
    assert told == [f"{tmp_path / 'in/sub/a.png'}: class 0 {(mask == 0).mean():.1%}, class 1 {(mask == 1).mean():.1%}"]


def test_16_bit_pictures_are_shown_in_their_own_range(tmp_path: Path) -> None:
    """A camera of 12 bits fills a sixteenth of 16; the overlay must not be black."""
    picture = save(tmp_path / "a.png", regions(16, 16).astype(np.uint16) * 16)
    only_mask(picture, tmp_path / "out")
    with Image.open(tmp_path / "out" / "overlays" / "a.png") as shown:
        assert np.asarray(shown).max() > 200
