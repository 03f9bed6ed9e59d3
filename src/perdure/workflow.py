"""What workflow code uses: time, chance, messages, children, checkpoints and variables, all of them durable.

Everything here is for code that runs inside a workflow; anywhere else it raises `UsageError`. Waiting, racing and
grouping is asyncio's own:
`asyncio.gather`, `TaskGroup`, `wait`, `timeout`, `sleep`, `Event`, `Queue`, `Lock`; anyio works as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, overload
from uuid import UUID

from perdure.caller import caller as _run
from perdure.codec import TypeCodec, encode
from perdure.codec.derived import difference, returned_type
from perdure.errors import UsageError, clean_text
from perdure.kernel import changes, commands
from perdure.kernel.definition import check_label, normal_version
from perdure.kernel.events import ParentClose
from perdure.kernel.loop import Timer
from perdure.kernel.placement import check_id
from perdure.kernel.retry import Seconds, to_ms
from perdure.kernel.run import Run, current_run
from perdure.kv import Kv, OtherKv, kv, kv_of
from perdure.variable import Variable, set_attributes, set_status, status, value, variable

if TYPE_CHECKING:
    from perdure.kernel.definition import WorkflowDefinition

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class Workflow(Generic[P, R_co]):
    """A durable `async def`. In another workflow a call of it is a child; a client starts it as an instance of its
    own.
    """

    def __init__(self, definition: WorkflowDefinition) -> None:
        """Made by `app.workflow`."""
        self.definition = definition
        self.__name__ = definition.fn.__name__
        self.__qualname__ = definition.fn.__qualname__
        self.__module__ = definition.fn.__module__
        self.__doc__ = definition.fn.__doc__
        self.__wrapped__ = definition.fn

    @property
    def name(self) -> str:
        """The name in journals."""
        return self.definition.name

    @property
    def version(self) -> str:
        """The version of this definition."""
        return self.definition.version

    @property
    def fn(self) -> Callable[P, Coroutine[object, object, R_co]]:
        """The function as it was written."""
        return self.definition.fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """In a workflow: start a child now, await its result now or later. Elsewhere: the plain function."""
        run = current_run()
        if run is None:
            return self.definition.fn(*args, **kwargs)  # type: ignore[no-any-return]
        return _start_child(run, self.definition, args, kwargs, None, None, "cancel")

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start it with no parent and return its id: it lives on when this workflow ends."""
        alone: Child[P, R_co] = Child(self.definition, None, None, "abandon")
        return alone.detach(*args, **kwargs)

    def __repr__(self) -> str:
        """Name it."""
        return f"<workflow {self.name} {self.version}>"


