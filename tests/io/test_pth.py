"""PyTorch weight files: the usual wrappings are taken off, anything else is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tritonnet.io import ModelFileError, load_pth, save_model

WEIGHTS = {
    "inc.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2),
    "bn.num_batches_tracked": torch.tensor(5),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
}
WRAPPED = {
    "bare": WEIGHTS,
    "state-dict": {"state_dict": WEIGHTS, "epoch": 3},
    "mask-values": WEIGHTS | {"mask_values": [0, 255]},
    "data-parallel": {f"module.{key}": value for key, value in WEIGHTS.items()},
    "channels-last": {key: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for key, v in WEIGHTS.items()},
    "parameter": WEIGHTS | {"half": torch.nn.Parameter(WEIGHTS["half"])},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_loads(case: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[case], tmp_path / "a.pth")
    loaded = load_pth(tmp_path / "a.pth")
    assert list(loaded) == list(WEIGHTS)
    for key, value in WEIGHTS.items():
        assert loaded[key].flags.c_contiguous
        assert loaded[key].dtype == value.numpy().dtype
        assert (loaded[key] == value.numpy()).all()


def test_old_format(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert list(load_pth(tmp_path / "a.pth")) == list(WEIGHTS)


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    value = torch.tensor([[1.0, -3.140625], [1e-30, float("inf")]], dtype=torch.bfloat16)
    torch.save({"a": value, "b": value.t()}, tmp_path / "a.pth")
    loaded = load_pth(tmp_path / "a.pth")
    assert loaded["a"].dtype == np.float32
    assert (loaded["a"] == value.float().numpy()).all()
    assert (loaded["b"] == value.t().float().numpy()).all()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(name: str, match: str) -> None:
        with pytest.raises(ModelFileError, match=match) as error:
            load_pth(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)

    refused("none.pth", "no such file")
    (tmp_path / "text.pth").write_text("hello")
    refused("text.pth", "not a PyTorch file of plain weights")
    save_model(tmp_path / "best.h5", {}, {})
    refused("best.h5", r"it is HDF5: tritonnet\.io\.load_model\(path\)\.model has the weights")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    refused("evil.pth", "not a PyTorch file of plain weights")
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    refused("evil.pth", r"torch\.save\(model\.state_dict\(\), path\)")
    assert "never" not in capsys.readouterr().out
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refused("list.pth", "holds a list")
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "other.pth")
    refused("other.pth", "'epoch' is a int, not a tensor")
    torch.save({}, tmp_path / "empty.pth")
    refused("empty.pth", "no weights")
    torch.save({"a": torch.zeros(1), "module.a": torch.zeros(1)}, tmp_path / "twice.pth")
    refused("twice.pth", "both a and module.a")
    torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "complex.pth")
    refused("complex.pth", "not a plain tensor")
    whole = (tmp_path / "twice.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    refused("cut.pth", "not a PyTorch file")
