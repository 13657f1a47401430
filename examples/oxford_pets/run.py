"""One run: split, train, choose by validation, and at the end read the test images once.

On the folder's own split the test images validate, every fifth epoch, as in `tritonnet train`: so they choose the best epoch,
but not the last.
"""

import base64
import gc
import io
import itertools
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

import tritonnet as tn
from oxford_pets.jobs import Job, Row
from oxford_pets.learners import Learner
from oxford_pets.torch_learner import TorchLearner
from tritonnet.data import IGNORE, DataError, Dataset, Loader, channel_statistics
from tritonnet.kernels import runtime
from tritonnet.measure.machine import environment
from tritonnet.train import Metrics
from tritonnet.train.batches import Normalizer
from tritonnet.train.folder import better

FIRST_LOSSES = 31  # steps whose losses a row keeps; a row of the group "parity" keeps all
GPU = runtime.device().type == "cuda"


def split(dataset: Dataset, job: Job) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The images to train on, to validate with and to test with: a function of the seed, or the folder's own split.

    A seed's test images are the same for any number of training images, and of more images the fewer are the first.
    The folder's own split is every seed's, and its test images validate.

    Raises:
        DataError: there are too few images.
    """
    if not job.images:
        return dataset.splits["train"], dataset.splits["val"], dataset.splits["val"]
    if len(dataset) < job.test + job.images or job.images < 5:
        raise DataError(f"{job.test} test and at least 5 training images must be there, of {len(dataset)} images")
    order = Loader(dataset, range(len(dataset)), 1, seed=job.seed).order(10**6).tolist()  # no epoch's order
    test, chosen = order[: job.test], order[job.test : job.test + job.images]
    return [index for i, index in enumerate(chosen) if i % 5 != 4], chosen[4::5], test


def run(job: Job, dataset: Dataset, pictures: bool) -> Row:
    """Train and score; `pictures` keeps the test images and what was found in them.

    Raises:
        DataError: a damaged file, or too few images.
        Fault: the loss was not finite.
    """
    train, val, test = split(dataset, job)
    loader = Loader(dataset, train, job.batch, seed=job.seed, hflip=job.flips, vflip=job.flips)
    val_loader, test_loader = (Loader(dataset, indices, 16, shuffle=False) for indices in (val, test))
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() if GPU else 0
    normalizer = Normalizer(*channel_statistics(dataset, train), dataset.scale)
    row: Row = {
        "job": job, "environment": environment(), "train_loss": [], "val_iou": [], "epoch_seconds": [], "peak_gib": None,
        "scores": {}, "split": [len(train), len(val), len(test)],
        "tested": [dataset.names[i] for i in test] if job.images else [],
    }  # fmt: skip
    with tn.precision(job.precision):
        learner = (Learner if job.framework == "tritonnet" else TorchLearner)(job, normalizer, len(loader))
        losses: list[float] = []
        best: dict[str, float] | None = None
        scored = {}
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        for epoch in range(1, max(job.epochs) + 1):
            start = time.perf_counter()
            found = learner.epoch(loader, epoch - 1)
            row["epoch_seconds"].append(round(time.perf_counter() - start, 4))
            if GPU and epoch == 1:
                row["peak_gib"] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)
            losses += found
            row["train_loss"].append(float(f"{np.mean(found):.6g}"))
            if not job.images and epoch % 5 and epoch not in job.epochs:
                continue  # its validation takes as long as some epochs
            now = {"iou": round(learner.score(val_loader).iou, 5)}
            row["val_iou"].append(now["iou"])
            if better(now, best):
                best, best_weights, best_epoch = now, learner.weights(), epoch
            if epoch in job.epochs:
                scored[epoch] = {"best": best_weights, "last": learner.weights()}, best_epoch
        for epochs, (weights, best_epoch) in scored.items():  # the test images are read now, and were not before
            row["scores"][str(epochs)] = {"best_epoch": best_epoch}
            for which in ("last", "best"):
                learner.restore(weights[which])
                row["scores"][str(epochs)][which] = numbers(learner.score(test_loader))
                if job.recipe and which == "last":
                    row["scores"][str(epochs)]["flips"] = numbers(mirrored(learner, test_loader))
        row["first_losses"] = losses if job.group == "parity" else losses[:FIRST_LOSSES]
        if pictures:
            shown = [dataset.sample(i) for i in test]
            row["pictures"] = {
                "images": [encoded(image, "JPEG", quality=85) for image, _ in shown],
                "truth": [encoded(mask) for _, mask in shown],
                "found": [
                    encoded(mask)
                    for b in test_loader.epoch(0)
                    for mask in learner.logits(b.images).argmax(1).astype(np.uint8)
                ],
            }
    return row


def mirrored(learner: Learner | TorchLearner, loader: Loader) -> Metrics:
    """The scores of the mean of the probabilities of each image and its three mirror images."""
    counts, ways = np.zeros(4, np.int64), (slice(None), slice(None, None, -1))
    for batch in loader.epoch(0):
        pet = np.zeros(batch.masks.shape)  # four times 2 p - 1
        for rows, columns in itertools.product(ways, ways):
            x = learner.logits(batch.images[:, rows, columns])[..., rows, columns]
            pet += np.tanh((x[:, 1] - x[:, 0]) / 2)
        counted = batch.masks != IGNORE
        counts += np.bincount(2 * batch.masks[counted] + (pet[counted] > 0), minlength=4)
    return Metrics.from_matrix(counts.reshape(2, 2).tolist())


def numbers(metrics: Metrics) -> list[float]:
    """IoU, Dice, pixel accuracy."""
    return [round(value, 5) for value in (metrics.iou, metrics.dice, metrics.pixel_accuracy)]


def encoded(array: np.ndarray, kind: str = "PNG", **options: int) -> str:
    """A picture file as text."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(out, kind, **options)
    return base64.b64encode(out.getvalue()).decode()
