"""The commands. What a user got wrong ends in one line on stderr and exit code 2, never in a stack trace."""

import json
import shlex
import signal
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import tritonnet
from tritonnet.cli import data, networks
from tritonnet.cli import doctor as examination
from tritonnet.cli.options import ask, configuring
from tritonnet.cli.progress import listener
from tritonnet.data import DataError
from tritonnet.io import FileError
from tritonnet.io import inspect as inspect_file
from tritonnet.kernels.fault import Fault
from tritonnet.kernels.runtime import INTERPRET, Refused, refuse
from tritonnet.train import Config, Inference, Run, Trained
from tritonnet.train import evaluate as evaluate_model
from tritonnet.train import predict as predict_pictures
from tritonnet.train import resume as resume_run
from tritonnet.train import train as train_network
from tritonnet.train.config import HELP, own_arguments
from tritonnet.train.evaluation import extremes, write_pictures
from tritonnet.train.finetune import network_of
from tritonnet.train.folder import check_out
from tritonnet.train.report import counted, score_table

__all__ = ["app", "main"]

MISTAKES = (DataError, Fault, FileError, OSError, Refused)
MEMORY = (MemoryError, torch.cuda.OutOfMemoryError)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train U-Nets that mark every pixel of an image, on hand-written Triton kernels.\n\n"
    "First steps: `tritonnet demo`, then `tritonnet data check DIR` and `tritonnet train --data DIR` on a folder with "
    "`images/` and `masks/`, then `tritonnet predict runs/001/best.h5 PICTURES`. Each command has its own `--help`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tritonnet {tritonnet.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[bool, ask("print the version and end", "--version", callback=_version, is_eager=True)] = False,
) -> None: ...


def main(args: list[str] | None = None) -> None:
    """Run the program and exit: 0 done, 2 for a mistake of the user's, 1 for a fault of the program's or the machine's.

    Args:
        args: in place of the command line's.
    """
    arguments = sys.argv[1:] if args is None else args
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a file that is damaged is said to be
    try:
        code = app(
            [*arguments, "--help"] if arguments in ([], ["data"]) else arguments,
            prog_name="tritonnet",
            standalone_mode=False,
        )
    except Exception as error:
        if isinstance(error, MEMORY) or "DefaultCPUAllocator" in str(error):  # torch has no type for the host's
            text = "out of memory; choose a smaller --batch-size, --size or --base-channels"
        elif isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        elif isinstance(error, MISTAKES):
            text = str(error)
        elif hasattr(error, "format_message"):  # the argument parser's own errors have it
            command = getattr(getattr(error, "ctx", None), "command_path", "tritonnet")
            text = f"{error.format_message().rstrip('.')}; {command} --help explains"
        else:
            raise
        print(f"tritonnet: error: {' '.join(text.splitlines())}", file=sys.stderr)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