class Child(Generic[P, R_co]):
    """A workflow with options for a child: `await workflow.child(ship, id="ship-1")(order)`."""

    def __init__(
        self,
        definition: WorkflowDefinition,
        target: str | None,
        version: str | None,
        parent_close: ParentClose,
    ) -> None:
        """Made by `workflow.child`."""
        self._definition = definition
        self._target = target
        self._version = version
        self._parent_close: ParentClose = parent_close

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """Start the child now, await its result now or later."""
        run = _run("child()")
        return _start_child(
            run, self._definition, args, kwargs, self._target, self._version, self._parent_close
        )

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start it with no parent and return its id."""
        run = _run("detach()")
        definition = self._definition
        data = definition.signature.encode(args, kwargs)

        def check() -> None:
            definition.signature.check(data)
            run.check_size(data, f"the input of workflow {definition.name!r}")

        return commands.start_detached(
            run, definition.name, self._version, data, self._target, check
        )


def _continue(
    run: Run, version: str | None, definition: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> NoReturn:
    """End the execution with the arguments of the next one."""
    if not isinstance(definition, Workflow):
        msg = f"continue_as_new() needs a workflow (@app.workflow), got {definition!r}"
        raise UsageError(msg)
    known: WorkflowDefinition = definition.definition
    if known.name != run.definition.name:
        msg = f"continue_as_new({known.name}): {run.unit!r} runs {run.definition.name!r} and can only continue as that"
        raise UsageError(msg)
    data = known.signature.encode(args, kwargs)
    run.continue_as_new(data, version, lambda: known.signature.check(data))


def _start_child(
    run: Run,
    definition: WorkflowDefinition,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: str | None,
    version: str | None,
    parent_close: ParentClose,
) -> Coroutine[object, object, Any]:
    data = definition.signature.encode(args, kwargs)
    return commands.start_child(run, definition, version, data, target, parent_close)


def child(
    definition: Workflow[P, R],
    /,
    *,
    id: str | None = None,
    version: str | int | None = None,
    parent_close: ParentClose = "cancel",
) -> Child[P, R]:
    """A child with a name, a version, or a rule for when its parent ends first.

    `parent_close` is what happens to the child when the parent ends or no longer waits: `"cancel"` (it may clean up),
    `"terminate"` or `"abandon"`.
    `version` is exact; None is what new runs get.
    """
    if type(definition) is not Workflow:
        msg = f"workflow.child() needs a workflow (@app.workflow), got {definition!r}"
        raise UsageError(msg)
    if parent_close not in ("cancel", "terminate", "abandon"):
        msg = f"parent_close must be 'cancel', 'terminate' or 'abandon', got {parent_close!r}"
        raise UsageError(msg)
    return Child(
        definition.definition,
        check_id(id) if id is not None else None,
        normal_version(version) if version is not None else None,
        parent_close,
    )


# ---------------------------------------------------------------- time and chance


def now() -> datetime:
    """The present time (UTC) as the journal has it: the same on every replay."""
    return datetime.fromtimestamp(_run("now()").loop.now_ms / 1000, UTC)


def random() -> Random:
    """The run's own random numbers: the same on every replay."""
    return _run("random()").random


def uuid4() -> UUID:
    """A random UUID: the same on every replay."""
    return UUID(int=_run("uuid4()").random.getrandbits(128), version=4)


async def sleep(delay: Seconds, *, name: str | None = None) -> None:
    """Sleep durably; `asyncio.sleep` does too, but cannot carry a name for listings and timelines."""
    loop = _run("sleep()").loop
    delay_ms = to_ms(delay, "the delay of workflow.sleep()")
    if name is not None:
        check_label(name, "a timer")
    if delay_ms == 0:
        await asyncio.sleep(0)
        return
    future = loop.create_future()
    timer = loop.call_at(loop.time() + delay_ms / 1000, _wake, future, name=name)
    try:
        await future
    finally:
        if isinstance(timer, Timer):
            timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# ---------------------------------------------------------------- messages


class Channel(Generic[T]):
    """A named, typed stream of messages into an instance, first in, first out; both ends use the same object.

    `approved = workflow.Channel[bool]("approved")`, then `await approved.receive()` in the workflow and `await
    handle.send(approved, True)` outside. Messages are buffered from the moment the instance exists and survive
    continue-as-new.
    """

    def __init__(self, name: str, type: type[T] | None = None) -> None:
        """`type` is only needed where the subscript is not used: `Channel("approved", bool)`."""
        self.name = check_label(name, "a channel")
        self._type: Any = type
        self._codec: TypeCodec[T] | None = None

    @property
    def codec(self) -> TypeCodec[T]:
        """How its values travel."""
        if self._codec is None:
            declared = self._type
            if declared is None:
                arguments = getattr(getattr(self, "__orig_class__", None), "__args__", ())
                declared = arguments[0] if arguments else Any
            self._codec = TypeCodec(declared, f"message of channel {self.name!r}")
        return self._codec

    async def receive(self) -> T:
        """Take the next message, waiting for it if there is none."""
        value: T = await commands.wait(_run("receive()"), self.name, self.codec, positional=False)
        return value

    def __repr__(self) -> str:
        """Name it."""
        return f"Channel({self.name!r})"


async def receive(channel: str, type: type[T], /) -> T:
    """Take the next message of a channel whose name is known only at run time."""
    return await Channel(channel, type).receive()


async def wait_event(name: str, type: type[T], /) -> T:
    """Wait for a positional event: the n-th active wait for a name takes the n-th event raised after it. Events are
    not buffered.
    """
    codec: TypeCodec[T] = TypeCodec(type, f"event {name!r}")
    value: T = await commands.wait(
        _run("wait_event()"), check_label(name, "an event"), codec, positional=True
    )
    return value


