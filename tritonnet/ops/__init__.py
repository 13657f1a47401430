"""One Function and one function per op: Tensors in, Tensors out. Names, arguments and results are torch's."""

from tritonnet.autograd.tensor import register
from tritonnet.ops.activation import relu, sigmoid, tanh
from tritonnet.ops.arithmetic import add, div, mul, neg, rsub, sub
from tritonnet.ops.cat import cat, wide
from tritonnet.ops.conv import batch_norm_relu_conv2d, conv2d, conv2d_batch_norm_relu, conv2d_moments, conv_transpose2d
from tritonnet.ops.dropout import dropout
from tritonnet.ops.linear import linear
from tritonnet.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dice_loss,
    distance_loss,
    distance_transform,
    focal_loss,
    mse_loss,
)
from tritonnet.ops.norm import batch_norm, batch_norm_relu, batch_norm_relu_max_pool2d
from tritonnet.ops.pool import avg_pool2d, max_pool2d
from tritonnet.ops.random import manual_seed, rand, randn
from tritonnet.ops.reduce import mean, sum
from tritonnet.ops.shape import flatten, pad, permute, reshape, to
from tritonnet.ops.softmax import argmax, log_softmax, softmax
from tritonnet.ops.upsample import interpolate

__all__ = [
    "add", "argmax", "avg_pool2d", "batch_norm", "batch_norm_relu", "batch_norm_relu_conv2d",
    "batch_norm_relu_max_pool2d", "binary_cross_entropy_with_logits", "cat", "conv2d", "conv2d_batch_norm_relu",
    "conv2d_moments", "conv_transpose2d", "cross_entropy", "dice_loss", "distance_loss", "distance_transform", "dropout",
    "flatten", "focal_loss", "interpolate", "linear", "log_softmax", "manual_seed", "max_pool2d", "mean", "mse_loss", "mul",
    "neg", "pad", "permute", "rand", "randn", "relu", "reshape", "sigmoid", "softmax", "sub", "sum", "tanh", "to", "wide",
]  # fmt: skip

for _op in (argmax, flatten, log_softmax, mean, permute, relu, reshape, sigmoid, softmax, sum, tanh, to):
    register(_op)
register(add, "add", "__add__", "__radd__")
register(sub, "sub", "__sub__")
register(rsub, "__rsub__")
register(mul, "mul", "__mul__", "__rmul__")
register(div, "__truediv__")
register(neg, "neg", "__neg__")
