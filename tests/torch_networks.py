"""The same networks in plain torch, written from their descriptions: what the models' tests compare with."""

import torch
from torch import nn
from torch.nn import functional as F


def double_conv(c: int, k: int, middle: int | None = None) -> nn.Sequential:
    """(3x3 convolution, batch norm, ReLU) twice."""
    m = middle or k
    return nn.Sequential(
        nn.Conv2d(c, m, 3, padding=1, bias=False), nn.BatchNorm2d(m), nn.ReLU(),
        nn.Conv2d(m, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(),
    )  # fmt: skip


def holder(**children: nn.Module) -> nn.Module:
    """A module that only names its children."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def joined(skip: torch.Tensor, x: torch.Tensor, add: bool = False) -> torch.Tensor:
    """(skip, x), or their sum, with x zero-padded to the skip's size by diff // 2 before and the rest after."""
    h, w = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    if h or w:  # a pad by nothing would be a copy, which the benchmarks would time
        x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
    return skip + x if add else torch.cat((skip, x), 1)


class TorchUNet(nn.Module):
    """The U-Net under the published key names."""

    def __init__(
        self, in_channels: int, num_classes: int, base_channels: int = 64, depth: int = 4, upsample: str = "transposed",
        skip: str = "concat", down: str = "pool",
    ) -> None:  # fmt: skip
        super().__init__()
        self.depth, bilinear, self.add = depth, upsample == "bilinear", skip == "add"
        width = [base_channels * 2**i for i in range(depth + 1)]
        narrow = [w // 2 if bilinear else w for w in width]
        self.inc = holder(double_conv=double_conv(in_channels, width[0]))
        for i in range(1, depth + 1):
            out = narrow[i] if i == depth else width[i]
            inner = holder(double_conv=double_conv(width[i - 1], out))
            halve = nn.MaxPool2d(2) if down == "pool" else nn.Conv2d(width[i - 1], width[i - 1], 2, stride=2)
            self.add_module(f"down{i}", holder(maxpool_conv=nn.Sequential(halve, inner)))
        for i in range(1, depth + 1):
            c, k = width[depth - i + 1], narrow[depth - i] if i < depth else width[0]
            up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            up = up if bilinear else nn.ConvTranspose2d(c, c // 2, 2, stride=2)
            conv = holder(double_conv=double_conv(c // 2 if self.add else c, k, c // 2 if bilinear else None))
            self.add_module(f"up{i}", holder(up=up, conv=conv))
        self.outc = holder(conv=nn.Conv2d(width[0], num_classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        skips = [self.inc.double_conv(x)]
        for i in range(1, self.depth + 1):
            pool, inner = getattr(self, f"down{i}").maxpool_conv
            skips.append(inner.double_conv(pool(skips[-1])))
        x = skips.pop()
        for i in range(1, self.depth + 1):
            up = getattr(self, f"up{i}")
            x = up.conv.double_conv(joined(skips.pop(), up.up(x), self.add))
        return self.outc.conv(x)


class TorchPoster(nn.Module):
    """The poster's network, its parts named as ours."""

    def __init__(self, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__()
        self.down1 = holder(double_conv=double_conv(in_channels, 16))
        self.down2 = holder(double_conv=double_conv(16, 32))
        self.middle = holder(double_conv=double_conv(32, 64))
        self.up1 = nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.narrow1 = nn.Conv2d(64, 32, 3, padding=1, bias=False)
        self.merge1 = holder(double_conv=double_conv(64, 32))
        self.up2 = nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.narrow2 = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.merge2 = holder(double_conv=double_conv(32, 16))
        self.head = nn.Conv2d(16, num_classes, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        skip1 = self.down1.double_conv(x)
        skip2 = self.down2.double_conv(F.max_pool2d(skip1, 2))
        x = self.middle.double_conv(F.max_pool2d(skip2, 2))
        x = self.merge1.double_conv(joined(skip2, self.narrow1(self.up1(x))))
        x = self.merge2.double_conv(joined(skip1, self.narrow2(self.up2(x))))
        return self.head(x)
