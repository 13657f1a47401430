"""Concatenation, free where the inputs already lie side by side.

Fused by layout: `wide` makes the buffer of a whole concatenation, its producers write their channel slices of it
(`out=`), and `cat` of the results is that buffer. The gradients are slices of the output's: images with a pitch, no
copy.
"""

from collections.abc import Sequence

import torch

from tritonnet.autograd import Context, Function, Node, Tensor, remade, remakes
from tritonnet.kernels import runtime
from tritonnet.kernels.cat import cat_fwd
from tritonnet.kernels.convert import cast
from tritonnet.kernels.runtime import refuse
from tritonnet.ops.shape import buffer_dim

__all__ = ["CatFunction", "cat", "wide"]

Buffer = torch.Tensor


class CatFunction(Function):
    """Buffers one after the other along the buffer's dimension `dim`."""

    @staticmethod
    def forward(ctx: Context, *xs: Buffer, dim: int) -> Buffer:
        ctx.dim = dim
        ctx.parts = [(x.shape[dim], x.dtype) for x in xs]
        y = cat_fwd(xs, dim)
        ctx.made = tuple(y.shape), y.dtype
        return y

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> tuple[Buffer | None, ...]:
        gradients: list[Buffer | None] = []
        start = 0
        for need, (size, dtype) in zip(ctx.needs, ctx.parts, strict=True):
            part = dy.narrow(ctx.dim, start, size)
            # along an image's channels a slice is an image with a pitch, along the first dimension it is contiguous
            whole = part.is_contiguous() or (dy.dim() == 4 and ctx.dim in (0, 3))
            gradients.append(None if not need else part if whole and dtype == dy.dtype else cast(part, dtype))
            start += size
        return tuple(gradients)

    @staticmethod
    def again(node: Node, out: Buffer | None = None) -> Buffer:
        """Each part made again in its place."""
        y, start = runtime.empty(*node.context.made) if out is None else out, 0
        for edge, (size, _) in zip(node.edges, node.context.parts, strict=True):
            remade(edge, y[..., start : start + size])
            start += size
        return y

    @classmethod
    def has_again(cls, node: Node) -> bool:
        """Whether all images that stand side by side have."""
        shape, dtype = node.context.made
        return node.context.dim == len(shape) - 1 == 3 and all(map(remakes, node.edges)) and all(
            kind == dtype for _, kind in node.context.parts
        )  # fmt: skip


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate along `dim`, as `torch.cat`; neighbouring channel slices of one buffer (`wide`) without a copy.

    Args:
        tensors: one or more of equal shape but for `dim`.
        dim: in torch's order (1 is an image's channels).

    Raises:
        Refused: no tensor, a dimension that is not there, shapes that differ elsewhere.
    """
    tensors = tuple(tensors)
    if not tensors:
        refuse("cat", "tensors must hold at least one tensor, got none")
    rank = len(tensors[0].shape)
    if not isinstance(dim, int) or not -rank <= dim < rank:
        refuse("cat", f"dim must be from {-rank} to {rank - 1}, got {dim}")
    return CatFunction.apply(*tensors, dim=buffer_dim(dim % rank, rank))  # type: ignore[no-any-return]


def wide(N: int, H: int, W: int, C: int, dtype: torch.dtype) -> Buffer:
    """An unwritten (N, H, W, C) buffer for all channels of a concatenation; its slices are the producers' `out=`."""
    return runtime.empty((N, H, W, C), dtype)
