"""Cross-entropy and binary cross-entropy of logits.

The forward makes the gradient too, for an upstream gradient of 1; the backward multiplies the upstream gradient in, in
place and on the device. So a second backward through the same loss (after retain_graph=True) has to make the gradient
anew.
"""

from typing import Any

import torch

from tritonnet.autograd import Function, Tensor
from tritonnet.autograd.function import Context
from tritonnet.kernels.binary_cross_entropy import binary_cross_entropy_fwd
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.loss import loss_bwd
from tritonnet.kernels.runtime import refuse

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy"]

Buffer = torch.Tensor


class CrossEntropyFunction(Function):
    """The loss of logits x against class indices or probabilities."""

    @staticmethod
    def forward(ctx: Context, x: Buffer, target: Buffer, weight: Buffer | None, **constants: Any) -> Any:
        loss, dx = cross_entropy_fwd(x, target, weight, **constants, gradient=ctx.needs[0])
        if ctx.needs[0]:
            ctx.save(x, target, weight, dx)
            ctx.constants = constants
        return loss

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Any:
        *inputs, dx = ctx.saved
        if dx is None:
            _, dx = cross_entropy_fwd(*inputs, **ctx.constants)
        ctx.save(*inputs, None)
        return loss_bwd(dx, dy, inputs[0].dtype), None, None


class BinaryCrossEntropyWithLogitsFunction(Function):
    """The loss of logits x against probabilities or integers 0 and 1."""

    @staticmethod
    def forward(
        ctx: Context, x: Buffer, target: Buffer, weight: Buffer | None, pos_weight: Buffer | None, **constants: Any
    ) -> Any:
        loss, dx = binary_cross_entropy_fwd(x, target, weight, pos_weight, **constants, gradient=ctx.needs[0])
        if ctx.needs[0]:
            ctx.save(x, target, weight, pos_weight, dx)
            ctx.constants = constants
        return loss

    @staticmethod
    def backward(ctx: Context, dy: Buffer) -> Any:
        *inputs, dx = ctx.saved
        if dx is None:
            _, dx = binary_cross_entropy_fwd(*inputs, **ctx.constants)
        ctx.save(*inputs, None)
        return loss_bwd(dx, dy, inputs[0].dtype), None, None, None


def _check(op: str, size_average: object, reduce: object, ignore_index: object, **constants: Tensor | None) -> None:
    if size_average is not None or reduce is not None:
        refuse(op, "size_average and reduce must be None; use reduction")
    if not isinstance(ignore_index, int):
        refuse(op, f"ignore_index must be an integer, got {ignore_index!r}")
    for name, tensor in constants.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            refuse(op, f"{name} must be a tritonnet Tensor, got {type(tensor)}; tn.from_torch and tn.tensor make them")
        if tensor is not None and tensor.requires_grad:
            refuse(op, f"{name} must not require a gradient; use {name}.detach()")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
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
    if label_smoothing != 0.0:
        refuse("cross_entropy", f"label_smoothing must be 0, got {label_smoothing}")
    return CrossEntropyFunction.apply(  # type: ignore[no-any-return]
        input, target, weight, ignore_index=ignore_index, reduction=reduction
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
) -> Tensor:
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
