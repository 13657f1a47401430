"""What only moves images: concatenation by copy, up-sampling, and the conversions of dtype and layout.

Bytes: what is read and what is written, once. (In the U-Net concatenation by layout moves nothing; there is nothing to time.)
"""

import torch
from torch.nn import functional as F

from bench.cases import DEVICE, GPU, IMAGES, LOW, ROUNDING, Case, active, nbytes, nchw, nhwc, over, randn
from tritonnet.kernels import upsample
from tritonnet.kernels.cat import cat_fwd
from tritonnet.kernels.convert import cast, image_input, nchw_to_nhwc
from tritonnet.kernels.scaled import scaled

aten = torch.ops.aten


def cat(n: int, side: int, c: int) -> Case:
    a, b = active(n, side, side, c), active(n, side, side, c)
    return Case(lambda: cat_fwd((a, b), 3), lambda: nhwc(torch.cat((nchw(a), nchw(b)), 1)), 2 * nbytes(a, b), rtol=0.0)


def upsample_bilinear(n: int, side: int, c: int) -> Case:
    x, axis = active(n, side // 2, side // 2, c), upsample.axis(side // 2, side, align_corners=True)

    def theirs() -> torch.Tensor:
        return nhwc(F.interpolate(nchw(x), scale_factor=2, mode="bilinear", align_corners=True))

    return Case(lambda: upsample.upsample_fwd(x, axis, axis), theirs, 5 * nbytes(x))


def upsample_bilinear_backward(n: int, side: int, c: int) -> Case:
    dy, axis = randn(n, side, side, c), upsample.axis(side // 2, side, align_corners=True)
    size = [n, c, side // 2, side // 2]

    def theirs() -> torch.Tensor:
        return nhwc(aten.upsample_bilinear2d_backward(nchw(dy), [side, side], size, True))

    rtol = 2 * ROUNDING[LOW]  # theirs may add up to nine terms an element one after another in bfloat16
    return Case(lambda: upsample.upsample_bwd(dy, axis, axis), theirs, 1.25 * nbytes(dy), rtol=rtol)


def upsample_nearest(n: int, side: int, c: int) -> Case:
    x, axis = active(n, side // 2, side // 2, c), upsample.axis(side // 2, side, nearest=True)
    return Case(
        lambda: upsample.upsample_fwd(x, axis, axis), lambda: nhwc(F.interpolate(nchw(x), scale_factor=2)), 5 * nbytes(x),
        rtol=0.0,
    )  # fmt: skip


def image_conversion(n: int, side: int) -> Case:
    """uint8 RGB images to a network's input."""
    x = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, device=DEVICE)
    mean, rstd = torch.rand(3, device=DEVICE), torch.rand(3, device=DEVICE) + 2
    y = image_input(x, mean, rstd, 1 / 255, LOW)
    return Case(
        lambda: image_input(x, mean, rstd, 1 / 255, LOW),
        lambda: ((x.float() * (1 / 255) - mean) * rstd).to(LOW),
        nbytes(x, y),
    )


def cast_float32(n: int, side: int, c: int) -> Case:
    x = randn(n, side, side, c, dtype=torch.float32)
    exact = 0.0 if GPU else 1e-2  # the interpreter cuts digits off where a GPU rounds
    return Case(lambda: cast(x, torch.bfloat16), lambda: x.to(torch.bfloat16), 1.5 * nbytes(x), rtol=exact)


def scale(n: int, side: int, c: int) -> Case:
    """Scaled float16, as tf32's convolutions multiply it: its largest element is looked for first."""
    x = randn(n, side, side, c, dtype=torch.float32)

    def theirs() -> torch.Tensor:
        return torch.ldexp(x, 15 - torch.frexp(x.abs().amax()).exponent).half()

    return Case(lambda: scaled(x).values, theirs, 2.5 * nbytes(x), rtol=0.0)


def channels_last(n: int, side: int, c: int) -> Case:
    x = randn(n, c, side, side)
    return Case(lambda: nchw_to_nhwc(x), lambda: nhwc(x).contiguous(), 2 * nbytes(x), rtol=0.0)


test_layout = over(
    [cat, upsample_bilinear, upsample_bilinear_backward, upsample_nearest, cast_float32, scale, channels_last], IMAGES
)
test_image_conversion = over([image_conversion], {"3@256 batch16": (16, 256), "3@256 batch1": (1, 256)})
