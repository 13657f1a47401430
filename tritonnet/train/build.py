"""What a configuration asks for: the network, its optimizer, the images to train on and those to validate with."""

from typing import Any

from tritonnet import models, optim
from tritonnet.data import DataError, Dataset
from tritonnet.kernels import runtime
from tritonnet.train.config import ARGUMENTS, Config

__all__ = ["build", "build_network", "build_optimizer", "splits"]


def build_network(config: Config, channels: int, outputs: int) -> models.Segmenter:
    """The network of a configuration from images of so many channels to so many outputs."""
    arguments = {name: getattr(config, name) for name in ARGUMENTS[config.model]}
    network = models.build({"model": config.model, "in_channels": channels, "num_classes": outputs, **arguments})
    if isinstance(network, models.UNet):
        network.recompute(config.recompute)
    return network


def build(config: Config, dataset: Dataset) -> models.Segmenter:
    """The network of a configuration, for the channels and classes of the data.

    Raises:
        Refused: a sigmoid head for more than two classes, or images too small for the network.
    """
    least = 4 if config.model == "poster" else 2**config.depth
    if config.size < least:
        runtime.refuse("train", f"size must be at least {least} for this network, got {config.size}")
    outputs = dataset.num_classes
    if config.head == "sigmoid":
        if outputs != 2:
            runtime.refuse("train", f"head sigmoid is for 2 classes, the masks hold {outputs}; use --head softmax")
        outputs = 1
    return build_network(config, dataset.channels, outputs)


def build_optimizer(config: Config, network: models.Segmenter) -> Any:
    """The optimizer of a configuration over the network's parameters."""
    decay = config.weight_decay
    if config.optimizer == "sgd":
        return optim.SGD(network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=decay)
    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "adagrad": optim.Adagrad, "rmsprop": optim.RMSprop}
    return kinds[config.optimizer](network.parameters(), lr=config.lr, weight_decay=decay)


def splits(dataset: Dataset, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The images to train on and those to validate with.

    Raises:
        DataError: none of one kind.
    """
    train, val = dataset.splits["train"], dataset.splits["val"]
    for name, indices in (("train", train), ("validate", val)):
        if not indices:
            raise DataError(
                f"{config.data or 'made cells'}: at least one image must be left to {name} with --val {config.val}"
            )
    return train, val
