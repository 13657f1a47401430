"""SGD, AdaGrad and RMSProp. Their formula stands in `tritonnet.kernels.gradient_descent`."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels.gradient_descent import descent_step
from tritonnet.kernels.runtime import only, refuse
from tritonnet.optim.optimizer import Group, Optimizer

__all__ = ["SGD", "Adagrad", "RMSprop"]

Buffer = torch.Tensor
SETTINGS = ("weight_decay", "alpha", "lr_decay", "eps", "momentum", "dampening", "nesterov")


class _GradientDescent(Optimizer):
    """What the three share: the step."""

    squares: ClassVar[str] = ""  # the slot of what the gradient is divided by the root of

    def update(
        self, group: Group, params: list[Tensor], grads: list[Buffer], lows: list[Buffer | None], lr: Buffer
    ) -> None:
        """One step on the device."""
        squares, averages, momenta, steps = (
            self.column(group, params, slot) for slot in (self.squares, "grad_avg", "momentum_buffer", "step")
        )
        settings = {name: group[name] for name in SETTINGS if name in group}
        data = [p.data for p in params]
        descent_step(self._tables, data, grads, squares, averages, momenta, steps, lows, lr, **settings)


class SGD(_GradientDescent):
    """Stochastic gradient descent with momentum.

    Args:
        params: parameters, or dicts of groups.
        lr: learning rate, at least 0.
        momentum: at least 0.
        dampening: of momentum, at most 1.
        weight_decay: L2, at least 0.
        nesterov: Nesterov's momentum; needs momentum, and no dampening.
        maximize, foreach, differentiable, fused: must be left at their defaults.

    Raises:
        Refused: a setting out of range, or an argument that is not there yet.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None,
        differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        only(self._name, foreach=(foreach, None), differentiable=(differentiable, False), fused=(fused, None))
        settings = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "nesterov": nesterov, "maximize": maximize})

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        super().check(group)
        momentum, dampening = group["momentum"], group["dampening"]
        if not dampening <= 1.0:
            refuse(self._name, f"dampening must be at most 1, got {dampening}")
        if group["nesterov"] and (momentum == 0 or dampening != 0):
            refuse(self._name, f"nesterov needs momentum above 0 and no dampening, got {momentum} and {dampening}")

    def slots(self, group: Group) -> tuple[str, ...]:
        """With momentum its buffer, and with dampening whether a step was made."""
        if group["momentum"] == 0:
            return ()
        return ("momentum_buffer", "step") if group["dampening"] != 0 else ("momentum_buffer",)


class Adagrad(_GradientDescent):
    """AdaGrad (Duchi et al. 2011), its learning rate falling as lr / (1 + (step - 1) * lr_decay).

    Args:
        params: parameters, or dicts of groups.
        lr: learning rate, at least 0.
        lr_decay: at least 0.
        weight_decay: L2, at least 0.
        initial_accumulator_value: the sum of squared gradients before the first step, at least 0.
        eps: added to the denominator, at least 0.
        foreach, maximize, differentiable, fused: must be left at their defaults.

    Raises:
        Refused: a setting out of range, or an argument that is not there yet.
    """

    squares = "sum"

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        only(self._name, foreach=(foreach, None), differentiable=(differentiable, False), fused=(fused, None))
        settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, {**settings, "initial_accumulator_value": initial_accumulator_value})

    def slots(self, group: Group) -> tuple[str, ...]:
        """How many steps, and the sum of squared gradients."""
        return ("step", "sum")

    def initial(self, group: Group, slot: str) -> float:
        """What a slot holds before the first step."""
        return float(group["initial_accumulator_value"]) if slot == "sum" else 0.0


class RMSprop(_GradientDescent):
    """RMSProp (Hinton 2012, lecture 6e), with momentum, and centered (Graves 2013, equations 38 to 41).

    Args:
        params: parameters, or dicts of groups.
        lr: learning rate, at least 0.
        alpha: decay rate of the running averages, 0 to 1.
        eps: added to the denominator, at least 0.
        weight_decay: L2, at least 0.
        momentum: at least 0.
        centered: divide by the gradient's deviation from its running average.
        capturable, foreach, maximize, differentiable: must be left at their defaults.

    Raises:
        Refused: a setting out of range, or an argument that is not there yet.
    """

    squares = "square_avg"

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        only(
            self._name, capturable=(capturable, False), foreach=(foreach, None), differentiable=(differentiable, False)
        )
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**settings, "centered": centered, "maximize": maximize})

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        super().check(group)
        if not 0.0 <= group["alpha"] <= 1.0:
            refuse(self._name, f"alpha must be from 0 to 1, got {group['alpha']}")

    def slots(self, group: Group) -> tuple[str, ...]:
        """How many steps, the running averages, and with momentum its buffer."""
        more = ("momentum_buffer",) * (group["momentum"] > 0) + ("grad_avg",) * bool(group["centered"])
        return ("step", "square_avg", *more)