@overload
def send(id: str, channel: Channel[T], value: T, /) -> None: ...
@overload
def send(id: str, channel: str, value: object, /) -> None: ...
def send(id: str, channel: Any, value: Any, /) -> None:
    """Send a message to another instance; it leaves when this turn is durable."""
    run = _run("send()")
    if isinstance(channel, Channel):
        typed: Channel[Any] = channel  # pyright: ignore[reportUnknownVariableType]
        codec = typed.codec
        data = codec.encode(value)
        commands.send_message(run, check_id(id), channel.name, data, lambda: codec.check(data))
    else:
        name, data = check_label(channel, "a channel"), encode(value)
        commands.send_message(run, check_id(id), name, data, lambda: None)


def cancel(id: str, reason: str = "") -> None:
    """Ask another instance to stop; the request leaves when this turn is durable."""
    commands.send_cancel(_run("cancel()"), check_id(id), clean_text(reason))


# ---------------------------------------------------------------- racing and joining


@overload
async def select(a: Awaitable[A], b: Awaitable[B], /) -> tuple[int, A | B]: ...
@overload
async def select(a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /) -> tuple[int, A | B | C]: ...
@overload
async def select(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
) -> tuple[int, A | B | C | D]: ...
@overload
async def select(*aws: Awaitable[T]) -> tuple[int, T]: ...
async def select(*aws: Any) -> Any:
    """Wait for the first of several: its index and value. The others are cancelled, and their cleanup is awaited.

    Of those that are done at the same moment the first argument wins. An error of the winner is raised.
    """
    _run("select()")
    if not aws:
        msg = "select() needs at least one awaitable"
        raise UsageError(msg)
    futures = [asyncio.ensure_future(a) for a in aws]
    first = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not first.done():
            first.set_result(None)

    for future in futures:
        future.add_done_callback(wake)
    try:
        await first
        index = next(i for i, f in enumerate(futures) if f.done())
    finally:
        losers = [f for f in futures if not f.done()]
        for loser in losers:
            loser.cancel()
        if losers:
            await asyncio.gather(*losers, return_exceptions=True)
    return index, futures[index].result()


@overload
async def join(
    *aws: Awaitable[T], order: Literal["argument", "history"] = "argument"
) -> list[T | BaseException]: ...
@overload
async def join(
    *aws: Awaitable[Any], order: Literal["argument", "history"] = "argument"
) -> list[Any]: ...
async def join(*aws: Any, order: Literal["argument", "history"] = "argument") -> Any:
    """Wait for all; errors are values in the list. The order is that of the arguments, or that in which they
    completed.
    """
    _run("join()")
    if order not in ("argument", "history"):
        msg = f"join(order=...) must be 'argument' or 'history', got {order!r}"
        raise UsageError(msg)
    futures = [asyncio.ensure_future(a) for a in aws]
    completed: list[asyncio.Future[Any]] = []
    for future in futures:
        future.add_done_callback(completed.append)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    if order == "argument":
        return outcomes
    return [outcomes[futures.index(f)] for f in completed]


# ---------------------------------------------------------------- checkpoints


@overload
async def checkpoint(
    name: str, fn: Callable[[], Awaitable[T]], /, *, type: type[T] | None = None
) -> T: ...
@overload
async def checkpoint(name: str, fn: Callable[[], T], /, *, type: type[T] | None = None) -> T: ...
async def checkpoint(name: str, fn: Any, /, *, type: Any = None) -> Any:
    """Run a function in this process and record its outcome under a name: at least once run, recorded once, never run
    again in replay.

    For short side effects that need no options of an activity. It runs outside the workflow's loop, so it may do I/O;
    `fn` is a function, or an `async def`, without arguments. `type` is what the recorded value is decoded as. Without
    it the annotation of `fn` counts; a function without one, such as a lambda, may only return plain data.

    Raises:
        ApplicationError: the function failed, or its value needs a `type=`.
        DecodeError: the value is not of the type.
    """
    run = _run("checkpoint()")
    what = f"checkpoint {check_label(name, 'a checkpoint')!r}"
    declared = type if type is not None else returned_type(fn)
    codec: TypeCodec[Any] = TypeCodec(declared if declared is not None else Any, what)
    encoder = codec.encode if declared is not None else partial(_encode_plain, codec)
    return await commands.start_step(run, name, fn, encoder, codec)


