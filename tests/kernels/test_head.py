"""head: forward and every gradient against float64; then one test per sentence of the docstring."""

import pytest
import torch
from helpers import DEVICE, EPS, GPU, assert_close, gap_untouched, pitched, randn, to64

from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.head import head_bwd, head_fits, head_fwd
from tritonnet.kernels.runtime import Refused

# name: N, H, W, C, K
CASES = {
    "unet": (2, 8, 8, 64, 2),
    "poster": (1, 9, 7, 16, 2),
    "one-logit": (2, 5, 6, 48, 1),
    "many-classes": (1, 7, 9, 33, 21),
    "most": (1, 5, 5, 128, 32),
    "one-channel": (3, 3, 4, 1, 3),
    "many-programs": (3, 67, 41, 20, 5),
}
PRECISIONS = {  # dtype, tf32, rounding of an operand of the products
    "fp32": (torch.float32, False, 1e-6),
    "tf32": (torch.float32, True, 2**-10),
    "bf16": (torch.bfloat16, False, 2**-8),
    "fp16": (torch.float16, False, 2**-10),
}


def make(case, dtype, affine=True):
    N, H, W, C, K = case
    x, dy = randn(N, H, W, C, dtype=dtype), randn(N, H, W, K, dtype=dtype, seed=1)
    w, bias = randn(K, 1, 1, C, dtype=dtype, seed=2), randn(K, seed=3)
    scale, shift = (randn(C, seed=4) + 1.5, randn(C, seed=5)) if affine else (None, None)
    return x, dy, w, bias, scale, shift


def statistics(x):
    flat = to64(x).flatten(0, 2)
    return flat.mean(0), flat.var(0, unbiased=False)


def reference(x, dy, w, bias, scale, shift, training, eps, given):
    """In float64; a is rounded to x's dtype on the way forward, as the kernels' contract has it."""
    leaves = [None if t is None else to64(t).requires_grad_() for t in (x, scale, shift, w, bias)]
    x64, scale64, shift64, w64, bias64 = leaves
    mean, var = (x64.mean((0, 1, 2)), x64.var((0, 1, 2), unbiased=False)) if training else given
    a = (x64 - mean) / (var + eps).sqrt()
    a = (a * scale64 + shift64 if scale is not None else a).clamp(min=0)
    a = a + (a.detach().to(x.dtype).double() - a.detach())
    y = a @ w64[:, 0, 0].T + bias64
    y.backward(to64(dy))
    return y.detach(), [None if t is None else t.grad for t in leaves]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"] if GPU else ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_against_float64(case, precision, training):
    dtype, tf32, rounding = PRECISIONS[precision]
    x, dy, w, bias, scale, shift = make(case, dtype)
    mean, var = statistics(x)
    y64, (dx64, dscale64, dshift64, dw64, dbias64) = reference(
        x, dy, w, bias, scale, shift, training, 1e-5, (mean, var)
    )
    norm = Norm(mean.float().to(DEVICE), var.float().to(DEVICE), scale, shift, 1e-5)
    assert_close(head_fwd(x, norm, w, bias, tf32=tf32), y64, EPS[dtype] + 2 * rounding, what="y")
    dx, dscale, dshift, dw, dbias = head_bwd(dy, x, norm, w, tf32=tf32, training=training)
    for name, ours, expected in (
        ("dx", dx, dx64), ("dscale", dscale, dscale64), ("dshift", dshift, dshift64), ("dw", dw, dw64), ("dbias", dbias, dbias64),
    ):  # fmt: skip
        # a rounding may push a value near 0 over the edge of the ReLU: its whole gradient comes or goes
        assert_close(ours, expected, 1e-5 + EPS[ours.dtype] + 2 * rounding, what=name)


def test_pitch_and_no_scale_and_no_bias():
    x, dy, w, *_ = make(CASES["one-logit"], torch.float32)
    mean, var = (t.float().to(DEVICE) for t in statistics(x))
    norm = Norm(mean, var, None, None)
    wide = pitched(x, 5)
    y, expected = head_fwd(wide, norm, w), head_fwd(x, norm, w)
    assert torch.equal(y, expected)
    assert gap_untouched(wide)
    for ours, theirs in zip(head_bwd(pitched(dy, 3), wide, norm, w), head_bwd(dy, x, norm, w), strict=True):
        assert_close(ours, theirs, 1e-6)  # another pitch may be another order within a program


def test_nan_passes_the_relu():
    x, _, w, *_ = make((1, 2, 2, 4, 2), torch.float32)
    norm = Norm(*(torch.full((4,), v, device=DEVICE) for v in (float("nan"), 1.0)), None, None)
    assert torch.isnan(head_fwd(x, norm, w)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_beyond_the_image_are_no_part_of_dw(dtype):
    """There x counts as 0, so a constant channel far from 0 gives them an activation beyond float16."""
    x = torch.full((1, 1, 5, 16), 300.0, device=DEVICE, dtype=dtype)
    mean, var = torch.full((16,), 300.0, device=DEVICE), torch.zeros(16, device=DEVICE)
    norm = Norm(mean, var, -torch.ones(16, device=DEVICE), torch.ones(16, device=DEVICE))
    w, dy = torch.ones(2, 1, 1, 16, device=DEVICE, dtype=dtype), torch.ones(1, 1, 5, 2, device=DEVICE, dtype=dtype)
    _, _, _, dw, _ = head_bwd(dy, x, norm, w)
    assert torch.equal(dw, torch.full_like(dw, 5.0))  # a is 1 at each of five pixels


def test_empty_batch():
    x, dy, w, bias, scale, shift = make((0, 4, 4, 8, 2), torch.float32)
    norm = Norm(torch.zeros(8, device=DEVICE), torch.ones(8, device=DEVICE), scale, shift)
    assert tuple(head_fwd(x, norm, w, bias).shape) == (0, 4, 4, 2)
    dx, *others = head_bwd(dy, x, norm, w)
    assert tuple(dx.shape) == (0, 4, 4, 8)
    assert not any(t.any() for t in others)


def test_same_bits_again():
    x, dy, w, _, scale, shift = make(CASES["many-programs"], torch.float32)
    norm = Norm(randn(20, seed=8), randn(20, seed=9) ** 2, scale, shift)
    first, second = (head_bwd(dy, x, norm, w) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_who_fits():
    assert head_fits(128, 32)
    assert not head_fits(129, 2)
    assert not head_fits(64, 33)


def test_refuses():
    x, dy, w, _, scale, shift = make((1, 3, 3, 8, 2), torch.float32)
    norm = Norm(randn(8), randn(8) ** 2, scale, shift)
    cases = {
        r"weight must be \(K, 1, 1, 8\), K and C at most 32 and 128, got \(2, 1, 1, 7\)": lambda: head_fwd(
            x, norm, w[..., :7].contiguous()
        ),
        "weight must be float32, got float16": lambda: head_fwd(x, norm, w.half()),
        r"bias must have shape \(2,\)": lambda: head_fwd(x, norm, w, randn(3)),
        r"the gradient must have buffer shape \(1, 3, 3, 2\)": lambda: head_bwd(randn(1, 3, 3, 4), x, norm, w),
        "the gradient must be float32": lambda: head_bwd(dy.half(), x, norm, w),
    }
    for message, call in cases.items():
        with pytest.raises(Refused, match=message):
            call()
