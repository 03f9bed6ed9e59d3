"""Commits and messages, applied to SQLite tables inside an open transaction.

Does what `tables` does to dictionaries, for many commits at once. Commits are taken in *parts*: no two of a part
touch the same unit, be it as their own or as the target of an earlier one's message, so that all rows of a part can
be written table by table and the outcome is that of one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from perdure.kernel.commit import CLOSED, Commit, Stored, UnitRow, Verdict, verdict
from perdure.kernel.message import (
    ADMIN,
    ActivityDone,
    Message,
    Raise,
    Send,
    Start,
    decode_body,
    encode_body,
)
from perdure.kernel.placement import scope_of
from perdure.ports.store import Posted
from perdure.store.attributes import DELETE_ATTRIBUTES, INSERT_ATTRIBUTE, index_rows
from perdure.store.columns import (
    COLD,
    HOT,
    MOVING,
    PINNED,
    TASK_COLUMNS,
    UNIT_COLUMNS,
    UNIT_FIELDS,
    cold_values,
    column_values,
    hot_values,
)
from perdure.store.connection import Connection, Values
from perdure.store.limits import StoreLimits
from perdure.store.places import Places
from perdure.store.tables import answer_until, flaw_of, letters_of, tombstone_until

# Setting an indexed column rewrites its indexes even when the value is the same, which costs four times the rest of
# the update; binding a column costs a thirtieth of it. So there are four updates: most commits only write *hot*
# columns.
_NUMBERED = tuple(enumerate((*UNIT_FIELDS, "version", "commit_id"), start=1))
_PINNED_END, _MOVING_END = len(PINNED), len(PINNED) + len(MOVING)
_SCOPE, _RUN = COLD.index("scope"), COLD.index("run")
_ATTRIBUTES, _CREATED = COLD.index("attributes"), COLD.index("created_at")


def _update(fixed: tuple[str, ...]) -> str:
    changes = ", ".join(f"{name} = ?{number}" for number, name in _NUMBERED if name not in fixed)
    return f"UPDATE units SET {changes} WHERE id = ?1"  # noqa: S608 - names of fields, not input


READ_UNITS = (
    f"SELECT version, commit_id, {', '.join(COLD)} FROM units"  # noqa: S608 - names of fields, not input
    " WHERE id IN (SELECT value FROM json_each(?))"
)
READ_SCOPES = (
    "SELECT scope, epoch, incarnation FROM scopes WHERE scope IN (SELECT value FROM json_each(?))"
)
READ_DELETIONS = (
    "SELECT unit, commit_id FROM deletions WHERE unit IN (SELECT value FROM json_each(?))"
)

CLEAR = tuple(
    f"DELETE FROM {table} WHERE unit = ?" for table in ("journal", "executions", "kv", "tasks")
)  # noqa: S608
DELETE_UNIT = "DELETE FROM units WHERE id = ?"
DELETE_ANSWERS = "DELETE FROM answers WHERE unit = ?"
DELETE_LETTERS = "DELETE FROM inbox WHERE unit = ? AND kind <> 'Start'"
DELETE_TOMBSTONE = "DELETE FROM tombstones WHERE run = ?"
_PLACES = ", ".join("?" * len(_NUMBERED))
INSERT_UNIT = f"INSERT INTO units ({UNIT_COLUMNS}, version, commit_id) VALUES ({_PLACES})"  # noqa: S608
UPDATE_HOT = f"UPDATE units SET {' = ?, '.join((*HOT, 'version', 'commit_id'))} = ? WHERE id = ?"  # noqa: S608
UPDATE_STILL = _update(PINNED + MOVING)
UPDATE_MOVING = _update(PINNED)
UPDATE_ALL = _update(("id",))
MOVE_INBOX = "UPDATE inbox SET scope = ?2 WHERE unit = ?1"
MOVE_TASKS = "UPDATE tasks SET scope = ?2 WHERE unit = ?1"
INSERT_JOURNAL = (
    "INSERT INTO journal (unit, execution, first, count, events) VALUES (?, ?, ?, ?, ?)"
)
INSERT_EXECUTION = (
    "INSERT INTO executions (unit, execution, type_version, started_at, closed_at, journal_events)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
PRUNE_JOURNAL = "DELETE FROM journal WHERE unit = ? AND execution = ?"
PRUNE_EXECUTION = "DELETE FROM executions WHERE unit = ? AND execution = ?"
SET_KV = (
    "INSERT INTO kv (unit, key, value, base, execution, updated_at, base_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (unit, key) DO UPDATE SET value = excluded.value, base = excluded.base,"
    " execution = excluded.execution, updated_at = excluded.updated_at, base_at = excluded.base_at"
)
REMOVE_KV = "DELETE FROM kv WHERE unit = ? AND key = ?"
CONSUME = "DELETE FROM inbox WHERE unit = ? AND message = ?"
INSERT_ANSWER = (
    "INSERT INTO answers (unit, message, scope, outcome, expires_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (unit, message) DO NOTHING"
)
DROP_TASK = (
    "DELETE FROM tasks WHERE unit = ? AND run = ? AND execution = ? AND seq = ? AND attempt = ?"
)
INSERT_TASK = f"INSERT INTO tasks ({TASK_COLUMNS}) VALUES ({', '.join('?' * 14)})"  # noqa: S608
INSERT_TOMBSTONE = (
    "INSERT INTO tombstones (run, scope, expires_at) VALUES (?, ?, ?)"
    " ON CONFLICT (run) DO UPDATE SET scope = excluded.scope, expires_at = excluded.expires_at"
)
INSERT_DELETION = (
    "INSERT INTO deletions (unit, commit_id, scope, expires_at) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (unit) DO UPDATE"
    " SET commit_id = excluded.commit_id, scope = excluded.scope, expires_at = excluded.expires_at"
)
DELIVER = (
    "INSERT INTO inbox (unit, position, message, scope, kind, body, at, visible_at, sender, previous, homeless)"
    " SELECT ?1, ?11, ?2,"
    " coalesce((SELECT scope FROM units WHERE id = ?1), ?3), ?4, ?5, ?6, ?7, ?8, ?9,"
    " coalesce(?10, NOT EXISTS (SELECT 1 FROM units WHERE id = ?1))"
    " WHERE NOT EXISTS (SELECT 1 FROM answers WHERE unit = ?1 AND message = ?2)"
    " AND NOT (?4 = 'Start' AND (EXISTS (SELECT 1 FROM units WHERE id = ?1 AND run = ?2 AND started_at > 0)"
    " OR EXISTS (SELECT 1 FROM tombstones WHERE run = ?2)))"
    " ON CONFLICT (unit, message) DO NOTHING"
)

ORDER = (
    *CLEAR,
    DELETE_UNIT,
    DELETE_ANSWERS,
    DELETE_LETTERS,
    DELETE_TOMBSTONE,
    DELETE_ATTRIBUTES,
    INSERT_UNIT,
    UPDATE_HOT,
    UPDATE_STILL,
    UPDATE_MOVING,
    UPDATE_ALL,
    MOVE_INBOX,
    MOVE_TASKS,
    INSERT_ATTRIBUTE,
    INSERT_JOURNAL,
    INSERT_EXECUTION,
    PRUNE_JOURNAL,
    PRUNE_EXECUTION,
    SET_KV,
    REMOVE_KV,
    CONSUME,
    INSERT_ANSWER,
    DROP_TASK,
    INSERT_TASK,
    INSERT_TOMBSTONE,
    INSERT_DELETION,
    DELIVER,
)
"""The statements of a part, in the order in which they run."""

WIDE_ROWS = 16
"""Rows per statement where that is a third faster than one by one; more bring nothing."""


def _wide(sql: str, places: str) -> str:
    """An insert of many rows. OR FAIL: an error rolls the whole transaction back in any case, and without it SQLite
    would copy each page that the statement touches, to be able to undo the statement alone.
    """
    return sql.replace("INSERT INTO", "INSERT OR FAIL INTO", 1) + f", ({places})" * (WIDE_ROWS - 1)


WIDE = {
    INSERT_UNIT: _wide(INSERT_UNIT, _PLACES),
    INSERT_JOURNAL: _wide(INSERT_JOURNAL, "?, ?, ?, ?, ?"),
}

_as_tuple = msgspec.structs.astuple
_encode_json = msgspec.json.encode


def ids_json(ids: Sequence[str]) -> str:
    """Ids as the argument of `json_each`."""
    return _encode_json(ids).decode()


def parts_of(commits: Sequence[Commit]) -> Iterator[list[Commit]]:
    """Commits in runs that do not touch each other's units."""
    part: list[Commit] = []
    touched: set[str] = set()
    for commit in commits:
        if commit.unit in touched:
            yield part
            part, touched = [], set()
        part.append(commit)
        touched.add(commit.unit)
        if commit.post:
            touched.update(message.to for message in commit.post)
    if part:
        yield part


