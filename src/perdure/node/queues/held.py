"""Held tasks: those that this node has leased, from the lease until the store has the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data import events as ev
from perdure.kernel.data.definition import ActivityOptions
from perdure.kernel.data.queue import decode_call
from perdure.kernel.loop.call import ActivityCall, Call
from perdure.ports.tasks import Renewal

if TYPE_CHECKING:
    import asyncio

    from perdure.kernel.data.commit import Task
    from perdure.kernel.data.message import Message
    from perdure.kernel.loop.loop import WorkflowLoop
    from perdure.node.activities.job import Job


class _Elsewhere:
    """The run of a call, which another process has. It is not told of a cancel."""

    loop: WorkflowLoop

    def __init__(self, started: ev.Started) -> None:
        self.started = started

    def cancel_call(self, call: Call) -> None:
        """The future of the call is never cancelled: nothing here awaits it."""
        raise AssertionError(call)


def call_of(task: Task, loop: asyncio.AbstractEventLoop) -> ActivityCall:
    """The call whose attempt a task is.

    Raises:
        ValueError, TypeError, KeyError: another release has written it in another form.
    """
    about = decode_call(task.call)
    started = ev.Started(
        0,
        about.workflow,
        about.workflow_version,
        b"",
        task.run,
        task.execution,
        "",
    )
    call = ActivityCall(loop=loop)
    options = ActivityOptions.from_data(about.options)
    call.stand_for(
        _Elsewhere(started), task.seq, task.name, options, task.input, about.scheduled_at
    )
    call.next_attempt(task.attempt, 0, task.details)
    return call


class Held:
    """A task that this node has leased."""

    __slots__ = ("_asked_beats", "_beats", "job", "renewed_at_s", "result", "task", "token")

    def __init__(self, task: Task, now_s: float) -> None:
        """It was leased at `now_s`, of the event loop's time."""
        assert task.token is not None
        self.task = task
        self.token = task.token
        self.job: Job | None = None
        self.renewed_at_s = now_s
        self.result: Message | None = None
        # Heartbeats of which the store knows, and those of the renewal that is on its way.
        self._beats = 0
        self._asked_beats = 0

    def run_as(self, job: Job) -> None:
        """It runs as this job."""
        self.job = job

    def end(self, result: Message) -> None:
        """Its function has ended, with this message as the result."""
        self.result = result

    def renewal(self, lease_ms: int) -> Renewal:
        """A renewal of its lease, with the details of the last heartbeat."""
        task = self.task
        return Renewal(task.unit, task.seq, task.attempt, self.token, lease_ms, self._details())

    def _details(self) -> bytes | None:
        job = self.job
        if job is None:
            return None
        if job.attempt is None:
            return job.details  # it has ended without an outcome
        # Noted before the store answers: a heartbeat that comes meanwhile counts for the next
        # renewal.
        self._asked_beats = job.attempt.beats
        return job.attempt.details

    @property
    def has_beaten(self) -> bool:
        """Whether a heartbeat came that no renewal has told the store."""
        if self.job is None or self.job.attempt is None:
            return False
        return self.job.attempt.beats != self._beats

    def was_renewed(self, now_s: float) -> None:
        """Its lease begins anew at `now_s`."""
        self.renewed_at_s = now_s
        self._beats = self._asked_beats

    def ids(self) -> dict[str, object]:
        """The ids in log records about it."""
        task = self.task
        return {
            "instance": task.unit,
            "activity": task.name,
            "attempt": task.attempt,
            "seq": task.seq,
            "queue": task.queue,
        }

    def describe(self) -> str:
        """A text for people."""
        task = self.task
        return f"attempt {task.attempt} of activity {task.name!r} of {task.unit!r}"
