"""How often each class was predicted for each class: the counts behind IoU, Dice and pixel accuracy.

    counts[t, p] += number of m with target[m] = t and predicted[m] = p

Predictions are class indices, or logits: then the first largest channel (see argmax.py); for one channel, class 1 where
the logit is above 0. A pixel whose target is `ignore_index` does not count; one whose target or prediction is outside
0..K-1 neither, and sets fault.LABEL. Integer atomics: the same counts in any order. Up to 22 classes (22 * 22 + 1 bins)
a program first gathers its pixels in a histogram.
Cost: memory-bound; reads the predictions and the targets.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import fault
from tritonnet.kernels.argmax import first_largest
from tritonnet.kernels.fault import LABEL, raise_flag
from tritonnet.kernels.loss import INTEGERS
from tritonnet.kernels.runtime import begin, check_dtype, flat, launch, next_power_of_2, refuse
from tritonnet.kernels.softmax import row_tile, rows

__all__ = ["confusion_matrix"]

MAX_BINS = 512


@triton.jit
def _confusion_matrix_kernel(
    prediction_ptr, target_ptr, counts_ptr, fault_ptr,
    M, ignore,  # M pixels
    K: tl.constexpr, C: tl.constexpr, PITCH: tl.constexpr, LOGITS: tl.constexpr, BINS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    begin()
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)  # [M]
    live = m < M
    t = tl.load(target_ptr + m, mask=live, other=0).to(tl.int64)
    if LOGITS and C == 1:
        p = (tl.load(prediction_ptr + m * PITCH, mask=live, other=0.0).to(tl.float32) > 0.0).to(tl.int64)
    elif LOGITS:
        p = first_largest(prediction_ptr, m, M, PITCH, C, BLOCK_M, BLOCK_C).to(tl.int64)
    else:
        p = tl.load(prediction_ptr + m, mask=live, other=0).to(tl.int64)
    counted = live & (t != ignore)
    known = counted & (t >= 0) & (t < K) & (p >= 0) & (p < K)
    raise_flag(counted & ~known, fault_ptr, LABEL)
    cell = t * K + p
    if BINS > 0:
        # what does not count goes to the bin after the last cell
        count = tl.histogram(tl.where(known, cell, K * K).to(tl.int32), BINS)
        at = tl.arange(0, BINS)
        tl.atomic_add(counts_ptr + at, count.to(tl.int64), mask=(at < K * K) & (count > 0))
    else:
        tl.atomic_add(counts_ptr + tl.where(known, cell, 0), known.to(tl.int64), mask=known)


def confusion_matrix(
    prediction: torch.Tensor, target: torch.Tensor, counts: torch.Tensor, *, ignore_index: int = -100
) -> torch.Tensor:
    """Add the pixels of one batch to `counts`.

    Args:
        prediction: class indices (N, H, W), int64, int32 or uint8, contiguous; or logits (N, H, W, C), pitch allowed,
            with C = K, or C = 1 for K = 2.
        target: class indices (N, H, W), int64, int32 or uint8, contiguous.
        counts: int64 (K, K), contiguous; row: target, column: prediction.
        ignore_index: the target that does not count.

    Returns:
        counts.

    Raises:
        Refused: shapes or dtypes that do not fit.
    """
    op = "confusion_matrix"
    check_dtype(op, "counts", counts, (torch.int64,))
    flat(op, "counts", counts)
    if counts.dim() != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] < 2:
        refuse(op, f"counts must have shape (K, K) with K at least 2, got {tuple(counts.shape)}")
    k = int(counts.shape[0])
    check_dtype(op, "target", target, INTEGERS)
    m, c, pitch = flat(op, "target", target), 1, 1
    logits = prediction.dtype.is_floating_point
    pixels = tuple(prediction.shape[:-1] if logits else prediction.shape)
    if tuple(target.shape) != pixels:
        refuse(op, f"target must have shape {pixels}, one index a pixel of the prediction, got {tuple(target.shape)}")
    if logits:
        _, c, pitch = rows(op, "prediction", prediction)
        if c != k and (c, k) != (1, 2):
            refuse(op, f"prediction must have {k} channels for {k} classes (or 1 for 2), got {c}")
    else:
        check_dtype(op, "prediction", prediction, INTEGERS)
        flat(op, "prediction", prediction)
    bins = next_power_of_2(max(k * k + 1, 128))
    grid, tile = row_tile(m, c, 1024 if c > 1 else 2048)
    launch(
        _confusion_matrix_kernel, grid, prediction, target, counts, fault.flag(), m, ignore_index,
        K=k, C=c, PITCH=pitch, LOGITS=logits, BINS=bins if bins <= MAX_BINS else 0, **tile,
    )  # fmt: skip
    return counts
