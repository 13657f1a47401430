"""The learning rate of each step: a function of the step and of the epochs before it, so a resumed run has the same."""

import math

from tritonnet.optim import Optimizer
from tritonnet.optim.lr_scheduler import ReduceLROnPlateau
from tritonnet.train.config import Config
from tritonnet.train.folder import Row

__all__ = ["Schedule"]


class Schedule:
    """A linear warm-up over `warmup` steps, from lr / (warmup + 1), then what `schedule` names.

    cosine and polynomial fall to 0 at the end; step falls every `decay_epochs` epochs; plateau after `decay_epochs` epochs
    without a lower validation loss. The formulas are those of `tritonnet.optim.lr_scheduler`.

    Args:
        config: the run.
        optimizer: whose learning rate `set` writes.
        epoch_steps: steps an epoch.
    """

    def __init__(self, config: Config, optimizer: Optimizer, epoch_steps: int) -> None:
        self.config, self.optimizer, self.epoch_steps = config, optimizer, epoch_steps
        self.plateau = ReduceLROnPlateau(optimizer, factor=config.decay_factor, patience=config.decay_epochs - 1)
        self.level = config.lr  # what the plateaus have left of it

    def rate(self, step: int, passed: float = 0.0) -> float:
        """The learning rate of a step, counted from 0; `passed` is the share of the time limit, if the run has one."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / (config.warmup + 1)
        left = config.epochs * self.epoch_steps - config.warmup
        done = min(max((step - config.warmup) / left, passed), 1.0)
        match config.schedule:
            case "cosine":
                return 0.5 * config.lr * (1.0 + math.cos(math.pi * done))
            case "polynomial":
                return float(config.lr * (1.0 - done) ** config.power)
            case "step":
                return float(config.lr * config.decay_factor ** (step // self.epoch_steps // config.decay_epochs))
            case _:
                return self.level

    def set(self, rate: float) -> None:
        """Give the optimizer its learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def epoch(self, row: Row) -> None:
        """Look at a finished epoch's validation loss."""
        if self.config.schedule == "plateau":
            self.set(self.level)
            self.plateau.step(row["val_loss"])
            self.level = self.optimizer.param_groups[0]["lr"]
