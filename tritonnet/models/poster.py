"""The poster's U-Net: 42 rows, 176,192 parameters with one class, 176,208 with two.

Two poolings, 16-32-64 channels. Up: a 3x3 stride-2 transposed convolution that keeps the channels, a 3x3 convolution
that halves them (neither followed by batch norm), then (skip, up) and a double convolution. No convolution has a bias.

The poster's single output channel goes through a softmax, which over one channel is 1 everywhere: that head cannot
classify. `forward` gives the logits before the softmax. Use two classes with cross-entropy, or one with binary
cross-entropy.
"""

from tritonnet.autograd import Tensor
from tritonnet.models.blocks import Concat, DoubleConv, fused_join
from tritonnet.models.segmenter import Segmenter
from tritonnet.nn import Conv2d, ConvTranspose2d, MaxPool2d, Softmax

__all__ = ["PosterUNet"]


class PosterUNet(Segmenter):
    """The poster's U-Net: images (N, in_channels, H, W) -> logits (N, num_classes, H, W); H and W at least 4.

    Args:
        in_channels: channels of an image.
        num_classes: channels of the result: 1 as on the poster, 2 to train.

    Raises:
        Refused: a number below 1.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__("poster", in_channels=in_channels, num_classes=num_classes)
        self.down1 = DoubleConv(in_channels, 16)
        self.pool1 = MaxPool2d(2)
        self.down2 = DoubleConv(16, 32)
        self.pool2 = MaxPool2d(2)
        self.middle = DoubleConv(32, 64)
        self.up1 = ConvTranspose2d(64, 64, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.narrow1 = Conv2d(64, 32, 3, padding=1, bias=False)
        self.concat1 = Concat()
        self.merge1 = DoubleConv(64, 32)
        self.up2 = ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.narrow2 = Conv2d(32, 16, 3, padding=1, bias=False)
        self.concat2 = Concat()
        self.merge2 = DoubleConv(32, 16)
        self.head = Conv2d(16, num_classes, 1, bias=False)
        self.softmax = Softmax(dim=1)
        self.built()

    def forward(self, x: Tensor) -> Tensor:
        """Logits; by the fused kernels unless a child was replaced."""
        self.check(x, 4)
        if self.is_as_built():
            return self._fused(x)
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool1(skip1))
        x = self.middle(self.pool2(skip2))
        x = self.merge1(self.concat1(skip2, self.narrow1(self.up1(x))))
        x = self.merge2(self.concat2(skip1, self.narrow2(self.up2(x))))
        return self.head(x)  # type: ignore[no-any-return]

    def _fused(self, x: Tensor) -> Tensor:
        skip1, x, free1 = self.down1.fused_skip(x, self.narrow2.out_channels, self.pool1)
        skip2, x, free2 = self.down2.fused_skip(x, self.narrow1.out_channels, self.pool2)
        x = self.middle.fused(x)
        x = self.merge1.fused(fused_join(skip2, free2, self.narrow1, self.up1(x)))
        return self.merge2.fused_head(fused_join(skip1, free1, self.narrow2, self.up2(x)), self.head)

    def whole(self, x: Tensor) -> Tensor:
        """The poster's output: the softmax of the logits over the channels (1 everywhere with one class)."""
        return self.softmax(self(x))  # type: ignore[no-any-return]
