"""The experiment of the MagmaDNN U-Net paper: 31 pets to learn from and 7 to test with, Adam and SGD, beside PyTorch.

    python examples/oxford_pets_experiment.py --data DIR --out REPORT_DIR [--only main,parity,...] [--seconds 500]

The groups recipes and recipes-few ask what a training recipe gains, with the same network and PyTorch beside it.
DIR is the Oxford-IIIT Pet folder, or any that `tritonnet train` takes with two classes. Each run is a line of
REPORT_DIR/rows.jsonl and is not run again: stop it, or give it --seconds, and call it again. `--report` writes the report alone.
"""

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path

from oxford_pets.jobs import GROUPS, Job, append, jobs, read
from oxford_pets.report import write
from oxford_pets.run import run

from tritonnet.data import DataError, open_dataset
from tritonnet.kernels.fault import Fault
from tritonnet.kernels.runtime import Refused
from tritonnet.train import Config


def numbers(text: str) -> tuple[int, ...]:
    """`0-9` or `0,3,5-7`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="groups: " + "; ".join(f"{name}: {text}" for name, text in GROUPS.items()),
    )  # fmt: skip
    parser.add_argument("--data", help="folder of the images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the report")
    parser.add_argument(
        "--report", action="store_true", help="train nothing; write the report of the rows that are there"
    )
    parser.add_argument("--only", help="groups of runs, see below (default: all)")
    parser.add_argument("--seeds", type=numbers, default=numbers("0-9"), help="each its own split; such as 0-9 or 0,3")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no new run after so long")
    parser.add_argument("--without-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--lr-adam", type=float, default=1e-4)
    parser.add_argument("--lr-sgd", type=float, default=1e-2)
    parser.add_argument("--epochs", type=numbers, default=(5, 30, 60, 90), help="after which a run is scored")
    machine = Config.for_machine().precision
    parser.add_argument(
        "--precision", choices=["fp32", "tf32", "bf16"], default=machine, help="default here: %(default)s"
    )
    for name in ("size", "base_channels", "depth", "images", "test"):
        default = next(field.default for field in fields(Job) if field.name == name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="default: %(default)s")
    options = parser.parse_args()
    options.groups = options.only.split(",") if options.only else list(GROUPS)
    if unknown := [name for name in options.groups if name not in GROUPS]:
        parser.error(f"--only must be of {', '.join(GROUPS)}, got {', '.join(unknown)}")
    if not options.report and not options.data:
        parser.error("--data must be given to train; --report writes the report of what is there")
    return options


def train(options: argparse.Namespace, path: Path) -> None:
    """Make the runs that have no row yet."""
    shared = ("epochs", "size", "base_channels", "depth", "images", "test", "precision")
    base = Job(**{name: getattr(options, name) for name in shared}, data=Path(options.data).resolve().name)
    rates = {"adam": options.lr_adam, "sgd": options.lr_sgd}
    wanted = [job for group in options.groups for job in jobs(group, base, rates, options.seeds)]
    done = {row["job"] for row in read(path)}
    left = [job for job in wanted if job not in done and not (options.without_torch and job.framework != "tritonnet")]
    print(f"{len(left)} of {len(wanted)} runs are to be made", flush=True)
    if not left:
        return
    dataset = open_dataset(options.data, options.size)
    if dataset.num_classes != 2 or dataset.channels != 3:
        raise DataError(f"{options.data}: must hold RGB images of two classes, holds {', '.join(dataset.class_names)}")
    start, made, broken = time.monotonic(), 0, ""
    for job in left:
        if time.monotonic() - start > options.seconds:
            break
        if broken and job.framework != "tritonnet":
            continue
        begin, name = time.monotonic(), f"{job.group}: {job.variant}, seed {job.seed}"
        try:
            row = run(job, dataset, pictures=job.group == "main" and job.seed == options.seeds[0])
        except Fault as error:
            print(f"{name}: {error}; no row", flush=True)
            continue
        except RuntimeError as error:
            if job.framework == "tritonnet":
                raise
            broken = " ".join(str(error).split())[:200]
            print(f"PyTorch's network does not run here, and is left out: {broken}", flush=True)
            continue
        append(path, row)
        made += 1
        scores = ", ".join(f"{epochs}: {score['best'][0]:.3f}" for epochs, score in row["scores"].items())
        print(f"{name}: IoU after epochs {scores}; {time.monotonic() - begin:.1f} s", flush=True)
    print(f"{made} runs were made, {len(left) - made} are left", flush=True)


options = arguments()
path = options.out / "rows.jsonl"
try:
    if not options.report:
        train(options, path)
    rows = read(path)
    if not rows:
        raise DataError(f"{path}: must hold the rows of at least one run; found none")
    for file in write(options.out, rows):
        print(file)
except (DataError, Refused) as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
