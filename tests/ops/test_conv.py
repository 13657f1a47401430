"""conv2d and conv_transpose2d as ops: torch's results and gradients in logical shapes, directional derivatives, refusals."""

import hypothesis.strategies as st
import pytest
import torch
from helpers import DEVICE, GPU, assert_close, check_gradients, pitched, randn, to64
from hypothesis import assume, given, settings

import tritonnet as tn
from tritonnet import nn, ops
from tritonnet.kernels.runtime import observing
from tritonnet.nn import functional as F
from tritonnet.ops import conv

TORCH = torch.nn.functional


def compare(ours, theirs, x, w, b, rtol=1e-5, **window):
    """Forward and every gradient against float64 torch."""
    tensors = [tn.from_torch(t, requires_grad=True) for t in (x, w, b)]
    doubles = [to64(t).requires_grad_() for t in (x, w, b)]
    y, y64 = ours(*tensors, **window), theirs(*doubles, **window)
    dy = randn(*y64.shape, seed=9)
    y.backward(tn.from_torch(dy))
    y64.backward(to64(dy))
    assert y.shape == tuple(y64.shape)
    assert_close(y.torch(), y64, rtol, what="y")
    for name, t, d in zip("xwb", tensors, doubles, strict=True):
        # a bias gradient may be a small rest of terms near 1: its error is measured against those
        assert_close(t.grad.torch(), d.grad, rtol, atol=1e-5 if name == "b" else 0.0, what=f"d{name}")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(3, 9), st.integers(3, 9), st.integers(1, 9)),
    st.tuples(*[st.integers(1, 3)] * 6),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_conv2d_any_window(sizes, window, pad):
    (n, c, h, w, k), (r, s, sh, sw, dh, dw) = sizes, window
    assume(h + 2 * pad[0] > dh * (r - 1) and w + 2 * pad[1] > dw * (s - 1))
    compare(
        F.conv2d, TORCH.conv2d, randn(n, c, h, w), randn(k, c, r, s, seed=1), randn(k, seed=2),
        stride=(sh, sw), padding=pad, dilation=(dh, dw),
    )  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(2, 6), st.integers(2, 6), st.integers(1, 9)),
    st.tuples(*[st.integers(1, 3)] * 6),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_conv_transpose2d_any_window(sizes, window, pad, more):
    (n, c, h, w, k), (r, s, sh, sw, dh, dw) = sizes, window
    more = min(more[0], max(sh, dh) - 1), min(more[1], max(sw, dw) - 1)
    pad = min(pad[0], (dh * (r - 1)) // 2), min(pad[1], (dw * (s - 1)) // 2)
    compare(
        F.conv_transpose2d, TORCH.conv_transpose2d, randn(n, c, h, w), randn(c, k, r, s, seed=1), randn(k, seed=2),
        stride=(sh, sw), padding=pad, output_padding=more, dilation=(dh, dw),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "window"),
    [(3, {"stride": 2, "padding": 1, "output_padding": 1}), (2, {"stride": 2})],
    ids=["poster-3x3", "unet-2x2"],
)
def test_conv_transpose2d_doubles_the_size(kernel, window):
    x, w, b = randn(2, 6, 5, 4), randn(6, 3, kernel, kernel, seed=1), randn(3, seed=2)
    compare(F.conv_transpose2d, TORCH.conv_transpose2d, x, w, b, **window)
    assert F.conv_transpose2d(tn.from_torch(x), tn.from_torch(w), **window).shape == (2, 3, 10, 8)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding(kernel, padding):
    x, w = randn(2, 3, 7, 6), randn(4, 3, *kernel, seed=1)
    before = (
        (kernel[1] - 1) // 2,
        kernel[1] - 1 - (kernel[1] - 1) // 2,
        (kernel[0] - 1) // 2,
        kernel[0] - 1 - (kernel[0] - 1) // 2,
    )
    expected = TORCH.conv2d(TORCH.pad(to64(x), before) if padding == "same" else to64(x), to64(w))
    assert_close(F.conv2d(tn.from_torch(x), tn.from_torch(w), padding=padding).torch(), expected, 1e-6)


def test_directional_derivatives():
    check_gradients(
        lambda x, w, b: F.conv2d(x, w, b, 2, 1), [randn(1, 3, 7, 6), randn(4, 3, 3, 3, seed=5), randn(4, seed=6)]
    )
    check_gradients(
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
        [randn(1, 3, 4, 3), randn(3, 2, 3, 3, seed=5), randn(2, seed=6)],
    )


