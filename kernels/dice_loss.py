"""Soft Dice loss of logits: 1 - the overlap of probabilities and classes, for each image and class.

    p[m, c]  = softmax of x[m]                                         t[m, c] = 1 where target[m] == c, else 0
    I[n, c]  = sum over pixels m of image n of p * t                   P and T: the sums of p and of t
    f[n, c]  = 1 - (2 I + smooth_nr) / D,   D = P + T + smooth_dr
    loss     = mean of w[c] * f[n, c] over images and classes          (or their sum, or each)
    du[m, c] = w[c] * ((2 I + smooth_nr) / D^2 - 2 t[m, c] / D)        times the upstream gradient, times 1 / terms
    dx[m, j] = p[m, j] * (du[m, j] - sum over c of p[m, c] * du[m, c])

MONAI's conventions: with `batch` the sums run over all images, so n has one value; without `include_background` class 0
has no term; the class weights multiply f, and the mean divides by the number of terms, not by their weights. One
channel is a sigmoid, a softmax over a logit of 0 (class 0, without a term) and the channel (class 1). An ignored pixel
enters no sum; one outside the classes neither, and sets fault.LABEL. No term: the mean is NaN, without a fault.
Two passes over the logits, since the gradient needs the sums: the forward's, which leaves partial sums of each tile that
`sum_fwd` adds in a fixed order, and the backward's, which needs w / D and (2 I + smooth_nr) / D of each term beside x.
Deterministic. Every exponent is 0 or below. Cost: memory-bound; each pass reads x and t, the backward writes dx. At most
4096 classes: a pixel's lie in one tile.
Milletari et al. 2016, with the denominator of Drozdzal et al. 2016 (the probabilities are not squared).
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.loss import check_classes, check_least, check_reduction, counted_weight, flag_not_finite
from tritonnet.kernels.runtime import begin, empty, flat, image, launch, pitch
from tritonnet.kernels.softmax import load_rows, row_tile
from tritonnet.kernels.sum import sum_fwd

__all__ = ["dice_loss_bwd", "dice_loss_fwd"]


@triton.jit
def _shares(
    x_ptr, target_ptr, fault_ptr, pixels, ignore,
    C: tl.constexpr, SIGMOID: tl.constexpr, X_PITCH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of a tile of one image: its pixels [M], the image's end, which count, and p and t [M, C], 0 where they do not."""
    end = (tl.program_id(1).to(tl.int64) + 1) * pixels
    m = end - pixels + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_C)
    label = tl.load(target_ptr + m, mask=m < end, other=0).to(tl.int64)
    _, known = counted_weight(label, m < end, None, fault_ptr, ignore, C)
    x = load_rows(x_ptr, m, c, end, X_PITCH, C, SIGMOID)
    p = tl.exp(x - tl.max(x, 1)[:, None])
    p = tl.where(known[:, None], p / tl.sum(p, 1)[:, None], 0.0)
    return m, end, known, p, (known[:, None] & (label[:, None] == c[None, :])).to(tl.float32)


