"""Measuring: the shared timer, the machine, a training step over made data."""

from tritonnet.measure.machine import Peak, environment, peak
from tritonnet.measure.step import Step, made_batch
from tritonnet.measure.timer import Timing, compare, measure

__all__ = ["Peak", "Step", "Timing", "compare", "environment", "made_batch", "measure", "peak"]
