"""What open instances wait for, for people: the report of a test that would wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.client import Client
from perdure.description import Description, moment
from perdure.kernel.loop import Timer
from perdure.kernel.match import waiting_lines

if TYPE_CHECKING:
    from perdure.kernel.run import Run
    from perdure.node.turns import Turns

_SHOWN = 20


async def describe_waits(client: Client, turns: Turns | None) -> str:
    """A paragraph about each instance that has not ended, oldest first."""
    open_ones = await client.list(status=("pending", "running", "suspended"), limit=None)
    if not open_ones:
        counts = await client.counts()
        ended = sum(counts[status] for status in ("completed", "failed", "cancelled"))
        return f"No instance is open; {ended} have ended."
    shown = [_describe(d, _run(turns, d.id)) for d in reversed(open_ones[-_SHOWN:])]
    left_out = []
    if len(open_ones) > _SHOWN:
        left_out = [f"... and {len(open_ones) - _SHOWN} more"]
    return "\n".join(["Open instances:", *shown, *left_out])


def _run(turns: Turns | None, unit: str) -> Run | None:
    resident = None
    if turns is not None:
        resident = turns.residents.get(unit)
    if resident is not None:
        return resident.unit.run
    return None


def _describe(description: Description, run: Run | None) -> str:
    head = (
        f"  {description.id!r} ({description.type} {description.version}) is {description.status}"
    )
    if description.status == "suspended":
        why = ""
        if description.failure is not None:
            why = f": {description.failure.message}"
        return f"{head} ({description.reason}){why}"
    if run is None or not run.pending:
        return f"{head} ({description.reason})"
    places = waiting_lines(run.loop)
    waits = [f"    {_what(call)}" for call in run.pending.values()]
    return "\n".join([f"{head} and waits for", *waits, *(f"    at {place}" for place in places)])


def _what(call: object) -> str:
    if isinstance(call, Timer):
        until = moment(call.fire_at)
        return f"timer {call.name or ''}".rstrip() + f" until {until.isoformat(timespec='seconds')}"
    describe = getattr(call, "describe", None)
    if describe is not None:
        return str(describe())
    return repr(call)
