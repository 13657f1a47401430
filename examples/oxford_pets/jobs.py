"""Which runs the experiment consists of, and the file that holds a JSON line of each finished one."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

Row = dict[str, Any]

GROUPS = {
    "main": "Adam and SGD with momentum, beside PyTorch",
    "parity": "the first losses beside PyTorch's, in fp32",
    "upsample": "bilinear up-sampling instead of transposed convolution",
    "losses": "distance-aware losses and ce + dice instead of cross-entropy",
    "skip": "skips added instead of concatenated",
    "resunet": "the ResU-Net",
    "scale": "more training images and larger batches",
    "recipes": "a plain and the recommended recipe on the folder's own split, beside PyTorch",
    "recipes-few": "the same two on the few images of each seed's split",
}
LOSSES = ("distance(sigma=3)", "distance(sigma=10)", "distance(sigma=30)", "ce + dice")
SCALE = [(images, batch) for images in (31, 75, 150, 300) for batch in (1, 4, 16)]
PLAIN = {"optimizer": "adam", "lr": 1e-3, "schedule": "cosine", "flips": True, "loss": "ce"}
AUGMENT = "rotate=20, scale=0.3, shift=0.1, brightness=0.2, contrast=0.4, gamma=0.4"
RECIPES: dict[str, dict[str, Any]] = {  # fields of a job
    "plain": PLAIN,
    "recommended": PLAIN | {"lr": 3e-4, "loss": "ce + dice", "augment": AUGMENT, "ema": 0.99},
}
LENGTHS: dict[str, dict[str, dict[str, Any]]] = {  # of each recipe, by group
    "recipes": {"plain": {"epochs": (60,), "batch": 16}, "recommended": {"epochs": (160,), "batch": 16}},
    "recipes-few": {"plain": {"epochs": (90,), "batch": 1}, "recommended": {"epochs": (300,), "batch": 4}},
}


@dataclass(frozen=True)
class Job:
    """One run: a network trained once, and read after each of `epochs`. The fields decide its numbers."""

    group: str = "main"
    framework: str = "tritonnet"  # or "torch", or "torch-benchmark": with the algorithms that cuDNN finds fastest
    optimizer: str = "adam"
    loss: str = "ce"
    model: str = "unet"
    upsample: str = "transposed"
    skip: str = "concat"
    images: int = 31  # every fifth of them for validation; 0: the folder's own split, whose test images validate
    batch: int = 1
    test: int = 7
    seed: int = 0
    epochs: tuple[int, ...] = (5, 30, 60, 90)
    size: int = 256
    base_channels: int = 64
    depth: int = 4
    precision: str = "bf16"
    lr: float = 1e-4
    schedule: str = "constant"  # this field and the next four as of `tritonnet train`
    flips: bool = False
    augment: str = ""
    ema: float = 0.0
    weight_decay: float = 0.0
    recipe: str = ""  # of a group of LENGTHS its name, and below the folder's
    data: str = ""

    @property
    def variant(self) -> str:
        """What distinguishes it within its group."""
        parts = {
            "upsample": self.upsample, "losses": self.loss, "skip": f"skip {self.skip}", "resunet": "ResU-Net",
            "scale": f"{self.images} images, batch {self.batch}",
        } | dict.fromkeys(LENGTHS, f"{self.data}, {self.recipe}, {self.framework}")  # fmt: skip
        return parts.get(self.group, f"{self.framework}, {self.optimizer}")


def jobs(group: str, base: Job, rates: dict[str, float], seeds: Iterable[int]) -> list[Job]:
    """The runs of a group, seed by seed."""
    base = replace(base, group=group, lr=rates[base.optimizer], data=base.data if group in LENGTHS else "")
    found = []
    for seed in seeds:
        job = replace(base, seed=seed)
        match group:
            case "main":
                found += [
                    replace(job, framework=framework, optimizer=optimizer, lr=rates[optimizer])
                    for optimizer in ("adam", "sgd")
                    for framework in ("tritonnet", "torch-benchmark")
                ]
            case "parity":
                first = replace(job, precision="fp32", epochs=job.epochs[:1])
                found += [
                    replace(first, framework=framework, optimizer=optimizer, lr=rates[optimizer])
                    for optimizer in ("adam", "sgd")
                    for framework in ("tritonnet", "torch", "torch-benchmark")
                ]
            case "upsample":
                found.append(replace(job, upsample="bilinear"))
            case "losses":
                found += [replace(job, loss=loss) for loss in LOSSES]
            case "skip":
                found.append(replace(job, skip="add"))
            case "resunet":
                found.append(replace(job, model="resunet"))
            case "scale":
                others = [(images, batch) for images, batch in SCALE if (images, batch) != (job.images, job.batch)]
                found += [replace(job, images=images, batch=batch) for images, batch in others]
            case "recipes" | "recipes-few":
                own = {"images": 0, "test": 0} if group == "recipes" else {}
                found += [
                    replace(job, framework=framework, recipe=recipe, **own, **(RECIPES[recipe] | length))
                    for recipe, length in LENGTHS[group].items()
                    for framework in ("tritonnet", "torch-benchmark")
                ]
    return found


def read(path: Path) -> list[Row]:
    """The rows of the file, their job as a `Job`; half a line at its end, of a run that was killed, is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        row["job"] = Job(**{**row["job"], "epochs": tuple(row["job"]["epochs"])})
        rows.append(row)
    return rows


def append(path: Path, row: Row) -> None:
    """Add a row as one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps({**row, "job": asdict(row["job"])}) + "\n")
