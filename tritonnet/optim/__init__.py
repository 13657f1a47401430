"""Optimizers and learning-rate schedules, with torch's names, arguments and results."""

from tritonnet.optim import lr_scheduler, swa_utils
from tritonnet.optim.adam import Adam, AdamW
from tritonnet.optim.optimizer import Optimizer
from tritonnet.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler", "swa_utils"]