Known = tuple[Stored, Values]
"""What the applier knows of a stored unit: what a verdict needs, and its columns except the hot ones."""


KNOWN_BYTES_MAX = 1_024
"""Bytes of custom status and attributes from which a unit is rather read again than remembered."""


def _is_worth_knowing(row: UnitRow) -> bool:
    if row.closed_at is not None:  # it hardly ever has another commit
        return False
    if row.custom_status is None and row.attributes is None:
        return True
    return len(row.custom_status or b"") + len(row.attributes or b"") <= KNOWN_BYTES_MAX


class Writes:
    """The rows that a part writes, by statement."""

    def __init__(self, shards: int, limits: StoreLimits, places: Places) -> None:
        """Start with none."""
        self._shards = shards
        self._limits = limits
        self._places = places
        self._rows: dict[str, list[Values]] = {sql: [] for sql in ORDER}

    def add(self, commit: Commit, old: Known | None) -> Known | None:
        """Collect what a commit writes to a unit that is stored as `old`; what is then worth knowing of it."""
        rows, unit, row = self._rows, commit.unit, commit.row
        if commit.delete is not None:
            self._delete(commit, old)
            return None
        version, id_, cold = commit.expect + 1, commit.id, cold_values(row)
        if old is not None and old[1] == cold:
            cold = old[1]  # one copy is enough
            rows[UPDATE_HOT].append(hot_values(row, version, id_))
        elif old is None:
            self._insert(row, (*column_values(row), version, id_))
        else:
            self._replace(unit, old[1], cold, (*column_values(row), version, id_))
        for chunk in commit.journal:
            rows[INSERT_JOURNAL].append(
                (unit, chunk.execution, chunk.first, chunk.count, chunk.events)
            )
        if commit.consume:
            rows[CONSUME].extend([(unit, message) for message in commit.consume])
        if commit.post:
            self._deliver(letters_of(commit))
        if commit.answers:
            self._answer(commit)
        if commit.kv:
            for key, entry in {entry.key: entry for entry in commit.kv}.items():
                if entry.value is None and entry.base is None:
                    rows[REMOVE_KV].append((unit, key))
                else:
                    rows[SET_KV].append((unit, *_as_tuple(entry)))
        if commit.ended or commit.prune:
            rows[INSERT_EXECUTION].extend([(unit, *_as_tuple(ended)) for ended in commit.ended])
            pruned = [(unit, execution) for execution in commit.prune if execution != row.execution]
            rows[PRUNE_JOURNAL].extend(pruned)
            rows[PRUNE_EXECUTION].extend(pruned)
        if commit.tasks_added or commit.tasks_dropped:
            rows[DROP_TASK].extend([(unit, *key) for key in commit.tasks_dropped])
            rows[INSERT_TASK].extend([_as_tuple(task) for task in commit.tasks_added])
        return (Stored(version, id_, row.scope), cold) if _is_worth_knowing(row) else None

    def _insert(self, row: UnitRow, values: Values) -> None:
        rows, unit = self._rows, row.id
        rows[INSERT_UNIT].append(values)
        if row.scope != scope_of(unit, self._shards):
            rows[MOVE_INBOX].append((unit, row.scope))
        if row.attributes is not None:
            rows[INSERT_ATTRIBUTE].extend(index_rows(unit, row.attributes, row.created_at))

    def _replace(self, unit: str, old: Values, new: Values, values: Values) -> None:
        rows = self._rows
        if old[_RUN] != new[_RUN]:
            for sql in CLEAR:
                rows[sql].append((unit,))
        if old[_ATTRIBUTES] != new[_ATTRIBUTES] or (
            old[_CREATED] != new[_CREATED] and new[_ATTRIBUTES] is not None
        ):
            rows[DELETE_ATTRIBUTES].append((unit,))
            rows[INSERT_ATTRIBUTE].extend(index_rows(unit, new[_ATTRIBUTES], new[_CREATED]))
        if old[:_PINNED_END] != new[:_PINNED_END]:
            rows[UPDATE_ALL].append(values)
            if old[_SCOPE] != new[_SCOPE]:
                rows[MOVE_INBOX].append((unit, new[_SCOPE]))
                rows[MOVE_TASKS].append((unit, new[_SCOPE]))
        else:
            still = old[_PINNED_END:_MOVING_END] == new[_PINNED_END:_MOVING_END]
            rows[UPDATE_STILL if still else UPDATE_MOVING].append(values)

    def _answer(self, commit: Commit) -> None:
        unit, scope, limits = commit.unit, commit.row.scope, self._limits
        self._rows[INSERT_ANSWER].extend(
            [
                (unit, a.message, scope, a.outcome, answer_until(commit, a, limits))
                for a in commit.answers
            ]
        )

    def _delete(self, commit: Commit, old: Known | None) -> None:
        rows, unit, scope = self._rows, commit.unit, commit.row.scope
        for sql in (*CLEAR, DELETE_UNIT, DELETE_ANSWERS, DELETE_LETTERS):
            rows[sql].append((unit,))
        if old is not None and old[1][_ATTRIBUTES] is not None:
            rows[DELETE_ATTRIBUTES].append((unit,))
        home = scope_of(unit, self._shards)
        if old is not None and old[1][_SCOPE] != home:
            rows[MOVE_INBOX].append((unit, home))
        rows[CONSUME].extend([(unit, message) for message in commit.consume])
        self._answer(commit)
        run, until = commit.row.run, tombstone_until(commit, self._limits)
        if until is None:
            rows[DELETE_TOMBSTONE].append((run,))
        else:
            rows[INSERT_TOMBSTONE].append((run, scope, until))
        rows[INSERT_DELETION].append(
            (unit, commit.id, scope, commit.at + self._limits.forgotten_ms)
        )
        self._deliver(letters_of(commit))

    def _deliver(self, messages: Sequence[Message]) -> None:
        next_place, shards = self._places.next, self._shards
        self._rows[DELIVER].extend(
            [(*letter_values(message, shards), next_place()) for message in messages]
        )

    def run(self, connection: Connection) -> None:
        """Write them."""
        for sql, rows in self._rows.items():
            if not rows:
                continue
            if (wide := WIDE.get(sql)) is None:
                connection.executemany(sql, rows)
                continue
            whole = len(rows) - len(rows) % WIDE_ROWS
            for first in range(0, whole, WIDE_ROWS):
                connection.execute(
                    wide, tuple(chain.from_iterable(rows[first : first + WIDE_ROWS]))
                )
            if whole < len(rows):
                connection.executemany(sql, rows[whole:])


