"""The node: owns scopes, runs turns, runs activities. The path of a message is in `turns`."""

from __future__ import annotations

from perdure.node.node import Node
from perdure.node.options import NodeOptions
from perdure.node.telemetry.tally import NodeMetrics

__all__ = ["Node", "NodeMetrics", "NodeOptions"]
