"""Scores of a network on a set of images: the mean loss, and metrics from one confusion matrix summed on the device."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tritonnet.autograd import Tensor, precision
from tritonnet.data import IGNORE, Cells, DataError, Dataset, Loader, open_dataset
from tritonnet.kernels import runtime
from tritonnet.kernels.confusion_matrix import confusion_matrix
from tritonnet.models import Segmenter
from tritonnet.train.batches import Normalizer, to_device
from tritonnet.train.config import Config
from tritonnet.train.metrics import Metrics
from tritonnet.train.objective import Objective
from tritonnet.train.pictures import draw_confusion
from tritonnet.train.prediction import RESIZED, Inference, write_samples
from tritonnet.train.trained import Trained

__all__ = ["check_some_pixel_counts", "evaluate", "extremes", "open_data", "score", "write_pictures"]

SHOWN = 5  # of the best and of the worst images, at most


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


def score(
    network: Segmenter, normalizer: Normalizer, loader: Loader, objective: Objective, *, each: bool = False
) -> tuple[float, Metrics]:
    """The mean loss an image and the pooled metrics, in evaluation mode and in the precision in force.

    Args:
        network: gives the logits that `objective` wants.
        normalizer: makes its input.
        loader: the images, unshuffled, without flips.
        objective: the loss and the matrix.
        each: whether to score each image by itself, too (then every one waits for the device).

    Raises:
        Fault: a mask value outside the classes, or a loss that is not finite.
    """
    matrix, total, images = objective.matrix(), Tensor(runtime.zeros((), torch.float32)), 0
    image_iou: dict[str, float] = {}
    with network.evaluating() as forward:
        for batch in loader.epoch(0):
            if batch.masks.min() == IGNORE:  # no pixel counts, and a mean over nothing is NaN
                continue
            labels = Tensor(to_device(batch.masks))
            logits = forward(normalizer(to_device(batch.images)))
            total = total + objective.loss(logits, labels) * len(batch.images)
            objective.count(logits, labels, matrix)
            images += len(batch.images)
            for i, name in enumerate(batch.names if each else ()):
                own = objective.matrix()
                objective.count(Tensor(logits.data[i : i + 1]), Tensor(labels.data[i : i + 1]), own)
                image_iou[name] = Metrics.from_matrix(own.numpy().tolist()).iou
    return total.item() / max(images, 1), replace(Metrics.from_matrix(matrix.numpy().tolist()), image_iou=image_iou)


def evaluate(
    model: Trained | str | Path, data: str = "", *, split: str = "val", val: str = "", inference: Inference = RESIZED
) -> tuple[Dataset, Metrics]:
    """Score a trained network on a split of some images, resized to the size it was trained at, or in tiles.

    Args:
        model: a model file, or what `Trained.load` made of one.
        data: a folder as for training; empty: the data it was trained on.
        split: "val", "train", "test" where the data has one, or "all".
        val: which images validate, as for training; empty: as in the model's own run.
        inference: as for `predict`, whose masks are scored: with tiles at the images' own sizes. With tiles or flips the
            loss is NaN.

    Returns:
        The images and their pooled metrics, with each image's IoU and the mean of the loss that the network was trained for.

    Raises:
        DataError, ModelFileError: what is wrong with the files.
        Refused: the tiles' side is out of range.
    """
    trained = model if isinstance(model, Trained) else Trained.load(model)
    run = trained.card["run"]
    spec = "none" if split == "all" else val or run["val"]  # all need no division
    config = Config(data=data or run["data"], val=spec, size=trained.size, cells=run["cells"], seed=run["seed"])
    dataset = _open_known(config, trained) if data else open_data(config, trained)
    splits = {**dataset.splits, "all": tuple(range(len(dataset)))}
    if not splits.get(split):
        raise DataError(f"split must be one of {', '.join(name for name in splits if splits[name])}, got {split!r}")
    check_some_pixel_counts(dataset, splits[split], config.data or "made cells")
    if not inference.plain:
        return dataset, _score_masks(trained, dataset, splits[split], inference)
    with precision(trained.precision):
        loader = Loader(dataset, splits[split], inference.batch_size, shuffle=False)
        objective = Objective(trained.outputs, run.get("loss", "ce"), run.get("class_weights", ""))
        loss, metrics = score(trained.network, trained.normalizer(dataset.scale), loader, objective, each=True)
    return dataset, replace(metrics, loss=loss)


def _score_masks(trained: Trained, dataset: Dataset, indices: Sequence[int], inference: Inference) -> Metrics:
    """The metrics of masks as `predict` makes them."""
    objective, image_iou = Objective(trained.outputs), {}
    matrix = objective.matrix()
    for index in indices:
        _, truth, found = inference.sample(trained, dataset, index)
        own, (prediction, target) = objective.matrix(), (to_device(np.stack([mask])) for mask in (found, truth))
        for counts in (own, matrix):
            confusion_matrix(prediction, target, counts.data, ignore_index=IGNORE)
        image_iou[dataset.names[index]] = Metrics.from_matrix(own.numpy().tolist()).iou
    return replace(Metrics.from_matrix(matrix.numpy().tolist()), image_iou=image_iou)


def _open_known(config: Config, trained: Trained) -> Dataset:
    """Other data than the model learnt from: refuse masks of another number of classes by both numbers.

    A mapping of exact values refuses strange ones by itself; only then, or where a threshold takes any value, the classes
    are inferred anew.
    """
    problem = None
    try:
        dataset = open_data(config, trained)
    except DataError as error:
        problem = error
    names = trained.class_names
    if problem or trained.mapping.rule == "threshold":
        with suppress(DataError):  # too little to infer classes from, or the same fault again
            found = open_data(config).mapping.num_classes
            if found != len(names):
                problem = DataError(
                    f"{config.data}: the model knows {len(names)} classes ({', '.join(names)}), the masks hold {found}; "
                    "train on this data, or mend the masks"
                )
    if problem:
        raise problem
    return dataset


def extremes(metrics: Metrics) -> tuple[list[str], list[str]]:
    """Names of the images with the lowest IoU, worst first, and with the highest, best first; none in both if it can be.

    Images without an IoU (nothing there and nothing found) count in neither.
    """
    ranked = [n for _, n in sorted((iou, n) for n, iou in metrics.image_iou.items() if iou == iou)]  # no NaN
    few = min(SHOWN, max(1, len(ranked) // 2))
    return ranked[:few], ranked[::-1][:few]


def write_pictures(
    folder: Path, trained: Trained, dataset: Dataset, metrics: Metrics, inference: Inference = RESIZED
) -> None:
    """Write confusion_matrix.png, and image, truth and prediction side by side as worst_1.png ... and best_1.png ..."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_confusion(folder / "confusion_matrix.png", metrics.matrix, dataset.class_names)
    for kind, names in zip(("worst", "best"), extremes(metrics), strict=True):
        for i in range(SHOWN):  # of an earlier evaluation
            (folder / f"{kind}_{i + 1}.png").unlink(missing_ok=True)
        indices = [dataset.names.index(name) for name in names]
        if indices:
            write_samples(
                folder, trained, dataset, indices, [f"{kind}_{i + 1}" for i in range(len(indices))], inference
            )
