"""The ops under torch's names: `import tritonnet.nn.functional as F`."""

from tritonnet.ops.activation import relu, sigmoid, tanh
from tritonnet.ops.cat import cat
from tritonnet.ops.conv import conv2d, conv_transpose2d
from tritonnet.ops.dropout import dropout
from tritonnet.ops.linear import linear
from tritonnet.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dice_loss,
    distance_loss,
    focal_loss,
    mse_loss,
)
from tritonnet.ops.norm import batch_norm, batch_norm_relu
from tritonnet.ops.pool import avg_pool2d, max_pool2d
from tritonnet.ops.shape import flatten, pad
from tritonnet.ops.softmax import log_softmax, softmax
from tritonnet.ops.upsample import interpolate

__all__ = [
    "avg_pool2d", "batch_norm", "batch_norm_relu", "binary_cross_entropy_with_logits", "cat", "conv2d",
    "conv_transpose2d", "cross_entropy", "dice_loss", "distance_loss", "dropout", "flatten", "focal_loss", "interpolate",
    "linear", "log_softmax", "max_pool2d", "mse_loss", "pad", "relu", "sigmoid", "softmax", "tanh",
]  # fmt: skip
