"""The table of a network: one row a layer, in the order of the computation, with its output's shape and its parameters.

The rows come from the modules themselves: an empty batch is sent through the network, which costs nothing, and every
layer reports what it was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import runtime
from tritonnet.models.blocks import Add, Concat
from tritonnet.nn import BatchNorm2d, Conv2d, ConvTranspose2d, MaxPool2d, Module, Upsample

__all__ = ["Row", "rows", "table"]


@dataclass(frozen=True)
class Row:
    """One row: its dotted name in the network, what it does, its output's shape (C, H, W), its number of parameters."""

    name: str
    layer: str
    shape: tuple[int, ...]
    parameters: int


def label(module: Module) -> str:
    """What a layer does, in a few characters."""
    if isinstance(module, Conv2d | ConvTranspose2d):
        text = f"{type(module).__name__.removesuffix('2d')} {module.kernel_size[0]}x{module.kernel_size[1]}"
        return text if module.stride == (1, 1) else f"{text}, stride {module.stride[0]}"
    if isinstance(module, MaxPool2d):
        return f"MaxPool {module.kernel_size}"
    if isinstance(module, Upsample):
        return (
            f"Upsample {module.scale_factor:g}, {module.mode}" if isinstance(module.scale_factor, float) else "Upsample"
        )
    return "BatchNorm" if isinstance(module, BatchNorm2d) else type(module).__name__


def rows(model: Any, input_size: tuple[int, int, int]) -> list[Row]:
    """The rows of a model of `tritonnet.models` for images of `input_size` (C, H, W)."""
    image = Tensor(runtime.empty((0, *input_size[1:], input_size[0]), torch.float32))
    found = [Row("", "Input", tuple(input_size), 0)]
    results: list[Any] = [image]

    def report(name: str) -> Callable[..., None]:
        def hook(module: Module, args: tuple[Any, ...], result: Tensor) -> None:
            text = label(module)
            if isinstance(module, Add | Concat):
                source = next((i for i, earlier in enumerate(results, start=1) if earlier is args[0]), None)
                text += f" with row {source}" if source else ""
            found.append(Row(name, text, result.shape[1:], sum(p.numel() for p in module.parameters())))
            results.append(result)

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    remove = [module.register_forward_hook(report(name)) for name, module in leaves]
    try:
        with model.evaluating():
            output = model.whole(image)
    finally:
        for undo in remove:
            undo()
    return [*found, Row("", "Output", output.shape[1:], 0)]


def table(model: Any, input_size: tuple[int, int, int]) -> str:
    """The rows as text, and the total."""
    lines = [("row", "name", "layer", "output", "parameters")]
    for number, row in enumerate(rows(model, input_size), start=1):
        shape = ",".join(str(size) for size in row.shape)
        lines.append((str(number), row.name, row.layer, shape, f"{row.parameters:,}"))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    text = [
        "  ".join([line[0].rjust(widths[0]), *(line[i].ljust(widths[i]) for i in (1, 2, 3)), line[4].rjust(widths[4])])
        for line in lines
    ]
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = f" ({trained:,} trained)" if trained != total else ""
    return "\n".join([*text, f"{type(model).__name__}: {total:,} parameters{frozen}"])
