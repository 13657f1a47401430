"""Batch normalisation, alone and with what follows it. Formulas: `tritonnet.kernels.batch_norm`, `batch_norm_pool`."""

from typing import Any

import torch

from tritonnet.autograd import Context, Function, Node, Tensor, check_tensors
from tritonnet.kernels.batch_norm import Running, batch_norm_bwd, batch_norm_fwd
from tritonnet.kernels.batch_norm_pool import batch_norm_pool_bwd, batch_norm_pool_fwd
from tritonnet.kernels.batch_norm_stats import batch_norm_merge, batch_norm_stats
from tritonnet.kernels.convert import cast
from tritonnet.kernels.runtime import refuse

__all__ = ["Moments", "batch_norm", "batch_norm_relu", "batch_norm_relu_max_pool2d", "check", "statistics"]

Buffer = torch.Tensor
Moments = tuple[Buffer, Buffer, Buffer]


class BatchNormFunction(Function):
    """Batch norm, with a ReLU if asked; with `pool` behind that 2x2 max pooling, whose image is a second result."""

    @staticmethod
    def forward(
        ctx: Context, x: Buffer, w: Buffer | None, b: Buffer | None, *, running: Running | None, training: bool,
        moments: Moments | None, eps: float, relu: bool, pool: bool = False, out: Buffer | None = None,
    ) -> Any:  # fmt: skip
        mean, var = statistics(x, running, training, moments, any(ctx.needs))
        ctx.save(x, mean, var, w, b)
        ctx.options, ctx.relu = {"eps": eps, "training": training}, relu
        if pool:
            return batch_norm_pool_fwd(x, mean, var, w, b, eps=eps, out=out)
        return batch_norm_fwd(x, mean, var, w, b, eps=eps, relu=relu, out=out)

    @staticmethod
    def backward(ctx: Context, dy: Buffer | None, dz: Buffer | None = None) -> tuple[Buffer | None, ...]:
        if dz is not None:
            gradients = batch_norm_pool_bwd(dy, dz, *ctx.saved, **ctx.options)
        else:
            assert dy is not None  # one of the two results was used
            gradients = batch_norm_bwd(dy, *ctx.saved, **ctx.options, relu=ctx.relu)
        return tuple(g if need else None for g, need in zip(gradients, ctx.needs, strict=True))

    @staticmethod
    def again(node: Node, out: Buffer | None = None) -> Buffer:
        """Without pooling, which is the second output."""
        ctx = node.context
        return batch_norm_fwd(*ctx.saved, eps=ctx.options["eps"], relu=ctx.relu, out=out)


def statistics(
    x: Buffer, running: Running | None, training: bool, moments: Moments | None, kept: bool
) -> tuple[Buffer, Buffer]:
    """Mean and variance to normalise by; in training the running ones are updated on the way."""
    if training:
        return batch_norm_stats(x, running) if moments is None else batch_norm_merge(*moments, running)
    assert running is not None  # check
    if kept:  # a forward in training may change them before the backward
        return cast(running.mean, torch.float32), cast(running.var, torch.float32)
    return running.mean, running.var


def check(
    op: str, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, training: bool,
    momentum: float | None, eps: float, num_batches_tracked: Tensor | None,
) -> Running | None:  # fmt: skip
    """Refuse what no kernel sees; return the running statistics."""
    given = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": num_batches_tracked}
    check_tensors(op, input=input, **{name: t for name, t in given.items() if t is not None})
    if input.ndim != 4:
        refuse(op, f"input must have 4 dimensions (N, C, H, W), got shape {input.shape}")
    if not eps >= 0:
        refuse(op, f"eps must be at least 0, got {eps}")
    if training and input.numel() == input.shape[1]:
        refuse(op, f"input must have more than 1 value per channel when training, got shape {input.shape}")
    if running_mean is None or running_var is None:
        if running_mean is not running_var:
            refuse(op, "running_mean and running_var must be given together")
        if not training:
            refuse(op, "running_mean and running_var must be given in evaluation")
        return None
    tracked = None if num_batches_tracked is None else num_batches_tracked.data
    return Running(running_mean.data, running_var.data, momentum, tracked)


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5,
    *, num_batches_tracked: Tensor | None = None, moments: Moments | None = None,
) -> Tensor:  # fmt: skip
    """Normalise each channel of `input` over batch and pixels, as `torch.nn.functional.batch_norm`.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16.
        running_mean: (C,) float32, or None. Updated in place in training, used in evaluation.
        running_var: (C,) float32, or None; likewise, unbiased.
        weight: scale, (C,) float32, or None for 1.
        bias: shift, (C,) float32, or None for 0.
        training: normalise by the batch's own statistics, else by the running ones.
        momentum: share of the batch in the running statistics, 0 to 1; None for the average over all batches.
        eps: added to the variance, at least 0.
        num_batches_tracked: () int64, counted up in training; needed where momentum is None.
        moments: (count, mean, M2) of input's tiles from `conv2d_moments`; saves a pass over the input in training.

    Returns:
        (N, C, H, W) in input's dtype.

    Raises:
        Refused: shapes or dtypes that do not go together; one value per channel in training; no running statistics in
            evaluation.
    """
    running = check("batch_norm", input, running_mean, running_var, training, momentum, eps, num_batches_tracked)
    return BatchNormFunction.apply(  # type: ignore[no-any-return]
        input, weight, bias, running=running, training=training, moments=moments, eps=eps, relu=False
    )


def batch_norm_relu(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5,
    *, num_batches_tracked: Tensor | None = None, moments: Moments | None = None, out: Buffer | None = None,
) -> Tensor:  # fmt: skip
    """`relu(batch_norm(...))` in the passes of `batch_norm` alone, without keeping the image between them.

    Arguments, result and refusals as `batch_norm`; `out` is a buffer (N, H, W, C) to write into, such as one half of
    `ops.cat.wide`.
    """
    running = check("batch_norm_relu", input, running_mean, running_var, training, momentum, eps, num_batches_tracked)
    return BatchNormFunction.apply(  # type: ignore[no-any-return]
        input, weight, bias, running=running, training=training, moments=moments, eps=eps, relu=True, out=out
    )


def batch_norm_relu_max_pool2d(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5,
    *, num_batches_tracked: Tensor | None = None, moments: Moments | None = None, out: Buffer | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`y = batch_norm_relu(...)` and `max_pool2d(y, 2)` in one pass: a U-Net's skip and what goes further down.

    Arguments and refusals as `batch_norm_relu`, whose result y is; H and W must be at least 2.

    Returns:
        y (N, C, H, W) and the pooled image (N, C, H // 2, W // 2).
    """
    running = check(
        "batch_norm_relu_max_pool2d", input, running_mean, running_var, training, momentum, eps, num_batches_tracked
    )
    return BatchNormFunction.apply(  # type: ignore[no-any-return]
        input, weight, bias, running=running, training=training, moments=moments, eps=eps, relu=True, pool=True, out=out
    )
