"""Sums and means over growing sizes, in float32: of everything, along rows, and along columns. Bytes: read once.

Numbers are positive, so that no sum is small against its terms.
"""

import torch

from bench.cases import Case, active, nbytes, over
from tritonnet.kernels.sum import sum_fwd

SIZES = {f"2^{k} elements": (k,) for k in (12, 16, 20, 24, 26, 28)}


def _matrix(k: int) -> torch.Tensor:
    """2^k elements, rows and columns about as many."""
    return active(2 ** (k // 2), 2 ** (k - k // 2), dtype=torch.float32)


def sum_all(k: int) -> Case:
    x = _matrix(k).view(-1)
    return Case(lambda: sum_fwd(x, (0,)), lambda: x.sum(0, keepdim=True), nbytes(x), rtol=1e-5, dtype=x.dtype)


def mean_all(k: int) -> Case:
    x = _matrix(k).view(-1)
    return Case(
        lambda: sum_fwd(x, (0,), 1 / x.numel()), lambda: x.mean(0, keepdim=True), nbytes(x), rtol=1e-5, dtype=x.dtype
    )


def sum_rows(k: int) -> Case:
    x = _matrix(k)
    return Case(lambda: sum_fwd(x, (1,)), lambda: x.sum(1, keepdim=True), nbytes(x), rtol=1e-5, dtype=x.dtype)


def sum_columns(k: int) -> Case:
    x = _matrix(k)
    return Case(lambda: sum_fwd(x, (0,)), lambda: x.sum(0, keepdim=True), nbytes(x), rtol=1e-5, dtype=x.dtype)


test_reduce = over([sum_all, mean_all, sum_rows, sum_columns], SIZES)
