"""A training step over made data, as the training program runs it: what a profile and the step benchmarks time."""

import torch

from tritonnet.autograd import Tensor, storage_dtype
from tritonnet.autograd import precision as use_precision
from tritonnet.kernels import runtime
from tritonnet.kernels.convert import image_input
from tritonnet.kernels.fill import fill
from tritonnet.nn import CrossEntropyLoss, Module
from tritonnet.optim import Adam

__all__ = ["Step", "made_batch"]

Buffer = torch.Tensor


def made_batch(batch: int, height: int, width: int, channels: int, classes: int) -> tuple[Buffer, Buffer]:
    """Random images (N, H, W, C) and labels (N, H, W), uint8, on the device; the same for the same sizes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, high: int) -> Buffer:
        return torch.randint(0, high, shape, generator=generator, dtype=torch.uint8).to(runtime.device())

    return random(batch, height, width, channels, high=256), random(batch, height, width, high=classes)


class Step:
    """One update of `network`: images to numbers, forward, cross-entropy, backward, Adam.

    Args:
        network: from (N, C, H, W) to logits, one a class.
        channels: C of the images.
        precision: what it computes in.

    Attributes:
        dtype: of its images and products.
    """

    def __init__(self, network: Module, channels: int, precision: str) -> None:
        self.network, self.precision = network, precision
        with use_precision(precision):
            self.dtype = storage_dtype()
        self.optimizer = Adam(network.parameters(), lr=1e-4)
        self.loss_function = CrossEntropyLoss()
        self.mean, self.rstd = (fill(runtime.empty((channels,), torch.float32), value) for value in (0.5, 4.0))

    def forward(self, images: Buffer) -> Tensor:
        """Logits of uint8 images (N, H, W, C)."""
        with use_precision(self.precision):
            return self.network(Tensor(image_input(images, self.mean, self.rstd, 1 / 255, storage_dtype())))  # type: ignore[no-any-return]

    def gradients(self, images: Buffer, labels: Buffer) -> Tensor:
        """Forward and backward alone; the loss."""
        with use_precision(self.precision):
            loss = self.loss_function(self.forward(images), Tensor(labels))
            loss.backward()
        return loss.detach()  # type: ignore[no-any-return]

    def __call__(self, images: Buffer, labels: Buffer) -> Tensor:
        """One update with labels (N, H, W); the loss, which stays on the device."""
        loss = self.gradients(images, labels)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss
