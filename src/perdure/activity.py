"""Activities: functions with side effects, and the questions that they may ask while they run.

`app.activity` makes an `Activity`. In a workflow a call of it is a durable command. Anywhere else
it is the plain function (a `def` on a thread), so that tests and other activities can use it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from perdure.codec import decode, encode
from perdure.errors import DefinitionError, PayloadTooLarge, UsageError
from perdure.errors import RetryAfter as RetryAfter  # noqa: PLC0414  (users raise it from here)
from perdure.function import wraps_async, written
from perdure.kernel.data.definition import (
    ActivityDefinition,
    ActivityOptions,
    check_label,
    check_name,
)
from perdure.kernel.data.queue import check_priority
from perdure.kernel.data.retry import RetryPolicy, Seconds, to_ms
from perdure.kernel.execution import commands
from perdure.kernel.execution.execution import current_run

if TYPE_CHECKING:
    from perdure.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

DETACHED = "perdure:activity"
"""The name of the built-in workflow that runs a detached activity."""


def options_of(
    base: ActivityOptions,
    what: str,
    *,
    retry: RetryPolicy | None = None,
    timeout: Seconds | None = None,
    total_timeout: Seconds | None = None,
    start_timeout: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    queue: str | None = None,
    session: str | None = None,
    priority: int | None = None,
    key: str | None = None,
    tag: str | None = None,
) -> ActivityOptions:
    """`base`, changed by the options that are given.

    Raises:
        DefinitionError: an option has a value of another kind.
    """
    changes: dict[str, Any] = {}
    if retry is not None:
        # Exactly this class: only its fields are recorded with a call.
        if type(retry) is not RetryPolicy:
            msg = f"retry of {what} must be a RetryPolicy, got {retry!r}"
            raise DefinitionError(msg)
        changes["retry"] = retry
    # Durations are given in seconds, and recorded with a call in milliseconds.
    for name, duration in (
        ("timeout", timeout),
        ("total_timeout", total_timeout),
        ("start_timeout", start_timeout),
        ("heartbeat_timeout", heartbeat_timeout),
    ):
        if duration is not None:
            changes[f"{name}_ms"] = to_ms(duration, f"{name} of {what}")
    if queue is not None:
        changes["queue"] = check_name(queue, "a queue")
    if session is not None:
        changes["session"] = check_name(session, "a session")
    if priority is not None:
        changes["priority"] = check_priority(priority, what)
    if key is not None:
        changes["key"] = check_label(key, "a key")
    if tag is not None:
        changes["tag"] = check_name(tag, "a tag")
    if changes:
        return replace(base, **changes)
    return base


class Activity(Generic[P, R_co]):
    """An activity, to be called and awaited.

    In a workflow the call is durable. In a test or in another activity it is the plain function.
    """

    def __init__(self, definition: ActivityDefinition, options: ActivityOptions) -> None:
        """Made by `app.activity`."""
        self.definition = definition
        self.options = options
        # As functools.wraps does it, so that `help` and documentation tools show the function.
        # An object that can be called has no name.
        fn = written(definition.fn)
        self.__name__ = getattr(fn, "__name__", definition.name)
        self.__qualname__ = getattr(fn, "__qualname__", definition.name)
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = definition.fn

    @property
    def name(self) -> str:
        """The name in journals."""
        return self.definition.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """Schedule it now. The result may be awaited now or later.

        Raises:
            EncodeError, DecodeError: an argument is not data or does not fit its annotation.
                Nothing was scheduled.
        """
        run = current_run()
        if run is None:
            return self._plain(args, kwargs)
        # At the call and not at the `await`: so several calls can be made and then gathered.
        definition = self.definition
        return commands.schedule_activity(
            run, definition, self.options, definition.signature.draft(args, kwargs)
        )

    def _plain(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[object, object, Any]:
        fn = self.definition.fn
        if self.definition.is_async:
            plain: Coroutine[object, object, Any] = fn(*args, **kwargs)
            return plain
        return _on_thread(fn, args, kwargs)

    def with_options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: Seconds | None = None,
        total_timeout: Seconds | None = None,
        start_timeout: Seconds | None = None,
        heartbeat_timeout: Seconds | None = None,
        queue: str | None = None,
        session: str | None = None,
        priority: int | None = None,
        key: str | None = None,
        tag: str | None = None,
    ) -> Activity[P, R_co]:
        """The same activity with other options: `await charge.with_options(timeout=5)("card",
        100)`.

        A queue that the app declares (`app.queue`) or that this node does not serve takes the last
        four into account. Calls of one `session` run on one worker while it lives. `priority` is 0
        (the most urgent) to 9. The limit `per_key` counts calls of one `key`. A `tag` is for
        workers that have it.
        """
        options = options_of(
            self.options,
            f"activity {self.name!r}",
            retry=retry,
            timeout=timeout,
            total_timeout=total_timeout,
            start_timeout=start_timeout,
            heartbeat_timeout=heartbeat_timeout,
            queue=queue,
            session=session,
            priority=priority,
            key=key,
            tag=tag,
        )
        return Activity(self.definition, options)

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start it independently of this workflow's end, and return the id of its instance.

        Raises:
            UsageError: outside of a workflow.
        """
        run = current_run()
        if run is None:
            msg = (
                f"activity {self.name!r}: detach() is for workflow code; "
                "elsewhere start a workflow through a client"
            )
            raise UsageError(msg)
        signature = self.definition.signature
        data = signature.draft(args, kwargs)
        parts: list[object] = [self.name, data]
        # Options that the definition has are looked up when it runs: a deploy may have changed
        # them.
        if self.options != self.definition.options:
            parts.append(self.options.to_data())
        start = encode(parts)

        # Called when the start is live. In a replay the journal has proved it.
        def check() -> None:
            signature.check(data)
            run.check_size(start, f"the input of activity {self.name!r}")

        return commands.start_detached(run, DETACHED, None, start, None, check)

    def __repr__(self) -> str:
        """Name it."""
        return f"<activity {self.name}>"


