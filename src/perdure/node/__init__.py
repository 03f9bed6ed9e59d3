"""The node: owns scopes, runs turns and activities. The path of a message is in `loop/turns.py`."""

from __future__ import annotations

from perdure.node.node import Node
from perdure.node.options import NodeOptions
from perdure.node.telemetry.tally import NodeMetrics

__all__ = ["Node", "NodeMetrics", "NodeOptions"]
