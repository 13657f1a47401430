"""Folders of images and masks for the tests that start where a user starts."""

from pathlib import Path

import numpy as np
from PIL import Image

from tritonnet.data import Cells


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
