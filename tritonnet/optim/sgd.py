"""Stochastic gradient descent."""

from collections.abc import Iterable
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels.runtime import refuse
from tritonnet.kernels.sgd import sgd_step
from tritonnet.nn.layers import only
from tritonnet.optim.optimizer import Group, Optimizer

__all__ = ["SGD"]

Buffer = torch.Tensor


class SGD(Optimizer):
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
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        only(self._name, foreach=(foreach, None), differentiable=(differentiable, False), fused=(fused, None))
        settings = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "nesterov": nesterov, "maximize": maximize})

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        super().check(group)
        only(self._name, maximize=(group["maximize"], False))
        if not group["momentum"] >= 0.0:
            refuse(self._name, f"momentum must be at least 0, got {group['momentum']}")
        if not group["dampening"] <= 1.0:
            refuse(self._name, f"dampening must be at most 1, got {group['dampening']}")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            refuse(
                self._name,
                f"nesterov needs momentum above 0 and no dampening, got {group['momentum']} and {group['dampening']}",
            )

    def slots(self, group: Group) -> tuple[str, ...]:
        """With momentum its buffer, and with dampening whether a step was made."""
        if group["momentum"] == 0:
            return ()
        return ("momentum_buffer", "step") if group["dampening"] != 0 else ("momentum_buffer",)

    def update(
        self, group: Group, params: list[Tensor], grads: list[Buffer], lows: list[Buffer | None], lr: Buffer
    ) -> None:
        """One step on the device."""
        slots = self.slots(group)
        nothing: list[Buffer | None] = [None] * len(params)
        sgd_step(
            self._tables, [p.data for p in params], grads,
            self.column(params, "momentum_buffer") if "momentum_buffer" in slots else nothing,
            self.column(params, "step") if "step" in slots else nothing, lows, lr,
            momentum=group["momentum"], dampening=group["dampening"], weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
        )  # fmt: skip
