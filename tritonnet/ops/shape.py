"""reshape, flatten, permute, to, pad: other arrangements of the same values, in torch's order of elements."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from tritonnet.autograd import Context, Function, Tensor, check_device
from tritonnet.kernels import runtime
from tritonnet.kernels.convert import cast, copy, nchw_to_nhwc, nhwc_to_nchw
from tritonnet.kernels.pad import pad_fwd
from tritonnet.kernels.runtime import logical, only, refuse

__all__ = [
    "PadFunction", "PermuteFunction", "ReshapeFunction", "ToFunction", "buffer_dim", "flatten", "pad", "permute",
    "reshape", "to",
]  # fmt: skip

Buffer = torch.Tensor


def buffer_dim(dim: int, rank: int) -> int:
    """Where dimension `dim` (from 0) of a tensor of that rank lies in its buffer."""
    return (0, 3, 1, 2)[dim] if rank == 4 else dim


def _reshaped(x: Buffer, shape: tuple[int, ...]) -> Buffer:
    if x.dim() == 4:
        x = nhwc_to_nchw(x)
    x = x.view(shape)
    return nchw_to_nhwc(x) if x.dim() == 4 else x


class ReshapeFunction(Function):
    """The same elements in torch's order under another shape (as torch gives it)."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, *, shape: tuple[int, ...]) -> Buffer:
        ctx.shape = logical(x)
        return _reshaped(x, shape)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return _reshaped(dy, ctx.shape)


def _permuted(x: Buffer, dims: tuple[int, ...]) -> Buffer:
    view = (x.permute(0, 3, 1, 2) if x.dim() == 4 else x).permute(dims)
    view = view.permute(0, 2, 3, 1) if view.dim() == 4 else view
    return copy(view, runtime.empty(tuple(view.shape), x.dtype))


class PermuteFunction(Function):
    """Dimension d of the result is dimension dims[d] of the input."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, *, dims: tuple[int, ...]) -> Buffer:
        ctx.dims = dims
        return _permuted(x, dims)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return _permuted(dy, tuple(ctx.dims.index(d) for d in range(len(ctx.dims))))


class ToFunction(Function):
    """Another dtype."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, *, dtype: torch.dtype) -> Buffer:
        ctx.dtype = x.dtype
        return cast(x, dtype)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return cast(dy, ctx.dtype)


class PadFunction(Function):
    """Constant edges; negative amounts crop."""

    @staticmethod
    def forward(
        ctx: Context, x: Buffer, *, pads: tuple[int, int, int, int], value: float, out: Buffer | None
    ) -> Buffer:
        ctx.pads = pads
        return pad_fwd(x, pads, value, out)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        left, right, top, bottom = ctx.pads
        return pad_fwd(dy, (-left, -right, -top, -bottom), 0.0)


def _integers(op: str, name: str, values: tuple[Any, ...]) -> list[int]:
    given = list(values[0]) if len(values) == 1 and isinstance(values[0], Sequence) else list(values)
    if any(isinstance(v, bool) or not isinstance(v, int) for v in given):
        refuse(op, f"{name} must be integers, got {given}")
    return given


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in the same order under another shape, as `torch.reshape`; images keep (N, C, H, W) order.

    Args:
        input: any shape and dtype.
        shape: sizes, as a tuple or one by one; one may be -1.

    Raises:
        Refused: a shape of another number of elements.
    """
    sizes = _integers("reshape", "shape", shape)
    known = prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known:
        sizes[sizes.index(-1)] = input.numel() // known
        known *= input.numel() // known
    if any(size < 0 for size in sizes) or known != input.numel():
        refuse("reshape", f"shape must hold {input.numel()} elements, got {tuple(sizes)} for {input.shape}")
    if tuple(sizes) == input.shape:
        return input
    return ReshapeFunction.apply(input, shape=tuple(sizes))  # type: ignore[no-any-return]


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim as one, as `torch.flatten`.

    Raises:
        Refused: dimensions that are not there, or in the wrong order.
    """
    rank = max(input.ndim, 1)
    if not (-rank <= start_dim < rank and -rank <= end_dim < rank) or start_dim % rank > end_dim % rank:
        refuse(
            "flatten", f"start_dim and end_dim must be in order within {rank} dimensions, got {start_dim}, {end_dim}"
        )
    first, last = start_dim % rank, end_dim % rank
    return reshape(input, (*input.shape[:first], prod(input.shape[first : last + 1]), *input.shape[last + 1 :]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """A copy with its dimensions in another order, as `torch.permute`.

    Args:
        input: any shape and dtype.
        dims: each dimension once, as a tuple or one by one.

    Raises:
        Refused: not a permutation.
    """
    given = _integers("permute", "dims", dims)
    order = tuple(d + input.ndim if d < 0 else d for d in given)
    if sorted(order) != list(range(input.ndim)):
        refuse("permute", f"dims must name each of {input.ndim} dimensions once, got {tuple(given)}")
    return PermuteFunction.apply(input, dims=order)  # type: ignore[no-any-return]


def to(input: Tensor, target: Any = None, dtype: torch.dtype | None = None, *, device: Any = None) -> Tensor:
    """This tensor as a dtype (itself if it is), as `torch.Tensor.to`; the gradient comes back in the input's dtype.

    Args:
        input: any shape and dtype.
        target: a dtype, or the process's own device.
        dtype: the dtype, beside a device.
        device: the process's own.

    Raises:
        Refused: another device, float64.
    """
    for place in (target, device):
        if place is not None and not isinstance(place, torch.dtype):
            check_device(place)
    dtype = target if isinstance(target, torch.dtype) else dtype
    if dtype in (None, input.dtype):
        return input
    if not isinstance(dtype, torch.dtype) or dtype == torch.float64:
        refuse("to", f"dtype must be a torch.dtype other than float64, got {dtype!r}")
    return ToFunction.apply(input, dtype=dtype)  # type: ignore[no-any-return]


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None, *, out: Buffer | None = None
) -> Tensor:
    """Add a constant border to images, as `torch.nn.functional.pad`; negative amounts crop.

    Args:
        input: (N, C, H, W); float32, bfloat16 or float16.
        pad: pixels to add as (left, right) or (left, right, top, bottom).
        mode: must be "constant".
        value: of the border; None is 0.
        out: an (N, H, W, C) buffer of the result's size to write into, maybe a channel slice of a wider one.

    Raises:
        Refused: another rank, mode or number of amounts, or less than nothing left.
    """
    only("pad", mode=(mode, "constant"))
    amounts = _integers("pad", "pad", (tuple(pad),))
    if len(amounts) not in (2, 4):
        refuse("pad", f"pad must hold 2 or 4 numbers (left, right, top, bottom), got {len(amounts)}")
    if not any(amounts) and out is None:
        return input
    left, right, top, bottom = (*amounts, 0, 0)[:4]
    return PadFunction.apply(  # type: ignore[no-any-return]
        input, pads=(left, right, top, bottom), value=float(value or 0), out=out
    )
