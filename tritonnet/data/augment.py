"""Which augmentation each image gets: amounts drawn as a pure function of (seed, epoch, index).

The numbers drawn here are what `tritonnet.kernels.augment` needs of an image; images and masks are moved there, on the
device. Angles and factors are uniform within their amount, displacements normal. What is left out does not happen.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tritonnet.data.image import DataError
from tritonnet.data.loader import hashed

__all__ = ["Augmentation", "Drawn"]

GRID = 3  # the coarse grid of the U-Net paper


AMOUNTS = {  # the usual, and the most
    "turns": (1.0, 1.0), "rotate": (15.0, 180.0), "scale": (0.2, 3.0), "shift": (0.05, 1.0), "elastic": (0.03, 0.5),
    "brightness": (0.1, 1.0), "contrast": (0.2, 3.0), "gamma": (0.2, 3.0), "noise": (0.03, 1.0),
}  # fmt: skip


class Drawn(NamedTuple):
    """The amounts of N images: parameters (N, 10) float32, grid (N, 2, 3, 3) float32, keys of the noise (N,) int64."""

    parameters: np.ndarray
    grid: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """How much images change at most; 0 is not at all.

    Args:
        turns: 1 for quarter turns, each of the four as likely.
        rotate: degrees either way.
        scale: share by which the image grows or shrinks (0.2: by 1 / 1.2 to 1.2).
        shift: share of the side, either way, down and across.
        elastic: standard deviation of the 3 x 3 displacements, as a share of the side.
        brightness: added, either way, of images in 0..1.
        contrast: share by which it grows or shrinks, around middle grey.
        gamma: share by which the exponent grows or shrinks.
        noise: largest standard deviation of normal noise, of images in 0..1.
    """

    turns: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0

    @staticmethod
    def parse(text: str) -> "Augmentation | None":
        """From `rotate, elastic=0.1`, a name alone standing for its usual amount; None for "".

        Raises:
            DataError: another name, or an amount out of range.
        """
        amounts: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, value = (word.strip() for word in part.partition("="))
            if name not in AMOUNTS:
                raise DataError(f"augment: must be names among {', '.join(AMOUNTS)}, got {name!r}")
            usual, most = AMOUNTS[name]
            try:
                amounts[name] = float(value) if value else usual
            except ValueError:
                amounts[name] = float("nan")
            if not 0 <= amounts[name] <= most:
                raise DataError(f"augment: {name} must be from 0 to {most:g}, got {value!r}")
        return Augmentation(**amounts) if amounts else None

    def draw(self, seed: int, epoch: int, indices: np.ndarray, side: int) -> Drawn:
        """The amounts for images `indices` (N,) of `side` x `side` pixels in an epoch."""
        stream = iter(range(2, 2 + 64))

        def uniform() -> np.ndarray:
            return (hashed(seed, epoch, indices, next(stream)) >> np.uint64(11)) / 2.0**53

        def between(amount: float) -> np.ndarray:
            return (2.0 * uniform() - 1.0) * amount

        angle = np.deg2rad(between(self.rotate)) + np.floor(4 * uniform()) * (np.pi / 2) * bool(self.turns)
        zoom = np.exp(between(np.log1p(self.scale)))
        # whole for quarter turns alone, so that their pixels are copied
        cos, sin = (np.where(np.abs(f - np.rint(f)) < 1e-12, np.rint(f), f) for f in (np.cos(angle), np.sin(angle)))
        # drawn in this order
        move = zoom * cos, -zoom * sin, between(self.shift) * side, zoom * sin, zoom * cos, between(self.shift) * side
        light, contrast = between(self.brightness), np.exp(between(np.log1p(self.contrast)))
        colour = light, contrast, np.exp(between(np.log1p(self.gamma))), uniform() * self.noise
        normal = [(np.sqrt(-2 * np.log1p(-uniform())), 2 * np.pi * uniform()) for _ in range(GRID * GRID)]
        radius, phase = (np.stack(drawn) for drawn in zip(*normal, strict=True))
        grid = np.stack([radius * np.cos(phase), radius * np.sin(phase)]) * (self.elastic * side)
        return Drawn(
            np.stack([*move, *colour], axis=1).astype(np.float32),
            grid.transpose(2, 0, 1).reshape(-1, 2, GRID, GRID).astype(np.float32),
            hashed(seed, epoch, indices, next(stream)).view(np.int64),
        )
