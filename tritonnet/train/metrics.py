"""What a pooled confusion matrix says.

    IoU = TP / (TP + FP + FN)    Dice = 2 TP / (2 TP + FP + FN)    pixel accuracy = right / all

One matrix is summed over the whole set before any ratio is taken. `iou` and `dice` are the foreground's for two
classes, else the mean over the classes present (in the truth or in the prediction). Dice = 2 IoU / (1 + IoU) holds for
each class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    matrix: tuple[tuple[int, ...], ...]  # matrix[truth][prediction], in pixels
    loss: float = math.nan  # mean over images; NaN where none was computed

    @classmethod
    def from_matrix(cls, matrix: Sequence[Sequence[int]]) -> "Metrics":
        """From a square confusion matrix: row = true class, column = predicted class, ignored pixels left out."""
        rows = tuple(tuple(int(count) for count in row) for row in matrix)
        classes = range(len(rows))
        right = [rows[c][c] for c in classes]
        wrong = [sum(rows[c]) + sum(row[c] for row in rows) - 2 * rows[c][c] for c in classes]  # FN + FP
        iou = tuple(_ratio(right[c], right[c] + wrong[c]) for c in classes)
        dice = tuple(_ratio(2 * right[c], 2 * right[c] + wrong[c]) for c in classes)
        accuracy = _ratio(sum(right), sum(map(sum, rows)))
        if len(rows) == 2:
            return cls(iou[1], dice[1], accuracy, iou, dice, rows)
        present = [c for c in classes if right[c] + wrong[c]]
        mean_iou, mean_dice = (_ratio(sum(score[c] for c in present), len(present)) for score in (iou, dice))
        return cls(mean_iou, mean_dice, accuracy, iou, dice, rows)
