"""safetensors: round trip, agreement with the format's description, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

from tritonnet.io import ModelFileError, inspect, load_safetensors, save_safetensors

MODEL = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "steps": np.array(9, np.int64),
    "empty": np.zeros((0, 2), np.float16),
}


def raw(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_round_trip(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a.safetensors", MODEL, {"by": "test"})
    loaded = load_safetensors(tmp_path / "a.safetensors")
    assert list(loaded) == list(MODEL)
    for key, value in MODEL.items():
        assert (loaded[key].dtype, loaded[key].shape) == (value.dtype, value.shape)
        assert (loaded[key] == value).all()


def test_layout_is_the_formats(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a", {"x": np.array([1.0, 2.0], np.float32)})
    content = (tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length]) == {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert content[8 + length :] == np.array([1.0, 2.0], "<f4").tobytes()


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    (tmp_path / "a").write_bytes(raw(header, b"\x80\x3f\x40\xc0"))
    assert load_safetensors(tmp_path / "a")["x"].tolist() == [1.0, -3.0]


def entry(**changes: object) -> dict[str, object]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


BAD = {
    "empty": b"",
    "short-header": (10**9).to_bytes(8, "little"),
    "not-json": raw(None)[:8] + b"\xff\xff\xff\xff",
    "not-a-dict": raw([1]),
    "no-entry": raw({"x": 3}),
    "past-the-end": raw(entry(), b"1234"),
    "other-size": raw(entry(shape=[3]), b"12345678"),
    "huge": raw(entry(shape=[2**40, 2**40]), b"12345678"),
    "negative": raw(entry(shape=[-1, -2]), b"12345678"),
    "unknown-type": raw(entry(dtype="C64"), b"12345678"),
    "fractions": raw(entry(shape=[2.0]), b"12345678"),
    "texts": raw(entry(data_offsets=["0", "8"]), b"12345678"),
    "many-sizes": raw(entry(shape=[2**62] * 100_000), b"12345678"),
    "overlap": raw({f"x{i}": entry()["x"] for i in range(1000)}, b"12345678"),
    "gap": raw(entry(data_offsets=[4, 12]), b"1234" + b"12345678"),
    "more-than-arrays": raw(entry(), b"12345678" + b"1"),
    "twice": b"\x12\0\0\0\0\0\0\0" + b'{"x": {}, "x": {}}',
    "nested": b"\xa0\x86\x01\0\0\0\0\0" + b"[" * 100_000,
    "long-number": raw(entry(), b"12345678").replace(b"[2]", b"[" + b"9" * 5000 + b"]"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(BAD[case])
    for read in (load_safetensors, inspect):
        if read is load_safetensors or BAD[case][8:9] == b"{":
            with pytest.raises(ModelFileError, match=r"bad: not a safetensors file") as error:
                read(tmp_path / "bad")
            assert str(error.value).isprintable()


def test_refuses_other_types_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="x is complex64"):
        save_safetensors(tmp_path / "a", {"x": np.zeros(1, np.complex64)})
    with pytest.raises(ModelFileError, match="none: no such file"):
        load_safetensors(tmp_path / "none")
