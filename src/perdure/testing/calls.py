"""The calls of activities that workflows have made, read from their histories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from perdure.client.client import Client
from perdure.codec import decode
from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data.definition import Definitions


@dataclass(frozen=True)
class ActivityRecord:
    """A call of an activity.

    `arguments` has all of them by name, also those that were left to their defaults. `at` is the
    time of the call. `attempts` counts the attempts that have ended.
    """

    instance: str
    execution: int
    name: str
    arguments: dict[str, object]
    at: datetime
    outcome: Literal["open", "completed", "failed", "cancelled"] = "open"
    attempts: int = 0
    result: object = None
    failure: Failure | None = None


async def read_calls(
    client: Client, definitions: Definitions, id: str | None
) -> list[ActivityRecord]:
    """The calls of one instance, or of all, in their order in time."""
    if id is not None:
        ids = [id]
    else:
        ids = [d.id for d in reversed(await client.list(limit=None))]
    records: list[ActivityRecord] = []
    for one in ids:
        handle = client.get(one)
        for execution in await handle.executions():
            events = [entry.event for entry in await handle.history(execution)]
            records += _calls(one, execution, events, definitions)
    # The sort is stable: calls of one moment stay in the order of creation and of the history.
    return sorted(records, key=lambda record: record.at)


def _calls(
    instance: str, execution: int, events: list[ev.AnyEvent], definitions: Definitions
) -> list[ActivityRecord]:
    found: dict[int, ActivityRecord] = {}
    now_ms = 0
    for event in events:
        # Only deliveries have a time. The commands behind one were given at that time.
        now_ms = getattr(event, "at", now_ms)
        seq: int = getattr(event, "seq", 0)
        match event:
            case ev.ActivityScheduled():
                at = datetime.fromtimestamp(now_ms / 1000, UTC)
                arguments = _arguments(event, definitions)
                found[seq] = ActivityRecord(instance, execution, event.name, arguments, at)
            case ev.AttemptFailed():
                found[seq] = replace(found[seq], attempts=event.attempt, failure=event.failure)
            case ev.ActivityCompleted():
                result = _result(event.result, found[seq].name, definitions)
                found[seq] = replace(
                    found[seq],
                    outcome="completed",
                    attempts=event.attempt,
                    result=result,
                    failure=None,
                )
            case ev.ActivityFailed():
                found[seq] = replace(
                    found[seq], outcome="failed", attempts=event.attempt, failure=event.failure
                )
            case ev.CommandCancelled() if seq in found:
                found[seq] = replace(found[seq], outcome="cancelled")
            case _:
                pass
    return list(found.values())


def _arguments(event: ev.ActivityScheduled, definitions: Definitions) -> dict[str, object]:
    definition = definitions.find_activity(event.name)
    if definition is None:
        # It was registered when it was called. Without it the names of its parameters are unknown.
        values: list[Any] = decode(event.input, list[Any])
        return {str(number): value for number, value in enumerate(values)}
    args, kwargs = definition.signature.decode(event.input)
    return {**dict(zip(definition.signature.names, args, strict=False)), **kwargs}


def _result(data: bytes, name: str, definitions: Definitions) -> object:
    definition = definitions.find_activity(name)
    if definition is not None:
        value: object = definition.signature.result.decode(data)
    else:
        value = decode(data)
    return value
