"""`tritonnet inspect`: what a file holds, as a table, from its headers alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tritonnet.cli import main
from tritonnet.io import FileError, hdf5, inspect, save_model, save_safetensors

ARRAYS = {"b.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a.steps": np.array(9)}


def spoil(path: Path, array: np.ndarray) -> None:
    """Change one byte of the array's values."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(array.tobytes()) + 5] ^= 1
    path.write_bytes(whole)


def test_a_data_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.h5"
    images = np.random.default_rng(0).integers(0, 255, (3, 4, 5), np.uint8)
    with hdf5.open(path, "w") as file:
        file.write("scans/images", images)
        file.write("scans/packed", np.zeros((100, 10)), compression="gzip", chunks=(50, 10))
        file.write("number", 1.5)
        file.set_attributes("scans", {"unit": "mm"})
        stored = file.entry("scans/packed").stored
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(path)])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "HDF5; 2 arrays have checksums; --check compares them"
    assert [line.split() for line in lines[1:]] == [
        ["name", "shape", "type", "bytes", "stored", "chunks", "filters"],
        ["/", "group"],
        ["/scans", "group"],
        ["@unit", "=", "mm"],
        ["/scans/images", "3", "x", "4", "x", "5", "uint8", "60", "64", "3", "x", "4", "x", "5", "fletcher32"],
        [
            "/scans/packed",
            "100",
            "x",
            "10",
            "float64",
            "8,000",
            str(stored),
            *["50", "x", "10", "shuffle", "gzip", "fletcher32"],
        ],
        ["/number", "scalar", "float64", "8", "8"],
        ["3", "arrays,", "1,061", "values,", "8,068", "bytes"],
    ]
    assert inspect(path, check=True)[0] == "HDF5; 2 arrays have checksums, which hold"
    spoil(path, images)
    assert inspect(path) == lines  # no values are read
    with pytest.raises(FileError, match=r"images, chunk at .0, 0, 0. does not match its checksum"):
        inspect(path, check=True)


def test_a_model_file(tmp_path: Path) -> None:
    path = tmp_path / "best.h5"
    save_model(path, {"model": {"name": "unet"}, "classes": ["Zelle"]}, ARRAYS, {"m": ARRAYS}, {"epoch": 3})
    lines = inspect(path)
    assert lines[0] == "tritonnet model, format version 1; --check compares the SHA-256 of each array"
    assert lines[1:3] == ['  model = {"name": "unet"}', '  classes = ["Zelle"]']
    assert any(line.split()[:5] == ["/model/b.weight", "3", "x", "4", "float32"] for line in lines)
    assert lines[-1].startswith("6 arrays")
    assert "every SHA-256 holds" in inspect(path, check=True)[0]
    spoil(path, ARRAYS["b.weight"])
    assert inspect(path) == lines
    with pytest.raises(FileError, match=r"b\.weight does not match its sha256"):
        inspect(path, check=True)


def test_safetensors_and_pth(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a.safetensors", ARRAYS)
    torch.save({name: torch.tensor(array) for name, array in ARRAYS.items()}, tmp_path / "a.pth")
    for name, types in (("a.safetensors", ("F32", "I64")), ("a.pth", ("float32", "int64"))):
        lines = inspect(tmp_path / name)
        assert "no checksums" in lines[0]
        assert lines[2].split() == ["b.weight", "3", "x", "4", types[0], "48", "48"]
        assert lines[3].split() == ["a.steps", "scalar", types[1], "8", "8"]
        assert lines[4] == "2 arrays, 13 values, 56 bytes"


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89HDF\r\n\x1a\n", b"12345678{", b"\x80\x02"])
def test_other_files_are_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(tmp_path / "file")])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert str(tmp_path / "file") in told.err
