"""Data files and several processes: locks, readers beside a writer, kills."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonnet import Refused
from tritonnet.io import FileError, hdf5, untrusted

# Python 3.12 and later warn of every fork once threads were started
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.h5"


def serve(path: Path, pipe: Connection) -> None:
    """Open the file in each mode that comes, and answer with the rows of x or what went wrong."""
    while mode := pipe.recv():
        try:
            with hdf5.open(path, mode) as file:
                pipe.send(file.read("x").tolist())
        except FileError as error:
            pipe.send(str(error))


@pytest.fixture
def others(path: Path) -> Iterator[list[Connection]]:
    """Three processes that serve; forked before this one opens a file, since HDF5 shares what is open with a child."""
    pairs = [FORK.Pipe() for _ in range(3)]
    children = [FORK.Process(target=serve, args=(path, there)) for _, there in pairs]
    for child in children:
        child.start()
    yield [here for here, _ in pairs]
    for (here, _), child in zip(pairs, children, strict=True):
        here.send("")
        child.join()


def ask(others: list[Connection], mode: str) -> list[Any]:
    """What each of the processes answers, all asked before the first is heard."""
    for other in others:
        other.send(mode)
    return [other.recv() for other in others]


def test_locks(path: Path, others: list[Connection]) -> None:
    with hdf5.open(path, "w") as file:
        file.write("x", np.arange(3))
        assert "another process is writing it" in ask(others[:1], "w")[0]
        assert "no such file" in ask(others[:1], "r")[0]
    with hdf5.open(path) as file:
        assert ask(others, "r") == [[0, 1, 2]] * 3  # readers share
        assert "another process has it open" in ask(others[:1], "a")[0]
        with hdf5.open(path, "w") as new:  # readers keep the old file
            new.write("x", np.arange(5))
        assert file.read("x").tolist() == [0, 1, 2]
        assert ask(others[:1], "r") == [[0, 1, 2, 3, 4]]
    with hdf5.open(path, "a"):
        for mode in ("r", "a"):
            assert all("another process has it open" in answer for answer in ask(others, mode))


def test_an_exception_leaves_the_old_file(path: Path) -> None:
    for value in (1, 2):
        with pytest.raises(ZeroDivisionError) if value == 2 else hdf5.open(path, "w") as file:
            if value == 1:
                file.write("x", value)
            else:
                with hdf5.open(path, "w") as new:
                    new.write("x", value)
                    1 / 0  # noqa: B018
    assert hdf5.open(path).read("x") == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_readers_beside_a_writer(path: Path, others: list[Connection]) -> None:
    """Three processes read what the writer has flushed, each time it has."""
    with hdf5.open(path, "w") as file:
        file.append("x", [0, 0, 0], chunks=(5,), compression="gzip")
    with hdf5.open(path, "a") as file:
        file.start_swmr()
        with pytest.raises(Refused, match="before start_swmr"):
            file.write("y", 1)
        for step in range(1, 6):
            file.append("x", [step] * 3)
            file.flush()
            assert ask(others, "r") == [[i for i in range(step + 1) for _ in range(3)]] * 3
        assert "another process" in ask(others[:1], "a")[0]
    assert len(ask(others[:1], "r")[0]) == 18


def test_an_open_reader_sees_new_rows(path: Path) -> None:
    with hdf5.open(path, "w") as file:
        file.append("x", [0, 0, 0], chunks=(5,))
    here, there = FORK.Pipe()
    child = FORK.Process(target=append_when_told, args=(path, there))
    child.start()
    assert here.recv() == 0
    with hdf5.open(path) as file:
        for step in range(1, 6):
            here.send(True)
            assert here.recv() == step
            assert file.read("x").tolist() == [i for i in range(step + 1) for _ in range(3)]
        here.send(False)
        child.join()


def append_when_told(path: Path, pipe: Connection) -> None:
    with hdf5.open(path, "a") as file:
        file.start_swmr()
        step = 0
        pipe.send(step)
        while pipe.recv():
            step += 1
            file.append("x", [step] * 3)
            file.flush()
            pipe.send(step)


def test_a_reader_beside_a_writer_tries_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hdf5.open(path, "w") as file:
        file.append("x", [1, 2, 3])
    read, calls = untrusted.read, []

    def torn(*arguments: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) < 4:
            raise FileError("x does not match its checksum")
        return read(*arguments)

    monkeypatch.setattr(untrusted, "read", torn)
    with hdf5.open(path) as file, pytest.raises(FileError, match="checksum"):
        file.read("x")
    with hdf5.open(path, "a") as file:
        file.start_swmr()
        assert file.read("x").tolist() == [1, 2, 3]
        assert len(calls) == 4
        held = file._file["x"]  # as another thread would
        with pytest.raises(FileError, match="one thread of a process"):
            file.read("x")
        del held


def append_for_ever(path: Path, pipe: Connection) -> None:
    with hdf5.open(path, "a") as file:
        file.start_swmr()
        step = 0
        while True:
            step += 1
            file.append("x", np.full((3, 4), step))
            file.flush()
            pipe.send(step)


def test_a_killed_writer_leaves_what_it_flushed(path: Path) -> None:
    for kill in range(5):
        with hdf5.open(path, "w") as file:
            file.append("x", np.zeros((3, 4)), chunks=(5, 4), compression="gzip")
        here, there = FORK.Pipe()
        child = FORK.Process(target=append_for_ever, args=(path, there))
        child.start()
        there.close()
        told = [here.recv() for _ in range(3 * kill + 1)][-1]
        with hdf5.open(path) as file:  # while it goes on writing
            assert len(file.read("x")) >= 3 * (told + 1)
        child.kill()
        child.join()
        with hdf5.open(path) as file:
            rows = file.read("x")
        assert len(rows) >= 3 * (told + 1)
        assert (rows == np.arange(len(rows))[:, None] // 3).all()
        with pytest.raises(FileError, match="h5clear"):
            hdf5.open(path, "a")
    whole = path.read_bytes()
    for share in (0.1, 0.4, 0.7):  # damaged besides, refused at once
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FileError), hdf5.open(path) as file:
            file.read("x")
