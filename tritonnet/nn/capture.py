"""A training step or a forward as one CUDA graph for each batch shape: few images cost less than starting their kernels.

A graph replays the same kernels on the same addresses, so it gives the same bits as the eager call. What changes from
call to call must lie on the device: the buffers are copied into the recorded ones, the optimizer's learning rate and step
count are device scalars, random numbers are counted there, and nothing in a call waits for the device. On the
interpreter every call is eager.
"""

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any, Self

import torch

from tritonnet.autograd import Tensor, get_precision
from tritonnet.kernels import runtime
from tritonnet.kernels.runtime import Refused
from tritonnet.nn.module import Module

__all__ = ["Captured"]

Buffer = torch.Tensor
EAGER = 2  # calls of a shape before it is recorded: they compile its kernels and allocate what is kept, as optimizers' state
MOST = 4  # shapes that are kept in mind


class Captured:
    """Calls `run(*buffers)`, from the third time on as a graph.

    Graphs keep the memory of their largest call while this object lives. There are at most four, of the shapes called last; a
    fifth shape takes the place of the one not called for longest. One whose recording is refused or runs out of memory stays
    eager.

    Used as a context, it gives the graphs up at the end.

    Args:
        run: from buffers on the device to a Tensor. It must not read a value on the host, and nothing that it allocates
            is to be used afterwards, except the result.
        network: what `run` calls. If a setting, a hook, a module of it or the memory of a tensor is another than at the
            call before, or the precision, it is recorded anew; weights that changed where they lie, and their copies, are
            seen.
        publish: run before each call, to write changed hyper-parameters to the device (`Optimizer.publish`).
        alone: whether nothing but `run` changes the network while this object is used, as in a training loop; then nothing is
            compared, which takes as long as the step of a very small network.
    """

    def __init__(
        self, run: Callable[..., Tensor], network: Module, publish: Callable[[], None] = lambda: None, *, alone: bool = False
    ) -> None:  # fmt: skip
        self.run, self.network, self.publish, self.alone = run, network, publish, alone
        self.shapes: dict[object, _Shape] = {}  # in the order of their last call
        self.prepared = False  # whether an eager call left the host memory that a recording takes (`Tables`)
        self.stream: Any = None  # one for all: the allocator gives a stream's memory to no other

    def __call__(self, *buffers: Buffer) -> Tensor:
        """What `run` returns, in memory of its own."""
        self.publish()  # not inside the recording, which would write this step's learning rate at every replay
        if not recordable():
            return self.run(*buffers)
        key = (get_precision(), *((tuple(b.shape), b.stride(), b.dtype) for b in buffers))
        shape = self.shapes[key] = self.shapes.pop(key) if key in self.shapes else _Shape()
        if len(self.shapes) > MOST:
            del self.shapes[next(iter(self.shapes))]
        settled = _same(shape.seen, self._look())
        if not settled:
            shape.recording = None
        elif shape.recording is None and shape.left <= 0 and self.prepared:
            shape.recording = self._record(buffers, shape.seen)
            if shape.recording is None:
                shape.left = math.inf
        if shape.recording is None:
            result = self.run(*buffers)
            self.prepared, shape.left, shape.seen = True, shape.left - 1, self._look()
            return result
        graph, own, result = shape.recording
        for mine, given in zip(own, buffers, strict=True):
            mine.copy_(given)
        graph.replay()
        return Tensor(runtime.empty(tuple(result.data.shape), result.dtype).copy_(result.data))

    def _look(self) -> list[object]:
        return [] if self.alone else _look(self.network)

    def _record(self, buffers: tuple[Buffer, ...], seen: list[object]) -> tuple[Any, list[Buffer], Tensor] | None:
        """A graph, what it reads, and the result that it writes; None, and all as before, where there can be none."""
        self.prepared = done = False
        own = [torch.empty_strided(b.shape, b.stride(), dtype=b.dtype, device=b.device) for b in buffers]
        before = [(p, p.low, p.grad) for p in self.network.parameters()]
        try:
            graph, result = self._capture(own)
            done = _same(seen, self._look())  # else it reads what only a replay of it writes
        except Exception as error:
            # a capture that fails for memory may say so only in the error before
            if not any(isinstance(e, torch.OutOfMemoryError | Refused) for e in (error, error.__context__)):
                raise
        finally:
            if not done:
                for p, low, grad in before:
                    p.low, p.grad = low, grad
        return (graph, own, result) if done else None

    def _capture(self, own: list[Buffer]) -> tuple[Any, Tensor]:
        pool = next((shape.recording[0].pool() for shape in self.shapes.values() if shape.recording), None)
        graph = torch.cuda.CUDAGraph()
        # before what runs beside it (`runtime.beside`), where both want the same multiprocessor
        if self.stream is None:
            self.stream = torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]
        # the outer context, since the inner one leaves its stream only if the capture ends well
        recorded = torch.cuda.graph(graph, pool=pool, stream=self.stream)
        with _without_collection(), torch.cuda.stream(self.stream), recorded:
            result = self.run(*own)
        return graph, result

    def clear(self) -> None:
        """Give the graphs and their memory up, after the last replay."""
        if recordable():
            torch.cuda.synchronize()
        self.shapes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


class _Shape:
    """What is known of one shape."""

    def __init__(self) -> None:
        self.left: float = EAGER  # eager calls to come
        self.seen: list[object] = []  # what the last of them left (`_look`)
        self.recording: tuple[Any, list[Buffer], Tensor] | None = None


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collect garbage now and not within this context: a graph that dies while another is recorded ends the recording."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def recordable() -> bool:
    """Whether the device has graphs."""
    return runtime.device().type == "cuda"


def _look(network: Module) -> list[object]:
    """Everything that a call of `network` depends on but for the numbers in its tensors; their copies are brought up to date.

    Settings, modules, hooks and tensors, and the memory of these and of their copies. Held, it cannot become another's.
    """
    seen: list[object] = []
    modules = [network]
    for module in modules:  # a walk of its own, since it is done at each call
        inner = module._modules.values()
        modules += [m for m in inner if m is not None]
        seen += (*vars(module).values(), *inner, *module._hooks)
        for p in module._parameters.values():
            if p is not None:
                p.refresh()
                seen += (p, p.data, p.low, p.requires_grad)
        for b in module._buffers.values():
            if b is not None:
                seen += (b, b.data)
    return seen


def _same(before: list[object], now: list[object]) -> bool:
    return len(before) == len(now) and all(map(is_, before, now))
