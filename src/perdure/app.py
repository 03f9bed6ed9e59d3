# An `async def` is a callable, too: the first overload of a pair is the special case.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false
"""The app: the registry of workflows and activities.

An app does no I/O and holds no global state, so several can live in one process. It may grow while
nodes run it: instances that waited for a definition wake.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, overload

from perdure.activity import DETACHED, Activity, AsyncActivity, SyncActivity, options_of
from perdure.codec import Signature
from perdure.errors import DefinitionError
from perdure.function import check_importable, function_of, is_async, name_of, written
from perdure.kernel.data.definition import (
    DEFAULT_VERSION,
    RESERVED_PREFIX,
    ActivityDefinition,
    ActivityOptions,
    WorkflowDefinition,
    check_name,
    normal_version,
    version_key,
)
from perdure.kernel.data.placement import GROUP, activity_of, check_group, code_of
from perdure.kernel.data.queue import QueueRules, rules_of
from perdure.kernel.data.retry import RetryPolicy, Seconds
from perdure.kernel.execution import commands
from perdure.kernel.execution.execution import current_run
from perdure.workflow import Workflow

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from perdure.interceptor import Interceptor
    from perdure.node import Node, NodeOptions
    from perdure.ports.store import Store
    from perdure.transport.tls import Tls

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

Resources = Callable[[], AbstractAsyncContextManager[Any]]


class ActivityDecorator(Protocol):
    """The type of `app.activity(...)` with options."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncActivity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncActivity[P, R]: ...


class WorkflowDecorator(Protocol):
    """The type of `app.workflow(...)` with options."""

    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]:
        """Register the function."""
        ...


