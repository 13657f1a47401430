"""Sum and product of two buffers, or of a buffer and a number, with broadcasting; and one buffer spread over a larger shape.

    add      y[i] = a[i] + alpha * b[i]        (b left out: a[i] + alpha)
    mul      y[i] = scale * a[i] * b[i]        (b left out: scale * a[i])
    expand   y[i] = scale * a[i]

Shapes broadcast as torch's, in torch's order of dimensions (see `pointwise.broadcast`). Computed in float32, rounded
once. A product's gradient is the same product with dy, summed to the operand's shape (`sum.sum_to`), so nothing but the
operands is saved. Deterministic. Memory-bound: reads a and b once, writes y once. From the definition.
"""

import torch
import triton
import triton.language as tl  # noqa: F401  the interpreter wants it beside a function

from tritonnet.kernels.pointwise import pointwise

__all__ = ["add_fwd", "expand", "mul_fwd"]


@triton.jit
def _add(a, b, alpha):
    return a + alpha * b


@triton.jit
def _add_number(a, b, alpha):
    return a + alpha


@triton.jit
def _mul(a, b, scale):
    return scale * a * b


@triton.jit
def _mul_number(a, b, scale):
    return scale * a


def add_fwd(a: torch.Tensor, b: torch.Tensor | None, alpha: float = 1.0) -> torch.Tensor:
    """`a + alpha * b`, or `a + alpha` without `b`.

    Args:
        a: any shape; images may have a pitch.
        b: any shape that broadcasts with a's; rank 4 counts as (N, C, H, W).
        alpha: any number.

    Returns:
        The broadcast shape, contiguous; a's dtype if b's is the same, else float32.

    Raises:
        Refused: shapes that do not broadcast, a dtype that is not float32, bfloat16 or float16.
    """
    return pointwise("add", _add_number if b is None else _add, a, b, alpha)


def mul_fwd(
    a: torch.Tensor, b: torch.Tensor | None, scale: float = 1.0, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """`scale * a * b`, or `scale * a` without `b`; arguments as for `add_fwd`, and the result's dtype may be named."""
    return pointwise("mul", _mul_number if b is None else _mul, a, b, scale, dtype=dtype)


def expand(a: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """`scale * a` repeated over a buffer of `shape`, contiguous, as `dtype`.

    Raises:
        Refused: a's shape does not broadcast to that shape.
    """
    return pointwise("expand", _mul_number, a, None, scale, dtype=dtype, shape=shape)