def letter_values(message: Message, shards: int, *, homeless: bool | None = None) -> Values:
    """A message as the arguments of `DELIVER` without its place.

    None for `homeless` has it look up whether its unit exists. A start never is: it makes its unit.
    """
    return (
        message.to,
        message.id,
        scope_of(message.to, shards),
        type(message.body).__name__,
        encode_body(message.body),
        message.at,
        message.visible_at,
        message.sender,
        message.previous,
        False if isinstance(message.body, Start) else homeless,
    )


KNOWN_UNITS_MAX = 10_000
"""Units whose versions the applier remembers."""

_ABSENT_SCOPE: tuple[int, str | None] = (0, None)


class Applier:
    """Applies commits and messages on one connection, which is the only one that commits.

    It remembers scopes and units that it read or wrote, which saves the read before each commit. What it remembers is
    dropped when another connection has written to the file, when a transaction is rolled back, and by
    `forget_scopes`.
    """

    def __init__(self, connection: Connection, shards: int, limits: StoreLimits) -> None:
        """Remember nothing yet."""
        self._connection = connection
        self._shards = shards
        self._limits = limits
        self._scopes: dict[str, tuple[int, str | None]] = {}
        self._units: dict[str, Known] = {}
        self._places = Places(connection)
        self._data_version = -1

    def begin(self) -> None:
        """Call it when a transaction has begun."""
        data_version = self._connection.execute("PRAGMA data_version").get
        if data_version != self._data_version:
            self._data_version = data_version
            self.forget()

    def forget(self) -> None:
        """Call it after a rollback."""
        self._units.clear()
        self._scopes.clear()
        self._places.forget()

    def finish(self) -> None:
        """Call it when all is applied, before the transaction is committed."""
        self._places.write()

    def forget_scopes(self) -> None:
        """Call it when something else may have changed scopes."""
        self._scopes.clear()

    def commits(self, commits: Sequence[Commit]) -> list[Verdict]:
        """Decide commits and write the accepted ones. An error leaves the transaction for the caller to roll back."""
        verdicts: list[Verdict] = []
        for part in parts_of(commits):
            verdicts += self._part(part)
        return verdicts

    def _part(self, part: list[Commit]) -> list[Verdict]:
        deletions = self._recall(part)
        units, scopes, shards = self._units, self._scopes, self._shards
        verdicts: list[Verdict] = []
        writes = Writes(self._shards, self._limits, self._places)
        for commit in part:
            unit = commit.unit
            old = units.get(unit)
            stored = (
                old[0]
                if old is not None
                else Stored(0, deletions.get(unit), scope_of(unit, shards))
            )
            epoch, incarnation = scopes.get(commit.fence.scope, _ABSENT_SCOPE)
            result = verdict(commit, stored, epoch, incarnation)
            if result == "applied" and stored.commit != commit.id:
                if flaw_of(commit) is None:
                    new = writes.add(commit, old)
                    units.pop(unit, None)  # so that it goes to the end
                    if new is not None:
                        units[unit] = new
                else:
                    result = "invalid"
            verdicts.append(result)
        writes.run(self._connection)
        while (
            len(units) > KNOWN_UNITS_MAX
        ):  # the oldest go first, and never one that this part still needs
            del units[next(iter(units))]
        return verdicts

    def _recall(self, part: list[Commit]) -> dict[str, bytes]:
        """Read what is not remembered; the commits by which units that do not exist were deleted."""
        connection, units = self._connection, self._units
        scopes = {commit.fence.scope for commit in part}
        if not scopes <= self._scopes.keys():
            rows = connection.execute(READ_SCOPES, (ids_json(list(scopes)),))
            self._scopes.update((scope, (epoch, incarnation)) for scope, epoch, incarnation in rows)
        missing = [commit.unit for commit in part if commit.unit not in units]
        if not missing:
            return {}
        for row in connection.execute(READ_UNITS, (ids_json(missing),)):
            units[row[2]] = (Stored(row[0], row[1], row[2 + _SCOPE]), row[2:])
        absent = [
            commit.unit for commit in part if commit.delete is not None and commit.unit not in units
        ]
        return dict(connection.execute(READ_DELETIONS, (ids_json(absent),))) if absent else {}

    def post(self, message: Message) -> Posted:
        """Put a message into its target's inbox, or say why not."""
        posted, letter = _post(self._connection, message, self._shards, self._limits)
        if letter is not None:
            self._connection.execute(DELIVER, (*letter, self._places.next()))
        return posted


