"""The functions of workflow code: time, chance, messages, children, checkpoints and variables.

All of them are durable. They are for code that runs inside a workflow, and raise `UsageError`
anywhere else. Waiting, racing and grouping is asyncio's own: `asyncio.gather`, `TaskGroup`, `wait`,
`timeout`, `sleep`, `Event`, `Queue`, `Lock`. anyio works as well.
"""

from __future__ import annotations

from perdure.runlog import logger
from perdure.workflow.channels import Channel, ChannelMessage, cancel, receive, send, wait_event
from perdure.workflow.checkpoints import checkpoint
from perdure.workflow.children import Child, Workflow, child
from perdure.workflow.clock import now, random, sleep, uuid4
from perdure.workflow.key_values import Kv, OtherKv, kv, kv_of
from perdure.workflow.races import join, select
from perdure.workflow.variables import Variable, set_attributes, set_status, status, value, variable
from perdure.workflow.versions import (
    WorkflowInfo,
    continue_as_new,
    continue_as_version,
    info,
    patched,
)

__all__ = [
    "Channel",
    "ChannelMessage",
    "Child",
    "Kv",
    "OtherKv",
    "Variable",
    "Workflow",
    "WorkflowInfo",
    "cancel",
    "checkpoint",
    "child",
    "continue_as_new",
    "continue_as_version",
    "info",
    "join",
    "kv",
    "kv_of",
    "logger",
    "now",
    "patched",
    "random",
    "receive",
    "select",
    "send",
    "set_attributes",
    "set_status",
    "sleep",
    "status",
    "uuid4",
    "value",
    "variable",
    "wait_event",
]
