"""conv2d: every form of every pass against float64; then one test per sentence of the docstrings."""

import itertools

import pytest
import torch
from convcheck import BOXES, CASES, PATCHES, check, tolerance
from helpers import DEVICE, DTYPES, EPS, GPU, assert_close, gap_untouched, nchw, nhwc, pitched, randn, to64

from tritonnet.kernels import conv2d_tiles
from tritonnet.kernels.batch_norm import Norm, batch_norm_bwd
from tritonnet.kernels.conv2d import (
    Tile,
    conv2d_dgrad,
    conv2d_fwd,
    conv2d_wgrad,
    output_size,
    transposed_size,
)
from tritonnet.kernels.conv2d_tiles import Geometry, kernel_form, pick_tile, pixel_tile
from tritonnet.kernels.runtime import Refused, recording

SMALL = Tile("gather", 16, 16, 16, 4, 2, splits=3)  # many programs, blocks and splits even for small sizes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_against_float64(case, dtype):
    check(case, dtype, None)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_many_small_programs(case):
    check(case, torch.float32, SMALL)


@pytest.mark.parametrize("name", ["3x3", "rgb", "stride-2", "all-different"])
def test_pitch(name):
    check(CASES[name], torch.float32, SMALL, wrap=lambda t: pitched(t, 5))


HALVES = [torch.bfloat16, torch.float16] if GPU else [torch.float32, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(4, 1), (1, 1), (4, 4)], ids=["4x16", "1x64", "4-images"])
@pytest.mark.parametrize("case", BOXES.values(), ids=BOXES)
def test_tensormap(case, shape, dtype):
    rows, images = shape
    tile = Tile("tensormap", 64, 64, 16, 4, 2, rows=rows, images=images)
    check(case, dtype, tile, Tile("tensormap", 64, 32, 32, 4, 2, splits=2, rows=min(rows, 2)))


@pytest.mark.parametrize("splits", [2, 7])  # 7: some have no step left
@pytest.mark.parametrize("name", BOXES)
def test_tensormap_split_over_channels(name, splits):
    tile = Tile("tensormap", 64, 64, 16, 4, 2, splits, rows=2)
    check(BOXES[name], HALVES[0], tile, Tile("tensormap", 64, 32, 32, 4, 2, splits=2))


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("name", ["whole-boxes", "ragged", "wide-dilation", "3x1"])
def test_tensormap_rows_share_what_is_read(name, splits):
    tile = Tile("tensormap", 64, 64, 16, 4, 2, splits, rows=4, taps=3)
    check(BOXES[name], HALVES[0], tile, Tile("tensormap", 64, 32, 32, 4, 2, splits=2))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["whole-boxes", "ragged", "dilated", "wide-dilation", "3x1"])
def test_tensormap_three_taps(name, dtype):
    tile = Tile("tensormap", 64, 32, 16, 4, 2, splits=3, taps=3)
    check(BOXES[name], dtype, Tile("tensormap", 64, 64, 16, 4, 2, rows=2), tile)


def test_partial_sums_of_three_small_taps_are_all_added():
    """3 x 16 x 16 numbers a tile are no whole number of the sum's usual blocks."""
    tile = Tile("tensormap", 16, 16, 32, 4, 2, splits=2, taps=3, whole=1)
    check(BOXES["ragged"], HALVES[0], Tile("tensormap", 64, 64, 16, 4, 2, rows=2), tile)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("case", PATCHES.values(), ids=PATCHES)
def test_patch(case, rows, dtype):
    tile = Tile("patch", 64, 64, 16, 4, 2, rows=rows)
    check(case, dtype, tile, Tile("patch", 64, 16, 32, 4, 2, splits=2, rows=rows), wrap=lambda t: pitched(t, 16))


