"""Tensors, functions and the backward walk. Knows no op."""

from tritonnet.autograd.function import Context, Function, Node, graph, is_grad_enabled, no_grad, remade, remakes
from tritonnet.autograd.parameter import Parameter
from tritonnet.autograd.precision import get_precision, precision, set_precision, storage_dtype, uses_tf32
from tritonnet.autograd.tensor import Tensor, check_device, check_tensors, from_numpy, from_torch, tensor

__all__ = [
    "Context", "Function", "Node", "Parameter", "Tensor", "check_device", "check_tensors", "from_numpy", "from_torch",
    "get_precision", "graph", "is_grad_enabled", "no_grad", "precision", "remade", "remakes", "set_precision",
    "storage_dtype", "tensor", "uses_tf32",
]  # fmt: skip
