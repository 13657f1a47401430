"""Optimizers and learning-rate schedules, with torch's names, arguments and results."""

from tritonnet.optim import lr_scheduler, swa_utils
from tritonnet.optim.adam import Adam, AdamW
from tritonnet.optim.gradient_descent import SGD, Adagrad, RMSprop
from tritonnet.optim.optimizer import Optimizer

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler", "swa_utils"]
