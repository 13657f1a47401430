"""Module: a tree of named parameters, buffers and modules, with torch's names, order and strictness.

A module knows parameters and nothing of gradients: its `forward` calls op functions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import torch

from tritonnet.autograd import Parameter, Tensor, check_device
from tritonnet.autograd.tensor import as_tensor
from tritonnet.kernels.convert import as_dtype
from tritonnet.kernels.runtime import Refused, refuse

__all__ = ["IncompatibleKeys", "Module", "StateDictError"]


class StateDictError(Refused, RuntimeError):
    """A state dict does not fit its module; the message lists every key that does not."""


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` found besides what it loaded."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers and networks. A Parameter or a Module assigned to an attribute is registered by its name."""

    training: bool

    def __init__(self) -> None:
        for name in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, name, {})
        self._unsaved: set[str] = set()  # names of buffers that state_dict leaves out
        self._hooks: list[Callable[..., Any]] = []
        self.training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` computes, after the hooks have seen it."""
        result = self.forward(*args, **kwargs)
        for hook in self._hooks:
            changed = hook(self, args, result)
            result = result if changed is None else changed
        return result

    def register_forward_hook(self, hook: Callable[..., Any]) -> Callable[[], None]:
        """Call `hook(module, args, result)` after each forward; what it returns, if anything, replaces the result.

        Returns:
            A function that removes the hook.
        """
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook)

    # --- registration ---

    def __setattr__(self, name: str, value: Any) -> None:
        kinds = {"_parameters": Parameter, "_modules": Module, "_buffers": Tensor}
        if "_modules" not in self.__dict__ and isinstance(value, Parameter | Module):
            raise AttributeError(f"call super().__init__() in {type(self).__name__}.__init__ before assigning {name!r}")
        registers = {kind: self.__dict__.get(kind, {}) for kind in kinds}
        home = "_parameters" if isinstance(value, Parameter) else "_modules" if isinstance(value, Module) else None
        if home is None:  # a plain value, unless the name is taken
            home = next((kind for kind, register in registers.items() if name in register), None)
            if home is None:
                object.__setattr__(self, name, value)
                return
            if value is not None and not (home == "_buffers" and isinstance(value, Tensor)):
                wanted = kinds[home].__name__
                raise TypeError(f"cannot assign {type(value).__name__} to {name!r}: expected a {wanted} or None")
        for kind, register in registers.items():
            if kind != home:
                register.pop(name, None)
        self.__dict__.pop(name, None)
        registers[home][name] = value

    def __getattr__(self, name: str) -> Any:
        for kind in ("_parameters", "_buffers", "_modules"):
            register = self.__dict__.get(kind, {})
            if name in register:
                return register[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                return
        object.__delattr__(self, name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register `param` under `name`; None reserves the name (a layer without bias)."""
        self._register("_parameters", name, param, Parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that is part of the state but is not trained; `persistent` puts it into `state_dict`."""
        self._register("_buffers", name, tensor, Tensor)
        self._unsaved.discard(name)
        if not persistent:
            self._unsaved.add(name)

    def add_module(self, name: str, module: "Module | None") -> None:
        """Register `module` under `name`, which may be a number."""
        self._register("_modules", name, module, Module)

    def _register(self, kind: str, name: str, value: Any, wanted: type) -> None:
        if value is not None and not isinstance(value, wanted):
            raise TypeError(
                f"cannot register {type(value)} as {name!r}: expected a tritonnet {wanted.__name__} or None"
            )
        if not isinstance(name, str) or "." in name or not name:
            raise KeyError(f"the name of a {wanted.__name__} must be a text without a point, got {name!r}")
        self.__dict__[kind][name] = value

    # --- walking ---

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The direct submodules with their names, each once."""
        seen: set[Module] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator["Module"]:
        """The direct submodules."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: "set[Module] | None" = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """This module and all below it, parents first, with dotted names."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def _named(self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]:
            for name, value in module.__dict__[kind].items():
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their dotted names, in the order of `state_dict`."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, a shared one once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their dotted names."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def apply(self, fn: Callable[["Module"], Any]) -> Self:
        """Call `fn` on every module below and then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # --- modes ---

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below it into training (or evaluation) mode."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below it into evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters gather gradients (False freezes them)."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the parameters' gradients, or fill them with zeros."""
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    def to(self, device: Any) -> Self:
        """This module, if `device` is the process's own.

        Raises:
            Refused: another device, or a dtype: parameters stay float32, `tn.set_precision` chooses the arithmetic.
        """
        if isinstance(device, torch.dtype):
            refuse("to", f"parameters stay float32, got {device}; tn.set_precision chooses the arithmetic")
        check_device(device)
        return self

    def cuda(self, device: int | None = None) -> Self:
        """This module, if the process's device is that CUDA device."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def cpu(self) -> Self:
        """This module, if the process's device is the CPU."""
        return self.to("cpu")

    # --- state ---

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for name, value in [*self._parameters.items(), *self._buffers.items()]:
            if value is not None and name not in self._unsaved:
                yield prefix + name, value
        for name, module in self._modules.items():
            if module is not None:
                yield from module._state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Tensor]:
        """Every parameter and persistent buffer by its dotted name, in torch's order, detached, sharing memory.

        `.torch()` and `.numpy()` of a value give torch's shape: a convolution's weight as (K, C, R, S).
        """
        return {key: value.detach() for key, value in self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same name; all of them, or none.

        Args:
            state_dict: key -> Tensor, torch tensor or numpy array in torch's shape; other dtypes are converted.
            strict: refuse missing and unexpected keys. A wrong shape is refused either way.

        Returns:
            The missing and the unexpected keys.

        Raises:
            StateDictError: one message with all that does not fit.
        """
        if not hasattr(state_dict, "keys"):
            name = type(state_dict).__name__
            how = "tritonnet.io.load_model(path).model reads best.h5, tritonnet.io.load_pth(path) a .pth"
            raise StateDictError(f"[load_state_dict] state_dict must map names to arrays, got {name}; {how}")
        own = dict(self._state())
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        problems = []
        if strict and unexpected:
            problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        if strict and missing:
            problems.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        for key, target in own.items():
            if key not in state_dict:
                continue
            value = state_dict[key]
            if not hasattr(value, "shape"):
                problems.append(f"{key} must be a Tensor, a torch tensor or a numpy array, got {type(value).__name__}")
            elif tuple(value.shape) != target.shape:
                problems.append(
                    f"size mismatch for {key}: copying a param with shape {tuple(value.shape)} from checkpoint, "
                    f"the shape in current model is {target.shape}."
                )
        if problems:
            text = "\n\t".join(problems)
            raise StateDictError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{text}")
        fresh = {
            key: as_dtype(as_tensor(state_dict[key]).data, target.dtype)
            for key, target in own.items()
            if key in state_dict
        }
        for key, buffer in fresh.items():
            target = own[key]
            target.data.copy_(buffer)  # in place: graphs and optimizers hold this memory
            target.changed()
        return IncompatibleKeys(missing, unexpected)

    # --- text ---

    def extra_repr(self) -> str:
        """The arguments that `repr` shows."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n  ".join(([extra] if extra else []) + lines)
        return f"{type(self).__name__}(\n  {body}\n)"


def _quoted(keys: Iterable[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
