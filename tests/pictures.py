"""Folders of images and masks for the tests that start where a user starts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tritonnet.data import Cells


def put(path: Path, array: np.ndarray, **options: object) -> Path:
    """Save an array as a picture; the ending of the name says as which kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(index: int, height: int = 20, width: int = 24) -> np.ndarray:
    """A picture (H, W, 3) like no other."""
    return np.random.Generator(np.random.PCG64(index)).integers(0, 256, (height, width, 3), np.uint8)


def write_pairs(root: Path, mask: Callable[[int], np.ndarray], count: int = 6) -> Path:
    """root/images/n0.png, ... of 24 x 20 pixels with root/masks/n0.png, ... of `mask(index)`."""
    for index in range(count):
        put(root / "images" / f"n{index}.png", noise(index))
        put(root / "masks" / f"n{index}.png", mask(index))
    return root


def block(index: int = 0, value: int = 255) -> np.ndarray:
    """A mask (20, 24) with a block of `value`."""
    mask = np.zeros((20, 24), np.uint8)
    mask[5:15, 5 : 15 + index % 3] = value
    return mask


def write_folder(root: Path, count: int = 5, size: int = 16) -> Path:
    """`count` made cells as root/images/*.png and root/masks/*.png (0, 255)."""
    cells = Cells(count, size, seed=3)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image, mask = cells.sample(index)
        Image.fromarray(image).save(root / "images" / f"cell_{index}.png")
        Image.fromarray((mask * 255).astype(np.uint8)).save(root / "masks" / f"cell_{index}.png")
    return root
