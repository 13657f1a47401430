"""Losses as modules. Logits are (N, C, H, W), class indices (N, H, W); one channel of focal, Dice and distance is a sigmoid."""

from typing import Any

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import only
from tritonnet.nn import functional as F
from tritonnet.nn.applied import Applied

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "DiceLoss", "DistanceLoss", "FocalLoss", "MSELoss"]


class _Loss(Applied):
    """A function of input and target, of settings, and of weights, which are buffers."""

    def __init__(self, weights: dict[str, Tensor | None], **settings: Any) -> None:
        super().__init__(**settings)
        for name, tensor in weights.items():
            self.register_buffer(name, tensor)
        self.settings += tuple(weights)

    def extra_repr(self) -> str:
        """As torch's."""
        return ""


class CrossEntropyLoss(_Loss):
    """-log softmax(input)[target], by pixel.

    Args:
        weight: one factor a class, (C,).
        ignore_index: pixels with this target count neither in the sum nor in the mean.
        reduction: "mean" (over the weights of the pixels that count), "sum" or "none".

    Raises:
        Refused: label_smoothing other than 0, or torch's removed size_average and reduce.
    """

    function = staticmethod(F.cross_entropy)

    def __init__(
        self, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
        reduction: str = "mean", label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        only("CrossEntropyLoss", size_average=(size_average, None), reduce=(reduce, None))
        only("CrossEntropyLoss", label_smoothing=(label_smoothing, 0.0))
        super().__init__({"weight": weight}, ignore_index=ignore_index, reduction=reduction)


class BCEWithLogitsLoss(_Loss):
    """-(pos_weight * y * log sigmoid(x) + (1 - y) * log(1 - sigmoid(x))) * weight, element by element.

    Args:
        weight: a factor an element, of the input's shape.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor of the positive part, one a channel.

    Raises:
        Refused: torch's removed size_average and reduce.
    """

    function = staticmethod(F.binary_cross_entropy_with_logits)

    def __init__(
        self, weight: Tensor | None = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:  # fmt: skip
        only("BCEWithLogitsLoss", size_average=(size_average, None), reduce=(reduce, None))
        super().__init__({"weight": weight, "pos_weight": pos_weight}, reduction=reduction)


class MSELoss(_Loss):
    """(input - target)^2, element by element.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        Refused: torch's removed size_average and reduce.
    """

    function = staticmethod(F.mse_loss)

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean") -> None:
        only("MSELoss", size_average=(size_average, None), reduce=(reduce, None))
        super().__init__({}, reduction=reduction)


class FocalLoss(_Loss):
    """-(1 - p)^gamma log p, p being the probability of a pixel's class; see `functional.focal_loss`.

    Args:
        gamma: how much less a pixel counts the better it is classified, 0 or more.
        alpha: weight of the classes above 0, from 0 to 1, class 0 having 1 - alpha. None: 1 for all.
        weight: one factor a class, (C,); (2,) for one channel.
        ignore_index: pixels with this target do not count.
        reduction: "mean" (over the weights of the pixels that count), "sum" or "none".
    """

    function = staticmethod(F.focal_loss)

    def __init__(
        self, gamma: float = 2.0, alpha: float | None = None, weight: Tensor | None = None, ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:  # fmt: skip
        super().__init__({"weight": weight}, gamma=gamma, alpha=alpha, ignore_index=ignore_index, reduction=reduction)


class DiceLoss(_Loss):
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

    function = staticmethod(F.dice_loss)

    def __init__(
        self, include_background: bool = True, reduction: str = "mean", smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5, batch: bool = False, weight: Tensor | None = None, ignore_index: int = -100,
    ) -> None:  # fmt: skip
        super().__init__(
            {"weight": weight}, include_background=include_background, reduction=reduction, smooth_nr=smooth_nr,
            smooth_dr=smooth_dr, batch=batch, ignore_index=ignore_index,
        )  # fmt: skip


class DistanceLoss(_Loss):
    """Focal loss of each class above 0 against the rest, mild on false alarms near it; see `functional.distance_loss`.

    Args:
        sigma: how near is near, in pixels, above 0.
        alpha: how much less a pixel counts the better it is classified, 0 or more.
        beta: how much less a near pixel counts, 0 or more.
        weight: of a pixel's terms by its own class, (C,); (2,) for one channel.
        ignore_index: pixels with this target do not count, neither for the distances.
        reduction: "mean" (over the pixels above class 0), "sum" or "none".
    """

    function = staticmethod(F.distance_loss)

    def __init__(
        self, sigma: float = 10.0, alpha: float = 2.0, beta: float = 4.0, weight: Tensor | None = None,
        ignore_index: int = -100, reduction: str = "mean",
    ) -> None:  # fmt: skip
        settings = {"sigma": sigma, "alpha": alpha, "beta": beta, "ignore_index": ignore_index}
        super().__init__({"weight": weight}, reduction=reduction, **settings)
