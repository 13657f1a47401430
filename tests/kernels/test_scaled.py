"""scaled: float32 as float16 under one power of two; every sentence of the docstring, and the convolutions over it."""

import math

import hypothesis.strategies as st
import pytest
import torch
from convcheck import BOXES, CASES, PATCHES, check
from helpers import DEVICE, GPU, assert_close, nchw, pitched, randn, to64
from hypothesis import example, given, settings

from tritonnet.kernels import pointwise
from tritonnet.kernels.conv2d import Tile, conv2d_dgrad, conv2d_fwd, conv2d_wgrad
from tritonnet.kernels.runtime import Refused
from tritonnet.kernels.scaled import scaled, scaled_again
from tritonnet.kernels.tensor_table import Tables

SMALLEST, LARGEST = 2.0**-149, 3.4028234663852886e38


def defined(x: torch.Tensor) -> None:
    """Compare with the definition, element by element and exactly."""
    values, inverse = scaled(x)
    assert (values.dtype, inverse.dtype, tuple(inverse.shape)) == (torch.float16, torch.float32, (1,))
    assert values.is_contiguous()
    wide = to64(x)
    finite = wide[wide.isfinite()].abs()
    top = float(finite.max()) if finite.numel() else 0.0
    exponent = min(14 - math.frexp(top)[1] + 1, 126) if top else 0
    assert float(inverse) == 2.0**-exponent
    expected = (wide * 2.0**exponent).half()
    assert torch.equal(values.cpu().isnan(), expected.isnan())
    assert torch.equal(values.cpu().nan_to_num(), expected.nan_to_num())
    if top >= 2.0**-112:
        assert 2.0**14 <= top * 2.0**exponent < 2.0**15
        error = (to64(values) * to64(inverse) - wide).abs()[wide.isfinite()]
        assert (error <= torch.maximum(finite * 2.0**-11, torch.tensor(top * 2.0**-39))).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
@example([0.0, -0.0])
@example([SMALLEST])
@example([-LARGEST, SMALLEST, 1.0])
@example([float("nan"), 1e5, -1.0])
@example([float("inf"), float("-inf"), 0.0])
def test_any_numbers(numbers: list[float]) -> None:
    defined(torch.tensor(numbers, device=DEVICE))


@pytest.mark.parametrize("exponent", [0, 100, -100, -140])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1), (1, 3, 3, 130), (0, 4, 4, 3)])
def test_images_with_a_pitch(shape: tuple[int, ...], exponent: int) -> None:
    x = randn(*shape) * 2.0**exponent
    defined(x)
    defined(pitched(x))  # the NaN between is not seen


def test_many_programs_of_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointwise, "INTERPRET", False)  # small tiles
    monkeypatch.setattr("tritonnet.kernels.scaled.PROGRAMS", 4)
    x = randn(10 * 2048 + 17)
    x[-1] = 100.0
    defined(x)
    defined(pitched(randn(1, 75, 50, 6)))


