"""A training step as one CUDA graph for each batch shape: below some batch size a step costs less than starting its kernels.

A recorded step replays the same kernels on the same addresses, so it gives the same bits as the eager one. What changes
from step to step must lie on the device: the batch is copied into the recorded buffers, the optimizer's learning rate and step
count are device scalars, and nothing in a step waits for the device. On the interpreter every step is eager.
"""

from collections.abc import Callable
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import runtime

__all__ = ["CapturedStep"]

Buffer = torch.Tensor
EAGER = 2  # steps of a shape before it is recorded: they compile its kernels and allocate the optimizer's state


class CapturedStep:
    """Calls `step(*buffers)`, from the third time on as a graph.

    Args:
        step: one update; returns the loss, detached.
        publish: run before each step, to write changed hyper-parameters to the device (`Optimizer.publish`).
    """

    def __init__(self, step: Callable[..., Tensor], publish: Callable[[], None]) -> None:
        self.step, self.publish = step, publish
        self.calls: dict[object, int] = {}
        self.recorded: dict[object, tuple[torch.cuda.CUDAGraph, list[Buffer], Tensor]] = {}
        self.prepared = False  # whether an eager step left the host memory that a recording takes (`Tables`)
        self.pool: Any = None
        self.stream: Any = None  # one for all: the allocator gives a stream's memory to no other

    def __call__(self, *buffers: Buffer) -> Tensor:
        """One update from a batch on the device; the loss is overwritten by the next call of the same shapes."""
        key = tuple((tuple(buffer.shape), buffer.dtype) for buffer in buffers)
        self.calls[key] = self.calls.get(key, 0) + 1
        self.publish()  # not inside the recording, which would write this step's learning rate at every replay
        new = key not in self.recorded
        if runtime.device().type != "cuda" or self.calls[key] <= EAGER or (new and not self.prepared):
            self.prepared = True
            return self.step(*buffers)
        if new:
            self.recorded[key] = self._record(buffers)
        graph, own, loss = self.recorded[key]
        for mine, given in zip(own, buffers, strict=True):
            mine.copy_(given)
        graph.replay()
        return loss

    def _record(self, buffers: tuple[Buffer, ...]) -> tuple[torch.cuda.CUDAGraph, list[Buffer], Tensor]:
        self.prepared = False
        own = [torch.empty_like(buffer) for buffer in buffers]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # before what runs beside it (`runtime.beside`), where both want the same multiprocessor
        if self.stream is None:
            self.stream = torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            loss = self.step(*own)
        self.pool = self.pool or graph.pool()
        return graph, own, loss