def _encode_plain(codec: TypeCodec[Any], value: object) -> bytes:
    """Encode what is read again without a type, and refuse what would come back as something else."""
    data = codec.encode(value)
    differs = difference(value, codec.decode(data))
    if differs is not None:
        msg = (
            f"the value of {codec.what} needs a type: {differs}; annotate the result of the function, "
            "or give type=, such as workflow.checkpoint(..., type=list[Item])"
        )
        raise UsageError(msg)
    return data


# ---------------------------------------------------------------- versions and executions


def patched(patch: str) -> bool:
    """True for runs that reach this line with the new code, False for those that passed it before: puts a change of
    code behind a switch.
    """
    return changes.patched(_run("patched()"), check_label(patch, "a patch"))


def continue_as_new(definition: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
    """End this execution and begin the next one with new arguments and an empty history; messages, KV and status are
    kept.

    The version is resolved again: this is where a running instance moves to new code.
    """
    run = _run("continue_as_new()")
    _continue(run, None, definition, args, kwargs)


def continue_as_version(
    version: str | int, definition: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> NoReturn:
    """Like `continue_as_new`, for an exact version of the code."""
    run = _run("continue_as_version()")
    _continue(run, normal_version(version), definition, args, kwargs)


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """What is known about the running instance.

    `history_events` is how long the history of this execution is at this line, and the same in
    replay. Nothing may be decided by `is_replaying`: it is for logging.
    """

    id: str
    run: str
    execution: int
    workflow: str
    version: str
    parent: str | None
    started_at: datetime
    history_events: int
    is_replaying: bool


def info() -> WorkflowInfo:
    """Id, execution, version and history length of the running instance."""
    run = _run("info()")
    started = run.started
    return WorkflowInfo(
        run.unit,
        started.run.hex(),
        started.execution,
        started.workflow,
        started.version,
        started.parent.unit if started.parent is not None else None,
        datetime.fromtimestamp(started.at / 1000, UTC),
        run.history_events,
        run.replaying,
    )


class _Spool(logging.Logger):
    """Makes the records of `workflow.logger`, and keeps those of a turn until it is durable."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__(target.name)
        self.target = target

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name is logging's
        """As the logger that users set up."""
        return self.target.isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        """Keep the record for the turn. Without a turn it is shown at once."""
        run = current_run()
        if run is None or not run.keeps_logs:
            self.target.handle(record)
            return
        with suppress(Exception):  # a text that does not fit its arguments: the handler reports it
            # The text is made now, because its arguments may change before the turn ends.
            record.msg, record.args = record.getMessage(), None
        run.keep_log(record)


class _ReplaySafe(logging.LoggerAdapter[logging.Logger]):
    """Logs what happens for the first time, with the instance's ids."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name is logging's
        """Silent in replay."""
        run = current_run()
        return (run is None or not run.replaying) and self.logger.isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the ids."""
        run = current_run()
        if run is not None:
            kwargs["extra"] = dict(kwargs.get("extra") or {}) | run_ids(run)
        return msg, kwargs


def show_logs(records: Iterable[logging.LogRecord], *, discarded: bool = False) -> None:
    """Show records that a turn kept, once it is durable.

    `discarded` marks those of a turn that failed: they help to find out why, but what they say did
    not happen.
    """
    empty = Context()  # whoever shows them may work in the context of an activity
    for record in records:
        if discarded:
            record.msg, record.args = f"{record.getMessage()} (this turn was discarded)", None
        empty.run(_target.handle, record)


def run_ids(run: Run) -> dict[str, object]:
    """What the log records of a run carry."""
    started = run.started
    return {
        "instance": run.unit,
        "execution": started.execution,
        "workflow": started.workflow,
        "version": started.version,
    }


_target = logging.getLogger("perdure.workflow")

logger = _ReplaySafe(_Spool(_target), {})
"""A logger that is silent in replay and carries the instance's ids.

On a node its records are shown when the turn that made them is durable.
"""

__all__ = [
    "Channel",
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
