"""The run folder: config.toml, metrics.csv, curves.png, samples/, best.h5, last.h5."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tritonnet.data import DataError
from tritonnet.io import replacing
from tritonnet.io.untrusted import explained
from tritonnet.train.config import Config

__all__ = ["COLUMNS", "Row", "RunFolder", "better", "check_out", "rounded"]

COLUMNS = (
    "epoch", "train_loss", "val_loss", "iou", "dice", "pixel_accuracy", "learning_rate", "images_per_second", "seconds",
)  # fmt: skip
Row = dict[str, float]


def rounded(value: float) -> float:
    """A number as metrics.csv keeps it (6 digits), so that a resumed run compares what an unstopped one does."""
    return float(f"{value:.6g}")


def better(row: Row, best: Row | None) -> bool:
    """Whether an epoch's IoU is above the best so far; the earlier wins a tie, a number beats NaN."""
    if best is None:
        return True
    return row["iou"] > best["iou"] or (math.isnan(best["iou"]) and not math.isnan(row["iou"]))


def check_out(path: str | Path) -> None:
    """Refuse a folder that cannot be made or written into, before anything is computed for it.

    Raises:
        DataError: it is so; the system's reason is in the message.
    """
    try:
        there = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
        with TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise DataError(f"{path}: --out must be a folder that can be written ({error.strerror})") from None


class RunFolder:
    """Paths and tables of one run.

    Args:
        path: the folder; empty: the next free of runs/001, runs/002, ...
        fresh: for a new run, which `make`s it; otherwise it must be there.
        replacing: take the place of an earlier run on made data in it.

    Raises:
        DataError: a fresh folder that holds a run already, or none where one must be.
    """

    def __init__(self, path: str | Path, *, fresh: bool, replacing: bool = False) -> None:
        if not str(path):
            numbers = (Path("runs") / f"{number:03d}" for number in range(1, 100000))
            path = next(folder for folder in numbers if not folder.exists())
        self.path = Path(path).parent if not fresh and Path(path).is_file() else Path(path)  # of its last.h5
        self.config, self.metrics, self.curves = (
            self.path / name for name in ("config.toml", "metrics.csv", "curves.png")
        )
        self.samples, self.best, self.last = (self.path / name for name in ("samples", "best.h5", "last.h5"))
        dead = self.config.is_file() and not (self.best.is_file() or self.last.is_file())
        died = "; the run in it was not saved yet: if it is over, remove the folder" if dead else ""
        if not fresh:
            if not self.last.is_file():
                raise DataError(f"{self.path}: must be a run folder with last.h5 to go on from; found none{died}")
            return
        self.replaced = replacing and self.config.is_file() and not Config.load(self.config).data
        if self.path.exists() and not self.replaced and (not self.path.is_dir() or any(self.path.iterdir())):
            resume = f", or go on with tritonnet train --resume {self.path}" if self.last.is_file() else died
            raise DataError(f"{self.path}: must be a new or empty folder; choose another --out{resume}")
        check_out(self.path)

    def make(self) -> None:
        """Make the folder, without what an earlier run left in it."""
        if self.replaced:
            for file in (self.metrics, self.curves, self.best, self.last, *self.samples.glob("*.png")):
                file.unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)

    def write_metrics(self, history: Sequence[Row]) -> None:
        """Write the whole table anew, so that it never holds half a line."""
        with replacing(self.metrics) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows([int(row["epoch"]), *(f"{row[name]:.6g}" for name in COLUMNS[1:])] for row in history)

    def read_metrics(self, epochs: int) -> list[Row]:
        """The first `epochs` rows.

        Raises:
            DataError: the table is missing, damaged, or shorter.
        """
        with explained(self.metrics, DataError, "must be the table of this run"):
            with self.metrics.open(newline="", encoding="utf-8") as file:
                rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
            if len(rows) < epochs:
                raise DataError(f"must hold the {epochs} epochs that last.h5 has seen, got {len(rows)}")
            return rows[:epochs]
