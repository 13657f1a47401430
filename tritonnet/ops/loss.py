"""Losses of logits, the mean squared error, and the distance transform that one of them rests on.

But for Dice, which needs sums over an image first, the forward makes the gradient too, for an upstream gradient of 1;
the backward multiplies the upstream gradient in, in place and on the device. So a second backward through the same loss
(after retain_graph=True) has to make the gradient anew.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tritonnet.autograd import Context, Function, Tensor, check_tensors
from tritonnet.kernels.arithmetic import mul_fwd
from tritonnet.kernels.binary_cross_entropy import binary_cross_entropy_fwd
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.dice_loss import dice_loss_bwd, dice_loss_fwd
from tritonnet.kernels.distance import distance_fwd
from tritonnet.kernels.focal_loss import focal_loss_fwd
from tritonnet.kernels.loss import loss_bwd
from tritonnet.kernels.mse_loss import mse_loss_fwd
from tritonnet.kernels.runtime import only, refuse

__all__ = [
    "binary_cross_entropy_with_logits", "cross_entropy", "dice_loss", "distance_loss", "distance_transform",
    "focal_loss", "mse_loss",
]  # fmt: skip

Buffer = torch.Tensor


class _LossFunction(Function):
    """A loss whose launcher makes the gradient too; its inputs are x and what needs no gradient."""

    launcher: ClassVar[Callable[..., Any]]

    @classmethod
    def forward(cls, ctx: Context, *inputs: Buffer | None, **constants: Any) -> Any:
        loss, dx = cls.launcher(*inputs, **constants, gradient=any(ctx.needs))
        if any(ctx.needs):
            ctx.save(*inputs, dx)
            ctx.constants = constants
        return loss

    @classmethod
    def backward(cls, ctx: Context, dy: Buffer) -> Any:
        *inputs, dx = ctx.saved
        if dx is None:
            _, dx = cls.launcher(*inputs, **ctx.constants)
        ctx.save(*inputs, None)
        return loss_bwd(dx, dy, inputs[0].dtype), *[None] * (len(inputs) - 1)


class CrossEntropyFunction(_LossFunction):
    """The loss of logits x against class indices or probabilities."""

    launcher = staticmethod(cross_entropy_fwd)


class BinaryCrossEntropyWithLogitsFunction(_LossFunction):
    """The loss of logits x against probabilities or integers 0 and 1."""

    launcher = staticmethod(binary_cross_entropy_fwd)


class FocalLossFunction(_LossFunction):
    """The focal loss of logits x against class indices; with distances, the distance-aware loss."""

    launcher = staticmethod(focal_loss_fwd)


class MseLossFunction(_LossFunction):
    """The squared error of x and target, which may both need a gradient."""

    launcher = staticmethod(mse_loss_fwd)

    @classmethod
    def backward(cls, ctx: Context, dy: Buffer) -> Any:
        target = ctx.saved[1]
        dx = super().backward(ctx, dy)[0]
        return dx, mul_fwd(dx, None, -1.0, dtype=target.dtype) if ctx.needs[1] else None


class DiceLossFunction(Function):
    """The soft Dice loss of logits x against class indices; its backward is a second pass over x."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, target: Buffer, weight: Buffer | None, **constants: Any) -> Buffer:
        loss, terms = dice_loss_fwd(x, target, weight, **constants)
        ctx.save(terms, x, target)
        ctx.ignore_index = constants["ignore_index"]
        return loss

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Any:
        terms, x, target = ctx.saved
        return dice_loss_bwd(dy, terms, x, target, ctx.ignore_index), None, None


