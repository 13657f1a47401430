"""Dropout as a layer."""

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import only, refuse
from tritonnet.nn import functional as F
from tritonnet.nn.module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """In training each element becomes 0 with probability `p`, else itself / (1 - p); in evaluation nothing changes.

    Raises:
        Refused: p outside 0 to 1, or inplace.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        only("Dropout", inplace=(inplace, False))
        if not 0.0 <= p <= 1.0:
            refuse("Dropout", f"p must be from 0 to 1, got {p}")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of `input`."""
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        """As torch's."""
        return f"p={self.p}, inplace=False"