def test_a_slice_of_channels_is_read_and_written_in_place():
    x, w = pitched(randn(2, 5, 5, 4), 4), tn.from_torch(randn(3, 4, 3, 3, seed=1))
    out = pitched(torch.zeros(2, 5, 5, 3, device=DEVICE), 5)
    y = F.conv2d(tn.Tensor(x), w, padding=1, out=out)
    assert y.data is out
    assert_close(y.torch(), TORCH.conv2d(to64(x).permute(0, 3, 1, 2), to64(w.torch()), padding=1), 1e-6)


def test_only_wanted_gradients_are_computed():
    x, w = tn.from_torch(randn(1, 3, 5, 5)), tn.from_torch(randn(2, 3, 3, 3), requires_grad=True)
    F.conv2d(x, w).sum().backward()
    assert x.grad is None
    assert w.grad is not None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"] if GPU else ["fp32"])
def test_batch_norm_relu_conv2d_is_its_parts(training, precision):
    """Also that the result's statistics are those of the result, and that the bias reaches it."""
    tn.set_precision(precision)
    results = []
    for fused in (True, False):
        norm = nn.BatchNorm2d(16).train(training)
        norm.load_state_dict({
            "weight": randn(16, seed=1), "bias": randn(16, seed=2), "running_mean": randn(16, seed=3),
            "running_var": randn(16, seed=4) ** 2 + 0.5, "num_batches_tracked": torch.tensor(0),
        })  # fmt: skip
        # x as every precision holds it: another rounding moves values over the edge of the ReLU
        inputs = [
            randn(2, 16, 9, 10, dtype=torch.bfloat16).float(),
            randn(32, 16, 3, 3, seed=5) / 12,
            randn(32, seed=6),
        ]
        x, w, b = (tn.from_torch(t, requires_grad=True) for t in inputs)
        if fused:
            y, moments = ops.batch_norm_relu_conv2d(x, norm.arguments(), w, b, padding=1)
        else:
            y, moments = ops.conv2d_moments(F.batch_norm_relu(x, **norm.arguments()), w, b, padding=1)
        z = F.batch_norm(y, None, None, training=True, moments=moments)
        z.backward(tn.from_torch(randn(2, 32, 9, 10, seed=7).to(z.dtype)))
        results.append([z, x.grad, w.grad, norm.weight.grad, norm.bias.grad, norm.running_mean])
    tolerance = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 2e-2}[precision]
    for name, ours, expected in zip(("z", "dx", "dw", "dscale", "dshift", "mean"), *results, strict=True):
        assert_close(ours.torch(), expected.torch(), tolerance, what=name)


def moments_of(x, w, b, **window):
    return ops.conv2d_moments(x, w, b, **window)[0]


