"""Batch norm, alone and fused with ReLU and max pooling, against float64."""

import pytest
import torch
from helpers import DEVICE, DTYPES, EPS, GPU, assert_close, check_gradients, gap_untouched, nchw, pitched, randn, to64
from torch.nn import functional as torch_f

import tritonnet as tn
from tritonnet.kernels import batch_norm as batch_norm_kernels
from tritonnet.kernels import runtime
from tritonnet.kernels.batch_norm import batch_norm_bwd, batch_norm_fwd, batch_norm_relu_scaled
from tritonnet.kernels.batch_norm_pool import batch_norm_pool_bwd, batch_norm_pool_fwd
from tritonnet.kernels.batch_norm_stats import batch_norm_merge, batch_norm_stats
from tritonnet.ops.norm import batch_norm, batch_norm_relu, batch_norm_relu_max_pool2d
from tritonnet.ops.pool import max_pool2d

CASES = {  # N, H, W, C
    "unet": (2, 8, 8, 16),
    "odd": (3, 7, 5, 3),
    "one-channel": (2, 5, 3, 1),
    "one-pixel-images": (4, 1, 1, 5),
    "past-a-channel-tile": (2, 3, 3, 130),
    "several-steps-a-program": (4, 1100, 1001, 1) if GPU else (3, 601, 607, 1),
}
POOLED = {name: CASES[name] for name in ("unet", "odd", "one-channel", "past-a-channel-tile")}


def tensor(buffer: torch.Tensor, requires_grad: bool = True) -> tn.Tensor:
    return tn.Tensor(buffer, requires_grad=requires_grad)


def vector(c: int, seed: int, positive: bool = False) -> torch.Tensor:
    values = randn(c, seed=seed)
    return values.abs() + 0.5 if positive else values


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


def rtol(dtype: torch.dtype) -> float:
    """1e-5 in float32, where sums of 1e6 terms lie between; plus one rounding of the result in 16 bits."""
    return 1e-5 if dtype == torch.float32 else 1e-5 + 2 * EPS[dtype]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_scaled_float16_is_the_same_rounded(case: str, affine: bool) -> None:
    """Also where one value lies as far off as a value can: nothing overflows."""
    x = randn(*CASES[case], seed=1)
    x[0, 0, 0, 0] = 1e4
    c = x.shape[3]
    w, b = (vector(c, 3), vector(c, 4)) if affine else (None, None)
    mean, var = batch_norm_stats(x)
    expected = to64(batch_norm_fwd(x, mean, var, w, b, relu=True))
    y = batch_norm_relu_scaled(pitched(x), mean, var, w, b)
    # 2^-25: half the smallest float16
    off = (to64(y.values) - expected / to64(y.inverse)).abs()
    assert (off <= 1.01 * EPS[torch.float16] * expected / to64(y.inverse) + 2.0**-25).all()
    pixels = x.numel() / c
    size = torch.ones(c, dtype=torch.float64) if w is None else to64(w).abs()
    bound = float((size * pixels**0.5 + (0.0 if b is None else to64(b))).max())
    assert 0.99 * 2.0**14 <= bound / float(y.inverse) < 1.01 * 2.0**15


def test_scaled_float16_of_a_channel_without_deviation_stays_finite() -> None:
    """Its mean may be rounded, and the rest counts as many deviations: 1e6 has a distance of 0.06 to the next number."""
    x = torch.full((1, 1, 2, 1), 1e6, device=DEVICE)
    mean, var = x[0, 0, 0] - 0.0625, torch.zeros(1, device=DEVICE)
    y = batch_norm_relu_scaled(x, mean, var, None, None)
    assert (y.values == 65504).all()


def test_scaled_float16_leaves_no_room_for_what_the_relu_cuts_off() -> None:
    """A channel far below zero is all zeros, and changes no other."""
    x, w, b = randn(2, 4, 5, 3), vector(3, 1), vector(3, 2)
    mean, var = batch_norm_stats(x)
    b[1] = -1e12
    y, expected = batch_norm_relu_scaled(x, mean, var, w, b), batch_norm_fwd(x, mean, var, w, b, relu=True)
    assert not y.values[..., 1].any()
    assert_close(to64(y.values) * to64(y.inverse), to64(expected), EPS[torch.float16])


