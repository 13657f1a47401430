"""Initialisers: fill a tensor in place and return it. Names and formulas are torch's; the numbers drawn are our own.

fan_in = size(1) * R * S and fan_out = size(0) * R * S of the shape (size(0), size(1), R, S).

Sources: He et al. 2015, equations 10 and 14 (kaiming); Glorot & Bengio 2010, equations 12 and 16 (xavier).
"""

import math

from tritonnet.autograd import Tensor
from tritonnet.kernels.fill import fill
from tritonnet.kernels.runtime import refuse
from tritonnet.ops import random

__all__ = [
    "calculate_gain", "constant_", "fan", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "uniform_",
    "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element becomes `val`."""
    fill(tensor.data, val)
    tensor.changed()
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Every element becomes 0."""
    return constant_(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Every element becomes 1."""
    return constant_(tensor, 1)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform numbers from [a, b)."""
    return random.uniform_(tensor, a, b)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal numbers with that mean and standard deviation."""
    return random.normal_(tensor, mean, std)


def fan(tensor: Tensor, mode: str) -> int:
    """`fan_in` or `fan_out` of a weight with at least 2 dimensions.

    Raises:
        Refused: fewer dimensions, or another mode.
    """
    if tensor.ndim < 2:
        refuse("init", f"tensor must have at least 2 dimensions, got {tensor.ndim}")
    if mode not in ("fan_in", "fan_out"):
        refuse("init", f"mode must be fan_in or fan_out, got {mode!r}")
    return tensor.shape[1 if mode == "fan_in" else 0] * math.prod(tensor.shape[2:])


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights before that nonlinearity are larger; `param` is leaky_relu's slope (0.01).

    Raises:
        Refused: an unknown nonlinearity.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "conv2d": 1.0, "conv_transpose2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2)}
    if nonlinearity not in gains:
        refuse("init", f"nonlinearity must be one of leaky_relu, {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """He's initialiser: uniform within gain * sqrt(3 / fan); `a` is the slope of leaky_relu."""
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """He's initialiser: normal with standard deviation gain / sqrt(fan)."""
    return normal_(tensor, 0, calculate_gain(nonlinearity, a) / math.sqrt(fan(tensor, mode)))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot's initialiser: uniform within gain * sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6 / (fan(tensor, "fan_in") + fan(tensor, "fan_out")))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Glorot's initialiser: normal with standard deviation gain * sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0, gain * math.sqrt(2 / (fan(tensor, "fan_in") + fan(tensor, "fan_out"))))
