"""Bilinear and nearest resampling of images."""

from collections.abc import Sequence
from typing import Any

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.runtime import only, refuse
from tritonnet.kernels.upsample import Axis, axis, upsample_bwd, upsample_fwd

__all__ = ["UpsampleFunction", "interpolate"]

Buffer = torch.Tensor


class UpsampleFunction(Function):
    """Images sampled along two axes."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, *, rows: Axis, columns: Axis, out: Buffer | None) -> Buffer:
        ctx.axes = rows, columns
        return upsample_fwd(x, rows, columns, out)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return upsample_bwd(dy, *ctx.axes)


def _pair(name: str, value: Any) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value, value]
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) or v <= 0 for v in values):
        refuse("interpolate", f"{name} must be one or two positive numbers, got {value!r}")
    return values


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    out: Buffer | None = None,
) -> Tensor:
    """Resample images to another size, as `torch.nn.functional.interpolate`.

    Args:
        input: (N, C, H, W); float32, bfloat16 or float16.
        size: of the result, one number or (H, W); or
        scale_factor: of the result to the input, one number or one for (H, W); sizes are rounded down.
        mode: "nearest" or "bilinear".
        align_corners: for "bilinear": whether the corner pixels' centres keep their place (None is False).
        recompute_scale_factor: whether pixels are placed by the ratio of the sizes instead of by scale_factor.
        antialias: must be False.
        out: an (N, H, W, C) buffer of the result's size to write into, maybe a channel slice of a wider one.

    Raises:
        Refused: another mode or rank, both or neither of size and scale_factor, a size below 1.
    """
    if input.ndim != 4:
        refuse("interpolate", f"input must have 4 dimensions (N, C, H, W), got {input.ndim}")
    if mode not in ("nearest", "bilinear"):
        refuse("interpolate", f"mode must be 'nearest' or 'bilinear', got {mode!r}")
    if mode == "nearest" and align_corners is not None:
        refuse("interpolate", f"align_corners must be None for mode 'nearest', got {align_corners}")
    only("interpolate", antialias=(antialias, False))
    if (size is None) == (scale_factor is None):
        refuse("interpolate", f"one of size and scale_factor must be given, got {size!r} and {scale_factor!r}")
    sides = input.shape[2:]
    factors: list[float | None] = [None, None]
    if size is not None:
        sizes = _pair("size", size)
    else:
        given = _pair("scale_factor", scale_factor)
        sizes = [side * factor for side, factor in zip(sides, given, strict=True)]
        factors = [None, None] if recompute_scale_factor else list(given)
    rows, columns = (
        axis(side, int(length), bool(align_corners), factor, mode == "nearest")
        for side, length, factor in zip(sides, sizes, factors, strict=True)
    )
    return UpsampleFunction.apply(input, rows=rows, columns=columns, out=out)  # type: ignore[no-any-return]