def test_scaled_float16_keeps_nan() -> None:
    x, one = randn(1, 2, 2, 2), torch.ones(2, device=DEVICE)
    x[0, 0, 1, 1] = float("nan")
    assert torch.equal(batch_norm_relu_scaled(x, one, one, None, None).values.isnan(), x.isnan())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_matches_float64(case: str, training: bool, relu: bool, dtype: torch.dtype) -> None:
    shape = CASES[case]
    c = shape[3]
    x, dy = pitched(randn(*shape, dtype=dtype, seed=1)), pitched(randn(*shape, dtype=dtype, seed=2))
    w, b, mean, var = vector(c, 3), vector(c, 4), vector(c, 5), vector(c, 6, positive=True)
    x64, w64, b64, mean64, var64 = leaf(nchw(x)), leaf(to64(w)), leaf(to64(b)), to64(mean), to64(var)
    y64 = torch_f.batch_norm(x64, mean64, var64, w64, b64, training, 0.3, 1e-3)
    y64 = y64.relu() if relu else y64
    y64.backward(nchw(dy))

    xs, ws, bs = tensor(x), tensor(w), tensor(b)
    op = batch_norm_relu if relu else batch_norm
    y = op(xs, tensor(mean, False), tensor(var, False), ws, bs, training, 0.3, 1e-3)
    y.backward(tensor(dy))
    assert y.dtype == xs.grad.dtype == dtype
    assert_close(y.torch(), y64, rtol(dtype), 1e-6, "y")
    assert_close(xs.grad.torch(), x64.grad, rtol(dtype), 1e-6, "dx")
    assert_close(ws.grad.torch(), w64.grad, 1e-5, 1e-5, "dw")
    assert_close(bs.grad.torch(), b64.grad, 1e-5, 1e-5, "db")
    assert_close(mean, mean64, 1e-6, what="running mean")
    assert_close(var, var64, 1e-5, what="running variance")


@pytest.mark.parametrize("shape", [(2, 40, 40, 33), (3, 601, 607, 1)])
@pytest.mark.parametrize("ratio", [1, 100, 1000])
def test_variance_keeps_its_digits_where_the_mean_is_large(ratio: int, shape: tuple[int, ...]) -> None:
    x = randn(*shape) + ratio
    mean, var = batch_norm_stats(x)
    expected = to64(x).var((0, 1, 2), unbiased=False)
    assert float(((to64(var) - expected) / expected).abs().max()) < 1e-5
    assert_close(mean, to64(x).mean((0, 1, 2)), 1e-7)  # one rounding


def test_merge_of_means_whose_square_is_infinite() -> None:
    mean = torch.full((2, 3), 2e19, device=DEVICE)
    merged = batch_norm_merge(torch.full((2,), 8.0, device=DEVICE), mean, torch.zeros(2, 3, device=DEVICE))
    assert torch.equal(merged[0], mean[0])
    assert not merged[1].any()


def test_merge_takes_tiles_of_any_size() -> None:
    x = randn(1, 1, 700, 9) + 1000
    sizes = [1, 0, 299, 400]  # a tile may be empty
    tiles = to64(x[0, 0]).split(sizes)
    count = torch.tensor(sizes, dtype=torch.float32, device=DEVICE)
    mean = torch.stack([t.sum(0) / max(len(t), 1) for t in tiles])
    m2 = torch.stack([(t - m).square().sum(0) for t, m in zip(tiles, mean, strict=True)]).float().to(DEVICE)
    merged = batch_norm_merge(count, mean.float().to(DEVICE), m2)
    assert_close(merged[0], to64(x).mean((0, 1, 2)), 1e-7)
    assert_close(merged[1], to64(x).var((0, 1, 2), unbiased=False), 1e-5)


def test_moments_stand_in_for_the_pass_over_the_input() -> None:
    x = randn(2, 6, 5, 7)
    flat = x.reshape(-1, 7)
    moments = torch.tensor([60.0], device=DEVICE), flat.mean(0)[None], (flat - flat.mean(0)).square().sum(0)[None]
    assert_close(
        batch_norm(tensor(x), None, None, training=True, moments=moments).torch(),
        batch_norm(tensor(x), None, None, training=True).torch(),
        1e-6,
    )


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_running_statistics_follow_torch(momentum: float | None) -> None:
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum).double()
    mean, var = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    tracked = torch.tensor(0, device=DEVICE)
    for seed in range(3):
        x = randn(2, 4, 5, 3, seed=seed) + seed
        theirs(nchw(x))
        batch_norm(
            tensor(x), tensor(mean, False), tensor(var, False), None, None, True, momentum,
            num_batches_tracked=tensor(tracked, False),
        )  # fmt: skip
    assert int(tracked) == 3
    assert_close(mean, theirs.running_mean, 1e-6)
    assert_close(var, theirs.running_var, 1e-6)


