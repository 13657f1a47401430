"""Folders of images and masks, and a network, for the tests that start where a user starts."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

import tritonnet as tn
from tritonnet.data import Cells, MaskMapping, default_palette
from tritonnet.train import Config, Trained


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


def fresh_model(classes: int = 2, channels: int = 3, size: int = 16, *, wide: bool = False, depth: int = 1) -> Trained:
    """A small U-Net as it is before training, made to see much contrast; one class: a sigmoid."""
    network = fresh_network(classes, channels, depth)
    names = [f"class {c}" for c in range(max(classes, 2))]
    mapping = MaskMapping("values", len(names), {c: c for c in range(len(names))})
    data = {
        "size": size, "channels": channels, "wide": wide, "scale": 1 / 65535 if wide else 1 / 255, "class_names": names,
        "palette": [list(colour) for colour in default_palette(len(names))], "mask_mapping": mapping.to_json(),
    }  # fmt: skip
    card = {
        "model": network.config, "data": data, "mean": [0.5] * channels, "std": [0.01] * channels, "precision": "fp32",
        "run": asdict(Config(cells=5, size=size)),
    }  # fmt: skip
    return Trained(network, card)


@cache
def fresh_network(classes: int, channels: int, depth: int) -> tn.models.UNet:
    tn.manual_seed({1: 10, 2: 11}.get(classes, 0))  # seeds under which every class wins somewhere
    network = tn.models.UNet(channels, classes, base_channels=4, depth=depth)
    network.eval()
    return network


def regions(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth noise as uint8 (H, W, channels), so that a picture has regions."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-shape[0] // 4), -(-shape[1] // 4), *shape[2:]), np.uint8)
    return np.ascontiguousarray(small.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]])
