"""The rows that commits write to SQLite tables, collected by statement.

Commits differ in what they write, and their statements do not. So the rows of all commits of a part
are collected first, and each statement then runs once for all of its rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import msgspec

from perdure.kernel.data.commit import Commit, Stored, UnitRow
from perdure.kernel.data.message import Message, Start, encode_body
from perdure.store.derived import answer_until, home_of, tombstone_until
from perdure.store.failure import failure_bytes
from perdure.store.limits import StoreLimits
from perdure.store.sqlite.attributes import index_rows
from perdure.store.sqlite.columns import (
    COLD,
    MOVING,
    PINNED,
    cold_values,
    column_values,
    hot_values,
    run_values,
)
from perdure.store.sqlite.connection import Connection, Values
from perdure.store.sqlite.places import Places
from perdure.store.sqlite.programs import run_statements
from perdure.store.statements import statements

_PINNED_END = len(PINNED)
_MOVING_END = _PINNED_END + len(MOVING)
_SCOPE = COLD.index("scope")
_RUN = COLD.index("run")
_ATTRIBUTES = COLD.index("attributes")
_CREATED = COLD.index("created_at")

COMMITS = statements("perdure.store.sqlite", "commits")
"""The statements of a part by name, in the order in which they run."""
_PLACES = {name: place for place, name in enumerate(COMMITS)}
CLEAR = tuple(name for name in COMMITS if name.startswith("clear_"))
"""The statements that remove all that the own run of a unit owned."""
DROP_RUN = ("drop_run", "drop_run_journal", "drop_run_executions", "drop_run_tasks")
"""The statements that remove another run of a unit."""
DELIVER = COMMITS["deliver"]

WIDE_ROWS = 16
"""Rows per statement where that is a third faster than one by one. More bring nothing."""


def _wide(sql: str) -> str:
    """An insert of many rows."""
    # OR FAIL, because an error rolls the whole transaction back in any case. Without it SQLite
    # would copy each page that the statement touches, to be able to undo the statement alone.
    places = sql[sql.rindex("VALUES") + len("VALUES") :]
    return sql.replace("INSERT INTO", "INSERT OR FAIL INTO", 1) + f",{places}" * (WIDE_ROWS - 1)


# These two are written by most commits. Others have too few rows in a part to fill a statement.
WIDE = {name: _wide(COMMITS[name]) for name in ("insert_unit", "insert_journal")}

_as_tuple = msgspec.structs.astuple

Known = tuple[Stored, Values]
"""What is remembered of a unit: the values for a verdict, and all columns but the hot ones."""

KNOWN_BYTES_MAX = 1_024
"""Bytes of custom status and attributes from which a unit is rather read again than remembered."""


def _is_worth_knowing(row: UnitRow) -> bool:
    # A closed unit hardly ever has another commit.
    if row.closed_at is not None:
        return False
    if row.custom_status is None and row.attributes is None:
        return True
    return len(row.custom_status or b"") + len(row.attributes or b"") <= KNOWN_BYTES_MAX


class Writes:
    """The rows that a part writes, by the names of their statements."""

    def __init__(self, limits: StoreLimits, places: Places) -> None:
        """Start with none."""
        self._limits = limits
        self._places = places
        # Most parts need few of the statements.
        self._rows: defaultdict[str, list[Values]] = defaultdict(list)
        self._statements: list[Commit] = []

    def add(self, commit: Commit, old: Known | None) -> Known | None:
        """Collect what a commit writes. Returns what is then worth remembering of its unit.

        `old` is the unit as it is stored. None: it does not exist.
        """
        if commit.sql:
            self._statements.append(commit)
        if commit.delete is not None:
            self._delete(commit, old)
            return None
        rows = self._rows
        unit = commit.unit
        row = commit.row
        version = commit.expect + 1
        cold = cold_values(row)
        if old is not None and old[1] == cold:
            cold = old[1]  # one copy is enough
            rows["update_hot"].append(hot_values(row, version, commit.id))
        else:
            values = (*column_values(row), version, commit.id)
            if old is None:
                self._insert(commit, values)
            else:
                self._replace(unit, old[1], cold, values)
        for chunk in commit.journal:
            rows["insert_journal"].append(
                (chunk.execution, chunk.first, chunk.count, chunk.events, chunk.run, unit)
            )
        # Most commits have nothing in most of their parts, and this runs for each commit.
        if commit.consume:
            rows["consume"].extend([(unit, message) for message in commit.consume])
        if commit.answers:
            self._answer(commit)
        if commit.letters:
            self._bury(commit)
        if commit.kv or commit.ended or commit.prune:
            self._add_kv_and_executions(commit)
        if commit.tasks_added or commit.tasks_dropped:
            rows["drop_task"].extend([(unit, *key) for key in commit.tasks_dropped])
            rows["insert_task"].extend([_as_tuple(task) for task in commit.tasks_added])
        if commit.runs or commit.runs_dropped or commit.state:
            self._add_runs_and_state(commit)
        if not _is_worth_knowing(row):
            return None
        execution = row.execution
        return Stored(version, commit.id, row.scope, row.run, execution, row.journal_events), cold

    def _add_kv_and_executions(self, commit: Commit) -> None:
        rows = self._rows
        unit = commit.unit
        # A key has one row, so of several entries of a key the last one counts.
        for key, entry in {entry.key: entry for entry in commit.kv}.items():
            if entry.value is None and entry.base is None:
                rows["remove_kv"].append((unit, key))
            else:
                rows["set_kv"].append((unit, *_as_tuple(entry)))
        for ended in commit.ended:
            rows["insert_execution"].append((*_as_tuple(ended), unit))
        for execution in commit.prune:
            # The journal of the current execution is what the unit is loaded from.
            if execution != commit.row.execution:
                rows["prune_journal"].append((unit, execution))
                rows["prune_execution"].append((unit, execution))

    def _add_runs_and_state(self, commit: Commit) -> None:
        rows = self._rows
        unit = commit.unit
        for run in commit.runs_dropped:
            for name in DROP_RUN:
                rows[name].append((unit, run))
        for run_row in commit.runs:
            rows["set_run"].append((unit, *run_values(run_row)))
        for part in commit.state:
            if part.data is None:
                rows["remove_state"].append((unit, part.part))
            else:
                rows["set_state"].append((unit, part.part, part.data, part.version))

    def _insert(self, commit: Commit, values: Values) -> None:
        rows = self._rows
        row = commit.row
        rows["insert_unit"].append(values)
        # Messages that came before the unit wait at its home.
        if row.scope != home_of(commit):
            rows["move_inbox"].append((row.id, row.scope))
        if row.attributes is not None:
            rows["insert_attribute"].extend(index_rows(row.id, row.attributes, row.created_at))

    def _replace(self, unit: str, old: Values, new: Values, values: Values) -> None:
        rows = self._rows
        if old[_RUN] != new[_RUN]:
            # A new run begins with nothing of the run that it replaces.
            for name in CLEAR:
                rows[name].append((unit,))
        # The rows of the index repeat when the unit was created.
        is_younger = old[_CREATED] != new[_CREATED] and new[_ATTRIBUTES] is not None
        if is_younger or old[_ATTRIBUTES] != new[_ATTRIBUTES]:
            rows["delete_attributes"].append((unit,))
            rows["insert_attribute"].extend(index_rows(unit, new[_ATTRIBUTES], new[_CREATED]))
        if old[_SCOPE] != new[_SCOPE]:
            rows["move_inbox"].append((unit, new[_SCOPE]))
            rows["move_tasks"].append((unit, new[_SCOPE]))
        if old[:_PINNED_END] != new[:_PINNED_END]:
            rows["update_all"].append(values)
        elif old[_PINNED_END:_MOVING_END] != new[_PINNED_END:_MOVING_END]:
            rows["update_moving"].append(values)
        else:
            rows["update_still"].append(values)

    def _answer(self, commit: Commit) -> None:
        unit = commit.unit
        scope = commit.row.scope
        rows = self._rows["insert_answer"]
        for a in commit.answers:
            until = answer_until(commit, a, self._limits)
            failure = failure_bytes(a.failure)
            rows.append((unit, a.message, scope, a.outcome, until, a.data, failure))

    def _bury(self, commit: Commit) -> None:
        until = commit.at + self._limits.dead_letter_ms
        rows = self._rows["insert_letter"]
        for letter in commit.letters:
            message = letter.message
            kind, body = type(message.body).__name__, encode_body(message.body)
            sent = (kind, body, message.at, message.sender)
            rows.append((message.to, message.id, commit.row.scope, *sent, until, letter.reason))

    def _delete(self, commit: Commit, old: Known | None) -> None:
        rows = self._rows
        unit = commit.unit
        scope = commit.row.scope
        home = home_of(commit)
        for name in (*CLEAR, "delete_unit", "delete_answers", "delete_messages"):
            rows[name].append((unit,))
        # What waits for the unit waits for a unit that does not exist from now on.
        if old is not None:
            if old[1][_ATTRIBUTES] is not None:
                rows["delete_attributes"].append((unit,))
            if old[1][_SCOPE] != home:
                rows["move_inbox"].append((unit, home))
        for message in commit.consume:
            rows["consume"].append((unit, message))
        self._answer(commit)
        run = commit.row.run
        until = tombstone_until(commit, self._limits)
        if until is None:
            rows["delete_tombstone"].append((run,))
        else:
            rows["insert_tombstone"].append((run, scope, until))
        forgotten_at = commit.at + self._limits.forgotten_ms
        rows["insert_deletion"].append((unit, commit.id, scope, forgotten_at))

    def deliver(self, messages: Sequence[Message]) -> None:
        """Collect messages for inboxes, behind all that were collected before."""
        next_place = self._places.next
        self._rows["deliver"].extend(
            [(*message_values(message), next_place()) for message in messages]
        )

    def run(self, connection: Connection) -> None:
        """Write them.

        Raises:
            StatementError: the store cannot run a statement of a program.
        """
        # The statements of programs run before messages are put into inboxes.
        delivered = self._rows.pop("deliver", ())
        for name in sorted(self._rows, key=_PLACES.__getitem__):
            rows = self._rows[name]
            wide = WIDE.get(name)
            whole = 0
            if wide is not None:
                whole = len(rows) - len(rows) % WIDE_ROWS
                for first in range(0, whole, WIDE_ROWS):
                    many = rows[first : first + WIDE_ROWS]
                    connection.execute(wide, tuple(chain.from_iterable(many)))
            if whole < len(rows):
                connection.executemany(COMMITS[name], rows[whole:])
        for commit in self._statements:
            run_statements(connection, commit)
        if delivered:
            connection.executemany(DELIVER, delivered)


def message_values(message: Message, *, homeless: bool | None = None) -> Values:
    """A message as the arguments of `DELIVER` without its place.

    None for `homeless` has the statement look up whether the unit exists. A start is never
    homeless, because it makes its unit.
    """
    if isinstance(message.body, Start):
        homeless = False
    return (
        message.to,
        message.id,
        message.scope,
        type(message.body).__name__,
        encode_body(message.body),
        message.at,
        message.visible_at,
        message.sender,
        message.previous,
        homeless,
    )
