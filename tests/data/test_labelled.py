"""MNIST and CIFAR from files made here byte by byte, and every way they can be wrong."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tritonnet.data import DataError, open_labelled

PIXELS = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (3, 5, 4), np.uint8)
LABELS = bytes((7, 0, 9))


def idx(magic: int, shape: tuple[int, ...], content: bytes) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in (magic, *shape)) + content


IMAGES = idx(2051, PIXELS.shape, PIXELS.tobytes())


def write_mnist(
    root: Path, images: bytes = IMAGES, labels: bytes = idx(2049, (3,), LABELS), prefix: str = "train"
) -> None:
    (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
        images if images[:2] == b"\x1f\x8b" else gzip.compress(images)
    )
    (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


@pytest.mark.parametrize("packed", [True, False])
def test_mnist(packed: bool, tmp_path: Path) -> None:
    for prefix in ("train", "t10k"):
        write_mnist(tmp_path, prefix=prefix)
    if not packed:
        for path in list(tmp_path.iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    for split in ("train", "test"):
        data = open_labelled(tmp_path, split)
        assert (data.images == PIXELS).all()
        assert data.labels.tolist() == [7, 0, 9]
        assert data.class_names[7] == "7"


MNIST: dict[str, tuple[dict[str, bytes], str]] = {
    "cut-gzip": ({"images": gzip.compress(IMAGES)[:40]}, "ended before the end-of-stream"),
    "cut-inside": ({"images": IMAGES[:-1]}, "claims 60 bytes, which it does not hold"),
    "too-long": ({"images": IMAGES + b"x"}, "claims 60 bytes, which it does not hold"),
    "cut-header": ({"images": IMAGES[:9]}, "which it does not hold"),
    "no-header": ({"images": b""}, "its magic number must be 2051, got 0"),
    "labels-for-images": ({"images": idx(2049, (3,), LABELS)}, "its magic number must be 2051, got 2049"),
    "4-TiB": ({"images": idx(2051, (4096, 32768, 32768), b"x")}, "claims 4398046511104 bytes"),
    "more-than-64-bits": ({"images": idx(2051, (2**32 - 1,) * 3, b"x")}, "which it does not hold"),
    "none": ({"images": idx(2051, (0, 28, 28), b"")}, "claims 0 bytes"),
    "other-count": ({"labels": idx(2049, (2,), LABELS[:2])}, "for each of 3 images, got 2 labels"),
    "no-digit": ({"labels": idx(2049, (3,), b"\x00\x01\x0a")}, r"a label in 0\.\.9 .* in 0\.\.10"),
}


@pytest.mark.parametrize("case", MNIST)
def test_mnist_refuses(case: str, tmp_path: Path) -> None:
    files, match = MNIST[case]
    write_mnist(tmp_path, **files)
    with pytest.raises(DataError, match=match) as error:
        open_labelled(tmp_path)
    assert "\n" not in str(error.value)


def test_mnist_without_labels(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: no such file"):
        open_labelled(tmp_path)


def record(*labels: int) -> bytes:
    """An image whose red is 1, green 2, blue 3, but for its second pixel."""
    return bytes(labels) + bytes([1, 9] + [1] * 1022) + bytes([2] * 1024) + bytes([3] * 1024)


def test_cifar10(tmp_path: Path) -> None:
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for i in range(5):
        (root / f"data_batch_{i + 1}.bin").write_bytes(record(i) + record(9))
    (root / "test_batch.bin").write_bytes(record(3))
    for place in (root, tmp_path):
        data = open_labelled(place)
        assert (data.images.shape, data.images.dtype) == ((10, 32, 32, 3), np.uint8)
        assert data.images[0, 0, :2].tolist() == [[1, 2, 3], [9, 2, 3]]
        assert data.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
        assert data.class_names[open_labelled(place, "test").labels[0]] == "cat"
    (root / "data_batch_2.bin").write_bytes(record(1)[:-1])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: must hold records of 3073 bytes, got 3072"):
        open_labelled(root)
    (root / "data_batch_2.bin").write_bytes(record(10))
    with pytest.raises(DataError, match=r"a label in 0\.\.9 for each of 9 images"):
        open_labelled(root)
    (root / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_2\.bin: no such file"):
        open_labelled(root)


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.bin").write_bytes(record(4, 99) + record(0, 1))
    assert open_labelled(tmp_path).labels.tolist() == [99, 1]
    assert open_labelled(tmp_path).class_names[99] == "class 99"
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"thing{i}" for i in range(100)))
    assert open_labelled(tmp_path, "test").class_names[99] == "thing99"


@pytest.mark.parametrize("name", ["data_batch_1", "meta", "cifar-10-batches-py", "cifar-100-python"])
def test_pickles_are_never_read(name: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return (tmp_path / "sprung").write_text, ("",)

    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="pickled and not read; download its binary version"):
        open_labelled(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_hdf5_with_one_label_an_image(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["labels"] = PIXELS, np.array([2, 0, 1])
    data = open_labelled(tmp_path / "a.h5")
    assert (data.images[1] == PIXELS[1]).all()
    assert data.labels.tolist() == [2, 0, 1]
    assert data.class_names == ("class 0", "class 1", "class 2")
    for arguments, match in ((("test",), "split train"), (("best",), "split must be train or test")):
        with pytest.raises(DataError, match=match):
            open_labelled(tmp_path / "a.h5", *arguments)


def test_refuses_other_folders(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"must hold MNIST .* or CIFAR .*, holds a\.png"):
        open_labelled(tmp_path)
    with pytest.raises(DataError, match="holds nothing"):
        open_labelled(tmp_path / "nowhere")
