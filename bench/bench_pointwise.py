"""Activations and arithmetic, element by element. Bytes: operands read once, the result written once."""

import torch

from bench.cases import DEVICE, IMAGES, LOW, Case, active, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.activation import activation_bwd, activation_fwd
from tritonnet.kernels.arithmetic import add_fwd, mul_fwd
from tritonnet.kernels.dropout import dropout as drop


def relu(n: int, side: int, c: int) -> Case:
    x = randn(n, side, side, c)
    return Case(lambda: activation_fwd("relu", x), lambda: torch.relu(x), 2 * nbytes(x), rtol=0.0)


def relu_backward(n: int, side: int, c: int) -> Case:
    y, dy = active(n, side, side, c), randn(n, side, side, c)
    theirs = torch.ops.aten.threshold_backward
    return Case(lambda: activation_bwd("relu", dy, y), lambda: theirs(dy, y, 0), 3 * nbytes(y), rtol=0.0)


def sigmoid(n: int, side: int, c: int) -> Case:
    x = randn(n, side, side, c)
    return Case(lambda: activation_fwd("sigmoid", x), lambda: torch.sigmoid(x), 2 * nbytes(x))


def add(n: int, side: int, c: int) -> Case:
    a, b = active(n, side, side, c), active(n, side, side, c)
    return Case(lambda: add_fwd(a, b), lambda: a + b, 3 * nbytes(a))


def mul_by_channel(n: int, side: int, c: int) -> Case:
    a, b = active(n, side, side, c), randn(1, 1, 1, c)
    return Case(lambda: mul_fwd(a, b), lambda: nhwc(nchw(a) * nchw(b)), 2 * nbytes(a))


def dropout(n: int, side: int, c: int) -> Case:
    x, state = torch.ones((n, side, side, c), device=DEVICE, dtype=LOW), torch.tensor([1, 0], device=DEVICE)
    # elements are 0 or 2: their mean lies within 5 standard deviations of 1
    assert abs(float(drop(x, state, 0.5).double().mean()) - 1) < 5 / x.numel() ** 0.5
    # two masks that know nothing of each other differ by as much as one of them is long
    return Case(lambda: drop(x, state, 0.5), lambda: torch.dropout(x, 0.5, True), 2 * nbytes(x), rtol=1.1)


test_pointwise = over([relu, relu_backward, sigmoid, add, mul_by_channel, dropout], IMAGES)
