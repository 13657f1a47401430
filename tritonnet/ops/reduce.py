"""Sum and mean over any dimensions."""

from collections.abc import Sequence
from math import prod

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.arithmetic import expand
from tritonnet.kernels.runtime import only, refuse
from tritonnet.kernels.sum import sum_fwd
from tritonnet.ops.shape import buffer_dim, reshape

__all__ = ["SumFunction", "mean", "sum"]

Buffer = torch.Tensor


class SumFunction(Function):
    """scale * the sum over the buffer's dimensions `dims`, which stay with size 1."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, *, dims: Sequence[int], scale: float = 1.0) -> Buffer:
        ctx.shape, ctx.dtype, ctx.scale = tuple(x.shape), x.dtype, scale
        return sum_fwd(x, dims, scale)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return expand(dy, ctx.shape, ctx.dtype, ctx.scale)


def _reduce(op: str, input: Tensor, dim: int | Sequence[int] | None, keepdim: bool, mean: bool) -> Tensor:
    rank = len(input.shape)
    asked = list(dim) if isinstance(dim, Sequence) else [] if dim is None else [dim]
    asked = asked or list(range(rank))
    for d in asked:
        if not isinstance(d, int) or not -max(rank, 1) <= d < max(rank, 1):
            refuse(op, f"dim must be from {-rank} to {rank - 1}, got {d}")
    dims = {d % rank for d in asked if rank}
    if rank and len(dims) != len(asked):
        refuse(op, f"dim must name each dimension once, got {tuple(asked)}")
    terms = prod(input.shape[d] for d in dims)
    scale = 1.0 if not mean else 1 / terms if terms else float("nan")
    y: Tensor = SumFunction.apply(input, dims=[buffer_dim(d, rank) for d in dims], scale=scale)
    return y if keepdim else reshape(y, tuple(size for d, size in enumerate(input.shape) if d not in dims))


def sum(input: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: None = None) -> Tensor:
    """The sum over `dim`, as `torch.sum`; accumulated in float32 (integers: int64).

    Args:
        input: any shape and dtype but float64.
        dim: a dimension, several, or None for all; in torch's order (0..3 are N, C, H, W).
        keepdim: whether the summed dimensions stay with size 1.
        dtype: must be None.

    Raises:
        Refused: a dimension that is not there or is named twice, a dtype.
    """
    only("sum", "use .to(dtype)", dtype=(dtype, None))
    return _reduce("sum", input, dim, keepdim, mean=False)


def mean(input: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: None = None) -> Tensor:
    """The mean over `dim`, as `torch.mean`; NaN over nothing. Arguments as for `sum`, but floats only."""
    only("mean", "use .to(dtype)", dtype=(dtype, None))
    if not input.dtype.is_floating_point:
        refuse("mean", f"input must be a floating-point tensor, got {input.dtype}")
    return _reduce("mean", input, dim, keepdim, mean=True)
