"""Data files: any array whole or in part, rows appended, memory bounded."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tritonnet as tn
from tritonnet import Refused
from tritonnet.io import FileError, hdf5

RNG = np.random.Generator(np.random.PCG64(3))
TYPES = ("bool", "i1", "u1", "<i2", ">u2", "i4", "u4", "i8", "u8", "f2", "f4", ">f4", "f8")
SHAPES = ((), (1,), (7,), (0,), (3, 0, 2), (5, 6), (2, 3, 4, 3), (1, 2, 1, 3, 2, 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.h5"


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_any_type_and_shape_comes_back(path: Path, compression: str | None) -> None:
    given = {
        f"group/{i}/{j}": (RNG.standard_normal(shape) * 50).astype(dtype)
        for i, dtype in enumerate(TYPES)
        for j, shape in enumerate(SHAPES)
    }
    with hdf5.open(path, "w") as file:
        for name, array in given.items():
            file.write(name, array, compression=compression)
    with hdf5.open(path) as file:
        assert file.names() == ["group"]
        assert file.names("group") == [str(i) for i in range(len(TYPES))]
        for name, array in given.items():
            found = file.read(name)
            assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))
            assert (found == array).all()
    with h5py.File(path) as file:  # HDF5 itself decodes the same
        assert all((file[name][()] == array).all() for name, array in given.items())


def test_long_arrays_have_several_chunks(path: Path) -> None:
    array = RNG.integers(0, 2**16, (3, 700, 1000)).astype("u2")
    with hdf5.open(path, "w") as file:
        file.write("turned", array.T, compression="lzf")
        file.write("odd", array.reshape(-1)[:999_999])
        assert file.entry("turned").chunks == (249, 700, 3)
        assert file.entry("odd").chunks == (2**19,)
    with hdf5.open(path) as file:
        assert (file.read("turned") == array.T).all()
        assert (file.read("odd") == array.reshape(-1)[:999_999]).all()


def test_tensors_and_numbers_go_in(path: Path) -> None:
    x = tn.from_numpy(RNG.standard_normal((2, 3, 4, 5)).astype("f4"))
    with hdf5.open(path, "w") as file:
        file.write("x", x)
        file.write("number", 2.5)
        file.write("list", [[1, 2], [3, 4]])
        assert (file.read("x") == x.numpy()).all()
        assert file.read("number").item() == 2.5
        assert file.read("list", 1).tolist() == [3, 4]


# --- parts ----------------------------------------------------------------------------------------------------------


def indices(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Integers and slices as numpy takes them, of which some leave the array, and perhaps one `...`."""
    part = [
        st.one_of(
            st.integers(-n, n - 1),
            st.builds(slice, *[st.none() | st.integers(-n - 2, n + 2)] * 2, st.none() | st.integers(1, n + 1)),
        )
        for n in shape
    ]
    whole = st.tuples(*part)
    return st.one_of(whole, whole.map(lambda parts: (parts[0], ..., parts[-1])), whole.map(lambda parts: parts[0]))


@pytest.mark.parametrize("storage", [{}, {"chunks": (3, 2, 4)}, {"chunks": (2, 5, 3), "compression": "gzip"}])
def test_parts_are_numpys(path: Path, storage: dict[str, Any]) -> None:
    array = RNG.standard_normal((7, 5, 6))

    @settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(indices(array.shape), st.integers(0, 1000))
    def compare(index: Any, value: int) -> None:
        assert (file.read("x", index) == array[index]).all()
        assert file.read("x", index).shape == array[index].shape
        file.write("x", new := np.full_like(array[index], value), index)
        array[index] = new

    with hdf5.open(path, "w") as file:
        file.write("x", array, **storage)
    with hdf5.open(path, "a") as file:
        compare()
    with hdf5.open(path) as file:
        assert (file.read("x") == array).all()


