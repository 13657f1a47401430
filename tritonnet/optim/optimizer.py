"""Optimizer: groups of parameters, their state, and saving and loading both in torch's structure.

A step is one kernel over all parameters of a group. It reads the learning rate and the error flag from the device, and
changes nothing while the flag is up (see `tritonnet.kernels.fault`), so a step never waits for the device and can be
captured in a CUDA graph.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from tritonnet.autograd import Parameter, Tensor
from tritonnet.autograd.tensor import as_tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.convert import as_dtype, cast
from tritonnet.kernels.fill import fill
from tritonnet.kernels.runtime import only, refuse
from tritonnet.kernels.scaled import Scaled, scaled_again
from tritonnet.kernels.tensor_table import Tables

__all__ = ["Optimizer"]

Buffer = torch.Tensor
Group = dict[str, Any]


class Optimizer:
    """Base of all optimizers: a subclass names its `slots` and makes the `update`.

    Attributes:
        param_groups: one dict a group: "params" and the group's settings, "lr" among them; settings may be changed
            between steps.
        state: of each parameter that has made a step: slot name -> Tensor.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._tables = Tables()
        self._rates: list[tuple[float, Buffer]] = []  # of each group: the rate last written, and where
        if isinstance(params, Tensor | torch.Tensor):
            refuse(self._name, "params must be an iterable of parameters or of dicts, got one tensor")
        given = list(params)
        if not given:
            refuse(
                self._name, "params must hold at least one parameter; is the module empty, or the generator used up?"
            )
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    # --- what a subclass defines ---

    def slots(self, group: Group) -> tuple[str, ...]:
        """The state a parameter of `group` has; "step" is one number, the others have the parameter's shape."""
        raise NotImplementedError

    def initial(self, group: Group, slot: str) -> float:
        """What a slot holds before a parameter's first step."""
        return 0.0

    def update(
        self, group: Group, params: list[Tensor], grads: list[Buffer], lows: list[Buffer | None], lr: Buffer
    ) -> None:
        """Make one step of `params`, all with gradients, on the device."""
        raise NotImplementedError

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        only(self._name, maximize=(group.get("maximize", False), False))
        for name in ("lr", "weight_decay", "eps", "momentum", "lr_decay", "initial_accumulator_value"):
            value = group.get(name, 0.0)
            if not isinstance(value, int | float) or not value >= 0.0:
                refuse(self._name, f"{name} must be a number, at least 0, got {value!r}")

    # --- stepping ---

    def add_param_group(self, group: Group) -> None:
        """Add a group: {"params": parameter or iterable of them, and settings that differ from the defaults}.

        Raises:
            Refused: something that is no trainable float32 leaf, or one that is in a group already; a setting out of
                range.
        """
        if "params" not in group:
            refuse(self._name, f"params must be in every group, got {sorted(group)}")
        given = group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        seen = {p for other in self.param_groups for p in other["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                refuse(self._name, f"params must be tritonnet Tensors, got {type(p).__name__}")
            if not p.is_leaf or p.dtype != torch.float32:
                refuse(self._name, f"params must be float32 leaves, got {p.dtype}, is_leaf={p.is_leaf}")
            if p in seen:
                refuse(self._name, f"a parameter of shape {p.shape} must not be given more than once")
            seen.add(p)
        made = {**self.defaults, **group, "params": params}
        self.check(made)
        self.param_groups.append(made)
        self._rates.append((float("nan"), runtime.empty((1,), torch.float32)))
        self.publish()

    def publish(self) -> None:
        """Write the learning rates that were changed to the device, without waiting for it.

        `step` does it too; call it yourself before replaying a CUDA graph that captured a step.
        """
        for i, group in enumerate(self.param_groups):
            last, buffer = self._rates[i]
            if group["lr"] != last:
                fill(buffer, float(group["lr"]))
                self._rates[i] = (float(group["lr"]), buffer)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; nothing on the device while the error flag is up.

        Args:
            closure: computes the loss and the gradients first.

        Returns:
            What closure returned, else None.

        Raises:
            Refused: a gradient of another shape than its parameter.
        """
        result = None if closure is None else closure()
        self.publish()
        for group, (_, lr) in zip(self.param_groups, self._rates, strict=True):
            params = [p for p in group["params"] if p.grad is not None]
            grads = [self._gradient(p) for p in params]
            for p in params:
                state = self.state.setdefault(p, {})
                for slot in self.slots(group):
                    if slot not in state:
                        made = runtime.empty(() if slot == "step" else tuple(p.data.shape), torch.float32)
                        state[slot] = Tensor(fill(made, self.initial(group, slot)))
            copies = [p.low if isinstance(p, Parameter) and p.fresh else None for p in params]
            lows = [None if isinstance(copy, Scaled) else copy for copy in copies]
            self.update(group, params, grads, lows, lr)
            scaled_again(
                self._tables, [(p.data, c) for p, c in zip(params, copies, strict=True) if isinstance(c, Scaled)]
            )
            for p in params:
                p.changed(low_is_fresh=True)
        return result

    def _gradient(self, p: Tensor) -> Buffer:
        assert p.grad is not None
        gradient = p.grad.data
        if gradient.shape != p.data.shape:
            refuse(self._name, f"a gradient must have its parameter's shape {p.shape}, got {p.grad.shape}")
        return as_dtype(gradient, torch.float32)

    def column(self, group: Group, params: list[Tensor], slot: str) -> list[Buffer | None]:
        """The buffers of one slot of parameters of `group`; None each if they have no such slot."""
        has = slot in self.slots(group)
        return [self.state[p][slot].data if has else None for p in params]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or make them zero."""
        for p in self._params():
            p.zero_grad(set_to_none)

    # --- saving and loading ---

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def state_slots(self) -> dict[str, dict[int, Tensor]]:
        """The state by slot: {"exp_avg": {0: Tensor, ...}, ...}; parameters are counted over all groups."""
        slots: dict[str, dict[int, Tensor]] = {}
        for index, p in enumerate(self._params()):
            for slot, value in self.state.get(p, {}).items():
                slots.setdefault(slot, {})[index] = value
        return slots

    def load_state_slots(self, slots: Mapping[str, Mapping[int, Any]]) -> None:
        """Replace the state by copies of `slots`, as `state_slots` gives them.

        Args:
            slots: values are Tensors, torch tensors, numpy arrays (of the parameter's logical shape) or numbers.

        Raises:
            Refused: a shape that is not the parameter's, or a parameter that does not exist.
        """
        params = self._params()
        state: dict[Tensor, dict[str, Tensor]] = {}
        for slot, values in slots.items():
            for index, value in values.items():
                if not 0 <= index < len(params):
                    refuse(self._name, f"the state must be of parameters 0 to {len(params) - 1}, got one of {index}")
                if value is not None:
                    p = params[index]
                    state.setdefault(p, {})[slot] = self._own(
                        value, () if slot == "step" else p.shape, f"{slot} of {index}"
                    )
        for group in self.param_groups:
            for p in group["params"]:
                # a file of torch's SGD holds no step, but a buffer says that one was made
                if p in state and "step" in self.slots(group) and "step" not in state[p]:
                    state[p]["step"] = Tensor(fill(runtime.empty((), torch.float32), 1))
        self.state = state

    def _own(self, value: Any, shape: tuple[int, ...], what: str) -> Tensor:
        """A float32 copy of `value` on the device."""
        if isinstance(value, int | float):
            return Tensor(fill(runtime.empty((), torch.float32), value))
        value = as_tensor(value)
        if value.shape != tuple(shape):
            refuse(self._name, f"{what} must have shape {tuple(shape)}, got {value.shape}")
        return Tensor(cast(value.data, torch.float32))

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: {slot: Tensor}}, "param_groups": [{settings, "params": [index, ...]}]}, as torch's."""
        index = {p: i for i, p in enumerate(self._params())}
        groups = [{**group, "params": [index[p] for p in group["params"]]} for group in self.param_groups]
        state = {index[p]: dict(slots) for p, slots in self.state.items() if slots}
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the settings and copies of the state, from `state_dict()` or from torch's optimizer of this name.

        Raises:
            Refused: other groups, other shapes, or settings that are not there.
        """
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            refuse(self._name, f"the state dict must have {len(self.param_groups)} parameter groups, got {len(saved)}")
        merged, positions = [], {}
        for number, (mine, theirs) in enumerate(zip(self.param_groups, saved, strict=True)):
            if len(mine["params"]) != len(theirs["params"]):
                wanted, got = len(mine["params"]), len(theirs["params"])
                refuse(self._name, f"group {number} of the state dict must have {wanted} parameters, got {got}")
            offset = sum(len(group["params"]) for group in self.param_groups[:number])
            positions.update({key: offset + i for i, key in enumerate(theirs["params"])})
            # settings only torch has (foreach, fused, ...) choose an implementation
            known = {k: v for k, v in theirs.items() if k in mine or k == "initial_lr"}
            merged.append({**mine, **known, "params": mine["params"]})
            self.check(merged[-1])
        slots: dict[str, dict[int, Any]] = {}
        for key, values in state_dict["state"].items():
            for slot, value in values.items():
                slots.setdefault(slot, {})[positions[key]] = value
        self.load_state_slots(slots)
        self.param_groups = merged
        self.publish()

    def __repr__(self) -> str:
        lines = [f"{self._name} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {value}" for name, value in sorted(group.items()) if name != "params"]
        return "\n".join([*lines, ")"])