def test_without_scale_and_shift_they_are_one_and_zero() -> None:
    x, dy = randn(2, 4, 5, 6), randn(2, 4, 5, 6, seed=1)
    x64 = leaf(nchw(x))
    torch_f.batch_norm(x64, None, None, training=True).relu().backward(nchw(dy))
    xs = tensor(x)
    batch_norm_relu(xs, None, None, training=True).backward(tensor(dy))
    assert_close(xs.grad.torch(), x64.grad, 1e-5)


def test_writes_into_a_slice_of_a_wider_buffer() -> None:
    x, mean, var = randn(2, 3, 5, 4), vector(4, 1), vector(4, 2, positive=True)
    plain = batch_norm_fwd(x, mean, var, None, None, relu=True)
    for op in (batch_norm_fwd, batch_norm_pool_fwd):
        out = pitched(torch.zeros_like(x), extra=5)
        op(x, mean, var, None, None, out=out, **({"relu": True} if op is batch_norm_fwd else {}))
        assert torch.equal(out, plain)
        assert gap_untouched(out)


def test_nan_spreads_over_its_channel_and_through_relu() -> None:
    x = randn(2, 3, 5, 4)
    x[1, 2, 3, 2] = float("nan")
    xs, gradient = tensor(x), randn(2, 3, 5, 4, seed=1)
    y = batch_norm_relu(xs, None, None, training=True)
    assert torch.equal(y.data.isnan().any((0, 1, 2)).cpu(), torch.tensor([False, False, True, False]))
    assert bool(y.data[..., 2].isnan().all())
    y.backward(tensor(gradient))
    assert torch.equal(xs.grad.data.isnan(), y.data.isnan())


def test_gradient_passes_where_the_result_is_nan() -> None:
    x = randn(1, 2, 3, 2)
    x[0, 0, 0, 0] = float("nan")
    one = torch.ones(2, device=DEVICE)
    dx, _, db = batch_norm_bwd(torch.ones_like(x), x, 0 * one, one, None, None, eps=0.0, relu=True, training=False)
    expected = leaf(x.cpu())
    expected.relu().backward(torch.ones_like(expected))
    assert torch.equal(dx.cpu(), expected.grad)
    assert torch.equal(db.cpu(), expected.grad.sum((0, 1, 2)))


def test_empty_batch_changes_no_running_statistic() -> None:
    mean, var, tracked = vector(3, 1), vector(3, 2), torch.tensor(7, device=DEVICE)
    before = mean.clone(), var.clone()
    xs, ws = tensor(runtime.empty((0, 4, 4, 3), torch.float32)), tensor(vector(3, 3))
    y = batch_norm(
        xs, tensor(mean, False), tensor(var, False), ws, None, True, num_batches_tracked=tensor(tracked, False)
    )
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])
    assert int(tracked) == 8
    y.backward(tensor(runtime.empty((0, 4, 4, 3), torch.float32)))
    assert xs.grad.shape == (0, 3, 4, 4)
    assert torch.equal(ws.grad.data.cpu(), torch.zeros(3))


