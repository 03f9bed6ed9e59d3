"""The outcome of a scenario, in a form that can be compared with that of another process."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections import Counter
from collections.abc import Iterator

import msgspec

from perdure.client.client import Client
from perdure.client.description import Description
from perdure.errors import Failure
from perdure.kernel.data.events import (
    ActivityCompleted,
    ActivityFailed,
    AnyEvent,
    CheckpointRecorded,
    Received,
    Replied,
    TimerFired,
)

ANSWERS = (ActivityCompleted, ActivityFailed, TimerFired, Received, Replied, CheckpointRecorded)
"""Events that answer a command. A command has one answer at the most."""

# Times differ in each run, attempts after each crash, and details with the attempts.
_VOLATILE = frozenset({"at", "fire_at", "retry_at", "attempt", "python", "details"})
_VALUES = frozenset({"result", "value"})
_SEQ = re.compile(r"\bseq=\d+, ")


class Outcome(msgspec.Struct):
    """The outcome of a scenario.

    `result` is the script's. `instances` has a line for each instance, `histories` a line per
    event, `counts` the numbers of the store, `faults` the broken rules, `points` the points that
    were passed.
    """

    result: str
    instances: dict[str, str]
    histories: dict[str, list[str]]
    counts: dict[str, int]
    faults: list[str]
    points: list[str] = []


async def all_ended(client: Client) -> None:
    """Wait until no instance is pending or running, and no message waits that could be taken."""
    while True:
        for description in await client.list(status=("pending", "running"), limit=None):
            await client.get(description.id).wait()
        counts = await client.counts()
        is_open = counts["pending"] or counts["running"]
        # A suspended instance takes none of its messages, so they may stay.
        has_new_messages = counts["inbox"] and not counts["suspended"]
        if not is_open and not has_new_messages:
            return
        # A detached start has no row yet that could be waited for.
        await asyncio.sleep(0.001)


async def take_outcome(
    client: Client, result: object, points: list[str], *, values: bool = True
) -> Outcome:
    """Read the outcome from a store. `values=False`: without recorded values."""
    returned = ""
    if values:
        returned = repr(result)
    outcome = Outcome(returned, {}, {}, await client.counts(), [], points)
    for description in await client.list(limit=None):
        handle = client.get(description.id)
        kv: dict[str, object] = {}
        if values:
            kv = await handle.kv()
        outcome.instances[description.id] = _instance(description, kv, values=values)
        for execution in await handle.executions():
            events = [entry.event for entry in await handle.history(execution)]
            name = f"{description.id} #{execution}"
            outcome.histories[name] = [event_line(event, values=values) for event in events]
            outcome.faults += _answered_twice(name, events)
    return outcome


def _answered_twice(name: str, events: list[AnyEvent]) -> Iterator[str]:
    answers = Counter(event.seq for event in events if isinstance(event, ANSWERS))
    for seq, count in answers.items():
        if count > 1:
            yield f"{name}: command {seq} has {count} answers"


def _instance(description: Description, kv: dict[str, object], *, values: bool) -> str:
    failure = _plain(description.failure)
    status = None
    result = None
    if values:
        status = description.custom_status()
        result = description.result()
    return (
        f"{description.type} {description.version}: {description.status} ({description.reason}), "
        f"execution {description.execution}, "
        f"result {result!r}, failure {failure}, status {status!r}, kv {sorted(kv.items())}"
    )


def event_line(event: AnyEvent, *, values: bool = True) -> str:
    """An event without times and numbers of attempts, which differ from run to run."""
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
    """The differences between two outcomes, for people.

    `ordered=False`: events may be recorded in another order.
    """
    wrong = list(found.faults)
    if found.result != expected.result:
        wrong.append(f"the script returned {found.result}, not {expected.result}")
    for name in sorted(expected.instances.keys() | found.instances.keys()):
        was = expected.instances.get(name)
        now = found.instances.get(name)
        if was != now:
            wrong.append(f"instance {name}:\n  expected {was}\n  found    {now}")
    for name in sorted(expected.histories.keys() | found.histories.keys()):
        before = _canonical(expected.histories.get(name, []), ordered=ordered)
        after = _canonical(found.histories.get(name, []), ordered=ordered)
        if before != after:
            diff = difflib.unified_diff(before, after, "expected", "found", lineterm="", n=1)
            wrong.append(f"history of {name}:\n  " + "\n  ".join(diff))
    if found.counts != expected.counts:
        wrong.append(f"the store counts {found.counts}, not {expected.counts}")
    return wrong


def _canonical(lines: list[str], *, ordered: bool) -> list[str]:
    if ordered:
        return lines
    # Commands are numbered in the order in which they are given, so the numbers go, too.
    return sorted(_SEQ.sub("", line) for line in lines)
