"""AdaGrad and RMSProp."""

from collections.abc import Iterable
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels.adagrad import adagrad_step
from tritonnet.kernels.runtime import refuse
from tritonnet.nn.layers import only
from tritonnet.optim.optimizer import Group, Optimizer

__all__ = ["Adagrad", "RMSprop"]

Buffer = torch.Tensor


class Adagrad(Optimizer):
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        only(self._name, foreach=(foreach, None), differentiable=(differentiable, False), fused=(fused, None))
        settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, {**settings, "initial_accumulator_value": initial_accumulator_value})

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        super().check(group)
        only(self._name, maximize=(group["maximize"], False))
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            if not group[name] >= 0.0:
                refuse(self._name, f"{name} must be at least 0, got {group[name]}")

    def slots(self, group: Group) -> tuple[str, ...]:
        """How many steps, and the sum of squared gradients."""
        return ("step", "sum")

    def initial(self, group: Group, slot: str) -> float:
        """What a slot holds before the first step."""
        return float(group["initial_accumulator_value"]) if slot == "sum" else 0.0

    def update(
        self, group: Group, params: list[Tensor], grads: list[Buffer], lows: list[Buffer | None], lr: Buffer
    ) -> None:
        """One step on the device."""
        nothing: list[Buffer | None] = [None] * len(params)
        adagrad_step(
            self._tables, [p.data for p in params], grads, self.column(params, "sum"), nothing, nothing,
            self.column(params, "step"), lows, lr,
            lr_decay=group["lr_decay"], eps=group["eps"], weight_decay=group["weight_decay"],
        )  # fmt: skip


class RMSprop(Optimizer):
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        only(
            self._name, capturable=(capturable, False), foreach=(foreach, None), differentiable=(differentiable, False)
        )
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**settings, "centered": centered, "maximize": maximize})

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        super().check(group)
        only(self._name, maximize=(group["maximize"], False))
        if not 0.0 <= group["alpha"] <= 1.0:
            refuse(self._name, f"alpha must be from 0 to 1, got {group['alpha']}")
        for name in ("eps", "momentum"):
            if not group[name] >= 0.0:
                refuse(self._name, f"{name} must be at least 0, got {group[name]}")

    def slots(self, group: Group) -> tuple[str, ...]:
        """How many steps, the running averages, and with momentum its buffer."""
        more = ("momentum_buffer",) * (group["momentum"] > 0) + ("grad_avg",) * bool(group["centered"])
        return ("step", "square_avg", *more)

    def update(
        self, group: Group, params: list[Tensor], grads: list[Buffer], lows: list[Buffer | None], lr: Buffer
    ) -> None:
        """One step on the device."""
        nothing: list[Buffer | None] = [None] * len(params)
        adagrad_step(
            self._tables, [p.data for p in params], grads, self.column(params, "square_avg"),
            self.column(params, "grad_avg") if group["centered"] else nothing,
            self.column(params, "momentum_buffer") if group["momentum"] else nothing,
            self.column(params, "step"), lows, lr,
            alpha=group["alpha"], eps=group["eps"], weight_decay=group["weight_decay"], momentum=group["momentum"],
        )  # fmt: skip
