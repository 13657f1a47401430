"""What a network's head is trained for and scored by; ignored pixels (255) count in neither.

The loss is a sum of terms, written as `ce + dice` or `0.5*ce + distance(sigma=10)`. A head of one channel is a sigmoid
for two classes, any other a softmax. Class weights go to every term but Dice, in which classes weigh the same however
many pixels they have.
"""

import math
import re
from collections.abc import Callable

import torch

from tritonnet.autograd import Tensor, tensor
from tritonnet.data import IGNORE
from tritonnet.kernels import runtime
from tritonnet.kernels.confusion_matrix import confusion_matrix
from tritonnet.kernels.runtime import refuse
from tritonnet.nn import CrossEntropyLoss, DiceLoss, DistanceLoss, FocalLoss, Module

__all__ = ["Objective", "parse_loss", "parse_weights"]

LOSSES: dict[str, tuple[Callable[..., Module], tuple[str, ...]]] = {  # with the arguments that may be given
    "ce": (CrossEntropyLoss, ()),
    "focal": (FocalLoss, ("gamma", "alpha")),
    "dice": (DiceLoss, ("include_background", "smooth_nr", "smooth_dr", "batch")),
    "distance": (DistanceLoss, ("sigma", "alpha", "beta")),
}
TERM = re.compile(r"\s*(?:([\d.]+(?:e-?\d+)?)\s*\*)?\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*")


class Objective:
    """Loss and confusion matrix for a head of `outputs` channels; labels are (N, H, W) uint8 class ids.

    Args:
        outputs: channels of the head.
        loss: as `parse_loss` reads it.
        class_weights: as `parse_weights` reads it, one a class.

    Raises:
        Refused: a loss that does not read so, an argument outside its range, or weights for another number of classes.
    """

    def __init__(self, outputs: int, loss: str = "ce", class_weights: str = "") -> None:
        self.classes = max(outputs, 2)
        weights = parse_weights(class_weights)
        if weights and len(weights) != self.classes:
            refuse("class_weights", f"must be {self.classes} numbers, one a class, got {len(weights)}")
        self.terms: list[tuple[float, Module]] = []
        for factor, name, arguments in parse_loss(loss):
            kind = LOSSES[name][0]
            if name == "ce" and outputs == 1:
                kind, arguments = FocalLoss, {"gamma": 0.0}  # which is the cross-entropy, of a sigmoid too
            weight = tensor([*weights]) if weights and name != "dice" else None
            self.terms.append((factor, kind(**arguments, weight=weight, ignore_index=IGNORE)))
        # of no image, so that an argument outside its range is refused now
        self.loss(
            Tensor(runtime.empty((0, 1, 1, outputs), torch.float32)), Tensor(runtime.empty((0, 1, 1), torch.uint8))
        )

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of (N, C, H, W) logits, a scalar."""
        values = ((factor, term(logits, labels)) for factor, term in self.terms)
        first, *rest = (value if factor == 1 else value * factor for factor, value in values)
        total: Tensor = sum(rest, first)
        return total

    def matrix(self) -> Tensor:
        """An empty confusion matrix: int64, (classes, classes)."""
        return Tensor(runtime.zeros((self.classes, self.classes), torch.int64))

    def count(self, logits: Tensor, labels: Tensor, matrix: Tensor) -> None:
        """Add a batch's pixels to the confusion matrix on the device."""
        confusion_matrix(logits.data, labels.data, matrix.data, ignore_index=IGNORE)


def parse_loss(text: str) -> list[tuple[float, str, dict[str, float]]]:
    """The terms of a loss such as `0.5*ce + distance(sigma=10)`: factor, name and arguments of each.

    Raises:
        Refused: it does not read so, or names a loss or an argument that is not in `LOSSES`.
    """
    terms = []
    for part in re.split(r"\+(?![^(]*\))", text):
        found = TERM.fullmatch(part)
        if found is None:
            refuse("loss", f'must be a sum such as "ce + dice" or "0.5*ce + distance(sigma=10)", got {text!r}')
        factor, name, given = found.groups()
        if name not in LOSSES:
            refuse("loss", f"each term must be one of {', '.join(LOSSES)}, got {name!r}")
        arguments = {}
        for argument in given.split(",") if given else ():
            key, _, value = (piece.strip() for piece in argument.partition("="))
            if key not in LOSSES[name][1]:
                refuse("loss", f"arguments of {name} must be among ({', '.join(LOSSES[name][1])}), got {key!r}")
            arguments[key] = _number(value)
        terms.append((_number(factor or "1"), name, arguments))
        if not all(math.isfinite(number) for number in (terms[-1][0], *arguments.values())):
            refuse("loss", f"factor and arguments must be numbers, got {part.strip()!r}")
    return terms


def parse_weights(text: str) -> tuple[float, ...]:
    """The numbers of `1,5.5`, one a class; none for "" and for "auto", which stands for `data.class_weights`.

    Raises:
        Refused: anything else.
    """
    if text in ("", "auto"):
        return ()
    numbers = tuple(_number(part) for part in text.split(","))
    if not all(0 < number < math.inf for number in numbers):
        refuse("class_weights", f"must be auto, or numbers above 0 such as 1,5, one a class, got {text!r}")
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
