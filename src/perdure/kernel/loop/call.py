"""What a workflow gets when it calls something: a future that is also a coroutine.

The work is scheduled at the call. The object can be awaited now or later, given to `create_task`, `gather`, `wait` or
a group; cancelling it, directly or through whatever awaits it, is recorded at once and reaches the work. It never
refuses or delays `cancel()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from perdure.errors import ActivityError, ActivityTimeout, ApplicationError, ChildError, Failure
from perdure.kernel.data.definition import ActivityOptions

if TYPE_CHECKING:
    from perdure.kernel.data.definition import ActivityDefinition
    from perdure.kernel.data.events import CallStarted, Started
    from perdure.kernel.loop.loop import WorkflowLoop

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
    """Makes the value of an answer. A call keeps this, and not the method, of which each would have its own."""

    def decode(self, data: bytes) -> Any:
        """The value of a payload."""
        ...


class Call(asyncio.Future[Any], Coroutine[Any, Any, Any]):
    """A command that waits for its answer. `seq` is 0 for one that was never scheduled (a dead loop's).

    `ask` of each kind says what is asked for. It takes the creation number, the command's number in
    the journal, and the run, which learns of a cancel. It stands in for a Python-level `__init__`
    and calls no other: this is the hot path.
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
        """Give the work up: recorded at once, and it reaches the work."""
        if not asyncio.Future.cancel(self, msg):  # pyright: ignore[reportUnknownMemberType]
            return False
        if self.canceller is not None:
            self.canceller.cancel_call(self)
        return True

    @property
    def key(self) -> CallKey:
        """Which call it is, among those of all runs of its unit."""
        started = self.origin
        return started.run, started.execution, self.seq

    @property
    def origin(self) -> Started:
        """The start of the execution that has made the call."""
        assert self.canceller is not None, "a call that was never scheduled has no origin"
        return self.canceller.started

    def stay_unscheduled(self) -> None:
        """The loop is dead, so that the call never has an answer."""
        self.seq = 0
        self.canceller = None

    def error(self, failure: Failure) -> BaseException:
        """The exception that awaiting code gets for a failure."""
        raise AssertionError(failure)

    def describe(self) -> str:
        """What it waits for, for people."""
        return self.what

    # ------------------------------------------------------------ the coroutine protocol, so that create_task(call)
    # works

    def send(self, value: Any) -> Any:
        """Step: what its own iterator would do, which would refer to the call for as long as the call to it."""
        if self.done():
            raise StopIteration(self.result())
        self._asyncio_future_blocking = True
        return self

    def throw(self, *args: Any) -> Any:
        """Step with an exception; a task cancelled before its first step cancels the call."""
        error = args[0] if len(args) == 1 else (args[1] or args[0]())
        if isinstance(error, asyncio.CancelledError):
            self.cancel()
        raise error

    def close(self) -> None:
        """Nothing to close: the work is not the coroutine."""

    cr_await = None
    cr_frame = None
    cr_running = False
    cr_code = None


class ActivityCall(Call):
    """An activity that was scheduled."""

    __slots__ = ("attempt", "details", "input", "name", "options", "retry_at", "scheduled_at")
    name: str
    input: bytes
    options: ActivityOptions
    attempt: int
    retry_at: int
    scheduled_at: int
    details: bytes | None

    def ask(
        self,
        run: Canceller,
        seq: int,
        definition: ActivityDefinition,
        options: ActivityOptions,
        data: bytes,
        at: int,
    ) -> None:
        """An activity, with encoded arguments, at `at` (ms)."""
        self.number = run.loop.next_number()
        self.seq = seq
        self.canceller = run
        self.name = definition.name
        self.input = data
        self.options = options
        self.attempt = 1
        self.retry_at = 0
        self.scheduled_at = at
        self.details = None
        self.codec = definition.signature.result

    def was_attempt(self, attempt: int) -> None:
        """The attempt of this number brought the answer."""
        self.attempt = attempt

    def next_attempt(self, attempt: int, retry_at: int, details: bytes | None) -> None:
        """An attempt has failed: the next one begins at `retry_at` (ms), with the last details."""
        self.attempt = attempt
        self.retry_at = retry_at
        self.details = details

    def error(self, failure: Failure) -> BaseException:
        """`ActivityTimeout` for a timeout, else `ActivityError`."""
        kind = ActivityTimeout if failure.type == "ActivityTimeout" else ActivityError
        return kind(
            f"activity {self.name!r} failed after {_attempts(self.attempt)}: {failure.display()}",
            failure,
        )

    def describe(self) -> str:
        """Activity name and attempt."""
        return f"activity {self.name}" + (f" (attempt {self.attempt})" if self.attempt > 1 else "")


class ChildCall(Call):
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
        """A child. `child_run` is its run id."""
        self.number = run.loop.next_number()
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

    __slots__ = ("channel", "lane", "positional")
    channel: str
    positional: bool
    # Where messages of this kind wait. A channel and an event may have the same name.
    lane: str

    def ask(
        self, run: Canceller, seq: int, channel: str, codec: Reader, *, positional: bool
    ) -> None:
        """A message, or an event."""
        self.number = run.loop.next_number()
        self.seq = seq
        self.canceller = run
        self.channel = channel
        self.positional = positional
        self.lane = ("!" if positional else "#") + channel
        self.codec = codec

    def describe(self) -> str:
        """The channel."""
        return f"{'event' if self.positional else 'message'} {self.channel}"


class StepCall(Call):
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
        """A function, and how its value is written and read."""
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
        error.__cause__ = None
        return error

    def describe(self) -> str:
        """The checkpoint's name."""
        return f"checkpoint {self.name}"


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
