"""Rows, events and payloads as JSON, for the documents of `--json` and for tables."""

from __future__ import annotations

from textwrap import indent

import msgspec

from perdure.cli.payloads import payload_json
from perdure.cli.screen import json_text
from perdure.cli.timeline import Step
from perdure.client.description import HistoryEvent, moment
from perdure.codec.failure import without_own_frames
from perdure.errors import Failure
from perdure.kernel.data.commit import UnitRow
from perdure.kernel.data.events import AnyEvent, Refused
from perdure.kernel.data.message import Message, Send
from perdure.kernel.execution.refusal import command_name

Json = dict[str, object]

_PAYLOADS = frozenset({"input", "result", "value", "values", "details", "status", "attributes"})
"""Fields of events that hold a payload. Other bytes are ids."""


def time_text(at_ms: int | None) -> str | None:
    """A time as ISO 8601 in UTC. None for none."""
    if not at_ms:  # rows have 0 for a time that is not set
        return None
    return moment(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def failure_json(failure: Failure | None) -> Json | None:
    """A failure as JSON."""
    if failure is None:
        return None
    document = msgspec.structs.asdict(failure)
    document["causes"] = [{"type": kind, "message": message} for kind, message in failure.causes]
    document["parts"] = [failure_json(part) for part in failure.parts]
    document["details"] = payload_json(failure.details)
    return document


def failure_lines(failure: Failure) -> list[tuple[str, str]]:
    """A failure for people: lines with a name ("failure", "caused by", ...) and a text."""
    shown = failure.display()
    lines = [("failure", shown), ("", without_own_frames(failure.traceback))]
    for kind, message in failure.causes:
        cause = f"{kind}: {message}"
        # The error of an activity or a child repeats that of its function.
        if cause not in shown:
            lines.append(("caused by", cause))
    for part in failure.parts:
        inner = failure_lines(part)
        lines.append(("part", inner[0][1]))
        lines += [(name, indent(text, "  ")) for name, text in inner[1:]]
    return lines


def row_json(row: UnitRow) -> Json:
    """An instance as JSON, for each item of `ls --json` and the beginning of `show --json`."""
    return {
        "id": row.id,
        "type": row.type,
        "version": row.type_version,
        "status": row.status,
        "reason": row.reason,
        "paused": row.paused,
        "execution": row.execution,
        "parent": row.parent_unit,
        "run": row.run.hex(),
        "created_at": time_text(row.created_at),
        "started_at": time_text(row.started_at),
        "updated_at": time_text(row.updated_at),
        "closed_at": time_text(row.closed_at),
        "wake_at": time_text(row.wake_at),
        "history_events": row.journal_events,
        "history_bytes": row.journal_bytes,
        "custom_status": payload_json(row.custom_status),
        "attributes": payload_json(row.attributes),
        "result": payload_json(row.result),
        "failure": failure_json(row.failure),
    }


def outcome_json(row: UnitRow) -> Json:
    """The state of an instance, for `run --json` and `wait --json`."""
    document = row_json(row)
    return {key: document[key] for key in ("id", "type", "status", "reason", "result", "failure")}


def event_json(entry: HistoryEvent) -> Json:
    """An event as JSON, with its payloads readable."""
    return {"number": entry.number, "event": type(entry.event).__name__, **fields_json(entry.event)}


def fields_json(event: AnyEvent) -> Json:
    """The fields of an event. Times are ISO 8601."""
    document: Json = {}
    for name in event.__struct_fields__:
        if isinstance(event, Refused) and name == "command":
            # A number in the journal, which tells people nothing.
            document[name] = command_name(event.command)
        else:
            document[name] = _field_json(name, getattr(event, name))
    return document


def _field_json(name: str, value: object) -> object:
    if name in ("at", "fire_at", "retry_at") and isinstance(value, int):
        return time_text(value)
    if isinstance(value, bytes):
        if name in _PAYLOADS:
            return payload_json(value)
        return value.hex()
    if isinstance(value, Failure):
        return failure_json(value)
    if isinstance(value, msgspec.Struct):  # the parent of a child
        parent = msgspec.structs.asdict(value)
        return {part: _field_json(part, inner) for part, inner in parent.items()}
    return value


def message_json(message: Message) -> Json:
    """A message that waits, as JSON."""
    document: Json = {
        "message": message.id.hex(),
        "kind": type(message.body).__name__,
        "sent_at": time_text(message.at),
        "visible_at": time_text(message.visible_at),
        "sender": message.sender,
    }
    if isinstance(message.body, Send):
        document["channel"] = message.body.channel
        document["value"] = payload_json(message.body.value)
    return document


def message_text(message: Message) -> str:
    """A message that waits, in a few words."""
    text = type(message.body).__name__.lower()
    if isinstance(message.body, Send):
        value = json_text(payload_json(message.body.value), indent=0)
        text = f"{message.body.channel} {value}"
    if message.sender is not None:
        text += f", from {message.sender}"
    return text


def step_json(step: Step) -> Json:
    """A step of a timeline as JSON."""
    duration_ms = None
    if step.ended_ms is not None:
        duration_ms = step.ended_ms - step.started_ms
    return {
        "kind": step.kind,
        "name": step.name,
        "outcome": step.outcome,
        "attempts": step.attempts,
        "started_at": time_text(step.started_ms),
        "ended_at": time_text(step.ended_ms),
        "duration_ms": duration_ms,
        "detail": step.detail,
        "input": payload_json(step.input),
        "due_at": time_text(step.due_ms),
    }
