"""Commits and messages, applied to SQLite tables inside an open transaction.

Theory of operation. This does to tables what `memory.rows` does to dictionaries, for many commits
at once. The rows of all commits of a part are written first, table by table. Then the statements of
programs run, and at the end all messages are put into inboxes. That is the order that the port
defines for a batch. Several batches are written as one part where that gives the same rows as one
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.kernel.data.commit import (
    CLOSED,
    NOTHING_OWNED,
    Commit,
    Owned,
    Stored,
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
)
from perdure.ports.store import Hint, Posted
from perdure.store.derived import messages_of, parts_of
from perdure.store.failure import failure_of
from perdure.store.limits import StoreLimits
from perdure.store.sqlite.columns import COLD
from perdure.store.sqlite.connection import Connection, Values, ids_json
from perdure.store.sqlite.places import Places
from perdure.store.sqlite.writes import DELIVER, Known, Writes, message_values
from perdure.store.statements import statements

_ID = COLD.index("id")
_SCOPE = COLD.index("scope")
_RUN = COLD.index("run")
_EXECUTION = COLD.index("execution")

KNOWN = statements("perdure.store.sqlite", "known")
MESSAGES = statements("perdure.store.sqlite", "messages")

KNOWN_UNITS_MAX = 10_000
"""Units whose versions the applier remembers."""

ABSENT_SCOPE: tuple[int, str | None] = (0, None)


class Applier:
    """Applies commits and messages on one connection, which is the only one that commits.

    It remembers scopes and units that it read or wrote, which saves the read before each commit. It
    forgets them when another connection has written to the file, when a transaction is rolled back,
    and by `forget_scopes`.
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
        # It changes with each commit of another connection, and not with those of this one.
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
        """Hints for other owners, from all that was applied since the last call."""
        hints = self._hints
        self._hints = []
        return hints

    def _part(self, part: list[Commit]) -> list[Verdict]:
        self._recall_scopes(part)
        deletions = self._recall_units(part)
        verdicts: list[Verdict] = []
        senders: list[Commit] = []
        writes = Writes(self._limits, self._places)
        for commit in part:
            old = self._units.get(commit.unit)
            result, is_new = self._decide(commit, old, deletions)
            verdicts.append(result)
            if is_new:
                self._remember(commit.unit, writes.add(commit, old))
                if commit.post:
                    senders.append(commit)
        # Places are given in the order of the batch, and behind all of its rows.
        for commit in senders:
            messages = messages_of(commit)
            writes.deliver(messages)
            self._hint(commit, messages)
        writes.run(self._connection)
        # Only now, so that no unit goes that this part still needs. The oldest go first.
        while len(self._units) > KNOWN_UNITS_MAX:
            del self._units[next(iter(self._units))]
        return verdicts

    def _decide(
        self, commit: Commit, old: Known | None, deletions: dict[str, bytes]
    ) -> tuple[Verdict, bool]:
        """The verdict on a commit, and whether its rows have to be written now."""
        if old is not None:
            stored = old[0]
        else:
            stored = Stored(0, deletions.get(commit.unit))
        epoch, incarnation = self._scopes.get(commit.fence.scope, ABSENT_SCOPE)
        result = verdict(commit, stored, epoch, incarnation)
        if result != "applied" or stored.commit == commit.id:
            return result, False
        owned = NOTHING_OWNED
        if needs_owned(commit):
            owned = self._owned(commit.unit)
        if flaw_of(commit, stored, owned) is not None:
            return "invalid", False
        return result, True

    def _remember(self, unit: str, known: Known | None) -> None:
        # Removed in any case, so that the unit goes to the end of the dictionary, as the newest.
        self._units.pop(unit, None)
        if known is not None:
            self._units[unit] = known

    def _owned(self, unit: str) -> Owned:
        """What `flaw_of` needs to know of the rows that a unit owns."""
        read = self._connection.execute
        runs: dict[bytes, tuple[int, int]] = {}
        for run, execution, events in read(KNOWN["read_runs"], (unit,)):
            runs[run] = (execution, events)
        ended: set[Values] = set(read(KNOWN["read_ended"], (unit,)))
        tasks: set[Values] = set(read(KNOWN["read_tasks"], (unit,)))
        return Owned(runs, ended, tasks)

    def _hint(self, commit: Commit, messages: Sequence[Message]) -> None:
        """Remember messages for units of other owners. A node tells its own units itself."""
        for message in messages:
            scope = message.scope
            known = self._units.get(message.to)
            if known is not None and known[0].scope:
                scope = known[0].scope
            _, owner = self._scopes.get(scope, ABSENT_SCOPE)
            if owner != commit.fence.incarnation:
                self._hints.append(Hint(message.to, scope))

    def _recall_scopes(self, part: list[Commit]) -> None:
        """Read the scopes that a part names, unless they are remembered."""
        scopes = {commit.fence.scope for commit in part}
        for commit in part:
            if commit.post:
                scopes.update([message.scope for message in commit.post])
        missing = scopes - self._scopes.keys()
        if not missing:
            return
        # A scope that has no row is remembered, too, so that it is not read for each part.
        for scope in missing:
            self._scopes[scope] = ABSENT_SCOPE
        rows = self._connection.execute(KNOWN["read_scopes"], (ids_json(missing),))
        for scope, epoch, incarnation in rows:
            self._scopes[scope] = (epoch, incarnation)

    def _recall_units(self, part: list[Commit]) -> dict[str, bytes]:
        """Read the units of a part, unless they are remembered.

        Returns the commits that deleted those of them that do not exist.
        """
        units = self._units
        missing = [commit.unit for commit in part if commit.unit not in units]
        if not missing:
            return {}
        for row in self._connection.execute(KNOWN["read_units"], (ids_json(missing),)):
            # The statement gives the columns `COLD` behind the first three.
            cold = row[3:]
            run, execution = cold[_RUN], cold[_EXECUTION]
            stored = Stored(row[0], row[1], cold[_SCOPE], run, execution, row[2])
            units[cold[_ID]] = (stored, cold)
        # Only a commit that deletes can be one that was applied to a unit that is gone.
        deleters = [commit.unit for commit in part if commit.delete is not None]
        absent = [unit for unit in deleters if unit not in units]
        if not absent:
            return {}
        return dict(self._connection.execute(KNOWN["read_deletions"], (ids_json(absent),)))

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
    """Whether a start waits that gives a closed unit a new run.

    Messages behind such a start are for the new run.
    """
    for (data,) in connection.execute(MESSAGES["read_starts"], (unit,)):
        body = decode_body(data)
        if isinstance(body, Start) and body.replaces_closed:
            return True
    return False


