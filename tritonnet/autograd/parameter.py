"""Parameter: a leaf that is trained, with the copy of it that kernels of the precision in use read."""

from typing import Any

import torch

from tritonnet.autograd.tensor import Tensor
from tritonnet.kernels.convert import cast, copy
from tritonnet.kernels.runtime import refuse
from tritonnet.kernels.scaled import Scaled, scaled

__all__ = ["Parameter"]

Buffer = torch.Tensor


class Parameter(Tensor):
    """A leaf that a module trains: float32, with a 16-bit copy for the precision in use, a scaled one for tf32.

    Whoever changes `data` in place calls `changed`; an optimizer that wrote `low`, the copy if one is in use, too says so.
    A copy that is not `fresh` is written again before it is used, where it lies: recorded graphs read it there.
    """

    __slots__ = ("fresh", "low")
    low: Buffer | Scaled | None

    def __init__(self, data: "Tensor | Buffer", requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor | Buffer):
            refuse("Parameter", f"data must be a tritonnet Tensor, got {type(data).__name__}; tn.tensor(...) makes one")
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad=requires_grad)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "data":  # the copy is of the buffer before
            self.low, self.fresh = None, True

    def changed(self, low_is_fresh: bool = False) -> None:
        """Count a change of `data`; without `low_is_fresh` the copy is written again when next used."""
        super().changed()
        self.fresh = self.fresh and low_is_fresh

    def refresh(self) -> None:
        """Write the copy again, if there is one and `data` has changed since."""
        if self.fresh:
            return
        if isinstance(self.low, Scaled):
            for old, new in zip(self.low, scaled(self.data), strict=True):
                old.copy_(new)
        elif self.low is not None:
            copy(self.data, self.low)
        self.fresh = True

    def in_dtype(self, dtype: torch.dtype) -> Tensor:
        """This parameter for a kernel that reads `dtype`: itself, or its 16-bit copy with the same gradient target."""
        if dtype == self.data.dtype:
            return self
        self.refresh()
        if not isinstance(self.low, Buffer) or self.low.dtype != dtype:
            self.low = cast(self.data, dtype)
        return _Alias(self.low, self)

    def scaled(self) -> Scaled:
        """Its scaled float16 copy."""
        self.refresh()
        if not isinstance(self.low, Scaled):
            self.low = scaled(self.data)
        return self.low


class _Alias(Tensor):
    """A buffer whose gradient belongs to another tensor."""

    __slots__ = ("_owner",)

    def __init__(self, data: Buffer, owner: Tensor) -> None:
        super().__init__(data, requires_grad=owner.requires_grad)
        self._owner = owner

    def edge(self) -> Any:
        return self._owner.edge()
