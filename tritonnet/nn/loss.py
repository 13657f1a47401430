"""Losses as modules."""

from typing import Any

from tritonnet.autograd import Tensor
from tritonnet.nn import functional as F
from tritonnet.nn.layers import only
from tritonnet.nn.module import Module

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss"]


class CrossEntropyLoss(Module):
    """-log softmax(input)[target], by pixel.

    Args:
        weight: one factor a class, (C,).
        ignore_index: pixels with this target count neither in the sum nor in the mean.
        reduction: "mean" (over the weights of the pixels that count), "sum" or "none".

    Raises:
        Refused: label_smoothing other than 0, or torch's removed size_average and reduce.
    """

    def __init__(
        self, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
        reduction: str = "mean", label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        only(
            "CrossEntropyLoss", size_average=(size_average, None), reduce=(reduce, None),
            label_smoothing=(label_smoothing, 0.0),
        )  # fmt: skip
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) against class indices (N, H, W) or probabilities (N, C, H, W)."""
        return F.cross_entropy(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class BCEWithLogitsLoss(Module):
    """-(pos_weight * y * log sigmoid(x) + (1 - y) * log(1 - sigmoid(x))) * weight, element by element.

    Args:
        weight: a factor an element, of the input's shape.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor of the positive part, one a channel.

    Raises:
        Refused: torch's removed size_average and reduce.
    """

    def __init__(
        self, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        only("BCEWithLogitsLoss", size_average=(size_average, None), reduce=(reduce, None))
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits against targets from 0 to 1 of the same shape."""
        return F.binary_cross_entropy_with_logits(
            input, target, weight=self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