@pytest.mark.parametrize("exponent", [0, 100, -140])
def test_all_weights_again(exponent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, the same bits as one by one: of several chunks, zeros, a NaN, one element."""
    monkeypatch.setattr("tritonnet.kernels.tensor_table.BLOCK", 64)
    monkeypatch.setattr("tritonnet.kernels.scaled.BLOCK", 64)
    shapes = [(5, 3, 3, 16), (2,), (1,), (64,), (130,)]
    weights = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    copies = [scaled(w) for w in weights]
    for w in weights:
        w.mul_(2.0**exponent)
    weights[1].zero_()
    weights[4][7] = float("nan")
    scaled_again(Tables(), list(zip(weights, copies, strict=True)))
    for w, copy in zip(weights, copies, strict=True):
        fresh = scaled(w)
        assert torch.equal(copy.inverse, fresh.inverse)
        assert torch.equal(copy.values.nan_to_num(7.0), fresh.values.nan_to_num(7.0))


def test_no_weights_again() -> None:
    scaled_again(Tables(), [])


def test_what_is_scaled_stays() -> None:
    x = scaled(randn(5))
    assert scaled(x) is x


def test_refuses() -> None:
    with pytest.raises(Refused, match=r"\[scaled\] x must be float32, got float16"):
        scaled(randn(5).half())
    x, w = randn(1, 4, 4, 16), scaled(randn(16, 1, 1, 16))
    for operand in (x, scaled(x)):
        with pytest.raises(
            Refused, match=r"\[conv2d\] scaled operands must be those of a problem that tensor-map kernels"
        ):
            conv2d_fwd(operand, w, tile=Tile("gather", 16, 16, 16, 4, 2))
    with pytest.raises(Refused, match="images with one pitch"):
        scaled(randn(2, 3, 4, 5).permute(0, 3, 1, 2))


@pytest.mark.skipif(not GPU, reason="the interpreter multiplies in float32 whatever is asked")
@pytest.mark.parametrize(
    "name", ["3x3", "rgb", "stride-2", "2x2-stride-2", "whole-boxes", "ragged", "dilated", "whole-patches"]
)
def test_tf32(name):
    check({**CASES, **BOXES, **PATCHES}[name], torch.float32, None, tf32=True, rtol=2e-3)  # operands keep 11 bits


SCALED = {  # tiles of the forward and of the weight gradient
    "whole-boxes": (
        Tile("tensormap", 64, 64, 16, 4, 2, rows=4),
        Tile("tensormap", 64, 32, 32, 4, 2, splits=2, whole=1),
    ),
    "ragged": (
        Tile("tensormap", 64, 64, 16, 4, 2, splits=3, rows=2),
        Tile("tensormap", 64, 32, 16, 4, 2, splits=3, taps=3),
    ),
    "3x1": (Tile("tensormap", 64, 64, 16, 4, 2, rows=4, taps=3), Tile("tensormap", 64, 32, 32, 4, 2)),
    "ragged-patches": (Tile("patch", 64, 64, 16, 4, 2, rows=2), Tile("patch", 64, 16, 32, 4, 2, splits=2, rows=2)),
}


@pytest.mark.parametrize("exponent", [0, 60, -60])
@pytest.mark.parametrize(("name", "tiles"), SCALED.items(), ids=SCALED)
def test_tf32_by_scaled_float16(name, tiles, exponent):
    """Each operand within 2^-11 of itself, however large; errors of a sum's terms are independent, so the sum's are smaller."""
    check(
        {**BOXES, **PATCHES}[name],
        torch.float32,
        *tiles,
        wrap=lambda t: pitched(t * 2.0**exponent, 5),
        tf32=True,
        rtol=2**-11,
    )


@pytest.mark.parametrize("name", ["ragged", "ragged-patches"])
def test_scaled_operands_give_what_float32_ones_do(name):
    N, H, W, C, K, R, S, stride, pad, dilation = {**BOXES, **PATCHES}[name]
    tile, last = SCALED[name]
    x, w = randn(N, H, W, C), randn(K, R, S, C, seed=1)
    window = {"stride": stride, "dilation": dilation, "tf32": True}
    edges = (pad[0], pad[0], pad[1], pad[1])
    y, _ = conv2d_fwd(x, w, padding=edges, tile=tile, **window)
    assert torch.equal(y, conv2d_fwd(scaled(x), scaled(w), padding=edges, tile=tile, **window)[0])
    options = {"input_size": (H, W), "pad": pad, "tile": tile, **window}
    assert torch.equal(conv2d_dgrad(y, w, **options)[0], conv2d_dgrad(scaled(y), scaled(w), **options)[0])
    options = {"kernel_size": (R, S), "pad": pad, "tile": last, **window}
    assert torch.equal(conv2d_wgrad(y, x, **options), conv2d_wgrad(scaled(y), x, **options))


def test_tf32_keeps_nan_and_infinity():
    x, w = randn(1, 4, 4, 16), randn(16, 1, 1, 16, seed=1)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = float("nan"), float("inf")
    y, _ = conv2d_fwd(x, w, tf32=True, tile=Tile("tensormap", 64, 64, 16, 4, 2, rows=4))
    expected = torch.nn.functional.conv2d(nchw(x), nchw(w)).permute(0, 2, 3, 1)
    assert torch.equal(y.isnan().cpu(), expected.isnan())
    finite = expected.isfinite()
    assert torch.equal(y.cpu()[~finite].nan_to_num(1.0), expected[~finite].float().nan_to_num(1.0))
    assert_close(y.cpu()[finite], expected[finite], 2**-11)
