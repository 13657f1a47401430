"""Model files: what goes in comes out, damage and hostile files are refused in one line, and a kill loses nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tritonnet.io import ModelFileError, load_model, save_model
from tritonnet.io.atomic import replacing

RNG = np.random.Generator(np.random.PCG64(0))
MODEL = {
    "inc.double_conv.0.weight": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "inc.double_conv.1.num_batches_tracked": np.array(7, np.int64),
    "half": RNG.standard_normal(5).astype(np.float16),
    "none": np.zeros((0, 3), np.float32),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "swapped": np.arange(3, dtype=">f4"),
}
CONFIG = {"model": "unet", "arguments": {"in_channels": 3}, "classes": ["hintergrund", "Zelle ü"], "scale": 1 / 255}
OPTIMIZER = {"exp_avg": {"half": np.ones(5, np.float32)}, "exp_avg_sq": {"half": np.zeros(5, np.float32)}}
PROGRESS = {"epoch": 3, "position": 16, "loss": float("inf"), "seed": 2**63}


def equal(found: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> bool:
    return list(found) == list(given) and all(
        found[k].shape == given[k].shape
        and found[k].dtype == given[k].dtype.newbyteorder("=")
        and (found[k] == given[k]).all()
        for k in given
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_model(tmp_path / "last.h5", CONFIG, MODEL, OPTIMIZER, PROGRESS)
    return tmp_path / "last.h5"


def test_round_trip(file: Path) -> None:
    loaded = load_model(file)
    assert loaded.config == CONFIG
    assert loaded.progress == PROGRESS
    assert equal(loaded.model, MODEL)
    assert loaded.optimizer is not None
    assert list(loaded.optimizer) == ["exp_avg", "exp_avg_sq"]
    assert equal(loaded.optimizer["exp_avg"], OPTIMIZER["exp_avg"])
    assert [f.name for f in file.parent.iterdir()] == ["last.h5"]


def test_training_state_is_optional(file: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "best.h5", CONFIG, MODEL)
    for loaded in (load_model(tmp_path / "best.h5"), load_model(file, training=False)):
        assert (loaded.optimizer, loaded.progress) == (None, None)
        assert equal(loaded.model, MODEL)


def test_the_schema_is_what_the_docstring_says(file: Path) -> None:
    import hashlib

    with h5py.File(file) as raw:
        assert raw.attrs["format"] == b"tritonnet"
        bias = raw["model/half"]
        line = b"/model/half <f2 (5,)\n"
        assert bias.attrs["sha256"].decode() == hashlib.sha256(line + bias[()].tobytes()).hexdigest()
        assert set(raw) == {"config", "model", "optimizer", "progress"}


def test_saving_replaces_the_file_and_keeps_links(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(file)
    save_model(tmp_path / "link.h5", {"new": True}, MODEL)
    assert (tmp_path / "link.h5").is_symlink()
    assert load_model(file).config == {"new": True}


UNWRITABLE = {
    "not-numbers": ({}, {"a": np.array(["text"])}, "a is <U4, not numbers"),
    "bools": ({}, {"a": np.array([True])}, "not numbers"),
    "slash": ({}, {"a/b": np.zeros(1)}, "'a/b' cannot name a dataset"),
    "not-json": ({"a": object()}, {}, "not JSON serializable"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_leaves_the_old_file(case: str, file: Path) -> None:
    config, model, match = UNWRITABLE[case]
    before = file.read_bytes()
    with pytest.raises(ModelFileError, match=match):
        save_model(file, config, model)
    assert file.read_bytes() == before
    assert len(list(file.parent.iterdir())) == 1


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no/such/a\.h5: no such file or folder"):
        save_model(tmp_path / "no" / "such" / "a.h5", {}, {})


def test_no_model_file(tmp_path: Path) -> None:
    def refused(name: str, match: str) -> None:
        with pytest.raises(ModelFileError, match=match) as error:
            load_model(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)

    refused("none.h5", "no such file")
    refused("", "is a folder; name a file in it")
    (tmp_path / "empty.h5").touch()
    refused("empty.h5", "not a tritonnet model file")
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 and so on")
    refused("a.pth", "load_pth")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = 1
    refused("other.h5", "not a tritonnet model file")
    save_model(tmp_path / "future.h5", {}, {})
    with h5py.File(tmp_path / "future.h5", "r+") as future:
        future.attrs["format_version"] = 2
    refused("future.h5", "format version 2, this tritonnet reads version 1")


def replace_by(name: str, make: Callable[[h5py.File, str], object]) -> Callable[[h5py.File], object]:
    def spoil(file: h5py.File) -> None:
        del file[name]
        make(file, name)

    return spoil


def change(file: h5py.File) -> None:
    file["model/half"][0] = 3


def swap_names(file: h5py.File) -> None:
    file.move("optimizer/exp_avg", "optimizer/x")
    file.move("optimizer/exp_avg_sq", "optimizer/exp_avg")


HALF = "model/half"
# kinds of links, types and storage: see test_untrusted, whose rules read these files too
HOSTILE: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "soft-link": (replace_by(HALF, lambda f, n: f.__setitem__(n, h5py.SoftLink("/config"))), "half is a SoftLink"),
    "linked-group": (
        replace_by("model", lambda f, n: f.__setitem__(n, h5py.SoftLink("/optimizer"))),
        "model is a Soft",
    ),
    "text": (replace_by(HALF, lambda f, n: f.create_dataset(n, data="text")), "not numbers"),
    "group-for-dataset": (replace_by(HALF, lambda f, n: f.create_group(n)), "half is a Group"),
    "dataset-for-group": (replace_by("model", lambda f, n: f.create_dataset(n, data=1)), "model is a Dataset"),
    "no-config": (lambda f: f.__delitem__("config"), "a model file has config"),
    "stranger": (lambda f: f.create_group("payload"), "a model file has config"),
    "config-list": (replace_by("config", lambda f, n: f.create_dataset(n, data=np.bytes_("[]"))), "sha256"),
    "changed-value": (change, "half does not match its sha256"),
    "swapped-names": (swap_names, "does not match its sha256"),
    "no-hash": (lambda f: f[HALF].attrs.__delitem__("sha256"), "half does not match its sha256"),
    "odd-hash": (lambda f: f[HALF].attrs.__setitem__("sha256", np.zeros(9)), "half does not match its sha256"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, file: Path) -> None:
    spoil, match = HOSTILE[case]
    with h5py.File(file, "r+", libver=("v110", "v110")) as raw:
        spoil(raw)
    with pytest.raises(ModelFileError, match=match) as error:
        load_model(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_compressed_files_are_read(file: Path) -> None:
    with h5py.File(file, "r+", libver=("v110", "v110")) as raw:
        old = raw["model/half"]
        values, digest = old[()], old.attrs["sha256"]
        del raw["model/half"]
        raw.create_dataset("model/half", data=values, compression="gzip", shuffle=True, fletcher32=True)
        raw["model/half"].attrs["sha256"] = digest
    assert (load_model(file).model["half"] == MODEL["half"]).all()


def test_a_flipped_bit_is_found_or_harmless(file: Path) -> None:
    whole = file.read_bytes()
    found = 0
    for at in np.random.Generator(np.random.PCG64(5)).choice(len(whole), 150, replace=False):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << (int(at) % 8)
        file.write_bytes(spoilt)
        try:
            loaded = load_model(file)
        except ModelFileError:
            found += 1
        else:  # the bit was in space that nothing uses
            assert equal(loaded.model, MODEL)
            assert (loaded.config, loaded.progress) == (CONFIG, PROGRESS)
    assert found > 0


def test_a_file_cut_short_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for share in (0.01, 0.3, 0.7, 0.99):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelFileError, match=f"{file}: damaged or cut short; copy it anew"):
            load_model(file)


# Every other kill hits a data file.
KILLER = """
import hashlib, os, signal, sys
import numpy as np
from tritonnet.io import hdf5, load_model, save_model

