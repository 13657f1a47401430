"""Convolutions and transposed convolutions of the U-Net at 256x256, each pass against cuDNN.

`--batch` and `--precision` choose others than 16 and bf16. FLOPs: 2 * pixels * C * K * taps each pass; bytes: the two
images and the weights, once.
"""

from collections.abc import Callable

import pytest

from bench.cases import Case, fitted
from bench.sweep_conv2d import PASSES, Problem, layers

CASES = [(name, *layer) for name in PASSES for layer in layers(name)]


def conv2d(name: str, c: int, k: int, side: int, batch: int, precision: str) -> Case:
    """One pass of one layer."""
    return Problem((name, c, k, side, batch, precision)).case_of(None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}@{case[3]}")
def test_conv2d(versus: Callable[..., None], pytestconfig: pytest.Config, case: tuple[str, int, int, int]) -> None:
    name, c, k, side = case
    batch, precision = pytestconfig.getoption("--batch"), pytestconfig.getoption("--precision")
    versus("conv2d", f"{name} {c}-{k}@{side} batch{batch} {precision}", conv2d(*fitted((*case, batch, precision))))