@pytest.mark.parametrize(("splits", "taps"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_moments_are_those_of_the_stored_values(splits, taps):
    x, w = randn(3, 7, 9, 16, dtype=HALVES[0]), randn(32, 3, 3, 16, dtype=HALVES[0], seed=1)
    tile = Tile("tensormap", 64, 64, 16, 4, 2, splits, rows=4, taps=taps)
    y, moments = conv2d_fwd(x, w, padding=(1, 1, 1, 1), statistics=True, tile=tile)
    count, mean, m2 = map(to64, moments)
    total = count.sum()
    assert total == 3 * 7 * 9
    together = (count[:, None] * mean).sum(0) / total
    variance = (m2.sum(0) + (count[:, None] * (mean - together) ** 2).sum(0)) / total
    assert_close(together, to64(y).mean((0, 1, 2)), 1e-5)
    assert_close(variance, to64(y).var((0, 1, 2), unbiased=False), 1e-5)


def test_gather_gives_no_moments():
    assert conv2d_fwd(randn(1, 4, 4, 3), randn(2, 1, 1, 3), statistics=True)[1] is None


NORMED = {  # form: case, dtype, tile
    "rule": (CASES["rgb"], torch.float32, None),
    "many-small-programs": (CASES["stride-2"], torch.float32, SMALL),
    "half": (CASES["3x3"], torch.bfloat16, None),
    "tensormap": (BOXES["ragged"], HALVES[0], Tile("tensormap", 64, 64, 16, 4, 2, rows=4)),
    "tensormap-rows": (BOXES["ragged"], HALVES[0], Tile("tensormap", 64, 64, 16, 4, 2, rows=4, taps=3)),
    "tensormap-split": (BOXES["ragged"], HALVES[0], Tile("tensormap", 64, 64, 16, 4, 2, splits=3, rows=4)),
    "patches-are-gathered": (PATCHES["ragged-patches"], HALVES[0], None),
    "patch-tile": (PATCHES["ragged-patches"], HALVES[0], Tile("patch", 64, 64, 16, 4, 2, rows=2)),
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("case", "dtype", "tile"), NORMED.values(), ids=NORMED)
def test_batch_norm_and_relu_before_the_store(case, dtype, tile, affine):
    N, H, W, C, K, R, S, stride, pad, dilation = case
    x, w, b = randn(N, H, W, C, dtype=dtype), randn(K, R, S, C, dtype=dtype, seed=1), randn(K, seed=2)
    mean, scale, shift = (randn(K, seed=seed) for seed in (3, 4, 5))
    var, eps = randn(K, seed=6) ** 2 + 0.5, 1e-3
    y, _ = conv2d_fwd(
        pitched(x, 16), w, b, stride=stride, padding=(pad[0], pad[0], pad[1], pad[1]), dilation=dilation, tile=tile,
        norm=Norm(mean, var, *((scale, shift) if affine else (None, None)), eps),
    )  # fmt: skip
    full = nhwc(torch.nn.functional.conv2d(nchw(x), nchw(w), to64(b), stride, pad, dilation))
    normed = (full - to64(mean)) / (to64(var) + eps).sqrt()
    if affine:
        normed = normed * to64(scale) + to64(shift)
    assert_close(y, normed.clamp(min=0), tolerance(dtype, dtype))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(
    ("name", "taps"),
    [("whole-boxes", 1), ("whole-boxes", 3), ("ragged", 1), ("ragged", 3), ("dilated", 1), ("1x1", 1), ("3x1", 3)],
)
@pytest.mark.parametrize("affine", [True, False])
def test_input_gradient_sums_for_the_batch_norm_in_front(name, taps, affine, splits):
    N, H, W, C, K, R, S, _, pad, dilation = BOXES[name]
    P, Q = (output_size(s, r, 1, p, p, d) for s, r, p, d in zip((H, W), (R, S), pad, dilation, strict=True))
    dy, w = randn(N, P, Q, K, dtype=HALVES[0]), randn(K, R, S, C, dtype=HALVES[0], seed=1)
    z = pitched(randn(N, H, W, C, dtype=HALVES[0], seed=2), 16)
    mean, var = randn(C, seed=3), randn(C, seed=4) ** 2 + 0.5
    norm = Norm(mean, var, *((randn(C, seed=5), randn(C, seed=6)) if affine else (None, None)), 1e-3)
    window = {
        "input_size": (H, W),
        "pad": pad,
        "dilation": dilation,
        "tile": Tile("tensormap", 64, 32, 16, 4, 2, splits, rows=4, taps=taps),
    }
    dx, sums = conv2d_dgrad(dy, w, norm=norm, z=z, **window)
    assert torch.equal(dx, conv2d_dgrad(dy, w, **window)[0])
    options = {"eps": 1e-3, "relu": True}
    for ours, expected in zip(
        batch_norm_bwd(dx, z, *norm.buffers, sums=sums, **options),
        batch_norm_bwd(dx, z, *norm.buffers, **options),
        strict=True,
    ):
        assert_close(ours, expected, 1e-5 + EPS[ours.dtype])


def test_who_cannot_sum_says_so():
    dy, w, z = (
        randn(1, 4, 4, 16, dtype=HALVES[0]),
        randn(16, 1, 1, 16, dtype=HALVES[0]),
        randn(1, 4, 4, 16, dtype=HALVES[0]),
    )
    norm = Norm(randn(16), randn(16), None, None)
    for tile in (SMALL, Tile("tensormap", 256, 128, 16, 8, 2, rows=16)):  # by pointers; too large for z's registers
        assert conv2d_dgrad(dy, w, input_size=(4, 4), norm=norm, z=z, tile=tile)[1] is None
    box = {"input_size": (4, 4), "tile": Tile("tensormap", 64, 32, 16, 4, 2, rows=4)}
    assert conv2d_dgrad(dy, w, norm=norm, z=z, **box)[1] is not None
    dx, sums = conv2d_dgrad(dy, w, norm=norm, z=pitched(z), **box)  # its rows are no 16 bytes apart
    assert sums is None
    assert torch.equal(dx, conv2d_dgrad(dy, w, **box)[0])


def test_nan_passes_the_relu_before_the_store():
    x = torch.full((1, 2, 2, 1), float("nan"), device=DEVICE)
    one = torch.ones(1, device=DEVICE)
    y, _ = conv2d_fwd(x, randn(1, 1, 1, 1), norm=Norm(one, one, None, None))
    assert torch.isnan(y).all()


def test_output_goes_to_a_slice_and_nowhere_else():
    x, w, b = randn(2, 5, 6, 4), randn(3, 3, 3, 4, seed=1), randn(3, seed=2)
    expected, _ = conv2d_fwd(x, w, b, padding=(1, 1, 1, 1))
    out = pitched(torch.zeros(2, 5, 6, 3, device=DEVICE), 4)
    y, _ = conv2d_fwd(x, w, b, padding=(1, 1, 1, 1), out=out)
    assert y is out
    assert torch.equal(y, expected)
    assert gap_untouched(out)


def test_transposed_forward_is_the_input_gradient_with_a_bias():
    x, w, b = randn(2, 4, 5, 6), randn(6, 3, 3, 4, seed=1), randn(4, seed=2)
    size = transposed_size(4, 3, 2, 1, 1, 1), transposed_size(5, 3, 2, 1, 1, 1)
    y, _ = conv2d_dgrad(x, w, b, input_size=size, stride=(2, 2), pad=(1, 1))
    expected = torch.nn.functional.conv_transpose2d(nchw(x), nchw(w), to64(b), 2, 1, 1)
    assert_close(y, nhwc(expected), 1e-6)


@pytest.mark.parametrize("form", [None, SMALL])
def test_empty_batch(form):
    x, w = randn(0, 5, 5, 4), randn(3, 3, 3, 4)
    y, _ = conv2d_fwd(x, w, tile=form)
    assert tuple(y.shape) == (0, 3, 3, 3)
    assert tuple(conv2d_dgrad(y, w, input_size=(5, 5), tile=form)[0].shape) == (0, 5, 5, 4)
    dw = conv2d_wgrad(y, x, kernel_size=(3, 3), tile=form)
    assert torch.equal(dw, torch.zeros_like(dw))


def test_weight_gradient_is_bitwise_reproducible():
    dy, x = randn(2, 9, 9, 8), randn(2, 9, 9, 8, seed=1)
    first = conv2d_wgrad(dy, x, kernel_size=(3, 3), pad=(1, 1), tile=SMALL)
    assert all(torch.equal(first, conv2d_wgrad(dy, x, kernel_size=(3, 3), pad=(1, 1), tile=SMALL)) for _ in range(3))


def test_nan_spreads():
    x = randn(1, 5, 5, 2)
    x[0, 2, 2, 0] = float("nan")
    y, _ = conv2d_fwd(x, randn(1, 3, 3, 2, seed=1))
    assert bool(y.isnan().all())  # every 3x3 window holds the middle


@pytest.mark.parametrize(("arch", "shared", "spare"), [("sm_90", 227, 0), ("sm_100", 227, 0), ("sm_120", 99, 1)])
def test_tiles_of_the_rules_fit_shared_memory(arch, shared, spare, monkeypatch):
    """The stages of a pipeline do, of which the compiler spares one on sm_120."""
    monkeypatch.setattr(conv2d_tiles, "INTERPRET", False)
    monkeypatch.setattr(conv2d_tiles.tile_table, "lookup", lambda *_: None)
    monkeypatch.setattr(conv2d_tiles.tile_table, "note", lambda *_: None)
    sizes = itertools.product(
        [1, 4], [(12, 12), (64, 64), (96, 160), (160, 160)], [32, 64, 128, 512], [32, 64, 128, 512]
    )
    with recording(arch, lambda *_: None):
        for (n, (h, w), c, k), name in itertools.product(sizes, ["conv2d_fwd", "conv2d_dgrad", "conv2d_wgrad"]):
            g = Geometry(n, h, w, c, h, w, k, 3, 3, (1, 1), (1, 1), (1, 1))
            last = name == "conv2d_wgrad"
            t = pick_tile.__wrapped__(name, g, torch.bfloat16, "tensormap", arch)
            read = t.block_m + t.taps * t.block_n if last or t.taps == 1 else 6 * t.block_m // 4 + 3 * t.block_n
            stage = read * t.block_k * 2
            assert stage * (t.num_stages - spare) <= shared * 1024, (name, g, t)


def test_an_image_without_rows_or_columns_has_no_tensor_map():
    x, w = torch.empty(1, 0, 8, 16, device="meta"), torch.empty(16, 3, 3, 16, device="meta")
    with recording("sm_90", lambda *_: None):
        for h, p in ((0, 2), (2, 0), (8, 8)):
            g = Geometry(1, h, 8, 16, p, 8, 16, 3, 3, (1, 1), (2, 1), (1, 1))
            assert kernel_form(g, (x, w), True) == ("gather" if 0 in (h, p) else "tensormap")


def test_pixel_tile_wastes_least():
    assert pixel_tile(16, 128, 128, 128) == (1, 8, 16)
    assert pixel_tile(16, 128, 128, 64, wide=True) == (1, 1, 64)
    assert pixel_tile(16, 8, 8, 128) == (2, 8, 8)
    assert pixel_tile(1, 1, 256, 128)[1] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv2d_fwd(randn(2, 5, 5), randn(1, 3, 3, 5)), "input must have 4 dimensions"),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 5)), "must have the weight's 5 channels, got 4"),
        (lambda: conv2d_fwd(randn(1, 2, 5, 4), randn(1, 3, 3, 4)), "must fit the padded input, got 2x5"),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 4), stride=(0, 1)), "stride must be at least 1"),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 4), dilation=(1, 0)), "dilation must be at least 1"),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 4), randn(2)), r"bias must be float32 of shape \(1,\)"),
        (
            lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 4), norm=Norm(randn(2), randn(1), None, None)),
            r"running_mean must have shape \(1,\)",
        ),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 4).half()), "weight must have the input's dtype"),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4).int(), randn(1, 3, 3, 4)), "input must be float32 or"),
        (lambda: conv2d_fwd(nhwc(randn(1, 4, 5, 5)), randn(1, 3, 3, 4)), "channels-last with one pitch"),
        (lambda: conv2d_fwd(randn(1, 5, 5, 4), randn(1, 3, 3, 4), out=randn(1, 3, 3, 2)), "out must have buffer shape"),
        (
            lambda: conv2d_dgrad(randn(1, 5, 5, 4), randn(1, 3, 3, 4), input_size=(7, 7)),
            "the weight's 1 channels, got 4",
        ),
        (lambda: conv2d_wgrad(randn(1, 5, 5, 4), randn(2, 7, 7, 4), kernel_size=(3, 3)), "x must have dy's batch 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(Refused, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "size", [(64, 64, 256), (64, 128, 128), (128, 256, 64), (512, 1024, 16), (1024, 512, 32), (128, 64, 256)]
)
def test_unet_layers_match_cudnn(size):
    """Every shipped tile's shape, in bfloat16, at the size it was swept for."""
    C, K, side = size
    x, w, dy = (
        randn(*s, dtype=torch.bfloat16, seed=i)
        for i, s in enumerate([(16, side, side, C), (K, 3, 3, C), (16, side, side, K)])
    )
    xt, wt, dyt = (t.permute(0, 3, 1, 2) for t in (x, w, dy))
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dyt, xt, wt, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    y = torch.nn.functional.conv2d(xt, wt, padding=1)
    assert_close(conv2d_fwd(x, w, padding=(1, 1, 1, 1))[0], nhwc(y), 5e-3, what="y")
    assert_close(conv2d_dgrad(dy, w, input_size=(side, side), pad=(1, 1))[0], nhwc(dx), 5e-3, what="dx")
    assert_close(conv2d_wgrad(dy, x, kernel_size=(3, 3), pad=(1, 1)), nhwc(dw), 5e-3, what="dw")
