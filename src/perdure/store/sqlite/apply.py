"""Commits and messages, applied to SQLite tables inside an open transaction.

Theory of operation. This does what `memory.rows` does to dictionaries, for many commits at once. The
rows of all commits of a part are written first, table by table, then the statements of programs run,
and at the end all messages are put into inboxes. That is the order that the port defines for a batch.
Several batches are written as one part where that gives the same rows as one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import msgspec

from perdure.kernel.data.commit import (
    CLOSED,
    NOTHING_OWNED,
    Commit,
    Owned,
    Stored,
    UnitRow,
    Verdict,
    flaw_of,
    needs_owned,
    verdict,
)
from perdure.kernel.data.message import (
    ADMIN,
    ActivityDone,
    Message,
    Raise,
    Send,
    Start,
    decode_body,
    encode_body,
)
from perdure.ports.store import Hint, Posted
from perdure.store.derived import (
    answer_until,
    messages_of,
    parts_of,
    tombstone_until,
)
from perdure.store.limits import StoreLimits
from perdure.store.sqlite.attributes import index_rows
from perdure.store.sqlite.columns import (
    COLD,
    MOVING,
    PINNED,
    cold_values,
    column_values,
    failure_bytes,
    failure_of,
    hot_values,
    run_values,
)
from perdure.store.sqlite.connection import Connection, Values
from perdure.store.sqlite.places import Places
from perdure.store.sqlite.programs import run_statements
from perdure.store.statements import statements

_PINNED_END, _MOVING_END = len(PINNED), len(PINNED) + len(MOVING)
_SCOPE, _RUN = COLD.index("scope"), COLD.index("run")
_EXECUTION = COLD.index("execution")
_ATTRIBUTES, _CREATED = COLD.index("attributes"), COLD.index("created_at")

COMMITS = statements("perdure.store.sqlite", "commits")
"""The statements of a part by name, in the order in which they run."""
KNOWN = statements("perdure.store.sqlite", "known")
MESSAGES = statements("perdure.store.sqlite", "messages")

CLEAR = tuple(name for name in COMMITS if name.startswith("clear_"))
"""What removes all that a run of a unit owned."""
DELIVER = COMMITS["deliver"]

WIDE_ROWS = 16
"""Rows per statement where that is a third faster than one by one; more bring nothing."""


def _wide(sql: str) -> str:
    """An insert of many rows. OR FAIL: an error rolls the whole transaction back in any case, and without it SQLite
    would copy each page that the statement touches, to be able to undo the statement alone.
    """
    places = sql[sql.rindex("VALUES") + len("VALUES") :]
    return sql.replace("INSERT INTO", "INSERT OR FAIL INTO", 1) + f",{places}" * (WIDE_ROWS - 1)


WIDE = {name: _wide(COMMITS[name]) for name in ("insert_unit", "insert_journal")}

_as_tuple = msgspec.structs.astuple
_encode_json = msgspec.json.encode


def ids_json(ids: Collection[str]) -> str:
    """Ids as the argument of `json_each`."""
    return _encode_json(ids).decode()


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
    """The rows that a part writes, by the names of their statements."""

    def __init__(self, limits: StoreLimits, places: Places) -> None:
        """Start with none."""
        self._limits = limits
        self._places = places
        self._rows: dict[str, list[Values]] = {name: [] for name in COMMITS}
        self._statements: list[Commit] = []

    def add(self, commit: Commit, old: Known | None) -> Known | None:
        """Collect what a commit writes to a unit that is stored as `old`; what is then worth knowing of it."""
        rows, unit, row = self._rows, commit.unit, commit.row
        if commit.sql:
            self._statements.append(commit)
        if commit.delete is not None:
            self._delete(commit, old)
            return None
        version, id_, cold = commit.expect + 1, commit.id, cold_values(row)
        if old is not None and old[1] == cold:
            cold = old[1]  # one copy is enough
            rows["update_hot"].append(hot_values(row, version, id_))
        elif old is None:
            self._insert(commit, (*column_values(row), version, id_))
        else:
            self._replace(unit, old[1], cold, (*column_values(row), version, id_))
        for chunk in commit.journal:
            rows["insert_journal"].append(
                (chunk.execution, chunk.first, chunk.count, chunk.events, chunk.run, unit)
            )
        if commit.consume:
            rows["consume"].extend([(unit, message) for message in commit.consume])
        if commit.answers:
            self._answer(commit)
        if commit.kv or commit.ended or commit.prune:
            self._add_kv_and_executions(commit)
        if commit.tasks_added or commit.tasks_dropped:
            rows["drop_task"].extend([(unit, *key) for key in commit.tasks_dropped])
            rows["insert_task"].extend([_as_tuple(task) for task in commit.tasks_added])
        if commit.runs or commit.runs_dropped or commit.state:
            self._add_runs_and_state(commit)
        if not _is_worth_knowing(row):
            return None
        return Stored(version, id_, row.scope, row.run, row.execution, row.journal_events), cold

    def _add_kv_and_executions(self, commit: Commit) -> None:
        rows, unit = self._rows, commit.unit
        for key, entry in {entry.key: entry for entry in commit.kv}.items():
            if entry.value is None and entry.base is None:
                rows["remove_kv"].append((unit, key))
            else:
                rows["set_kv"].append((unit, *_as_tuple(entry)))
        rows["insert_execution"].extend([(*_as_tuple(ended), unit) for ended in commit.ended])
        current = commit.row.execution
        pruned = [(unit, execution) for execution in commit.prune if execution != current]
        rows["prune_journal"].extend(pruned)
        rows["prune_execution"].extend(pruned)

    def _add_runs_and_state(self, commit: Commit) -> None:
        rows, unit = self._rows, commit.unit
        gone = [(unit, run) for run in commit.runs_dropped]
        for name in ("drop_run", "drop_run_journal", "drop_run_executions", "drop_run_tasks"):
            rows[name].extend(gone)
        rows["set_run"].extend([(unit, *run_values(run)) for run in commit.runs])
        for part in commit.state:
            if part.data is None:
                rows["remove_state"].append((unit, part.part))
            else:
                rows["set_state"].append((unit, part.part, part.data, part.version))

    def _insert(self, commit: Commit, values: Values) -> None:
        rows, row = self._rows, commit.row
        rows["insert_unit"].append(values)
        home = commit.fence.scope if commit.home is None else commit.home
        if row.scope != home:
            rows["move_inbox"].append((row.id, row.scope))
        if row.attributes is not None:
            rows["insert_attribute"].extend(index_rows(row.id, row.attributes, row.created_at))

    def _replace(self, unit: str, old: Values, new: Values, values: Values) -> None:
        rows = self._rows
        if old[_RUN] != new[_RUN]:
            for name in CLEAR:
                rows[name].append((unit,))
        if old[_ATTRIBUTES] != new[_ATTRIBUTES] or (
            old[_CREATED] != new[_CREATED] and new[_ATTRIBUTES] is not None
        ):
            rows["delete_attributes"].append((unit,))
            rows["insert_attribute"].extend(index_rows(unit, new[_ATTRIBUTES], new[_CREATED]))
        if old[:_PINNED_END] != new[:_PINNED_END]:
            rows["update_all"].append(values)
            if old[_SCOPE] != new[_SCOPE]:
                rows["move_inbox"].append((unit, new[_SCOPE]))
                rows["move_tasks"].append((unit, new[_SCOPE]))
        else:
            still = old[_PINNED_END:_MOVING_END] == new[_PINNED_END:_MOVING_END]
            rows["update_still" if still else "update_moving"].append(values)

    def _answer(self, commit: Commit) -> None:
        unit, scope, limits = commit.unit, commit.row.scope, self._limits
        rows = self._rows["insert_answer"]
        for a in commit.answers:
            until = answer_until(commit, a, limits)
            failure = failure_bytes(a.failure)
            rows.append((unit, a.message, scope, a.outcome, until, a.data, failure))

    def _delete(self, commit: Commit, old: Known | None) -> None:
        rows, unit, scope = self._rows, commit.unit, commit.row.scope
        for name in (*CLEAR, "delete_unit", "delete_answers", "delete_messages"):
            rows[name].append((unit,))
        if old is not None and old[1][_ATTRIBUTES] is not None:
            rows["delete_attributes"].append((unit,))
        home = commit.fence.scope if commit.home is None else commit.home
        if old is not None and old[1][_SCOPE] != home:
            rows["move_inbox"].append((unit, home))
        rows["consume"].extend([(unit, message) for message in commit.consume])
        self._answer(commit)
        run, until = commit.row.run, tombstone_until(commit, self._limits)
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
        delivered = self._rows.pop("deliver")
        for name, rows in self._rows.items():
            if not rows:
                continue
            wide = WIDE.get(name)
            if wide is None:
                connection.executemany(COMMITS[name], rows)
                continue
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

    None for `homeless` has it look up whether its unit exists. A start never is: it makes its unit.
    """
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
        False if isinstance(message.body, Start) else homeless,
    )


