"""A report for people on the waits of open instances, for a test that would wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.client.client import Client
from perdure.client.description import Description, moment
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.execution.match import waiting_lines
from perdure.kernel.loop.loop import Timer
from perdure.kernel.unit.workflow_unit import WorkflowUnit

if TYPE_CHECKING:
    from perdure.kernel.execution.execution import Execution
    from perdure.node.loop.turns import Turns

_SHOWN = 20


async def describe_waits(client: Client, turns: Turns | None) -> str:
    """A paragraph about each instance that has not ended, oldest first."""
    open_ones = await client.list(status=("pending", "running", "suspended"), limit=None)
    if not open_ones:
        counts = await client.counts()
        ended = sum(counts[status] for status in CLOSED)
        return f"No instance is open; {ended} have ended."
    lines = ["Open instances:"]
    oldest = reversed(open_ones[-_SHOWN:])  # the list is newest first
    lines += [_describe(description, _run(turns, description.id)) for description in oldest]
    if len(open_ones) > _SHOWN:
        lines.append(f"... and {len(open_ones) - _SHOWN} more")
    return "\n".join(lines)


def _run(turns: Turns | None, unit: str) -> Execution | None:
    """The run in memory, which knows more than the row. None: only the row is there."""
    if turns is None:
        return None
    resident = turns.memory.residents.get(unit)
    if resident is None or not isinstance(resident.unit, WorkflowUnit):
        return None
    return resident.unit.run


def _describe(description: Description, run: Execution | None) -> str:
    kind = f"{description.type} {description.version}"
    head = f"  {description.id!r} ({kind}) is {description.status}"
    if description.status == "suspended":
        why = ""
        if description.failure is not None:
            why = f": {description.failure.message}"
        return f"{head} ({description.reason}){why}"
    if run is None or not run.pending:
        return f"{head} ({description.reason})"
    lines = [f"{head} and waits for"]
    lines += [f"    {_what(call)}" for call in run.pending.values()]
    lines += [f"    at {place}" for place in waiting_lines(run.loop)]
    return "\n".join(lines)


def _what(call: object) -> str:
    if isinstance(call, Timer):
        name = "timer"
        if call.name:
            name = f"timer {call.name}"
        return f"{name} until {moment(call.fire_at).isoformat(timespec='seconds')}"
    describe = getattr(call, "describe", None)
    if describe is not None:
        return str(describe())
    return repr(call)
