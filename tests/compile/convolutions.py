"""What the compile-only lane calls convolutions with, and the buffers and precisions of all its calls."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tritonnet.kernels.batch_norm import Norm
from tritonnet.kernels.conv2d import conv2d_dgrad, conv2d_fwd, conv2d_wgrad, output_size


@dataclass(frozen=True)
class Precision:
    """What images are stored in, and whether float32 products may round to tf32."""

    dtype: torch.dtype
    tf32: bool = False


PRECISIONS = {
    "fp32": Precision(torch.float32),
    "tf32": Precision(torch.float32, tf32=True),
    "bf16": Precision(torch.bfloat16),
    "fp16": Precision(torch.float16),
}
GEMM = ("fp32", "tf32", "bf16", "fp16")
STORED = ("fp32", "bf16", "fp16")
ONCE = ("fp32",)


def buffer(*shape: int, dtype: torch.dtype = torch.float32, extra: int = 0) -> torch.Tensor:
    """A contiguous buffer, or with `extra` an image that is a channel slice of one that much wider."""
    wide = torch.empty((*shape[:-1], shape[-1] + extra), dtype=dtype, device="meta")
    return wide[..., : shape[-1]] if extra else wide


def convolution(
    name: str, p: Precision, n: int, h: int, w: int, c: int, k: int, kernel: tuple[int, int], stride: int = 1, pad: int = 0,
    dilation: int = 1, extra: int = 0, bias: bool = False, room: int = 0,
) -> None:  # fmt: skip
    """One pass, `name` being its launcher's; `room` channels of x beside those that count."""
    size = [output_size(side, taps, stride, pad, pad, dilation) for side, taps in zip((h, w), kernel, strict=True)]
    x, dy = buffer(n, h, w, c, dtype=p.dtype, extra=extra or room), buffer(n, *size, k, dtype=p.dtype, extra=extra)
    weight = buffer(k, *kernel, c, dtype=p.dtype)
    steps, spread = (stride, stride), (dilation, dilation)
    if name == "conv2d_fwd":
        forward = partial(conv2d_fwd, x, weight, stride=steps, padding=(pad,) * 4, dilation=spread, tf32=p.tf32)
        forward(buffer(k) if bias else None)
        if not bias:  # training and evaluation of a convolution with a batch norm behind it
            forward(statistics=True)
            forward(norm=Norm(*(buffer(k) for _ in range(4))))
    elif name == "conv2d_dgrad":
        window = {"input_size": (h, w), "stride": steps, "pad": (pad, pad), "dilation": spread, "tf32": p.tf32}
        backward = partial(conv2d_dgrad, dy, weight, **window)  # type: ignore[arg-type]
        backward(buffer(c) if bias else None)
        if not bias:  # a batch norm and a ReLU in front
            backward(norm=Norm(*(buffer(c) for _ in range(4))), z=x)
    elif name == "conv2d_wgrad":
        conv2d_wgrad(dy, x, kernel_size=kernel, stride=steps, pad=(pad, pad), dilation=spread, tf32=p.tf32)
    else:
        raise AssertionError(f"no launcher for {name}")


SHAPES: dict[str, dict[str, object]] = {
    "first": {"n": 16, "h": 256, "w": 256, "c": 3, "k": 64, "kernel": (3, 3), "pad": 1},
    "patches": {"n": 16, "h": 256, "w": 256, "c": 16, "k": 64, "kernel": (3, 1)},  # of 3x3 over RGB
    "patches-grey": {"n": 16, "h": 256, "w": 256, "c": 16, "k": 64, "kernel": (1, 1)},
    "64": {"n": 16, "h": 256, "w": 256, "c": 64, "k": 64, "kernel": (3, 3), "pad": 1},
    "128": {"n": 16, "h": 128, "w": 128, "c": 128, "k": 128, "kernel": (3, 3), "pad": 1},
    "split": {"n": 1, "h": 16, "w": 16, "c": 1024, "k": 1024, "kernel": (3, 3), "pad": 1},  # over channels
    "256-128-slice": {"n": 1, "h": 128, "w": 128, "c": 256, "k": 128, "kernel": (3, 3), "pad": 1, "extra": 64},
    "head": {"n": 16, "h": 256, "w": 256, "c": 64, "k": 2, "kernel": (1, 1), "bias": True},
    "transposed-2x2": {"n": 16, "h": 256, "w": 256, "c": 64, "k": 128, "kernel": (2, 2), "stride": 2, "bias": True},
    "poster-16": {"n": 32, "h": 32, "w": 32, "c": 16, "k": 32, "kernel": (3, 3), "pad": 1},
    "poster-transposed": {"n": 32, "h": 16, "w": 16, "c": 64, "k": 64, "kernel": (3, 3), "stride": 2, "pad": 1},
    "residual-down": {"n": 16, "h": 256, "w": 256, "c": 64, "k": 128, "kernel": (3, 3), "stride": 2, "pad": 1},
    "residual-shortcut": {"n": 16, "h": 256, "w": 256, "c": 64, "k": 128, "kernel": (1, 1), "stride": 2},
    "one-channel": {"n": 2, "h": 33, "w": 31, "c": 1, "k": 1, "kernel": (3, 3), "pad": 1},
    "odd": {"n": 2, "h": 19, "w": 23, "c": 17, "k": 17, "kernel": (5, 3), "pad": 2, "dilation": 2, "extra": 3},
}


def convolutions(name: str) -> Callable[[Precision], None]:
    """All shapes through one pass; some of them where the tiles are those of another precision."""
    less = {
        torch.float32: ("first", "64", "128", "split", "transposed-2x2", "odd", "one-channel"),
        torch.float16: ("128", "odd", "one-channel", "patches", "patches-grey"),
    }

    def run(p: Precision) -> None:
        for key in less[p.dtype] if p.tf32 or p.dtype == torch.float16 else SHAPES:
            convolution(name, p, **SHAPES[key])  # type: ignore[arg-type]

    return run
