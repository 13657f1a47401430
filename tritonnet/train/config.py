"""What a training run is: one dataclass, kept as `config.toml` in the run folder."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from tritonnet.data import Augmentation
from tritonnet.kernels.runtime import INTERPRET, refuse
from tritonnet.train.objective import parse_loss, parse_weights

__all__ = ["ARGUMENTS", "Config", "own_arguments"]

CHOICES = {
    "model": ("unet", "resunet", "poster"),
    "upsample": ("transposed", "bilinear"),
    "skip": ("concat", "add"),
    "down": ("pool", "conv"),
    "head": ("softmax", "sigmoid"),
    "optimizer": ("adam", "adamw", "sgd", "adagrad", "rmsprop"),
    "schedule": ("cosine", "polynomial", "step", "plateau", "constant"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
}
LEAST = {
    "base_channels": 1, "depth": 1, "size": 1, "batch_size": 1,
    "epochs": 0, "cells": 2, "weight_decay": 0.0, "max_seconds": 0.0,
    "checkpoint_seconds": 0.0, "seed": 0, "warmup": 0, "decay_epochs": 1, "power": 0.0,
    "clip": 0.0, "accumulate": 1, "patience": 0,
}  # fmt: skip
MOST = {
    "base_channels": 4096, "depth": 12, "size": 8192, "batch_size": 65536, "epochs": 10**6, "accumulate": 65536,
    "cells": 10**7, "warmup": 10**9, "seed": 2**63 - 1,
}  # fmt: skip
HELP = {
    "data": "folder with images/ and masks/, another known layout, or an HDF5 file (none: made cells)",
    "out": "folder for the run (none: the next free of runs/001, runs/002, ...)",
    "model": "unet, resunet (residual units), or poster: the poster's small network",
    "base_channels": "channels of the first level of unet and resunet; each level below has twice as many",
    "depth": "how often unet and resunet halve the image; size must be at least 2**depth",
    "upsample": "how unet goes up: transposed convolution, or bilinear",
    "skip": "how unet joins a skip to what comes from below: concat, or add (fewer parameters)",
    "down": "how unet halves the image: pool (the maximum), or conv (learned)",
    "dropout": "probability with which unet drops an element of its coarsest level in training",
    "head": "softmax: a channel a class; sigmoid: one channel for two classes",
    "loss": "`ce` (cross-entropy), `focal`, `dice`, `distance`, or a sum such as `ce + dice` or `0.5*ce + distance(sigma=10)`. "
    "focal(gamma=2) dwells on pixels that are still wrong; dice is the overlap of each class, however small; "
    "distance(sigma=10, alpha=2, beta=4) is mild on false alarms within sigma pixels of the object",
    "class_weights": "how much a pixel of each class counts: numbers such as 1,5, or auto: rare classes more, by "
    "pixels / (classes * pixels of the class) of the training masks. For every loss but dice",
    "size": "images are resized to size x size pixels",
    "batch_size": "images at a time",
    "epochs": "passes over the training images; 0: as many as make 150 steps, at least 3",
    "lr": "learning rate at the start",
    "optimizer": "adam, adamw, sgd with momentum, adagrad or rmsprop",
    "momentum": "of sgd",
    "weight_decay": "of every optimizer",
    "schedule": "of the learning rate: cosine or polynomial (0 at the end), step, plateau (of the validation loss), constant",
    "warmup": "steps over which the learning rate rises at first",
    "decay_epochs": "schedule step: epochs from fall to fall; plateau: epochs without a lower loss before one",
    "decay_factor": "of a fall of schedule step and plateau",
    "power": "of schedule polynomial",
    "clip": "scale the gradients down to this norm, of all parameters together; 0: never",
    "accumulate": "batches a step, as one so many times as large; batch norm, dice and class weights see each by itself",
    "ema": "decay of a running average of the weights, such as 0.999, which is then validated and kept in best.h5; 0: none",
    "patience": "stop after so many epochs without a higher validation IoU; 0: never",
    "init": "start from this model's weights (best.h5, .pth, .safetensors), with other classes too",
    "flips": "mirror training images at random",
    "augment": "change training images at random: names among turns, rotate, scale, shift, elastic, brightness, contrast, "
    "gamma, noise, each with its usual amount or with yours, such as `rotate=30, elastic, gamma`",
    "precision": "fp32, tf32, bf16 or fp16",
    "seed": "two runs with one seed, one configuration and one kind of GPU give identical weights",
    "val": "which images validate: every:5, a fraction such as 0.2, a split file; auto: the data's own, else every:5",
    "cells": "how many images are made when no data is given",
    "max_seconds": "stop this long after the first step; 0: never. The learning rate then follows the clock",
    "checkpoint_seconds": "save best.h5 and last.h5 this often, within an epoch too: what a kill or a power cut can cost",
}  # what each field means; written into config.toml and shown by --help


ARGUMENTS: dict[str, tuple[str, ...]] = {
    "unet": ("base_channels", "depth", "upsample", "skip", "down", "dropout"),
    "resunet": ("base_channels", "depth"),
    "poster": (),
}  # of each network, beside its channels


def own_arguments(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are arguments of networks and were given (are not None).

    Raises:
        Refused: one that this network has not, and would ignore.
    """
    given = {name: options[name] for name in ARGUMENTS["unet"] if options.get(name) is not None}
    names = ", ".join("--" + name.replace("_", "-") for name in given if name not in ARGUMENTS.get(model, given))
    if names:
        refuse("model", f"must be unet for {names}, got {model}; add --model unet, or leave out {names}")
    return given


