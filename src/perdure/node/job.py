"""A job: an attempt of an activity, or a checkpoint, that waits for a slot or runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.activity import ActivityInfo, Attempt
from perdure.kernel.call import ActivityCall, Call

if TYPE_CHECKING:
    from perdure.kernel.unit import Unit
    from perdure.ports.clock import Alarm


class Job:
    """An attempt that waits for a slot, or runs."""

    __slots__ = (
        "alarm", "attempt", "call", "details", "execution", "number", "queued_at", "run", "task", "unit", "workflow",
    )  # fmt: skip

    def __init__(self, unit: Unit, call: Call) -> None:
        run = unit.run
        assert run is not None
        self.unit = unit.id
        self.run = run.started.run
        self.execution = run.started.execution
        self.workflow = (run.started.workflow, run.started.version)
        self.call = call
        self.number = call.attempt if isinstance(call, ActivityCall) else 1
        self.details = call.details if isinstance(call, ActivityCall) else None
        self.attempt: Attempt | None = None
        self.task: asyncio.Task[None] | None = None
        self.alarm: Alarm | None = None
        self.queued_at = 0

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
        ids: dict[str, object] = {"instance": self.unit, "execution": self.execution, "seq": self.call.seq}
        ids["workflow"], ids["version"] = self.workflow
        if isinstance(self.call, ActivityCall):
            ids |= {"activity": self.call.name, "attempt": self.number}
        return ids

    @property
    def queue(self) -> str:
        """The queue whose limit counts it; empty: none."""
        return (self.call.options.queue or "") if isinstance(self.call, ActivityCall) else ""
