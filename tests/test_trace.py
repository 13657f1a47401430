"""On a GPU, training, evaluation and prediction run kernels of ours, copies and memsets, and nothing else."""

import inspect
import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

import tritonnet as tn
import tritonnet.kernels
from tritonnet import train
from tritonnet.measure.profile import kernel_times
from tritonnet.nn import capture

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def poison():
    """No poisoned buffers here: filling them is a kernel of torch's."""


def our_kernels() -> set[str]:
    """The names of every jit function in tritonnet.kernels."""
    names = set()
    for module in pkgutil.iter_modules(tritonnet.kernels.__path__):
        for name, value in vars(import_module(f"tritonnet.kernels.{module.name}")).items():
            if hasattr(value, "fn") and inspect.isfunction(value.fn):
                names.add(name)
    return names


# Seen only where calls are recorded as CUDA graphs, where torch.cuda.CUDAGraph keeps the numbers of torch's own random
# generator on the device. The same calls without graphs have to be free of it, else it is ours.
GRAPH = "at::native::FillFunctor<long>"


def foreign(call, allowed: str = "") -> list[str]:
    """Device work of `call` that is neither ours nor a copy or a memset, nor has `allowed` in its name."""
    ours = our_kernels()
    assert "_conv2d_fwd_kernel" in ours
    times = kernel_times(call)
    assert any(time.name in ours for time in times)
    names = [t.name for t in times if not t.name.startswith(("Memcpy", "Memset"))]
    return [name for name in names if name not in ours and not (allowed and allowed in name)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two short epochs on made cells, and its configuration."""
    folder = tmp_path_factory.mktemp("trace")
    config = train.Config.for_machine(
        size=64,
        epochs=2,
        batch_size=4,
        accumulate=2,
        clip=1.0,
        ema=0.9,
        augment="rotate, elastic, noise",
        base_channels=16,
        out=str(folder / "run"),
    )
    return config, train.train(config)


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_train(run, tmp_path, monkeypatch, graphs):
    config, _ = run
    if not graphs:
        monkeypatch.setattr(capture, "EAGER", 10**9)
    call = lambda: train.train(replace(config, out=str(tmp_path / "again")))  # noqa: E731
    assert foreign(call, GRAPH if graphs else "") == []


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_evaluate_and_predict(run, tmp_path, monkeypatch, graphs):
    _, done = run
    if not graphs:
        monkeypatch.setattr(capture, "EAGER", 10**9)
    picture = Path(tmp_path) / "picture.png"
    Image.new("RGB", (70, 50), (200, 30, 90)).save(picture)
    best, out = done.folder / "best.h5", tmp_path / "out"
    allowed = GRAPH if graphs else ""
    for how, file in (
        (train.Inference(batch_size=1), None),
        (train.Inference(tiles=True, tta="flips"), tmp_path / "p.h5"),
    ):
        assert foreign(lambda how=how: train.evaluate(best, inference=how), allowed) == []
        call = lambda how=how, f=file: train.predict(best, picture, out, inference=how, probabilities=f)  # noqa: E731
        assert foreign(call, allowed) == []


@pytest.mark.parametrize(
    "model", [tn.models.UNet(3, 2, base_channels=16), tn.models.PosterUNet(3, 2)], ids=["unet", "poster"]
)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_step(model, precision):
    optimizer = tn.optim.Adam(model.parameters())
    images, masks = torch.randn(2, 3, 64, 64, device="cuda"), torch.randint(0, 2, (2, 64, 64), device="cuda")

    def step() -> None:
        with tn.precision(precision):
            loss = tn.nn.functional.cross_entropy(model(tn.from_torch(images)), tn.from_torch(masks))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    step()
    assert foreign(step) == []