class App:
    """A registry of workflows and activities under one name: `app = App("shop")`, at module level.

    It runs nothing by itself: `app.node(url)` does. Modules may have apps of their own, which
    `include` brings together.
    """

    def __init__(self, name: str) -> None:
        """An empty app. Nodes and listings show its name."""
        self.name = check_name(name, "an app")
        self._workflows: dict[str, dict[str, WorkflowDefinition]] = {}
        self._latest: dict[str, WorkflowDefinition] = {}
        self._pinned: dict[str, str] = {}
        self._activities: dict[str, ActivityDefinition] = {}
        self._queues: dict[str, QueueRules] = {}
        self._resources: Resources | None = None
        self._listeners: list[Callable[[], None]] = []
        # A detached activity outlives its caller, so it needs an instance of its own.
        self._add_workflow(
            WorkflowDefinition(
                DETACHED,
                DEFAULT_VERSION,
                _run_detached,
                Signature(_run_detached, "a detached activity"),
            )
        )

    # ------------------------------------------------------------ definitions

    @overload
    def activity(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncActivity[P, R]: ...
    @overload
    def activity(self, fn: Callable[P, R], /) -> SyncActivity[P, R]: ...
    @overload
    def activity(
        self,
        /,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Seconds | None = None,
        total_timeout: Seconds | None = None,
        start_timeout: Seconds | None = None,
        heartbeat_timeout: Seconds | None = None,
        queue: str | None = None,
        priority: int | None = None,
        tag: str | None = None,
        executor: Literal["thread", "process"] = "thread",
    ) -> ActivityDecorator: ...
    def activity(
        self,
        fn: Any = None,
        /,
        *,
        name: str | None = None,
        executor: Literal["thread", "process"] = "thread",
        **options: Any,
    ) -> Any:
        """Register a function with side effects. It works with or without parentheses.

        `async def` runs on the node's loop, `def` on a thread. With `executor="process"` a `def`
        runs in a process of a pool. This is for CPU work, and the function must be importable.

        Times are seconds or timedeltas: `timeout` limits one attempt, `total_timeout` all of them,
        `start_timeout` the wait for a free slot, `heartbeat_timeout` the silence between
        heartbeats. Without `retry` the first failure goes to the workflow's code. Calls of a
        `queue` that the app declares go to any node that serves it (`queue`), by `priority` from 0
        (the most urgent) to 9, and only to workers with the `tag`.

        Raises:
            DefinitionError: the name is taken, or a value of the signature cannot be data.
        """

        def define(function: Callable[..., Any]) -> Any:
            return self._define_activity(function, name, executor, options)

        if fn is None:
            return define
        return define(fn)

    def _define_activity(
        self,
        fn: Callable[..., Any],
        name: str | None,
        executor: Literal["thread", "process"],
        options: dict[str, Any],
    ) -> Activity[Any, Any]:
        fn = _function(fn, "activity")
        name = _own_name(name, fn, "activity")
        if name in self._activities and not _is_same_cell(self._activities[name].fn, fn):
            msg = (
                f"app {self.name!r} has an activity {name!r} already; "
                "give one of them another name with name="
            )
            raise DefinitionError(msg)
        _check_executor(executor, name, fn)
        _known(options, _ACTIVITY_OPTIONS, f"activity {name!r}")
        given = options_of(ActivityOptions(), f"activity {name!r}", **options)
        definition = ActivityDefinition(
            name, fn, _signature(fn, f"activity {name!r}"), given, is_async(fn), executor
        )
        self._activities[name] = definition
        self._changed()
        if definition.is_async:
            return AsyncActivity(definition, given)
        return SyncActivity(definition, given)

    @overload
    def workflow(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self,
        /,
        *,
        name: str | None = None,
        version: str | int | None = None,
        on_mismatch: Literal["suspend", "fail"] = "suspend",
        guard: Literal["error", "warn", "off"] = "error",
        group: str = GROUP,
    ) -> WorkflowDecorator: ...
    def workflow(
        self,
        fn: Any = None,
        /,
        *,
        name: str | None = None,
        version: str | int | None = None,
        on_mismatch: Literal["suspend", "fail"] = "suspend",
        guard: Literal["error", "warn", "off"] = "error",
        group: str = GROUP,
    ) -> Any:
        """Register a durable `async def`. It works with or without parentheses.

        Several versions of one name may stand side by side. New runs get the latest version, or the
        one that `use_version` sets. Running ones keep theirs. `on_mismatch` decides about a journal
        that the code does not fit: `"suspend"` waits for a deploy that fits, `"fail"` ends the run.
        Only nodes of a cluster that serve the `group` run it (`NodeOptions.groups`).

        Raises:
            DefinitionError: name and version are taken, the function is not `async def`, or a value
                of its signature cannot be data.
        """

        def define(function: Callable[..., Any]) -> Workflow[Any, Any]:
            function = _function(function, "workflow")
            own = _own_name(name, function, "workflow")
            # A partial has no code of its own, by which stack traces and reports name a workflow.
            if not inspect.iscoroutinefunction(function) or written(function) is not function:
                msg = (
                    f"workflow {own!r} must be an `async def`: "
                    "a workflow waits, and only a coroutine can"
                )
                raise DefinitionError(msg)
            _one_of(on_mismatch, ("suspend", "fail"), f"workflow {own!r}: on_mismatch")
            _one_of(guard, ("error", "warn", "off"), f"workflow {own!r}: guard")
            exact = DEFAULT_VERSION
            if version is not None:
                exact = normal_version(version)
            definition = WorkflowDefinition(
                own,
                exact,
                function,
                _signature(function, f"workflow {own!r}"),
                on_mismatch,
                guard,
                check_group(group),
            )
            self._add_workflow(definition)
            return Workflow(definition)

        if fn is None:
            return define
        return define(fn)

    def _add_workflow(self, definition: WorkflowDefinition) -> None:
        self._check_free(definition)
        versions = self._workflows.setdefault(definition.name, {})
        versions[definition.version] = definition
        self._latest[definition.name] = versions[max(versions, key=version_key)]
        self._changed()

    def _check_free(self, definition: WorkflowDefinition) -> None:
        taken = self._workflows.get(definition.name, {}).get(definition.version)
        if taken is not None and not _is_same_cell(taken.fn, definition.fn):
            msg = (
                f"app {self.name!r} has workflow {definition.name!r} version {definition.version} "
                "already; give the new one another version= or name="
            )
            raise DefinitionError(msg)

    def definitions(self) -> list[WorkflowDefinition]:
        """All workflow definitions, with their versions."""
        found: list[WorkflowDefinition] = []
        # A copy, because another thread may define a workflow meanwhile.
        for name, versions in list(self._workflows.items()):
            if not name.startswith(RESERVED_PREFIX):
                found += versions.values()
        return found

    def use_version(self, name: str, version: str | int | None) -> None:
        """Give new runs of a workflow this version, or with None the latest again.

        Raises:
            DefinitionError: the app has no such version.
        """
        if version is None:
            self._pinned.pop(name, None)
            self._changed()
            return
        versions = self._workflows.get(name, {})
        exact = normal_version(version)
        if exact not in versions:
            has = ", ".join(sorted(versions, key=version_key)) or "none"
            msg = f"app {self.name!r} has no workflow {name!r} version {exact}; it has {has}"
            raise DefinitionError(msg)
        self._pinned[name] = exact
        self._changed()

    def include(self, other: App) -> None:
        """Take over all definitions of another app.

        Raises:
            DefinitionError: a name is taken.
        """
        # All names are checked before the first is taken over, so that a refusal changes nothing.
        for name in other._activities:
            if name in self._activities:
                msg = f"apps {self.name!r} and {other.name!r} both have an activity {name!r}"
                raise DefinitionError(msg)
        theirs: list[WorkflowDefinition] = []
        for name, versions in other._workflows.items():
            if name != DETACHED:  # each app has this one
                theirs += versions.values()
        for definition in theirs:
            self._check_free(definition)
        for name, rules in other._queues.items():
            # Both would be right for a part of the workers, and neither for all of them.
            if self._queues.get(name, rules) != rules:
                msg = f"apps {self.name!r} and {other.name!r} give queue {name!r} other limits"
                raise DefinitionError(msg)
        for definition in theirs:
            self._add_workflow(definition)
        self._activities |= other._activities
        self._queues |= other._queues
        self._changed()

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        per_node: int | None = None,
        per_key: int | None = None,
        rate: int | None = None,
        period: Seconds = 1,
    ) -> None:
        """Declare a shared queue: `app.queue("gpu", concurrency=8)`.

        Each call of an activity of this queue becomes a task in the store, for any node that serves
        the queue. All of them together run `concurrency` of them at once, `per_key` for one key,
        and begin at most `rate` within `period` seconds. Each node runs `per_node` at once.

        Raises:
            DefinitionError: the queue is declared already, or a limit is no number of at least 1.
        """
        check_name(name, "a queue")
        rules = rules_of(name, concurrency, per_key, per_node, rate, period)
        if self._queues.get(name, rules) != rules:
            msg = f"app {self.name!r} declares queue {name!r} already, with other limits"
            raise DefinitionError(msg)
        self._queues[name] = rules
        self._changed()

    def find_queue(self, name: str) -> QueueRules | None:
        """The limits of a shared queue. None: the app declares no queue of this name."""
        return self._queues.get(name)

    def queues(self) -> list[str]:
        """The names of the queues that are declared, or that activities name, sorted."""
        named = {definition.options.queue for definition in self._activities.values()}
        return sorted({*self._queues, *(name for name in named if name is not None)})

    def resources(self, make: Callable[[], AsyncIterator[R]], /) -> Callable[[], AsyncIterator[R]]:
        """Register the resources of activities (pools, clients, settings).

        `make` is an async generator that yields them once. A node runs it to the `yield` at its
        start and to the end at its stop. Activities get them by `activity.resources(Type)`.

        Raises:
            DefinitionError: it is no async generator function, or the app has resources already.
        """
        from contextlib import asynccontextmanager

        if not inspect.isasyncgenfunction(make):
            msg = "@app.resources needs an `async def` that yields the resources once"
            raise DefinitionError(msg)
        if self._resources is not None:
            msg = f"app {self.name!r} has resources already; yield one object that holds them all"
            raise DefinitionError(msg)
        self._resources = asynccontextmanager(make)
        return make

    # ------------------------------------------------------------ look-ups

    def find_workflow(self, name: str, version: str | None) -> WorkflowDefinition | None:
        """The workflow of this name: the exact version, or with None the one that new runs get."""
        versions = self._workflows.get(name)
        if not versions:
            return None
        if version is None:
            version = self._pinned.get(name)
        if version is None:
            # Kept, because each start asks, and comparing versions is slow.
            return self._latest[name]
        return versions.get(version)

    def find_activity(self, name: str) -> ActivityDefinition | None:
        """The activity of this name."""
        return self._activities.get(name)

    def places_of_calls(self, workflow: WorkflowDefinition, name: str) -> Sequence[str]:
        """Where the code of a workflow calls this activity or workflow and awaits nothing.

        Each is "file:line". Places that drop the answer at once are given alone if there are any.
        """
        # Only warnings need it, and programs that only define or send do not load the guard.
        from perdure.guard.scan import unawaited

        return unawaited(workflow.fn, name)

    def workflows(self) -> list[tuple[str, list[str]]]:
        """Names and versions of all workflows, sorted."""
        named: dict[str, list[str]] = {}
        for definition in self.definitions():
            named.setdefault(definition.name, []).append(definition.version)
        for versions in named.values():
            versions.sort(key=version_key)
        return sorted(named.items())

    def activities(self) -> list[str]:
        """Names of all activities, sorted."""
        return sorted(self._activities)

    def groups(self) -> list[str]:
        """The groups of all workflows, sorted."""
        return sorted({GROUP, *(definition.group for definition in self.definitions())})

    def code(self) -> list[str]:
        """What a node with this app can run, sorted: `checkout@1.0.0`, `charge()`."""
        workflows = [code_of(name, one) for name, versions in self.workflows() for one in versions]
        activities = [activity_of(name) for name in self.activities()]
        return sorted(workflows + activities)

    def make_resources(self) -> AbstractAsyncContextManager[Any] | None:
        """A fresh context manager of the app's resources."""
        if self._resources is not None:
            return self._resources()
        return None

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each new definition. Calling the function returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed(self) -> None:
        for listener in list(self._listeners):  # a listener may remove itself
            listener()

    # ------------------------------------------------------------ nodes

    def node(
        self,
        store: str | Store,
        *,
        options: NodeOptions | None = None,
        interceptors: Sequence[Interceptor] = (),
        meter_provider: MeterProvider | None = None,
        listen: str | None = None,
        advertise: str | None = None,
        token: bytes | None = None,
        tls: Tls | None = None,
    ) -> Node:
        """A node that runs this app on a store: `async with app.node("sqlite:///shop.db") as
        node:`.

        Metrics go to `meter_provider` (OpenTelemetry), or to that of the process if it has one.
        With `listen="HOST:PORT"` it answers other nodes and the clients of `perdure.connect`. Port
        0 takes a free one, and `node.address` says which. `advertise` is the address by which
        others reach it, if it is another one. All nodes and clients have the same `token`. `tls`
        names the files of certificates.
        """
        from perdure.node import Door, Node  # the one import upwards: convenience for users

        door: Door | None = None
        if not (listen is None and advertise is None and token is None and tls is None):
            door = Door(listen, advertise, token, tls)
        return Node(
            self,
            store,
            options=options,
            interceptors=interceptors,
            meter_provider=meter_provider,
            listen=door,
        )

    def __repr__(self) -> str:
        """Name it."""
        return f"<App {self.name}>"


