"""What is done to gradients between backward and the optimizer's step."""

from collections.abc import Iterable
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.clip_grad_norm import clip_grad_norm
from tritonnet.kernels.convert import cast
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
    grads = [(p, p.grad.data) for p in given if p.grad is not None]
    if not grads:
        return Tensor(runtime.zeros((), torch.float32))
    flat = [g if g.dtype == torch.float32 and g.is_contiguous() else cast(g, torch.float32) for _, g in grads]
    norm, scaled = clip_grad_norm(_tables, flat, max_norm)
    for (p, _), gradient in zip(grads, scaled, strict=True):
        p.grad = Tensor(gradient)
    return Tensor(norm)
