"""The process's random numbers: one seed, one counter that every draw moves on.

Both lie on the device and a kernel moves the counter, so a recorded step draws new numbers at each replay. Equal seeds give
equal numbers on every device; they are not torch's numbers.
"""

from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import random, runtime
from tritonnet.kernels.runtime import refuse

__all__ = ["get_state", "manual_seed", "normal_", "rand", "randn", "set_state", "take", "uniform_"]

_states: dict[str, torch.Tensor] = {}


def manual_seed(seed: int) -> None:
    """Start the random numbers of this process anew from `seed`, 0 to 2**63 - 1.

    Raises:
        Refused: another seed.
    """
    set_state((seed, 0))


def get_state() -> tuple[int, int]:
    """Seed and position: what `set_state` needs to go on from here. Waits for the device."""
    seed, position = _state().tolist()
    return seed, position


def set_state(state: tuple[int, int]) -> None:
    """Go on from a (seed, position) that `get_state` gave.

    Raises:
        Refused: not two integers from 0 to 2**63 - 1.
    """
    for name, value in zip(("seed", "position"), state, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            refuse("manual_seed", f"{name} must be an integer from 0 to 2**63 - 1, got {value!r}")
    _state().copy_(torch.tensor(state))  # in place: recorded steps hold this memory


def _state() -> torch.Tensor:
    where = str(runtime.device())
    if where not in _states:
        _states[where] = runtime.zeros((2,), torch.int64)
    return _states[where]


def take(elements: int) -> torch.Tensor:
    """Seed and first counter for so many elements, on the device; the counters are used up."""
    return random.take(_state(), elements)


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fill `tensor` in place with uniform numbers in [low, high), and return it.

    Raises:
        Refused: a dtype that is not float32, bfloat16 or float16.
    """
    random.uniform(tensor.data, take(tensor.numel()), low, high)
    tensor.changed()
    return tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill `tensor` in place with normal numbers, and return it. Raises as `uniform_`."""
    random.normal(tensor.data, take(tensor.numel()), mean, std)
    tensor.changed()
    return tensor


def _fresh(shape: tuple[Any, ...], dtype: torch.dtype, requires_grad: bool) -> Tensor:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in sizes):
        refuse("rand", f"sizes must be integers from 0 up, got {tuple(sizes)}")
    if len(sizes) == 4:
        sizes = tuple(sizes[i] for i in (0, 2, 3, 1))
    return Tensor(runtime.empty(tuple(sizes), dtype), requires_grad=requires_grad)


def rand(*size: Any, dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of that shape (torch's order) of uniform numbers in [0, 1), as `torch.rand`."""
    return uniform_(_fresh(size, dtype, requires_grad))


def randn(*size: Any, dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of that shape (torch's order) of standard normal numbers, as `torch.randn`."""
    return normal_(_fresh(size, dtype, requires_grad))
