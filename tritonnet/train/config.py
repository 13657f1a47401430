"""What a training run is: one dataclass, kept as `config.toml` in the run folder."""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from tritonnet.data import Augmentation
from tritonnet.kernels.runtime import INTERPRET, refuse
from tritonnet.train.objective import parse_loss, parse_weights

__all__ = ["ARGUMENTS", "HELP", "LARGEST", "Config", "own_arguments"]

LARGEST = 8192  # side of an image, in pixels
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


def _is(default: Any, meaning: str, *limits: Any, words: str | None = None, slow: Any = None) -> Any:
    """A field. `limits` are all choices of a text, or the least and the most of a number (a float stays below the most)."""
    words = words or (default if isinstance(default, str) else f"{default:g}")
    return field(default=default, metadata={"help": meaning, "limits": limits, "words": words, "slow": slow})


@dataclass(frozen=True)
class Config:
    """One training run; `HELP` says what each field means. `Config.for_machine` chooses what fits GPU or interpreter.

    A field's metadata are its meaning (`help`), its limits, its default in `words`, and its default without a GPU (`slow`).

    Raises:
        Refused: a value outside its choices or range.
    """

    data: str = _is("", "folder with images/ and masks/, another known layout, or an HDF5 file (none: made cells)")
    out: str = _is("", "folder for the run (none: the next free of runs/001, runs/002, ...)")
    model: str = _is(
        "unet", "unet, resunet (residual units), or poster: the poster's small network", *ARGUMENTS, slow="poster"
    )
    size: int = _is(256, "images are resized to size x size pixels", 1, LARGEST, slow=32)
    batch_size: int = _is(16, "images at a time", 1, 65536, slow=8)
    epochs: int = _is(60, "passes over the training images; 0: as many as make 150 steps, at least 3", 0, 10**6, slow=0)
    lr: float = _is(1e-3, "learning rate at the start", 1e-30, math.inf)
    optimizer: str = _is(
        "adam", "adam, adamw, sgd with momentum, adagrad or rmsprop", "adam", "adamw", "sgd", "adagrad", "rmsprop"
    )
    precision: str = _is(
        "fp32", "fp32, tf32, bf16 or fp16", "fp32", "tf32", "bf16", "fp16", words="bf16 on a GPU that has it, else fp32"
    )
    seed: int = _is(
        0, "two runs with one seed, one configuration and one kind of GPU give identical weights", 0, 2**63 - 1
    )
    val: str = _is(
        "auto", "which images validate: every:5, a fraction such as 0.2, a split file; auto: the data's own, else every:5"
    )  # fmt: skip
    base_channels: int = _is(
        64, "channels of the first level of unet and resunet; each level below has twice as many", 1, 4096
    )
    depth: int = _is(
        4, "how often unet and resunet halve the image; size must be at least 2**depth", 1, 12, words="4; resunet 3"
    )
    upsample: str = _is("transposed", "how unet goes up: transposed convolution, or bilinear", "transposed", "bilinear")
    skip: str = _is(
        "concat", "how unet joins a skip to what comes from below: concat, or add (fewer parameters)", "concat", "add"
    )
    down: str = _is("pool", "how unet halves the image: pool (the maximum), or conv (learned)", "pool", "conv")
    dropout: float = _is(0.0, "probability with which unet drops an element of its coarsest level in training", 0, 1)
    recompute: int = _is(
        0, "levels of unet, from the finest, whose inner images the backward makes again: less memory, somewhat slower", 0, 12
    )  # fmt: skip
    head: str = _is("softmax", "softmax: a channel a class; sigmoid: one channel for two classes", "softmax", "sigmoid")
    loss: str = _is(
        "ce", "`ce` (cross-entropy), `focal`, `dice`, `distance`, or a sum such as `ce + dice` or "
        "`0.5*ce + distance(sigma=10)`. focal(gamma=2) dwells on pixels that are still wrong; dice is the overlap of each "
        "class, however small; distance(sigma=10, alpha=2, beta=4) is mild on false alarms within sigma pixels of the object",
    )  # fmt: skip
    class_weights: str = _is(
        "", "how much a pixel of each class counts: numbers such as 1,5, or auto: rare classes more, by "
        "pixels / (classes * pixels of the class) of the training masks. For every loss but dice", words="1 for each",
    )  # fmt: skip
    momentum: float = _is(0.9, "of sgd", 0, 1)
    weight_decay: float = _is(0.0, "of every optimizer", 0, math.inf)
    schedule: str = _is(
        "cosine", "of the learning rate: cosine or polynomial (0 at the end), step, plateau (of the validation loss), constant",
        "cosine", "polynomial", "step", "plateau", "constant",
    )  # fmt: skip
    warmup: int = _is(0, "steps over which the learning rate rises at first", 0, 10**9)
    decay_epochs: int = _is(
        10, "schedule step: epochs from fall to fall; plateau: epochs without a lower loss before one", 1, 10**9
    )
    decay_factor: float = _is(0.1, "of a fall of schedule step and plateau", 0, 1)
    power: float = _is(0.9, "of schedule polynomial", 0, math.inf)
    clip: float = _is(0.0, "scale the gradients down to this norm, of all parameters together; 0: never", 0, math.inf)
    accumulate: int = _is(
        1,
        "batches a step, as one so many times as large; batch norm, dice and class weights see each by itself",
        1,
        65536,
    )
    ema: float = _is(
        0.0, "decay of a running average of the weights, such as 0.999, which is then validated and kept in best.h5; 0: none",
        0, 1,
    )  # fmt: skip
    patience: int = _is(0, "stop after so many epochs without a higher validation IoU; 0: never", 0, 10**9)
    init: str = _is("", "start from this model's weights (best.h5, .pth, .safetensors), with other classes too")
    flips: bool = _is(True, "mirror training images at random", words="on")
    augment: str = _is(
        "", "change training images at random: names among turns, rotate, scale, shift, elastic, brightness, contrast, "
        "gamma, noise, each with its usual amount or with yours, such as `rotate=30, elastic, gamma`",
    )  # fmt: skip
    cells: int = _is(500, "how many images are made when no data is given", 2, 10**7, slow=200)
    max_seconds: float = _is(
        0.0, "stop this long after the first step; 0: never. The learning rate then follows the clock", 0, math.inf
    )
    checkpoint_seconds: float = _is(
        60.0, "save best.h5 and last.h5 this often, within an epoch too: what a kill or a power cut can cost", 0, math.inf
    )  # fmt: skip

    def __post_init__(self) -> None:
        for own in fields(self):
            name, value, kind, limits = own.name, getattr(self, own.name), own.type, own.metadata["limits"]
            if kind is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, name, value)
            elif type(value) is not kind:
                refuse("config", f"{name} must be {kind.__name__}, got {value!r}")  # type: ignore[union-attr]
            if kind is str and limits and value not in limits:
                refuse("config", f"{name} must be one of {', '.join(limits)}, got {value!r}")
            if kind is not str and limits:
                (least, most), upper = limits, "below" if kind is float else "at most"
                if not least <= value <= most or (kind is float and value == most):
                    refuse("config", f"{name} must be at least {least} and {upper} {most}, got {value}")
        if self.recompute and self.model != "unet":
            refuse("config", f"recompute must be 0 for {self.model}, got {self.recompute}")
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
        machine: dict[str, Any]
        if INTERPRET:
            machine = {own.name: own.metadata["slow"] for own in fields(cls) if own.metadata["slow"] is not None}
        else:
            machine = {"precision": "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"}
        depth = {"depth": 3} if chosen.get("model") == "resunet" else {}
        return cls(**machine | depth | {name: value for name, value in chosen.items() if value is not None})

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
        names = [own.name for own in fields(cls)]
        for name in sorted(set(found) - set(names)):
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            refuse("config", f"{path} must hold only known names, got {name}{hint}")
        return found


HELP = {own.name: own.metadata["help"] for own in fields(Config)}  # shown by --help, written into config.toml
