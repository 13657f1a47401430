"""Scores of a network on a set of images: the mean loss, and metrics from one confusion matrix summed on the device."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tritonnet.autograd import Tensor, precision
from tritonnet.data import IGNORE, Cells, DataError, Dataset, Loader, open_dataset
from tritonnet.kernels import runtime
from tritonnet.models import Segmenter
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.config import Config
from tritonnet.train.metrics import Metrics
from tritonnet.train.objective import Objective
from tritonnet.train.trained import Trained

__all__ = ["check_some_pixel_counts", "evaluate", "open_data", "score"]


def open_data(config: Config, model: Trained | None = None) -> Dataset:
    """The images of a configuration, or made cells where it names none; seen as `model` saw its own, if one is given.

    Raises:
        DataError: what is wrong with the files.
    """
    val = None if config.val == "auto" else config.val
    if not config.data:
        return Cells(config.cells, config.size, config.seed, val=val or "every:5")
    if model is None:
        return open_dataset(config.data, config.size, val=val)
    return open_dataset(config.data, config.size, val=val, channels=model.channels, mapping=model.mapping)


def check_some_pixel_counts(dataset: Dataset, indices: Sequence[int], name: str) -> None:
    """Refuse images whose masks ignore every pixel: there is nothing to learn from them or to score.

    Raises:
        DataError: so it is, or a file is damaged.
    """
    if not any((dataset.sample(index)[1] != IGNORE).any() for index in indices):
        first = dataset.names[indices[0]]
        raise DataError(
            f"{name}: every pixel of the {len(indices)} masks from {first} on is ignored at {dataset.size} x "
            f"{dataset.size}, which leaves nothing to learn or score; check the masks, or divide otherwise with --val"
        )


def score(network: Segmenter, normalizer: Normalizer, loader: Loader, objective: Objective) -> tuple[float, Metrics]:
    """The mean loss an image and the pooled metrics, in evaluation mode and in the precision in force.

    Args:
        network: gives the logits that `objective` wants.
        normalizer: makes its input.
        loader: the images, unshuffled, without flips.
        objective: the loss and the matrix.

    Raises:
        Fault: a mask value outside the classes, or a loss that is not finite.
    """
    matrix, total, images = objective.matrix(), Tensor(runtime.zeros((), torch.float32)), 0
    with network.evaluating():
        for batch in loader.epoch(0):
            if batch.masks.min() == IGNORE:  # no pixel counts, and a mean over nothing is NaN
                continue
            labels = Tensor(to_device(batch.masks))
            logits = network(normalizer(to_device(batch.images)))
            total = total + objective.loss(logits, labels) * len(batch.images)
            objective.count(logits, labels, matrix)
            images += len(batch.images)
    return total.item() / max(images, 1), Metrics.from_matrix(matrix.numpy().tolist())


def evaluate(
    model: Trained | str | Path, data: str = "", *, split: str = "val", val: str = "", batch_size: int = 16
) -> tuple[Dataset, Metrics]:
    """Score a trained network on a split of some images, resized to the size it was trained at.

    Args:
        model: a model file, or what `Trained.load` made of one.
        data: a folder as for training; empty: the data it was trained on.
        split: "val", "train", "test" where the data has one, or "all".
        val: which images validate, as for training; empty: as in the model's own run.
        batch_size: images at a time.

    Returns:
        The images and their pooled metrics, with the mean of the loss that the network was trained for.

    Raises:
        DataError, ModelFileError: what is wrong with the files.
    """
    trained = model if isinstance(model, Trained) else Trained.load(model)
    run = trained.card["run"]
    spec = "none" if split == "all" else val or run["val"]  # all need no division
    config = Config(data=data or run["data"], val=spec, size=trained.size, cells=run["cells"], seed=run["seed"])
    dataset = open_data(config, trained)
    if dataset.num_classes > len(trained.class_names):
        raise DataError(
            f"{config.data}: the model knows {len(trained.class_names)} classes, the masks hold {dataset.num_classes}; "
            "train on this data, or mend the masks"
        )
    splits = {**dataset.splits, "all": tuple(range(len(dataset)))}
    if not splits.get(split):
        raise DataError(f"split must be one of {', '.join(name for name in splits if splits[name])}, got {split!r}")
    check_some_pixel_counts(dataset, splits[split], config.data or "made cells")
    normalizer = Normalizer(trained.card["mean"], trained.card["std"], dataset.scale)
    with precision(trained.precision):
        loader = Loader(dataset, splits[split], batch_size, shuffle=False)
        objective = Objective(trained.outputs, run.get("loss", "ce"), run.get("class_weights", ""))
        loss, metrics = score(trained.network, normalizer, loader, objective)
    return dataset, replace(metrics, loss=loss)
