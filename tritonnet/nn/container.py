"""Modules that hold modules: Sequential and ModuleList."""

from collections.abc import Iterable, Iterator
from typing import Any, Self

from tritonnet.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class _Numbered(Module):
    """Modules in a row, named "0", "1", ... unless named otherwise."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def _name(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} modules")
        names: list[str] = list(self._modules)
        return names[index]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            part = type(self)()
            for name, module in list(self._modules.items())[index]:
                part.add_module(name if isinstance(part, Sequential) else str(len(part)), module)
            return part
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def append(self, module: Module) -> Self:
        """Add `module` at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several modules at the end."""
        for module in modules:
            self.append(module)
        return self


class Sequential(_Numbered):
    """Modules called one after another; given in a row, or as one dict of name -> module."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0] if len(args) == 1 and isinstance(args[0], dict) else {str(i): m for i, m in enumerate(args)}
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """The last module's result of the one before, ..., of the first module's result of `input`."""
        for module in self:
            input = module(input)
        return input


class ModuleList(_Numbered):
    """A list whose modules are registered; has no forward."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())
