"""A linear layer: a 1x1 convolution of images of one pixel, which are views of its rows."""

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import refuse
from tritonnet.ops.conv import computed, conv2d
from tritonnet.ops.shape import reshape

__all__ = ["linear"]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input` times `weight` transposed, plus `bias`, as `torch.nn.functional.linear`.

    Args:
        input: (*, in_features), any number of dimensions before the last.
        weight: (out_features, in_features).
        bias: (out_features,) or None.

    Returns:
        (*, out_features), in the dtype of the precision in force.

    Raises:
        Refused: shapes, dtypes or devices that do not go together.
    """
    x, w = computed("linear", input, weight)
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        wanted = "input must be (*, in_features) and weight (out_features, in_features)"
        refuse("linear", f"{wanted}, got {x.shape} and {w.shape}")
    y = conv2d(reshape(x, -1, x.shape[-1], 1, 1), reshape(w, *w.shape, 1, 1), bias)
    return reshape(y, *x.shape[:-1], w.shape[0])
