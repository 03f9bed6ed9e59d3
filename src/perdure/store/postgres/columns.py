"""Rows of the SQL tables as structs, and back."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from perdure.kernel.data.attributes import TEXT, terms_of
from perdure.kernel.data.commit import RunRow, UnitRow
from perdure.kernel.data.message import Message, decode_body
from perdure.store.failure import failure_bytes, failure_of
from perdure.store.postgres.connection import Values

UNIT_FIELDS = tuple(field.name for field in msgspec.structs.fields(UnitRow))
UNIT_COLUMNS = ", ".join(UNIT_FIELDS)

_FAILURE = UNIT_FIELDS.index("failure")
_RUN_FAILURE = [field.name for field in msgspec.structs.fields(RunRow)].index("failure")
_as_tuple = msgspec.structs.astuple


def unit_values(row: UnitRow) -> Values:
    """A unit's row in the order of `UNIT_COLUMNS`, without the id."""
    values = _as_tuple(row)
    if row.failure is not None:
        values = (*values[:_FAILURE], failure_bytes(row.failure), *values[_FAILURE + 1 :])
    return values[1:]


def unit_of(values: Values) -> UnitRow:
    """The row that `UNIT_COLUMNS` gave. Further values are ignored."""
    fields = list(values[: len(UNIT_FIELDS)])
    fields[_FAILURE] = failure_of(fields[_FAILURE])
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
    fields[_RUN_FAILURE] = failure_of(fields[_RUN_FAILURE])
    return RunRow(*fields)


def message_of(values: Values) -> Message:
    """The message that `load_inbox` or `inbox` gave. Further values are ignored."""
    message, unit, body, at, visible_at, sender, previous, scope = values[:8]
    return Message(message, unit, decode_body(body), at, visible_at, sender, previous, scope)


def attribute_values(attributes: bytes | None) -> list[Values]:
    """The rows of the index of a unit: name, kind, and the value as a text or as a number."""
    rows: list[Values] = []
    for name, kind, value in terms_of(attributes):
        if kind == TEXT:
            rows.append((name, kind, value, None))
        else:
            # Exact, also for a float.
            rows.append((name, kind, None, Decimal(value)))
    return rows
