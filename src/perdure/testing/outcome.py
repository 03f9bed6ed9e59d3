"""What a run of a scenario led to, in a form that can be compared: with another run, in another process."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections import Counter

import msgspec

from perdure.client import Client
from perdure.description import Description
from perdure.errors import Failure
from perdure.kernel.events import (
    ActivityCompleted,
    ActivityFailed,
    AnyEvent,
    Received,
    Replied,
    StepRecorded,
    TimerFired,
)

ANSWERS = (ActivityCompleted, ActivityFailed, TimerFired, Received, Replied, StepRecorded)
"""Events that answer a command; a command has one answer at the most."""

_VOLATILE = frozenset({"at", "fire_at", "retry_at", "attempt", "python", "details"})
_VALUES = frozenset({"result", "value"})
_SEQ = re.compile(r"\bseq=\d+, ")


class Outcome(msgspec.Struct):
    """What a run has led to.

    `result` is the script's; `instances` has a line for each, `histories` a line per event, `counts` what the store
    counts, `faults` what broke a rule, `points` the points that were passed.
    """

    result: str
    instances: dict[str, str]
    histories: dict[str, list[str]]
    counts: dict[str, int]
    faults: list[str]
    points: list[str] = []


async def all_ended(client: Client) -> None:
    """Wait until no instance is pending or running, and no message is on its way to one that can take it."""
    while True:
        for description in await client.list(status=("pending", "running"), limit=None):
            await client.get(description.id).wait()
        counts = await client.counts()
        if (
            not counts["pending"]
            and not counts["running"]
            and (not counts["inbox"] or counts["suspended"])
        ):
            return
        await asyncio.sleep(0.001)  # a detached start has no row yet that could be waited for


async def take_outcome(
    client: Client, result: object, points: list[str], *, values: bool = True
) -> Outcome:
    """Read everything that a store has come to; `values=False`: without recorded values."""
    outcome = Outcome(repr(result) if values else "", {}, {}, await client.counts(), [], points)
    for description in await client.list(limit=None):
        handle = client.get(description.id)
        outcome.instances[description.id] = _instance(
            description, await handle.kv() if values else {}, values=values
        )
        for execution in await handle.executions():
            events = [entry.event for entry in await handle.history(execution)]
            name = f"{description.id} #{execution}"
            outcome.histories[name] = [event_line(event, values=values) for event in events]
            answered = Counter(event.seq for event in events if isinstance(event, ANSWERS))
            outcome.faults += [
                f"{name}: command {seq} has {n} answers" for seq, n in answered.items() if n > 1
            ]
    return outcome


def _instance(description: Description, kv: dict[str, object], *, values: bool) -> str:
    failure = _plain(description.failure)
    status = None
    if values:
        status = description.custom_status()
    result = None
    if values:
        result = description.result()
    return (
        f"{description.type} {description.version}: {description.status} ({description.reason}), "
        f"execution {description.execution}, "
        f"result {result!r}, failure {failure}, status {status!r}, kv {sorted(kv.items())}"
    )


def event_line(event: AnyEvent, *, values: bool = True) -> str:
    """An event without what differs from run to run: times, and how often an activity was tried."""
    fields = msgspec.structs.asdict(event)
    if values:
        left_out = _VOLATILE
    else:
        left_out = _VOLATILE | _VALUES
    parts = [f"{name}={_plain(value)}" for name, value in fields.items() if name not in left_out]
    return f"{type(event).__name__}({', '.join(parts)})"


def _plain(value: object) -> str:
    if isinstance(value, Failure):
        return f"{value.category} {value.type}: {value.message}"
    return repr(value)


def differences(expected: Outcome, found: Outcome, *, ordered: bool) -> list[str]:
    """What a run has led to that it should not have. `ordered=False`: events may be recorded in another order."""
    wrong = list(found.faults)
    if found.result != expected.result:
        wrong.append(f"the script returned {found.result}, not {expected.result}")
    for name in sorted(expected.instances.keys() | found.instances.keys()):
        was, now = expected.instances.get(name), found.instances.get(name)
        if was != now:
            wrong.append(f"instance {name}:\n  expected {was}\n  found    {now}")
    for name in sorted(expected.histories.keys() | found.histories.keys()):
        was_, now_ = (
            _canonical(o.histories.get(name, []), ordered=ordered) for o in (expected, found)
        )
        if was_ != now_:
            diff = difflib.unified_diff(was_, now_, "expected", "found", lineterm="", n=1)
            wrong.append(f"history of {name}:\n  " + "\n  ".join(diff))
    if found.counts != expected.counts:
        wrong.append(f"the store counts {found.counts}, not {expected.counts}")
    return wrong


def _canonical(lines: list[str], *, ordered: bool) -> list[str]:
    if ordered:
        return lines
    return sorted(_SEQ.sub("", line) for line in lines)
