"""Losses as modules."""

from typing import Any

from tritonnet.autograd import Tensor
from tritonnet.nn import functional as F
from tritonnet.nn.layers import only
from tritonnet.nn.module import Module

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "DiceLoss", "DistanceLoss", "FocalLoss", "MSELoss"]


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


class MSELoss(Module):
    """(input - target)^2, element by element.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        Refused: torch's removed size_average and reduce.
    """

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean") -> None:
        super().__init__()
        only("MSELoss", size_average=(size_average, None), reduce=(reduce, None))
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of two tensors of one shape."""
        return F.mse_loss(input, target, reduction=self.reduction)


class _RegionLoss(Module):
    """A loss of logits (N, C, H, W) against class indices (N, H, W) with class weights and other arguments."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None, **arguments: Any) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.arguments = arguments


class FocalLoss(_RegionLoss):
    """-(1 - p)^gamma log p, p being the probability of a pixel's class; see `functional.focal_loss`.

    Args:
        gamma: how much less a pixel counts the better it is classified, 0 or more.
        alpha: weight of the classes above 0, from 0 to 1, class 0 having 1 - alpha. None: 1 for all.
        weight: one factor a class, (C,); (2,) for one channel.
        ignore_index: pixels with this target do not count.
        reduction: "mean" (over the weights of the pixels that count), "sum" or "none".
    """

    def __init__(
        self, gamma: float = 2.0, alpha: float | None = None, weight: Tensor | None = None, ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__(weight, gamma=gamma, alpha=alpha, ignore_index=ignore_index, reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) against class indices (N, H, W); one channel is a sigmoid."""
        return F.focal_loss(input, target, self.weight, **self.arguments)


class DiceLoss(_RegionLoss):
    """1 - the overlap of probabilities and classes, by image and class; see `functional.dice_loss`.

    Names and conventions are MONAI's, but logits and class indices go in: softmax (sigmoid for one channel) and one-hot
    are part of it.

    Args:
        include_background: whether class 0 has a term.
        reduction: "mean" (over images and classes), "sum" or "none".
        smooth_nr: added above the fraction, 0 or more.
        smooth_dr: added below the fraction, 0 or more.
        batch: sum over all images, instead of over each.
        weight: one factor a class, (C,); (2,) for one channel.
        ignore_index: pixels with this target do not count.
    """

    def __init__(
        self, include_background: bool = True, reduction: str = "mean", smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5, batch: bool = False, weight: Tensor | None = None, ignore_index: int = -100,
    ) -> None:  # fmt: skip
        super().__init__(
            weight, include_background=include_background, reduction=reduction, smooth_nr=smooth_nr,
            smooth_dr=smooth_dr, batch=batch, ignore_index=ignore_index,
        )  # fmt: skip

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) against class indices (N, H, W); one channel is a sigmoid."""
        return F.dice_loss(input, target, self.weight, **self.arguments)


class DistanceLoss(_RegionLoss):
    """Focal loss of each class above 0 against the rest, mild on false alarms near it; see `functional.distance_loss`.

    Args:
        sigma: how near is near, in pixels, above 0.
        alpha: how much less a pixel counts the better it is classified, 0 or more.
        beta: how much less a near pixel counts, 0 or more.
        weight: of a pixel's terms by its own class, (C,); (2,) for one channel.
        ignore_index: pixels with this target do not count, neither for the distances.
        reduction: "mean" (over the pixels above class 0), "sum" or "none".
    """

    def __init__(
        self, sigma: float = 10.0, alpha: float = 2.0, beta: float = 4.0, weight: Tensor | None = None,
        ignore_index: int = -100, reduction: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__(weight, sigma=sigma, alpha=alpha, beta=beta, ignore_index=ignore_index, reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) against class indices (N, H, W); one channel is a sigmoid."""
        return F.distance_loss(input, target, self.weight, **self.arguments)
