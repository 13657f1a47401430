"""What is done to gradients between backward and the optimizer's step."""

from collections.abc import Iterable
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.clip_grad_norm import clip_grad_norm
from tritonnet.kernels.convert import as_dtype
from tritonnet.kernels.runtime import only, refuse
from tritonnet.kernels.tensor_table import Tables

__all__ = ["clip_grad_norm_"]

_tables = Tables()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0,
    error_if_nonfinite: bool = False, foreach: Any = None,
) -> Tensor:  # fmt: skip
    """Scale the gradients down so that their Euclidean norm, of all together, is at most `max_norm`.

    Nothing waits for the device, so a CUDA graph may hold it, after one call outside.

    Args:
        parameters: those without a gradient are left out.
        max_norm: at least 0.
        norm_type: must be 2.
        error_if_nonfinite: must be False: a norm that is not finite makes the gradients 0 or NaN, as in PyTorch.
        foreach: must be left out.

    Returns:
        The norm before; shape ().

    Raises:
        Refused: max_norm below 0, or an argument that is not there.
    """
    only(
        "clip_grad_norm_", norm_type=(norm_type, 2.0), error_if_nonfinite=(error_if_nonfinite, False),
        foreach=(foreach, None),
    )  # fmt: skip
    if not max_norm >= 0:
        refuse("clip_grad_norm_", f"max_norm must be at least 0, got {max_norm}")
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    trained = [p for p in given if p.grad is not None]
    if not trained:
        return Tensor(runtime.zeros((), torch.float32))
    grads = [as_dtype(p.grad.data, torch.float32) for p in given if p.grad is not None]
    norm, scaled = clip_grad_norm(_tables, grads, max_norm)
    for p, gradient in zip(trained, scaled, strict=True):
        p.grad = Tensor(gradient)
    return Tensor(norm)
