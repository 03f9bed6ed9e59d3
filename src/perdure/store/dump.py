"""The content of a SQLite store, comparable with any other store's."""

from __future__ import annotations

import msgspec

from perdure.store.columns import TASK_COLUMNS, UNIT_COLUMNS, unit_of
from perdure.store.connection import Connection
from perdure.store.places import READ_LAST
from perdure.store.tables import Rows

_COLUMNS = {
    "journal": "unit, execution, first, count, events",
    "executions": "unit, execution, type_version, started_at, closed_at, journal_events",
    "kv": "unit, key, value, base, execution, updated_at, base_at",
    "inbox": "unit, position, scope, message, kind, body, at, visible_at, sender, previous",
    "answers": "unit, message, scope, outcome, expires_at",
    "tasks": TASK_COLUMNS,
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
    rows["places"] = list(connection.execute(READ_LAST))
    units = connection.execute(f"SELECT {UNIT_COLUMNS}, version, commit_id FROM units")  # noqa: S608
    rows["units"] = [(*msgspec.structs.astuple(unit_of(values)), *values[-2:]) for values in units]
    return {table: sorted(content, key=repr) for table, content in rows.items()}
