"""2-D max pooling against PyTorch in float64; a maximum is a copy, so the forward is compared exactly."""

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, assert_close, nchw, nhwc, pitched, randn, to64
from torch.nn import functional as torch_f

import tritonnet as tn
from tritonnet.kernels import runtime
from tritonnet.kernels.max_pool2d import max_pool2d_bwd, max_pool2d_fwd
from tritonnet.ops.pool import max_pool2d

CASES = {  # (N, H, W, C), kernel_size, stride, padding
    "unet-2x2": ((2, 8, 8, 16), 2, None, 0),
    "odd-size": ((1, 7, 5, 3), 2, 2, 0),
    "windows-tile-3x2": ((2, 10, 7, 5), (3, 2), (3, 2), 0),
    "overlap": ((2, 9, 9, 5), 3, 2, 1),
    "gaps": ((2, 9, 8, 5), 2, 3, 1),
    "every-number-its-own": ((1, 9, 11, 4), (5, 4), (2, 3), (2, 1)),
    "wide-C": ((1, 4, 4, 130), 2, 2, 0),
    "one-pixel": ((3, 1, 1, 1), 1, 1, 0),
    "whole-image": ((2, 5, 6, 7), (5, 6), 1, 0),
    "above-15x15": ((1, 20, 19, 3), (16, 17), 1, (8, 8)),
    "past-a-tile": ((1, 41, 40, 33), 3, 1, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_matches_float64(case: str, dtype: torch.dtype) -> None:
    shape, *window = CASES[case]
    x = pitched((4 * randn(*shape)).round().to(dtype))  # few different values: windows have equals
    x64 = nchw(x).clone().requires_grad_()
    y64 = torch_f.max_pool2d(x64, *window)
    dy = pitched(randn(*nhwc(y64).shape, dtype=dtype, seed=1))
    y64.backward(nchw(dy))
    xs = tn.Tensor(x, requires_grad=True)
    y = max_pool2d(xs, *window)
    y.backward(tn.Tensor(dy))
    assert y.dtype == xs.grad.dtype == dtype
    assert torch.equal(to64(y.torch()), y64.detach())
    assert_close(
        xs.grad.torch(), x64.grad, 2**-22 + (EPS[dtype] if dtype != torch.float32 else 0), what="dx"
    )  # <= 9 terms


def test_padding_never_wins() -> None:
    x = tn.Tensor(-randn(1, 4, 4, 2).abs() - 1)
    assert bool((max_pool2d(x, 3, 1, 1).data < 0).all())


def test_minus_infinity_still_names_a_pixel() -> None:
    x = torch.full((1, 4, 4, 1), float("-inf"), device=DEVICE)
    y, winner = max_pool2d_fwd(x, (3, 3), (2, 2), (1, 1))
    assert torch.equal(y.cpu(), torch.full((1, 2, 2, 1), float("-inf")))
    assert winner.flatten().tolist() == [4, 3, 1, 0]  # the first position inside the image


def test_first_of_equals_wins() -> None:
    _, winner = max_pool2d_fwd(torch.ones((1, 4, 4, 2), device=DEVICE), (2, 2), (2, 2), (0, 0))
    assert not bool(winner.any())


def test_nan_beats_any_number() -> None:
    x = randn(1, 6, 6, 3)
    x[0, 2, 3, 1] = float("nan")
    expected = torch_f.max_pool2d(nchw(x), 3, 2, 1)
    y, winner = max_pool2d_fwd(x, (3, 3), (2, 2), (1, 1))
    assert torch.equal(nchw(y).isnan(), expected.isnan())
    dx = max_pool2d_bwd(torch.ones_like(y), winner, 6, 6, (3, 3), (2, 2), (1, 1))
    assert float(dx[0, 2, 3, 1]) == float(expected.isnan().sum())


@pytest.mark.parametrize(("window", "dtype"), [((15, 15), torch.uint8), ((15, 17), torch.int32)])
def test_winner_is_a_byte_up_to_15x15(window: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.zeros((1, *window, 1), device=DEVICE)
    x[0, -1, -1, 0] = 1
    y, winner = max_pool2d_fwd(x, window, (1, 1), (0, 0))
    assert winner.dtype == dtype
    assert int(winner) == window[0] * window[1] - 1
    dx = max_pool2d_bwd(y, winner, *window, window, (1, 1), (0, 0))
    assert torch.equal(dx, x)


def test_empty_batch() -> None:
    x = tn.Tensor(runtime.empty((0, 4, 4, 3), torch.float32), requires_grad=True)
    y = max_pool2d(x, 2)
    y.backward(tn.Tensor(runtime.empty((0, 2, 2, 3), torch.float32)))
    assert (y.shape, x.grad.shape) == ((0, 3, 2, 2), (0, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, r"\[max_pool2d\] kernel_size must be at least 1, got 0"),
        ({"kernel_size": 2.0}, "kernel_size must be an int or a pair of ints, got 2.0"),
        ({"kernel_size": (1, 2, 3)}, "kernel_size must be an int or a pair"),
        ({"kernel_size": 2, "stride": 0}, "stride must be at least 1, got 0"),
        ({"kernel_size": 2, "padding": -1}, "padding must be at least 0, got -1"),
        ({"kernel_size": 3, "padding": 2}, r"padding must be at most half of kernel_size \(3, 3\), got \(2, 2\)"),
        ({"kernel_size": 9}, r"kernel_size \(9, 9\) must fit into the padded input of 4 x 5"),
        ({"kernel_size": 2, "dilation": 2}, "dilation must be 1, got 2"),
        ({"kernel_size": 2, "ceil_mode": True}, "ceil_mode must be False, got True"),
        ({"kernel_size": 2, "return_indices": True}, "return_indices must be False, got True"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(runtime.Refused, match=message):
        max_pool2d(tn.Tensor(randn(1, 4, 5, 2)), **arguments)


def test_refuses_what_is_no_float_image() -> None:
    with pytest.raises(runtime.Refused, match="4 dimensions"):
        max_pool2d(tn.Tensor(randn(4, 5)), 2)
    with pytest.raises(runtime.Refused, match="input must be float32 or bfloat16 or float16, got int64"):
        max_pool2d(tn.Tensor(torch.zeros((1, 4, 4, 1), dtype=torch.int64, device=DEVICE)), 2)
    _, winner = max_pool2d_fwd(randn(1, 4, 4, 2), (2, 2), (2, 2), (0, 0))
    with pytest.raises(runtime.Refused, match=r"the gradient must have .* \(1, 2, 2, 2\), got \(1, 2, 1, 2\)"):
        max_pool2d_bwd(randn(1, 2, 1, 2), winner, 4, 4, (2, 2), (2, 2), (0, 0))
