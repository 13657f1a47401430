"""A network of two convolutions for tests of what happens around a step: the interpreter takes a tenth of a U-Net's time."""

import pytest

from tritonnet import models, nn
from tritonnet.autograd import Tensor


class Small(models.Segmenter):
    """Convolution, batch norm (`norm` "batch", else none), ReLU, dropout, convolution."""

    def __init__(self, in_channels: int, num_classes: int, norm: str = "batch", dropout: float = 0.0) -> None:
        super().__init__("small", in_channels=in_channels, num_classes=num_classes, norm=norm, dropout=dropout)
        self.first = nn.Conv2d(in_channels, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2) if norm == "batch" else nn.Identity()
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(dropout)
        self.head = nn.Conv2d(2, num_classes, 1)
        self.built()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.dropout(self.relu(self.norm(self.first(x)))))  # type: ignore[no-any-return]


def train_small(monkeypatch: pytest.MonkeyPatch, norm: str = "batch") -> None:
    """Let `tritonnet.train` build it, whatever the configuration asks for."""
    monkeypatch.setitem(models._KINDS, "small", Small)
    build = lambda config, dataset: Small(dataset.channels, dataset.num_classes, norm, config.dropout)  # noqa: E731
    monkeypatch.setattr("tritonnet.train.training.build", build)
