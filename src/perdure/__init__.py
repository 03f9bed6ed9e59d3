"""Perdure: durable execution for Python. Code that must finish, in your own process."""

from __future__ import annotations

from perdure import activity, workflow
from perdure.activity import Activity, AsyncActivity, SyncActivity
from perdure.app import App
from perdure.client import Client
from perdure.description import Description, HistoryEvent
from perdure.errors import (
    ActivityError,
    ActivityTimeout,
    AlreadyStarted,
    ApplicationError,
    ChildError,
    Failure,
    HasParent,
    NotFound,
    PerdureError,
    StillRunning,
    Timeout,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from perdure.filter import Filter
from perdure.handle import Handle, IfExists, WorkflowHandle
from perdure.interceptor import Interceptor
from perdure.kernel.limits import Limits
from perdure.kernel.retry import RetryPolicy
from perdure.metrics import StoreMetrics
from perdure.node import Node, NodeOptions
from perdure.ports.store import DeadLetter, QueueDepth
from perdure.ports.where import Where
from perdure.removal import Pruned, Removed
from perdure.tree import Tree
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
    "PerdureError",
    "Pruned",
    "QueueDepth",
    "Removed",
    "RetryPolicy",
    "StillRunning",
    "StoreMetrics",
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
    "workflow",
]
