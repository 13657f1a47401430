"""Segmentation networks: composition of modules."""

from collections.abc import Mapping
from typing import Any

from tritonnet.kernels.runtime import refuse
from tritonnet.models import summary
from tritonnet.models.poster import PosterUNet
from tritonnet.models.resunet import ResUNet
from tritonnet.models.segmenter import Segmenter
from tritonnet.models.unet import UNet

__all__ = ["PosterUNet", "ResUNet", "Segmenter", "UNet", "build", "summary"]

_KINDS: dict[str, type[Segmenter]] = {"unet": UNet, "resunet": ResUNet, "poster": PosterUNet}


def build(config: Mapping[str, Any]) -> Segmenter:
    """The network that a `model.config` describes, with fresh weights.

    Args:
        config: {"model": "unet" | "resunet" | "poster", and that class's arguments by name}.

    Raises:
        Refused: an unknown network, or arguments that it does not take.
    """
    arguments = {name: value for name, value in config.items() if name != "model"}
    kind = _KINDS.get(str(config.get("model")))
    if kind is None:
        refuse("models.build", f"model must be one of {', '.join(_KINDS)}, got {config.get('model')!r}")
    try:
        return kind(**arguments)
    except TypeError as error:
        refuse("models.build", f"{config['model']} does not take these arguments: {error}")