def _function(given: object, kind: str) -> Callable[..., Any]:
    """What a decorator was given, if it can be one of its definitions."""
    if isinstance(given, (Activity, Workflow)):
        name = given.definition.name
        msg = f"{name!r} is defined already; include its app, or give its function, {name}.fn"
        raise DefinitionError(msg)
    return function_of(given, kind)


def _own_name(name: str | None, fn: Callable[..., Any], kind: str) -> str:
    if name is None:
        name = name_of(fn, kind)
    article = {"activity": "an activity", "workflow": "a workflow"}[kind]
    own = check_name(name, article)
    if own.startswith(RESERVED_PREFIX):
        msg = (
            f"{own!r} cannot be the name of {article}: names that begin with {RESERVED_PREFIX!r} "
            "are Perdure's own"
        )
        raise DefinitionError(msg)
    return own


def _check_executor(executor: str, name: str, fn: Callable[..., Any]) -> None:
    """Refuse an executor that the function cannot run on."""
    if executor not in ("thread", "process"):
        msg = f"activity {name!r}: executor must be 'thread' or 'process', got {executor!r}"
        raise DefinitionError(msg)
    if executor == "process":
        check_importable(fn, name)


def _signature(fn: Callable[..., Any], what: str) -> Signature:
    try:
        return Signature(fn, what)
    except TypeError as error:
        raise DefinitionError(str(error)) from error


