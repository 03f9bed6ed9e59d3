"""Calls: the futures that a workflow gets when it calls something.

The work is scheduled at the call (`kernel/execution/commands.py`). The object can be awaited now or
later, or given to `create_task`, `gather`, `wait` or a group. So it is a future that is a
coroutine, too. A delivery gives it its result (`kernel/execution/delivery.py`).

To cancel it, directly or through whatever awaits it, is recorded at once and reaches the work. It
never refuses or delays `cancel()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol, cast

from perdure.errors import ActivityError, ActivityTimeout, ApplicationError, ChildError, Failure
from perdure.kernel.data.definition import ActivityOptions

if TYPE_CHECKING:
    from contextvars import Context

    from perdure.kernel.data.definition import ActivityDefinition
    from perdure.kernel.data.events import CallStarted, Started
    from perdure.kernel.loop.loop import WorkflowLoop

# A channel and an event may have the same name.
CHANNEL_LANE = "#"
"""The lane of a channel's messages begins with this. The channel's name follows."""

EVENT_LANE = "!"
"""The lane of a positional event begins with this. The event's name follows."""

CallKey = tuple[bytes, int, int]
"""A call of a unit: run, execution, number of the command."""


class Canceller(Protocol):
    """The run of a call, which journals that the call is not wanted any more."""

    started: Started
    loop: WorkflowLoop

    def cancel_call(self, call: Call) -> None:
        """Record it."""
        ...


class Reader(Protocol):
    """It makes the value of an answer.

    A call keeps this, and not its method: a bound method would be an object for each call.
    """

    def decode(self, data: bytes) -> Any:
        """The value of a payload."""
        ...


# Looked up once, because each await of a call comes by them.
_future = cast("type[asyncio.Future[Any]]", asyncio.Future)
_await = _future.__await__
_add_done_callback = _future.add_done_callback
_result = _future.result
_exception = _future.exception


class Call(asyncio.Future[Any], Coroutine[Any, Any, Any]):
    """A command that waits for its answer. `seq` is 0 if it was never scheduled, on a dead loop.

    `ask` of each kind notes the command. It takes the run, which learns of a cancel, and the
    command's number in the journal. It stands in for a Python-level `__init__`, and it writes out
    what all kinds have in common, because this is the hot path.
    """

    __slots__ = ("canceller", "codec", "number", "seq")
    canceller: Canceller | None
    codec: Reader
    number: int
    seq: int

    what = "call"

    def __hash__(self) -> int:
        """The creation number."""
        return self.number

    def cancel(self, msg: object = None) -> bool:
        """Give the work up. It is recorded at once, and reaches the work."""
        if not asyncio.Future.cancel(self, msg):  # pyright: ignore[reportUnknownMemberType]
            return False
        if self.canceller is not None:
            self.canceller.cancel_call(self)
        return True

    @property
    def key(self) -> CallKey:
        """The name of the call among those of all runs of its unit."""
        started = self.origin
        return started.run, started.execution, self.seq

    @property
    def origin(self) -> Started:
        """The start of the execution that has made the call."""
        assert self.canceller is not None, "a call that was never scheduled has no origin"
        return self.canceller.started

    def stay_unscheduled(self) -> None:
        """The loop is dead, so the call never has an answer."""
        self.seq = 0
        self.canceller = None

    def error(self, failure: Failure) -> BaseException:
        """The exception that awaiting code gets for a failure."""
        raise AssertionError(failure)

    def describe(self) -> str:
        """What the call waits for, in words for people."""
        return self.what

    # ------------------------------------------------------------ as a coroutine, for create_task

    def send(self, value: Any) -> Any:
        """Step as its own iterator would."""
        # The iterator itself would be a cycle: the call and it would refer to each other.
        if self.done():
            raise StopIteration(self.result())
        # This is how a task knows that the future was awaited, and not given by a plain `yield`.
        self._asyncio_future_blocking = True
        return self

    def throw(self, *args: Any) -> Any:
        """Step with an exception. A task gives the exception alone, without its type before it."""
        (error,) = args
        # A task that is cancelled before its first step throws here, and the call goes with it.
        if isinstance(error, asyncio.CancelledError):
            self.cancel()
        raise error

    def close(self) -> None:
        """Close nothing: the work is not the coroutine."""

    # asyncio and tools that print stacks look at these.
    cr_await = None
    cr_frame = None
    cr_running = False
    cr_code = None


