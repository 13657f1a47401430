"""The profile: what launches say of themselves, and the table."""

import pytest
import torch

from tritonnet.kernels import runtime
from tritonnet.kernels.conv2d import conv2d_fwd
from tritonnet.kernels.fill import fill
from tritonnet.measure import Peak, Step, made_batch
from tritonnet.measure.profile import KernelTime, kernel_times, table
from tritonnet.models import PosterUNet
from tritonnet.nn import Conv2d


def test_launches_are_observed() -> None:
    seen = []
    x, w = (fill(runtime.empty(shape, torch.float32), 1) for shape in ((2, 4, 4, 8), (16, 3, 3, 8)))
    with runtime.observing(lambda *what: seen.append(what)):
        conv2d_fwd(x, w, padding=(1, 1, 1, 1))
    fill(x, 0)
    ((name, flops, moved),) = seen
    assert "conv2d" in name
    assert flops == 2 * (2 * 4 * 4) * 16 * 9 * 8
    assert moved == 4 * (x.numel() + w.numel() + 2 * 4 * 4 * 16)


def test_optimizers_say_what_they_move() -> None:
    """Their buffers stand behind a table of addresses."""
    seen = {}
    network = Conv2d(3, 2, 1)
    step, batch = Step(network, 3, "fp32"), made_batch(1, 4, 4, 3, 2)
    with runtime.observing(lambda name, flops, moved: seen.update({name: moved})):
        step(*batch)
    assert seen["_adam_step_kernel"] == 28 * sum(p.numel() for p in network.parameters())


def test_bounds() -> None:
    peak = Peak(100e12, 1e12, "made")
    assert peak.floor_ms(1e11, 1e6, torch.bfloat16) == 1.0
    assert peak.floor_ms(1e9, 1e9, torch.bfloat16) == 1.0
    assert peak.floor_ms(0, 1e9, torch.float32) == 1.0
    assert peak.floor_ms(1e9, 1e9, torch.float32) is None
    assert Peak(None, 1e12, "made").floor_ms(1e9, 1e9, torch.bfloat16) is None


def test_table() -> None:
    text = table([KernelTime("_conv", 2, 100.0, 4e9, 2e6, 50.0), KernelTime("Memcpy", 1, 25.0)])
    assert text.splitlines()[1].split() == ["_conv", "2", "100.0", "80.0%", "2.0", "20", "40", "50.0%"]
    assert text.splitlines()[2].split() == ["Memcpy", "1", "25.0", "20.0%"]
    assert text.splitlines()[3].startswith("total")


@pytest.mark.gpu
def test_every_kernel_of_a_step_has_its_bytes() -> None:
    step, batch = Step(PosterUNet(3, 2), 3, "bf16"), made_batch(2, 32, 32, 3, 2)
    for _ in range(2):
        step(*batch)
    times = kernel_times(lambda: step(*batch), Peak(100e12, 1e12, "made"), step.dtype)
    assert [t.name for t in times if t.bytes is None and t.name.startswith("_")] == []
    assert any(t.flops for t in times)
