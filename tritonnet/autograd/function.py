"""Reverse-mode differentiation over a recorded graph.

A `Function` is one op: `forward` and `backward` see buffers only. `apply` records a `Node` with an edge to the producer of
every input that needs a gradient. `backward` walks the nodes once, latest first: a node's consumers were all recorded after
it, so when it is reached its output gradients are complete. The walk is a loop, not a recursion, and drops what a node saved as
soon as the node is done.
"""

import heapq
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from tritonnet.kernels.arithmetic import add_fwd
from tritonnet.kernels.runtime import join, refuse, settle

if TYPE_CHECKING:
    from tritonnet.autograd.tensor import Tensor

__all__ = ["Context", "Function", "Node", "backward", "graph", "is_grad_enabled", "no_grad", "remade", "remakes"]

Buffer = torch.Tensor
_sequence = itertools.count()
_enabled = True


def is_grad_enabled() -> bool:
    """Whether operations are being recorded."""
    return _enabled


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing within this context (also usable as a decorator)."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


class Context:
    """What a forward leaves for its backward: `save` buffers, set numbers as attributes, read `needs`."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs = needs  # one flag an input: whether its gradient is wanted
        self.saved: tuple[Any, ...] = ()

    if TYPE_CHECKING:  # any attribute may be set

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:  # only reached for attributes that forward did not set
        raise AttributeError(f"forward did not set ctx.{name}")

    def save(self, *buffers: Buffer | tuple[Buffer, ...] | None) -> None:
        """Keep buffers, or tuples of them, for the backward; they come back as `ctx.saved`."""
        self.saved = buffers


class Node:
    """One recorded operation."""

    __slots__ = ("ctx", "edges", "function", "outputs", "sequence", "versions")

    def __init__(
        self, function: type["Function"], ctx: Context, inputs: tuple["Tensor | None", ...], outputs: int
    ) -> None:
        self.function = function
        self.ctx: Context | None = ctx
        self.outputs = outputs
        self.sequence = next(_sequence)
        needed = [t if t is not None and need else None for t, need in zip(inputs, ctx.needs, strict=True)]
        self.edges: list[tuple[Node, int] | Tensor | None] = [None if t is None else t.edge() for t in needed]
        self.versions = [edge.version if _is_leaf(edge) else 0 for edge in self.edges]  # type: ignore[union-attr]

    @property
    def context(self) -> Context:
        """What the forward left, before a backward frees it."""
        assert self.ctx is not None
        return self.ctx


def _is_leaf(edge: object) -> bool:
    return edge is not None and not isinstance(edge, tuple)


class Function:
    """One differentiable op. Subclasses define `forward` and `backward` over buffers, nothing else."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__.removesuffix("Function")

    @staticmethod
    def forward(ctx: Context, *buffers: Any, **constants: Any) -> Any:
        """From input buffers (None where an optional input is absent) to an output buffer or a tuple of them."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *gradients: Any) -> Any:
        """From the outputs' gradients (None for an output nobody used) to one gradient an input, None where not needed."""
        raise NotImplementedError

    @staticmethod
    def again(node: Node, out: Buffer | None = None) -> Buffer:
        """The first output once more, the same bits, into `out` if given: from what the forward kept for the backward."""
        raise NotImplementedError

    @classmethod
    def has_again(cls, node: Node) -> bool:
        """Whether there is one."""
        return cls.again is not Function.again

    @classmethod
    def apply(cls, *inputs: "Tensor | None", **constants: Any) -> Any:
        """Run forward on the inputs' buffers and record the operation if a gradient may be wanted."""
        from tritonnet.autograd.tensor import Tensor, check_tensors

        for number, t in enumerate(inputs):
            if t is not None and not isinstance(t, Tensor):
                check_tensors(cls.name, **{f"input {number}": t})  # type: ignore[unreachable]
        needs = tuple(_enabled and t is not None and t.requires_grad for t in inputs)
        ctx = Context(needs)
        out = cls.forward(ctx, *(None if t is None else t.data for t in inputs), **constants)
        outs = out if isinstance(out, tuple) else (out,)
        node = Node(cls, ctx, inputs, len(outs)) if any(needs) else None
        tensors: list[Tensor | None] = []
        for index, buffer in enumerate(outs):
            if buffer is None:
                tensors.append(None)
                continue
            differentiable = node is not None and buffer.is_floating_point()
            tensors.append(Tensor(buffer, node=node if differentiable else None, index=index))
        return tuple(tensors) if isinstance(out, tuple) else tensors[0]


