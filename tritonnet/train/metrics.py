"""What a pooled confusion matrix says.

    IoU = TP / (TP + FP + FN)    Dice = 2 TP / (2 TP + FP + FN)    pixel accuracy = right / all
    precision = TP / (TP + FP)   recall = TP / (TP + FN)

One matrix is summed over the whole set before any ratio is taken. `iou` and `dice` are the foreground's for two
classes, else the mean over the classes present (in the truth or in the prediction). Dice = 2 IoU / (1 + IoU) holds for
each class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Metrics"]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


@dataclass(frozen=True)
class Metrics:
    """Scores of a set of images; ratios from 0 to 1, NaN where nothing was there to score."""

    iou: float
    dice: float
    pixel_accuracy: float
    class_iou: tuple[float, ...]
    class_dice: tuple[float, ...]
    class_precision: tuple[float, ...]
    class_recall: tuple[float, ...]
    matrix: tuple[tuple[int, ...], ...]  # matrix[truth][prediction], in pixels
    image_iou: Mapping[str, float] = field(default_factory=dict)  # by the image's name, if it was asked for
    loss: float = math.nan  # mean over images; NaN where none was computed

    @classmethod
    def from_matrix(cls, matrix: Sequence[Sequence[int]]) -> "Metrics":
        """From a square confusion matrix: row = true class, column = predicted class, ignored pixels left out."""
        rows = tuple(tuple(int(count) for count in row) for row in matrix)
        classes = range(len(rows))
        right, truth = [rows[c][c] for c in classes], [sum(row) for row in rows]
        found = [sum(row[c] for row in rows) for c in classes]
        either = [truth[c] + found[c] - right[c] for c in classes]
        iou, precision, recall = (
            tuple(_ratio(right[c], whole[c]) for c in classes) for whole in (either, found, truth)
        )
        dice = tuple(_ratio(2 * right[c], truth[c] + found[c]) for c in classes)
        counted = [1] if len(rows) == 2 else [c for c in classes if either[c]]
        mean_iou, mean_dice = (_ratio(sum(score[c] for c in counted), len(counted)) for score in (iou, dice))
        return cls(mean_iou, mean_dice, _ratio(sum(right), sum(truth)), iou, dice, precision, recall, rows)
