"""What tests of Perdure programs and of adapters use."""

from __future__ import annotations

from perdure.testing.calls import ActivityRecord
from perdure.testing.clock import ManualClock
from perdure.testing.skipping import SkippingClock, WaitsForever
from perdure.testing.virtual_node import VirtualNode, node

__all__ = ["ActivityRecord", "ManualClock", "SkippingClock", "VirtualNode", "WaitsForever", "node"]