def _post(
    connection: Connection, message: Message, limits: StoreLimits
) -> tuple[Posted, Values | None]:
    """The fate of a message, and the values that `DELIVER` puts into the inbox, if it does."""
    unit = message.to
    answer = _one(connection, MESSAGES["find_answer"], unit, message.id)
    if answer is not None:
        outcome, data, failure = answer
        return Posted("duplicate", outcome, data, failure_of(failure)), None
    if _one(connection, MESSAGES["find_message"], unit, message.id):
        return Posted("duplicate"), None
    known = _one(connection, MESSAGES["find_unit"], unit)
    posted = _admit(connection, message, known, limits)
    if posted.outcome != "accepted":
        return posted, None
    return posted, message_values(message, homeless=known is None)


def _admit(
    connection: Connection, message: Message, known: Values | None, limits: StoreLimits
) -> Posted:
    """Say whether a message that does not wait yet may be delivered.

    A result takes its task's place. `known` has the run and the status of the unit.
    """
    unit = message.to
    body = message.body
    if isinstance(body, Start):
        # A run has the id of the message that started it.
        is_known = known is not None and known[0] == message.id
        if is_known or _one(connection, MESSAGES["find_tombstone"], message.id):
            return Posted("duplicate")
        return Posted("accepted")
    if isinstance(body, ActivityDone):
        key = (unit, body.execution, body.seq, body.attempt, body.run, message.token)
        if message.token is None or _one(connection, MESSAGES["take_task"], *key) is None:
            return Posted("lost_lease")
        return Posted("accepted")
    if known is None:
        # Behind a start that waits, a message is for the run that it will make.
        if not _one(connection, MESSAGES["find_start"], unit):
            return Posted("missing")
    elif known[1] in CLOSED and not isinstance(body, ADMIN) and not _is_replaced(connection, unit):
        return Posted("missing", "closed")
    if isinstance(body, Send | Raise):
        count = _one(connection, MESSAGES["count_messages"], unit)
        if count is not None and count[0] >= limits.inbox_messages:
            return Posted("full")
    return Posted("accepted")
