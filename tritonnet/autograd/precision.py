"""In which numbers matrix products are computed and activations stored.

| name | activations | matrix products |
|--|--|--|
| fp32 | float32 | float32 (IEEE) |
| tf32 | float32 | operands rounded to 11 bits (tf32 or scaled float16), sums in float32 |
| bf16 | bfloat16 | bfloat16 operands, sums in float32 |
| fp16 | float16 | float16 operands, sums in float32 (no loss scaling) |

Parameters, statistics, losses and optimizer state are float32 in every one of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tritonnet.kernels.runtime import refuse

__all__ = ["get_precision", "precision", "set_precision", "storage_dtype", "uses_tf32"]

_STORAGE = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_current = "fp32"


def set_precision(name: str) -> None:
    """Compute in `name` from now on: "fp32" (the default), "tf32", "bf16" or "fp16".

    Raises:
        Refused: another name.
    """
    global _current
    if name not in _STORAGE:
        refuse("set_precision", f"precision must be one of {', '.join(_STORAGE)}, got {name!r}")
    _current = name


def get_precision() -> str:
    """The name of the precision in force."""
    return _current


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Compute in `name` within this context."""
    before = get_precision()
    set_precision(name)
    try:
        yield
    finally:
        set_precision(before)


def storage_dtype() -> torch.dtype:
    """The dtype convolutions store and read."""
    return _STORAGE[_current]


def uses_tf32() -> bool:
    """Whether float32 matrix products may round their operands to tf32."""
    return _current == "tf32"
