"""Batch normalisation with ReLU, and with ReLU and 2x2 max pooling, forward and backward, against PyTorch's (cuDNN's).

Bytes: the forward reads x for its statistics and again to apply them; the backward reads x and the gradients twice.
"""

import torch
from torch.nn import functional as F

from bench.cases import DEVICE, IMAGES, Case, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.batch_norm import batch_norm_bwd, batch_norm_fwd
from tritonnet.kernels.batch_norm_pool import batch_norm_pool_bwd, batch_norm_pool_fwd
from tritonnet.kernels.batch_norm_stats import batch_norm_stats

aten = torch.ops.aten


def _vectors(c: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(c, device=DEVICE) + 0.5, torch.rand(c, device=DEVICE) - 0.5


def _theirs(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """PyTorch's batch norm in training, by the implementation that it chooses itself, and what its backward wants."""
    return aten._batch_norm_impl_index(nchw(x), w, b, None, None, True, 0.1, 1e-5, True)


def _theirs_backward(
    x: torch.Tensor, w: torch.Tensor, saved: tuple, gradient: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    _, mean, rstd, reserve, implementation = saved
    dx, dw, db = aten._batch_norm_impl_index_backward(
        implementation, nchw(x), gradient, w, None, None, mean, rstd, True, 1e-5, [True, True, True], reserve
    )
    return nhwc(dx), dw, db


def batch_norm_relu(n: int, side: int, c: int) -> Case:
    x, (w, b) = randn(n, side, side, c), _vectors(c)

    def ours() -> torch.Tensor:
        mean, var = batch_norm_stats(x)
        return batch_norm_fwd(x, mean, var, w, b, relu=True)

    return Case(ours, lambda: nhwc(F.relu(F.batch_norm(nchw(x), None, None, w, b, True))), 3 * nbytes(x))


def batch_norm_relu_backward(n: int, side: int, c: int) -> Case:
    x, dy, (w, b) = randn(n, side, side, c), randn(n, side, side, c), _vectors(c)
    mean, var = batch_norm_stats(x)
    saved = _theirs(x, w, b)
    y = F.relu(saved[0])

    def theirs() -> tuple[torch.Tensor, ...]:
        return _theirs_backward(x, w, saved, aten.threshold_backward(nchw(dy), y, 0))

    return Case(lambda: batch_norm_bwd(dy, x, mean, var, w, b, relu=True), theirs, 5 * nbytes(x))


def batch_norm_pool(n: int, side: int, c: int) -> Case:
    x, (w, b) = randn(n, side, side, c), _vectors(c)

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = batch_norm_stats(x)
        return batch_norm_pool_fwd(x, mean, var, w, b)

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        y = F.relu(F.batch_norm(nchw(x), None, None, w, b, True))
        return nhwc(y), nhwc(F.max_pool2d(y, 2))

    return Case(ours, theirs, 3.25 * nbytes(x))


def batch_norm_pool_backward(n: int, side: int, c: int) -> Case:
    x, dy, dz, (w, b) = randn(n, side, side, c), randn(n, side, side, c), randn(n, side // 2, side // 2, c), _vectors(c)
    mean, var = batch_norm_stats(x)
    saved = _theirs(x, w, b)
    y = F.relu(saved[0])
    _, index = aten.max_pool2d_with_indices(y, [2, 2])

    def theirs() -> tuple[torch.Tensor, ...]:
        pooled = aten.max_pool2d_with_indices_backward(nchw(dz), y, [2, 2], [2, 2], [0, 0], [1, 1], False, index)
        return _theirs_backward(x, w, saved, aten.threshold_backward(nchw(dy) + pooled, y, 0))

    return Case(lambda: batch_norm_pool_bwd(dy, dz, x, mean, var, w, b), theirs, 5.5 * nbytes(x))


test_batch_norm = over([batch_norm_relu, batch_norm_relu_backward, batch_norm_pool, batch_norm_pool_backward], IMAGES)
