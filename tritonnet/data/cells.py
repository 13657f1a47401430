"""Made data: pictures that look like cells under a fluorescence microscope, with exact masks.

Nothing here was photographed. Each picture has some cells of irregular outline with textured interiors and bright
nuclei, over a background with out-of-focus blobs and small bright specks (neither is a cell), blurred by optics, under
uneven light, with photon and camera noise. A mask pixel is 1 where its centre lies inside a cell, else 0. A picture is
a pure function of (seed, index, size), and its shapes do not depend on the size.
"""

import numpy as np

from tritonnet.data.dataset import CACHE_BYTES, Dataset, split
from tritonnet.data.image import DataError
from tritonnet.data.mapping import MaskMapping

__all__ = ["Cells"]

_SHAPES, _PIXELS = 0, 1  # two streams of random numbers, so that a picture's shapes are the same at every size


class Cells(Dataset):
    """`count` made pictures.

    Args:
        count: how many, at least 1.
        size: side S in pixels, at least 8.
        seed: 0..2**64 - 1; another seed makes other pictures.
        val: how to divide, as for `split`; None is "every:5", or "none" for fewer than five pictures.
        cache_bytes: memory for made samples.

    Raises:
        DataError: an argument out of range.
    """

    def __init__(
        self, count: int, size: int, seed: int = 0, *, val: str | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        if count < 1 or size < 8:
            raise DataError(f"made cells need count >= 1 and size >= 8, got count {count} and size {size}")
        names = [f"cells_{i:05d}" for i in range(count)]
        super().__init__(
            read=lambda index, side: _picture(side or size, seed, index), names=names, size=size, channels=3,
            class_names=("background", "cell"), mapping=MaskMapping("values", 2, {0: 0, 1: 1}), cache_bytes=cache_bytes,
            splits=split(names, val or ("every:5" if count >= 5 else "none")),
            notes=[f"{count} made pictures of cells (no microscope was involved), seed {seed}"],
        )  # fmt: skip


def _picture(size: int, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (S, S, 3) uint8 and mask (S, S) uint8."""
    key = np.array([seed & (2**64 - 1), index], np.uint64)
    rng, noise = (np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, s])) for s in (_SHAPES, _PIXELS))
    axis = (np.arange(size) + 0.5) / size
    y, x = axis[:, None], axis[None, :]
    mask = np.zeros((size, size), bool)
    light = np.zeros((size, size))

    for _ in range(int(rng.integers(1, 5))):  # out of focus: dim, wide, no cell
        cy, cx, width = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.06, 0.14)
        light += rng.uniform(0.05, 0.2) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))

    grain = _smooth(noise.standard_normal((size, size)), 0.02 * size)
    grain /= grain.std() + 1e-6
    for _ in range(int(rng.integers(3, 9))):
        cy, cx, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.08, 0.19)
        # a window that holds the widest possible outline spares most of the arithmetic
        rows, columns = _window(cy, 1.2 * radius, size), _window(cx, 1.2 * radius, size)
        distance = _outline(rng, y[rows] - cy, x[:, columns] - cx, radius)
        inside = distance < 1
        nucleus = np.exp(-((distance * rng.uniform(1.5, 2.5)) ** 2))
        body = rng.uniform(0.18, 0.55) * (1 - 0.25 * distance**2) + rng.uniform(0.05, 0.3) * nucleus
        body *= 1 + 0.1 * grain[rows, columns]
        light[rows, columns] = np.where(inside, np.maximum(light[rows, columns], body), light[rows, columns])
        mask[rows, columns] |= inside

    for _ in range(int(rng.integers(0, 4))):  # debris: small and bright, no cell
        cy, cx = rng.uniform(0, 1), rng.uniform(0, 1)
        light += rng.uniform(0.2, 0.5) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 0.014**2))

    light = _smooth(light, 0.01 * size)
    lamp = 1 + rng.uniform(-0.35, 0.35) * (x - 0.5) + rng.uniform(-0.35, 0.35) * (y - 0.5)
    light = (light * rng.uniform(0.7, 1.4) + rng.uniform(0.04, 0.22)) * lamp
    light += noise.standard_normal((size, size)) * (0.02 + 0.05 * np.sqrt(np.clip(light, 0, None)))
    tint = rng.uniform(0.85, 1.15, 3)
    image = light[:, :, None] * tint + 0.01 * noise.standard_normal((size, size, 3))
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), mask.astype(np.uint8)


def _window(centre: float, reach: float, size: int) -> slice:
    """The pixels within `reach` of `centre`, both in units of the picture's side."""
    return slice(max(0, int((centre - reach) * size)), min(size, int((centre + reach) * size) + 1))


def _outline(rng: np.random.Generator, dy: np.ndarray, dx: np.ndarray, radius: float) -> np.ndarray:
    """Distance from the centre in units of the outline's radius in that direction: an ellipse with a wavy rim."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    u = dx * np.cos(turn) + dy * np.sin(turn)
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / stretch
    angle = np.arctan2(v, u)
    rim = 1 + sum(rng.uniform(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    distance: np.ndarray = np.hypot(u, v) / (radius * rim)
    return distance


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of standard deviation `sigma` pixels, edges repeated."""
    reach = max(1, int(3 * sigma + 0.5))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 0.3)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        n = values.shape[axis]
        values = sum(w * np.take(padded, range(k, k + n), axis) for k, w in enumerate(weights))
    return values
