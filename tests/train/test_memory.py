"""What is said when GPU memory runs out: injected, since the interpreter has no GPU's memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import train_small

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import Refused
from tritonnet.train import Config, Listener, train
from tritonnet.train.memory import advice, guarded
from tritonnet.train.training import Training

GIB = 2**30


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (13, "about 33.0 GiB, got 28.0 GiB; the largest batch that fits is 13: use --batch-size 13, or for steps as "
             "large --batch-size 8 --accumulate 4"),
        (15, "the largest batch that fits is 15"),
        (1, "the largest batch that fits is 1: use --batch-size 1, or for steps as large --batch-size 1 --accumulate 32"),
        (0, "not even one image fits; choose a smaller --size"),
    ],
)  # fmt: skip
def test_advice_names_the_largest_batch(limit: int, says: str) -> None:
    def attempt(count: int) -> int | None:
        return (1 + 2 * count) * GIB if count <= limit else None

    text = advice(attempt, 16, 2, 28 * GIB)
    assert text.startswith("GPU memory must hold a batch of 16 images and its gradients")
    assert text.endswith(says) or says in text


def test_an_error_of_the_recording_counts_too() -> None:
    def record(cause: type[RuntimeError]) -> None:
        try:
            raise cause("first")
        finally:
            raise RuntimeError("the capture failed")

    assert guarded(lambda: record(torch.OutOfMemoryError)) is None
    with pytest.raises(RuntimeError, match="the capture failed"):
        guarded(lambda: record(RuntimeError))


def test_training_tries_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(monkeypatch)
    step, tried = Training.step, []

    def short(self: Training, images: torch.Tensor, masks: torch.Tensor, shares: torch.Tensor) -> Tensor:
        tried.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, images, masks, shares)

    monkeypatch.setattr(Training, "step", short)
    config = Config(depth=1, size=8, batch_size=4, epochs=1, cells=5, out=str(tmp_path / "run"))
    with pytest.raises(Refused, match=r"^\[train\] GPU memory .* fits is 1: use --batch-size 1, or .* --accumulate 4$"):
        train(config, Listener())
    assert tried == [4, 2, 1]
    assert not (tmp_path / "run" / "last.h5").exists()


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    train_small(monkeypatch)
    monkeypatch.setattr(Training, "step", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train(replace(Config(depth=1, size=8, epochs=1, cells=5), out=str(tmp_path / "run")), Listener())


@pytest.mark.gpu
def test_a_gpu_that_is_full(tmp_path: Path) -> None:
    torch.cuda.set_per_process_memory_fraction(2 * GIB / torch.cuda.mem_get_info()[1])
    config = Config(size=256, batch_size=56, epochs=1, cells=70, out=str(tmp_path / "run"))
    try:
        with pytest.raises(
            Refused, match=r"which need about \d+\.\d GiB, got .*; the largest batch that fits is \d+: use"
        ):
            train(config, Listener())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
