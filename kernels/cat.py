"""Concatenation along one dimension, by copy or by layout.

    y[..., start_k + i, ...] = x_k[..., i, ...]      with start_k the sizes of x_0 .. x_(k-1) added up

Copying reads and writes every element once. Where the inputs already are neighbouring channel slices of one wider
image buffer (their producers wrote `out=` slices of it), y is that buffer and nothing is copied. The gradient of x_k
is the slice of dy, a view. Exact; deterministic. From the definition.
"""

from collections.abc import Sequence

import torch

from tritonnet.kernels import runtime
from tritonnet.kernels.convert import copy
from tritonnet.kernels.runtime import logical, pitch, refuse

__all__ = ["adjacent", "cat_fwd"]


def adjacent(xs: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The image buffer that the images `xs` are neighbouring channel slices of, in this order; None if they are not."""
    first = xs[0]
    if first.dim() != 4 or first.numel() == 0 or first.device.type == "meta":
        return None
    channels = 0
    for x in xs:
        here = x.storage_offset() - first.storage_offset() == channels
        alike = x.shape[:3] == first.shape[:3] and x.stride() == first.stride() and x.dtype == first.dtype
        if not (here and alike and x.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()):
            return None
        channels += x.shape[3]
    if channels > pitch(first):
        return None
    return first.as_strided((*first.shape[:3], channels), first.stride())


def cat_fwd(xs: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Concatenate buffers along the buffer's dimension `dim` (3 is an image's channels), without a copy if possible.

    Args:
        xs: one or more, of equal shape but for `dim`; images may have a pitch.
        dim: from 0 to rank - 1.

    Returns:
        A buffer of the widest dtype (float32 where floats differ).

    Raises:
        Refused: nothing to concatenate, or shapes that differ elsewhere.
    """
    first = xs[0]
    for x in xs[1:]:
        if x.dim() != first.dim() or any(x.shape[d] != first.shape[d] for d in range(first.dim()) if d != dim):
            refuse("cat", f"tensors must be of equal shape but for dim, got {logical(first)} and {logical(x)}")
    whole = adjacent(xs) if dim == 3 else None
    if whole is not None:
        return whole
    dtype = first.dtype
    for x in xs[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in xs)
    y = runtime.empty(tuple(shape), dtype)
    start = 0
    for x in xs:
        copy(x, y.narrow(dim, start, x.shape[dim]))
        start += x.shape[dim]
    return y