def test_foreign_files_are_read_in_parts(path: Path) -> None:
    """Chunked without a checksum, not chunked, an old format, the filters in other orders."""
    array = RNG.standard_normal((9, 8)).astype(">f4")
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("plain", data=array)
        file.create_dataset("chunked", data=array, chunks=(2, 3))
        file.create_dataset("all", data=array, chunks=(2, 3), compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("lzf", data=array, chunks=(4, 4), compression="lzf")
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_fletcher32()
        plan.set_shuffle()
        plan.set_deflate(6)
        file.create_dataset("checksum-first", data=array, chunks=(2, 3), dcpl=plan)
        assert len(file["checksum-first"].id.get_create_plist().get_filter(0)) == 4
        file.attrs["units"] = np.bytes_("mm")
        file["all"].attrs["numbers"] = [1, 2]
    with hdf5.open(path) as file:
        for name in ("plain", "chunked", "all", "lzf", "checksum-first"):
            assert (file.read(name) == array).all()
            assert (file.read(name, np.s_[1::3, -2]) == array[1::3, -2]).all()
        assert file.entry("/").attributes == {"units": "mm"}
        assert file.entry("all").attributes["numbers"].tolist() == [1, 2]


def test_create_fills_part_by_part(path: Path) -> None:
    with hdf5.open(path, "w") as file:
        file.create("x", (4, 3), "i2", compression="gzip")
        file.create("s", (), "f4")
        assert not file.read("x").any()
        file.write("x", [1, 2, 3], 2)
        file.write("x", 9, np.s_[:2, -1])
        file.write("x", 5, np.s_[4:])  # nothing
        assert file.read("x").tolist() == [[0, 0, 9], [0, 0, 9], [1, 2, 3], [0, 0, 0]]
        assert file.read("s") == 0


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_rows_are_appended(path: Path, compression: str | None) -> None:
    rows = RNG.standard_normal((40, 3)).astype("f4")
    for mode, at in (("w", 0), ("a", 20)):
        with hdf5.open(path, mode) as file:
            for start in (at, at + 7, at + 8):
                stop = {0: 7, 7: 8, 8: 20}[start - at] + at
                file.append("g/rows", rows[start:stop], chunks=(6, 3), compression=compression)
            assert (file.read("g/rows", np.s_[at : at + 20]) == rows[at : at + 20]).all()
    with hdf5.open(path) as file:
        assert (file.read("g/rows") == rows).all()
        assert file.entry("g/rows").chunks == (6, 3)


def test_attributes(path: Path) -> None:
    values = {"text": "Zelle ü", "none": "", "whole": 3, "half": 0.5, "yes": True}
    with hdf5.open(path, "w") as file:
        file.write("a/x", np.zeros(3))
        for name in ("/", "a", "a/x"):
            file.set_attributes(name, values | {"list": [1.5, 2.0]})
        file.set_attributes("a", {"whole": 4})
    with hdf5.open(path) as file:
        found = file.entry("a/x").attributes
        assert found.pop("list").tolist() == [1.5, 2.0]
        assert found == values
        assert file.entry("a").attributes["whole"] == 4
        assert file.entry("/").attributes["text"] == "Zelle ü"


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}, {"chunks": (100, 64)}])
def test_blocks_bound_the_memory(path: Path, storage: dict[str, Any]) -> None:
    bound = 2**21
    rows = np.arange(64)
    with hdf5.open(path, "w") as file:  # 16 MiB, eight times the bound
        for start in range(0, 32768, 4096):
            file.append("x", (np.arange(start, start + 4096)[:, None] + rows), **storage)
    tracemalloc.start()  # which sees numpy's arrays and what h5py hands over
    with hdf5.open(path) as file:
        start = 0
        for block in file.blocks("x", memory=bound):
            assert (block[:, 0] == np.arange(start, start + len(block))).all()
            start += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert start == 32768
    assert bound / 2 < peak < bound, peak


def test_blocks_have_the_rows_asked_for(path: Path) -> None:
    with hdf5.open(path, "w") as file:
        file.write("x", np.arange(10))
        file.write("none", np.zeros((0, 3)))
        file.write("number", 1.0)
        assert [len(block) for block in file.blocks("x", rows=4)] == [4, 4, 2]
        assert list(file.blocks("none")) == []
        with pytest.raises(Refused, match="with rows"):
            next(file.blocks("number"))
        with pytest.raises(Refused, match="memory must be 16 bytes for each of 1 rows and 240, got 100"):
            next(file.blocks("x", memory=100))


# --- refusals -------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[hdf5.File], object], str]] = {
    "complex": (lambda f: f.write("y", np.zeros(2, complex)), "y must be numbers of at most 8 bytes"),
    "text": (lambda f: f.write("y", np.array(["a"])), "must be numbers"),
    "objects": (lambda f: f.write("y", np.array([None])), "must be numbers"),
    "compression": (lambda f: f.write("y", np.zeros(3), compression="zip"), "gzip, lzf or None"),
    "there": (lambda f: f.write("x", np.zeros(3)), "x must be a new name"),
    "name": (lambda f: f.write("a//b", 1), "name must be words"),
    "dots": (lambda f: f.write("../b", 1), "name must be words"),
    "past-the-end": (lambda f: f.read("x", 4), "that fit .4, 3."),
    "too-many": (lambda f: f.read("x", (0, 0, 0)), "that fit .4, 3."),
    "array": (lambda f: f.read("x", np.array([0, 1])), "index must be"),
    "two-dots": (lambda f: f.read("x", (..., 0, ...)), "one ..."),
    "list": (lambda f: f.read("x", [0, 1]), "index must be"),
    "mask": (lambda f: f.read("x", True), "no bool"),
    "backwards": (lambda f: f.read("x", np.s_[::-1]), "positive steps"),
    "shape": (lambda f: f.write("x", np.zeros(5), np.s_[0]), "broadcast to .3,."),
    "too-large": (lambda f: f.write("x", 256, 0), "values that uint8 holds"),
    "nan": (lambda f: f.write("x", np.nan, 0), "values that uint8 holds"),
    "fixed": (lambda f: f.append("x", np.zeros((1, 3))), "x must be made by append"),
    "rows": (lambda f: f.append("rows", np.zeros((1, 5))), "broadcast to"),
    "no-rows": (lambda f: f.append("rows", 1), "rows must be of shape"),
    "attribute": (lambda f: f.set_attributes("x", {"a": None}), "a must be text or numbers"),
    "long-attribute": (lambda f: f.set_attributes("x", {"a": "a" * 70_000}), "at most 63 KiB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, path: Path) -> None:
    call, match = REFUSED[case]
    with hdf5.open(path, "w") as file:
        file.write("x", np.zeros((4, 3), "u1"))
        file.append("rows", np.zeros((2, 4)))
        with pytest.raises(Refused, match=match):
            call(file)


def test_refuses_to_write_what_is_open_to_read(path: Path) -> None:
    with hdf5.open(path, "w") as file, pytest.raises(Refused, match="mode must be 'a', got 'w'"):
        file.start_swmr()
    with hdf5.open(path) as file, pytest.raises(Refused, match="must be open with 'w' or 'a', got 'r'"):
        file.append("x", [1])
    with pytest.raises(Refused, match="mode must be"):
        hdf5.open(path, "r+")
    for name, match in (("none.h5", "no such file"), ("", "is a folder")):
        with pytest.raises(FileError, match=match):
            hdf5.open(path.parent / name)
