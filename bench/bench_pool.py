"""Max and average pooling: the U-Net's 2x2, and the overlapping 3x3 of stride 2 that other networks begin with.

Bytes: the image, the result, and in max pooling a byte a result that names the winner.
"""

import torch
from torch.nn import functional as F

from bench.cases import IMAGES, Case, active, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.avg_pool2d import avg_pool2d_bwd, avg_pool2d_fwd
from tritonnet.kernels.max_pool2d import max_pool2d_bwd, max_pool2d_fwd

aten = torch.ops.aten
WINDOWS = {f"2x2 {name}": (*sizes, 2, 2, 0) for name, sizes in IMAGES.items()}
WINDOWS |= {"3x3s2 64@112 batch16": (16, 112, 64, 3, 2, 1)}


def max_pool2d(n: int, side: int, c: int, kernel: int, stride: int, pad: int) -> Case:
    x = active(n, side, side, c)
    window = (kernel, kernel), (stride, stride), (pad, pad)
    moved = nbytes(x, *max_pool2d_fwd(x, *window))
    return Case(
        lambda: max_pool2d_fwd(x, *window)[0], lambda: nhwc(F.max_pool2d(nchw(x), kernel, stride, pad)), moved, rtol=0.0
    )


def max_pool2d_backward(n: int, side: int, c: int, kernel: int, stride: int, pad: int) -> Case:
    x = active(n, side, side, c)
    window = [kernel] * 2, [stride] * 2, [pad] * 2
    y, winner = max_pool2d_fwd(x, *map(tuple, window))
    _, index = aten.max_pool2d_with_indices(nchw(x), *window)
    dy = randn(*y.shape)

    def theirs() -> torch.Tensor:
        return nhwc(aten.max_pool2d_with_indices_backward(nchw(dy), nchw(x), *window, [1, 1], False, index))

    return Case(lambda: max_pool2d_bwd(dy, winner, side, side, *map(tuple, window)), theirs, nbytes(x, dy, winner))


def avg_pool2d(n: int, side: int, c: int, kernel: int, stride: int, pad: int) -> Case:
    x = active(n, side, side, c)
    window = (kernel, kernel), (stride, stride), (pad, pad)
    moved = nbytes(x, avg_pool2d_fwd(x, *window))
    return Case(lambda: avg_pool2d_fwd(x, *window), lambda: nhwc(F.avg_pool2d(nchw(x), kernel, stride, pad)), moved)


def avg_pool2d_backward(n: int, side: int, c: int, kernel: int, stride: int, pad: int) -> Case:
    x = active(n, side, side, c)
    window = [kernel] * 2, [stride] * 2, [pad] * 2
    dy = randn(*avg_pool2d_fwd(x, *map(tuple, window)).shape)

    def theirs() -> torch.Tensor:
        return nhwc(aten.avg_pool2d_backward(nchw(dy), nchw(x), *window, False, True, None))

    return Case(lambda: avg_pool2d_bwd(dy, side, side, *map(tuple, window)), theirs, nbytes(x, dy))


test_pool = over([max_pool2d, max_pool2d_backward, avg_pool2d, avg_pool2d_backward], WINDOWS)
