"""The one error flag on the device: kernels that meet bad data set a bit, optimizers skip their update while it is set.

    flag = OR of LABEL (a label outside the classes), LOSS (a loss that is not finite)

Kernels set bits with an integer atomic OR, which gives the same result in any order. `check` reads the flag (the only
wait for the device), clears it, and raises what it says; it is called wherever a loss value is read and at each epoch's end.
"""

import torch
import triton
import triton.language as tl

from tritonnet.kernels import runtime
from tritonnet.kernels.fill import fill

__all__ = ["LABEL", "LOSS", "Fault", "check", "flag", "raise_flag"]

LABEL, LOSS = tl.constexpr(1), tl.constexpr(2)
MESSAGES = {
    LABEL.value: "[loss] every target must be a class index from 0 to C - 1 or ignore_index, got one outside; "
    "check the masks and num_classes. The update of this step was skipped",
    LOSS.value: "[loss] the loss must be finite, got infinity or NaN; lower the learning rate or check the images. "
    "The update of this step was skipped",
}

_flags: dict[str, torch.Tensor] = {}


class Fault(FloatingPointError):
    """Bad data was met on the device; the message says which."""


@triton.jit
def raise_flag(bad, fault_ptr, FLAG: tl.constexpr):
    """Set the bit `FLAG` where any of `bad` holds."""
    tl.atomic_or(fault_ptr, FLAG, mask=tl.max(bad.to(tl.int32)) > 0)


def flag() -> torch.Tensor:
    """The flag: int32, shape (1,), on this process's device."""
    where = str(runtime.device())
    if where not in _flags:
        _flags[where] = fill(torch.empty((1,), dtype=torch.int32, device=runtime.device()), 0)
    return _flags[where]


def check() -> None:
    """Wait for the device, read and clear the flag.

    Raises:
        Fault: a kernel has met bad data since the last check.
    """
    bits = int(flag().item())
    if bits:
        fill(flag(), 0)
        raise Fault("; ".join(text for bit, text in MESSAGES.items() if bits & bit))