# ---------------------------------------------------------------- messages

FIND_LETTER = "SELECT 1 FROM inbox WHERE unit = ? AND message = ?"
FIND_ANSWER = "SELECT outcome FROM answers WHERE unit = ? AND message = ?"
FIND_TOMBSTONE = "SELECT 1 FROM tombstones WHERE run = ?"
FIND_UNIT = "SELECT run, status FROM units WHERE id = ?"
READ_STARTS = "SELECT body FROM inbox WHERE unit = ? AND kind = 'Start'"
FIND_START = "SELECT 1 FROM inbox WHERE unit = ? AND kind = 'Start' LIMIT 1"
COUNT_LETTERS = "SELECT messages FROM inboxes WHERE unit = ?"
TAKE_TASK = (
    "DELETE FROM tasks WHERE unit = ? AND execution = ? AND seq = ? AND attempt = ? AND run = ? AND token = ?"
    " RETURNING 1"
)


def _one(connection: Connection, sql: str, *values: Any) -> Values | None:
    return connection.execute(sql, values).fetchone()


def _is_replaced(connection: Connection, unit: str) -> bool:
    """Whether a start waits that gives a closed unit a new run: what comes behind it is for that run."""
    bodies = (decode_body(row[0]) for row in connection.execute(READ_STARTS, (unit,)))
    return any(isinstance(body, Start) and body.if_exists == "replace" for body in bodies)


