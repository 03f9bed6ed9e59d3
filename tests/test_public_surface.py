"""What users import is frozen here: a change of these lists changes the public interface (say so in CHANGELOG.md)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import perdure
import perdure.sync
from perdure import activity, errors, logs, moving, testing, workflow

PERDURE = [
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
    "workflow",
]

WORKFLOW = [
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

ACTIVITY = [
    "Activity",
    "AsyncActivity",
    "RetryAfter",
    "SyncActivity",
    "cancelled",
    "client",
    "heartbeat",
    "info",
    "is_cancelled",
    "logger",
    "resources",
]
"""What code inside an activity uses; `ActivityInfo` is what `info()` gives. `RetryAfter` is one of the errors, too."""

LOGS = ["Ids", "Json", "Text", "configure", "reset"]
"""What programs call, and the parts for those with a set-up of their own."""

MOVING = ["Moved", "Plan", "Progress", "give_up", "move", "plan"]

APP = [
    "activities",
    "activity",
    "code",
    "definitions",
    "find_activity",
    "find_queue",
    "find_workflow",
    "groups",
    "include",
    "make_resources",
    "node",
    "on_change",
    "places_of_calls",
    "queue",
    "queues",
    "resources",
    "use_version",
    "workflow",
    "workflows",
]

CLIENT = [
    "counts",
    "dead_letters",
    "delete",
    "drop",
    "get",
    "iterate_starts",
    "list",
    "metrics",
    "open",
    "page",
    "pin",
    "prune",
    "queues",
    "resend",
    "start_many",
    "store",
    "sync",
    "unpin",
    "workflow",
]

HANDLE = [
    "cancel",
    "custom_status",
    "delete",
    "describe",
    "executions",
    "history",
    "iterate_history",
    "kv",
    "kv_get",
    "kv_wait",
    "pause",
    "prepare",
    "prune",
    "raise_event",
    "result",
    "resume",
    "retry",
    "run",
    "send",
    "start",
    "start_and_send",
    "status",
    "terminate",
    "tree",
    "wait",
]

SYNC = ["LoopFactory", "SyncClient", "SyncHandle", "SyncNode", "SyncWorkflowHandle"]
"""Their methods are those of the asynchronous classes: tests/sync compares them."""

TESTING = [
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

SKIPPING_CLOCK = [
    "attach",
    "boot_ms",
    "call_after",
    "call_at",
    "detach",
    "held",
    "late_alarm",
    "now",
    "now_ms",
    "sleep",
    "waiting",
]

CLUSTER_NODE = [
    "ask",
    "calm",
    "client",
    "cut",
    "disturb",
    "end",
    "freeze",
    "has_real_work",
    "heal",
    "is_frozen",
    "is_running",
    "kill",
    "node",
    "restart",
    "scopes",
    "set_clock",
    "slow",
    "start",
    "stop",
    "thaw",
]

TEST_CLUSTER = ["calls", "client", "node", "now", "owner", "replace", "settled"]


def public(owner: object) -> list[str]:
    """The public names of a class or a module, sorted."""
    return sorted(name for name in vars(owner) if not name.startswith("_"))


def methods(cls: type) -> list[str]:
    """The public methods and properties of a class and its bases, sorted."""
    names = {
        n for base in cls.__mro__ if base is not object for n in vars(base) if not n.startswith("_")
    }
    return sorted(
        n
        for n in names
        if callable(getattr(cls, n)) or isinstance(inspect.getattr_static(cls, n), property)
    )


def test_names_of_the_package() -> None:
    assert sorted(perdure.__all__) == PERDURE


def test_names_of_sync() -> None:
    assert sorted(perdure.sync.__all__) == SYNC


def test_names_of_workflow() -> None:
    assert sorted(workflow.__all__) == WORKFLOW


def test_names_of_testing() -> None:
    assert sorted(testing.__all__) == TESTING


def test_names_of_logs() -> None:
    assert sorted(logs.__all__) == LOGS


def test_names_of_moving() -> None:
    assert sorted(moving.__all__) == MOVING


def _is_coroutine_function(found: object) -> bool:
    # The module `inspect` itself looks like one to Python 3.12.
    return inspect.isfunction(found) and inspect.iscoroutinefunction(found)


def test_names_of_activity() -> None:
    functions = [
        n for n in public(activity) if _is_coroutine_function(getattr(activity, n)) or n in ACTIVITY
    ]
    assert functions == ACTIVITY


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (perdure.App, APP),
        (perdure.Client, CLIENT),
        (perdure.WorkflowHandle, HANDLE),
        (testing.SkippingClock, SKIPPING_CLOCK),
        (testing.ClusterNode, CLUSTER_NODE),
        (testing.TestCluster, TEST_CLUSTER),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_methods(cls: type, names: list[str]) -> None:
    assert methods(cls) == names


EVERYTHING = [
    *((perdure, n) for n in PERDURE),
    *((workflow, n) for n in WORKFLOW),
    *((activity, n) for n in ACTIVITY),
    *((logs, n) for n in LOGS),
    *((moving, n) for n in MOVING),
    *((perdure.App, n) for n in APP),
    *((perdure.Client, n) for n in CLIENT),
    *((perdure.WorkflowHandle, n) for n in HANDLE),
    *((testing, n) for n in TESTING),
    *((testing.SkippingClock, n) for n in SKIPPING_CLOCK),
    *((testing.ClusterNode, n) for n in CLUSTER_NODE),
    *((testing.TestCluster, n) for n in TEST_CLUSTER),
]


@pytest.mark.parametrize(("owner", "name"), EVERYTHING, ids=lambda v: getattr(v, "__name__", v))
def test_importable_and_documented(owner: ModuleType | type, name: str) -> None:
    thing = getattr(owner, name)
    if name == "IfExists":
        return  # a Literal cannot have a docstring: `Client.workflow` explains its values
    if name in {"kv", "logger"}:  # objects: their classes are documented
        thing = type(thing)
    assert inspect.getdoc(thing), f"{owner.__name__}.{name} has no docstring"
    assert not name.startswith("_")


def test_every_error_is_documented_and_in_the_tree() -> None:
    classes = [
        c
        for c in vars(errors).values()
        if inspect.isclass(c) and issubclass(c, errors.PerdureError)
    ]
    assert len(classes) > 20
    for cls in classes:
        assert inspect.getdoc(cls), f"{cls.__name__} has no docstring"
        assert cls in {errors.PerdureError, errors.Failed} or cls.__name__ in (
            errors.__doc__ or ""
        ), f"{cls.__name__} is missing in the tree at the top of errors.py"


def test_every_module_can_be_imported_and_says_what_it_is_for() -> None:
    for found in pkgutil.walk_packages(perdure.__path__, "perdure."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        assert module.__doc__, f"{found.name} has no docstring"
