"""The launcher calls that the compile-only lane makes, on `meta` buffers: sizes as the networks have them, and odd ones."""

from collections.abc import Callable

import torch
from convolutions import GEMM, ONCE, STORED, Precision, buffer, convolutions

from tritonnet.kernels.activation import FUNCTIONS, activation_bwd, activation_fwd
from tritonnet.kernels.adam import adam_step
from tritonnet.kernels.argmax import argmax_fwd
from tritonnet.kernels.arithmetic import add_fwd, expand, mul_fwd
from tritonnet.kernels.augment import PARAMETERS, augment_fwd
from tritonnet.kernels.average import average_update
from tritonnet.kernels.avg_pool2d import avg_pool2d_bwd, avg_pool2d_fwd
from tritonnet.kernels.batch_norm import Norm, batch_norm_bwd, batch_norm_fwd, batch_norm_relu_scaled
from tritonnet.kernels.batch_norm_pool import batch_norm_pool_bwd, batch_norm_pool_fwd
from tritonnet.kernels.batch_norm_stats import Running, batch_norm_merge, batch_norm_stats
from tritonnet.kernels.binary_cross_entropy import binary_cross_entropy_fwd
from tritonnet.kernels.blend import blend
from tritonnet.kernels.cat import cat_fwd
from tritonnet.kernels.clip_grad_norm import clip_grad_norm
from tritonnet.kernels.confusion_matrix import confusion_matrix
from tritonnet.kernels.convert import cast, copy, image_input, nchw_to_nhwc, nhwc_to_nchw
from tritonnet.kernels.cross_entropy import cross_entropy_fwd
from tritonnet.kernels.dice_loss import dice_loss_bwd, dice_loss_fwd
from tritonnet.kernels.distance import distance_fwd
from tritonnet.kernels.dropout import dropout
from tritonnet.kernels.fill import fill
from tritonnet.kernels.focal_loss import focal_loss_fwd
from tritonnet.kernels.gradient_descent import descent_step
from tritonnet.kernels.head import head_bwd, head_fwd
from tritonnet.kernels.loss import loss_bwd
from tritonnet.kernels.max_pool2d import max_pool2d_bwd, max_pool2d_fwd
from tritonnet.kernels.mse_loss import mse_loss_fwd
from tritonnet.kernels.pad import pad_fwd
from tritonnet.kernels.random import normal, take, uniform
from tritonnet.kernels.scaled import scaled, scaled_again
from tritonnet.kernels.softmax import softmax_bwd, softmax_fwd
from tritonnet.kernels.sum import pixel_sum, sum_fwd, sum_to
from tritonnet.kernels.tensor_table import Tables, upload
from tritonnet.kernels.unfold import unfold
from tritonnet.kernels.upsample import axis, upsample_bwd, upsample_fwd


def images(p: Precision) -> list[torch.Tensor]:
    """A wide image; in float32 also a channel slice of an odd one, and one channel (the dtype decides no tile there)."""
    sizes = [(16, 256, 256, 64, 0), (2, 19, 23, 17, 3), (2, 19, 23, 1, 0)]
    return [buffer(*size, dtype=p.dtype, extra=extra) for *size, extra in sizes[: 3 if p.dtype == torch.float32 else 1]]


def activations(p: Precision) -> None:
    for x in images(p):
        for name in FUNCTIONS:
            activation_fwd(name, x)
            activation_bwd(name, x, x)


def arithmetic(p: Precision) -> None:
    for x in images(p):
        for b in (x, buffer(1, 1, 1, x.shape[3]), None):
            add_fwd(x, b, 0.5)
            mul_fwd(x, b, 0.5)
        expand(buffer(1, 1, 1, x.shape[3], dtype=p.dtype), tuple(x.shape), p.dtype)


def sums(p: Precision) -> None:
    for x in images(p):
        pixel_sum(x)
        sum_fwd(x, (0, 1, 2, 3))
        sum_fwd(x, (3,), 0.5)
        sum_fwd(x, (1, 2))
        sum_to(x, (1, 1, 1, x.shape[3]), torch.float32)


