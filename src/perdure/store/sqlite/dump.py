"""The content of a SQLite store, comparable with any other store's."""

from __future__ import annotations

import msgspec

from perdure.kernel.data.commit import RunRow, Task
from perdure.store.derived import Rows
from perdure.store.sqlite.columns import UNIT_COLUMNS, failure_of, run_of, unit_of
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.places import READ_LAST

_TASK_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(Task))
_RUN_COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(RunRow))
_ANSWERS = "SELECT unit, message, scope, outcome, expires_at, data, failure FROM answers"
_fields = msgspec.structs.astuple
_COLUMNS = {
    "journal": "unit, execution, first, count, events, run",
    "executions": "unit, execution, type_version, started_at, closed_at, journal_events, run",
    "kv": "unit, key, value, base, execution, updated_at, base_at",
    "inbox": "unit, position, scope, message, kind, body, at, visible_at, sender, previous",
    "state": "unit, part, data, version",
    "tasks": _TASK_COLUMNS,
    "attributes": "unit, name, value_kind, value, created",
    "tombstones": "run, scope, expires_at",
    "deletions": "unit, commit_id, scope, expires_at",
    "dead_letters": "unit, message, scope, kind, body, at, sender, expires_at",
}


def dump(connection: Connection) -> Rows:
    """All rows by table, sorted; without what differs between two stores by design (the id)."""
    rows: Rows = {}
    for table, names in _COLUMNS.items():
        rows[table] = list(connection.execute(f"SELECT {names} FROM {table}"))  # noqa: S608 - names from above
    scopes = connection.execute("SELECT scope, epoch, node, incarnation, clean FROM scopes")
    rows["scopes"] = [(*values, bool(clean)) for *values, clean in scopes]
    runs = connection.execute(f"SELECT unit, {_RUN_COLUMNS} FROM runs")  # noqa: S608 - no input
    rows["runs"] = [(unit, *_fields(run_of(tuple(values)))) for unit, *values in runs]
    answers = connection.execute(_ANSWERS)
    rows["answers"] = [(*values, failure_of(failure)) for *values, failure in answers]
    rows["places"] = list(connection.execute(READ_LAST))
    units = connection.execute(f"SELECT {UNIT_COLUMNS}, version, commit_id FROM units")  # noqa: S608
    rows["units"] = [(*_fields(unit_of(values)), *values[-2:]) for values in units]
    return {table: sorted(content, key=repr) for table, content in rows.items()}
