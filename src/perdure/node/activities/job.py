"""A job: an attempt of an activity, or a checkpoint, from the call until it has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from perdure.activity import ActivityInfo, Attempt
from perdure.kernel.data.placement import derived_id
from perdure.kernel.loop.call import ActivityCall, Call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.errors import Failure
    from perdure.kernel.data.message import Message
    from perdure.node.activities.pool import PoolProcess
    from perdure.node.activities.timeouts import Timeouts
    from perdure.ports.clock import Alarm

Kind = Literal["async", "thread", "process"]
"""Where a function runs: on the node's event loop, on a thread, in a process."""

Home = str | bytes
"""What wants the result of a job: the instance in memory, or the lease of a task."""

State = Literal["waiting", "running", "interrupted", "ending", "ended"]


class Job:
    """An attempt, or a checkpoint, in one of five states.

    `waiting`: for a slot or for the time of its retry. `running`: its function runs. `interrupted`:
    it was cancelled, and not by the node. `ending`: the node has cancelled it, and it has its
    grace. `ended`: it has ended, or it was left to itself. Its slot is given back then.
    """

    __slots__ = (
        "alarm",
        "attempt",
        "began_s",
        "call",
        "deliver",
        "details",
        "execution",
        "home",
        "key",
        "kind",
        "number",
        "process",
        "queue",
        "run",
        "state",
        "task",
        "timeout",
        "timeouts",
        "unit",
        "workflow",
    )  # fmt: skip

    def __init__(
        self,
        unit: str,
        call: Call,
        kind: Kind,
        deliver: Callable[[Message], None],
        home: Home,
    ) -> None:
        """A job that does not wait in a line yet. Its outcome is a message for `deliver`."""
        origin = call.origin
        self.unit = unit
        self.deliver = deliver
        self.home = home
        self.run = origin.run
        self.execution = origin.execution
        self.workflow = (origin.workflow, origin.version)
        self.call = call
        self.key = call.key
        self.kind: Kind = kind
        # A checkpoint has one attempt, in no queue.
        self.number = 1
        self.details: bytes | None = None
        self.queue = ""
        if isinstance(call, ActivityCall):
            self.number = call.attempt
            self.details = call.details
            self.queue = call.options.queue or ""
        self.state: State = "waiting"
        self.attempt: Attempt | None = None
        self.task: asyncio.Task[Any] | None = None
        self.alarm: Alarm | None = None
        self.timeouts: Timeouts | None = None
        self.timeout: Failure | None = None
        self.process: PoolProcess | None = None
        self.began_s: float | None = None

    def is_same(self, other: Job) -> bool:
        """Whether the other one is the same attempt of the same call."""
        return self.key == other.key and self.number == other.number

    # ------------------------------------------------------------ its states

    def renew(self, call: Call) -> None:
        """The unit was loaded again meanwhile, and has made the call anew."""
        self.call = call

    def wait_until(self, alarm: Alarm) -> None:
        """It waits for a time, at which `alarm` rings."""
        self.alarm = alarm

    def forget_alarm(self) -> None:
        """It waits for no time any more."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None

    def launch(self) -> None:
        """It has a slot, so its function begins."""
        self.forget_alarm()
        self.state = "running"

    def begin_attempt(self, attempt: Attempt, began_s: float) -> None:
        """It is an attempt of an activity. `began_s` is for metrics."""
        self.attempt = attempt
        self.began_s = began_s

    def limit(self, timeouts: Timeouts) -> None:
        """Its function must end within these."""
        self.timeouts = timeouts
        timeouts.begin()

    def begin_function(self) -> None:
        """Its function begins now. Another one may have held up the event loop until here."""
        if self.timeouts is not None and self.state == "running":
            self.timeouts.begin()

    def run_in(self, task: asyncio.Task[Any]) -> None:
        """Its function runs in this task."""
        self.task = task

    def leave_task(self) -> None:
        """Its task has ended."""
        self.task = None

    def work_in(self, process: PoolProcess | None) -> None:
        """Its function runs in this process of the pool. None: in none any more."""
        self.process = process

    def interrupt(self) -> None:
        """It was cancelled, and not by the node. It keeps its slot."""
        self.state = "interrupted"
        if self.timeouts is not None:
            self.timeouts.end()  # a function that is cancelled takes no more time
        self._tell()  # a function on a thread, or in a process, goes on until it is told

    def run_out(self, failure: Failure) -> None:
        """It takes too long, and fails with this."""
        self.timeout = failure

    def ask_to_end(self) -> None:
        """Tell its function that the result is not wanted: by its token, and by a cancel."""
        self.state = "ending"
        if self.timeouts is not None:
            self.timeouts.end()
        self._tell()
        assert self.task is not None
        self.task.cancel()

    def _tell(self) -> None:
        """Tell its function by its token, also in another process."""
        if self.attempt is not None:
            self.attempt.cancel()
        if self.process is not None:
            self.process.cancel()

    def end(self) -> None:
        """It has ended, or is left to itself."""
        self.forget_alarm()
        if self.timeouts is not None:
            self.timeouts.end()
        self.state = "ended"

    def take_details(self) -> bytes | None:
        """Give up the attempt, and return the details of its last heartbeat.

        The attempt refers to its job. Without it memory goes back before the collector looks.
        """
        if self.attempt is None:
            return None
        self.details = self.attempt.details
        self.attempt = None
        return self.details

    # ------------------------------------------------------------ texts and ids

    def message_id(self) -> bytes:
        """The id of its result.

        It is the same in each life of a node, so that a result that comes twice counts once.
        """
        return derived_id(self.run, self.execution, self.call.seq, b"done.%d" % self.number)

    def describe(self) -> str:
        """A text for people."""
        return f"{self.call.describe()} of {self.unit!r}"

    def info(self) -> ActivityInfo:
        """Which attempt this is, for the activity."""
        call = self.call
        assert isinstance(call, ActivityCall)
        return ActivityInfo(
            name=call.name,
            instance=self.unit,
            run=self.run.hex(),
            execution=self.execution,
            workflow=self.workflow[0],
            workflow_version=self.workflow[1],
            seq=call.seq,
            attempt=self.number,
            scheduled_at_ms=call.scheduled_at,
            details=self.details,
            queue=call.options.queue,
            session=call.options.session,
        )

    def ids(self) -> dict[str, object]:
        """The ids in log records about it."""
        workflow, version = self.workflow
        ids: dict[str, object] = {
            "instance": self.unit,
            "execution": self.execution,
            "workflow": workflow,
            "version": version,
            "seq": self.call.seq,
        }
        if isinstance(self.call, ActivityCall):
            ids |= {"activity": self.call.name, "attempt": self.number}
        return ids


def named(what: Sequence[str], count: int) -> str:
    """The first `count` of them, and how many more there are."""
    shown = ", ".join(what[:count])
    if len(what) > count:
        return f"{shown} and {len(what) - count} more"
    return shown
