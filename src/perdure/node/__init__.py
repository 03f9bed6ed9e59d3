"""The node: owns scopes, runs turns and activities.

Read `node.py` for its life and `loop/turns.py` for the path of a message. Then follow the packages
`loop`, `ownership` and `activities`: each begins with the order in which to read it.
"""

from __future__ import annotations

from perdure.node.front.door import Door
from perdure.node.node import Node
from perdure.node.options import NodeOptions
from perdure.node.scale import NodeScale, QueueScale, Scale
from perdure.node.telemetry.tally import NodeMetrics

__all__ = ["Door", "Node", "NodeMetrics", "NodeOptions", "NodeScale", "QueueScale", "Scale"]