def test_same_bits_every_time() -> None:
    x, dy = randn(2, 33, 31, 40), randn(2, 33, 31, 40, seed=1)
    first, second = (
        (mean, var, *batch_norm_bwd(dy, x, mean, var, None, None, relu=True))
        for mean, var in (batch_norm_stats(x) for _ in range(2))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_directional_derivative() -> None:
    check_gradients(
        lambda x, w, b: batch_norm(x, None, None, w, b, training=True),
        [randn(2, 3, 4, 5), vector(3, 1), vector(3, 2)],
        eps=1e-2,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", POOLED)
def test_fused_pool_is_the_composition(case: str, training: bool, dtype: torch.dtype) -> None:
    shape = n, h, w_, c = POOLED[case]
    # few different values: many windows have equals. Signs of w give channels that ReLU reverses.
    x = pitched((2 * randn(*shape, seed=1)).round().to(dtype))
    dy, dz = pitched(randn(*shape, dtype=dtype, seed=2)), pitched(randn(n, h // 2, w_ // 2, c, dtype=dtype, seed=3))
    w, b, mean, var = vector(c, 4), vector(c, 5), vector(c, 6), vector(c, 7, positive=True)
    results = []
    for fused in (True, False):
        xs, ws, bs = tensor(x), tensor(w), tensor(b)
        arguments = (xs, tensor(mean.clone(), False), tensor(var.clone(), False), ws, bs, training)
        if fused:
            y, z = batch_norm_relu_max_pool2d(*arguments)
        else:
            y = batch_norm_relu(*arguments)
            z = max_pool2d(y, 2)
        z.backward(tensor(dz), retain_graph=True)
        only_z = xs.grad.data
        xs.grad = ws.grad = bs.grad = None
        y.backward(tensor(dy), retain_graph=True)
        only_y = xs.grad.data
        xs.grad = ws.grad = bs.grad = None
        (y * tensor(dy) + tn.nn.functional.pad(z * tensor(dz), (0, w_ - w_ // 2, 0, h - h // 2))).sum().backward()
        results.append((y.data, z.data, only_z, only_y, xs.grad.data, ws.grad.data, bs.grad.data))
    for number, (fused, plain) in enumerate(zip(*results, strict=True)):
        if number < 2:
            assert torch.equal(fused, plain)
        # 16 bits: unfused, the sum of the two gradients is rounded once more before the means are taken off
        assert_close(fused, to64(plain), 1e-5 if dtype == torch.float32 else 8 * EPS[dtype], 1e-5)


def test_fused_pool_lets_nan_win() -> None:
    x = randn(1, 4, 4, 2)
    x[0, 1, 0, 0] = float("nan")
    one = torch.ones(2, device=DEVICE)
    _, z = batch_norm_pool_fwd(x, 0 * one, one, None, None)
    assert torch.equal(z.isnan().cpu().nonzero(), torch.tensor([[0, 0, 0, 0]]))


def _apply(**changes: object) -> None:
    arguments = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "x": torch.zeros(2, 2, 2, 3), **changes}
    tensors = {k: tensor(v.to(DEVICE), False) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    out = tensors.pop("out", None)
    batch_norm_relu(tensors.pop("x"), **tensors, out=None if out is None else out.data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": 3}, "input must be a tritonnet Tensor, got int"),
        ({"x": torch.zeros(2, 3)}, "4 dimensions"),
        ({"x": torch.zeros(2, 2, 2, 3, dtype=torch.int32)}, "input must be float32 or bfloat16 or float16, got int32"),
        ({"x": torch.zeros(1, 1, 1, 3), "training": True}, "more than 1 value per channel"),
        ({"eps": -1.0}, "eps must be at least 0, got -1"),
        ({"running_mean": None}, "given together"),
        ({"running_mean": None, "running_var": None}, "in evaluation"),
        ({"running_mean": torch.zeros(4)}, r"running_mean must have shape \(3,\).*got \(4,\)"),
        ({"running_var": torch.zeros(3, dtype=torch.float16)}, "running_var must be float32, got float16"),
        ({"weight": torch.zeros(1)}, r"weight must have shape \(3,\)"),
        ({"training": True, "momentum": None}, "momentum must be a number"),
        ({"training": True, "num_batches_tracked": torch.tensor(1.0)}, "num_batches_tracked must be int64"),
        ({"out": torch.zeros(2, 2, 2, 4)}, r"out must have buffer shape \(2, 2, 2, 3\)"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(runtime.Refused, match=message):
        _apply(**changes)


def test_sums_of_many_tiles_are_added_by_a_launch_of_their_own(monkeypatch):
    """A GPU's many programs leave more shares than the backward adds itself."""
    x, dy = randn(2, 6, 6, 5), randn(2, 6, 6, 5, seed=1)
    norm = [randn(5, seed=2), randn(5, seed=3) ** 2 + 0.1, randn(5, seed=4), randn(5, seed=5)]
    dz = randn(2, 3, 3, 5, seed=6)
    calls = (lambda: batch_norm_bwd(dy, x, *norm, relu=True), lambda: batch_norm_pool_bwd(dy, dz, x, *norm))
    for call in calls:
        monkeypatch.setattr(batch_norm_kernels, "FEW", 32)
        expected = call()
        monkeypatch.setattr(batch_norm_kernels, "FEW", 0)
        for one, other in zip(call(), expected, strict=True):
            assert_close(one, to64(other), 1e-6)
