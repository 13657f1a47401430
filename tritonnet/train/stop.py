"""Ctrl-C and SIGTERM, held back until a step is over, so that what is saved then is whole."""

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Stop"]


class Stop:
    """Within this context the first signal is only noted; a second one of the kind acts as it did outside."""

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # signals go nowhere else
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self.before[number] or signal.SIG_DFL)

    def check(self) -> None:
        """Raise KeyboardInterrupt(number of the signal) if one came."""
        if self.number:
            raise KeyboardInterrupt(self.number)
