"""Datasets in one file: packed and read back, files of others, and files that mean harm or were damaged."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from pictures import block, noise, put, write_pairs

from tritonnet.data import IGNORE, Cells, DataError, check, open_dataset, pack
from tritonnet.data.hdf5 import open_members

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def coloured(index: int) -> np.ndarray:
    return COLOURS[np.arange(480).reshape(20, 24) // 50 % 3]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "data", coloured)
    pack(open_dataset(tmp_path / "data", 16), tmp_path / "data.h5")
    return tmp_path / "data.h5"


def test_what_is_packed_comes_back(packed: Path) -> None:
    folder, file = open_dataset(packed.parent / "data", 16), open_dataset(packed, 16)
    for index in range(len(folder)):
        for ours, theirs in zip(file.sample(index), folder.sample(index), strict=True):
            assert ours.dtype == theirs.dtype
            assert (ours == theirs).all()
    assert (file.names, file.splits, file.config()) == (folder.names, folder.splits, folder.config())
    assert file.mapping.rule == "colours"  # so that a model trained on the file knows the masks it was made of
    assert file.notes[-1].startswith("Masks hold 0, 1 and 2, nearly black in a viewer; they are the class numbers")


def test_16_bits_and_ignored_pixels_come_back(tmp_path: Path) -> None:
    write_pairs(
        tmp_path / "data", lambda i: np.where(block() > 0, 1, np.uint8(255) * (np.arange(24) < 3)).astype(np.uint8)
    )
    put(tmp_path / "data" / "images" / "n0.tif", noise(0)[:, :, 0].astype(np.uint16) * 200)
    (tmp_path / "data" / "images" / "n0.png").unlink()
    folder = open_dataset(tmp_path / "data", 24, channels=1)
    pack(folder, tmp_path / "data.h5")
    file = open_dataset(tmp_path / "data.h5", 24, channels=1)
    assert file.wide
    assert (file.sample(0)[0] == folder.sample(0)[0]).all()
    assert (file.sample(0)[1] == folder.sample(0)[1]).all()
    assert (file.sample(0)[1] == IGNORE).any()


def test_an_image_a_chunk_read_one_by_one(packed: Path) -> None:
    with h5py.File(packed) as file:
        assert file["images"].chunks == (1, 16, 16, 3)
        assert file["masks"].chunks == (1, 16, 16)
    image = open_dataset(packed, 16).sample(2)[0].tobytes()
    content = packed.read_bytes()
    assert content.count(image) == 1
    packed.unlink()  # HDF5 knows an open file again
    packed.write_bytes(content.replace(image, image[::-1]))
    data = open_dataset(packed, 16)
    assert data.sample(3)[0].shape == (16, 16, 3)
    with pytest.raises(DataError, match=r"data\.h5: /images\[2\]: .* does not match its checksum"):
        data.sample(2)


def test_another_size_and_another_division(packed: Path) -> None:
    data = open_dataset(packed, 8, val="every:2")
    assert data.sample(0)[0].shape == (8, 8, 3)
    assert "resized to 8x8" in data.notes[0]
    assert data.splits["val"] == (1, 3, 5)


def test_samples_are_read_as_large_as_they_are_stored(packed: Path) -> None:
    file = open_dataset(packed, 8)
    for stored, sample in zip(file.read(2, None), open_dataset(packed, 16).sample(2), strict=True):
        assert (stored == sample).all()
    image, mask = open_dataset(packed.parent / "data", 16).read(2, None)
    assert (image == noise(2)).all()
    assert (COLOURS[[0, 2, 1]][mask] == coloured(2)).all()  # green's number is less than red's
    for ours, larger in zip(Cells(1, 8).read(0, 16), Cells(1, 16).sample(0), strict=True):
        assert (ours == larger).all()


def test_a_test_split_is_kept(tmp_path: Path) -> None:
    cells = Cells(6, 16)
    cells.splits = {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}
    pack(cells, tmp_path / "a.h5")
    assert open_dataset(tmp_path / "a.h5", 16).splits == cells.splits
    divided = open_dataset(tmp_path / "a.h5", 16, val="every:2").splits
    assert divided == {"train": (0, 2), "val": (1, 3), "test": (4, 5)}


@pytest.mark.parametrize("name", ["masks", "labels"])
def test_files_of_others_have_their_mapping_inferred(name: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.stack([noise(i)[:, :, 0] for i in range(5)])
        file[name] = np.stack([block(i) for i in range(5)])
    data = open_dataset(tmp_path / "a.h5", 24)
    assert data.names[0] == "000000"
    assert (data.num_classes, data.mapping.values) == (2, {0: 0, 255: 1})
    assert data.sample(1)[0].shape == (24, 24, 3)
    lines, faults = check(tmp_path / "a.h5", 24)
    assert not faults
    assert lines[-1].endswith("255 is taken as class 1 (foreground): 22 % of the pixels")


def write(path: Path, **members: object) -> None:
    with h5py.File(path, "w") as file:
        for name, value in {"images": np.zeros((2, 8, 8), np.uint8), "masks": np.ones((2, 8, 8), np.uint8)}.items():
            if members.get(name, 0) is not None:
                file[name] = members.get(name, value)


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((2, 8, 8), np.uint8)
    layout[:] = h5py.VirtualSource("other.h5", "images", (2, 8, 8))
    write(path, images=None)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("images", layout)


def external(path: Path) -> None:
    write(path, images=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", (2, 8, 8), np.uint8, external=[(str(path.parent / "secret"), 0, 128)])


def four_tebibytes(path: Path) -> None:
    write(path, images=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", (2**26, 256, 256), np.uint8, chunks=(1, 256, 256))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "external-link": (lambda p: write(p, images=h5py.ExternalLink("b.h5", "/x")), "/images is a ExternalLink"),
    "soft-link": (lambda p: write(p, masks=h5py.SoftLink("/images")), "/masks is a SoftLink"),
    "virtual": (virtual, "/images keeps its values in another file"),
    "external-storage": (external, "/images keeps its values in another file"),
    "4-TiB": (four_tebibytes, "/images claims 4398046511104 bytes, the file holds at most 0"),
    "no-images": (lambda p: write(p, images=None), "holds no /images"),
    "no-masks": (lambda p: write(p, masks=None), "holds no /labels; wanted are /images and /masks"),
    "floats": (lambda p: write(p, images=np.zeros((2, 8, 8))), "/images must be a dataset of whole numbers"),
    "wide-numbers": (lambda p: write(p, images=np.zeros((2, 8, 8), np.uint32)), "uint8 or uint16, got"),
    "four-channels": (lambda p: write(p, images=np.zeros((2, 8, 8, 4), np.uint8)), "or .N, H, W, 1 or 3. of"),
    "other-count": (lambda p: write(p, masks=np.zeros((3, 8, 8), np.uint8)), "/masks must be"),
    "other-size": (lambda p: write(p, masks=np.zeros((2, 9, 8), np.uint8)), r"/masks must be \(2, 8, 8\) for training"),
    "one-label-an-image": (lambda p: write(p, masks=np.zeros(2, np.uint8)), r"must be \(2, 8, 8\) for training"),
    "negative": (lambda p: write(p, masks=np.full((2, 8, 8), -1, np.int16)), r"/masks\[0\]: holds values outside"),
    "text": (lambda p: p.write_text("no HDF5"), "not a folder or an HDF5 file"),
    "empty": (lambda p: p.write_bytes(b""), "not a folder or an HDF5 file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses(case: str, tmp_path: Path) -> None:
    make, match = HOSTILE[case]
    make(tmp_path / "a.h5")
    with pytest.raises(DataError, match=rf"a\.h5.*{match}") as error:
        open_dataset(tmp_path / "a.h5", 8, val="every:2")
    assert "\n" not in str(error.value)


def test_names_lead_nowhere(packed: Path) -> None:
    with h5py.File(packed, "a") as file:
        del file["names"]
        file["names"] = np.array([b"../x"] * 6)
    with pytest.raises(DataError, match="a name must not hold a slash"):
        open_dataset(packed, 16)


def test_damage_is_one_line(packed: Path) -> None:
    """Cut short anywhere, or with bytes changed anywhere: read as it was, or refused in a line."""
    whole = packed.read_bytes()
    rng = np.random.Generator(np.random.PCG64(5))
    damaged = [whole[: int(n)] for n in rng.integers(0, len(whole), 40)]
    for _ in range(80):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            content[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        packed.unlink()
        packed.write_bytes(content)
        try:
            data = open_dataset(packed, 16)
            for index in range(len(data)):
                data.sample(index)
        except DataError as error:
            refused += "\n" not in str(error)
    assert refused > 100


def test_open_members_reads_headers_alone(packed: Path) -> None:
    images, masks = open_members(packed)
    assert isinstance(images, h5py.Dataset)
    assert (images.shape, masks.shape) == ((6, 16, 16, 3), (6, 16, 16))
