"""Progress in a terminal: a bar with images/s and the time left. Elsewhere the plain lines of `Listener` serve."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tritonnet.kernels.runtime import INTERPRET
from tritonnet.train.report import Listener, clock

__all__ = ["TerminalListener", "listener"]


class TerminalListener(Listener):
    """Draws a bar below the lines that stay."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar: Progress | None = None

    def message(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def begin(self, done: int, steps: int, epochs: int, seconds: float) -> None:
        """Start the bar."""
        super().begin(done, steps, epochs, seconds)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"))
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task("training", total=1.0, speed="" if INTERPRET else "compiling kernels ...")
        self.bar.start()

    def step(self, done: int, images_per_second: float) -> None:
        """Move the bar."""
        assert self.bar is not None
        elapsed, left = self.elapsed(), self.time_left(done)
        speed = f"{images_per_second:.1f} images/s, {clock(left)} left"
        self.bar.update(self.task, completed=elapsed / max(elapsed + left, 1e-9), speed=speed)

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()


def listener() -> Listener:
    """A bar if stdout is a terminal, else plain lines."""
    return TerminalListener() if sys.stdout.isatty() else Listener()
