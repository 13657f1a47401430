"""Modules, layers, losses and initialisers with torch's names, arguments, defaults and results."""

from tritonnet.autograd import Parameter
from tritonnet.nn import functional, init, utils
from tritonnet.nn.applied import (
    AvgPool2d,
    Dropout,
    Flatten,
    Identity,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    Upsample,
)  # fmt: skip
from tritonnet.nn.container import ModuleList, Sequential
from tritonnet.nn.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from tritonnet.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, DiceLoss, DistanceLoss, FocalLoss, MSELoss
from tritonnet.nn.module import IncompatibleKeys, Module, StateDictError

__all__ = [
    "AvgPool2d", "BCEWithLogitsLoss", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "CrossEntropyLoss", "DiceLoss",
    "DistanceLoss", "Dropout", "Flatten", "FocalLoss", "Identity", "IncompatibleKeys", "Linear", "LogSoftmax", "MSELoss",
    "MaxPool2d", "Module", "ModuleList", "Parameter", "ReLU", "Sequential", "Sigmoid", "Softmax", "StateDictError",
    "Tanh", "Upsample", "functional", "init", "utils",
]  # fmt: skip
