"""What a network's head is trained for and scored by; ignored pixels (255) count in neither.

A head of one channel is a sigmoid for two classes, trained by binary cross-entropy; any other is a softmax, trained by
cross-entropy. Both means are over the pixels that count.
"""

import torch

from tritonnet.autograd import Tensor
from tritonnet.data import IGNORE
from tritonnet.kernels import runtime
from tritonnet.kernels.confusion_matrix import confusion_matrix
from tritonnet.nn import functional as F

__all__ = ["Objective"]


class Objective:
    """Loss and confusion matrix for a head of `outputs` channels; labels are (N, H, W) uint8 class ids."""

    def __init__(self, outputs: int) -> None:
        self.sigmoid = outputs == 1
        self.classes = max(outputs, 2)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of (N, C, H, W) logits, a scalar."""
        if self.sigmoid:
            return F.binary_cross_entropy_with_logits(logits, labels, ignore_index=IGNORE)
        return F.cross_entropy(logits, labels, ignore_index=IGNORE)

    def matrix(self) -> Tensor:
        """An empty confusion matrix: int64, (classes, classes)."""
        return Tensor(runtime.zeros((self.classes, self.classes), torch.int64))

    def count(self, logits: Tensor, labels: Tensor, matrix: Tensor) -> None:
        """Add a batch's pixels to the confusion matrix on the device."""
        confusion_matrix(logits.data, labels.data, matrix.data, ignore_index=IGNORE)
