"""Learning-rate schedules: lr = initial lr * a function of the number of epochs, written to the optimizer's groups.

torch computes most of them from the rate before; here each is its closed form, so a rate depends on the epoch alone, and
schedules cannot be chained on one optimizer. Only ReduceLROnPlateau looks back, at the numbers it was given.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tritonnet.kernels.runtime import refuse
from tritonnet.optim.optimizer import Optimizer

__all__ = [
    "CosineAnnealingLR", "LRScheduler", "LambdaLR", "LinearLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR",
]  # fmt: skip


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


class PolynomialLR(LRScheduler):
    """lr * (1 - epoch / total_iters) ** power, and 0 from total_iters on.

    Args:
        optimizer: whose rate to set.
        total_iters: epochs until 0, at least 1.
        power: of the polynomial, above 0.
        last_epoch: as for `LRScheduler`.

    Raises:
        Refused: total_iters below 1, or a power that is not above 0.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        if total_iters < 1 or not power > 0:
            refuse("PolynomialLR", f"total_iters must be at least 1 and power above 0, got {total_iters} and {power}")
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, number: int) -> float:
        """The closed form."""
        return base * float((1 - min(self.last_epoch, self.total_iters) / self.total_iters) ** self.power)


class LinearLR(LRScheduler):
    """lr * a factor that goes linearly from start_factor to end_factor in total_iters epochs and stays: a warm-up.

    Args:
        optimizer: whose rate to set.
        start_factor: above 0 to 1.
        end_factor: 0 to 1.
        total_iters: epochs until end_factor, at least 1.
        last_epoch: as for `LRScheduler`.

    Raises:
        Refused: a number out of range.
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            factors = f"{start_factor} and {end_factor}"
            refuse("LinearLR", f"start_factor must be above 0 to 1 and end_factor from 0 to 1, got {factors}")
        if total_iters < 1:
            refuse("LinearLR", f"total_iters must be at least 1, got {total_iters}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, number: int) -> float:
        """The closed form."""
        done = min(self.last_epoch, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by `factor` once a number has not become better for more than `patience` epochs.

    Args:
        optimizer: whose rate to set.
        mode: "min" or "max": which numbers are better.
        factor: below 1.
        patience: epochs without a better number that are let pass.
        threshold: how much better counts.
        threshold_mode: "rel": of the best number so far, or "abs".
        cooldown: epochs after a decay that do not count.
        min_lr: the smallest rate, one number or one a group.
        eps: a decay smaller than this is left out.

    Raises:
        Refused: another mode, a factor of 1 or more, or another number of rates than groups.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | Sequence[float] = 0.0, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        groups = len(optimizer.param_groups)
        self.min_lrs = [min_lr] * groups if isinstance(min_lr, int | float) else list(min_lr)
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            got = f"{mode!r} and {threshold_mode!r}"
            refuse("ReduceLROnPlateau", f"mode must be min or max and threshold_mode rel or abs, got {got}")
        if not factor < 1.0 or len(self.min_lrs) != groups:
            refuse("ReduceLROnPlateau", f"factor must be below 1 and min_lr one a group, got {factor} and {min_lr}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def step(self, metrics: float) -> None:  # type: ignore[override]
        """Look at an epoch's number, which waits for the device if it is a Tensor's."""
        value = float(metrics)
        self.last_epoch += 1
        self.num_bad_epochs += 1
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lower = max(group["lr"] * self.factor, least)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _better(self, value: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        step = sign * self.threshold
        bar = self.best * (1.0 - step) if self.threshold_mode == "rel" else self.best - step
        return sign * value < sign * bar


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