def _check(op: str, size_average: object, reduce: object, ignore_index: object, **constants: Tensor | None) -> None:
    only(op, "use reduction", size_average=(size_average, None), reduce=(reduce, None))
    if not isinstance(ignore_index, int):
        refuse(op, f"ignore_index must be an integer, got {ignore_index!r}")
    for name, tensor in constants.items():
        if tensor is None:
            continue
        check_tensors(op, **{name: tensor})
        if tensor.requires_grad:
            refuse(op, f"{name} must not require a gradient; use {name}.detach()")


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy of logits.

    Args:
        input: logits (N, C, H, W) or (N, C), floating-point.
        target: class indices (N, H, W) or (N,), int64, int32 or uint8; or class probabilities of input's shape.
        weight: one a class, (C,), float32.
        size_average: must be None.
        reduce: must be None.
        ignore_index: the class index that contributes nothing.
        reduction: "mean" (by the weights of what contributes; by pixels for probabilities), "sum" or "none".
        label_smoothing: must be 0.

    Returns:
        The loss, float32: no dimensions, or one value a pixel for "none". A mean over nothing is NaN, with a gradient
            of zero.
        Indices outside 0..C-1 contribute nothing, and reading the loss then raises `tritonnet.Fault`.

    Raises:
        Refused: shapes or dtypes that do not fit, or an argument that is not there yet.
    """
    _check("cross_entropy", size_average, reduce, ignore_index, target=target, weight=weight)
    only("cross_entropy", label_smoothing=(label_smoothing, 0.0))
    return CrossEntropyFunction.apply(  # type: ignore[no-any-return]
        input, target, weight, ignore_index=ignore_index, reduction=reduction
    )


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean", pos_weight: Tensor | None = None, *, ignore_index: int = -100,
) -> Tensor:  # fmt: skip
    """Binary cross-entropy of sigmoid(input).

    Args:
        input: logits, (N, C, H, W) or any other shape of at least 1 dimension, floating-point.
        target: probabilities of input's shape, floating-point; or integers 0 and 1 (int64, int32, uint8) of input's
            shape or, for one channel, (N, H, W).
        weight: factor of each loss: input's shape, (N, 1, H, W), (C, 1, 1), or one element.
        size_average: must be None.
        reduce: must be None.
        reduction: "mean", "sum" or "none".
        pos_weight: factor of the positive term, the same shapes as weight.
        ignore_index: the integer target that contributes nothing (not in torch's signature; a mask's 255, say).

    Returns:
        The loss, float32: no dimensions, or input's shape for "none".

    Raises:
        Refused: shapes or dtypes that do not fit, or an argument that is not there.
    """
    op = "binary_cross_entropy_with_logits"
    _check(op, size_average, reduce, ignore_index, target=target, weight=weight, pos_weight=pos_weight)
    return BinaryCrossEntropyWithLogitsFunction.apply(  # type: ignore[no-any-return]
        input, target, weight, pos_weight, reduction=reduction, ignore_index=ignore_index
    )


def mse_loss(
    input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", weight: None = None,
) -> Tensor:  # fmt: skip
    """Mean squared error.

    Args:
        input: any shape of at least 1 dimension, floating-point.
        target: of input's shape; shapes are not broadcast.
        size_average: must be None.
        reduce: must be None.
        reduction: "mean", "sum" or "none".
        weight: must be None.

    Returns:
        The loss, float32: no dimensions, or input's shape for "none".

    Raises:
        Refused: shapes or dtypes that do not fit, or an argument that is not there.
    """
    _check("mse_loss", size_average, reduce, 0)
    only("mse_loss", "multiply the loss of reduction='none' by it", weight=(weight, None))
    return MseLossFunction.apply(input, target, reduction=reduction)  # type: ignore[no-any-return]


def focal_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, gamma: float = 2.0, alpha: float | None = None,
    ignore_index: int = -100, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - p)^gamma, p being the probability of the right class.

    Args:
        input: logits (N, C, H, W) or (N, C) of C classes by softmax; with C = 1 of 2 classes by sigmoid.
        target: class indices (N, H, W) or (N,), int64, int32 or uint8.
        weight: one a class, (C,), float32; (2,) with one channel.
        gamma: how much less a pixel counts the better it is classified; 0 gives the cross-entropy.
        alpha: weight of the classes above 0, from 0 to 1, class 0 having 1 - alpha. None: 1 for all.
        ignore_index: the class index that contributes nothing.
        reduction: "mean" (by the weights of what contributes, alpha left out, as cross_entropy), "sum" or "none".

    Returns:
        The loss, float32: no dimensions, or one value a pixel for "none".

    Raises:
        Refused: shapes or dtypes that do not fit, or a number outside its range.
    """
    _check("focal_loss", None, None, ignore_index, target=target, weight=weight)
    return FocalLossFunction.apply(  # type: ignore[no-any-return]
        input, target, weight, None, gamma=gamma, alpha=alpha, ignore_index=ignore_index, reduction=reduction
    )


