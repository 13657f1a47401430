"""What runs as one op where PyTorch runs several: the output head, a convolution with the batch norm beside it, augmentation.

Bytes: head: x once forward, twice backward, dx once; augmentation: images and masks in and out. Theirs are compositions.
"""

import torch
from torch.nn import functional as F

from bench.cases import DEVICE, LOW, Case, active, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels.augment import augment_fwd
from tritonnet.kernels.batch_norm import Norm, batch_norm_bwd
from tritonnet.kernels.batch_norm_stats import batch_norm_stats
from tritonnet.kernels.conv2d import conv2d_dgrad, conv2d_fwd
from tritonnet.kernels.head import head_bwd, head_fwd


def _norm(x: torch.Tensor) -> Norm:
    """The batch's own statistics, with a scale and a shift."""
    c = x.shape[3]
    return Norm(*batch_norm_stats(x), torch.rand(c, device=DEVICE) + 0.5, torch.rand(c, device=DEVICE) - 0.5)


def head(n: int, side: int, c: int, k: int) -> Case:
    """Batch norm, ReLU and 1x1 convolution, forward and every gradient."""
    x, dy = randn(n, side, side, c), randn(n, side, side, k)
    w, bias, norm = randn(k, 1, 1, c), torch.rand(k, device=DEVICE), _norm(x)
    leaves = [t.detach().requires_grad_() for t in (nchw(x), norm.w, norm.b, nchw(w), bias.to(LOW))]

    def ours() -> tuple[torch.Tensor, ...]:
        return head_fwd(x, norm, w, bias), *head_bwd(dy, x, norm, w)

    def theirs() -> tuple[torch.Tensor, ...]:
        a, scale, shift, v, b = leaves
        y = F.conv2d(F.relu(F.batch_norm(a, None, None, scale, shift, True)), v, b)
        dx, dscale, dshift, dw, db = torch.autograd.grad(y, leaves, nchw(dy))
        return nhwc(y.detach()), nhwc(dx), dscale, dshift, nhwc(dw), db

    return Case(ours, theirs, 4 * nbytes(x) + 3 * nbytes(dy), rtol=2e-2)  # theirs rounds a and its gradient too


def conv2d_batch_norm_relu(n: int, side: int, c: int, k: int) -> Case:
    """A 3x3 convolution with batch norm and ReLU as in evaluation; theirs has the batch norm folded into the weights."""
    x, w = active(n, side, side, c), randn(k, 3, 3, c) * (2 / (9 * c)) ** 0.5
    norm = _norm(conv2d_fwd(x, w, padding=(1,) * 4)[0])
    scale = norm.w / (norm.var + norm.eps).sqrt()
    folded, bias = (nchw(w).float() * scale[:, None, None, None]).to(LOW), (norm.b - norm.mean * scale).to(LOW)
    folded = folded.contiguous(memory_format=torch.channels_last)

    def theirs() -> torch.Tensor:
        return nhwc(F.conv2d(nchw(x), folded, bias, padding=1).relu_())

    flops = 18 * n * side * side * c * k
    return Case(lambda: conv2d_fwd(x, w, padding=(1,) * 4, norm=norm)[0], theirs, nbytes(x, w) * 2, flops, 2e-2)


def dgrad_batch_norm_relu(n: int, side: int, c: int, k: int) -> Case:
    """The input gradient of a 3x3 convolution and the gradient of the batch norm and ReLU in front of it."""
    x, dy, w = randn(n, side, side, c), randn(n, side, side, k), randn(k, 3, 3, c) * (2 / (9 * c)) ** 0.5
    norm = _norm(x)
    leaves = [t.detach().requires_grad_() for t in (nchw(x), norm.w, norm.b)]
    y = F.conv2d(F.relu(F.batch_norm(leaves[0], None, None, *leaves[1:], True)), nchw(w), padding=1)

    def ours() -> tuple[torch.Tensor, ...]:
        between, sums = conv2d_dgrad(dy, w, input_size=(side, side), pad=(1, 1), norm=norm, z=x)
        return batch_norm_bwd(between, x, *norm.buffers, relu=True, sums=sums)

    def theirs() -> tuple[torch.Tensor, ...]:
        dx, dscale, dshift = torch.autograd.grad(y, leaves, nchw(dy), retain_graph=True)
        return nhwc(dx), dscale, dshift

    return Case(ours, theirs, 6 * nbytes(x) + nbytes(dy), 18 * n * side * side * c * k, 2e-2)


def augment(n: int, side: int) -> Case:
    """A rotation of uint8 RGB images and their masks, and the conversion to a network's input."""
    x = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, device=DEVICE)
    mask = torch.randint(0, 2, (n, side, side), dtype=torch.uint8, device=DEVICE)
    mean, rstd = torch.rand(3, device=DEVICE), torch.rand(3, device=DEVICE) + 2
    cos, sin = 0.8, 0.6
    row = [cos, -sin, 0, sin, cos, 0, 0, 1, 1, 0]
    parameters = torch.tensor([row] * n, dtype=torch.float32, device=DEVICE)
    theta = torch.tensor([[[cos, sin, 0], [-sin, cos, 0]]] * n, device=DEVICE)  # of (x, y)

    def ours() -> torch.Tensor:
        return augment_fwd(x, mask, parameters, None, None, mean, rstd, 1 / 255, LOW)[0]

    def theirs() -> torch.Tensor:
        grid = F.affine_grid(theta, [n, 3, side, side], align_corners=True)
        image = F.grid_sample(nchw(x).float() * (1 / 255), grid, "bilinear", "reflection", align_corners=True)
        F.grid_sample(mask[:, None].float(), grid, "nearest", "reflection", align_corners=True)
        return ((nhwc(image) - mean) * rstd).to(LOW)

    return Case(
        ours,
        theirs,
        nbytes(x) + 2 * nbytes(mask) + 3 * n * side * side * x.new_empty((), dtype=LOW).element_size(),
        rtol=2e-2,
    )


LEVELS = {"64-64@256 batch16": (16, 256, 64, 64), "256-256@64 batch16": (16, 64, 256, 256)}
test_head = over([head], {"64-2@256 batch16": (16, 256, 64, 2), "64-21@256 batch16": (16, 256, 64, 21)})
test_beside_batch_norm = over([conv2d_batch_norm_relu, dgrad_batch_norm_relu], LEVELS)
test_augment = over([augment], {"3@256 batch16": (16, 256), "3@256 batch1": (1, 256)})
