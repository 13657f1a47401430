"""ReLU, logistic function and hyperbolic tangent: activations whose gradient follows from their result.

    relu      y[i] = 0 if x[i] <= 0 else x[i]                             dx[i] = 0 if y[i] <= 0 else dy[i]
    sigmoid   y[i] = 1 / (1 + exp(-x[i]))                                 dx[i] = dy[i] * y[i] * (1 - y[i])
    tanh      y[i] = sign(x) * (1 - e) / (1 + e),  e = exp(-2 |x|)        dx[i] = dy[i] * (1 - y[i]**2)
                     for |x| >= 1/4; below, where 1 - e would cancel,
                     x - x**3 / 3 + 2 x**5 / 15 - 17 x**7 / 315 + 62 x**9 / 2835

NaN passes both ways, and relu's gradient at 0 is 0, as in PyTorch. sigmoid's exp overflows to infinity below x = -88,
where y is 0. The next term of tanh's series is below 1e-8 of the result. The output tells the backward all it needs, and
is what the next op saves anyway. relu is exact; deterministic. Memory-bound: forward reads x, writes y; backward reads dy
and y, writes dx. From the definitions.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels.pointwise import pointwise
from tritonnet.kernels.runtime import refuse

__all__ = ["FUNCTIONS", "activation_bwd", "activation_fwd"]


@triton.jit
def _relu(x, b, number):
    return tl.where(x <= 0, 0.0, x)


@triton.jit
def _relu_gradient(dy, y, number):
    return tl.where(y <= 0, 0.0, dy)


@triton.jit
def _sigmoid(x, b, number):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _sigmoid_gradient(dy, y, number):
    return dy * y * (1.0 - y)


@triton.jit
def _tanh(x, b, number):
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    s = x * x
    near = x + x * s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def _tanh_gradient(dy, y, number):
    return dy * (1.0 - y * y)


FUNCTIONS = {
    "relu": (_relu, _relu_gradient),
    "sigmoid": (_sigmoid, _sigmoid_gradient),
    "tanh": (_tanh, _tanh_gradient),
}


def activation_fwd(name: str, x: torch.Tensor) -> torch.Tensor:
    """The function "relu", "sigmoid" or "tanh" of `x`.

    Args:
        name: of the function.
        x: any shape, float32, bfloat16 or float16; images may have a pitch.

    Returns:
        y, contiguous, of x's shape and dtype.

    Raises:
        Refused: another dtype or device.
    """
    return pointwise(name, FUNCTIONS[name][0], x)


def activation_bwd(name: str, dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of x from that of the output `y`: same shape, y's dtype, contiguous. Both may have a pitch.

    Raises:
        Refused: different shapes, another dtype or device.
    """
    if dy.shape != y.shape:
        refuse(f"{name}_bwd", f"y must have shape {tuple(dy.shape)}, got {tuple(y.shape)}")
    return pointwise(f"{name}_bwd", FUNCTIONS[name][1], dy, y, dtype=y.dtype)
