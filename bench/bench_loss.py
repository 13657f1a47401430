"""Softmax, the losses with their gradients from one pass, and the confusion matrix.

Bytes: logits and targets read once (targets twice where a mean counts them first), the gradient or result written once.
"""

import torch
from torch.nn import functional as F

from bench.cases import DEVICE, LOW, Case, labels, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.binary_cross_entropy import binary_cross_entropy_fwd
from tritonnet.kernels.confusion_matrix import confusion_matrix as confusion_matrix_fwd
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.softmax import softmax_bwd, softmax_fwd

# batch, side, classes
LOGITS = {"2@256 batch16": (16, 256, 2), "21@256 batch16": (16, 256, 21), "2@256 batch1": (1, 256, 2)}


def _both(loss: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's loss and its gradient in the logits' layout."""
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def cross_entropy(n: int, side: int, classes: int) -> Case:
    x, target = randn(n, side, side, classes), labels(classes, n, side, side)
    logits = nchw(x).detach().requires_grad_()

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        loss, gradient = _both(F.cross_entropy(logits.float(), target), logits)
        return loss, nhwc(gradient)

    return Case(lambda: cross_entropy_fwd(x, target), theirs, 2 * nbytes(x) + 2 * nbytes(target))


def binary_cross_entropy(n: int, side: int) -> Case:
    x, target = randn(n, side, side, 1), labels(2, n, side, side, 1, dtype=LOW)
    logits = x.detach().requires_grad_()

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        return _both(F.binary_cross_entropy_with_logits(logits.float(), target.float()), logits)

    return Case(lambda: binary_cross_entropy_fwd(x, target), theirs, 3 * nbytes(x))


def softmax(n: int, side: int, classes: int) -> Case:
    x = randn(n, side, side, classes)
    return Case(lambda: softmax_fwd(x), lambda: torch.softmax(x, -1), 2 * nbytes(x))


def softmax_backward(n: int, side: int, classes: int) -> Case:
    dy, y = randn(n, side, side, classes), softmax_fwd(randn(n, side, side, classes))
    theirs = torch.ops.aten._softmax_backward_data
    return Case(lambda: softmax_bwd(dy, y), lambda: theirs(dy, y, -1, y.dtype), 3 * nbytes(y))


def confusion_matrix(n: int, side: int, classes: int) -> Case:
    """From logits. Theirs by a histogram: `bincount` waits for the device, which a training loop must not."""
    x, target = randn(n, side, side, classes), labels(classes, n, side, side, dtype=torch.uint8)
    counts = torch.zeros((classes, classes), dtype=torch.int64, device=DEVICE)
    total = torch.zeros((classes, classes), device=DEVICE)

    def theirs() -> torch.Tensor:
        pairs = (target.long() * classes + x.argmax(-1)).float()
        return total.add_(torch.histc(pairs, classes * classes, 0, classes * classes).view(classes, classes))

    return Case(lambda: confusion_matrix_fwd(x, target, counts), theirs, nbytes(x, target), rtol=0.0)


test_loss = over([cross_entropy, softmax, softmax_backward, confusion_matrix], LOGITS)
test_binary_cross_entropy = over([binary_cross_entropy], {"1@256 batch16": (16, 256), "1@256 batch1": (1, 256)})
