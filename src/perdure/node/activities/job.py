"""A job: an attempt of an activity, or a checkpoint, from the call until it has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from perdure.activity import ActivityInfo, Attempt
from perdure.kernel.data.placement import derived_id
from perdure.kernel.loop.call import ActivityCall, Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.errors import Failure
    from perdure.node.activities.pool import PoolProcess
    from perdure.node.activities.timeouts import Timeouts
    from perdure.ports.clock import Alarm

Kind = Literal["async", "thread", "process"]
"""Where a function runs: on the node's event loop, on a thread, in a process."""

State = Literal["waiting", "running", "interrupted", "ending", "ended"]


class Job:
    """An attempt, or a checkpoint. `Attempts` writes its state:

    `waiting`: for a slot or for the time of its retry. `running`. `interrupted`: its task was
    cancelled, and not by the node. `ending`: the node has cancelled it, and it has its grace.
    `ended`: it has, or it was left to itself; its slot is given back.
    """

    __slots__ = (
        "alarm",
        "attempt",
        "began",
        "call",
        "details",
        "execution",
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

    def __init__(self, unit: str, call: Call, kind: Kind) -> None:
        """A job that was not queued yet."""
        origin = call.origin
        self.unit = unit
        self.run = origin.run
        self.execution = origin.execution
        self.workflow = (origin.workflow, origin.version)
        self.call = call
        self.key = call.key
        self.kind: Kind = kind
        self.number = call.attempt if isinstance(call, ActivityCall) else 1
        self.details = call.details if isinstance(call, ActivityCall) else None
        # The queue whose limit counts it; empty: none.
        self.queue = (call.options.queue or "") if isinstance(call, ActivityCall) else ""
        self.state: State = "waiting"
        self.attempt: Attempt | None = None
        self.task: asyncio.Task[object] | None = None
        self.alarm: Alarm | None = None
        self.timeouts: Timeouts | None = None
        self.timeout: Failure | None = None
        self.process: PoolProcess | None = None
        self.began: float | None = None

    def is_same(self, other: Job) -> bool:
        """Whether the other one is the same attempt of the same call."""
        return self.key == other.key and self.number == other.number

    def message_id(self) -> bytes:
        """The id of its result: the same in each life of a node, so that a result that comes twice
        counts once.
        """
        return derived_id(self.run, self.execution, self.call.seq, b"done.%d" % self.number)

    def forget_alarm(self) -> None:
        """It waits for no time any more."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None

    def describe(self) -> str:
        """What it is, for people."""
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
        """What log records about it carry."""
        ids: dict[str, object] = {"instance": self.unit, "execution": self.execution}
        ids["seq"] = self.call.seq
        ids["workflow"], ids["version"] = self.workflow
        if isinstance(self.call, ActivityCall):
            ids |= {"activity": self.call.name, "attempt": self.number}
        return ids


def named(what: Sequence[str], count: int) -> str:
    """The first `count` of them, and how many more there are."""
    more = f" and {len(what) - count} more" if len(what) > count else ""
    return ", ".join(what[:count]) + more
