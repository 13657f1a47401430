"""From arrays on the host to the network's input and targets on the device."""

from collections.abc import Sequence

import numpy as np
import torch

from tritonnet.autograd import Tensor, storage_dtype
from tritonnet.data import Augmentation, Dataset
from tritonnet.kernels import runtime
from tritonnet.kernels.augment import augment_fwd
from tritonnet.kernels.convert import image_input

__all__ = ["Normalizer", "augmented_sample", "to_device"]


def to_device(array: np.ndarray) -> torch.Tensor:
    """A buffer on the device with the array's values; on a GPU the copy runs beside the kernels, from pinned memory."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if runtime.device().type == "cpu":
        return host
    pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
    # by this thread: PyTorch would wake one a core, and where other programs keep the cores busy wait for them
    np.copyto(pinned.numpy(), host.numpy())
    return torch.empty(host.shape, dtype=host.dtype, device=runtime.device()).copy_(pinned, non_blocking=True)


class Normalizer:
    """Makes the network's input of images: (image * scale - mean) / std, by our kernel, in the precision in force.

    Args:
        mean, std: one number a channel, of scaled images.
        scale: 1/255 for 8-bit images, 1/65535 for 16-bit ones.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], scale: float) -> None:
        self.mean, self.std, self.scale = tuple(mean), tuple(std), scale
        self._mean = to_device(np.array(mean, np.float32))
        self._rstd = to_device((1.0 / np.array(std, np.float64)).astype(np.float32))

    def __call__(self, images: torch.Tensor) -> Tensor:
        """From an (N, H, W, C) uint8 or int32 buffer to an (N, C, H, W) Tensor."""
        return Tensor(image_input(images, self._mean, self._rstd, self.scale, storage_dtype()))

    def augmented(
        self, augmentation: Augmentation, images: torch.Tensor, masks: torch.Tensor, *drawn: torch.Tensor
    ) -> tuple[Tensor, torch.Tensor]:
        """The same of images augmented by what `augmentation` has drawn for them, and their masks moved alike."""
        parameters, grid, keys = drawn
        y, masks = augment_fwd(
            images, masks, parameters, grid if augmentation.elastic else None, keys if augmentation.noise else None,
            self._mean, self._rstd, self.scale, storage_dtype(),
        )  # fmt: skip
        return Tensor(y), masks


def augmented_sample(dataset: Dataset, index: int, augmentation: Augmentation | None) -> tuple[np.ndarray, np.ndarray]:
    """An image (S, S, C) and its mask (S, S) as a first epoch with seed 0 would see them; uint8 if augmented."""
    image, mask = dataset.sample(index)
    if augmentation is None:
        return image, mask
    drawn = augmentation.draw(0, 0, np.array([index]), dataset.size)
    plain = Normalizer((0.0,) * dataset.channels, (1.0,) * dataset.channels, dataset.scale)
    image = image.astype(np.int32 if dataset.wide else np.uint8)
    x, labels = plain.augmented(augmentation, *map(to_device, (image[None], mask[None].copy(), *drawn)))
    return (x.numpy()[0].transpose(1, 2, 0) * 255).round().astype(np.uint8), Tensor(labels).numpy()[0]
