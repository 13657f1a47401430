"""unfold: patches against PyTorch's, bit by bit; convolution over them by tensor-map tiles; when it is done."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import DEVICE, EPS, GPU, assert_close, gap_untouched, nchw, nhwc, pitched, randn, to64
from hypothesis import assume, given, settings

from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.conv2d import Tile, conv2d_fwd, conv2d_wgrad
from tritonnet.kernels.runtime import Refused, recording
from tritonnet.kernels.unfold import unfold, unfolded_fwd, unfolded_wgrad, unfolds

# name: N, H, W, C, K, R, S, stride, padding, dilation
CASES = {
    "rgb": (2, 9, 11, 3, 32, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1)),
    "grey": (1, 8, 8, 1, 16, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1)),
    "stem": (2, 23, 21, 3, 16, 7, 7, (2, 2), (3, 3, 3, 3), (1, 1)),
    "all-different": (2, 11, 10, 5, 48, 2, 3, (2, 3), (1, 0, 2, 1), (2, 1)),
    "5x5": (1, 9, 10, 3, 32, 5, 5, (1, 2), (2, 1, 2, 3), (1, 1)),
    "3x1": (2, 8, 6, 7, 16, 3, 1, (1, 1), (1, 1, 0, 2), (1, 1)),
    "cropped-rows": (1, 9, 12, 6, 16, 3, 2, (1, 2), (-1, 2, -2, 1), (2, 3)),
    "1x3": (2, 8, 6, 7, 16, 1, 3, (1, 1), (1, 1, 0, 2), (1, 1)),
    "cropped": (1, 9, 12, 4, 16, 3, 2, (1, 2), (-1, 2, 0, -2), (1, 3)),
    "15-channels": (1, 7, 6, 15, 16, 3, 3, (1, 1), (2, 2, 2, 2), (2, 2)),
    "1x1": (2, 5, 7, 8, 16, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1)),
    "one-pixel": (3, 1, 1, 6, 16, 3, 3, (1, 1), (1, 1, 1, 1), (1, 1)),
}
HALVES = [torch.bfloat16, torch.float16] if GPU else [torch.float32, torch.float16]


def window(stride, padding, dilation):
    return {"stride": stride, "padding": padding, "dilation": dilation}


def reference(x, w, stride, padding, dilation):
    """y and its graph to the weights, float64, in torch's order."""
    top, bottom, left, right = padding
    padded, w64 = torch.nn.functional.pad(nchw(x), (left, right, top, bottom)), nchw(w).requires_grad_()
    return torch.nn.functional.conv2d(padded, w64, None, stride, 0, dilation), w64


def expected_patches(x, r, s, stride, padding, dilation):
    """(N, P, Q, R * S * C), float64, from torch's (N, C * R * S, P * Q)."""
    top, bottom, left, right = padding
    padded = torch.nn.functional.pad(nchw(x), (left, right, top, bottom))
    n, c, h, w = padded.shape
    p, q = (h - dilation[0] * (r - 1) - 1) // stride[0] + 1, (w - dilation[1] * (s - 1) - 1) // stride[1] + 1
    columns = torch.nn.functional.unfold(padded, (r, s), dilation, 0, stride)
    return columns.view(n, c, r, s, p, q).permute(0, 4, 5, 2, 3, 1).reshape(n, p, q, r * s * c)


def check_patches(x, w, stride, padding, dilation):
    z, wide = unfold(x, w, **window(stride, padding, dilation))
    k, r, s, c = w.shape
    rest = wide.shape[1]  # taps that the patches do not have
    assert rest == (1 if stride[0] > 1 or r * s * c <= 16 else r)
    if rest > 1:
        stride, padding, dilation = (1, stride[1]), (0, 0, *padding[2:]), (1, dilation[1])
    count, width = r * s * c // rest, z.shape[3]
    assert width == 16 or (width % 32 == 0 and width - count < 32)
    assert torch.equal(to64(z)[..., :count], expected_patches(x, r // rest, s, stride, padding, dilation))
    assert not z[..., count:].any()
    assert wide.shape == (k, rest, 1, width)
    assert torch.equal(wide[..., :count].reshape(-1), w.reshape(-1))
    assert not wide[..., count:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_patches_are_torchs(case, dtype):
    n, h, w, c, k, r, s, *steps = case
    check_patches(pitched(randn(n, h, w, c, dtype=dtype), 3), randn(k, r, s, c, dtype=dtype, seed=1), *steps)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(0, 2), st.integers(1, 7), st.integers(1, 7), st.integers(1, 15)),
    st.tuples(*[st.integers(1, 3)] * 6),
    st.tuples(*[st.integers(-1, 3)] * 4),
)
def test_any_window(sizes, steps, padding):
    (n, h, w, c), (r, s, sh, sw, dh, dw), (top, bottom, left, right) = sizes, steps, padding
    assume(h + top + bottom > dh * (r - 1) and w + left + right > dw * (s - 1))
    check_patches(randn(n, h, w, c), randn(2, r, s, c, seed=1), (sh, sw), padding, (dh, dw))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_convolution_over_patches(case, dtype):
    """By the tensor-map kernels: forward, what batch norm needs of it, and the weight gradient of the channels that count."""
    n, h, w, c, k, r, s, *steps = case
    x, weights = randn(n, h, w, c, dtype=dtype), randn(k, r, s, c, dtype=dtype, seed=1)
    tile = Tile("tensormap", 64, 64, 16, 4, 2, rows=4)
    y, moments, patches = unfolded_fwd(pitched(x), weights, **window(*steps), statistics=True, tile=tile)
    y64, w64 = reference(x, weights, *steps)
    assert_close(y, nhwc(y64.detach()), 2 * EPS[dtype] + 1e-6, what="y")
    count, mean, _ = map(to64, moments)
    assert_close((count[:, None] * mean).sum(0) / count.sum(), to64(y).mean((0, 1, 2)), 1e-5, what="mean")
    dy = randn(*y.shape, dtype=dtype, seed=2)
    y64.backward(nchw(dy))
    rest = {"kernel_size": (r, s), "stride": steps[0], "pad": (steps[1][0], steps[1][2]), "dilation": steps[2]}
    for splits, taps in (
        (1, 1),
        (3, 1),
        (3, 3 if r == 3 and steps[0][0] == 1 and r * s * c > 16 else 1),
    ):
        tile = Tile("tensormap", 64, 32, 32, 4, 2, splits, rows=2, taps=taps)
        dw = unfolded_wgrad(dy, patches, channels=c, tile=tile, **rest)
        assert dw.is_contiguous()
        assert_close(dw, nhwc(w64.grad), 1e-5, what="dw")


def test_many_shares_are_all_added():
    """More of them than the lanes that add; and no channel behind those that count is read."""
    wide, dy = randn(2, 16, 16, 32, dtype=HALVES[0]), randn(2, 16, 16, 16, dtype=HALVES[0], seed=1)
    wide[..., 27:] = float("nan")
    x = wide[..., :27]
    dw = conv2d_wgrad(dy, x, kernel_size=(1, 1), tile=Tile("tensormap", 64, 32, 16, 4, 2, 32))
    assert_close(dw.view(16, 27), torch.einsum("nhwk,nhwc->kc", to64(dy), to64(x)), 1e-5)


def test_bias_batch_norm_and_relu_over_patches():
    half = HALVES[0]
    x, w, b = randn(2, 9, 7, 3, dtype=half), randn(16, 3, 3, 3, dtype=half, seed=1), randn(16, seed=6)
    norm = Norm(randn(16, seed=2), randn(16, seed=3) ** 2 + 0.5, randn(16, seed=4), randn(16, seed=5), 1e-3)
    steps, out = window((1, 1), (1, 1, 1, 1), (1, 1)), pitched(torch.zeros(2, 9, 7, 16, device=DEVICE, dtype=half), 16)
    tile = Tile("tensormap", 64, 64, 16, 4, 2, rows=4)
    y, _, _ = unfolded_fwd(x, w, b, **steps, norm=norm, out=out, tile=tile)
    assert y is out
    assert gap_untouched(out)
    assert_close(y, conv2d_fwd(x, w, b, norm=norm, **steps)[0], 2 * EPS[half])


def test_nan_stays_within_its_windows():
    x = randn(1, 6, 6, 3)
    x[0, 2, 2, 1] = float("nan")
    steps, tile = window((1, 1), (1, 1, 1, 1), (1, 1)), Tile("tensormap", 64, 64, 16, 4, 2)
    y, _, _ = unfolded_fwd(x, randn(16, 3, 3, 3, seed=1), **steps, tile=tile)
    assert torch.equal(y.isnan().any(3)[0].nonzero().unique(), torch.tensor([1, 2, 3], device=DEVICE))
    assert int(y.isnan().sum()) == 9 * 16


WAYS = {  # arch, image, weights, dtype, whether
    "first": ("sm_90", (1, 256, 256, 3), (64, 3, 3, 3), torch.bfloat16, True),
    "first-fp16": ("sm_120", (16, 256, 256, 1), (16, 3, 3, 1), torch.float16, True),
    "float32": ("sm_90", (16, 256, 256, 3), (64, 3, 3, 3), torch.float32, False),
    "no-tensor-maps": ("sm_80", (16, 256, 256, 3), (64, 3, 3, 3), torch.bfloat16, False),
    "amd": ("gfx942", (16, 256, 256, 3), (64, 3, 3, 3), torch.bfloat16, False),
    "many-channels": ("sm_90", (16, 256, 256, 16), (64, 3, 3, 16), torch.bfloat16, False),
    "few-outputs": ("sm_90", (16, 256, 256, 3), (8, 3, 3, 3), torch.bfloat16, False),
    "few-pixels": ("sm_90", (32, 32, 32, 3), (16, 3, 3, 3), torch.bfloat16, False),
    "large-window": ("sm_90", (16, 256, 256, 3), (64, 3, 87, 3), torch.bfloat16, False),
    "no-pixel": ("sm_90", (16, 1, 2**18, 3), (64, 5, 3, 3), torch.bfloat16, False),
    "other-channels": ("sm_90", (16, 256, 256, 3), (64, 3, 3, 4), torch.bfloat16, False),
}


@pytest.mark.parametrize(("arch", "image", "weights", "dtype", "expected"), WAYS.values(), ids=WAYS)
def test_who_takes_this_way(arch, image, weights, dtype, expected):
    x, w = (torch.empty(size, dtype=dtype, device="meta") for size in (image, weights))
    with recording(arch, lambda *_: None):
        assert unfolds(x, w, stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1)) is expected


def test_refuses():
    steps = window((1, 1), (0,) * 4, (1, 1))
    with pytest.raises(Refused, match=r"\[unfold\] input must have the weight's 4 channels, got 3"):
        unfold(randn(1, 5, 5, 3), randn(2, 3, 3, 4), **steps)
    with pytest.raises(Refused, match=r"\[unfold\] input must be channels-last"):
        unfold(nhwc(randn(1, 3, 5, 5)), randn(2, 3, 3, 3), **steps)
