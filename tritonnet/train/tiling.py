"""Class probabilities averaged over overlapping tiles of a large image, and over its mirror images.

Tiles of T x T pixels start every T * (1 - overlap) pixels, the last one flush with the edge, and count with the weight
g(i) * g(j), g(i) = exp(-((i - (T - 1) / 2) / (T / 8))**2 / 2), divided by the sum of the weights over each pixel. So a
tile's middle, which sees all of its surroundings, outweighs another's border. An image of one tile keeps its numbers as
they are. Places, weights and the default overlap are those of MONAI's `sliding_window_inference(mode="gaussian")`.

Memory: an image of H x W pixels is computed in bands of T rows over its width. The device holds at most two bands (the
one summed up, and the one that follows or a copy on its way to the host) of 4 * T * W * K bytes for K classes, and what
the network needs for `batch_size` tiles; H does not matter. With T = 256 and K = 2, two bands of a picture 6000 pixels
wide and 4000 high are 25 MB, where all its probabilities at once would be 192 MB.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.blend import blend
from tritonnet.kernels.convert import copy
from tritonnet.nn import functional as F
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.trained import Trained

__all__ = ["starts", "tiled", "weights"]

FLIPS = ((False, False), (False, True), (True, False), (True, True))  # rows, columns


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles of `tile` pixels begin along `length` pixels, at least as many; `overlap` from 0 to below 1."""
    step = max(1, int(tile * (1 - overlap)))
    return [min(i * step, length - tile) for i in range(math.ceil((length - tile) / step) + 1)]


def weights(begins: Sequence[int], tile: int, share: float = 1.0) -> torch.Tensor:
    """For tiles that begin there, each pixel's weight along one side; over any pixel they add up to `share`.

    Shape: (len(begins), tile), float32 on the device.
    """
    bell = np.exp(-(((np.arange(tile) - (tile - 1) / 2) / (tile / 8)) ** 2) / 2)
    total = np.zeros(begins[-1] + tile)
    for begin in begins:
        total[begin : begin + tile] += bell
    return to_device(np.array([share * bell / total[begin : begin + tile] for begin in begins], np.float32))


def _probabilities(
    trained: Trained, images: np.ndarray, flips: bool, normalizer: Normalizer
) -> Iterator[tuple[torch.Tensor, tuple[bool, bool]]]:
    """(N, H, W, K) float32 for the images and, with `flips`, each mirror image; and what mirrors it back."""
    for flip in FLIPS if flips else FLIPS[:1]:
        rows, columns = (slice(None, None, -1 if turned else 1) for turned in flip)
        yield F.softmax(trained.logits(images[:, rows, columns], normalizer), dim=1).data, flip


def tiled(
    trained: Trained, image: np.ndarray, normalizer: Normalizer, tile: int, overlap: float, flips: bool, batch_size: int
) -> Iterator[Tensor]:
    """Class probabilities of one image of any size, band by band from the top.

    Args:
        trained: the network.
        image: (H, W, channels) uint8 or uint16; where it is smaller than a tile it is mirrored at its lower and right edge.
        normalizer: makes the network's input.
        tile: side T of a tile in pixels, at least `trained.least`.
        overlap: of neighbouring tiles, as a share of T from 0 to below 1.
        flips: average each tile over its mirror images, too.
        batch_size: tiles computed at a time, at least 1; those of a batch lie side by side.

    Yields:
        (1, K, rows, W) float32, at most T rows each; together H rows (and W columns), or T where that is more.
    """
    short = [(0, max(0, tile - side)) for side in image.shape[:2]]
    image = np.pad(image, (*short, (0, 0)), mode="symmetric") if any(map(any, short)) else image
    height, width = image.shape[:2]
    tops, lefts = starts(height, tile, overlap), starts(width, tile, overlap)
    down, across = weights(tops, tile, 1 / len(FLIPS) if flips else 1.0), weights(lefts, tile)
    shape = (1, tile, width, len(trained.class_names))
    band = runtime.zeros(shape, torch.float32)
    for r, (top, below) in enumerate(zip(tops, [*tops[1:], height], strict=True)):
        for first in range(0, len(lefts), batch_size):
            some = lefts[first : first + batch_size]
            tiles = np.stack([image[top : top + tile, left : left + tile] for left in some])
            for probabilities, flip in _probabilities(trained, tiles, flips, normalizer):
                for i, left in enumerate(some):
                    blend(probabilities[i : i + 1], band, 0, left, down[r], across[first + i], flip)
        done = below - top  # rows that no later tile covers
        yield Tensor(band[0, :done].view(1, done, *shape[2:]))
        if done < tile:
            following = runtime.zeros(shape, torch.float32)
            copy(band[0, done:], following[0, : tile - done])
            band = following
