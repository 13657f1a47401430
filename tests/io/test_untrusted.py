"""Hostile and damaged data files: right values or one line, from Python and from the program; never a crash."""

import multiprocessing
import os
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tritonnet.cli import main
from tritonnet.io import FileError, ModelFileError, hdf5, inspect, load_model, save_model

NEW = ("v110", "v110")
# Python 3.12 and later warn of every fork once threads were started
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
X = np.arange(600.0).reshape(20, 30)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(5,), dtype="f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", shape=(5,))
    file.create_virtual_dataset("x", layout)


def unknown_filter(file: h5py.File) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # zstd, which is not here
    file.create_dataset("x", (5,), "f4", chunks=(5,), dcpl=plan)


def chunk(payload: bytes, **storage: object) -> Callable[[h5py.File], None]:
    """A chunk of 4000 bytes that holds something else, padded so that the file seems large enough for it."""

    def make(file: h5py.File) -> None:
        dataset = file.create_dataset("x", (1000,), "f4", chunks=(1000,), **storage)
        dataset.id.write_direct_chunk((0,), payload)

    return make


def deep(file: h5py.File) -> None:
    group = file["/"]
    for _ in range(3000):
        group = group.create_group("g")
    group["x"] = 1


def loop(file: h5py.File) -> None:
    file.create_group("a/b")
    file["a/b/c"] = file["a"]


def wide(file: h5py.File) -> None:
    """Two names for each group, sixty levels down: 2 ** 60 ways."""
    group = file["/"]
    for _ in range(60):
        child = group.create_group("x")
        group["y"] = child
        group = child


def big_attribute(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros(3)).attrs["a"] = np.zeros(10_000)


def reference(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros(3)).attrs.create("a", file.ref, dtype=h5py.ref_dtype)


TYPES = {
    "compound": np.dtype([("a", "f4"), ("b", "i4")]), "opaque": np.dtype("V8"), "array": np.dtype(("f4", (2,))),
    "complex": np.dtype("c8"), "enum": h5py.enum_dtype({"A": 1, "B": 2}), "reference": h5py.ref_dtype,
    "region": h5py.regionref_dtype, "vlen": h5py.vlen_dtype("f4"), "long-double": np.dtype("g"),
    "long-text": h5py.string_dtype(),
}  # fmt: skip
HOSTILE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "soft-link": (lambda f: f.__setitem__("x", h5py.SoftLink("/y")), "x is a SoftLink, which is not followed"),
    "external-link": (lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/y")), "x is a ExternalLink"),
    "virtual": (virtual, "in another file"),
    "external-storage": (lambda f: f.create_dataset("x", (4,), "u1", external=[("/etc/hostname", 0, 4)]), "another file"),
    "unknown-filter": (unknown_filter, "HDF5 filter 32015"),
    "4-TiB": (lambda f: f.create_dataset("x", (2**40,), "f4"), "claims 4398046511104 bytes, the file holds at most 0"),
    "4-TiB-in-chunks": (
        lambda f: f.create_dataset("x", (2**40,), "f4", chunks=(1024,), compression="gzip"), "claims 4398046511104 bytes",
    ),
    "4-TiB-appended": (
        lambda f: f.create_dataset("x", (2**40,), "f4", chunks=(1024,), maxshape=(None,)), "claims 4398046511104 bytes",
    ),
    "large-chunk": (
        lambda f: f.create_dataset("x", (8,), "f8", chunks=(2**28,), maxshape=(None,)), "chunks of at most 1073741824",
    ),
    "gzip-short": (chunk(zlib.compress(bytes(8)) + bytes(4000), compression="gzip"), "must be 4000 bytes"),
    "gzip-long": (chunk(zlib.compress(bytes(2**20)) + bytes(4000), compression="gzip"), "must be 4000 bytes"),
    "gzip-cut": (chunk(zlib.compress(np.random.default_rng(0).bytes(4000))[:3990], compression="gzip"), "must be 4000"),
    "gzip-rubbish": (chunk(bytes(4000), compression="gzip"), "damaged"),
    "lzf-short": (chunk(b"\x02abc", compression="lzf"), "must be 4000 bytes"),
    "lzf-long": (chunk(b"\x02abc" + b"\xe0\xff\x00" * 20, compression="lzf"), "must be 4000 bytes"),
    "lzf-rubbish": (chunk(b"\xff" * 4000, compression="lzf"), "damaged"),
    "shuffle-short": (chunk(bytes(3996), shuffle=True, compression="gzip"), "damaged"),
    "checksum": (chunk(bytes(4003) + b"\1", fletcher32=True), "does not match its checksum"),
    "checksum-short": (chunk(bytes(4), fletcher32=True, compression="gzip"), "claims|damaged"),
    "never-written": (
        lambda f: f.create_dataset("x", (20,), "f4", chunks=(10,), compression="gzip").__setitem__(3, 1), "never written",
    ),
    "deep": (deep, "levels"),
    "loop": (loop, "groups must form a tree"),
    "wide": (wide, "groups must form a tree"),
    "big-attribute": (big_attribute, "attribute a must be from 1 to 65536 bytes"),
    "reference-attribute": (reference, "attribute a is of a type"),
    "no-shape": (lambda f: f.create_dataset("x", data=h5py.Empty("f4")), "x has no shape"),
    "named-type": (lambda f: f.__setitem__("x", np.dtype("f4")), "x is a Datatype"),
    "newline": (lambda f: f.__setitem__("x\n\x1b[31m", h5py.SoftLink("/y")), r"/x\\n\\x1b\[31m is a SoftLink"),
    **{
        name: (lambda f, dtype=dtype: f.create_dataset("x", (0,), dtype), "x is of a type") for name, dtype in TYPES.items()
    },
}  # fmt: skip


