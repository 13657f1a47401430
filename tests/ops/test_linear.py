"""linear beside torch's in float64: any leading dimensions, with and without bias, every gradient."""

import pytest
import torch
from helpers import check_gradients
from opcheck import check_op, randn

import tritonnet as tn
from tritonnet.kernels.runtime import Refused
from tritonnet.nn import functional as F

TORCH = torch.nn.functional.linear

# name: (input shape, out_features); sums of at most 33 terms in float32: 33 * 2^-24 is 2e-6 at worst
CASES = {
    "rows": ((7, 33), 5),
    "one-row": ((1, 16), 17),
    "vector": ((6,), 4),
    "one-of-each": ((1, 1), 1),
    "rank-3": ((2, 3, 5), 4),
    "rank-4": ((2, 3, 4, 5), 6),
    "rank-5": ((2, 1, 3, 2, 4), 3),
}


@pytest.mark.parametrize("pitch", [False, True], ids=["", "pitch"])
@pytest.mark.parametrize("name", CASES)
def test_like_torch(name: str, pitch: bool) -> None:
    shape, out = CASES[name]
    inputs = [randn(*shape), randn(out, shape[-1], seed=1), randn(out, seed=2)]
    check_op(F.linear, TORCH, inputs, rtol=1e-5, pitch=pitch)
    check_op(F.linear, TORCH, inputs[:2], rtol=1e-5, pitch=pitch)


def test_no_row() -> None:
    x, w = tn.from_torch(randn(0, 3), requires_grad=True), tn.from_torch(randn(2, 3), requires_grad=True)
    y = F.linear(x, w)
    assert y.shape == (0, 2)
    y.sum().backward()
    assert x.grad.shape == (0, 3)
    assert not w.grad.numpy().any()


def test_directional_derivative() -> None:
    check_gradients(F.linear, [randn(3, 4, 5), randn(6, 5, seed=5), randn(6, seed=6)])


def test_only_wanted_gradients_are_computed() -> None:
    x, w = tn.from_torch(randn(3, 4)), tn.from_torch(randn(2, 4), requires_grad=True)
    F.linear(x, w).sum().backward()
    assert x.grad is None
    assert w.grad is not None


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_16_bit_precisions_store_16_bit_activations_and_float32_gradients(name: str) -> None:
    tn.set_precision(name)
    x, w = tn.from_torch(randn(32, 64), requires_grad=True), tn.Parameter(tn.from_torch(randn(48, 64, seed=1)))
    y = F.linear(x, w)
    y.sum().backward()
    assert y.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    assert w.grad.dtype == x.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        ((2, 3), (4, 5), r"input must be \(\*, in_features\) and weight .*, got \(2, 3\) and \(4, 5\)"),
        ((2, 3), (3,), r"got \(2, 3\) and \(3,\)"),
        ((2, 3), (4, 3, 1, 1), r"got \(2, 3\) and \(4, 3, 1, 1\)"),
        ((), (1, 1), r"got \(\) and"),
    ],
)
def test_refuses(x: tuple[int, ...], w: tuple[int, ...], message: str) -> None:
    with pytest.raises(Refused, match=message):
        F.linear(tn.from_torch(randn(*x)), tn.from_torch(randn(*w)))


def test_refuses_what_is_no_float_tensor() -> None:
    with pytest.raises(Refused, match=r"input must be a tritonnet Tensor, got torch\.Tensor"):
        F.linear(randn(2, 3), tn.from_torch(randn(4, 3)))
    with pytest.raises(Refused, match="input must be floating point"):
        F.linear(tn.tensor([[1, 2]]), tn.from_torch(randn(4, 2)))
    with pytest.raises(Refused, match="bias must be float32 of shape"):
        F.linear(tn.from_torch(randn(2, 3)), tn.from_torch(randn(4, 3)), tn.from_torch(randn(3)))
