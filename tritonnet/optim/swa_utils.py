"""Averages of a network's weights along its training, with the names of `torch.optim.swa_utils`."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from tritonnet.autograd import Tensor
from tritonnet.kernels import runtime
from tritonnet.kernels.average import average_update
from tritonnet.kernels.runtime import only, refuse
from tritonnet.kernels.tensor_table import Tables
from tritonnet.nn import Module

__all__ = ["AveragedModel", "get_ema_multi_avg_fn", "get_swa_multi_avg_fn"]


@dataclass(frozen=True)
class _Average:
    decay: float | None


def get_ema_multi_avg_fn(decay: float = 0.999) -> _Average:
    """For `AveragedModel`: average = decay * average + (1 - decay) * weight.

    Raises:
        Refused: decay outside 0 to 1.
    """
    if not 0.0 <= decay <= 1.0:
        refuse("get_ema_multi_avg_fn", f"decay must be from 0 to 1, got {decay}")
    return _Average(decay)


def get_swa_multi_avg_fn() -> _Average:
    """For `AveragedModel`: all updates weigh alike (its default)."""
    return _Average(None)


class AveragedModel(Module):
    """A copy of `model` whose weights are the averages over the calls of `update_parameters`.

    Args:
        model: what to average; it is copied.
        device: must be left out.
        avg_fn: must be left out.
        multi_avg_fn: of `get_ema_multi_avg_fn` or `get_swa_multi_avg_fn`; None weighs all updates alike.
        use_buffers: average float buffers too (the statistics of batch norm); others are copied at each update.

    Attributes:
        module: the copy.
        n_averaged: how often it was updated, int64; 0 at first, when `module` still equals `model`.

    Raises:
        Refused: an argument that is not there.
    """

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Any = None, multi_avg_fn: Any = None, use_buffers: bool = False
    ) -> None:
        super().__init__()
        only("AveragedModel", device=(device, None), avg_fn=(avg_fn, None))
        if multi_avg_fn is not None and not isinstance(multi_avg_fn, _Average):
            refuse("AveragedModel", f"multi_avg_fn must come from get_ema_multi_avg_fn, got {multi_avg_fn!r}")
        self.module = copy.deepcopy(model)
        self.decay = multi_avg_fn.decay if multi_avg_fn is not None else None
        self.use_buffers = use_buffers
        self.register_buffer("n_averaged", Tensor(runtime.zeros((), torch.int64)))
        self._tables = Tables()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged network computes."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take in the present weights of `model`; nothing while the error flag is up. A CUDA graph may hold it."""
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        for mine, other in zip(self.module.buffers(), model.buffers(), strict=True):
            if self.use_buffers and mine.dtype == torch.float32:
                pairs.append((mine, other))  # type: ignore[arg-type]
            else:
                mine.data.copy_(other.data)
        averages, weights = [a.data for a, _ in pairs], [w.data for _, w in pairs]
        average_update(self._tables, averages, weights, self.n_averaged.data, self.decay)
        self.changed()

    def changed(self) -> None:
        """Note that the averages changed; call it after replays of a CUDA graph that holds `update_parameters`."""
        for parameter in self.module.parameters():
            parameter.changed()
