"""One comparison for the tests of ops: forward and every gradient against float64, with and without a pitch."""

from collections.abc import Callable, Sequence

import helpers
import torch
from helpers import EPS, assert_close, nhwc, pitched, to64

import tritonnet as tn


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normal numbers as `helpers.randn`, of rank 0 too."""
    return helpers.randn(*shape, dtype=dtype, seed=seed) if shape else helpers.randn(1, dtype=dtype, seed=seed).view(())


def make(x: torch.Tensor, pitch: bool = False, requires_grad: bool = False) -> tn.Tensor:
    """A Tensor of a torch tensor's shape; an image lies in a wider buffer whose gap is NaN if `pitch`."""
    if x.dim() == 4 and pitch and x.shape[1]:
        return tn.Tensor(pitched(nhwc(x).contiguous()), requires_grad=requires_grad)
    return tn.from_torch(x.contiguous(), requires_grad=requires_grad)


def check_op(
    op: Callable[..., tn.Tensor],
    reference: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    *,
    rtol: float | None = None,
    pitch: bool = False,
    seed: int = 100,
) -> None:
    """Compare `op` on Tensors with `reference` on float64 torch tensors of the same values, and all their gradients.

    `rtol` is by default one rounding of the input's dtype for the forward and four for the gradients, which may start
    from a rounded output, plus 1e-6 for the arithmetic in float32.
    """
    ours = [make(x, pitch, requires_grad=True) for x in inputs]
    theirs = [to64(x).requires_grad_() for x in inputs]
    y, expected = op(*ours), reference(*theirs)
    assert y.shape == tuple(expected.shape)
    eps = EPS[y.dtype]
    assert_close(y.torch(), expected, eps + 1e-6 if rtol is None else rtol, 1e-30, "forward")
    dy = randn(*expected.shape, dtype=y.dtype, seed=seed)
    expected.backward(to64(dy))
    y.backward(make(dy, pitch))
    for number, (our, their, x) in enumerate(zip(ours, theirs, inputs, strict=True)):
        assert our.grad is not None
        assert their.grad is not None
        assert our.grad.dtype == x.dtype
        allowed = 4 * max(eps, EPS[x.dtype]) + 1e-6 if rtol is None else rtol
        assert_close(our.grad.torch(), their.grad, allowed, 1e-30, f"gradient {number}")