_ACTIVITY_OPTIONS = (
    "retry",
    "timeout",
    "total_timeout",
    "start_timeout",
    "heartbeat_timeout",
    "queue",
    "priority",
    "tag",
)


def _known(options: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        msg = f"{what}: unknown option {unknown[0]!r}; known are name, executor, {', '.join(known)}"
        raise DefinitionError(msg)


def _one_of(value: object, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        names = ", ".join(map(repr, allowed[:-1]))
        msg = f"{what} must be {names} or {allowed[-1]!r}, got {value!r}"
        raise DefinitionError(msg)


async def _run_detached(name: str, data: bytes, options: dict[str, Any] | None = None) -> Any:
    """The built-in workflow behind `activity.detach`.

    Its name and parameters are a format, since journals have them. `options` is None for a call
    that had no options of its own.
    """
    run = current_run()
    assert run is not None
    definition = run.definitions.find_activity(name)
    if definition is None:
        msg = (
            f"activity {name!r} is not registered with this node's app; "
            "register it and start it again"
        )
        raise DefinitionError(msg)
    if options is None:
        own = definition.options
    else:
        own = ActivityOptions.from_data(options)
    call = commands.schedule_activity(run, definition, own, data)
    return await call


def _is_same_cell(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether a cell of a notebook, or a statement at a prompt, was run again.

    The new function then replaces the old one. A module of a program defines each name once.
    """
    if old.__module__ != "__main__" or hasattr(sys.modules["__main__"], "__file__"):
        return False
    names = getattr(old, "__qualname__", None), getattr(new, "__qualname__", "")
    return new.__module__ == "__main__" and names[0] == names[1]
