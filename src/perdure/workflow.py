"""The functions of workflow code: time, chance, messages, children, checkpoints and variables.

All of them are durable. They are for code that runs inside a workflow, and raise `UsageError`
anywhere else. Waiting, racing and grouping is asyncio's own: `asyncio.gather`, `TaskGroup`, `wait`,
`timeout`, `sleep`, `Event`, `Queue`, `Lock`. anyio works as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, overload
from uuid import UUID

from perdure.caller import caller as _run
from perdure.codec import TypeCodec, encode
from perdure.codec.derived import difference, returned_type
from perdure.errors import UsageError, clean_text
from perdure.kernel.data.definition import check_label, normal_version
from perdure.kernel.data.events import ParentClose
from perdure.kernel.data.placement import check_id
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.kernel.execution import changes, commands
from perdure.kernel.execution.execution import Execution, current_run
from perdure.kernel.loop.loop import Timer
from perdure.kv import Kv, OtherKv, kv, kv_of
from perdure.runlog import logger
from perdure.variable import Variable, set_attributes, set_status, status, value, variable

if TYPE_CHECKING:
    from perdure.kernel.data.definition import WorkflowDefinition

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class Workflow(Generic[P, R_co]):
    """A durable `async def`.

    In another workflow a call of it is a child. A client starts it as an instance of its own.
    """

    def __init__(self, definition: WorkflowDefinition) -> None:
        """Made by `app.workflow`."""
        self.definition = definition
        # As functools.wraps does it, so that `help` and documentation tools show the function.
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
        """Start a child now. Its result may be awaited now or later.

        Outside of a workflow it is the plain function, so that a test can call it.
        """
        run = current_run()
        if run is None:
            return self.definition.fn(*args, **kwargs)  # type: ignore[no-any-return]
        return _start_child(run, self.definition, args, kwargs, None, None, "cancel")

    def detach(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start it with no parent and return its id. It lives on when this workflow ends."""
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
        """Start the child now. Its result may be awaited now or later."""
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
    run: Execution,
    version: str | None,
    definition: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> NoReturn:
    """End the execution with the arguments of the next one."""
    if not isinstance(definition, Workflow):
        msg = f"continue_as_new() needs a workflow (@app.workflow), got {definition!r}"
        raise UsageError(msg)
    # Checked by hand: a plain function fits the annotation of an untyped program.
    known: WorkflowDefinition = definition.definition
    # Handles of the instance decode its result by the workflow's type, so the workflow stays.
    if known.name != run.definition.name:
        msg = (
            f"continue_as_new({known.name}): {run.unit!r} runs {run.definition.name!r} "
            "and can only continue as that"
        )
        raise UsageError(msg)
    data = known.signature.encode(args, kwargs)
    run.continue_as_new(data, version, lambda: known.signature.check(data))


def _start_child(
    run: Execution,
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

    `parent_close` is the child's fate when the parent ends or no longer waits: `"cancel"` (it may
    clean up), `"terminate"` or `"abandon"`. `version` is exact. None is the version of new runs.

    Raises:
        UsageError: an argument has a value of another kind.
        InvalidId: the id cannot be one.
    """
    if type(definition) is not Workflow:
        msg = f"workflow.child() needs a workflow (@app.workflow), got {definition!r}"
        raise UsageError(msg)
    if parent_close not in ("cancel", "terminate", "abandon"):
        msg = f"parent_close must be 'cancel', 'terminate' or 'abandon', got {parent_close!r}"
        raise UsageError(msg)
    target = None
    if id is not None:
        target = check_id(id)
    exact = None
    if version is not None:
        exact = normal_version(version)
    return Child(definition.definition, target, exact, parent_close)


# ---------------------------------------------------------------- time and chance


def now() -> datetime:
    """The present time (UTC) as the journal has it. It is the same in every replay."""
    return datetime.fromtimestamp(_run("now()").loop.now_ms / 1000, UTC)


def random() -> Random:
    """The run's own random numbers. They are the same in every replay."""
    return _run("random()").random


def uuid4() -> UUID:
    """A random UUID. It is the same in every replay."""
    return UUID(int=_run("uuid4()").random.getrandbits(128), version=4)


async def sleep(delay: Seconds, *, name: str | None = None) -> None:
    """Sleep durably. `asyncio.sleep` does too, but has no name for listings and timelines."""
    loop = _run("sleep()").loop
    delay_ms = to_ms(delay, "the delay of workflow.sleep()")
    if name is not None:
        check_label(name, "a timer")
    if delay_ms == 0:
        # Other tasks get their turn, as with asyncio, and nothing is written.
        await asyncio.sleep(0)
        return
    future = loop.create_future()
    timer = loop.call_at(loop.time() + delay_ms / 1000, _wake, future, name=name)
    try:
        await future
    finally:
        # A cancelled sleep leaves no deadline behind, which the node would otherwise wake for.
        if isinstance(timer, Timer):
            timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # it may have been cancelled in the same moment
        future.set_result(None)


# ---------------------------------------------------------------- messages