class WorkCall(Call):
    """A call of an activity or a child. It notes whether the code has asked for its answer.

    A call whose answer nobody asked for is reported at the end of the run.
    """

    __slots__ = ("is_awaited",)
    is_awaited: bool

    # Each way to await a call, or to look at its answer, comes by one of these.

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the answer."""
        self.is_awaited = True
        return _await(self)

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        """Call `fn` when there is an answer. `gather`, `wait` and tasks do this."""
        self.is_awaited = True
        _add_done_callback(self, fn, context=context)

    def result(self) -> Any:
        """The answer."""
        self.is_awaited = True
        return _result(self)

    def exception(self) -> BaseException | None:
        """The error that is the answer. None: it is a result."""
        self.is_awaited = True
        return _exception(self)

    def send(self, value: Any) -> Any:
        """Step as its own iterator would."""
        self.is_awaited = True
        return super().send(value)


class ActivityCall(WorkCall):
    """An activity that was scheduled."""

    __slots__ = (
        "attempt", "details", "input", "lost", "name", "options", "retry_at", "scheduled_at",
    )  # fmt: skip
    name: str
    input: bytes
    options: ActivityOptions
    attempt: int
    retry_at: int
    scheduled_at: int
    details: bytes | None
    lost: int

    def ask(
        self,
        run: Canceller,
        seq: int,
        definition: ActivityDefinition,
        options: ActivityOptions,
        data: bytes,
        at: int,
    ) -> None:
        """Note the command, with encoded arguments, given at `at` (ms)."""
        self.number = run.loop.next_number()
        self.is_awaited = False
        self.seq = seq
        self.canceller = run
        self.name = definition.name
        self.input = data
        self.options = options
        self.attempt = 1
        self.retry_at = 0
        self.scheduled_at = at
        self.details = None
        self.lost = 0
        self.codec = definition.signature.result

    def stand_for(
        self,
        origin: Canceller,
        seq: int,
        name: str,
        options: ActivityOptions,
        data: bytes,
        at: int,
    ) -> None:
        """Stand for a call of another process. Its answer goes there."""
        self.number = seq
        self.is_awaited = True
        self.seq = seq
        self.canceller = origin
        self.name = name
        self.input = data
        self.options = options
        self.attempt = 1
        self.retry_at = 0
        self.scheduled_at = at
        self.details = None
        self.lost = 0

    def was_attempt(self, attempt: int) -> None:
        """The attempt of this number brought the answer."""
        self.attempt = attempt

    def next_attempt(
        self, attempt: int, retry_at: int, details: bytes | None, *, lost: bool = False
    ) -> None:
        """An attempt has failed. The next one begins at `retry_at` (ms), with the last details.

        `lost`: its worker was lost, which is no fault of the activity.
        """
        self.attempt = attempt
        self.retry_at = retry_at
        self.details = details
        self.lost += lost

    def error(self, failure: Failure) -> BaseException:
        """`ActivityTimeout` for a timeout, else `ActivityError`."""
        attempts = "1 attempt"
        if self.attempt != 1:
            attempts = f"{self.attempt} attempts"
        text = f"activity {self.name!r} failed after {attempts}: {failure.display()}"
        if failure.type == "ActivityTimeout":
            return ActivityTimeout(text, failure)
        return ActivityError(text, failure)

    def describe(self) -> str:
        """Activity name and attempt."""
        if self.attempt > 1:
            return f"activity {self.name} (attempt {self.attempt})"
        return f"activity {self.name}"


class ChildCall(WorkCall):
    """A child that was started."""

    __slots__ = ("input", "parent_close", "run", "target", "version", "workflow")
    target: str
    workflow: str
    version: str | None
    input: bytes
    parent_close: str
    run: bytes

    def ask(
        self, run: Canceller, seq: int, event: CallStarted, child_run: bytes, codec: Reader
    ) -> None:
        """Note the command. `child_run` is the run id of the child."""
        self.number = run.loop.next_number()
        self.is_awaited = False
        self.seq = seq
        self.canceller = run
        self.target = event.target
        self.workflow = event.workflow
        self.version = event.version
        self.input = event.input
        self.parent_close = event.parent_close
        self.run = child_run
        self.codec = codec

    def error(self, failure: Failure) -> BaseException:
        """`ChildError`."""
        return ChildError(
            f"child workflow {self.workflow!r} (id {self.target!r}) failed: {failure.display()}",
            failure,
        )

    def describe(self) -> str:
        """The child's id."""
        return f"child {self.target}"


class WaitCall(Call):
    """A `receive` on a channel, or a wait for a positional event."""

    __slots__ = ("channel", "data", "lane", "positional", "value")
    channel: str
    positional: bool
    lane: str
    # The message that was read last, and its value.
    data: bytes | None
    value: Any

    def ask(
        self, run: Canceller, seq: int, channel: str, codec: Reader, *, positional: bool
    ) -> None:
        """Note the command."""
        self.number = run.loop.next_number()
        self.seq = seq
        self.canceller = run
        self.channel = channel
        self.positional = positional
        if positional:
            self.lane = EVENT_LANE + channel
        else:
            self.lane = CHANNEL_LANE + channel
        self.codec = codec
        self.data = None
        self.value = None

    def read(self, data: bytes) -> Any:
        """The value of a message.

        Raises:
            DecodeError: the message does not fit the type that the code waits for.
        """
        self.value = self.codec.decode(data)
        self.data = data
        return self.value

    def describe(self) -> str:
        """The channel, or the name of the event."""
        if self.positional:
            return f"event {self.channel}"
        return f"message {self.channel}"


class CheckpointCall(Call):
    """A checkpoint whose function runs in this process."""

    __slots__ = ("encode", "fn", "name", "occurrence")
    name: str
    occurrence: int
    fn: Callable[[], Awaitable[Any] | Any]
    encode: Callable[[Any], bytes]

    def ask(
        self,
        run: Canceller,
        seq: int,
        name: str,
        occurrence: int,
        fn: Callable[[], Awaitable[Any] | Any],
        encode: Callable[[Any], bytes],
        codec: Reader,
    ) -> None:
        """Note the function, and how its value is written and read."""
        self.number = run.loop.next_number()
        self.seq = seq
        self.canceller = run
        self.name = name
        self.occurrence = occurrence
        self.fn = fn
        self.encode = encode
        self.codec = codec

    def error(self, failure: Failure) -> BaseException:
        """An `ApplicationError` with the function's failure."""
        error = ApplicationError(
            f"checkpoint {self.name!r} failed: {failure.display()}",
            type=failure.type,
            retryable=failure.retryable,
        )
        # This hides the context, too: an error that the code handles meanwhile did not cause it.
        error.__cause__ = None
        return error

    def describe(self) -> str:
        """The checkpoint's name."""
        return f"checkpoint {self.name}"
