"""Adam and AdamW."""

from collections.abc import Iterable
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels.adam import adam_step
from tritonnet.kernels.runtime import only, refuse
from tritonnet.optim.optimizer import Group, Optimizer

__all__ = ["Adam", "AdamW"]

Buffer = torch.Tensor


class Adam(Optimizer):
    """Adam with L2 weight decay (Kingma & Ba 2015, algorithm 1).

    Args:
        params: parameters, or dicts of groups.
        lr: learning rate, at least 0.
        betas: decay rates of the gradient's and its square's running averages, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: at least 0.
        amsgrad, maximize, foreach, capturable, differentiable, fused: must be left at their defaults.

    Raises:
        Refused: a setting out of range, or an argument that is not there yet.
    """

    decoupled = False

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False, foreach: bool | None = None,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        only(
            self._name, foreach=(foreach, None), capturable=(capturable, False), differentiable=(differentiable, False),
            fused=(fused, None),
        )  # fmt: skip
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "amsgrad": amsgrad, "maximize": maximize})

    def check(self, group: Group) -> None:
        """Raise `Refused` where a setting is out of range or not there."""
        super().check(group)
        only(self._name, amsgrad=(group["amsgrad"], False))
        if not isinstance(group["betas"], tuple | list) or len(group["betas"]) != 2:
            refuse(self._name, f"betas must be two numbers, got {group['betas']!r}")
        for number, beta in enumerate(group["betas"]):
            if not 0.0 <= beta < 1.0:
                refuse(self._name, f"betas[{number}] must be in [0, 1), got {beta}")

    def slots(self, group: Group) -> tuple[str, ...]:
        """How many steps, and the running averages."""
        return ("step", "exp_avg", "exp_avg_sq")

    def update(
        self, group: Group, params: list[Tensor], grads: list[Buffer], lows: list[Buffer | None], lr: Buffer
    ) -> None:
        """One step on the device."""
        averages, squares, steps = (self.column(group, params, slot) for slot in ("exp_avg", "exp_avg_sq", "step"))
        adam_step(
            self._tables, [p.data for p in params], grads, averages, squares, steps, lows, lr,
            betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"], decoupled=self.decoupled,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2). Arguments as for `Adam`."""

    decoupled = True

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, **unsupported: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **unsupported)
