"""Softmax, its logarithm, and argmax, over channels or the last dimension."""

from typing import Any

import torch

from tritonnet.autograd import Context, Function, Tensor, check_tensors
from tritonnet.kernels.argmax import argmax_fwd
from tritonnet.kernels.pointwise import FLOATS
from tritonnet.kernels.runtime import check_dtype, only, refuse
from tritonnet.kernels.softmax import softmax_bwd, softmax_fwd

__all__ = ["argmax", "log_softmax", "softmax"]


class SoftmaxFunction(Function):
    """y = softmax(x), or its logarithm."""

    @staticmethod
    def forward(ctx: Context, x: torch.Tensor, *, log: bool) -> Any:
        y = softmax_fwd(x, log=log)
        ctx.save(y)
        ctx.log = log
        return y

    @staticmethod
    def backward(ctx: Context, dy: torch.Tensor) -> Any:
        (y,) = ctx.saved
        return softmax_bwd(dy, y, log=ctx.log)


def _check_dim(op: str, input: Tensor, dim: int | None) -> None:
    check_tensors(op, input=input)
    check_dtype(op, "input", input.data, FLOATS)
    if input.ndim == 0:
        refuse(op, "input must have at least 1 dimension, got a number")
    channels = 1 if input.ndim == 4 else input.ndim - 1
    if not isinstance(dim, int) or not -input.ndim <= dim < input.ndim or dim % input.ndim != channels:
        where = "the channels of a 4-D tensor" if input.ndim == 4 else f"the last dimension of a {input.ndim}-D tensor"
        refuse(op, f"dim must be {channels}, {where}, got {dim}")


def softmax(input: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """exp(input) normalised to sum 1 along `dim`.

    Args:
        input: (N, C, H, W), or any shape whose last dimension is normalised; floating-point.
        dim: 1 for four dimensions, otherwise the last.
        dtype: must be None: the result has input's dtype.

    Returns:
        A tensor of input's shape, values 0 to 1.

    Raises:
        Refused: another dim, or a dtype.
    """
    _check_dim("softmax", input, dim)
    only("softmax", "convert with .to(dtype)", dtype=(dtype, None))
    return SoftmaxFunction.apply(input, log=False)  # type: ignore[no-any-return]


def log_softmax(input: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """log(softmax(input, dim)), accurate where the probability is small. Arguments as for `softmax`.

    Raises:
        Refused: another dim, or a dtype.
    """
    _check_dim("log_softmax", input, dim)
    only("log_softmax", "convert with .to(dtype)", dtype=(dtype, None))
    return SoftmaxFunction.apply(input, log=True)  # type: ignore[no-any-return]


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the largest value along `dim`; the first of equals, and a NaN beats any number.

    Args:
        input: (N, C, H, W), or any shape whose last dimension is searched; floating-point.
        dim: 1 for four dimensions, otherwise the last.
        keepdim: must be False.

    Returns:
        int64 indices of shape (N, H, W), or input's without its last dimension.

    Raises:
        Refused: another dim, or keepdim.
    """
    _check_dim("argmax", input, dim)
    only("argmax", keepdim=(keepdim, False))
    return Tensor(argmax_fwd(input.data))