def distance_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, sigma: float = 10.0, alpha: float = 2.0,
    beta: float = 4.0, ignore_index: int = -100, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Distance-aware loss: focal loss of each class above 0 against the rest, mild on false alarms near the class.

    A pixel of the class costs -(1 - p)^alpha log p, another -(1 - y)^beta p^alpha log(1 - p) with y = exp(-d^2 / (2
    sigma^2)), d being its distance to the nearest pixel of the class (`distance_transform`) and p the class's softmax.

    Args:
        input: logits (N, C, H, W) of C classes by softmax; with C = 1 of 2 classes by sigmoid.
        target: class indices (N, H, W), int64, int32 or uint8.
        weight: of a pixel's terms by its own class, (C,), float32; (2,) with one channel.
        sigma: how near is near, in pixels, above 0.
        alpha: how much less a pixel counts the better it is classified, 0 or more.
        beta: how much less a near pixel counts, 0 or more.
        ignore_index: the class index that contributes nothing, neither to the distances.
        reduction: "mean" (by the number of pixels above class 0, at least 1), "sum" or "none".

    Returns:
        The loss, float32: no dimensions, or one value a pixel for "none".

    Raises:
        Refused: shapes or dtypes that do not fit, or a number outside its range.
    """
    _check("distance_loss", None, None, ignore_index, target=target, weight=weight)
    distance = distance_transform(target, 1, max(input.shape[1] if input.ndim == 4 else 1, 2) - 1, ignore_index)
    return FocalLossFunction.apply(  # type: ignore[no-any-return]
        input, target, weight, distance,
        sigma=sigma, gamma=alpha, beta=beta, ignore_index=ignore_index, reduction=reduction,
    )  # fmt: skip


def dice_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, include_background: bool = True,
    smooth_nr: float = 1e-5, smooth_dr: float = 1e-5, batch: bool = False, ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Soft Dice loss: 1 - (2 sum of p t + smooth_nr) / (sum of p + sum of t + smooth_dr), by image and class.

    Args:
        input: logits (N, C, H, W) of C classes by softmax; with C = 1 of 2 classes by sigmoid, class 1 having a term.
        target: class indices (N, H, W), int64, int32 or uint8.
        weight: of a class's term, (C,), float32; (2,) with one channel.
        include_background: whether class 0 has a term.
        smooth_nr: added above the fraction, 0 or more.
        smooth_dr: added below the fraction, 0 or more.
        batch: sum over all images, instead of over each.
        ignore_index: the class index that contributes nothing.
        reduction: "mean" (by the number of terms), "sum" or "none".

    Returns:
        The loss, float32: no dimensions; for "none" (N, terms), or with `batch` (terms,).

    Raises:
        Refused: shapes or dtypes that do not fit, or a number outside its range.
    """
    _check("dice_loss", None, None, ignore_index, target=target, weight=weight)
    return DiceLossFunction.apply(  # type: ignore[no-any-return]
        input, target, weight, include_background=include_background, smooth_nr=smooth_nr, smooth_dr=smooth_dr,
        batch=batch, ignore_index=ignore_index, reduction=reduction,
    )  # fmt: skip


def distance_transform(target: Tensor, first: int = 1, count: int = 1, ignore_index: int = -100) -> Tensor:
    """The exact squared Euclidean distance of every pixel to the nearest pixel of a class.

    Args:
        target: class indices (N, H, W), int64, int32 or uint8.
        first: the class, or the first of several.
        count: how many classes from there on.
        ignore_index: a target that is no class.

    Returns:
        (N, count, H, W) float32, in pixels^2; infinity where an image does not have the class.

    Raises:
        Refused: another shape or dtype.
    """
    _check("distance_transform", None, None, ignore_index, target=target)
    return Tensor(distance_fwd(target.data, first, count, ignore_index))
