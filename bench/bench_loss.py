"""Softmax, the losses with their gradients, the distance transform, and the confusion matrix.

Bytes: logits and targets read once (targets twice where a mean counts them first; Dice reads both twice), the gradient or
result written once. PyTorch has no focal, Dice or distance-aware loss and no distance transform: theirs are compositions.
"""

import torch
from torch.nn import functional as F

from bench.cases import DEVICE, LOW, Case, labels, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.binary_cross_entropy import binary_cross_entropy_fwd
from tritonnet.kernels.confusion_matrix import confusion_matrix as confusion_matrix_fwd
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.dice_loss import dice_loss_bwd, dice_loss_fwd
from tritonnet.kernels.distance import distance_fwd
from tritonnet.kernels.focal_loss import focal_loss_fwd
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


def _masks(n: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of two classes as a buffer and as PyTorch's leaf, and masks with one foreground pixel in a hundred."""
    x = randn(n, side, side, 2)
    return x, x.detach().requires_grad_(), (torch.rand((n, side, side), device=DEVICE) < 0.01).long()


def _squared_distance(mask: torch.Tensor) -> torch.Tensor:
    """The distance transform as one minimum along columns and one along rows, by broadcasting."""
    place = torch.arange(mask.shape[1], dtype=torch.float32, device=mask.device)
    apart = (place[:, None] - place) ** 2
    f = torch.where(mask == 1, 0.0, torch.inf)
    f = (apart[:, :, None] + f[:, None]).amin(2)
    return (apart + f[:, :, None]).amin(3)


def distance_transform(n: int, side: int) -> Case:
    _, _, target = _masks(n, side)
    target[:, 0, 0] = 1  # every image has the class, so that no distance is infinite

    def theirs() -> torch.Tensor:
        return _squared_distance(target)[..., None]

    return Case(
        lambda: distance_fwd(target), theirs, 20 * target.numel(), 6 * target.numel() * side, 0.0, torch.float32
    )


def focal_loss(n: int, side: int) -> Case:
    x, logits, target = _masks(n, side)

    def theirs() -> torch.Tensor:
        log_p = F.log_softmax(logits.float(), -1).gather(-1, target[..., None])
        return _both((-((1 - log_p.exp()) ** 2) * log_p).mean(), logits)[1]

    return Case(lambda: focal_loss_fwd(x, target)[1], theirs, 2 * nbytes(x) + 2 * nbytes(target))


def distance_loss(n: int, side: int) -> Case:
    x, logits, target = _masks(n, side)
    target[0, 0, 0] = 1  # the mean divides by the foreground

    def theirs() -> torch.Tensor:
        p = F.log_softmax(logits.float(), -1)
        near = (1 - torch.exp(-_squared_distance(target) / 200)) ** 4 * (2 * p[..., 1]).exp() * p[..., 0]
        loss = -torch.where(target == 1, (2 * p[..., 0]).exp() * p[..., 1], near).sum() / (target == 1).sum()
        return _both(loss, logits)[1]

    moved = 2 * nbytes(x) + 2 * nbytes(target) + 24 * target.numel()
    return Case(lambda: focal_loss_fwd(x, target, None, distance_fwd(target))[1], theirs, moved)


def dice_loss(n: int, side: int) -> Case:
    x, logits, target = _masks(n, side)
    one = torch.ones((), device=DEVICE)

    def theirs() -> torch.Tensor:
        p, hit = F.softmax(logits.float(), -1), torch.stack((1 - target, target), -1)
        loss = 1 - (2 * (p * hit).sum((1, 2)) + 1e-5) / (p.sum((1, 2)) + hit.sum((1, 2)) + 1e-5)
        return _both(loss.mean(), logits)[1]

    return Case(
        lambda: dice_loss_bwd(one, dice_loss_fwd(x, target)[1], x, target), theirs, 3 * nbytes(x) + 2 * nbytes(target)
    )


test_loss = over([cross_entropy, softmax, softmax_backward, confusion_matrix], LOGITS)
test_binary_cross_entropy = over([binary_cross_entropy], {"1@256 batch16": (16, 256), "1@256 batch1": (1, 256)})
test_mask_loss = over([distance_transform, focal_loss, distance_loss, dice_loss], {"2@256 batch16": (16, 256)})
