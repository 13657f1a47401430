"""Batches for training and evaluation, decoded by background threads ahead of the step.

The order of an epoch and the flips of a sample are pure functions of (seed, epoch, index), by a hash of our own
(splitmix64 steps; Steele, Lea and Flood, 2014) rather than a generator with a state: so neither threads, nor stopping
and resuming, nor another version of numpy changes what a run sees.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from tritonnet.data.dataset import THREADS, Dataset

__all__ = ["Batch", "Loader", "hashed"]


class Batch(NamedTuple):
    """What one step takes.

    Shape: images (N, S, S, channels) uint8, or int32 in 0..65535 where the dataset is wide; masks (N, S, S) uint8;
        indices (N,) int64 into the dataset. `position` is how many images of the epoch are taken once this batch is
        done: a run that stores it resumes with `epoch(e, position)`.
    """

    images: np.ndarray
    masks: np.ndarray
    names: tuple[str, ...]
    indices: np.ndarray
    position: int


@dataclass(eq=False)
class Loader:
    """Batches of the given samples, epoch by epoch.

    Args:
        dataset: where samples come from.
        indices: which of its samples.
        batch_size: N, at least 1; the last batch of an epoch may be smaller.
        seed: 0..2**64 - 1, for order and flips.
        shuffle: a new order each epoch; False keeps the order of `indices`.
        hflip: mirror left-right with probability 1/2, image and mask alike.
        vflip: mirror top-bottom with probability 1/2.
        transform: called in the threads as transform(image, mask, bits) after the flips, on copies of (S, S, channels)
            and (S, S), with 64 random bits (an int) of this seed, epoch and image; returns both, of the same shapes and dtypes.
        threads: decoding threads, at least 1; by default one a core, at most 8.
        ahead: batches prepared before they are asked for, at least 1; with the one in use this bounds the memory.

    Raises:
        ValueError: a number out of range.
    """

    dataset: Dataset
    indices: Sequence[int]
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    shuffle: bool = True
    hflip: bool = False
    vflip: bool = False
    transform: Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]] | None = None
    threads: int = THREADS
    ahead: int = 3

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads", "ahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"[Loader] {name} must be at least 1, got {getattr(self, name)}")

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.indices) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch in the order they are taken. Shape: (len(indices),) int64."""
        order = np.asarray(self.indices, np.int64)
        if self.shuffle:
            order = order[np.argsort(hashed(self.seed, epoch, order, stream=0), kind="stable")]
        return order

    def epoch(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (counted from 0), from the image at `position` on.

        Leaving the loop early, or an error in it, ends the threads.

        Raises:
            DataError: a damaged file, when its batch is reached.
            ValueError: position outside the epoch.
        """
        if not 0 <= position <= len(self.indices):
            raise ValueError(f"[Loader] position must be from 0 to {len(self.indices)}, got {position}")
        return self._batches(epoch, position)

    def _batches(self, epoch: int, position: int) -> Iterator[Batch]:
        order = self.order(epoch)
        ready: deque[tuple[Batch, Iterator[None]]] = deque()  # with what fills it
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="tritonnet-loader")
        try:
            for start in range(position, len(order) + self.ahead * self.batch_size, self.batch_size):
                if start < len(order):
                    ready.append(self._begin(pool, epoch, order[start : start + self.batch_size], start))
                if start >= position + self.ahead * self.batch_size:
                    batch, filling = ready.popleft()
                    for _ in filling:
                        pass
                    yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, epoch: int, indices: np.ndarray, start: int
    ) -> tuple[Batch, Iterator[None]]:
        """Set the threads to fill a batch."""
        S, n = self.dataset.size, len(indices)
        batch = Batch(
            np.empty((n, S, S, self.dataset.channels), np.int32 if self.dataset.wide else np.uint8),
            np.empty((n, S, S), np.uint8),
            tuple(self.dataset.names[i] for i in indices),
            indices,
            start + n,
        )
        coins = hashed(self.seed, epoch, indices, stream=1)

        def fill(k: int) -> None:
            image, mask = self.dataset.sample(int(indices[k]))
            rows = slice(None, None, -1 if self.vflip and coins[k] & np.uint64(1) else 1)
            columns = slice(None, None, -1 if self.hflip and coins[k] & np.uint64(2) else 1)
            image, mask = image[rows, columns], mask[rows, columns]
            if self.transform is not None:
                bits = int(hashed(self.seed, epoch, indices[k : k + 1], stream=2**32)[0])
                image, mask = self.transform(image.copy(), mask.copy(), bits)
            batch.images[k], batch.masks[k] = image, mask

        return batch, pool.map(fill, range(n))


def hashed(seed: int, epoch: int, indices: np.ndarray, stream: int) -> np.ndarray:
    """64 random bits for each index. Shape: (n,) uint64."""
    # a seed or epoch of numpy's would overflow with a warning; arrays wrap silently
    state = np.full(len(indices), seed & (2**64 - 1), np.uint64)
    for word in (np.uint64(stream), np.uint64(epoch), indices.astype(np.uint64)):
        state = state * np.uint64(0xD1342543DE82EF95) + word + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state
