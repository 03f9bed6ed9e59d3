"""Deliveries: the effect of each event that the code is told.

`Execution.deliver` and `Execution.replay` call these handlers with the loop entered, live and in
replay alike. A handler resolves the future that waits, and gives the time of the delivery (ms). The
clock of the code goes on to that time, and then the loop runs the code.

A delivery for a command that is not pending breaks the execution. Live, the unit has checked that
before. In replay it means that code and journal differ.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.errors import ApplicationError, DecodeError, Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data.retry import WORKER_LOST
from perdure.kernel.loop.call import ActivityCall, Call, CheckpointCall, ChildCall, WaitCall
from perdure.kernel.loop.loop import Timer

if TYPE_CHECKING:
    from perdure.kernel.execution.execution import Execution


P = TypeVar("P", Timer, ActivityCall, WaitCall, ChildCall, CheckpointCall)


def _started(run: Execution, event: ev.Started) -> int:
    if run.main is not None:
        run.break_off(event, None, "the execution has begun already")
        return event.at
    run.loop.begin(_salt(event), event.at)
    try:
        args, options = run.definition.signature.decode(event.input)
        coroutine = run.definition.fn(*args, **options)
    except DecodeError as unfit:
        # In the code's place, so that the failure is recorded like one of the code.
        coroutine = _raise(unfit)
    run.begin(event, coroutine)
    return event.at


def _salt(event: ev.Started) -> int:
    """The number at which tasks and futures begin."""
    # From the journal, so that it is the same after a load. It is another one for each instance,
    # because asyncio keeps tasks of all instances in one registry.
    digest = blake2b(b"%b%d" % (event.run, event.execution), digest_size=5, person=b"salt").digest()
    return int.from_bytes(digest) << 20


async def _raise(error: Exception) -> None:
    raise ApplicationError(str(error), type=type(error).__name__, retryable=False) from error


def _take(run: Execution, seq: int, kind: type[P], event: ev.Event) -> P | None:
    """The pending command that the event answers. If there is none, the execution breaks."""
    pending = run.pending.get(seq)
    if isinstance(pending, kind):
        del run.pending[seq]
        return pending
    run.break_off(
        event,
        None,
        f"command {seq} was never given, was cancelled, has its answer or is of another kind",
    )
    return None


def _answer(call: Call, data: bytes | None, failure: Failure | None = None) -> None:
    if failure is not None:
        call.set_exception(call.error(failure))
        return
    try:
        call.set_result(call.codec.decode(data or b""))
    # The code awaits another type than the one that was recorded. It may catch this.
    except DecodeError as unfit:
        call.set_exception(unfit)


def _activity_completed(run: Execution, event: ev.ActivityCompleted) -> int:
    call = _take(run, event.seq, ActivityCall, event)
    if call is not None:
        run.not_local(call)
        run.answered(call)
        _answer(call, event.result)
    return event.at


def _activity_failed(run: Execution, event: ev.ActivityFailed) -> int:
    call = _take(run, event.seq, ActivityCall, event)
    if call is not None:
        run.not_local(call)
        call.was_attempt(event.attempt)
        run.answered(call)
        _answer(call, None, event.failure)
    return event.at


def _attempt_failed(run: Execution, event: ev.AttemptFailed) -> int:
    call = run.pending.get(event.seq)
    if not isinstance(call, ActivityCall):
        run.break_off(event, None, f"command {event.seq} is no open activity")
        return event.at
    was_lost = event.failure.type == WORKER_LOST
    call.next_attempt(event.attempt + 1, event.retry_at, event.details, lost=was_lost)
    run.wait_for_retry(call)
    return event.at


def _timer_fired(run: Execution, event: ev.TimerFired) -> int:
    timer = _take(run, event.seq, Timer, event)
    if timer is None:
        return event.at
    timer.fire()
    # A node's clock may be behind that of the node on which the timer began.
    return max(event.at, timer.fire_at)


def _received(run: Execution, event: ev.Received) -> int:
    _end_wait(run, event.seq, event, event.value, positional=False)
    return event.at


def _event_raised(run: Execution, event: ev.EventRaised) -> int:
    # Without a number no call waited, and the event is only recorded.
    if event.seq:
        _end_wait(run, event.seq, event, event.value, positional=True)
    return event.at


def _end_wait(run: Execution, seq: int, event: ev.Event, value: bytes, *, positional: bool) -> None:
    pending = run.pending.get(seq)
    # A message for the wait of an event, or the other way round, is for no command.
    if isinstance(pending, WaitCall) and pending.positional is not positional:
        seq = -1
    call = _take(run, seq, WaitCall, event)
    if call is not None:
        run.waits.remove(call.lane, call.seq)
        if call.data is value:
            call.set_result(call.value)  # it was read to know whether it fits
            return
        try:
            call.set_result(call.read(value))
        # Live, a message that does not fit is refused before (`answers.misfit`). So other code
        # took this one, and this code must not end by it.
        except DecodeError as unfit:
            run.break_off(event, None, f"the code waits for another type: {unfit}")


def _replied(run: Execution, event: ev.Replied) -> int:
    call = _take(run, event.seq, ChildCall, event)
    if call is not None:
        run.answered(call)
        _answer(call, event.result, event.failure)
    return event.at


def _checkpoint_recorded(run: Execution, event: ev.CheckpointRecorded) -> int:
    call = _take(run, event.seq, CheckpointCall, event)
    if call is not None:
        run.not_local(call)
        _answer(call, event.value, event.failure)
    return event.at


def _cancel_requested(run: Execution, event: ev.CancelRequested) -> int:
    run.ask_to_stop(event.reason)
    # The main task alone: when it is done, the others are cancelled (`ending.py`).
    if run.main is not None and not run.main.done():
        run.main.cancel(event.reason)
    return event.at


NOTES = (ev.Paused, ev.Resumed)
"""Events for people who read the journal. The code is not told, and does not go on."""

HANDLERS: dict[type[ev.Event], Callable[[Execution, Any], int]] = {
    ev.Started: _started,
    ev.ActivityCompleted: _activity_completed,
    ev.ActivityFailed: _activity_failed,
    ev.AttemptFailed: _attempt_failed,
    ev.TimerFired: _timer_fired,
    ev.Received: _received,
    ev.EventRaised: _event_raised,
    ev.Replied: _replied,
    ev.CheckpointRecorded: _checkpoint_recorded,
    ev.CancelRequested: _cancel_requested,
}
"""The handler of each kind of delivery. It returns the time of the delivery (ms)."""
