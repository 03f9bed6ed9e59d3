"""Runs a workflow on a unit to its end. Activities give their argument in capitals; timers come last."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from drive import Drive

from perdure import App
from perdure.codec import decode
from perdure.kernel.data.events import AnyEvent, CommandCancelled
from perdure.kernel.loop.call import ActivityCall

app = App("scenes")


@app.activity
async def act(name: str) -> str:
    return name.upper()


def capitals(call: ActivityCall) -> object:
    return str(decode(call.input)[0]).upper()


def started(workflow: Callable[[], Coroutine[Any, Any, Any]]) -> Drive:
    """A unit that has begun to run `workflow`, in an app of its own that has the activities of this module."""
    own = App("scene")
    own.include(app)
    name = own.workflow(name=getattr(workflow, "__name__", "scene"))(workflow).name
    drive = Drive(own)
    drive.result = capitals
    drive.start(name)
    return drive


def played(workflow: Callable[[], Coroutine[Any, Any, Any]]) -> Drive:
    """A unit that has run `workflow` to its end; the same journal came of it when each turn began with a cold load."""
    drive, cold = started(workflow), started(workflow)
    drive.finish()
    for recorded in drive.script[1:]:
        if cold.pending():
            cold.evict()
        assert cold.again(recorded).commit == recorded.commit
    return drive


def result(workflow: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What it returned."""
    drive = played(workflow)
    assert drive.row.status == "completed", drive.row.failure
    assert drive.row.result is not None
    return decode(drive.row.result)


def cancelled(events: list[AnyEvent]) -> int:
    """How many commands were given up."""
    return sum(isinstance(e, CommandCancelled) for e in events)