def conversions(p: Precision) -> None:
    for x in images(p):
        cast(x, torch.float32)
        cast(x, torch.bfloat16)
        copy(x, buffer(*x.shape, dtype=p.dtype, extra=8))
        if p.dtype == torch.float32:
            scaled(x)
        nhwc_to_nchw(x)
        nchw_to_nhwc(buffer(*x.shape, dtype=p.dtype))
        cat_fwd([x, x], 3)
        cat_fwd([x, x], 0)
        pad_fwd(x, (1, 2, 0, 3), 0.5)
        pad_fwd(x, (-1, 0, 2, -2), 0.0)
    for c, taps, stride in ((3, 3, 1), (1, 3, 1), (3, 7, 2)):  # RGB and grey images, and a first layer of 7x7
        x, weight = buffer(16, 256, 256, c, dtype=p.dtype), buffer(64, taps, taps, c, dtype=p.dtype)
        unfold(x, weight, stride=(stride, stride), padding=(taps // 2,) * 4, dilation=(1, 1))


def inputs(p: Precision) -> None:
    for c in (1, 3):
        for dtype in (torch.uint8, torch.int32, torch.float32):
            image_input(buffer(16, 256, 256, c, dtype=dtype), buffer(c), buffer(c), 1 / 255, p.dtype)


def augmentations(p: Precision) -> None:
    for c, dtype in ((3, torch.uint8), (1, torch.int32)):
        x, mask = buffer(16, 256, 256, c, dtype=dtype), buffer(16, 256, 256, dtype=torch.uint8)
        grid, keys = buffer(16, 2, 3, 3), buffer(16, dtype=torch.int64)
        for moved in ((grid, keys), (None, None)):
            augment_fwd(x, mask, buffer(16, PARAMETERS), *moved, buffer(c), buffer(c), 1 / 255, p.dtype)
        # sides of 1 are constants to the compiler
        augment_fwd(x[:1, :1, :1].contiguous(), mask[:1, :1, :1].contiguous(), buffer(1, PARAMETERS), grid[:1], keys[:1],
                    buffer(c), buffer(c), 1 / 255, p.dtype)  # fmt: skip


def upsamples(p: Precision) -> None:
    for x in images(p):
        h, w = x.shape[1:3]
        for nearest in (True, False):
            rows, columns = axis(h, 2 * h, nearest=nearest), axis(w, 2 * w + 1, nearest=nearest)
            upsample_fwd(x, rows, columns)
            upsample_bwd(buffer(x.shape[0], 2 * h, 2 * w + 1, x.shape[3], dtype=p.dtype), rows, columns)


def batch_norms(p: Precision) -> None:
    for x in images(p):
        c = x.shape[3]
        vector = buffer(c)
        running = Running(buffer(c), buffer(c), 0.1, buffer(1, dtype=torch.int64)[0])
        batch_norm_stats(x, running)
        batch_norm_fwd(x, vector, vector, vector, vector, relu=True)
        if p.dtype == torch.float32:
            batch_norm_relu_scaled(x, vector, vector, vector, vector)
        batch_norm_bwd(x, x, vector, vector, vector, vector, relu=True)
        batch_norm_bwd(x, x, vector, vector, vector, vector, training=False)
    batch_norm_merge(buffer(1000), buffer(1000, 64), buffer(1000, 64), running=None)
    wide = images(p)[0]
    vector = buffer(wide.shape[3])
    batch_norm_stats(wide)
    batch_norm_bwd(wide, wide, vector, vector, None, None)
    batch_norm_fwd(wide, vector, vector, None, None, out=buffer(*wide.shape, dtype=p.dtype, extra=64))


def batch_norm_pools(p: Precision) -> None:
    for x in images(p):
        n, h, w, c = x.shape
        vector, half = buffer(c), buffer(n, h // 2, w // 2, c, dtype=p.dtype)
        batch_norm_pool_fwd(x, vector, vector, vector, vector)
        for dy in (x, None):
            batch_norm_pool_bwd(dy, half, x, vector, vector, vector, vector)
        batch_norm_pool_bwd(x, half, x, vector, vector, vector, vector, training=False)


def heads(p: Precision) -> None:
    for n, h, w, c, k, extra in ((16, 256, 256, 64, 2, 0), (2, 19, 23, 17, 3, 3), (2, 19, 23, 128, 32, 0)):
        x, dy = buffer(n, h, w, c, dtype=p.dtype, extra=extra), buffer(n, h, w, k, dtype=p.dtype)
        norm, weight = Norm(*(buffer(c) for _ in range(4))), buffer(k, 1, 1, c, dtype=p.dtype)
        head_fwd(x, norm, weight, buffer(k), tf32=p.tf32)
        head_bwd(dy, x, norm, weight, tf32=p.tf32)


def pools(p: Precision) -> None:
    windows = (((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((17, 16), (1, 2), (0, 3)))
    for x, count in zip(images(p), (3, 1, 1), strict=False):
        h, w = x.shape[1:3]
        for window, stride, pad in windows[:count]:
            y, winner = max_pool2d_fwd(x, window, stride, pad)
            max_pool2d_bwd(y, winner, h, w, window, stride, pad)
            avg_pool2d_bwd(avg_pool2d_fwd(x, window, stride, pad), h, w, window, stride, pad)


def softmaxes(p: Precision) -> None:
    for c in (1, 17, 5000):
        x = buffer(2, 19, 23, c, dtype=p.dtype, extra=c % 2)
        argmax_fwd(x)
        for log in (False, True):
            softmax_fwd(x, log=log)
            softmax_bwd(x, buffer(*x.shape, dtype=p.dtype), log=log)


def cross_entropies(p: Precision) -> None:
    for c in (2, 17):
        x = buffer(16, 256, 256, c, dtype=p.dtype, extra=c % 2)
        for reduction in ("mean", "none"):
            cross_entropy_fwd(x, buffer(16, 256, 256, dtype=torch.uint8), None, 255, reduction)
        cross_entropy_fwd(x, buffer(16, 256, 256, dtype=torch.int64), buffer(c), -100, gradient=False)
        cross_entropy_fwd(x, buffer(*x.shape), buffer(c))
        gradient = buffer(*x.shape, dtype=p.dtype)
        loss_bwd(gradient, buffer(1)[0], p.dtype)
        loss_bwd(gradient, buffer(16, 256, 256), p.dtype)


def binary_cross_entropies(p: Precision) -> None:
    for c in (1, 3):
        x = buffer(16, 256, 256, c, dtype=p.dtype, extra=c % 2)
        for reduction in ("mean", "none"):
            binary_cross_entropy_fwd(x, buffer(*x.shape), None, None, reduction)
        binary_cross_entropy_fwd(x, buffer(*x.shape), buffer(*x.shape), buffer(c, 1, 1), gradient=False)
    binary_cross_entropy_fwd(
        buffer(16, 256, 256, 1, dtype=p.dtype), buffer(16, 256, 256, dtype=torch.uint8), ignore_index=255
    )


def distances(p: Precision) -> None:
    for dtype in (torch.uint8, torch.int32, torch.int64):
        distance_fwd(buffer(16, 256, 256, dtype=dtype), ignore_index=255)
        distance_fwd(buffer(2, 19, 23, dtype=dtype), 1, 16, -100)


def region_losses(p: Precision) -> None:
    """Focal, distance-aware and Dice: one channel, few, and as many as a tile holds."""
    for c in (1, 2, 17, 4096):
        n, side = (16, 256) if c < 4096 else (1, 16)
        x, k = buffer(n, side, side, c, dtype=p.dtype, extra=c % 2), max(c, 2)
        target, labels = buffer(n, side, side, dtype=torch.uint8), buffer(n, side, side, dtype=torch.int64)
        far = buffer(n, side, side, k - 1)
        focal_loss_fwd(x, target, ignore_index=255)
        focal_loss_fwd(x, labels, buffer(k), alpha=0.25, reduction="none")
        focal_loss_fwd(x, target, None, far, ignore_index=255)
        focal_loss_fwd(x, labels, buffer(k), far, reduction="sum", gradient=False)
        for weight, reduction, batch in ((None, "mean", False), (buffer(k), "none", True)):
            loss, terms = dice_loss_fwd(x, target, weight, batch=batch, reduction=reduction)
            dice_loss_bwd(loss, terms, x, target)


def squared_errors(p: Precision) -> None:
    for x in images(p):
        for reduction in ("mean", "none"):
            mse_loss_fwd(x, buffer(*x.shape), reduction)
        mse_loss_fwd(x, x, "sum", gradient=False)


def confusion_matrices(p: Precision) -> None:
    for c in (1, 2, 17):
        k = max(c, 2)
        x, target = buffer(16, 256, 256, c, dtype=p.dtype), buffer(16, 256, 256, dtype=torch.uint8)
        confusion_matrix(x, target, buffer(k, k, dtype=torch.int64), ignore_index=255)
        confusion_matrix(target, target, buffer(k, k, dtype=torch.int64))


def blends(p: Precision) -> None:
    for x in images(p):
        n, h, w, c = x.shape
        for mirrored in ((False, False), (True, True)):
            blend(x, buffer(n, 2 * h, 2 * w, c), h, w, buffer(h), buffer(w), mirrored)
    blend(buffer(1, 256, 256, 2), buffer(1, 256, 6000, 2), 0, 128, buffer(256), buffer(256), (True, False))


def optimizers(p: Precision) -> None:
    sizes = (9 * 64 * 64, 17, 1)
    weights, steps = [buffer(n) for n in sizes], [buffer(1)[0] for _ in sizes]
    upload(buffer(3, 7, dtype=torch.int64), buffer(3, 7, dtype=torch.int64))
    upload(buffer(99, 2, dtype=torch.int32), buffer(99, 2, dtype=torch.int32))
    lows = [buffer(n, dtype=p.dtype) if p.dtype != torch.float32 else None for n in sizes]
    for decoupled in (False, True):
        adam_step(
            Tables(), weights, weights, weights, weights, steps, lows, buffer(1)[0],
            betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled=decoupled,
        )  # fmt: skip
    nothing = [None] * 3
    for momentum, dampening, nesterov in ((0.0, 0.0, False), (0.9, 0.1, False), (0.9, 0.0, True)):
        descent_step(
            Tables(), weights, weights, nothing, nothing, weights if momentum else nothing, steps if dampening else nothing,
            lows, buffer(1)[0], weight_decay=0.01, momentum=momentum, dampening=dampening, nesterov=nesterov,
        )  # fmt: skip
    for alpha, momentum, centered in ((None, 0.0, False), (0.99, 0.0, False), (0.99, 0.9, True)):
        descent_step(
            Tables(), weights, weights, weights, weights if centered else nothing, weights if momentum else nothing, steps,
            lows, buffer(1)[0], weight_decay=0.01, alpha=alpha, lr_decay=0.1, eps=1e-8, momentum=momentum,
        )  # fmt: skip


def averages(p: Precision) -> None:
    weights = [buffer(n) for n in (9 * 64 * 64, 17, 1)]
    scaled_again(Tables(), [(w, scaled(w)) for w in weights])
    clip_grad_norm(Tables(), weights, 1.0)
    for decay in (0.999, None):
        average_update(Tables(), weights, weights, buffer(1, dtype=torch.int64)[0], decay)


def randoms(p: Precision) -> None:
    for elements in (1, 64, 1001):
        state = take(buffer(2, dtype=torch.int64), elements)
    uniform(buffer(1001, dtype=p.dtype), state, 0.0, 1.0)
    normal(buffer(1001, dtype=p.dtype), state, 0.0, 1.0)
    for x in images(p):
        dropout(x, state, 0.5)


# --- the table: what to call, and in which precisions it makes different launches ------------------------------------

CASES: dict[str, tuple[Callable[[Precision], object], tuple[str, ...]]] = {
    "fill": (lambda p: fill(buffer(100, dtype=p.dtype), 0), STORED),
    "fill-int": (lambda p: fill(buffer(100, dtype=torch.int64), 0), ONCE),
    "conv2d_fwd": (convolutions("conv2d_fwd"), GEMM),
    "conv2d_dgrad": (convolutions("conv2d_dgrad"), GEMM),
    "conv2d_wgrad": (convolutions("conv2d_wgrad"), GEMM),
    "arithmetic": (arithmetic, STORED),
    "sum": (sums, STORED),
    "convert": (conversions, STORED),
    "image_input": (inputs, STORED),
    "augment": (augmentations, STORED),
    "upsample": (upsamples, STORED),
    "activation": (activations, STORED),
    "batch_norm": (batch_norms, STORED),
    "batch_norm_pool": (batch_norm_pools, STORED),
    "head": (heads, GEMM),
    "pool": (pools, STORED),
    "optim": (optimizers, STORED),
    "average-clip_grad_norm-scaled_again": (averages, ONCE),
    "softmax": (softmaxes, STORED),
    "cross_entropy": (cross_entropies, STORED),
    "binary_cross_entropy": (binary_cross_entropies, STORED),
    "distance": (distances, ONCE),
    "region_loss": (region_losses, STORED),
    "mse_loss": (squared_errors, STORED),
    "confusion_matrix": (confusion_matrices, STORED),
    "blend": (blends, STORED),
    "random-dropout": (randoms, STORED),
}
