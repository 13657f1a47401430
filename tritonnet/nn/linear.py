"""The linear layer: torch's name, arguments, defaults, initial values and parameter shapes."""

from typing import Any

import torch

from tritonnet.autograd import Parameter, Tensor
from tritonnet.kernels import runtime
from tritonnet.nn import functional as F
from tritonnet.nn.layers import Weighted, count, own

__all__ = ["Linear"]


class Linear(Weighted):
    """(*, in_features) -> (*, out_features): times `weight` (out_features, in_features) transposed, plus `bias`.

    Raises:
        Refused: a number of features below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        own("Linear", device, dtype)
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        self.weight = Parameter(runtime.empty((self.out_features, self.in_features), torch.float32))
        self.register_parameter("bias", Parameter(runtime.empty((out_features,), torch.float32)) if bias else None)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Multiply `input`."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """As torch's."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
