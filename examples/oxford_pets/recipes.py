"""The report's part on training recipes: their scores, and what of a gain is the recipe's and what the framework's."""

from collections.abc import Sequence
from dataclasses import replace

from oxford_pets.figures import NAMES
from oxford_pets.intervals import interval, verdict, written
from oxford_pets.jobs import LENGTHS, Job, Row
from oxford_pets.values import Block, commands, final, known, paired, seconds

AMOUNTS = ("batch", "optimizer", "lr", "schedule", "loss", "augment", "ema", "weight_decay")
Kinds = dict[Job, dict[int, Row]]


def kinds_of(rows: Sequence[Row]) -> Kinds:
    """The rows of recipes by job and seed."""
    kinds: Kinds = {}
    of = [row for row in rows if row["job"].group in LENGTHS]
    for row in sorted(of, key=lambda row: (row["job"].group, row["job"].data, row["job"].recipe, row["job"].framework)):
        kinds.setdefault(replace(row["job"], seed=0), {})[row["job"].seed] = row
    return kinds


def where(job: Job, of: dict[int, Row]) -> list[str]:
    """The folder, and how many of its images are for what."""
    train, val, test = next(iter(of.values()))["split"]
    return [job.data, f"{train} + {val} / {test}" if job.images else f"own split, {train} / {test}"]


def differences_of(rows: Sequence[Row]) -> list[list[str]]:
    """Lines: data, images, what less what, pairs, IoU of the last epoch, with flips, of the best epoch, and the verdict."""
    kinds, lines = kinds_of(rows), []
    for job, of in kinds.items():
        name = NAMES[job.framework]
        plain = [
            j
            for j in kinds
            if (j.recipe, j.data, j.group, j.framework) == ("plain", job.data, job.group, job.framework)
        ]
        others = [(f"{name}, {job.recipe} - plain", 0.0, other) for other in plain if job.recipe != "plain"]
        if name == "tritonnet":
            others.append((f"{job.recipe}, tritonnet - PyTorch", -0.02, replace(job, framework="torch-benchmark")))
        for title, least, other in others:
            by = [paired(of, kinds.get(other, {}), final(which)) for which in ("last", "flips", "best")]
            if by[0]:
                mean, half = interval(by[0])
                decided = (
                    f"lower end at least -0.02: {'met' if mean - half >= least else 'not met'}"
                    if least
                    else verdict(by[0])
                )
                few = "not decided (too few seeds)"
                lines.append(
                    [*where(job, of), title, str(len(by[0])), *map(written, by), few if half != half else decided]
                )
    return lines


def recipes(rows: Sequence[Row]) -> list[Block]:
    kinds, lines, contents = kinds_of(rows), [], []
    if not kinds:
        return []
    for job, of in kinds.items():
        found, place = [*of.values()], where(job, of)
        scores = [final("last"), final("last", 1), final("last", 2), final("flips"), final("best")]
        spent = [second * max(job.epochs) for second in known(found, seconds)]
        cells = [*(written(known(found, score)) for score in scores), written(spent, 0)]
        lines.append([*place, job.recipe, NAMES[job.framework], str(len(of)), *cells])
        given = ", ".join(f"{amount} {getattr(job, amount)}" for amount in AMOUNTS if getattr(job, amount))
        contents.append(f"{', '.join(place)}, {job.recipe}: {max(job.epochs)} epochs, {'flips, ' * job.flips}{given}.")
    options = {name: getattr(next(iter(kinds)), name) for name in ("size", "base_channels", "depth", "precision")}
    if few := [job for job in kinds if job.images]:
        options |= {"images": few[0].images, "test": few[0].test}
    text = (
        "Images to train on / to test with. On a folder's own split the test images choose the best epoch (of every "
        "fifth), as in `tritonnet train`, so it flatters; the last epoch nothing chooses. Elsewhere each seed has its own "
        "split, and a fifth of the images (+) chooses. Flips: the last epoch's probabilities averaged over four mirror "
        "images. PyTorch starts from our weights, with our batches and, where they are augmented, the images that our kernel "
        "makes; loss, gradients, optimizer, schedule and average of the weights are its own, with the forward and backward "
        "as one CUDA graph. Seconds: the median epoch's times the epochs, so without compilation and validation."
    )
    what = ["IoU, last epoch", "Dice", "pixel accuracy", "IoU, flips", "IoU, best epoch", "seconds to train"]
    differences = [
        "data",
        "images",
        "difference by seed",
        "pairs",
        "IoU, last epoch",
        "IoU, flips",
        "IoU, best epoch",
        "last epoch",
    ]
    return [
        ("heading", "Recipes"), ("text", "Commands, for each folder of data:"),
        *commands([row for row in rows if row["job"].group in LENGTHS], **options), ("text", text),
        *(("text", line) for line in dict.fromkeys(contents)),
        ("table", ["data", "images", "recipe", "by", "seeds", *what], lines), ("table", differences, differences_of(rows)),
    ]  # fmt: skip
