"""Activations and arithmetic, element by element. Bytes: operands read once, the result written once."""

import torch

from bench.cases import IMAGES, Case, active, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.add import add_fwd
from tritonnet.kernels.mul import mul_fwd
from tritonnet.kernels.relu import relu_bwd, relu_fwd
from tritonnet.kernels.sigmoid import sigmoid_fwd


def relu(n: int, side: int, c: int) -> Case:
    x = randn(n, side, side, c)
    return Case(lambda: relu_fwd(x), lambda: torch.relu(x), 2 * nbytes(x), rtol=0.0)


def relu_backward(n: int, side: int, c: int) -> Case:
    y, dy = active(n, side, side, c), randn(n, side, side, c)
    theirs = torch.ops.aten.threshold_backward
    return Case(lambda: relu_bwd(dy, y), lambda: theirs(dy, y, 0), 3 * nbytes(y), rtol=0.0)


def sigmoid(n: int, side: int, c: int) -> Case:
    x = randn(n, side, side, c)
    return Case(lambda: sigmoid_fwd(x), lambda: torch.sigmoid(x), 2 * nbytes(x))


def add(n: int, side: int, c: int) -> Case:
    a, b = active(n, side, side, c), active(n, side, side, c)
    return Case(lambda: add_fwd(a, b), lambda: a + b, 3 * nbytes(a))


def mul_by_channel(n: int, side: int, c: int) -> Case:
    a, b = active(n, side, side, c), randn(1, 1, 1, c)
    return Case(lambda: mul_fwd(a, b), lambda: nhwc(nchw(a) * nchw(b)), 2 * nbytes(a))


test_pointwise = over([relu, relu_backward, sigmoid, add, mul_by_channel], IMAGES)
