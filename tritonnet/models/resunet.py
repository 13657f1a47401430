"""The residual U-Net: units of two convolutions behind batch norm and ReLU, with a shortcut around them.

    unit(x) = conv2(relu(norm2(conv1(relu(norm1(x)))))) + shortcut(x)

Down: units of base_channels * 2**i channels, from the second on with stride 2 in the first convolution. Up: what comes
from below is up-sampled, joined to the skip as (skip, up), and put through a unit. A 1x1 convolution gives the logits.

Source: Zhang, Liu & Wang 2018, "Road Extraction by Deep Residual U-Net", figure 2 and table 1 (base_channels=64, depth=3,
one class). The first unit's first convolution sees the image itself. What the paper leaves open: the up-sampling is
bilinear, since its 7.8 million parameters leave none for another, and goes to the skip's size, so any image size fits; a
shortcut is a 1x1 convolution where channels or sizes differ; convolutions have no bias but for the head, which sees every
constant that the batch norms do not take away.
"""

import itertools

from tritonnet.autograd import Tensor
from tritonnet.models.blocks import Add, Concat, window
from tritonnet.models.segmenter import Segmenter
from tritonnet.nn import BatchNorm2d, Conv2d, Identity, Module, ModuleList, ReLU
from tritonnet.nn import functional as F
from tritonnet.ops.conv import batch_norm_relu_conv2d, conv2d_moments

__all__ = ["ResUNet"]


class ResidualUnit(Module):
    """(N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)); the first of a network has no norm in front."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        self.first = first
        if not first:
            self.norm1, self.relu1 = BatchNorm2d(in_channels), ReLU()
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2, self.relu2 = BatchNorm2d(out_channels), ReLU()
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels and stride == 1
        self.shortcut = Identity() if same else Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        """Module by module."""
        y = self.conv1(x if self.first else self.relu1(self.norm1(x)))
        return self.add(self.shortcut(x), self.conv2(self.relu2(self.norm2(y))))  # type: ignore[no-any-return]

    def fused(self, x: Tensor) -> Tensor:
        """The same numbers with batch norm, ReLU and the convolution behind them as one operation."""
        if self.first:
            y, moments = conv2d_moments(x, *window(self.conv1))
        else:
            y, moments = batch_norm_relu_conv2d(x, self.norm1.arguments(), *window(self.conv1))
        y, _ = batch_norm_relu_conv2d(y, self.norm2.arguments(), *window(self.conv2), moments=moments)
        return self.add(self.shortcut(x), y)  # type: ignore[no-any-return]


class UpsampleTo(Module):
    """Bilinear up-sampling to the size of another image; corners keep their place."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """(N, C, P, Q) and (N, D, H, W) -> (N, C, H, W)."""
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


class Up(Module):
    """Up-sampled to the skip's size, joined to it, then a unit."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up, self.concat = UpsampleTo(), Concat()
        self.unit = ResidualUnit(in_channels + out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, in, P, Q) and (N, out, H, W) -> (N, out, H, W)."""
        return self.unit(self.concat(skip, self.up(x, skip)))  # type: ignore[no-any-return]

    def fused(self, x: Tensor, skip: Tensor) -> Tensor:
        """The same with the fused unit."""
        return self.unit.fused(self.concat(skip, self.up(x, skip)))


class ResUNet(Segmenter):
    """Residual U-Net: images (N, in_channels, H, W) -> logits (N, num_classes, H, W); H and W at least 2**depth.

    Args:
        in_channels: channels of an image (3 for RGB).
        num_classes: channels of the result. With 1, train with binary cross-entropy.
        base_channels: width of the finest level; each level below has twice as many.
        depth: number of levels below the finest (8,216,769 parameters at 3 channels and 1 class).

    Raises:
        Refused: a number below 1.
    """

    def __init__(self, in_channels: int, num_classes: int, base_channels: int = 64, depth: int = 3) -> None:
        super().__init__(
            "resunet", in_channels=in_channels, num_classes=num_classes, base_channels=base_channels, depth=depth
        )
        self.depth = depth
        width = [base_channels * 2**i for i in range(depth + 1)]
        below = [ResidualUnit(c, k, stride=2) for c, k in itertools.pairwise(width)]
        self.encoder = ModuleList([ResidualUnit(in_channels, width[0], first=True), *below])
        self.decoder = ModuleList([Up(width[i + 1], width[i]) for i in reversed(range(depth))])
        self.head = Conv2d(width[0], num_classes, 1)
        self.built()

    def forward(self, x: Tensor) -> Tensor:
        """Logits; by the fused kernels unless a child was replaced."""
        self.check(x, 2**self.depth)
        fused, skips = self.is_as_built(), []
        for unit in self.encoder:
            x = unit.fused(x) if fused else unit(x)
            skips.append(x)
        skips.pop()
        for up in self.decoder:
            x = up.fused(x, skips.pop()) if fused else up(x, skips.pop())
        return self.head(x)  # type: ignore[no-any-return]
