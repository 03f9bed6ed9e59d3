"""Answers: the event that a message is for an execution that goes on.

A turn has taken the message from the mailbox, and delivers the event next. An activity's failure
may be an end or another attempt, which is decided here.

A message that comes too late is no event. Its call has its answer, or was cancelled, or belongs to
another execution, or to an earlier run of the same id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from perdure.errors import DecodeError
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.retry import WORKER_LOST, WORKERS_LOST_MAX
from perdure.kernel.loop.call import (
    EVENT_LANE,
    ActivityCall,
    Call,
    CheckpointCall,
    ChildCall,
    WaitCall,
)

if TYPE_CHECKING:
    from perdure.errors import Failure
    from perdure.kernel.execution.execution import Execution

C = TypeVar("C", bound=Call)


def event_of(run: Execution, body: msg.Body, now: int) -> ev.Event | None:
    """The event to deliver at `now` (ms). None: the message comes too late."""
    if isinstance(body, msg.ActivityDone):
        return _attempt(run, body, now)
    if isinstance(body, msg.Reply):
        if _pending(run, body, ChildCall) is None:
            return None
        return ev.Replied(body.seq, now, body.result, body.failure)
    if isinstance(body, msg.CheckpointDone):
        call = _pending(run, body, CheckpointCall)
        if call is None:
            return None
        return ev.CheckpointRecorded(
            body.seq, now, call.name, call.occurrence, body.value, body.failure
        )
    if isinstance(body, msg.Raise):
        # With no wait the event is only recorded.
        seq = run.waits.first.get(EVENT_LANE + body.name, 0)
        return ev.EventRaised(seq, now, body.name, body.value)
    raise AssertionError(body)


def misfit(run: Execution, event: ev.Received | ev.EventRaised) -> str | None:
    """Why a message does not fit the wait that would take it. None: it fits.

    The caller has entered the loop, because code of the program may take part in the reading.
    """
    call = run.pending[event.seq]
    assert isinstance(call, WaitCall)
    try:
        call.read(event.value)
    except DecodeError as unfit:
        return str(unfit)
    except KeyboardInterrupt:
        raise  # the turn is interrupted, which says nothing about the message
    # A validator of the program may call `sys.exit`, which would end the node.
    except BaseException as unfit:
        return f"its type raised {type(unfit).__name__}: {unfit}"
    return None


def _attempt(run: Execution, body: msg.ActivityDone, now: int) -> ev.Event | None:
    """The end of an attempt of an activity: its answer, or the wait for another attempt."""
    call = _pending(run, body, ActivityCall)
    # An attempt that was left to itself may end while the next one runs.
    if call is None or body.attempt != call.attempt:
        return None
    failure = body.failure
    if failure is None:
        return ev.ActivityCompleted(body.seq, now, body.result or b"", call.attempt)
    retry_at = _retry_at(call, failure, now)
    if retry_at is None:
        return ev.ActivityFailed(body.seq, now, failure, call.attempt)
    return ev.AttemptFailed(body.seq, now, call.attempt, failure, retry_at, body.details)


def _retry_at(call: ActivityCall, failure: Failure, now: int) -> int | None:
    """When the next attempt may begin. None: there is none."""
    delay_ms = _delay_ms(call, failure)
    if delay_ms is None:
        return None
    retry_at = now + delay_ms
    # An attempt that could begin only after the total timeout is not waited for.
    total_ms = call.options.total_timeout_ms
    if total_ms is not None and retry_at >= call.scheduled_at + total_ms:
        return None
    return retry_at


def _delay_ms(call: ActivityCall, failure: Failure) -> int | None:
    """How long to wait before the next attempt. None: there is none."""
    policy = call.options.retry
    is_lost = failure.type == WORKER_LOST and failure.type not in policy.names
    if is_lost and call.lost + 1 < WORKERS_LOST_MAX:
        # As after a crash of the node that runs a local activity: the policy is about failures of
        # the activity, and says nothing here.
        return 0
    attempt = call.attempt - call.lost
    if not policy.wants(failure, attempt):
        return None
    if failure.retry_after_ms is not None:
        return failure.retry_after_ms
    return policy.delay_ms(attempt)


def _pending(
    run: Execution, body: msg.ActivityDone | msg.CheckpointDone | msg.Reply, kind: type[C]
) -> C | None:
    """The call that an answer belongs to, if run, execution and command all match."""
    started = run.started
    if body.run != started.run or body.execution != started.execution:
        return None
    call = run.pending.get(body.seq)
    if not isinstance(call, kind):
        return None
    return call
