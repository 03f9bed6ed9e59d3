"""The content of a memory store, comparable with any other store's."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from perdure.kernel.data.attributes import terms_of
from perdure.kernel.data.message import Message, encode_body
from perdure.store.derived import Rows
from perdure.store.memory.rows import Tables
from perdure.store.memory.unit import Unit

_UNITS = ("units", "attributes", "inbox", "answers", "dead_letters")
_OWNED = ("journal", "executions", "runs", "state", "kv", "tasks")
_fields = msgspec.structs.astuple


def dump(tables: Tables) -> Rows:
    """All rows by table, sorted."""
    # Named before there are rows: a table without any has to be compared, too.
    rows: Rows = {table: [] for table in (*_UNITS, *_OWNED)}
    for name, unit in tables.units.items():
        _add_unit(rows, name, unit)
        _add_owned(rows, name, unit)
    rows["scopes"] = []
    for scope, held in tables.scopes.items():
        node = None
        if held.owner is not None:
            node = held.owner.node
        rows["scopes"].append((scope, held.epoch, node, held.incarnation, held.clean))
    rows["places"] = [(tables.last_place,)]
    rows["tombstones"] = [(run, *tombstone) for run, tombstone in tables.tombstones.items()]
    rows["deletions"] = [(unit, *deletion) for unit, deletion in tables.deletions.items()]
    rows["sessions"] = [(*key, *session) for key, session in tables.sessions.items()]
    rows["queues"] = list(tables.starts.items())
    # Values of one column can be of several types, which have no order among themselves.
    return {table: sorted(content, key=repr) for table, content in rows.items()}


def _add_unit(rows: Rows, name: str, unit: Unit) -> None:
    """The row of a unit, its attributes and its messages."""
    if unit.row is not None:
        rows["units"].append((*_fields(unit.row), unit.version, unit.commit))
        for term in terms_of(unit.row.attributes):
            rows["attributes"].append((name, *term, unit.row.created_at))
    for place, message in unit.inbox.values():
        rows["inbox"].append((name, place, message.scope, *_message_values(message)))
    for scope, answer in unit.answers.values():
        outcome = (answer.outcome, answer.expires_at, answer.data, answer.failure)
        rows["answers"].append((name, answer.message, scope, *outcome))
    for scope, message, expires_at, reason in unit.dead_letters.values():
        kind, body, at = _message_values(message)[1:4]
        row = (name, message.id, scope, kind, body, at, message.sender, expires_at, reason)
        rows["dead_letters"].append(row)


def _add_owned(rows: Rows, name: str, unit: Unit) -> None:
    """The rows that go with the run."""
    owned: dict[str, Collection[msgspec.Struct]] = {
        "journal": unit.journal.values(),
        "executions": unit.executions.values(),
        "runs": unit.runs.values(),
        "state": unit.state.values(),
        "kv": unit.kv.values(),
    }
    for table, structs in owned.items():
        for struct in structs:
            rows[table].append((name, *_fields(struct)))
    for task in unit.tasks.values():
        rows["tasks"].append(_fields(task))  # it names its unit itself


def _message_values(message: Message) -> tuple[object, ...]:
    """A message as a row of the inbox, without its place."""
    return (
        message.id,
        type(message.body).__name__,
        encode_body(message.body),
        message.at,
        message.visible_at,
        message.sender,
        message.previous,
    )