class Channel(Generic[T]):
    """A named, typed stream of messages into an instance, first in, first out.

    Both ends use the same object: `approved = workflow.Channel[bool]("approved")`, then
    `await approved.receive()` in the workflow and `await handle.send(approved, True)` outside.
    Messages are buffered from the moment the instance exists and survive continue-as-new.
    """

    def __init__(self, name: str, type: type[T] | None = None) -> None:
        """`type` is needed only without the subscript: `Channel("approved", bool)`."""
        self.name = check_label(name, "a channel")
        self._type: Any = type

    @cached_property
    def codec(self) -> TypeCodec[T]:
        """The codec of its values."""
        # Made at the first use: Python notes the subscript of `Channel[bool](...)` on the object
        # only after `__init__`.
        declared = self._type
        if declared is None:
            subscripted = getattr(self, "__orig_class__", None)
            declared = next(iter(getattr(subscripted, "__args__", ())), Any)
        return TypeCodec(declared, f"message of channel {self.name!r}")

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
    """Wait for a positional event. Events are not buffered.

    The n-th active wait for a name takes the n-th event raised after it.
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
    """Send a message to another instance. It leaves when this turn is durable."""
    run = _run("send()")
    if isinstance(channel, Channel):
        typed: Channel[Any] = channel  # pyright: ignore[reportUnknownVariableType]
        codec = typed.codec
        data = codec.encode(value)
        commands.send_message(run, check_id(id), channel.name, data, lambda: codec.check(data))
    else:
        name = check_label(channel, "a channel")
        data = encode(value)
        commands.send_message(run, check_id(id), name, data, lambda: None)


def cancel(id: str, reason: str = "") -> None:
    """Ask another instance to stop. The request leaves when this turn is durable."""
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
    """Wait for the first of several. Returns its index and value.

    The others are cancelled, and their cleanup is awaited. Of those that are done at the same
    moment the first argument wins. An error of the winner is raised.
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
        # Also when the caller is cancelled: its losers must not outlive it.
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
    """Wait for all. Errors are values in the list.

    The order is that of the arguments, or with `"history"` that in which they completed.
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
    # `gather` gives the outcomes in the order of the arguments. Callbacks run as the futures end.
    return [outcomes[futures.index(f)] for f in completed]


# ---------------------------------------------------------------- checkpoints


@overload
async def checkpoint(
    name: str, fn: Callable[[], Awaitable[T]], /, *, type: type[T] | None = None
) -> T: ...
@overload
async def checkpoint(name: str, fn: Callable[[], T], /, *, type: type[T] | None = None) -> T: ...
async def checkpoint(name: str, fn: Any, /, *, type: Any = None) -> Any:
    """Run a function in this process and record its outcome under a name.

    It is run at least once, recorded once, and never run again in replay. It is for short side
    effects that need no options of an activity. The function runs outside the workflow's loop, so
    it may do I/O. `fn` is a function, or an `async def`, without arguments. The recorded value is
    decoded as `type`. Without it the annotation of `fn` counts. A function without one, such as a
    lambda, may only return plain data.

    Raises:
        ApplicationError: the function failed, or its value needs a `type=`.
        DecodeError: the value is not of the type.
    """
    run = _run("checkpoint()")
    # The value must be of the same type live and in replay. Plain data is so without a type.
    what = f"checkpoint {check_label(name, 'a checkpoint')!r}"
    if type is not None:
        declared = type
    else:
        declared = returned_type(fn)
    if declared is not None:
        codec: TypeCodec[Any] = TypeCodec(declared, what)
        encoder = codec.encode
    else:
        codec = TypeCodec(Any, what)
        encoder = partial(_encode_plain, codec)
    return await commands.start_step(run, name, fn, encoder, codec)


def _encode_plain(codec: TypeCodec[Any], value: object) -> bytes:
    """Encode a value that is read again without a type.

    Raises:
        UsageError: it would come back as something else.
    """
    data = codec.encode(value)
    differs = difference(value, codec.decode(data))
    if differs is not None:
        msg = (
            f"the value of {codec.what} needs a type: {differs}; annotate the result of the "
            "function, "
            "or give type=, such as workflow.checkpoint(..., type=list[Item])"
        )
        raise UsageError(msg)
    return data


# ---------------------------------------------------------------- versions and executions


def patched(patch: str) -> bool:
    """A switch for a change of code.

    True for runs that reach this line with the new code, False for those that passed it before.
    """
    return changes.patched(_run("patched()"), check_label(patch, "a patch"))


def continue_as_new(definition: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
    """End this execution and begin the next one with new arguments and an empty history.

    Messages, KV and status are kept. The version is resolved again: this is where a running
    instance moves to new code.
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
    """The running instance.

    `history_events` is the length of this execution's history at this line, and the same in replay.
    Nothing may be decided by `is_replaying`: it is for logging.
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
    parent = None
    if started.parent is not None:
        parent = started.parent.unit
    return WorkflowInfo(
        run.unit,
        started.run.hex(),
        started.execution,
        started.workflow,
        started.version,
        parent,
        datetime.fromtimestamp(started.at / 1000, UTC),
        run.history_events,
        run.replaying,
    )


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
