"""ReLU, sigmoid and tanh. Each backward reads the output alone."""

import torch

from tritonnet.autograd import Context, Function, Tensor
from tritonnet.kernels.relu import relu_bwd, relu_fwd
from tritonnet.kernels.runtime import refuse
from tritonnet.kernels.sigmoid import sigmoid_bwd, sigmoid_fwd
from tritonnet.kernels.tanh import tanh_bwd, tanh_fwd

__all__ = ["ReLUFunction", "SigmoidFunction", "TanhFunction", "relu", "sigmoid", "tanh"]

Buffer = torch.Tensor


class ReLUFunction(Function):
    """max(x, 0), NaN passing."""

    @staticmethod
    def forward(ctx: Context, x: Buffer) -> Buffer:
        y = relu_fwd(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return relu_bwd(dy, *ctx.saved)


class SigmoidFunction(Function):
    """1 / (1 + exp(-x))."""

    @staticmethod
    def forward(ctx: Context, x: Buffer) -> Buffer:
        y = sigmoid_fwd(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return sigmoid_bwd(dy, *ctx.saved)


class TanhFunction(Function):
    """Hyperbolic tangent."""

    @staticmethod
    def forward(ctx: Context, x: Buffer) -> Buffer:
        y = tanh_fwd(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Buffer:
        return tanh_bwd(dy, *ctx.saved)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """`max(input, 0)`, as `torch.nn.functional.relu`; NaN passes, the gradient at 0 is 0.

    Args:
        input: any shape; float32, bfloat16 or float16.
        inplace: must be False: values of tensors never change.

    Raises:
        Refused: inplace=True, another dtype.
    """
    if inplace:
        refuse("relu", "inplace must be False: values of tensors never change")
    return ReLUFunction.apply(input)  # type: ignore[no-any-return]


def sigmoid(input: Tensor) -> Tensor:
    """`1 / (1 + exp(-input))`, as `torch.sigmoid`, for any shape; float32, bfloat16 or float16."""
    return SigmoidFunction.apply(input)  # type: ignore[no-any-return]


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent, as `torch.tanh`, for any shape; float32, bfloat16 or float16."""
    return TanhFunction.apply(input)  # type: ignore[no-any-return]
