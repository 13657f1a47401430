"""A network together with what it needs to see an image as it did in training: what `best.h5` and `last.h5` hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tritonnet import io, models
from tritonnet.autograd import Tensor, precision
from tritonnet.data import MaskMapping
from tritonnet.io import ModelFileError
from tritonnet.kernels import runtime
from tritonnet.kernels.runtime import INTERPRET
from tritonnet.nn import functional as F
from tritonnet.train.batches import Normalizer, to_device

if TYPE_CHECKING:
    from tritonnet.train.prediction import Inference

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A network and its card.

    The card is a JSON-able dictionary: `model` (the network's arguments), `data` (size, channels, scale, class names,
    palette, mask mapping), `mean`, `std` (of the training images, scaled), `precision`, and `run` (its configuration).
    """

    network: models.Segmenter
    card: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "Trained":
        """Read a model file that `train` wrote.

        Raises:
            ModelFileError: no such file, no model file, or one without the network or the data's description.
        """
        file = io.load_model(path, training=False)
        missing = [key for key in ("model", "data", "mean", "std", "precision", "run") if key not in file.config]
        if missing:
            raise ModelFileError(
                f"{path}: the configuration must hold {', '.join(missing)}; was it written by `tritonnet train`?"
            )
        try:
            network = models.build(file.config["model"])
            network.load_state_dict(file.model)
            network.set_normalization(file.config["mean"], file.config["std"])
            trained = cls(network, file.config)
            _ = trained.size, trained.wide, trained.class_names, trained.palette, trained.mapping, trained.normalizer()
            _ = [file.config["run"][name] for name in ("data", "val", "cells", "seed")]
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ModelFileError(f"{path}: the weights must fit the network of the configuration: {reason}") from error
        network.eval()
        return trained

    @property
    def size(self) -> int:
        """Images are resized to size x size pixels."""
        return int(self.card["data"]["size"])

    @property
    def least(self) -> int:
        """The smallest side of an image, in pixels, that the network takes."""
        return 1 << int(self.network.config.get("depth", 2))  # the poster's network halves it twice

    @property
    def channels(self) -> int:
        """Channels of an input image."""
        return int(self.card["data"]["channels"])

    @property
    def wide(self) -> bool:
        """Whether images have 16 bits a channel."""
        return bool(self.card["data"]["wide"])

    @property
    def outputs(self) -> int:
        """Channels of the network's head: one a class, or a single one for two classes."""
        return self.network.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name a class."""
        return tuple(self.card["data"]["class_names"])

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """A colour a class."""
        return [(r, g, b) for r, g, b in self.card["data"]["palette"]]

    @property
    def mapping(self) -> MaskMapping:
        """How mask values became classes."""
        return MaskMapping.from_json(self.card["data"]["mask_mapping"])

    @property
    def precision(self) -> str:
        """What to compute in: as in training, but fp32 on the interpreter, which knows no other."""
        return "fp32" if INTERPRET else str(self.card["precision"])

    def normalizer(self, scale: float | None = None) -> Normalizer:
        """Makes the network's input of images; `scale` in place of their own, for images of another bit depth."""
        return Normalizer(self.card["mean"], self.card["std"], scale or float(self.card["data"]["scale"]))

    def logits(self, images: np.ndarray, normalizer: Normalizer) -> Tensor:
        """A number for every class of every pixel, whose softmax is its probability; a sigmoid's logit z is (0, z).

        Shape: images (N, H, W, channels) uint8 or uint16 -> (N, K, H, W) float32 for K classes.
        """
        pixels = to_device(images if images.dtype == np.uint8 else images.astype(np.int32))
        with self.network.evaluating() as forward, precision(self.precision):
            logits = forward(normalizer(pixels)).to(torch.float32)
        if self.outputs == 1:
            logits = F.cat((Tensor(runtime.zeros(tuple(logits.data.shape), logits.dtype)), logits), dim=1)
        return logits  # type: ignore[no-any-return]

    def predict(
        self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 16, *, inference: "Inference | None" = None
    ) -> list[np.ndarray]:
        """The masks that `tritonnet predict` writes: images are resized to the size trained at, their logits back.

        Args:
            images: of any sizes, each (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16.
            batch_size: resized images computed at a time, at least 1.
            inference: in tiles or averaged over flips, with its own batch size.

        Returns:
            Each image's mask, uint8 (H, W) of class numbers.

        Raises:
            Refused: another shape or dtype, or one image that is in no list.
        """
        from tritonnet.train.prediction import RESIZED, masks  # it starts from this module

        return masks(self, images, inference or replace(RESIZED, batch_size=batch_size))

    def save(
        self,
        path: Path,
        *,
        state: Mapping[str, Any] | None = None,
        optimizer: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        progress: dict[str, Any] | None = None,
    ) -> None:
        """Write the model file atomically; `state` (name -> Tensor) in place of the present weights."""
        weights = {name: tensor.numpy() for name, tensor in (state or self.network.state_dict()).items()}
        io.save_model(path, self.card, weights, optimizer, progress)
