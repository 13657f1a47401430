"""The U-Net's convolutions (batch 16, 256x256, bfloat16): forward, input gradient, weight gradient against cuDNN."""

from collections.abc import Callable

import pytest

from bench.sweep_conv2d import LAYERS, UPS, Problem


@pytest.mark.parametrize("layer", LAYERS, ids=lambda v: f"{v[0]}-{v[1]}@{v[2]}")
@pytest.mark.parametrize("name", ["fwd", "dgrad", "wgrad"])
def test_conv2d(versus: Callable[..., None], name: str, layer: tuple[int, int, int]) -> None:
    problem = Problem((name, *layer, 16, "bf16"))
    versus(lambda: problem.ours(None), problem.theirs, rtol=1e-2, flops=problem.flops)


@pytest.mark.parametrize("layer", UPS, ids=lambda v: f"{v[0]}-{v[1]}@{v[2]}")
@pytest.mark.parametrize("name", ["up_fwd", "up_dgrad", "up_wgrad"])
def test_conv_transpose2d(versus: Callable[..., None], name: str, layer: tuple[int, int, int]) -> None:
    problem = Problem((name, *layer, 16, "bf16"))
    versus(lambda: problem.ours(None), problem.theirs, rtol=1e-2, flops=problem.flops)
