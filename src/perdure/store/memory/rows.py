"""The rows of a store, in dictionaries, and what commits and messages do to them.

Theory of operation. This is the reference for every other store: batches and messages are applied one after the
other, each as a function of the rows that stand there and of its own fields. Nothing here reads a clock or draws a
random number, so the same sequence gives the same rows. A commit does, in this order:

1. a row with another run than the stored one replaces that run: its journal, executions, KV and tasks go;
2. the row is written, with version `expect + 1`; if its scope is new, waiting messages and tasks move along;
3. runs that are dropped go; runs, journal, ended executions, state and KV are written; pruned
   executions go;
4. consumed messages leave the inbox, answers are recorded, tasks are dropped, then added;
5. when all commits of the batch have come so far, messages are put into the inboxes of their
   targets, unless the same commit consumes them, or they stand there, were answered, or start a run
   that was started already.

A deletion instead removes the unit and all it owns, except starts in its inbox that were not consumed: they belong to
the next run of the id. It leaves a tombstone of its run for as long as the start of that may come again, and is itself
remembered for as long as its commit may be submitted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

import msgspec

from perdure.kernel.data.attributes import terms_of
from perdure.kernel.data.commit import (
    CLOSED,
    OWN_RUN,
    Answer,
    Commit,
    ExecutionRow,
    Fence,
    JournalChunk,
    KvEntry,
    Owned,
    RunRow,
    SqlRefused,
    StatePart,
    Stored,
    Task,
    TaskKey,
    UnitRow,
    Verdict,
    flaw_of,
    verdict,
)
from perdure.kernel.data.message import (
    ADMIN,
    ActivityDone,
    Message,
    Raise,
    Send,
    Start,
    encode_body,
)
from perdure.ports.store import Claim, Incarnation, Posted, Renewal, Swept, TaskMatch
from perdure.store.derived import (
    Rows,
    answer_until,
    letters_of,
    parts_of,
    token_of,
    tombstone_until,
)
from perdure.store.limits import StoreLimits
from perdure.store.memory.expiry import (
    ANSWER,
    DEAD_LETTER,
    DELETION,
    TOMBSTONE,
    UNDELIVERED,
    Entry,
    Expiries,
)


class Scope(msgspec.Struct):
    """Who owns a scope. `clean`: the last owner released it in order."""

    epoch: int = 0
    owner: Incarnation | None = None
    clean: bool = True


class Unit(msgspec.Struct):
    """A unit and everything it owns. `row` is None while only messages wait for it, or after its deletion.

    `starts` counts those in the inbox.
    """

    row: UnitRow | None = None
    version: int = 0
    commit: bytes = b""
    journal: dict[tuple[bytes, int, int], JournalChunk] = {}
    executions: dict[tuple[bytes, int], ExecutionRow] = {}
    kv: dict[str, KvEntry] = {}
    inbox: dict[bytes, tuple[int, Message]] = {}
    starts: int = 0
    answers: dict[bytes, tuple[str, Answer]] = {}
    tasks: dict[TaskKey, Task] = {}
    dead_letters: dict[bytes, tuple[str, Message, int]] = {}
    runs: dict[bytes, RunRow] = {}
    state: dict[str, StatePart] = {}


def _is_replaced(unit: Unit) -> bool:
    """Whether a start waits that gives a closed unit a new run: what comes behind it is for that run."""
    bodies = (message.body for _, message in unit.inbox.values())
    return any(isinstance(body, Start) and body.if_exists == "replace" for body in bodies)


def _before_the_next_run(unit: Unit) -> list[bytes]:
    """The messages that came before the first start that waits, in order of their places."""
    names: list[bytes] = []
    for name, (_, message) in unit.inbox.items():
        if isinstance(message.body, Start):
            break
        names.append(name)
    return names


class Tables:
    """All rows of a store."""

    def __init__(self, limits: StoreLimits) -> None:
        """Start empty."""
        self.limits = limits
        self.scopes: dict[str, Scope] = {}
        self.units: dict[str, Unit] = {}
        self.last_place = 0
        self.arrived: dict[int, Message] = {}
        """All messages that wait, by their places, which only grow."""
        self.tombstones: dict[bytes, tuple[str, int]] = {}
        """The runs that were deleted: scope and end."""
        self.deletions: dict[str, tuple[bytes, str, int]] = {}
        """The last deletion of a unit: commit, scope and end."""
        self._expiries = Expiries()

    # ------------------------------------------------------------ ownership

    def claim(self, scope: str, owner: Incarnation) -> Claim:
        """Take a scope over."""
        held = self.scopes.setdefault(scope, Scope())
        claim = Claim(held.epoch + 1, held.clean)
        held.epoch, held.owner, held.clean = claim.epoch, owner, False
        return claim

    def release(self, fence: Fence) -> bool:
        """Give a scope up; False if it belongs to another owner by now, or to none."""
        if not self.holds(fence):
            return False
        held = self.scopes[fence.scope]
        held.owner, held.clean = None, True
        return True

    def holds(self, fence: Fence) -> bool:
        """Whether a fence is that of the scope's owner."""
        held = self.scopes.get(fence.scope)
        return (
            held is not None
            and held.owner is not None
            and (held.epoch == fence.epoch and held.owner.id == fence.incarnation)
        )

    def scope(self, unit: str, otherwise: str) -> str:
        """The scope in which a unit is, or another one while it does not exist."""
        known = self.units.get(unit)
        return known.row.scope if known is not None and known.row is not None else otherwise

    def owner(self, scope: str) -> str | None:
        """The incarnation that owns a scope."""
        held = self.scopes.get(scope)
        return held.owner.id if held is not None and held.owner is not None else None

    # ------------------------------------------------------------ commits

    def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Decide the commits of a batch and apply those that are accepted."""
        verdicts: list[Verdict] = []
        for part in parts_of([batch]):
            decided = [self._commit(commit) for commit in part]
            verdicts.extend(result for result, _ in decided)
            written = [commit for commit, (_, new) in zip(part, decided, strict=True) if new]
            for commit in written:
                for message in letters_of(commit):
                    self._deliver(message)
            for commit in written:
                self._forget_empty(commit.unit)
        return verdicts

    def stored(self, unit: str) -> Stored:
        """What a verdict needs to know of a unit."""
        known = self.units.get(unit)
        if known is None or known.row is None:
            deletion = self.deletions.get(unit)
            return Stored(0, deletion[0] if deletion is not None else None)
        row = known.row
        return Stored(
            known.version, known.commit, row.scope, row.run, row.execution, row.journal_events
        )

    def owned(self, unit: str) -> Owned:
        """What `flaw_of` needs to know of what a unit owns."""
        known = self.units.get(unit, Unit())
        runs = {name: (run.execution, run.journal_events) for name, run in known.runs.items()}
        return Owned(runs, known.executions.keys(), known.tasks.keys())

    def _commit(self, commit: Commit) -> tuple[Verdict, bool]:
        """The verdict on a commit, and whether its rows were written now."""
        stored = self.stored(commit.unit)
        held = self.scopes.get(commit.fence.scope, Scope())
        result = verdict(commit, stored, held.epoch, held.owner.id if held.owner else None)
        if result != "applied" or stored.commit == commit.id:
            return result, False
        if flaw_of(commit, stored, self.owned(commit.unit)) is not None:
            return "invalid", False
        if commit.sql:
            return SqlRefused(0, "a memory store runs no SQL; use a store that has it"), False
        unit = self.units.setdefault(commit.unit, Unit())
        if commit.delete is not None:
            self._delete(commit, unit)
        else:
            self._write(commit, unit)
        return "applied", True

    def _write(self, commit: Commit, unit: Unit) -> None:
        row = commit.row
        if unit.row is not None and unit.row.run != row.run:
            unit.journal, unit.executions, unit.kv, unit.tasks = {}, {}, {}, {}
            unit.runs, unit.state = {}, {}
        if unit.row is not None and unit.row.scope != row.scope:
            for task in unit.tasks.values():
                task.scope = row.scope
        if unit.row is None or unit.row.scope != row.scope:
            for _, message in unit.inbox.values():
                message.wait_in(row.scope)
        unit.row, unit.version, unit.commit = copy(row), commit.expect + 1, commit.id
        self._write_runs(commit, unit)
        for part in commit.state:
            if part.data is None:
                unit.state.pop(part.part, None)
            else:
                unit.state[part.part] = part
        for entry in commit.kv:
            if entry.value is None and entry.base is None:
                unit.kv.pop(entry.key, None)
            else:
                unit.kv[entry.key] = entry
        self._settle(commit, unit)
        for key in commit.tasks_dropped:
            unit.tasks.pop(key, None)
        for task in commit.tasks_added:
            unit.tasks[task.run, task.execution, task.seq, task.attempt] = copy(task)

    def _write_runs(self, commit: Commit, unit: Unit) -> None:
        """Write runs, and what was journaled of them and of the unit's own."""
        for run in commit.runs_dropped:
            self._drop_run(unit, run)
        for run_row in commit.runs:
            unit.runs[run_row.run] = copy(run_row)
        for chunk in commit.journal:
            unit.journal[chunk.run, chunk.execution, chunk.first] = chunk
        for ended in commit.ended:
            unit.executions[ended.run, ended.execution] = ended
        for execution in set(commit.prune) - {commit.row.execution}:
            unit.executions.pop((OWN_RUN, execution), None)
            unit.journal = {
                place: chunk
                for place, chunk in unit.journal.items()
                if place[:2] != (OWN_RUN, execution)
            }

    def _drop_run(self, unit: Unit, run: bytes) -> None:
        """Remove a run and all that is its own."""
        unit.runs.pop(run, None)
        unit.journal = {at: chunk for at, chunk in unit.journal.items() if at[0] != run}
        unit.executions = {at: row for at, row in unit.executions.items() if at[0] != run}
        unit.tasks = {key: task for key, task in unit.tasks.items() if key[0] != run}

    def _settle(self, commit: Commit, unit: Unit) -> None:
        for message in commit.consume:
            self._take(unit, message)
        for answer in commit.answers:
            if answer.message not in unit.answers:
                scope, until = commit.row.scope, answer_until(commit, answer, self.limits)
                unit.answers[answer.message] = (
                    scope,
                    msgspec.structs.replace(answer, expires_at=until),
                )
                self._expiries.add(ANSWER, Entry(until, commit.unit, answer.message, scope))

    def _delete(self, commit: Commit, unit: Unit) -> None:
        unit.row, unit.version, unit.commit = None, 0, b""
        unit.journal, unit.executions, unit.kv, unit.tasks, unit.answers = {}, {}, {}, {}, {}
        unit.runs, unit.state = {}, {}
        self._settle(commit, unit)
        for name in _before_the_next_run(unit):
            self._take(unit, name)
        home = commit.fence.scope if commit.home is None else commit.home
        for _, message in unit.inbox.values():
            message.wait_in(home)
        scope, run = commit.row.scope, commit.row.run
        self.tombstones.pop(run, None)
        if (until := tombstone_until(commit, self.limits)) is not None:
            self.tombstones[run] = (scope, until)
            self._expiries.add(TOMBSTONE, Entry(until, "", run, scope))
        until = commit.at + self.limits.forgotten_ms
        self.deletions[commit.unit] = (commit.id, scope, until)
        self._expiries.add(DELETION, Entry(until, commit.unit, b"", scope))

    def _forget_empty(self, name: str) -> None:
        unit = self.units[name]
        if unit.row is None and not (unit.inbox or unit.answers or unit.dead_letters):
            del self.units[name]

    # ------------------------------------------------------------ messages

    def _known(self, unit: Unit, message: Message, *, begun: bool) -> bool:
        if message.id in unit.inbox or message.id in unit.answers:
            return True
        if not isinstance(message.body, Start):
            return False
        if message.id in self.tombstones:
            return True
        row = unit.row
        return row is not None and row.run == message.id and (row.started_at > 0 or not begun)

    def _deliver(self, message: Message) -> None:
        unit = self.units.setdefault(message.to, Unit())
        self.last_place += 1  # also for one that is there already: a store that writes many at once learns that late
        if self._known(unit, message, begun=True):
            return
        message = copy(message)
        message.token = None
        message.wait_in(self.scope(message.to, message.scope))
        unit.inbox[message.id] = (self.last_place, message)
        self.arrived[self.last_place] = message
        unit.starts += isinstance(message.body, Start)
        if unit.row is None and not isinstance(message.body, Start):
            until = self._gives_up_at(message)
            self._expiries.add(UNDELIVERED, Entry(until, message.to, message.id, message.scope))

    def _take(self, unit: Unit, message: bytes) -> Message | None:
        """Take a message out of an inbox, if it is there."""
        if (entry := unit.inbox.pop(message, None)) is None:
            return None
        del self.arrived[entry[0]]
        unit.starts -= isinstance(entry[1].body, Start)
        return entry[1]

    def post(self, message: Message) -> Posted:
        """Put a message into its target's inbox, or say why not."""
        unit = self.units.get(message.to, Unit())
        if self._known(unit, message, begun=False):
            if message.id not in unit.answers:
                return Posted("duplicate")
            recorded = unit.answers[message.id][1]
            return Posted("duplicate", recorded.outcome, recorded.data, recorded.failure)
        body = message.body
        if isinstance(body, ActivityDone):
            key = (body.run, body.execution, body.seq, body.attempt)
            task = unit.tasks.get(key)
            if task is None or task.token is None or task.token != message.token:
                return Posted("lost_lease")
            del unit.tasks[key]
        elif not isinstance(body, Start):
            if unit.row is None:
                if not unit.starts:
                    return Posted("missing")
            elif (
                unit.row.status in CLOSED and not isinstance(body, ADMIN) and not _is_replaced(unit)
            ):
                return Posted("missing", "closed")
            if isinstance(body, Send | Raise) and len(unit.inbox) >= self.limits.inbox_messages:
                return Posted("full")
        self._deliver(message)
        return Posted("accepted")

    # ------------------------------------------------------------ tasks

    def lease(
        self, queue: str, worker: str, limit: int, lease_ms: int, at: int, match: TaskMatch
    ) -> list[Task]:
        """Lease tasks that nobody has had yet, oldest first."""
        waiting = [
            task
            for unit in self.units.values()
            for task in unit.tasks.values()
            if task.queue == queue
            and task.worker is None
            and task.visible_at <= at
            and match.fits(task)
        ]
        waiting.sort(
            key=lambda task: (
                task.visible_at,
                task.unit,
                task.run,
                task.execution,
                task.seq,
                task.attempt,
            )
        )
        for task in waiting[:limit]:
            task.worker, task.token, task.expires_at = (
                worker,
                token_of(task, worker, at),
                at + lease_ms,
            )
        return [copy(task) for task in waiting[:limit]]

    def renew(self, renewal: Renewal, at: int) -> bool:
        """Extend a lease; False when its row is gone or has another token."""
        unit = self.units.get(renewal.unit, Unit())
        for (_, _, seq, attempt), task in unit.tasks.items():
            if (seq, attempt, task.token) == (renewal.seq, renewal.attempt, renewal.token):
                task.expires_at = at + renewal.lease_ms
                task.details = task.details if renewal.details is None else renewal.details
                return True
        return False

    # ------------------------------------------------------------ sweeping

    def sweep(self, fences: Iterable[Fence], at: int, limit: int) -> Swept:
        """Remove what has expired, oldest first, at most `limit` rows; in scopes that their fence owns."""
        removed, buried = 0, list[str]()
        scopes = {fence.scope for fence in fences if self.holds(fence)}
        for kind in (ANSWER, TOMBSTONE, DELETION, DEAD_LETTER, UNDELIVERED):
            held: list[Entry] = []
            while removed < limit and (entry := self._expiries.take(kind, scopes, at)) is not None:
                unit = self.units.get(entry.unit, Unit())
                if kind == UNDELIVERED and unit.starts:
                    held.append(
                        entry
                    )  # it will be delivered, unless that start never comes to anything
                elif self._is_expired(kind, unit, entry):
                    self._expire(kind, unit, entry, at)
                    removed += 1
                    if kind == UNDELIVERED:
                        buried.append(entry.unit)
                    if entry.unit in self.units:
                        self._forget_empty(entry.unit)
            for entry in held:
                self._expiries.add(kind, entry)
        return Swept(removed, buried)

    def _is_expired(self, kind: int, unit: Unit, entry: Entry) -> bool:
        """Whether the row of an entry is still there, with the same time."""
        if kind == ANSWER:
            return (found := unit.answers.get(entry.key)) is not None and found[
                1
            ].expires_at == entry.at
        if kind == TOMBSTONE:
            return (mark := self.tombstones.get(entry.key)) is not None and mark[1] == entry.at
        if kind == DELETION:
            return (deletion := self.deletions.get(entry.unit)) is not None and deletion[
                2
            ] == entry.at
        if kind == DEAD_LETTER:
            return (dead := unit.dead_letters.get(entry.key)) is not None and dead[2] == entry.at
        place = unit.inbox.get(entry.key)
        return unit.row is None and place is not None and self._gives_up_at(place[1]) == entry.at

    def _gives_up_at(self, message: Message) -> int:
        """When a message that finds no unit becomes a dead letter."""
        return max(message.at, message.visible_at) + self.limits.undelivered_ms

    def _expire(self, kind: int, unit: Unit, entry: Entry, at: int) -> None:
        if kind == ANSWER:
            del unit.answers[entry.key]
        elif kind == TOMBSTONE:
            del self.tombstones[entry.key]
        elif kind == DELETION:
            del self.deletions[entry.unit]
        elif kind == DEAD_LETTER:
            del unit.dead_letters[entry.key]
        else:
            message, until = self._take(unit, entry.key), at + self.limits.dead_letter_ms
            assert message is not None, "it was looked at before"
            unit.dead_letters[entry.key] = (entry.scope, message, until)
            self._expiries.add(DEAD_LETTER, Entry(until, entry.unit, entry.key, entry.scope))

    # ------------------------------------------------------------ dump

    def dump(self) -> Rows:
        """Everything, by table, sorted: comparable between stores."""
        rows: Rows = {
            "scopes": [
                (
                    scope,
                    held.epoch,
                    held.owner.node if held.owner else None,
                    held.owner.id if held.owner else None,
                    held.clean,
                )
                for scope, held in self.scopes.items()
            ],
            "places": [(self.last_place,)],
        }
        each = self.units.items()
        fields = msgspec.structs.astuple
        rows["units"] = [
            (*fields(u.row), u.version, u.commit) for _, u in each if u.row is not None
        ]
        rows["journal"] = [
            (name, *fields(chunk)) for name, u in each for chunk in u.journal.values()
        ]
        rows["executions"] = [
            (name, *fields(row)) for name, u in each for row in u.executions.values()
        ]
        rows["runs"] = [(name, *fields(run)) for name, u in each for run in u.runs.values()]
        rows["state"] = [(name, *fields(part)) for name, u in each for part in u.state.values()]
        rows["kv"] = [(name, *fields(entry)) for name, u in each for entry in u.kv.values()]
        rows["inbox"] = [
            (name, place, m.scope, *letter(m)) for name, u in each for place, m in u.inbox.values()
        ]
        rows["answers"] = [
            (name, a.message, scope, a.outcome, a.expires_at, a.data, a.failure)
            for name, u in each
            for scope, a in u.answers.values()
        ]
        rows["tasks"] = [fields(task) for _, u in each for task in u.tasks.values()]
        rows["attributes"] = [
            (name, *term, u.row.created_at)
            for name, u in each
            if u.row
            for term in terms_of(u.row.attributes)
        ]
        rows["tombstones"] = [(run, *mark) for run, mark in self.tombstones.items()]
        rows["deletions"] = [(unit, *deletion) for unit, deletion in self.deletions.items()]
        rows["dead_letters"] = [
            (name, m.id, scope, *letter(m)[1:4], m.sender, expires_at)
            for name, u in each
            for scope, m, expires_at in u.dead_letters.values()
        ]
        return {table: sorted(content, key=repr) for table, content in rows.items()}


def letter(message: Message) -> tuple[object, ...]:
    """A message as a row of the inbox, without its place."""
    kind, body = type(message.body).__name__, encode_body(message.body)
    return (
        message.id,
        kind,
        body,
        message.at,
        message.visible_at,
        message.sender,
        message.previous,
    )