TF32 = {  # ours, torch's, x, w, window, how many buffers are scaled: x, w and dy, or none
    "3x3": (F.conv2d, TORCH.conv2d, (2, 16, 9, 10), (32, 16, 3, 3), {"padding": 1}, 3),
    "moments": (moments_of, TORCH.conv2d, (2, 16, 9, 10), (32, 16, 3, 3), {"padding": 1}, 3),
    "even-same": (F.conv2d, TORCH.conv2d, (1, 16, 7, 6), (16, 16, 2, 4), {"padding": "same"}, 3),
    "patches": (F.conv2d, TORCH.conv2d, (2, 16, 8, 6), (16, 16, 2, 2), {"stride": 2}, 3),
    "2x2-stride-2": (F.conv_transpose2d, TORCH.conv_transpose2d, (2, 32, 5, 4), (32, 16, 2, 2), {"stride": 2}, 3),
    "transposed-3x3": (F.conv_transpose2d, TORCH.conv_transpose2d, (2, 16, 5, 4), (16, 16, 3, 3), {"padding": 1}, 3),
    "stride-2": (F.conv2d, TORCH.conv2d, (2, 16, 8, 6), (16, 16, 3, 3), {"stride": 2, "padding": 1}, 0),
    "rgb": (F.conv2d, TORCH.conv2d, (1, 3, 8, 6), (16, 3, 3, 3), {"padding": 1}, 0),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch copies the image for even windows
@pytest.mark.parametrize(("ours", "theirs", "x", "w", "window", "scaled"), TF32.values(), ids=TF32)
def test_tf32_scales_each_buffer_once(ours, theirs, x, w, window, scaled, tensor_maps):
    tn.set_precision("tf32")
    launches = []
    with observing(lambda name, *_: launches.append(name)):
        compare(
            ours, theirs, randn(*x) * 1e3, randn(*w, seed=1), randn(16 if ours is F.conv_transpose2d else w[0], seed=2),
            rtol=2**-11 if scaled or not GPU else 2**-9, **window,
        )  # fmt: skip
    assert launches.count("_scaled_kernel") == scaled


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recompute", [False, True])
def test_batch_norm_relu_conv2d_in_tf32(recompute, training, tensor_maps):
    """Against the same by float32 products, whose ReLU cuts the same values off."""
    results, launches = [], []
    for precision in ("tf32", "fp32"):
        tn.set_precision(precision)
        norm = nn.BatchNorm2d(16).train(training)
        inputs = [randn(2, 16, 7, 6), randn(32, 16, 3, 3, seed=5) / 12, randn(32, seed=6)]
        x, w, b = (tn.from_torch(t, requires_grad=True) for t in inputs)
        with observing(lambda name, *_: launches.append(name)):
            y, _ = ops.batch_norm_relu_conv2d(x, norm.arguments(), w, b, padding=1, recompute=recompute)
            y.backward(tn.from_torch(randn(2, 32, 7, 6, seed=7)))
        results.append([y, x.grad, w.grad, norm.weight.grad, norm.bias.grad])
    # in training the batch norm writes scaled float16 itself
    assert launches.count("_scaled_kernel") == (2 if training else 3 + recompute)
    assert launches.count("_batch_norm_bound_kernel") == (1 + recompute if training else 0)
    for name, ours, expected in zip(("y", "dx", "dw", "dscale", "dshift"), *results, strict=True):
        assert_close(ours.torch(), expected.torch(), 2**-11, what=name)


def test_tf32_writes_slices_that_no_tensor_map_can_describe(tensor_maps):
    tn.set_precision("tf32")
    x, w = randn(1, 16, 6, 5), randn(16, 16, 3, 3, seed=1)
    out = pitched(torch.zeros(1, 6, 5, 16, device=DEVICE), 3)
    y = F.conv2d(tn.from_torch(x, requires_grad=True), tn.from_torch(w, requires_grad=True), padding=1, out=out)
    y.sum().backward()
    assert_close(y.torch(), TORCH.conv2d(to64(x), to64(w), padding=1), 2**-9)


def test_weight_gradients_are_whole_before_anything_reads_them():
    """On a GPU they are computed on a stream of their own: a weight used twice, one that is computed, two backwards."""
    tn.set_precision("bf16" if GPU else "fp32")
    x, start = (
        randn(2, 16, 12, 12, dtype=torch.bfloat16).float(),
        randn(16, 16, 3, 3, seed=1, dtype=torch.bfloat16).float() / 16,
    )
    w, scale = tn.from_torch(start, requires_grad=True), tn.from_torch(randn(16, 16, 3, 3, seed=2), requires_grad=True)
    w64, scale64 = (to64(t.torch()).requires_grad_() for t in (w, scale))
    for _ in range(2):
        y = F.conv2d(tn.from_torch(x), w, padding=1)
        F.conv2d(F.conv2d(y, w, padding=1), w * scale, padding=1).sum().backward()
        y64 = TORCH.conv2d(to64(x), w64, padding=1)
        TORCH.conv2d(TORCH.conv2d(y64, w64, padding=1), w64 * scale64, padding=1).sum().backward()
    tolerance = 3e-2 if GPU else 1e-5
    assert_close(w.grad.torch(), w64.grad, tolerance)
    assert_close(scale.grad.torch(), scale64.grad, tolerance)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 15), st.integers(3, 9), st.integers(3, 9), st.integers(1, 9)),
    st.tuples(*[st.integers(1, 3)] * 6),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_convolution_over_patches_is_the_convolution(sizes, window, pad):
    """As large images of few channels go: forward, the patches kept for the weights' gradient, the image's from none of them."""
    (n, c, h, w, k), (r, s, sh, sw, dh, dw) = sizes, window
    assume(h + 2 * pad[0] > dh * (r - 1) and w + 2 * pad[1] > dw * (s - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "unfolds", lambda *_, **__: True)
        compare(
            F.conv2d, TORCH.conv2d, randn(n, c, h, w), randn(k, c, r, s, seed=1), randn(k, seed=2),
            stride=(sh, sw), padding=pad, dilation=(dh, dw),
        )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_first_convolution_of_a_network(name):
    """Large enough for patches: statistics, gradients, and evaluation with a batch norm."""
    tn.set_precision(name)
    images, weights = randn(2, 3, 256, 190).half(), (randn(64, 3, 3, 3, seed=1) / 5).half()
    x, w = tn.from_torch(images.float()), tn.from_torch(weights.float(), requires_grad=True)
    y, moments = ops.conv2d_moments(x, w, padding=1)
    assert moments is not None
    expected = TORCH.conv2d(to64(x.to(y.dtype).torch()), to64(w.to(y.dtype).torch()), padding=1)
    assert_close(y.torch(), expected, 1e-2)
    dy = randn(*y.shape, seed=2).to(y.dtype)
    y.backward(tn.from_torch(dy))
    x64 = to64(x.to(y.dtype).torch())
    expected = torch.nn.grad.conv2d_weight(x64, w.shape, to64(dy), padding=1)
    assert_close(w.grad.torch(), expected, 1e-4)
    norm = nn.BatchNorm2d(64).given()
    with tn.no_grad():
        z = ops.conv2d_batch_norm_relu(x, w, padding=1, norm=norm)
        assert_close(z.torch(), TORCH.relu(to64(y.torch())), 2e-2)


def test_batch_norm_relu_conv2d_refuses():
    with pytest.raises(tn.Refused, match=r"\[batch_norm_relu_conv2d\] .*groups must be 1"):
        ops.batch_norm_relu_conv2d(ONE(), nn.BatchNorm2d(4).arguments(), W(), groups=2)
    with pytest.raises(tn.Refused, match="it has no gradient; call it within"):
        ops.conv2d_batch_norm_relu(ONE(), W(), norm=nn.BatchNorm2d(2).given())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_16_bit_precisions_store_16_bit_activations_and_float32_gradients(name):
    tn.set_precision(name)
    x, w = (
        tn.from_torch(randn(2, 16, 9, 9), requires_grad=True),
        tn.Parameter(tn.from_torch(randn(32, 16, 3, 3, seed=1))),
    )
    y = F.conv2d(x, w, padding=1)
    y.sum().backward()
    assert y.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    assert w.grad.dtype == x.grad.dtype == torch.float32
    assert_close(y.torch(), TORCH.conv2d(to64(x.torch()), to64(w.torch()), padding=1), 1e-2)


ONE, W = (lambda: tn.from_torch(randn(1, 4, 5, 5))), (lambda: tn.from_torch(randn(2, 4, 3, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv2d(ONE(), W(), groups=2), "groups must be 1"),
        (lambda: F.conv2d(ONE(), W(), stride=0), "stride must be an int or a pair of ints, at least 1, got 0"),
        (lambda: F.conv2d(ONE(), W(), padding=-1), "padding must be an int or a pair of ints, at least 0, got -1"),
        (lambda: F.conv2d(ONE(), W(), padding="full"), "'same' or 'valid', got 'full'"),
        (lambda: F.conv2d(ONE(), W(), stride=2, padding="same"), "padding='same' needs stride 1"),
        (lambda: F.conv2d(tn.from_torch(randn(4, 5, 5)), W()), "input must have 4 dimensions"),
        (lambda: F.conv2d(randn(1, 4, 5, 5), W()), "input must be a tritonnet Tensor, got torch.Tensor"),
        (lambda: F.conv2d(tn.tensor([[[[1]]]]), W()), "input must be floating point"),
        (lambda: F.conv_transpose2d(ONE(), W()), "must have the weight's 2 channels, got 4"),
        (
            lambda: F.conv_transpose2d(ONE(), tn.from_torch(randn(4, 2, 3, 3)), output_padding=1),
            "output_padding must be less",
        ),
        (
            lambda: F.conv_transpose2d(ONE(), tn.from_torch(randn(4, 2, 1, 1)), padding=3),
            "must have at least one pixel",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(tn.Refused, match=message):
        call()