def remakes(edge: Any) -> bool:
    """Whether the tensor of this edge can be made again."""
    return isinstance(edge, tuple) and edge[1] == 0 and edge[0].function.has_again(edge[0])


def remade(edge: Any, out: Buffer | None = None) -> Buffer:
    """The tensor of an edge once more, in the backward of something that was computed from it."""
    return edge[0].function.again(edge[0], out)  # type: ignore[no-any-return]


def add(into: Buffer | None, gradient: Buffer) -> Buffer:
    """The sum of what has been gathered, if anything, and another gradient."""
    return gradient if into is None else add_fwd(into, gradient)


def backward(root: "Tensor", gradient: Buffer, retain_graph: bool) -> None:
    """Add d(root . gradient)/d(leaf) to `.grad` of every leaf that requires it.

    Raises:
        Refused: the graph was freed by an earlier backward, or a leaf was changed after it was used.
    """
    edge = root.edge()
    if not isinstance(edge, tuple):
        edge.accumulate(gradient)
        return
    node, index = edge
    gradients: dict[Node, list[Buffer | None]] = {node: [None] * node.outputs}
    gradients[node][index] = gradient
    heap = [(-node.sequence, node)]
    try:
        while heap:
            _, node = heapq.heappop(heap)
            ctx = node.ctx
            if ctx is None:
                refuse(
                    "backward", "the graph must not have been freed: call backward(retain_graph=True) the first time"
                )
            for version, target in zip(node.versions, node.edges, strict=True):
                if _is_leaf(target) and target.version != version:
                    refuse(
                        "backward",
                        f"an input of {node.function.name} was changed after the forward; run the forward again",
                    )
            with no_grad():
                results = node.function.backward(ctx, *gradients.pop(node))
            if not isinstance(results, tuple):
                results = (results,)
            if not retain_graph:
                node.ctx = None
                ctx.saved = ()
            for target, result in zip(node.edges, results, strict=True):
                if target is None or result is None:
                    continue
                if isinstance(target, tuple):
                    producer, output = target
                    settle(result)
                    if producer not in gradients:
                        gradients[producer] = [None] * producer.outputs
                        heapq.heappush(heap, (-producer.sequence, producer))
                    slots = gradients[producer]
                    slots[output] = add(slots[output], result)
                    continue
                if target.grad is not None:
                    join()
                target.accumulate(result)
            del results
    finally:  # an error leaves no gradient half written, nor buffers kept for the second stream
        join()


def graph(root: "Tensor") -> None:
    """Print the recorded operations that lead to `root`, one a line, first recorded first; leaves by their shape."""
    if not hasattr(root, "edge"):
        refuse("graph", f"root must be a tritonnet Tensor, got {type(root).__name__}")
    nodes: dict[int, Node] = {}
    stack = [root.edge()]
    while stack:
        edge = stack.pop()
        if isinstance(edge, tuple) and edge[0].sequence not in nodes:
            nodes[edge[0].sequence] = edge[0]
            stack += edge[0].edges
    order = {sequence: number for number, sequence in enumerate(sorted(nodes), start=1)}
    for sequence, number in order.items():
        edges = [edge for edge in nodes[sequence].edges if edge is not None]
        sources = [f"%{order[e[0].sequence]}" if isinstance(e, tuple) else f"leaf{tuple(e.shape)}" for e in edges]
        print(f"%{number} = {nodes[sequence].function.name}({', '.join(sources)})")
