"""Change of dtype and layout: copies are compared exactly."""

import pytest
import torch
from helpers import DEVICE, DTYPES, assert_close, gap_untouched, pitched, randn, to64

from tritonnet.kernels.convert import cast, copy, image_input, nchw_to_nhwc, nhwc_to_nchw
from tritonnet.kernels.runtime import INTERPRET, Refused

SHAPES = {  # N, C, H, W
    "unet": (2, 16, 8, 8),
    "odd": (2, 3, 5, 7),
    "one": (1, 1, 1, 1),
    "one-channel": (3, 1, 4, 5),
    "one-pixel": (2, 7, 1, 1),
    "wide-C": (1, 130, 3, 3),
    "many-pixels": (1, 2, 67, 64),
    "empty": (0, 3, 4, 4),
}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_layouts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (randn(*shape) * 50).abs().to(dtype)
    y = nchw_to_nhwc(x)
    assert y.is_contiguous()
    assert torch.equal(y, x.permute(0, 2, 3, 1))
    back = nhwc_to_nchw(y)
    assert back.is_contiguous()
    assert torch.equal(back, x)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_pitch(shape: tuple[int, ...]) -> None:
    x = pitched(randn(*shape).permute(0, 2, 3, 1).contiguous())
    assert torch.equal(nhwc_to_nchw(x), x.permute(0, 3, 1, 2))
    assert torch.equal(cast(x, torch.float32), x)
    assert cast(x, torch.float32).is_contiguous()
    out = pitched(torch.zeros_like(x), extra=5)
    copy(x, out)
    assert torch.equal(out, x)
    assert gap_untouched(out)


# the interpreter truncates float32 to bfloat16, so there only values that need no rounding are compared
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "source", [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int32, torch.int64]
)
def test_cast(source: torch.dtype, target: torch.dtype) -> None:
    x = torch.arange(0, 101, device=DEVICE).to(source)
    if not INTERPRET and source.is_floating_point:
        x = randn(5003, dtype=source)
    assert torch.equal(cast(x, target), x.to(target))


def test_cast_truncates_to_integers() -> None:
    x = torch.tensor([-2.7, -0.5, 0.0, 1.0, 2.9, 200.0], device=DEVICE)
    for dtype in (torch.int32, torch.int64):
        assert torch.equal(cast(x, dtype), x.to(dtype))


def test_cast_keeps_nan_and_infinity() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], device=DEVICE)
    y = cast(cast(x, torch.float16), torch.float32)
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y[1:], x[1:])


def test_cast_is_a_copy() -> None:
    x = randn(5)
    assert cast(x, x.dtype).data_ptr() != x.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", [torch.uint8, torch.int32, torch.float32])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 5, 7, 1), (1, 1, 1, 1), (1, 3, 3, 130), (0, 4, 4, 3)])
def test_image_input(shape: tuple[int, ...], source: torch.dtype, dtype: torch.dtype) -> None:
    x = (randn(*shape) * 50 + 128).clamp(0, 255).to(source)
    mean, rstd = randn(shape[3], seed=1), randn(shape[3], seed=2).abs() + 1
    expected = (to64(x) / 255 - to64(mean)) * to64(rstd)
    # one rounding at the store, three in float32
    rtol = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    assert_close(image_input(x, mean, rstd, 1 / 255, dtype), expected, rtol)
    if source == torch.float32:
        assert_close(image_input(pitched(x), mean, rstd, 1 / 255, dtype), expected, rtol)


def test_refuses() -> None:
    x = randn(2, 3, 4, 5)
    vector = randn(5)
    cases = {
        "must be contiguous": lambda: nchw_to_nhwc(x.permute(0, 2, 3, 1)),
        r"4 dimensions \(N, C, H, W\), got 1": lambda: nchw_to_nhwc(vector),
        "channels-last with one pitch": lambda: nhwc_to_nchw(x.permute(0, 3, 1, 2)),
        "must not be float64": lambda: cast(x, torch.float64),
        r"out must have shape \(5,\), got \(4,\)": lambda: copy(vector, randn(4)),
        r"mean must have shape \(5,\), one number a channel, got \(4,\)": lambda: image_input(
            x, randn(4), vector, 1.0, torch.float32
        ),
        "x must be uint8 or int32 or float32, got float16": lambda: image_input(
            x.half(), vector, vector, 1.0, torch.float32
        ),
        "dtype must be float32 or bfloat16 or float16, got int32": lambda: image_input(
            x, vector, vector, 1.0, torch.int32
        ),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
