"""Pooling over windows. Formulas: `tritonnet.kernels.max_pool2d` and `avg_pool2d`."""

from typing import Any

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.avg_pool2d import avg_pool2d_bwd, avg_pool2d_fwd
from tritonnet.kernels.max_pool2d import max_pool2d_bwd, max_pool2d_fwd
from tritonnet.kernels.runtime import only, refuse

__all__ = ["avg_pool2d", "max_pool2d"]

Buffer = torch.Tensor
Size = int | tuple[int, int]


class MaxPool2dFunction(Function):
    @staticmethod
    def forward(ctx: Context, x: Buffer, **window: Any) -> Buffer:
        y, winner = max_pool2d_fwd(x, **window)
        ctx.size, ctx.window = (x.shape[1], x.shape[2]), window
        ctx.save(winner)  # one byte an output, instead of all of x
        return y

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return max_pool2d_bwd(dy, *ctx.saved, *ctx.size, **ctx.window)


class AvgPool2dFunction(Function):
    @staticmethod
    def forward(ctx: Context, x: Buffer, **window: Any) -> Buffer:
        ctx.size, ctx.window = (x.shape[1], x.shape[2]), window
        return avg_pool2d_fwd(x, **window)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return avg_pool2d_bwd(dy, *ctx.size, **ctx.window)


def _pair(op: str, name: str, value: Any) -> tuple[int, int]:
    """(vertical, horizontal) from one int or a pair."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(pair) not in (1, 2) or not all(type(v) is int for v in pair):
        refuse(op, f"{name} must be an int or a pair of ints, got {value!r}")
    return pair[0], pair[-1]


def _window(op: str, kernel_size: Size, stride: Size | None, padding: Size) -> dict[str, Any]:
    """The window as launchers take it."""
    return {
        "kernel_size": _pair(op, "kernel_size", kernel_size),
        "stride": _pair(op, "stride", kernel_size if stride is None else stride),
        "padding": _pair(op, "padding", padding),
    }


def max_pool2d(
    input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor:  # fmt: skip
    """The largest value of each window of `input`, as `torch.nn.functional.max_pool2d`.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16.
        kernel_size: of the window, pixels, at least 1; one number or (vertical, horizontal).
        stride: pixels from window to window, at least 1; kernel_size if None.
        padding: pixels on each side, never chosen, 0 to half of kernel_size.
        dilation: must be 1.
        ceil_mode: must be False.
        return_indices: must be False.

    Returns:
        (N, C, P, Q) with P = (H + 2 * padding - kernel_size) // stride + 1, Q likewise, in input's dtype.

    Raises:
        Refused: a number out of its range, no room for one window, another dtype or rank.
    """
    op = "max_pool2d"
    if dilation in ((1,), (1, 1), [1], [1, 1]):
        dilation = 1
    only(op, dilation=(dilation, 1), ceil_mode=(ceil_mode, False), return_indices=(return_indices, False))
    return MaxPool2dFunction.apply(input, **_window(op, kernel_size, stride, padding))  # type: ignore[no-any-return]


def avg_pool2d(
    input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of `input`, as `torch.nn.functional.avg_pool2d`.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16.
        kernel_size: of the window, pixels, at least 1; one number or (vertical, horizontal).
        stride: pixels from window to window, at least 1; kernel_size if None.
        padding: zeros on each side, pixels, 0 to half of kernel_size.
        ceil_mode: must be False.
        count_include_pad: whether padding counts in the number that the sum is divided by.
        divisor_override: must be None.

    Returns:
        (N, C, P, Q) with P = (H + 2 * padding - kernel_size) // stride + 1, Q likewise, in input's dtype.

    Raises:
        Refused: a number out of its range, no room for one window, another dtype or rank.
    """
    op = "avg_pool2d"
    only(op, ceil_mode=(ceil_mode, False), divisor_override=(divisor_override, None))
    window = _window(op, kernel_size, stride, padding)
    return AvgPool2dFunction.apply(input, **window, count_include_pad=bool(count_include_pad))  # type: ignore[no-any-return]
