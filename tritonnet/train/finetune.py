"""Start from the weights of another network: what fits is taken over, the rest starts anew, and both are said."""

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from tritonnet import io
from tritonnet.kernels.runtime import refuse
from tritonnet.nn import Module
from tritonnet.train.config import Config

__all__ = ["initialise", "network_of"]

READERS: dict[str, Callable[[Path], Any]] = {
    ".pth": io.load_pth, ".pt": io.load_pth, ".safetensors": io.load_safetensors,
}  # fmt: skip


def network_of(path: str | Path) -> dict[str, Any]:
    """What a model file says of its network in names of `Config`, the images' size too; nothing for other files.

    Raises:
        ModelFileError: what is wrong with the file.
    """
    if Path(path).suffix in READERS:
        return {}
    card = io.load_model(path, training=False).config
    found = {**card.get("model", {}), "size": card.get("data", {}).get("size")}
    return {field.name: found[field.name] for field in fields(Config) if found.get(field.name) is not None}


def initialise(network: Module, path: str | Path, tell: Callable[[str], None]) -> None:
    """Copy the weights that fit `network` by name and shape.

    With another number of classes the last layer starts anew, with another number of input channels the first.

    Args:
        network: changed in place.
        path: best.h5 or last.h5 of a run, or a .pth or .safetensors file.
        tell: gets a line: what was loaded and what starts anew.

    Raises:
        Refused: less than half of the network's numbers are there.
        ModelFileError: what is wrong with the file.
    """
    path = Path(path)
    reader = READERS.get(path.suffix)
    weights = reader(path) if reader else io.load_model(path, training=False).model
    own = network.state_dict()
    fit = {key: weights[key] for key, value in own.items() if key in weights and weights[key].shape == value.shape}
    anew = [
        f"{key} {value.shape}" + (f", there {tuple(weights[key].shape)}" if key in weights else "")
        for key, value in own.items()
        if key not in fit
    ]
    taken, whole = (sum(math.prod(value.shape) for value in part.values()) for part in (fit, own))
    if 2 * taken < whole:
        refuse(
            "train",
            f"init must be a model of this network, got {path} with {taken:,} of {whole:,} numbers; the first that does "
            f"not fit is {anew[0]}; choose --model, --base-channels, --depth, --upsample, --skip and --down as there",
        )
    network.load_state_dict(fit, strict=False)
    rest = f"; starts anew: {'; '.join(anew)}" if anew else ""
    tell(f"from {path}: {len(fit)} of {len(own)} tensors, {taken:,} of {whole:,} numbers{rest}")
