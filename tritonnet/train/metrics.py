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

import numpy as np

__all__ = ["Metrics"]


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
        counts = np.array(matrix, np.int64)
        right, truth, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        either = truth + found - right
        with np.errstate(invalid="ignore"):  # 0 / 0, where nothing was there
            ratios = right / either, 2 * right / (truth + found), right / found, right / truth
            accuracy = float(right.sum() / truth.sum())
        iou, dice, precision, recall = (tuple(ratio.tolist()) for ratio in ratios)
        counted = [1] if len(counts) == 2 else np.flatnonzero(either).tolist()
        mean_iou, mean_dice = (sum(s[c] for c in counted) / len(counted) if counted else math.nan for s in (iou, dice))
        return cls(mean_iou, mean_dice, accuracy, iou, dice, precision, recall, tuple(map(tuple, counts.tolist())))