KNOWN_UNITS_MAX = 10_000
"""Units whose versions the applier remembers."""

ABSENT_SCOPE: tuple[int, str | None] = (0, None)


class Applier:
    """Applies commits and messages on one connection, which is the only one that commits.

    It remembers scopes and units that it read or wrote, which saves the read before each commit. What it remembers is
    dropped when another connection has written to the file, when a transaction is rolled back, and by
    `forget_scopes`.
    """

    def __init__(self, connection: Connection, limits: StoreLimits) -> None:
        """Remember nothing yet."""
        self._connection = connection
        self._hints: list[Hint] = []
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
        self._hints.clear()

    def finish(self) -> None:
        """Call it when all is applied, before the transaction is committed."""
        self._places.write()

    def forget_scopes(self) -> None:
        """Call it when something else may have changed scopes."""
        self._scopes.clear()

    def commits(self, batches: Sequence[Sequence[Commit]]) -> list[Verdict]:
        """Decide the commits of several batches and write the accepted ones.

        An error leaves the transaction for the caller to roll back.
        """
        verdicts: list[Verdict] = []
        for part in parts_of(batches):
            verdicts += self._part(part)
        return verdicts

    def take_hints(self) -> list[Hint]:
        """Who has mail of another owner's by what was applied since the last call."""
        hints, self._hints = self._hints, []
        return hints

    def _part(self, part: list[Commit]) -> list[Verdict]:
        deletions = self._recall(part)
        units, scopes = self._units, self._scopes
        verdicts: list[Verdict] = []
        applied: list[Commit] = []
        writes = Writes(self._limits, self._places)
        for commit in part:
            unit = commit.unit
            old = units.get(unit)
            stored = old[0] if old is not None else Stored(0, deletions.get(unit))
            epoch, incarnation = scopes.get(commit.fence.scope, ABSENT_SCOPE)
            result = verdict(commit, stored, epoch, incarnation)
            if result == "applied" and stored.commit != commit.id:
                owned = self._owned(unit) if needs_owned(commit) else NOTHING_OWNED
                if flaw_of(commit, stored, owned) is None:
                    new = writes.add(commit, old)
                    units.pop(unit, None)  # so that it goes to the end
                    if new is not None:
                        units[unit] = new
                    if commit.post:
                        applied.append(commit)
                else:
                    result = "invalid"
            verdicts.append(result)
        for commit in applied:
            messages = messages_of(commit)
            writes.deliver(messages)
            self._hint(commit, messages)
        writes.run(self._connection)
        while (
            len(units) > KNOWN_UNITS_MAX
        ):  # the oldest go first, and never one that this part still needs
            del units[next(iter(units))]
        return verdicts

    def _owned(self, unit: str) -> Owned:
        """What a unit owns, as `flaw_of` asks for it."""
        read = self._connection.execute
        runs = {
            run: (execution, events) for run, execution, events in read(KNOWN["read_runs"], (unit,))
        }
        ended = {(run, execution) for run, execution in read(KNOWN["read_ended"], (unit,))}
        tasks = {
            (run, execution, seq, attempt)
            for run, execution, seq, attempt in read(KNOWN["read_tasks"], (unit,))
        }
        return Owned(runs, ended, tasks)

    def _hint(self, commit: Commit, messages: Sequence[Message]) -> None:
        """Remember messages for units that another owner has. The own ones are told by the node."""
        for message in messages:
            known = self._units.get(message.to)
            scope = known[0].scope if known is not None else message.scope
            owner = self._scopes.get(scope or message.scope, ABSENT_SCOPE)[1]
            if owner != commit.fence.incarnation:
                self._hints.append(Hint(message.to, scope or message.scope))

    def _recall(self, part: list[Commit]) -> dict[str, bytes]:
        """Read what is not remembered; the commits by which units that do not exist were deleted."""
        connection, units = self._connection, self._units
        scopes = {commit.fence.scope for commit in part}
        for commit in part:
            if commit.post:
                scopes.update([message.scope for message in commit.post])
        missing_scopes = scopes - self._scopes.keys()
        if missing_scopes:
            rows = connection.execute(KNOWN["read_scopes"], (ids_json(missing_scopes),))
            found = {scope: (epoch, incarnation) for scope, epoch, incarnation in rows}
            for scope in missing_scopes:
                self._scopes[scope] = found.get(scope, ABSENT_SCOPE)
        missing = [commit.unit for commit in part if commit.unit not in units]
        if not missing:
            return {}
        for row in connection.execute(KNOWN["read_units"], (ids_json(missing),)):
            cold = row[3:]
            run, execution = cold[_RUN], cold[_EXECUTION]
            units[cold[0]] = (Stored(row[0], row[1], cold[_SCOPE], run, execution, row[2]), cold)
        absent = [
            commit.unit for commit in part if commit.delete is not None and commit.unit not in units
        ]
        if not absent:
            return {}
        return dict(connection.execute(KNOWN["read_deletions"], (ids_json(absent),)))

    def post(self, message: Message) -> Posted:
        """Put a message into its target's inbox, or say why not."""
        posted, values = _post(self._connection, message, self._limits)
        if values is not None:
            self._connection.execute(DELIVER, (*values, self._places.next()))
        return posted