@configuring()
def train(
    *,
    resume: Annotated[
        Path | None, ask("go on with a stopped run folder; its config.toml has the other options")
    ] = None,
    config: Annotated[
        Path | None, ask("TOML file of defaults, such as a run's config.toml; options given here win")
    ] = None,
    **options: Any,
) -> None:
    """Train a network on images and masks.

    DIR holds `images/` and `masks/` with the same file names (PNG, JPEG, TIFF, GIF, BMP). A mask's values are 0 and
    255, 0 and 1, class numbers or colours; what was found is printed, and `tritonnet data check DIR` says more. The
    Oxford-IIIT Pet and Carvana layouts are recognised too, and so are files of `tritonnet data pack`.

    Examples:
    - `tritonnet train --data nuclei` trains with what suits this machine
    - `tritonnet train --data nuclei --size 512 --batch-size 4 --val 0.1 --out runs/large`
    - `tritonnet train --config runs/001/config.toml --out runs/warm --warmup 500 --clip 1` changes a run
    - `tritonnet train --data other --init runs/001/best.h5 --lr 1e-4` starts from its weights and network
    - `tritonnet train --data nuclei --loss "ce + dice"` where the objects are few or small
    - `tritonnet train --resume runs/001` goes on where a stopped run was last saved, to the same bits

    Ctrl-C and SIGTERM save after the step they come in.

    The run folder then holds best.h5 (for predict and evaluate), last.h5 (to go on), metrics.csv, curves.png, samples/
    and config.toml.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    for name, value in chosen.items():
        if value == "":  # as from a shell variable that is not set
            refuse("train", f"--{name} must not be empty")
    if resume is not None:
        if config is not None:
            chosen["config"] = config
        if chosen:
            given = ", ".join("--" + name.replace("_", "-") for name in chosen)
            anew = f"or start a new run from its weights with --init {resume}/best.h5 in place of --resume"
            refuse("train", f"--resume takes its options from the run's config.toml; leave out {given}, {anew}")
        _finish(_run(lambda: resume_run(resume, listener())))
        return
    wanted = (Config.read(config) if config else {}) | chosen
    start = network_of(str(wanted["init"])) if wanted.get("init") else {}
    settings = Config.for_machine(**start | wanted)
    own_arguments(settings.model, chosen)
    _finish(_run(lambda: train_network(settings, listener())))


def _run(start: Any) -> Run:
    try:
        return start()  # type: ignore[no-any-return]
    except KeyboardInterrupt as stop:  # its argument is the signal's number
        raise typer.Exit(128 + int(stop.args[0] if stop.args else signal.SIGINT)) from None


def _finish(run: Run) -> None:
    best = run.best
    print(
        f"best validation IoU {best['iou']:.4f}, Dice {best['dice']:.4f} in epoch {best['epoch']:.0f}, "
        f"on {counted(run.validated, 'image')} at {run.config.size} x {run.config.size}"
    )
    print(f"pictures: {run.folder}/samples, {run.folder}/curves.png")
    print(f"next: tritonnet predict {shlex.quote(f'{run.folder}/best.h5')} PICTURES")


ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="best.h5 or last.h5 of a run folder", show_default=False)
]
Tiles = Annotated[bool, ask("overlapping tiles at full resolution, instead of resizing", "--tiles")]
TileSize = Annotated[int | None, ask("side of a tile in pixels [default: the size trained at]")]
Overlap = Annotated[float | None, ask("of tiles side by side, from 0 to below 1 [default: 0.25]")]
Tta = Annotated[str, typer.Option(help="none, or flips: the mean over the image and its mirror images")]
Json = Annotated[bool, ask("print one JSON object in place of the text", "--json")]


@app.command()
def evaluate(
    model: ModelPath,
    data: Annotated[str, ask("folder as for train [default: the data it was trained on]")] = "",
    split: Annotated[str, typer.Option(help="val, train, test (where the data has one) or all")] = "val",
    val: Annotated[str, ask("which images validate, as for train [default: as in its run]")] = "",
    tiles: Tiles = False,
    tile_size: TileSize = None,
    overlap: Overlap = None,
    tta: Tta = "none",
    batch_size: Annotated[int, typer.Option(help="images or tiles at a time", min=1)] = 16,
    out: Annotated[Path | None, ask("folder for confusion_matrix.png, worst_1.png ... and best_1.png ...")] = None,
    as_json: Json = False,
) -> None:
    """Score a trained network: IoU, Dice, precision, recall and pixel accuracy from one confusion matrix over all images.

    Images and masks are resized to the size the network was trained at, and scored there; with `--tiles` they are not.
    `predict` with the same options finds the same.

    Examples:
    - `tritonnet evaluate runs/001/best.h5` on the validation images of its run
    - `tritonnet evaluate runs/001/best.h5 --data other --split all --out scores`
    - `tritonnet evaluate runs/001/best.h5 --json > scores.json`
    """
    if out is not None:
        check_out(out)
    trained = Trained.load(model)
    inference = Inference(tiles, tile_size, overlap, tta, batch_size)
    dataset, metrics = evaluate_model(trained, data, split=split, val=val, inference=inference)
    if out is not None:
        write_pictures(out, trained, dataset, metrics, inference)
    if as_json:
        about = {"split": split, "tiles": tiles, "size": inference.side(trained), "class_names": dataset.class_names}
        text = json.dumps({**about, **asdict(metrics)})
        print(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1))  # JSON knows no NaN
        return
    for note in dataset.notes:
        print(note)
    at, side = "at full size in tiles of" if tiles else "at", inference.side(trained)
    print(f"{counted(len(metrics.image_iou), 'image')} of split {split}, scored {at} {side} x {side}")
    print("\n".join(score_table(metrics, dataset.class_names)))
    for kind, names in zip(("worst", "best "), extremes(metrics), strict=True):
        print(f"{kind}  " + ", ".join(f"{name} {metrics.image_iou[name]:.4f}" for name in names))


@app.command()
def predict(
    model: ModelPath,
    pictures: Annotated[
        Path, typer.Argument(metavar="PICTURES", help="a picture or a folder of pictures", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder for masks/ and overlays/")] = Path("predictions"),
    tiles: Tiles = False,
    tile_size: TileSize = None,
    overlap: Overlap = None,
    tta: Tta = "none",
    probabilities: Annotated[Path | None, ask("HDF5 file to make, with each class's probability")] = None,
    batch_size: Annotated[int, typer.Option(help="pictures or tiles at a time", min=1)] = 16,
    as_json: Json = False,
) -> None:
    """Mark every pixel of a picture, or of each picture in a folder and its sub-folders.

    Writes `masks/NAME.png` (a palette PNG of the picture's own size: pixel value = class number, opens in any viewer)
    and `overlays/NAME.png` (the picture with the classes tinted).

    A picture is resized to the size the network was trained at, as in `evaluate`, and the result back. With `--tiles` it
    is not: choose that for pictures that are larger than those trained on, but show things at the same magnification.

    Examples:
    - `tritonnet predict runs/001/best.h5 holiday.jpg --out marked`
    - `tritonnet predict runs/001/best.h5 slides --tiles --overlap 0.5 --tta flips --probabilities slides.h5`
    """
    masks = predict_pictures(
        model, pictures, out, inference=Inference(tiles, tile_size, overlap, tta, batch_size),
        probabilities=probabilities, tell=lambda line: print(line, file=sys.stderr if as_json else sys.stdout),
    )  # fmt: skip
    listed = json.dumps({str(path): pixels for path, pixels in masks.items()}, indent=1)
    print(listed if as_json else f"{counted(len(masks), 'mask')} in {out / 'masks'}, overlays in {out / 'overlays'}")


app.command()(networks.summary)
app.add_typer(data.app, name="data")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="HDF5, safetensors or .pth", show_default=False)],
    check: Annotated[bool, typer.Option("--check", help="read all values too, and compare their checksums")] = False,
) -> None:
    """List what a model or data file holds: arrays, groups, attributes, and what a model was made with.

    Only the headers are read. A damaged file, or one with links or types that are not read for safety, is refused.

    Examples:
    - `tritonnet inspect runs/001/best.h5 --check`
    - `tritonnet inspect scans.h5`
    """
    print("\n".join(inspect_file(file, check=check)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="run folder; an earlier demo in it is replaced")] = Path("demo"),
    seed: Annotated[int, typer.Option(help=HELP["seed"], min=0)] = 0,
    expect_iou: Annotated[float, typer.Option(help="exit with code 1 if the validation IoU is lower")] = 0.0,
) -> None:
    """Train on made pictures of cells and show the result; needs no data.

    On a GPU: the U-Net at 256 x 256, for 60 seconds after the first step. Without one: the poster's small network at
    32 x 32, 75 steps of 8 images, a few minutes.
    """
    if INTERPRET:
        config = Config.for_machine(out=str(out), seed=seed, lr=3e-3, epochs=3, cells=250)  # 25 steps an epoch
    else:
        config = Config.for_machine(out=str(out), seed=seed, epochs=100000, max_seconds=60.0)
    run = _run(lambda: train_network(config, listener(), replacing=True))
    print(
        f"validation IoU {run.best['iou']:.4f} on {run.validated} cells images it has not seen; "
        f"pictures: {run.folder}/samples, {run.folder}/curves.png"
    )
    if not run.best["iou"] >= expect_iou:
        print(f"tritonnet: the IoU must be at least {expect_iou}", file=sys.stderr)
        raise typer.Exit(1)


app.command()(networks.profile)
app.command()(networks.tune)


@app.command()
def doctor() -> None:
    """Say what this machine has (GPU, versions) and check one kernel; exit code 1 if something is wrong."""
    well = True
    for name, finding, good in examination.lines():
        print(f"{'ok ' if good else 'BAD'}  {name.ljust(10)}  {finding}", flush=True)
        well = well and good
    if not well:
        raise typer.Exit(1)
