"""`tritonnet summary` and `tritonnet profile`: a network's layers, and where its training step's time goes."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from tritonnet.cli.options import ask, configuring
from tritonnet.kernels.runtime import INTERPRET, refuse
from tritonnet.measure import Step, made_batch, peak
from tritonnet.measure.profile import kernel_times, table
from tritonnet.train import Config, Trained
from tritonnet.train.build import build_network
from tritonnet.train.config import HELP, own_arguments

__all__ = ["profile", "summary"]

VARIANTS = ("base_channels", "depth", "upsample", "skip", "down")


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


@configuring(*VARIANTS)
def profile(
    model: Annotated[str, typer.Option(help=HELP["model"])] = "unet",
    size: Annotated[int, typer.Option(help="side of an image, in pixels", min=1)] = 256,
    batch_size: Annotated[int, typer.Option(help="images a step", min=1)] = 16,
    precision: Annotated[str, typer.Option(help=HELP["precision"])] = "bf16",
    **chosen: Any,
) -> None:
    """Show where a training step's time goes, kernel by kernel; needs a GPU.

    A line a kernel: launches, microseconds, its share of the step, the bytes of its buffers, rates, and the least time the
    card could take for so many bytes or products as a share of the time it took ("of peak").

    Example: `tritonnet profile --batch-size 1`
    """
    if INTERPRET:
        refuse("profile", "a GPU must be there, none was found; times on the interpreter say nothing about one")
    given = own_arguments(model, chosen)
    config = Config.for_machine(model=model, precision=precision, size=size, batch_size=batch_size, **given)
    step, batch = Step(build_network(config, 3, 2), 3, precision), made_batch(batch_size, size, size, 3, 2)
    for _ in range(3):  # compiles, and allocates the optimizer's state
        step(*batch)
    best = peak()
    print(table(kernel_times(lambda: step(*batch), best, step.dtype)))
    rate = f"{best.flops / 1e12:.0f} TFLOP/s in 16 bits, " if best.flops else ""
    print(f"{torch.cuda.get_device_name()}, peak: {rate}{best.bytes / 1e12:.2f} TB/s ({best.source})")
