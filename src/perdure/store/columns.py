"""Rows of the SQL tables as structs, and back."""

from __future__ import annotations

import msgspec

from perdure.errors import Failure
from perdure.kernel.commit import Task, UnitRow
from perdure.kernel.message import Message, decode_body
from perdure.store.connection import Values

UNIT_FIELDS = tuple(field.name for field in msgspec.structs.fields(UnitRow))
UNIT_COLUMNS = ", ".join(UNIT_FIELDS)
TASK_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(Task))
LETTER_COLUMNS = "message, unit, body, at, visible_at, sender, previous"

_PAUSED = UNIT_FIELDS.index("paused")
_FAILURE = UNIT_FIELDS.index("failure")
_as_tuple = msgspec.structs.astuple
_encode = msgspec.msgpack.encode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def column_values(row: UnitRow) -> Values:
    """A unit's row in the order of `UNIT_COLUMNS`."""
    values = _as_tuple(row)
    if row.failure is not None:
        values = (*values[:_FAILURE], _encode(row.failure), *values[_FAILURE + 1 :])
    return values


def unit_of(values: Values) -> UnitRow:
    """The row that `UNIT_COLUMNS` gave (further values are ignored)."""
    row = UnitRow(*values[: len(UNIT_FIELDS)])
    row.paused = bool(values[_PAUSED])
    if values[_FAILURE] is not None:
        row.failure = _decode_failure(values[_FAILURE])
    return row


def message_of(values: Values) -> Message:
    """The message that `LETTER_COLUMNS` gave."""
    message, unit, body, at, visible_at, sender, previous = values
    return Message(message, unit, decode_body(body), at, visible_at, sender, previous, posted=True)
