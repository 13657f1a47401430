"""`tritonnet summary`, `profile` and `tune`: a network's layers, where its training step's time goes, and faster tiles for it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from tritonnet.cli.options import ask, configuring
from tritonnet.io import replacing
from tritonnet.kernels import tile_table
from tritonnet.kernels.runtime import INTERPRET, arch, refuse
from tritonnet.measure import Step, made_batch, peak
from tritonnet.measure.profile import kernel_times, table
from tritonnet.measure.tune import Problem
from tritonnet.measure.tune import tune as fastest
from tritonnet.train import Config, Trained
from tritonnet.train.build import build_network
from tritonnet.train.config import HELP, own_arguments

__all__ = ["profile", "summary", "tune"]

VARIANTS = ("base_channels", "depth", "upsample", "skip", "down")
STEP = ("model", "size", "batch_size", "precision", *VARIANTS)


@configuring(*VARIANTS)
def summary(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="a model file [default: a fresh network]", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help=HELP["model"])] = "unet",
    in_channels: Annotated[int, typer.Option(help="channels of an image")] = 3,
    classes: Annotated[int | None, ask("channels of the head [default: 2; poster 1, as printed there]", min=1)] = None,
    size: Annotated[int | None, ask("side of an image [default: 256; poster 32]")] = None,
    **chosen: Any,
) -> None:
    """Print a network's layers, shapes and parameters.

    Examples:
    - `tritonnet summary --model poster` is the poster's table: 176,192 parameters
    - `tritonnet summary --skip add --down conv`
    - `tritonnet summary --model resunet`
    - `tritonnet summary runs/001/best.h5`
    """
    if file is not None:
        trained = Trained.load(file)
        trained.network.summary((trained.channels, size or trained.size, size or trained.size))
        return
    given = own_arguments(model, chosen)
    size = (32 if model == "poster" else 256) if size is None else size
    config = Config.for_machine(model=model, size=size, **given)
    network = build_network(config, in_channels, classes or (1 if model == "poster" else 2))
    network.summary((in_channels, size, size))


@configuring(*STEP)
def profile(**chosen: Any) -> None:
    """Show where a training step's time goes, kernel by kernel; needs a GPU.

    A line a kernel: launches, microseconds, its share of the step, the bytes of its buffers, rates, and the least time the
    card could take for so many bytes or products as a share of the time it took ("of peak").

    Example: `tritonnet profile --batch-size 1`
    """
    step, run = _step("profile", chosen)
    for _ in range(3):  # compiles, and allocates the optimizer's state
        run()
    best = peak()
    print(table(kernel_times(run, best, step.dtype)))
    rate = f"{best.flops / 1e12:.0f} TFLOP/s in 16 bits, " if best.flops else ""
    print(f"{torch.cuda.get_device_name()}, peak: {rate}{best.bytes / 1e12:.2f} TB/s ({best.source})")


@configuring(*STEP)
def tune(
    out: Annotated[Path | None, ask("tile table to add to [default: your own, which every run reads]")] = None,
    **chosen: Any,
) -> None:
    """Try other tiles for the convolutions of a network's training step, and keep the fastest; needs a GPU.

    Every candidate is checked before it is timed. Results change in the last bits, since sums are added in another order; a
    run that is resumed keeps the tiles it began with.

    Example: `tritonnet tune --size 384 --batch-size 8 --base-channels 48`
    """
    _, run = _step("tune", chosen)
    run()
    problems = [
        Problem(name, key, tile["form"])
        for name, tiles in tile_table.chosen()[arch()].items()
        for key, tile in tiles.items()
        if tile["form"] != "gather" or not key.endswith("float32")  # IEEE products run on no tensor core
    ]
    path = out or tile_table.user_table(arch())
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.is_file() else {}
    for name, tiles in fastest(problems, min(16, os.cpu_count() or 1), print).items():
        known.setdefault(name, {}).update(tiles)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print(f"written to {path}; new runs differ in the last bits; without the file they are as before")


def _step(command: str, chosen: dict[str, Any]) -> tuple[Step, Callable[[], object]]:
    """A training step of the network that the options name, and a call of it over made data."""
    if INTERPRET:
        refuse(command, "a GPU must be there, none was found; times on the interpreter say nothing about one")
    config = Config.for_machine(**chosen)
    own_arguments(config.model, chosen)
    step = Step(build_network(config, 3, 2), 3, config.precision)
    batch = made_batch(config.batch_size, config.size, config.size, 3, 2)
    return step, lambda: step(*batch)