async def _on_thread(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    value: object = await asyncio.to_thread(fn, *args, **kwargs)
    if inspect.iscoroutine(value) and wraps_async(fn):
        return await value
    return value


class AsyncActivity(Activity[P, R_co]):
    """An `async def` activity."""

    @property
    def fn(self) -> Callable[P, Coroutine[object, object, R_co]]:
        """The function as it was written."""
        return self.definition.fn


class SyncActivity(Activity[P, R_co]):
    """A `def` activity, which runs on a thread or in a process of a pool."""

    @property
    def fn(self) -> Callable[P, R_co]:
        """The function as it was written: call it directly in a plain test."""
        return self.definition.fn


# ---------------------------------------------------------------- inside a running activity


@dataclass(frozen=True, slots=True)
class ActivityInfo:
    """The running attempt: its activity, and the instance that called it.

    `seq` is the number of the call in its execution. `details` is the last heartbeat of the attempt
    before. `queue` and `session` are options of the call.
    """

    name: str
    instance: str
    run: str
    execution: int
    workflow: str
    workflow_version: str
    seq: int
    attempt: int
    scheduled_at_ms: int
    details: bytes | None = field(default=None, repr=False)
    queue: str | None = None
    session: str | None = None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this call. Services that deduplicate take such keys."""
        return f"{self.run}.{self.execution}.{self.seq}"

    def last_heartbeat(self, as_type: type[T]) -> T | None:
        """The details of the last heartbeat of an earlier attempt. None: there were none."""
        if self.details is None:
            return None
        value: T = decode(self.details, as_type)
        return value


class Attempt:
    """A running attempt: its info, its heartbeat and its cancellation.

    There is one per attempt, shared by the threads that it uses. A process of the pool has one of
    its own (node/activities/process.py).
    """

    __slots__ = (
        "_cancelled",
        "_cancelled_async",
        "_describe",
        "_details_max",
        "_info",
        "_resources",
        "beats",
        "details",
    )

    def __init__(
        self,
        describe: Callable[[], ActivityInfo],
        details: bytes | None,
        resources: object,
        details_max: int,
    ) -> None:
        """Made by the node. Details of heartbeats have at most `details_max` bytes."""
        # Most functions never ask for their info, so it is made at the first question.
        self._describe = describe
        self._info: ActivityInfo | None = None
        self._details_max = details_max
        self._resources = resources
        self._cancelled = False
        self.beats = 0
        self.details = details
        self._cancelled_async: asyncio.Event | None = None

    @property
    def info(self) -> ActivityInfo:
        """The attempt as data."""
        if self._info is None:
            self._info = self._describe()
        return self._info

    def heartbeat(self, details: object) -> None:
        """Note a sign of life.

        Raises:
            EncodeError: the details are not data.
            PayloadTooLarge: they are too large. The details of the heartbeat before stay.
        """
        data: bytes | None = None
        if details is not None:
            data = encode(details)
            if len(data) > self._details_max:
                msg = (
                    f"the details of a heartbeat of activity {self.info.name!r} have {len(data)} "
                    f"bytes; the limit is {self._details_max} (Limits.payload_bytes): "
                    "store them elsewhere and give a reference"
                )
                raise PayloadTooLarge(msg)
        self.beat(data)

    def beat(self, details: bytes | None) -> None:
        """Note a sign of life whose details are encoded. None: those before stay."""
        if details is not None:
            self.details = details
        # The node watches this number. A thread may write it, so it is one plain integer.
        self.beats += 1

    def cancel(self) -> None:
        """Tell the function that its result is not wanted any more. For the node's loop only."""
        self._cancelled = True
        if self._cancelled_async is not None:
            self._cancelled_async.set()

    def is_cancelled(self) -> bool:
        """Whether the result is not wanted any more."""
        return self._cancelled

    async def wait_cancelled(self) -> None:
        """Wait until the result is not wanted any more."""
        if self._cancelled_async is None:  # made here, because a `def` activity never needs it
            self._cancelled_async = asyncio.Event()
        if not self._cancelled:
            await self._cancelled_async.wait()

    def resources(self) -> object:
        """The app's resources."""
        return self._resources


running_attempt: ContextVar[Attempt | None] = ContextVar("perdure_attempt", default=None)


def current_attempt(what: str) -> Attempt:
    """The attempt that the calling code belongs to.

    Raises:
        UsageError: there is none. `what` names the call.
    """
    attempt = running_attempt.get()
    if attempt is None:
        msg = f"activity.{what} is for code that runs inside an activity; here none is running"
        raise UsageError(msg)
    return attempt


def info() -> ActivityInfo:
    """The running attempt, and its activity."""
    return current_attempt("info()").info


def heartbeat(details: object = None) -> None:
    """A sign of life. `details` (data) reach the next attempt as `info().last_heartbeat(type)`.

    Raises:
        EncodeError, PayloadTooLarge: the details are not data, or have more bytes than
            `Limits.payload_bytes`.
    """
    current_attempt("heartbeat()").heartbeat(details)


def is_cancelled() -> bool:
    """Whether the result is not wanted any more.

    A `def` activity polls this. An `async def` also gets `CancelledError`.
    """
    return current_attempt("is_cancelled()").is_cancelled()


async def cancelled() -> None:
    """Wait until the result is not wanted any more."""
    await current_attempt("cancelled()").wait_cancelled()


def resources(as_type: type[T]) -> T:
    """The application's resources, which `app.resources` made at the node's start.

    Raises:
        UsageError: there are none, they are of another type, or this is a process of the pool.
    """
    value = current_attempt("resources()").resources()
    if not isinstance(value, as_type):
        msg = (
            f"activity.resources({as_type.__name__}): the app's resources are "
            f"{type(value).__name__}; "
            "make them with @app.resources"
        )
        raise UsageError(msg)
    return value


node_client: ContextVar[Callable[[], Client] | None] = ContextVar("perdure_client", default=None)
"""Makes a client of the node. Set in the context of activities and checkpoints."""


def client() -> Client:
    """A client of the node that runs this activity (or checkpoint).

    It belongs to the node's event loop: use it in an `async def`. An activity that waits for the
    end of an instance keeps a slot of the node occupied. One that waits for its own instance waits
    for ever.

    Raises:
        UsageError: no activity is running here, or it is a `def`, which runs on a thread or in a
            process.
    """
    make = node_client.get()
    if make is None:  # a plain call of the function in a test, or a process of the pool
        current_attempt("client()")
    elif _in_event_loop():
        return make()
    msg = (
        "activity.client() belongs to the node's event loop, and this is a thread or another "
        "process: make the activity `async def`"
    )
    raise UsageError(msg)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # asyncio has no public question for it that does not raise
        return False
    return True


# ---------------------------------------------------------------- logging


class _WithIds(logging.LoggerAdapter[logging.Logger]):
    """Adds the ids of the running attempt."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add them."""
        attempt = running_attempt.get()
        if attempt is not None:
            # The ids win over an `extra` of the same name, so that every record can be trusted.
            kwargs["extra"] = dict(kwargs.get("extra") or {}) | attempt_ids(attempt)
        return msg, kwargs


def attempt_ids(attempt: Attempt) -> dict[str, object]:
    """The ids in the log records of an attempt."""
    info = attempt.info
    return {
        "instance": info.instance,
        "execution": info.execution,
        "workflow": info.workflow,
        "version": info.workflow_version,
        "activity": info.name,
        "seq": info.seq,
        "attempt": info.attempt,
    }


logger = _WithIds(logging.getLogger("perdure.activity"), {})
"""A logger whose records carry the ids of the running attempt.

Outside of an activity it adds nothing.
"""