folder, kills = sys.argv[1], int(sys.argv[2])


def save(path, step):
    arrays = {f"w{i}": np.full(100000, step, np.float32) for i in range(4)}
    if path.endswith("last.h5"):
        save_model(path, {"step": step}, arrays)
    else:
        with hdf5.open(path, "w") as file:
            file.write("step", step)
            for name, array in arrays.items():
                file.write(name, array, compression="lzf")


def load(path):
    if path.endswith("last.h5"):
        loaded = load_model(path)
        return loaded.config["step"], loaded.model
    with hdf5.open(path) as file:
        return file.read("step").item(), {f"w{i}": file.read(f"w{i}") for i in range(4)}


def save_for_ever(path, step, report):
    while True:
        step += 1
        save(path, step)
        os.write(report, b".")


paths = [os.path.join(folder, name) for name in ("last.h5", "data.h5")]
for path in paths:
    save(path, 0)
for kill in range(kills):
    path = paths[kill % 2]
    before, _ = load(path)
    listen, report = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(path, before, report)
    os.close(report)
    os.read(listen, 1)  # one save is whole; the kill comes a little later, each time at another moment of the next ones
    hashlib.sha256(bytes(kill % 40 * 300_000))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(listen)
    step, arrays = load(path)
    assert step > before
    assert all(len(w) == 100000 and (w == step).all() for w in arrays.values())
print("survived", kills)
"""


def test_a_kill_while_saving_loses_nothing(tmp_path: Path) -> None:
    kills = os.environ.get("TRITONNET_KILLS", "20")
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", KILLER, str(tmp_path), kills],
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.stdout == f"survived {kills}\n", done.stderr
    assert {f.name for f in tmp_path.iterdir()} <= {"last.h5", ".last.h5.tmp", "data.h5", ".data.h5.tmp"}


def test_one_process_saves_at_a_time(file: Path) -> None:
    with replacing(file) as temporary:
        temporary.write_bytes(file.read_bytes())
        with pytest.raises(ModelFileError, match="another process is writing it"):
            save_model(file, {}, {})
    assert load_model(file).config == CONFIG
    save_model(file, {}, {})
    assert load_model(file).config == {}
