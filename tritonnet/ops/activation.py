"""ReLU, sigmoid and tanh. Each backward reads the output alone."""

from typing import ClassVar

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.activation import activation_bwd, activation_fwd
from tritonnet.kernels.runtime import only

__all__ = ["ReLUFunction", "SigmoidFunction", "TanhFunction", "relu", "sigmoid", "tanh"]

Buffer = torch.Tensor


class _ActivationFunction(Function):
    kind: ClassVar[str]

    @classmethod
    def forward(cls, ctx: Context, x: Buffer) -> Buffer:
        y = activation_fwd(cls.kind, x)
        ctx.save(y)
        return y

    @classmethod
    def backward(cls, ctx: Context, dy: Buffer) -> Buffer:
        return activation_bwd(cls.kind, dy, *ctx.saved)


class ReLUFunction(_ActivationFunction):
    """max(x, 0), NaN passing."""

    kind = "relu"


class SigmoidFunction(_ActivationFunction):
    """1 / (1 + exp(-x))."""

    kind = "sigmoid"


class TanhFunction(_ActivationFunction):
    """Hyperbolic tangent."""

    kind = "tanh"


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """`max(input, 0)`, as `torch.nn.functional.relu`; NaN passes, the gradient at 0 is 0.

    Args:
        input: any shape; float32, bfloat16 or float16.
        inplace: must be False: values of tensors never change.

    Raises:
        Refused: inplace=True, another dtype.
    """
    only("relu", "values of tensors never change", inplace=(inplace, False))
    return ReLUFunction.apply(input)  # type: ignore[no-any-return]


def sigmoid(input: Tensor) -> Tensor:
    """`1 / (1 + exp(-input))`, as `torch.sigmoid`, for any shape; float32, bfloat16 or float16."""
    return SigmoidFunction.apply(input)  # type: ignore[no-any-return]


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent, as `torch.tanh`, for any shape; float32, bfloat16 or float16."""
    return TanhFunction.apply(input)  # type: ignore[no-any-return]