def read_all(path: Path) -> None:
    with hdf5.open(path) as file:
        for entry in file.entries():
            if entry.shape is not None:
                file.read(entry.name)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, match = HOSTILE[case]
    path = tmp_path / "data.h5"
    with h5py.File(path, "w", libver=NEW) as file:
        make(file)
    with pytest.raises(FileError, match=match) as error:
        read_all(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()
    capsys.readouterr()
    assert run("inspect", path, "--check") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"tritonnet: error: {error.value}\n"


def test_a_way_through_links_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["real/x"] = 1
        file["soft"] = h5py.SoftLink("/real")
        file["outside"] = h5py.ExternalLink(str(tmp_path / "no.h5"), "/")
    with hdf5.open(path, "a") as file:
        for name in ("soft/x", "outside/x"):
            for use in (file.read, file.entry, lambda name: file.write(name, 1), lambda name: file.append(name, [1])):
                with pytest.raises(FileError, match="Link, which is not followed"):
                    use(name)
        with pytest.raises(FileError, match="at most 64 levels"):
            file.read("g/" * 70_000)


def test_a_hostile_chunk_is_not_decoded_to_change_it(tmp_path: Path) -> None:
    """HDF5's own filters would read past its end."""
    path = tmp_path / "data.h5"
    with h5py.File(path, "w", libver=NEW) as file:
        storage = {"chunks": (1000,), "maxshape": (None,), "compression": "gzip"}
        dataset = file.create_dataset("x", (500,), "f4", **storage)
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(8)) + bytes(4000))
    with hdf5.open(path, "a") as file:
        with pytest.raises(FileError, match="must be 4000 bytes"):
            file.write("x", 1, np.s_[:10])
        with pytest.raises(FileError, match="must be 4000 bytes"):
            file.append("x", [1.0])


def test_a_hostile_chunk_in_a_model_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.h5"
    save_model(path, {}, {"w": np.zeros(1000, np.float32)})
    with h5py.File(path, "r+", libver=NEW) as file:
        del file["model/w"]
        chunk(zlib.compress(bytes(8)) + bytes(4000), compression="gzip")(file["model"])
    with pytest.raises(ModelFileError, match="must be 4000 bytes"):
        load_model(path)


def test_text_of_unknown_length_is_listed_but_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["x"] = [1, 2]
        file["x"].attrs["unit"] = "mm"
    assert run("inspect", path) == 0
    assert "@unit = (text of variable length, not read)" in capsys.readouterr().out
    with hdf5.open(path) as file:
        assert file.read("x").tolist() == [1, 2]
        with pytest.raises(FileError, match=r"attribute unit is of a type \(string\)"):
            file.entry("x")


def data_file(path: Path) -> None:
    with hdf5.open(path, "w") as file:
        file.write("gzip", X, compression="gzip", chunks=(7, 11))
        file.write("group/lzf", X, compression="lzf", chunks=(7, 11))
        file.write("plain", X)
        file.write("number", 2.5)
        file.append("rows", X)
        file.set_attributes("group", {"unit": "mm"})


def old_file(path: Path) -> None:
    """Without any checksum: values may be wrong, and shapes, but nothing else may happen."""
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        for name in ("gzip", "group/lzf"):
            file.create_dataset(name, data=X, chunks=(7, 11), compression=name[-4:].strip("/"), shuffle=True)
        file["plain"], file["number"] = X, 2.5
        file.create_dataset("rows", data=X, chunks=(4, 30))


def spoil(path: Path, checked: bool, count: int) -> None:
    """Change some bytes, list, read: the values are right (where there are checksums) or there is one line."""
    whole = path.read_bytes()
    names = ("gzip", "group/lzf", "plain", "rows")
    random = np.random.Generator(np.random.PCG64(7))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    told: list[str] = []

    def one_line(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except FileError as error:
            told.append(str(error))
            return None

    def listed_and_read() -> None:
        one_line(lambda: inspect(path, check=True))
        with hdf5.open(path) as file:
            for name in names:
                values = one_line(lambda name=name: file.read(name))
                assert not checked or values is None or np.array_equal(values, X)

    for trial in range(count):
        spoilt = bytearray(whole)
        for at in random.choice(len(whole), random.integers(1, 4), replace=False):
            spoilt[at] = random.integers(256)
        if trial % 4 == 0:  # a size or an address
            at = random.integers(len(whole) - 8)
            spoilt[at : at + 8] = (0, 2**31, 2**40, 2**64 - 1, 48)[random.integers(5)].to_bytes(8, "little")
        if trial % 10 == 0:
            del spoilt[random.integers(len(whole)) :]
        path.write_bytes(spoilt)
        one_line(listed_and_read)
    assert len(told) > count / 20
    assert all(text.isprintable() for text in told)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**18  # KiB


@pytest.mark.parametrize("make", [data_file, old_file])
def test_spoilt_bytes(make: Callable[[Path], None], tmp_path: Path) -> None:
    """In a process of its own, so that a crash is seen."""
    make(tmp_path / "data.h5")
    arguments = (tmp_path / "data.h5", make is data_file, int(os.environ.get("TRITONNET_SPOILT", "40")))
    child = multiprocessing.get_context("fork").Process(target=spoil, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0
