"""Learning-rate schedules: lr = initial lr * a function of the number of epochs, written to the optimizer's groups.

torch computes CosineAnnealingLR and StepLR from the rate before; here each is its closed form, so a rate depends on the
epoch alone, and schedules cannot be chained on one optimizer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tritonnet.kernels.runtime import refuse
from tritonnet.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "LRScheduler", "LambdaLR", "StepLR"]


class LRScheduler:
    """Base of all schedules; construct it after the optimizer, and call `step()` after each epoch (or each step).

    Args:
        optimizer: whose groups' "lr" it sets; their present rates are the initial ones, kept as "initial_lr".
        last_epoch: -1 to start; otherwise the epoch to go on from, with "initial_lr" in every group.

    Raises:
        Refused: no optimizer, or no "initial_lr" to go on from.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            refuse(name, f"optimizer must be a tritonnet Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                refuse(name, f"initial_lr must be in every parameter group to go on from last_epoch={last_epoch}")
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def rate(self, base: float, number: int) -> float:
        """The learning rate of group `number` with initial rate `base` at `self.last_epoch`."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """The learning rates of the present epoch, one a group."""
        return [self.rate(base, number) for number, base in enumerate(self.base_lrs)]

    def step(self) -> None:
        """Go on to the next epoch."""
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The learning rates last set, one a group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer and functions."""
        return {k: v for k, v in vars(self).items() if k not in ("optimizer", "lr_lambdas")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where `state_dict()` was taken."""
        vars(self).update({k: v for k, v in state_dict.items() if k in self.state_dict()})


class CosineAnnealingLR(LRScheduler):
    """eta_min + (lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2 (Loshchilov & Hutter 2017, eq. 5, without restarts).

    Args:
        optimizer: whose rate to set.
        T_max: epochs until eta_min, at least 1.
        eta_min: the smallest rate.
        last_epoch: as for `LRScheduler`.

    Raises:
        Refused: T_max below 1.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_max < 1:
            refuse("CosineAnnealingLR", f"T_max must be at least 1, got {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, number: int) -> float:
        """The closed form."""
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2


class StepLR(LRScheduler):
    """lr * gamma ** (epoch // step_size).

    Args:
        optimizer: whose rate to set.
        step_size: epochs between decays, at least 1.
        gamma: factor of a decay.
        last_epoch: as for `LRScheduler`.

    Raises:
        Refused: step_size below 1.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            refuse("StepLR", f"step_size must be at least 1, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, number: int) -> float:
        """The closed form."""
        return base * float(self.gamma ** (self.last_epoch // self.step_size))


class LambdaLR(LRScheduler):
    """lr * lr_lambda(epoch).

    Args:
        optimizer: whose rate to set.
        lr_lambda: a function of the epoch, or one a group.
        last_epoch: as for `LRScheduler`.

    Raises:
        Refused: another number of functions than groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            refuse(
                "LambdaLR", f"lr_lambda must be one function a parameter group, {groups}, got {len(self.lr_lambdas)}"
            )
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, number: int) -> float:
        """The function's factor."""
        return base * self.lr_lambdas[number](self.last_epoch)
