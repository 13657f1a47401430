"""What the tests of convolutions share: shapes, and a comparison of the three passes with float64."""

import torch
from helpers import EPS, assert_close, nchw, nhwc, randn, to64

from tritonnet.kernels.conv2d import conv2d_dgrad, conv2d_fwd, conv2d_wgrad, output_size

# name: N, H, W, C, K, R, S, stride, pad, dilation
CASES = {
    "3x3": (2, 9, 7, 5, 6, 3, 3, (1, 1), (1, 1), (1, 1)),
    "rgb": (1, 8, 8, 3, 16, 3, 3, (1, 1), (1, 1), (1, 1)),
    "stride-2": (2, 8, 8, 17, 20, 3, 3, (2, 2), (1, 1), (1, 1)),
    "all-different": (2, 11, 10, 9, 4, 2, 3, (2, 3), (1, 0), (2, 1)),
    "stride-and-dilation-2": (1, 12, 13, 16, 8, 3, 3, (2, 2), (2, 1), (2, 2)),
    "stride-4-dilation-6": (1, 21, 22, 4, 4, 3, 3, (4, 6), (6, 3), (6, 4)),
    "1x1": (2, 6, 6, 8, 1, 1, 1, (1, 1), (0, 0), (1, 1)),
    "1x1-stride-2": (1, 10, 9, 4, 4, 1, 1, (2, 2), (0, 0), (1, 1)),
    "5x4": (1, 9, 9, 8, 8, 5, 4, (3, 2), (2, 3), (1, 3)),
    "2x2-stride-2": (2, 4, 4, 8, 4, 2, 2, (2, 2), (0, 0), (1, 1)),
    "one-pixel": (3, 1, 1, 33, 2, 3, 3, (1, 1), (1, 1), (1, 1)),
    "one-channel": (2, 5, 6, 1, 1, 3, 3, (1, 1), (1, 1), (1, 1)),
    "kernel-is-image": (2, 5, 4, 3, 7, 5, 4, (1, 1), (0, 0), (1, 1)),
    "padding-over-kernel": (1, 4, 4, 2, 3, 2, 2, (1, 1), (3, 4), (1, 1)),
    "11x11-stride-4": (1, 23, 23, 7, 5, 11, 11, (4, 4), (2, 2), (1, 1)),
}
# of the tensor-map kernels
BOXES = {
    "whole-boxes": (2, 8, 16, 16, 32, 3, 3, (1, 1), (1, 1), (1, 1)),
    "ragged": (3, 7, 9, 32, 16, 3, 3, (1, 1), (1, 1), (1, 1)),
    "dilated": (2, 8, 8, 32, 16, 3, 3, (1, 1), (2, 2), (2, 2)),
    "no-padding": (1, 9, 12, 16, 48, 3, 3, (1, 1), (0, 0), (1, 1)),
    "1x1": (1, 9, 5, 16, 16, 1, 1, (1, 1), (0, 0), (1, 1)),
    "5x3": (1, 9, 8, 16, 16, 5, 3, (1, 1), (2, 1), (1, 1)),
    "wide-dilation": (1, 9, 20, 16, 32, 3, 3, (1, 1), (0, 2), (1, 2)),
    "3x1": (2, 7, 9, 16, 16, 3, 1, (1, 1), (1, 0), (1, 1)),
}
PATCHES = {
    "whole-patches": (2, 8, 16, 32, 16, 2, 2, (2, 2), (0, 0), (1, 1)),
    "ragged-patches": (3, 10, 14, 16, 48, 2, 2, (2, 2), (0, 0), (1, 1)),
    "2x4-patches": (1, 6, 32, 16, 16, 2, 4, (2, 4), (0, 0), (1, 1)),
}


def tolerance(dtype: torch.dtype, stored: torch.dtype) -> float:
    """Rounding of the stored result, and float32 sums of a few hundred products of exact operands."""
    return 2 * EPS[stored] + 1e-6 if dtype == stored else 1e-5


def reference(x, w, b, dy, stride, pad, dilation):
    """Forward and gradients by torch in float64; all in NHWC order."""
    x, w = nchw(x).requires_grad_(), nchw(w).requires_grad_()
    y = torch.nn.functional.conv2d(x, w, None if b is None else to64(b), stride, pad, dilation)
    y.backward(nchw(dy))
    return nhwc(y.detach()), nhwc(x.grad), nhwc(w.grad)


def check(case, dtype, tile, tile_wgrad=None, wrap=lambda t: t, tf32=False, rtol=None):
    N, H, W, C, K, R, S, stride, pad, dilation = case
    x, w, b = wrap(randn(N, H, W, C, dtype=dtype)), randn(K, R, S, C, dtype=dtype, seed=1), randn(K, seed=2)
    P, Q = (
        output_size(H, R, stride[0], pad[0], pad[0], dilation[0]),
        output_size(W, S, stride[1], pad[1], pad[1], dilation[1]),
    )
    dy = wrap(randn(N, P, Q, K, dtype=dtype, seed=3))
    y64, dx64, dw64 = reference(x, w, b, dy, stride, pad, dilation)
    window = {"stride": stride, "dilation": dilation, "tf32": tf32}
    y, _ = conv2d_fwd(x, w, b, padding=(pad[0], pad[0], pad[1], pad[1]), tile=tile, **window)
    dx, _ = conv2d_dgrad(dy, w, input_size=(H, W), pad=pad, tile=tile, **window)
    dw = conv2d_wgrad(dy, x, kernel_size=(R, S), pad=pad, tile=tile_wgrad or tile, **window)
    assert_close(y, y64, rtol or tolerance(dtype, dtype), what="y")
    assert_close(dx, dx64, rtol or tolerance(dtype, dtype), what="dx")
    assert_close(dw, dw64, rtol or tolerance(dtype, torch.float32), what="dw")
