"""What the pixel losses share: the normaliser, the merge of partial sums, and the upstream gradient.

A loss makes its value and its gradient in one pass over the logits, the gradient scaled for an upstream gradient of 1.
So what the mean divides by must be known before: `loss_count` sums the weights of the counted pixels from the targets
alone (1 to 8 bytes a pixel).

    counts  = sum over counted m of w[t[m]]          in 256 partial sums, which the loss kernel adds up
    loss    = sum of partial losses / divisor        divisor: sum of counts (at least `least`), or a number
    dx      = gradient * upstream                    in place; nothing is read or written where upstream is 1

Every sum has two stages in a fixed order, so results are bitwise reproducible. The merge sets fault.LOSS where the loss
is not finite, except when nothing was counted: then the mean is 0 / 0 = NaN as in PyTorch, but its gradient is zero and
the step does no harm.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.fault import LABEL, LOSS, raise_flag
from tritonnet.kernels.pointwise import FLOATS, flat_tile
from tritonnet.kernels.runtime import (
    INTERPRET,
    begin,
    cdiv,
    check_buffer,
    check_dtype,
    empty,
    flat,
    launch,
    logical,
    refuse,
)
from tritonnet.kernels.softmax import rows

__all__ = [
    "INTEGERS", "REDUCTIONS", "check_classes", "check_labels", "check_least", "check_logits",
    "check_reduction", "counted_weight", "flag_not_finite", "log1p", "loss_bwd", "loss_count", "loss_fwd", "mean_factor",
    "store_loss",
]  # fmt: skip

COUNTS = tl.constexpr(1 if INTERPRET else 256)
INTEGERS = (torch.int64, torch.int32, torch.uint8)
REDUCTIONS = ("none", "mean", "sum")


@triton.jit
def counted_weight(t, live, weight_ptr, fault_ptr, ignore, C: tl.constexpr):
    """Of targets `t`: the weight each counts with, and which count; one outside 0..C-1, not to be ignored, is a fault."""
    meant = live & (t != ignore)
    known = meant & (t >= 0) & (t < C)
    if fault_ptr is not None:
        raise_flag(meant & ((t < 0) | (t >= C)), fault_ptr, LABEL)
    if weight_ptr is None:
        weight = known.to(tl.float32)
    else:
        weight = tl.load(weight_ptr + tl.where(known, t, 0), mask=known, other=0.0).to(tl.float32)
    return weight, known


@triton.jit
def mean_factor(count_ptr, factor, least):
    """What a gradient is multiplied by: 1 / the counts, at least `least` (0, if there are none); `factor` without counts."""
    if count_ptr is not None:
        total = tl.sum(tl.load(count_ptr + tl.arange(0, COUNTS)))
        if least is not None:
            total = tl.maximum(total, least)
        factor = tl.where(total == 0.0, 0.0, 1.0 / total)
    return factor


@triton.jit
def log1p(u):
    """log(1 + u) for u in -1..1, to a few units in the last place: log(v) * u / (v - 1) with v = 1 + u as rounded."""
    v = 1.0 + u
    return tl.where(v == 1.0, u, tl.log(v) * (u / tl.where(v == 1.0, 1.0, v - 1.0)))


@triton.jit
def flag_not_finite(loss, fault_ptr):
    """A fault if any of `loss` is NaN or infinite."""
    raise_flag((tl.abs(loss) < float("inf")).to(tl.int32) ^ 1, fault_ptr, LOSS)


@triton.jit
def store_loss(loss_ptr, fault_ptr, at, live, loss, EACH: tl.constexpr):
    """Store each of `loss`, 0 where not live; or their sum, one a program."""
    if EACH:
        tl.store(loss_ptr + at, loss, mask=live)
        flag_not_finite(loss, fault_ptr)
    else:
        tl.store(loss_ptr + tl.program_id(0), tl.sum(loss))


@triton.jit
def _loss_count_kernel(
    target_ptr, weight_ptr, count_ptr,
    M, stretch, ignore, first,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin(BRIEF=True)
    start = tl.program_id(0).to(tl.int64) * stretch
    acc = tl.zeros((BLOCK,), tl.float32)
    for offset in range(0, stretch, BLOCK):
        m = start + offset + tl.arange(0, BLOCK)
        t = tl.load(target_ptr + m, mask=m < M, other=0).to(tl.int64)
        weight, _ = counted_weight(t, m < M, weight_ptr, None, ignore, C)
        acc += tl.where(t >= first, weight, 0.0)
    tl.store(count_ptr + tl.program_id(0), tl.sum(acc))


@triton.jit
def _loss_merge_kernel(
    partial_ptr, count_ptr, loss_ptr, fault_ptr,
    n, divisor, least,  # n partial losses
    BLOCK: tl.constexpr,
):  # fmt: skip
    begin(BRIEF=True)
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        acc += tl.load(partial_ptr + at, mask=at < n, other=0.0)
    total = tl.zeros((1,), tl.float32) + divisor
    if count_ptr is not None:
        total = tl.zeros((1,), tl.float32) + tl.sum(tl.load(count_ptr + tl.arange(0, COUNTS)))
        if least is not None:
            total = tl.maximum(total, least)
    loss = tl.sum(acc) / total  # [1]
    tl.store(loss_ptr + tl.arange(0, 1), loss)
    flag_not_finite(tl.where(total == 0.0, 0.0, loss), fault_ptr)


@triton.jit
def _loss_bwd_kernel(
    gradient_ptr, dy_ptr, dx_ptr,
    n, dy_pitch,  # n elements; dy_pitch: elements of dy from row to row
    C: tl.constexpr, SCALAR: tl.constexpr, DY_CHANNELS: tl.constexpr, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    if SCALAR:
        dy = tl.load(dy_ptr).to(tl.float32)
        if IN_PLACE:
            live = at < tl.where(dy == 1.0, 0, n)
    else:
        c = at % C if DY_CHANNELS else 0
        dy = tl.load(dy_ptr + at // C * dy_pitch + c, mask=live, other=0.0).to(tl.float32)
    dx = tl.load(gradient_ptr + at, mask=live, other=0.0).to(tl.float32) * dy
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=live)


def check_reduction(op: str, reduction: str) -> None:
    """Raise `Refused` unless `reduction` is "none", "mean" or "sum"."""
    if reduction not in REDUCTIONS:
        refuse(op, f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def check_least(op: str, **numbers: float) -> None:
    """Raise `Refused` unless each of `numbers` is at least 0 and finite."""
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            refuse(op, f"{name} must be at least 0 and finite, got {value}")


def check_logits(
    op: str, x: torch.Tensor, weight: torch.Tensor | None, classes: int | None = None
) -> tuple[int, int, int]:
    """Check logits and class weights, one for each of `classes` (by default x's channels): (pixels, channels, pitch).

    Raises:
        Refused: `x` is not a floating-point (N, C) or (N, H, W, C) buffer, or `weight` not float32 of that length.
    """
    check_dtype(op, "input", x, FLOATS)
    if x.dim() not in (2, 4):
        refuse(op, f"input must have shape (N, C) or (N, C, H, W), got {x.dim()} dimensions")
    m, c, x_pitch = rows(op, "input", x)
    if weight is not None:
        check_buffer(op, "weight", weight, torch.float32, (classes or c,), ", one number a class")
    return m, c, x_pitch


def check_labels(op: str, x: torch.Tensor, target: torch.Tensor, other: str = "") -> None:
    """Check that `target` holds one class index a pixel of the logits `x`; `other` names what else it may be.

    Raises:
        Refused: another shape or dtype, or not contiguous.
    """
    pixels = tuple(x.shape[:-1])
    if tuple(target.shape) != pixels:
        refuse(op, f"target must have shape {pixels} (indices){other}, got {logical(target)}")
    check_dtype(op, "target (class indices)", target, INTEGERS)
    flat(op, "target", target)


def check_classes(
    op: str, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None
) -> tuple[int, int, int, int]:
    """Check logits, class indices and class weights for a kernel that holds a pixel's classes in one tile.

    Returns:
        Pixels, channels, pitch, and number of classes: 2 for one channel, a sigmoid, and else the channels.

    Raises:
        Refused: shapes or dtypes that do not fit, or more than 4096 classes.
    """
    classes = max(x.shape[-1] if x.dim() else 1, 2)
    sizes = check_logits(op, x, weight, classes)
    check_labels(op, x, target)
    if classes > 4096:
        refuse(op, f"input must have at most 4096 classes, got {classes}")
    return *sizes, classes


def loss_count(
    target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int, classes: int, first: int = 0
) -> torch.Tensor:
    """What a mean divides by: the sum of the weights of the counted targets.

    Args:
        target: contiguous, any shape; int64, int32 or uint8 class indices.
        weight: float32 (classes,), or None for 1 each.
        ignore_index: the target that does not count; one outside 0..classes-1 does not either.
        classes: number of classes, at least 1.
        first: the first class that counts.

    Returns:
        COUNTS partial sums, float32.
    """
    m, programs = flat("loss", "target", target), COUNTS.value
    block = 65536 if INTERPRET else 1024
    counts = empty((programs,), torch.float32)
    stretch = cdiv(cdiv(m, programs), block) * block
    launch(
        _loss_count_kernel, (programs,), target, weight, counts, m, stretch, ignore_index, first, C=classes, BLOCK=block
    )  # fmt: skip
    return counts


def loss_fwd(
    op: str, kernel: triton.JITFunction, cut: tuple[tuple[int], dict[str, int]], x: torch.Tensor,
    inputs: tuple[torch.Tensor | None, ...], n: int, *numbers: float | None, shape: tuple[int, ...], reduction: str,
    gradient: bool, counted: tuple[Any, ...] = (), least: float | None = None, **constants: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Launch the kernel of a loss and merge what its programs leave.

    Args:
        op: names the op in a refusal.
        kernel: of (x, *inputs, counts, dx, loss, fault, n, factor, *numbers, EACH, ...), factor being what to multiply
            gradients by without counts.
        cut: its grid and tile.
        x, inputs, n, numbers, constants: for the kernel; n losses, the divisor of a mean without counts.
        shape: of the losses.
        reduction: "mean", "sum" or "none".
        gradient: whether dx is wanted.
        counted: arguments of `loss_count`, whose counts are the divisor of a mean.
        least: what the counts count for at least.

    Returns:
        The loss, float32, without dimensions or of `shape`. Sets fault.LOSS unless it is finite (or nothing was counted).
        dx, contiguous, of x's shape and dtype (float32 for float16), or None.

    Raises:
        Refused: another reduction.
    """
    check_reduction(op, reduction)
    (grid, tile), each = cut, reduction == "none"
    counts = loss_count(*counted) if counted and reduction == "mean" else None
    divisor = float(n) if reduction == "mean" else 1.0
    dx = empty(tuple(x.shape), torch.float32 if x.dtype == torch.float16 else x.dtype) if gradient else None
    partials, flag = empty(shape if each else grid, torch.float32), fault.flag()
    launch(
        kernel, grid, x, *inputs, counts, dx, partials, flag, n, 1.0 / divisor if divisor else 0.0, *numbers,
        EACH=each, **constants, **tile,
    )  # fmt: skip
    if each:
        return partials, dx
    loss = empty((), torch.float32)
    launch(_loss_merge_kernel, (1,), partials, counts, loss, flag, partials.numel(), divisor, least, BLOCK=1024)
    return loss, dx


def loss_bwd(gradient: torch.Tensor, dy: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The logits' gradient for the upstream gradient `dy`, which stays on the device.

    Args:
        gradient: contiguous (..., C), the gradient for an upstream gradient of 1. It is given away: where its dtype is
            `dtype` it is multiplied in place, and left as it is where dy is a 1.
        dy: the loss's gradient: one element; or one a row, contiguous; or gradient's shape, pitch allowed.
        dtype: of the result.

    Returns:
        dx, gradient's shape.
    """
    n = flat("loss", "gradient", gradient)
    c = gradient.shape[-1]
    dx = gradient if gradient.dtype == dtype else empty(tuple(gradient.shape), dtype)
    same_rank = dy.dim() == gradient.dim()
    if same_rank:
        _, _, dy_pitch = rows("loss", "dy", dy)
    else:
        flat("loss", "dy", dy)
        dy_pitch = 1
    grid, tile = flat_tile(n)
    launch(
        _loss_bwd_kernel, grid, gradient, dy, dx, n, dy_pitch,
        C=c, SCALAR=dy.dim() == 0, DY_CHANNELS=same_rank, IN_PLACE=dx is gradient, **tile,
    )  # fmt: skip
    return dx
