"""What tests of Perdure programs and of adapters use."""

from __future__ import annotations

from perdure.testing.clock import ManualClock

__all__ = ["ManualClock"]