@dataclass(frozen=True)
class Config:
    """One training run; `HELP` says what each field means. `Config.for_machine` chooses what fits GPU or interpreter.

    Raises:
        Refused: a value outside its choices or range.
    """

    data: str = ""
    out: str = ""
    model: str = "unet"
    base_channels: int = 64
    depth: int = 4
    upsample: str = "transposed"
    skip: str = "concat"
    down: str = "pool"
    dropout: float = 0.0
    head: str = "softmax"
    loss: str = "ce"
    class_weights: str = ""
    size: int = 256
    batch_size: int = 16
    epochs: int = 60
    lr: float = 1e-3
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: int = 0
    decay_epochs: int = 10
    decay_factor: float = 0.1
    power: float = 0.9
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    patience: int = 0
    init: str = ""
    flips: bool = True
    augment: str = ""
    precision: str = "fp32"
    seed: int = 0
    val: str = "auto"
    cells: int = 500
    max_seconds: float = 0.0
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not field.type:
                refuse("config", f"{field.name} must be {field.type.__name__}, got {value!r}")  # type: ignore[union-attr]
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                refuse("config", f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in LEAST.items():
            if not getattr(self, name) >= least:
                refuse("config", f"{name} must be at least {least}, got {getattr(self, name)}")
            if getattr(self, name) == float("inf"):
                refuse("config", f"{name} must be finite, got inf")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                refuse("config", f"{name} must be at most {most}, got {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            refuse("config", f"lr must be above 0 and finite, got {self.lr}")
        for name in ("momentum", "ema", "decay_factor", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                refuse("config", f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        Augmentation.parse(self.augment)
        parse_loss(self.loss)
        parse_weights(self.class_weights)
        if self.class_weights and all(name == "dice" for _, name, _ in parse_loss(self.loss)):
            refuse("config", f"class_weights must come with another loss beside dice, got {self.loss}")

    @classmethod
    def for_machine(cls, **chosen: Any) -> "Config":
        """The defaults for this machine, changed by what was chosen (None counts as not chosen).

        On a GPU: the U-Net at 256 x 256 in bf16 (fp32 where the GPU lacks it). On the interpreter, which is some 10,000
        times slower: the poster's network at 32 x 32 in fp32, some 150 steps. The ResU-Net has the depth of its paper.
        """
        if INTERPRET:
            machine = cls(model="poster", size=32, batch_size=8, epochs=0, precision="fp32", cells=200)
        else:
            machine = cls(precision="bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
        if chosen.get("model") == "resunet":
            machine = replace(machine, depth=3)
        return replace(machine, **{name: value for name, value in chosen.items() if value is not None})

    def save(self, path: Path) -> None:
        """Write every field as TOML, each with its meaning as a comment."""
        lines = ["# A training run of tritonnet. Go on with it, when it was stopped: tritonnet train --resume RUN"]
        for name, value in asdict(self).items():
            # TOML writes these types as JSON does
            lines += ["", f"# {HELP[name]}", f"{name} = {json.dumps(value, ensure_ascii=False)}"]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read what `save` wrote.

        Raises:
            Refused: what `read` refuses, or a value out of range.
        """
        return cls(**cls.read(path))

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The fields that a TOML file gives.

        Raises:
            Refused: no such file, no TOML, or a name that is no field.
        """
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            refuse("config", f"{path} must be a file such as the config.toml of a run folder, found none")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            refuse("config", f"{path} must be TOML: {error}")
        names = [field.name for field in fields(cls)]
        for name in sorted(set(found) - set(names)):
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            refuse("config", f"{path} must hold only known names, got {name}{hint}")
        return found
