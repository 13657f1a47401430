"""Who is told how a run goes. The one here prints plain lines; the program's own draws a bar in a terminal."""

import time
from collections.abc import Mapping

from tritonnet.train.metrics import Metrics

__all__ = ["Listener", "clock", "counted", "epoch_line", "score_table"]

TITLES = ("class", "IoU", "Dice", "precision", "recall")
QUIET_SECONDS = 15.0  # an epoch longer than this gets a line in between


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}" if minutes >= 60 else f"{minutes}:{left:02d}"


def counted(number: int, thing: str) -> str:
    """1 image, 2 images."""
    return f"{number} {thing}{'s' * (number != 1)}"


def epoch_line(row: Mapping[str, float], epochs: int) -> str:
    """One row of metrics.csv as a line of text."""
    epoch = f"{row['epoch']:.0f}/{epochs}" if epochs else f"{row['epoch']:.0f}"
    return (
        f"epoch {epoch}  train loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  IoU {row['iou']:.4f}"
        f"  Dice {row['dice']:.4f}  pixel accuracy {row['pixel_accuracy']:.4f}  {row['images_per_second']:.1f} images/s"
    )


def score_table(metrics: Metrics, names: tuple[str, ...]) -> list[str]:
    """A line a class, and the pooled scores."""
    wide = max(5, *map(len, names))
    columns = metrics.class_iou, metrics.class_dice, metrics.class_precision, metrics.class_recall
    rows = [(name, *(f"{score:.4f}" for score in scores)) for name, *scores in zip(names, *columns, strict=True)]
    return [
        *("  ".join((row[0].ljust(wide), *(cell.rjust(9) for cell in row[1:]))) for row in (TITLES, *rows)),
        f"iou {metrics.iou:.4f}  dice {metrics.dice:.4f}  pixel_accuracy {metrics.pixel_accuracy:.4f}"
        + (f"  loss {metrics.loss:.4f}" if metrics.loss == metrics.loss else ""),  # NaN: not computed
    ]


class Listener:
    """Prints plain lines. Subclass it to show progress otherwise."""

    def message(self, text: str) -> None:
        """A line to read; those of `step` and `epoch` come here too."""
        print(text, flush=True)

    def begin(self, done: int, steps: int, epochs: int, seconds: float) -> None:
        """Training starts after `done` of `steps` steps; `seconds` is its limit in time, 0 for none."""
        self.steps, self.epochs, self.seconds = steps, epochs, seconds
        self.first, self.start = done, time.perf_counter()
        self.spoke = self.start

    def elapsed(self) -> float:
        """Seconds since `begin`."""
        return time.perf_counter() - self.start

    def time_left(self, done: int) -> float:
        """Seconds until the end, judged by the steps so far."""
        elapsed = self.elapsed()
        left = elapsed * (self.steps - done) / max(done - self.first, 1)
        return max(min(left, self.seconds - elapsed), 0.0) if self.seconds else left

    def step(self, done: int, images_per_second: float) -> None:
        """A step was started (the device may be a few behind)."""
        now = time.perf_counter()
        if now - self.spoke > QUIET_SECONDS:
            self.spoke = now
            left = clock(self.time_left(done))
            self.message(f"  step {done}/{self.steps}  {images_per_second:.1f} images/s  {left} left")

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is over; `row` is its line of metrics.csv."""
        self.spoke = time.perf_counter()
        self.message(epoch_line(row, 0 if self.seconds else self.epochs))

    def end(self) -> None:
        """No more steps will come."""
