"""The content of a PostgreSQL store, comparable with any other store's."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from perdure.kernel.data.commit import RunRow, Task
from perdure.store.derived import Rows
from perdure.store.failure import failure_of
from perdure.store.postgres.columns import UNIT_COLUMNS, run_of, unit_of
from perdure.store.postgres.connection import Connection

_TASK_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(Task))
_RUN_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(RunRow))
_fields = msgspec.structs.astuple
_COLUMNS = {
    "journal": "unit, execution, first, count, events, run",
    "executions": "unit, execution, type_version, started_at, closed_at, journal_events, run",
    "kv": "unit, key, value, base, execution, updated_at, base_at",
    "inbox": "unit, position, scope, message, kind, body, at, visible_at, sender, previous",
    "state": "unit, part, data, version",
    "tasks": _TASK_COLUMNS,
    "sessions": "queue, session, worker, expires_at",
    "queues": "queue, starts",
    "attributes": "unit, name, value_kind, text_value, number_value, created",
    "tombstones": "run, scope, expires_at",
    "deletions": "unit, commit_id, scope, expires_at",
    "dead_letters": "unit, message, scope, kind, body, at, sender, expires_at, reason",
    "scopes": "scope, epoch, node, incarnation, clean",
    "runs": f"unit, {_RUN_COLUMNS}",
    "answers": "unit, message, scope, outcome, expires_at, data, failure",
    "units": f"{UNIT_COLUMNS}, version, commit_id",
}


async def dump(connection: Connection) -> Rows:
    """All rows by table, sorted. It is called inside a snapshot.

    The table `meta` is left out, because two stores have different ids. Positions of messages have
    the order of other stores, but not their numbers, because PostgreSQL skips some.
    """
    rows: Rows = {}
    for table, names in _COLUMNS.items():
        query = f"SELECT {names} FROM {table}"  # noqa: S608 - names from above
        rows[table] = [tuple(row) for row in await connection.fetch(query)]
    rows["runs"] = [(row[0], *_fields(run_of(row[1:]))) for row in rows["runs"]]
    rows["answers"] = [(*row[:-1], _failure(row[-1])) for row in rows["answers"]]
    rows["units"] = [(*_fields(unit_of(row)), *row[-2:]) for row in rows["units"]]
    rows["attributes"] = [(*row[:3], _value(*row[3:5]), row[5]) for row in rows["attributes"]]
    # A queue without a rate has a row here, which workers lock.
    rows["queues"] = [row for row in rows["queues"] if row[1] is not None]
    # Values of one column can be of several types, which have no order among themselves.
    return {table: sorted(content, key=repr) for table, content in rows.items()}


def _failure(data: object) -> object:
    assert data is None or isinstance(data, bytes)
    return failure_of(data)


def _value(text: object, number: object) -> object:
    """The value of an attribute, equal to that of another store."""
    if isinstance(number, Decimal):
        return float(number)
    return text
