"""2-D average pooling against PyTorch in float64."""

import pytest
import torch
from helpers import DTYPES, EPS, assert_close, check_gradients, nchw, nhwc, pitched, randn
from torch.nn import functional as torch_f

import tritonnet as tn
from tritonnet.kernels import runtime
from tritonnet.ops.pool import avg_pool2d

CASES = {  # (N, H, W, C), kernel_size, stride, padding
    "unet-2x2": ((2, 8, 8, 16), 2, None, 0),
    "odd-size": ((1, 7, 5, 3), 2, 2, 0),
    "overlap": ((2, 9, 9, 5), 3, 2, 1),
    "gaps": ((2, 9, 8, 5), 2, 3, 1),
    "every-number-its-own": ((1, 9, 11, 4), (5, 4), (2, 3), (2, 1)),
    "wide-C": ((1, 4, 4, 130), 2, 2, 0),
    "one-pixel": ((3, 1, 1, 1), 1, 1, 0),
    "whole-image": ((2, 5, 6, 7), (5, 6), 1, 0),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_matches_float64(case: str, count_include_pad: bool, dtype: torch.dtype) -> None:
    shape, *window = CASES[case]
    x = pitched(randn(*shape, dtype=dtype))
    x64 = nchw(x).clone().requires_grad_()
    y64 = torch_f.avg_pool2d(x64, *window, count_include_pad=count_include_pad)
    dy = pitched(randn(*nhwc(y64).shape, dtype=dtype, seed=1))
    y64.backward(nchw(dy))
    xs = tn.Tensor(x, requires_grad=True)
    y = avg_pool2d(xs, *window, count_include_pad=count_include_pad)
    y.backward(tn.Tensor(dy))
    assert y.dtype == xs.grad.dtype == dtype
    rtol = 1e-6 + (EPS[dtype] if dtype != torch.float32 else 0)  # up to 30 terms, one rounding of the result
    assert_close(y.torch(), y64, rtol, 1e-7, "y")
    assert_close(xs.grad.torch(), x64.grad, rtol, 1e-7, "dx")


def test_directional_derivative() -> None:
    check_gradients(lambda x: avg_pool2d(x, 3, 2, 1), [randn(2, 3, 7, 6)])


def test_nan_spreads_to_every_window_that_covers_it() -> None:
    x = randn(1, 6, 6, 2)
    x[0, 2, 3, 1] = float("nan")
    expected = torch_f.avg_pool2d(nchw(x), 3, 2, 1)
    assert torch.equal(nchw(avg_pool2d(tn.Tensor(x), 3, 2, 1).data).isnan(), expected.isnan())


def test_empty_batch() -> None:
    x = tn.Tensor(runtime.empty((0, 4, 4, 3), torch.float32), requires_grad=True)
    y = avg_pool2d(x, 2)
    y.backward(tn.Tensor(runtime.empty((0, 2, 2, 3), torch.float32)))
    assert (y.shape, x.grad.shape) == ((0, 3, 2, 2), (0, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, r"\[avg_pool2d\] kernel_size must be at least 1, got 0"),
        ({"kernel_size": 3, "padding": 2}, "padding must be at most half of kernel_size"),
        ({"kernel_size": 9}, r"kernel_size \(9, 9\) must fit into the padded input of 4 x 5"),
        ({"kernel_size": 2, "ceil_mode": True}, "ceil_mode must be False, got True"),
        ({"kernel_size": 2, "divisor_override": 3}, "divisor_override must be None, got 3"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(runtime.Refused, match=message):
        avg_pool2d(tn.Tensor(randn(1, 4, 5, 2)), **arguments)
