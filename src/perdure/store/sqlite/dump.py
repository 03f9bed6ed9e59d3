"""The content of a SQLite store, comparable with any other store's."""

from __future__ import annotations

import msgspec

from perdure.kernel.data.commit import RunRow, Task
from perdure.store.derived import Rows
from perdure.store.failure import failure_of
from perdure.store.sqlite.columns import UNIT_COLUMNS, run_of, unit_of
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.places import READ_LAST

_TASK_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(Task))
_RUN_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(RunRow))
_SCOPES = "SELECT scope, epoch, node, incarnation, clean FROM scopes"
_ANSWERS = "SELECT unit, message, scope, outcome, expires_at, data, failure FROM answers"
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
    "attributes": "unit, name, value_kind, value, created",
    "tombstones": "run, scope, expires_at",
    "deletions": "unit, commit_id, scope, expires_at",
    "dead_letters": "unit, message, scope, kind, body, at, sender, expires_at, reason",
}


def dump(connection: Connection) -> Rows:
    """All rows by table, sorted.

    The table `meta` is left out, because two stores have different ids.
    """
    rows: Rows = {}
    for table, names in _COLUMNS.items():
        query = f"SELECT {names} FROM {table}"  # noqa: S608 - names from above
        rows[table] = list(connection.execute(query))
    rows["scopes"] = []
    for row in connection.execute(_SCOPES):
        rows["scopes"].append((*row[:-1], bool(row[-1])))
    rows["runs"] = []
    runs = connection.execute(f"SELECT unit, {_RUN_COLUMNS} FROM runs")  # noqa: S608 - no input
    for row in runs:
        rows["runs"].append((row[0], *_fields(run_of(row[1:]))))
    rows["answers"] = []
    for row in connection.execute(_ANSWERS):
        rows["answers"].append((*row[:-1], failure_of(row[-1])))
    rows["places"] = list(connection.execute(READ_LAST))
    rows["units"] = []
    units = f"SELECT {UNIT_COLUMNS}, version, commit_id FROM units"  # noqa: S608 - no input
    for row in connection.execute(units):
        rows["units"].append((*_fields(unit_of(row)), *row[-2:]))
    # Values of one column can be of several types, which have no order among themselves.
    return {table: sorted(content, key=repr) for table, content in rows.items()}
