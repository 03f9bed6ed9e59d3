"""Perdure: durable execution for Python. Code that must finish, in your own process."""

from __future__ import annotations

from perdure import activity, workflow
from perdure.activity import Activity, AsyncActivity, SyncActivity
from perdure.app import App
from perdure.client.bulk import PreparedStart, StartOutcome
from perdure.client.client import Client, connect
from perdure.client.deletion import Pruned, Removed
from perdure.client.description import Description, HistoryEvent
from perdure.client.filter import Filter
from perdure.client.handle import Handle
from perdure.client.store_metrics import StoreMetrics
from perdure.client.tree import Tree
from perdure.client.workflow_handle import IfExists, WorkflowHandle
from perdure.errors import (
    ActivityError,
    ActivityTimeout,
    AlreadyStarted,
    ApplicationError,
    ChildError,
    Failure,
    HasParent,
    NotFound,
    NotRunning,
    PerdureError,
    StillRunning,
    StoreLocked,
    Suspended,
    Timeout,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from perdure.interceptor import Interceptor
from perdure.kernel.data.limits import Limits
from perdure.kernel.data.retry import RetryPolicy
from perdure.node import Door, Node, NodeOptions
from perdure.ports.store import DeadLetter, QueueDepth
from perdure.ports.where import Where
from perdure.workflow import Channel, Workflow

__version__ = "0.1.0.dev0"

__all__ = [
    "Activity",
    "ActivityError",
    "ActivityTimeout",
    "AlreadyStarted",
    "App",
    "ApplicationError",
    "AsyncActivity",
    "Channel",
    "ChildError",
    "Client",
    "DeadLetter",
    "Description",
    "Door",
    "Failure",
    "Filter",
    "Handle",
    "HasParent",
    "HistoryEvent",
    "IfExists",
    "Interceptor",
    "Limits",
    "Node",
    "NodeOptions",
    "NotFound",
    "NotRunning",
    "PerdureError",
    "PreparedStart",
    "Pruned",
    "QueueDepth",
    "Removed",
    "RetryPolicy",
    "StartOutcome",
    "StillRunning",
    "StoreLocked",
    "StoreMetrics",
    "Suspended",
    "SyncActivity",
    "Timeout",
    "Tree",
    "Where",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowTerminated",
    "activity",
    "connect",
    "workflow",
]
