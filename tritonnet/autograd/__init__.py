"""Tensors, functions and the backward walk. Knows no op."""

from tritonnet.autograd.function import Context, Function, graph, is_grad_enabled, no_grad
from tritonnet.autograd.parameter import Parameter
from tritonnet.autograd.precision import get_precision, precision, set_precision, storage_dtype, uses_tf32
from tritonnet.autograd.tensor import Tensor, check_device, check_tensors, from_numpy, from_torch, tensor

__all__ = [
    "Context", "Function", "Parameter", "Tensor", "check_device", "check_tensors", "from_numpy", "from_torch",
    "get_precision", "graph", "is_grad_enabled", "no_grad", "precision", "set_precision", "storage_dtype", "tensor",
    "uses_tf32",
]  # fmt: skip
