"""Prediction: from pictures to masks of their own size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import write_folder
from PIL import Image

from tritonnet.data import Cells, DataError
from tritonnet.io import ModelFileError, save_model
from tritonnet.train import Config, Listener, Trained, predict, train
from tritonnet.train.prediction import predict_classes


class Silent(Listener):
    def message(self, text: str) -> None:
        pass

    def epoch(self, row: object) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(Config(base_channels=4, depth=1, size=16, batch_size=4, epochs=1, cells=5, out=str(folder)), Silent())
    return folder / "best.h5"


def test_masks_have_the_pictures_sizes(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shapes = {"wide": (9, 40), "tall": (21, 10), "same": (16, 16)}
    for stem, shape in shapes.items():
        Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(tmp_path / "in" / f"{stem}.png")
    Image.fromarray(np.full((12, 18), 90, np.uint8)).save(tmp_path / "in" / "grey.bmp")
    told: list[str] = []
    masks = predict(model, tmp_path / "in", tmp_path / "out", tell=told.append)
    assert [path.stem for path in masks] == ["grey", "same", "tall", "wide"]
    assert len(told) == 4
    for stem, (height, width) in {**shapes, "grey": (12, 18)}.items():
        with Image.open(tmp_path / "out" / "masks" / f"{stem}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == (width, height)
            assert set(np.unique(np.array(mask))) <= {0, 1}
        with Image.open(tmp_path / "out" / "overlays" / f"{stem}.png") as picture:
            assert picture.size == (width, height)


def test_one_picture(model: Path, tmp_path: Path) -> None:
    Image.fromarray(Cells(1, 16, val="none").sample(0)[0]).save(tmp_path / "a.png")
    assert predict(model, tmp_path / "a.png", tmp_path / "out", tell=lambda _: None) == [tmp_path / "out/masks/a.png"]


def test_agrees_with_the_network_s_own_predict(model: Path) -> None:
    trained = Trained.load(model)
    cells = Cells(9, 16, seed=5)
    images = np.stack([cells.sample(i)[0] for i in range(9)])
    assert np.array_equal(np.stack(predict_classes(trained, images)), trained.network.predict(images))


def test_spares_what_is_there(model: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    truth = (data / "masks" / "cell_0.png").read_bytes()
    with pytest.raises(DataError, match="was not written by predict; choose another --out"):
        predict(model, data, data)
    assert (data / "masks" / "cell_0.png").read_bytes() == truth
    assert not (data / "overlays").exists()
    for _ in range(2):  # its own masks it writes anew
        predict(model, data, tmp_path / "out", tell=lambda _: None)
    with pytest.raises(DataError, match="its result would overwrite it"):
        predict(model, tmp_path / "out" / "overlays", tmp_path / "out")


def test_refuses(model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    with pytest.raises(DataError, match="would overwrite that of"):
        predict(model, tmp_path, tmp_path / "out")
    save_model(tmp_path / "other.h5", {"something": 1}, {"weight": np.zeros(3, np.float32)})
    with pytest.raises(ModelFileError, match="must hold model, data"):
        Trained.load(tmp_path / "other.h5")
    trained = Trained.load(model)
    card = {**trained.card, "model": {**trained.card["model"], "num_classes": 3}}
    replace(trained, card=card).save(tmp_path / "odd.h5")
    with pytest.raises(ModelFileError, match="the weights must fit the network"):
        Trained.load(tmp_path / "odd.h5")
    replace(trained, card={**trained.card, "data": {}}).save(tmp_path / "bare.h5")
    with pytest.raises(ModelFileError, match="size"):
        Trained.load(tmp_path / "bare.h5")
