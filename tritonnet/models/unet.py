"""The U-Net with the key names of the widely used PyTorch implementation, so that its published weights load.

Down: double convolutions of base_channels * 2**i channels between 2x2 max pools. Up: 2x2 transposed convolutions of
stride 2 (or bilinear up-sampling with align_corners, which halves the widths below), each joined to the skip of its
size as (skip, up) and put through a double convolution. A last 1x1 convolution gives one logit a class.

Source: Ronneberger et al. 2015, with padded convolutions and batch norm. Learned 2x2 convolutions of stride 2 in place of
the pooling: Milletari et al. 2016 (V-Net), section 2. With `skip="add"` the up-sampled image is added to the skip, so that
the double convolution sees half the channels.
"""

from collections.abc import Mapping
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import refuse
from tritonnet.models.blocks import Add, Concat, DoubleConv, fused_join
from tritonnet.models.segmenter import Segmenter
from tritonnet.nn import Conv2d, ConvTranspose2d, Dropout, IncompatibleKeys, MaxPool2d, Module, Sequential, Upsample

__all__ = ["UNet"]


class Down(Module):
    """2x2 max pooling, or a 2x2 convolution of stride 2 in its place; then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int, down: str) -> None:
        super().__init__()
        halve = MaxPool2d(2) if down == "pool" else Conv2d(in_channels, in_channels, 2, stride=2)
        self.maxpool_conv = Sequential(halve, DoubleConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H // 2, W // 2)."""
        return self.maxpool_conv(x)  # type: ignore[no-any-return]


class Up(Module):
    """Twice the size, joined to the skip, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool, skip: str) -> None:
        super().__init__()
        half = in_channels // 2
        joined = in_channels if skip == "concat" else half
        self.up: Module
        if bilinear:
            self.up = Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.up = ConvTranspose2d(in_channels, half, 2, stride=2)
        self.skip = skip
        self.add_module(skip, Concat() if skip == "concat" else Add())
        self.conv = DoubleConv(joined, out_channels, half if bilinear else None)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, H // 2, W // 2) and (N, D, H, W) -> (N, out, H, W)."""
        return self.conv(getattr(self, self.skip)(skip, self.up(x)))  # type: ignore[no-any-return]

    def fused_join(self, x: Tensor, skip: Tensor, free: torch.Tensor) -> Tensor:
        """The input of the double convolution, without a copy where it is a concatenation."""
        return fused_join(skip, free, self.up, x) if self.skip == "concat" else self.add(skip, self.up(x))


class OutConv(Module):
    """One logit a class: a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W)."""
        return self.conv(x)  # type: ignore[no-any-return]


class UNet(Segmenter):
    """U-Net: images (N, in_channels, H, W) -> logits (N, num_classes, H, W); H and W at least 2**depth, any above.

    Args:
        in_channels: channels of an image (3 for RGB).
        num_classes: channels of the result. With 1, train with binary cross-entropy.
        base_channels: width of the finest level; each level below has twice as many.
        depth: number of poolings.
        upsample: "transposed" (31,037,698 parameters at 3 channels, 2 classes) or "bilinear" (17,263,042).
        skip: how a skip joins what comes from below: "concat", or "add" (27,904,258 parameters).
        down: "pool", or "conv": a learned 2x2 convolution of stride 2 (32,431,298 parameters).
        dropout: probability with which an element of the coarsest level is dropped in training, 0 to 1.

    Raises:
        Refused: a number below 1, or another `upsample`, `skip` or `down`.
    """

    def __init__(
        self, in_channels: int, num_classes: int, base_channels: int = 64, depth: int = 4, upsample: str = "transposed",
        skip: str = "concat", down: str = "pool", dropout: float = 0.0,
    ) -> None:  # fmt: skip
        choices = {"upsample": ("transposed", "bilinear"), "skip": ("concat", "add"), "down": ("pool", "conv")}
        for (name, known), value in zip(choices.items(), (upsample, skip, down), strict=True):
            if value not in known:
                refuse("UNet", f"{name} must be {' or '.join(known)}, got {value!r}")
        super().__init__(
            "unet", in_channels=in_channels, num_classes=num_classes, base_channels=base_channels, depth=depth,
            upsample=upsample, skip=skip, down=down, dropout=dropout,
        )  # fmt: skip
        self.depth = depth
        width = [base_channels * 2**i for i in range(depth + 1)]
        bilinear = upsample == "bilinear"
        part = 2 if bilinear else 1
        self.inc = DoubleConv(in_channels, width[0])
        for i in range(1, depth + 1):
            self.add_module(f"down{i}", Down(width[i - 1], width[i] // (part if i == depth else 1), down))
        self.dropout = Dropout(dropout) if dropout else None
        for i in range(1, depth + 1):
            level = depth - i
            self.add_module(f"up{i}", Up(width[level + 1], width[level] // (part if level else 1), bilinear, skip))
        self.outc = OutConv(width[0], num_classes)
        self.built()

    def forward(self, x: Tensor) -> Tensor:
        """Logits; by the fused kernels unless a child was replaced."""
        self.check(x, 2**self.depth)
        downs = [getattr(self, f"down{i + 1}") for i in range(self.depth)]
        ups = [getattr(self, f"up{i + 1}") for i in range(self.depth)]
        if self.is_as_built():
            return self._fused(x, downs, ups)
        skips = [self.inc(x)]
        for down in downs:
            skips.append(down(skips[-1]))
        x = self._dropped(skips.pop())
        for up in ups:
            x = up(x, skips.pop())
        return self.outc(x)  # type: ignore[no-any-return]

    def _dropped(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)

    def _fused(self, x: Tensor, downs: list[Any], ups: list[Any]) -> Tensor:
        skips = []
        block: Any = self.inc
        for down, up in zip(downs, reversed(ups), strict=True):
            room = up.conv.double_conv[0].in_channels - block.double_conv[3].out_channels
            skip, x, free = block.fused_skip(x, room, down.maxpool_conv[0])
            skips.append((skip, free))
            block = down.maxpool_conv[1]
        x = self._dropped(block.fused(x))
        for up in ups[:-1]:
            x = up.conv.fused(up.fused_join(x, *skips.pop()))
        return ups[-1].conv.fused_head(ups[-1].fused_join(x, *skips.pop()), self.outc.conv)  # type: ignore[no-any-return]

    def recompute(self, levels: int = 2) -> None:
        """Train in less memory: keep no input of the convolutions in the blocks at the `levels` finest sizes.

        The backward of the fused forward makes those images again, from what batch norm and up-sampling before them keep;
        results keep their bits.
        """
        for level in range(self.depth + 1):
            down = self.inc if level == 0 else getattr(self, f"down{level}").maxpool_conv[1]
            up = [getattr(self, f"up{self.depth - level}").conv] if level < self.depth else []
            for block in (down, *up):
                block.recompute = level < levels

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """As Module's; the key `mask_values` that published files carry is left out."""
        return super().load_state_dict({k: v for k, v in state_dict.items() if k != "mask_values"}, strict)
