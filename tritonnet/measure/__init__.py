"""Measuring: the shared timer."""

from tritonnet.measure.timer import Timing, measure

__all__ = ["Timing", "measure"]
