"""Rows of the SQL tables as structs, and back."""

from __future__ import annotations

import msgspec

from perdure.kernel.data.commit import RunRow, UnitRow
from perdure.kernel.data.message import AnyBody, Message, Unreadable, decode_body
from perdure.store.failure import failure_bytes, failure_of
from perdure.store.sqlite.connection import Values

UNIT_FIELDS = tuple(field.name for field in msgspec.structs.fields(UnitRow))
UNIT_COLUMNS = ", ".join(UNIT_FIELDS)

PINNED = ("id", "scope", "type", "created_at", "parent_unit")
"""Indexed columns that hardly ever change.

Setting an indexed column costs four times the rest of an update, even to the same value. So the
columns are in four groups, and `commits.sql` has an update for each of them.
"""
MOVING = ("status", "wake_at")
"""Indexed columns that change now and then."""
HOT = ("reason", "journal_events", "journal_bytes", "updated_at")
"""Columns that change with most commits. None is indexed."""
_STILL = tuple(name for name in UNIT_FIELDS if name not in (*PINNED, *MOVING, *HOT))
COLD = (*PINNED, *MOVING, *_STILL)
"""All columns but the hot ones, in the order of `cold_values`."""

_RUN_FIELDS = tuple(field.name for field in msgspec.structs.fields(RunRow))
_RUN_FAILURE = _RUN_FIELDS.index("failure")
_PAUSED = UNIT_FIELDS.index("paused")
_FAILURE = UNIT_FIELDS.index("failure")
_as_tuple = msgspec.structs.astuple


def column_values(row: UnitRow) -> Values:
    """A unit's row in the order of `UNIT_COLUMNS`."""
    values = _as_tuple(row)
    if row.failure is not None:
        values = (*values[:_FAILURE], failure_bytes(row.failure), *values[_FAILURE + 1 :])
    return values


def hot_values(row: UnitRow, version: int, commit: bytes) -> Values:
    """The columns `HOT`, then the version, the commit and the id."""
    # Written out, because it runs for each commit.
    return (
        row.reason,
        row.journal_events,
        row.journal_bytes,
        row.updated_at,
        version,
        commit,
        row.id,
    )


def cold_values(row: UnitRow) -> Values:
    """The columns `COLD`, for a comparison with those that are stored."""
    # Written out, which takes a third of the time of picking them by name.
    return (
        row.id,
        row.scope,
        row.type,
        row.created_at,
        row.parent_unit,
        row.status,
        row.wake_at,
        row.kind,
        row.type_version,
        row.run,
        row.execution,
        row.format,
        row.flags,
        row.paused,
        row.input_digest,
        row.parent,
        row.custom_status,
        row.custom_status_version,
        row.attributes,
        row.result,
        # Not encoded. A failure that was read is, and then differs, which costs time only.
        row.failure,
        row.suspect,
        row.started_at,
        row.closed_at,
    )


def unit_of(values: Values) -> UnitRow:
    """The row that `UNIT_COLUMNS` gave. Further values are ignored."""
    fields = list(values[: len(UNIT_FIELDS)])
    # SQLite has no type for a truth, and none for a failure.
    fields[_PAUSED] = bool(values[_PAUSED])
    fields[_FAILURE] = failure_of(values[_FAILURE])
    return UnitRow(*fields)


def run_values(run: RunRow) -> Values:
    """A row of `runs`, without the unit."""
    values = _as_tuple(run)
    if run.failure is not None:
        values = (*values[:_RUN_FAILURE], failure_bytes(run.failure), *values[_RUN_FAILURE + 1 :])
    return values


def run_of(values: Values) -> RunRow:
    """The row that `run_values` gave."""
    fields = list(values)
    fields[_RUN_FAILURE] = failure_of(values[_RUN_FAILURE])
    return RunRow(*fields)


def message_of(values: Values) -> Message:
    """The message that `load_inbox` or `inbox` gave, without its place."""
    message, unit, data, at, visible_at, sender, previous, scope = values
    # A column of SQLite can hold a value of any type.
    body: AnyBody
    if isinstance(data, bytes):
        body = decode_body(data)
    else:
        body = Unreadable(b"", "its body is no bytes: the file is damaged")
    return Message(message, unit, body, at, visible_at, sender, previous, scope)