def _post(
    connection: Connection, message: Message, shards: int, limits: StoreLimits
) -> tuple[Posted, Values | None]:
    """What becomes of a message; the letter that is then to be delivered."""
    unit, body = message.to, message.body
    if (answer := _one(connection, FIND_ANSWER, unit, message.id)) is not None:
        return Posted("duplicate", answer[0]), None
    if _one(connection, FIND_LETTER, unit, message.id):
        return Posted("duplicate"), None
    known = _one(connection, FIND_UNIT, unit)
    if isinstance(body, Start):
        if (known is not None and known[0] == message.id) or _one(
            connection, FIND_TOMBSTONE, message.id
        ):
            return Posted("duplicate"), None
    elif isinstance(body, ActivityDone):
        key = (unit, body.execution, body.seq, body.attempt, body.run, message.previous)
        if message.previous is None or _one(connection, TAKE_TASK, *key) is None:
            return Posted("lost_lease"), None
        message = msgspec.structs.replace(message, previous=None)
    else:
        if known is None:
            if not _one(connection, FIND_START, unit):
                return Posted("missing"), None
        elif (
            known[1] in CLOSED
            and not isinstance(body, ADMIN)
            and not _is_replaced(connection, unit)
        ):
            return Posted("missing", "closed"), None
        if isinstance(body, Send | Raise):
            count = _one(connection, COUNT_LETTERS, unit)
            if count is not None and count[0] >= limits.inbox_messages:
                return Posted("full"), None
    return Posted("accepted"), letter_values(message, shards, homeless=known is None)
