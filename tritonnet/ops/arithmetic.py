"""Sum, difference, product and negation, with torch's broadcasting and dtypes."""

from math import copysign, inf
from numbers import Real
from typing import Any

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.arithmetic import add_fwd, mul_fwd
from tritonnet.kernels.runtime import refuse
from tritonnet.kernels.sum import sum_to

__all__ = ["AddFunction", "MulFunction", "add", "div", "mul", "neg", "rsub", "sub"]

Buffer = torch.Tensor


class AddFunction(Function):
    """a + alpha * b; without b, a + alpha."""

    @staticmethod
    def forward(ctx: Context, a: Buffer, b: Buffer | None, *, alpha: float) -> Buffer:
        ctx.alpha = alpha
        ctx.sides = tuple(None if x is None else (tuple(x.shape), x.dtype) for x in (a, b))
        return add_fwd(a, b, alpha)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> tuple[Buffer | None, ...]:
        gradients: list[Buffer | None] = []
        for need, side, scale in zip(ctx.needs, ctx.sides, (1.0, ctx.alpha), strict=True):
            gradients.append(sum_to(dy, side[0], side[1], scale) if need else None)
        return tuple(gradients)


class MulFunction(Function):
    """scale * a * b; without b, scale * a."""

    @staticmethod
    def forward(ctx: Context, a: Buffer, b: Buffer | None, *, scale: float = 1.0) -> Buffer:
        ctx.scale = scale
        ctx.sides = tuple(None if x is None else (tuple(x.shape), x.dtype) for x in (a, b))
        ctx.save(a if ctx.needs[1] else None, b if ctx.needs[0] else None)
        return mul_fwd(a, b, scale)

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> tuple[Buffer | None, ...]:
        gradients: list[Buffer | None] = []
        for need, side, other in zip(ctx.needs, ctx.sides, reversed(ctx.saved), strict=True):
            if not need:
                gradients.append(None)
                continue
            shape, dtype = side
            # the terms of a sum stay in float32
            full = mul_fwd(dy, other, ctx.scale, dtype=dtype if shape == tuple(dy.shape) else torch.float32)
            gradients.append(sum_to(full, shape, dtype))
        return tuple(gradients)


def _number(op: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        wanted = "a number" if name == "alpha" else "a tritonnet Tensor or a number"
        refuse(op, f"{name} must be {wanted}, got {type(value)}")
    return float(value)


def add(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    """`input + alpha * other`, as `torch.add`.

    Args:
        input: any shape; float32, bfloat16 or float16.
        other: any shape that broadcasts with it, or a number.
        alpha: any number.

    Returns:
        The broadcast shape; the operands' dtype if equal, else float32.

    Raises:
        Refused: shapes that do not broadcast, an integer tensor.
    """
    if isinstance(other, Tensor):
        return AddFunction.apply(input, other, alpha=_number("add", "alpha", alpha))  # type: ignore[no-any-return]
    return AddFunction.apply(  # type: ignore[no-any-return]
        input, None, alpha=_number("add", "alpha", alpha) * _number("add", "other", other)
    )


def sub(input: Tensor, other: Tensor | float, *, alpha: float = 1) -> Tensor:
    """`input - alpha * other`, as `torch.sub`. Arguments as for `add`."""
    return add(input, other, alpha=-_number("sub", "alpha", alpha))


def mul(input: Tensor, other: Tensor | float) -> Tensor:
    """`input * other`, as `torch.mul`. Arguments as for `add`."""
    if isinstance(other, Tensor):
        return MulFunction.apply(input, other)  # type: ignore[no-any-return]
    return MulFunction.apply(input, None, scale=_number("mul", "other", other))  # type: ignore[no-any-return]


def rsub(input: Tensor, other: float) -> Tensor:
    """`other - input`, of a number."""
    return add(neg(input), other)


def div(input: Tensor, other: Any) -> Tensor:
    """`input / other`, by a number."""
    if not isinstance(other, Real):
        refuse("div", f"the divisor must be a number, got {type(other).__name__}")
    return mul(input, 1 / float(other) if other else copysign(inf, other))


def neg(input: Tensor) -> Tensor:
    """`-input`, as `torch.neg`."""
    return mul(input, -1)
