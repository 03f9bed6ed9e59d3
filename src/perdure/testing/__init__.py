"""Tools for tests of Perdure programs and of adapters."""

from __future__ import annotations

from perdure.replay.history import History, export_history
from perdure.replay.replayer import Replayed, ReplayMismatch, replay, replay_all
from perdure.testing.calls import ActivityRecord
from perdure.testing.clock import ManualClock
from perdure.testing.cluster_node import ClusterNode
from perdure.testing.nodes import TestCluster
from perdure.testing.skipping import SkippingClock, WaitsForever
from perdure.testing.virtual_node import VirtualNode, node

__all__ = [
    "ActivityRecord",
    "ClusterNode",
    "History",
    "ManualClock",
    "ReplayMismatch",
    "Replayed",
    "SkippingClock",
    "TestCluster",
    "VirtualNode",
    "WaitsForever",
    "export_history",
    "node",
    "replay",
    "replay_all",
]
