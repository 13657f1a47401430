"""CUDA graphs for tests; on the interpreter what a graph does, by launching the same kernels on the same buffers again."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import GPU

import tritonnet as tn
from tritonnet.kernels import runtime
from tritonnet.nn import capture
from tritonnet.nn.capture import Captured

COPY = torch.Tensor.copy_


class Launches:
    """A graph of the interpreter: launches that were noted, and not made; copies, made once now, which changes nothing."""

    def __init__(self) -> None:
        self.made: list[Callable[[], object]] = []
        self.memory: list[torch.Tensor] = []  # of what is allocated; tables hold addresses alone
        self.allocate = runtime.empty

    def empty(self, *args: Any, **constants: Any) -> torch.Tensor:
        """Stands for `empty`."""
        self.memory.append(self.allocate(*args, **constants))
        return self.memory[-1]

    def note(self, *args: Any, **constants: Any) -> None:
        """Stands for `launch`."""
        self.made.append(lambda: runtime.launch(*args, **constants))

    def copy(self, to: torch.Tensor, source: torch.Tensor, **how: Any) -> torch.Tensor:
        """Stands for `copy_`."""
        self.made.append(lambda: to.copy_(source))
        return COPY(to, source, **how)

    def replay(self) -> None:
        """Make them."""
        for make in self.made:
            make()

    def pool(self) -> None:
        """There is none."""


def by_launches(captured: Captured, own: list[torch.Tensor]) -> tuple[Launches, tn.Tensor]:
    """Stands for `Captured._capture`."""
    graph, patch = Launches(), pytest.MonkeyPatch()
    patch.setattr(torch.Tensor, "copy_", lambda *args, **how: graph.copy(*args, **how))
    for name, instead in (("launch", graph.note), ("empty", graph.empty)):
        real = getattr(runtime, name)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("tritonnet.") and getattr(module, name, None) is real:
                patch.setattr(module, name, instead)
    try:
        return graph, captured.run(*own)
    finally:
        patch.undo()


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Captured]:
    """What was recorded: for each attempt that succeeded, by what."""
    if not GPU:
        monkeypatch.setattr(capture, "recordable", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(Captured, "_capture", by_launches)
    made, record = [], Captured._record

    def counted(captured: Captured, *args: Any) -> Any:
        recording = record(captured, *args)
        made.extend([captured] if recording else [])
        return recording

    monkeypatch.setattr(Captured, "_record", counted)
    return made