@triton.jit
def _dice_loss_fwd_kernel(
    x_ptr, target_ptr, part_ptr, fault_ptr,
    pixels, tiles, ignore,  # pixels and tiles of an image
    C: tl.constexpr, SIGMOID: tl.constexpr, X_PITCH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    _, _, _, p, t = _shares(x_ptr, target_ptr, fault_ptr, pixels, ignore, C, SIGMOID, X_PITCH, BLOCK_M, BLOCK_C)
    c = tl.arange(0, BLOCK_C)
    part_ptr += (tl.program_id(1).to(tl.int64) * tiles + tl.program_id(0)) * 3 * C
    tl.store(part_ptr + c, tl.sum(p * t, 0), mask=c < C)
    tl.store(part_ptr + C + c, tl.sum(p, 0), mask=c < C)
    tl.store(part_ptr + 2 * C + c, tl.sum(t, 0), mask=c < C)


@triton.jit
def _dice_loss_merge_kernel(
    sums_ptr, weight_ptr, loss_ptr, term_ptr, fault_ptr,
    entries, smooth_nr, smooth_dr, scale,  # entries: images times classes; scale: 1 / terms for a mean
    C: tl.constexpr, FIRST: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, entries, BLOCK):
        at = start + tl.arange(0, BLOCK)
        n, c, live = at // C, at % C, at < entries
        has = live & (c >= FIRST)
        weight = has.to(tl.float32)
        if weight_ptr is not None:
            weight = tl.load(weight_ptr + c, mask=has, other=0.0)
        shared = tl.load(sums_ptr + n * 3 * C + c, mask=live, other=0.0)
        predicted = tl.load(sums_ptr + n * 3 * C + C + c, mask=live, other=0.0)
        true = tl.load(sums_ptr + n * 3 * C + 2 * C + c, mask=live, other=0.0)
        below = tl.where(has, predicted + true + smooth_dr, 1.0)
        ratio = (2.0 * shared + smooth_nr) / below
        f = tl.where(has, weight * (1.0 - ratio), 0.0)
        acc += f
        tl.store(term_ptr + n * 2 * C + c, tl.where(has, weight * scale / below, 0.0), mask=live)
        tl.store(term_ptr + n * 2 * C + C + c, tl.where(has, ratio, 0.0), mask=live)
        if EACH:
            tl.store(loss_ptr + n * (C - FIRST) + c - FIRST, f, mask=has)
    loss = tl.zeros((1,), tl.float32) + tl.sum(acc)
    flag_not_finite(loss, fault_ptr)
    if not EACH:
        tl.store(loss_ptr + tl.arange(0, 1), loss * scale)


@triton.jit
def _dice_loss_bwd_kernel(
    x_ptr, target_ptr, term_ptr, dy_ptr, dx_ptr, fault_ptr,
    pixels, ignore, own,  # own: 1 where each image has terms of its own, else 0
    C: tl.constexpr, SIGMOID: tl.constexpr, X_PITCH: tl.constexpr, TERMS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m, end, known, p, t = _shares(x_ptr, target_ptr, fault_ptr, pixels, ignore, C, SIGMOID, X_PITCH, BLOCK_M, BLOCK_C)
    c = tl.arange(0, BLOCK_C)
    n = tl.program_id(1) * own
    if TERMS == 0:
        dy = tl.load(dy_ptr)
    else:
        dy = tl.load(dy_ptr + n * TERMS + c + TERMS - C, mask=(c + TERMS >= C) & (c < C), other=0.0)
    factor = dy * tl.load(term_ptr + n * 2 * C + c, mask=c < C, other=0.0)  # [C]
    ratio = tl.load(term_ptr + n * 2 * C + C + c, mask=c < C, other=0.0)
    du = factor[None, :] * (ratio[None, :] - 2.0 * t)
    dx = tl.where(known[:, None], p * (du - tl.sum(p * du, 1)[:, None]), 0.0)
    at = m[:, None] * (C - SIGMOID) + (c[None, :] - SIGMOID)
    live = (m < end)[:, None] & ((c >= SIGMOID) & (c < C))[None, :]
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=live)


def dice_loss_fwd(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, *, include_background: bool = True,
    smooth_nr: float = 1e-5, smooth_dr: float = 1e-5, batch: bool = False, ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Soft Dice loss, and what its gradient needs of each term.

    Args:
        x: logits, (N, H, W, C) image buffer, pitch allowed; float32, bfloat16 or float16. K = C classes, but K = 2 for
            one channel.
        target: class indices (N, H, W), int64, int32 or uint8, contiguous.
        weight: one a class, (K,) float32, or None.
        include_background: whether class 0 has a term; with one channel it never has.
        smooth_nr, smooth_dr: added above and below the fraction, 0 or more.
        batch: one term a class over all images, instead of one an image and class.
        ignore_index: the target that does not count.
        reduction: "mean", "sum" or "none".

    Returns:
        loss: float32, no dimensions; for "none" one an image and term, (N, terms), or with `batch` (terms,).
        terms: float32, (N or 1, 2, K): w / D (over the number of terms for a mean) and (2 I + smooth_nr) / D.

    Raises:
        Refused: shapes or dtypes that do not fit, another reduction, more than 4096 classes.
    """
    op = "dice_loss"
    check_reduction(op, reduction)
    check_least(op, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    n, h, w, channels = image(op, "input", x)
    *_, x_pitch, c = check_classes(op, x, target, weight)
    (tiles,), tile = row_tile(h * w, c)
    parts = empty((n, tiles, 3 * c), torch.float32)
    launch(
        _dice_loss_fwd_kernel, (tiles, n), x, target, parts, fault.flag(), h * w, tiles, ignore_index,
        C=c, SIGMOID=c - channels, X_PITCH=x_pitch, **tile,
    )  # fmt: skip
    sums = sum_fwd(parts, (0, 1) if batch else (1,))
    first = 0 if include_background and channels > 1 else 1
    shape = (c - first,) if batch else (n, c - first)
    count, each = len(sums) * (c - first), reduction == "none"
    scale = 1.0 if reduction != "mean" else 1.0 / count if count else float("nan")
    loss = empty(shape if each else (), torch.float32)
    terms = empty((len(sums), 2, c), torch.float32)
    launch(
        _dice_loss_merge_kernel, (1,), sums, weight, loss, terms, fault.flag(), len(sums) * c, float(smooth_nr),
        float(smooth_dr), scale, C=c, FIRST=first, EACH=each, BLOCK=1024,
    )  # fmt: skip
    return loss, terms


def dice_loss_bwd(
    dy: torch.Tensor, terms: torch.Tensor, x: torch.Tensor, target: torch.Tensor, ignore_index: int = -100
) -> torch.Tensor:
    """The logits' gradient.

    Args:
        dy: gradient of the loss, float32, of its shape.
        terms: what `dice_loss_fwd` returned beside the loss.
        x, target, ignore_index: as given there.

    Returns:
        dx, contiguous, of x's shape and dtype.
    """
    n, h, w, channels = image("dice_loss", "input", x)
    flat("dice_loss", "dy", dy)
    c = max(channels, 2)
    dx = empty(tuple(x.shape), x.dtype)
    (tiles,), tile = row_tile(h * w, c)
    launch(
        _dice_loss_bwd_kernel, (tiles, n), x, target, terms, dy, dx, fault.flag(),
        h * w, ignore_index, int(len(terms) == n),
        C=c, SIGMOID=c - channels, X_PITCH=pitch(x), TERMS=dy.shape[-1] if dy.dim() else 0, **tile,
    )  # fmt: skip
    return dx