# ---------------------------------------------------------------- messages


def _one(connection: Connection, sql: str, *values: Any) -> Values | None:
    return connection.execute(sql, values).fetchone()


def _is_replaced(connection: Connection, unit: str) -> bool:
    """Whether a start waits that gives a closed unit a new run: what comes behind it is for that run."""
    bodies = (decode_body(row[0]) for row in connection.execute(MESSAGES["read_starts"], (unit,)))
    return any(isinstance(body, Start) and body.if_exists == "replace" for body in bodies)


def _post(
    connection: Connection, message: Message, limits: StoreLimits
) -> tuple[Posted, Values | None]:
    """What becomes of a message; the letter that is then to be delivered."""
    unit, body = message.to, message.body
    if (answer := _one(connection, MESSAGES["find_answer"], unit, message.id)) is not None:
        return Posted("duplicate", answer[0], answer[1], failure_of(answer[2])), None
    if _one(connection, MESSAGES["find_message"], unit, message.id):
        return Posted("duplicate"), None
    known = _one(connection, MESSAGES["find_unit"], unit)
    if isinstance(body, Start):
        if (known is not None and known[0] == message.id) or _one(
            connection, MESSAGES["find_tombstone"], message.id
        ):
            return Posted("duplicate"), None
    elif isinstance(body, ActivityDone):
        key = (unit, body.execution, body.seq, body.attempt, body.run, message.token)
        if message.token is None or _one(connection, MESSAGES["take_task"], *key) is None:
            return Posted("lost_lease"), None
    else:
        if known is None:
            if not _one(connection, MESSAGES["find_start"], unit):
                return Posted("missing"), None
        elif (
            known[1] in CLOSED
            and not isinstance(body, ADMIN)
            and not _is_replaced(connection, unit)
        ):
            return Posted("missing", "closed"), None
        if isinstance(body, Send | Raise):
            count = _one(connection, MESSAGES["count_messages"], unit)
            if count is not None and count[0] >= limits.inbox_messages:
                return Posted("full"), None
    return Posted("accepted"), message_values(message, homeless=known is None)
