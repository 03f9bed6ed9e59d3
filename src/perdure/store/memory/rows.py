"""The rows of a store in dictionaries, and what commits and messages do to them.

Theory of operation. This is the reference for every other store. Batches and messages are applied
one after the other, each as a function of the rows that stand there and of its own fields. Nothing
here reads a clock or draws a random number, so the same sequence gives the same rows. A commit does
this, in this order:

1. A row with another run than the stored one replaces that run: its journal, executions, KV and
   tasks go.
2. The row is written, with version `expect + 1`. If its scope is new, waiting messages and tasks
   move along.
3. Runs that are dropped go. Runs, journal, ended executions, state and KV are written, and pruned
   executions go.
4. Tasks are dropped, then added. Consumed messages leave the inbox, and answers are recorded.
5. When all commits of the batch have come so far, messages are put into the inboxes of their
   targets. A message is left out if the same commit consumes it, if it stands there or was
   answered, and if it starts a run that has begun already.

A deletion removes the unit and all that it owns instead. Starts in its inbox that were not consumed
stay, because they belong to the next run of the id. The deletion leaves a tombstone of its run for
as long as the start of that run may come again. The deletion itself is remembered for as long as
its commit may be submitted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import NamedTuple

import msgspec

from perdure.kernel.data.commit import (
    CLOSED,
    Commit,
    Fence,
    SqlRefused,
    Stored,
    Task,
    Verdict,
    flaw_of,
    verdict,
)
from perdure.kernel.data.message import ADMIN, ActivityDone, Message, Raise, Send, Start
from perdure.ports.store import (
    NO_INSTANCE,
    Claim,
    Incarnation,
    Posted,
    Swept,
)
from perdure.ports.tasks import Leased, Renewal, SessionHold, TaskRequest
from perdure.store.derived import (
    answer_until,
    home_of,
    messages_of,
    parts_of,
    tombstone_until,
)
from perdure.store.leasing import (
    FindNext,
    FindTasks,
    GiveTasks,
    NoteStarts,
    OpenSessions,
    QueueState,
    ReadQueue,
    ReadSessions,
    Step,
    leasing,
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
from perdure.store.memory.unit import Buried, Unit


class Scope(msgspec.Struct):
    """The owner of a scope. `clean`: the last owner released it in order."""

    epoch: int = 0
    owner: Incarnation | None = None
    clean: bool = True

    @property
    def incarnation(self) -> str | None:
        """The id of the owner."""
        if self.owner is None:
            return None
        return self.owner.id

    def claim(self, owner: Incarnation) -> Claim:
        """Give the scope to an owner, in an epoch of its own."""
        claim = Claim(self.epoch + 1, self.clean)
        self.epoch = claim.epoch
        self.owner = owner
        self.clean = False
        return claim

    def release(self) -> None:
        """Have no owner. The last one has finished its work."""
        self.owner = None
        self.clean = True


class Tombstone(NamedTuple):
    """What is left of a deleted run while its start may come again."""

    scope: str
    expires_at: int


class Session(NamedTuple):
    """The worker that has a session, and until when (ms)."""

    worker: str
    expires_at: int


class Deletion(NamedTuple):
    """The commit that deleted a unit, while it may be submitted again."""

    commit: bytes
    scope: str
    expires_at: int


NO_SCOPE = Scope()


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
        self.tombstones: dict[bytes, Tombstone] = {}
        """By run."""
        self.deletions: dict[str, Deletion] = {}
        """The last one of each unit."""
        self.sessions: dict[tuple[str, str], Session] = {}
        """By queue and name."""
        self.starts: dict[str, bytes] = {}
        """When tasks of queues with a rate began."""
        self._expiries = Expiries()

    def unit(self, name: str) -> Unit:
        """A unit for reading. One that does not exist is empty, and is not stored."""
        known = self.units.get(name)
        if known is None:
            return Unit()
        return known

    # ------------------------------------------------------------ ownership

    def claim(self, scope: str, owner: Incarnation) -> Claim:
        """Take a scope over."""
        return self.scopes.setdefault(scope, Scope()).claim(owner)

    def release(self, fence: Fence) -> bool:
        """Give a scope up. False: it belongs to another owner by now, or to none."""
        if not self.holds(fence):
            return False
        self.scopes[fence.scope].release()
        return True

    def holds(self, fence: Fence) -> bool:
        """Whether a fence is that of the scope's owner."""
        held = self.scopes.get(fence.scope, NO_SCOPE)
        return (held.epoch, held.incarnation) == (fence.epoch, fence.incarnation)

    def scope(self, unit: str, otherwise: str) -> str:
        """The scope in which a unit is, or another one while it does not exist."""
        known = self.units.get(unit)
        if known is None or known.row is None:
            return otherwise
        return known.row.scope

    def owner(self, scope: str) -> str | None:
        """The incarnation that owns a scope."""
        return self.scopes.get(scope, NO_SCOPE).incarnation

    # ------------------------------------------------------------ commits

    def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Decide the commits of a batch and apply those that are accepted."""
        verdicts: list[Verdict] = []
        for part in parts_of([batch]):
            written: list[Commit] = []
            for commit in part:
                result, is_new = self._commit(commit)
                verdicts.append(result)
                if is_new:
                    written.append(commit)
            # Messages come behind all rows of the part: one to a unit that the part creates finds
            # it.
            for commit in written:
                for message in messages_of(commit):
                    self._deliver(message)
            # Only now, because a message of the part may have been for a unit that it deletes.
            for commit in written:
                self._forget_empty(commit.unit)
        return verdicts

    def stored(self, unit: str) -> Stored:
        """What a verdict needs to know of a unit."""
        known = self.unit(unit)
        row = known.row
        if row is not None:
            execution, events = row.execution, row.journal_events
            return Stored(known.version, known.commit, row.scope, row.run, execution, events)
        deletion = self.deletions.get(unit)
        if deletion is not None:
            return Stored(0, deletion.commit)
        return Stored(0, None)

    def _commit(self, commit: Commit) -> tuple[Verdict, bool]:
        """The verdict on a commit, and whether its rows were written now."""
        stored = self.stored(commit.unit)
        held = self.scopes.get(commit.fence.scope, NO_SCOPE)
        result = verdict(commit, stored, held.epoch, held.incarnation)
        if result != "applied" or stored.commit == commit.id:
            return result, False
        if flaw_of(commit, stored, self.unit(commit.unit).owned()) is not None:
            return "invalid", False
        if commit.sql:
            return SqlRefused(0, "a memory store runs no SQL; use a store that has it"), False
        unit = self.units.setdefault(commit.unit, Unit())
        if commit.delete is not None:
            self._delete(commit, unit)
        else:
            unit.write(commit)
            self._consume(commit, unit)
            for letter in commit.letters:
                until = commit.at + self.limits.dead_letter_ms
                self._bury(unit, commit.row.scope, letter.message, letter.reason, until)
        return "applied", True

    def _consume(self, commit: Commit, unit: Unit) -> None:
        """Take the messages that a commit consumed out of the inbox, and keep its answers."""
        for message in commit.consume:
            self._take(unit, message)
        scope = commit.row.scope
        for answer in commit.answers:
            until = answer_until(commit, answer, self.limits)
            if unit.record(scope, msgspec.structs.replace(answer, expires_at=until)):
                self._expiries.add(ANSWER, Entry(until, commit.unit, answer.message, scope))

    def _delete(self, commit: Commit, unit: Unit) -> None:
        unit.delete()
        self._consume(commit, unit)
        for message in unit.before_the_next_run():
            self._take(unit, message.id)
        unit.move_inbox(home_of(commit))
        self._remember_deletion(commit)

    def _remember_deletion(self, commit: Commit) -> None:
        scope = commit.row.scope
        run = commit.row.run
        until = tombstone_until(commit, self.limits)
        if until is None:
            self.tombstones.pop(run, None)
        else:
            self.tombstones[run] = Tombstone(scope, until)
            self._expiries.add(TOMBSTONE, Entry(until, "", run, scope))
        forgotten_at = commit.at + self.limits.forgotten_ms
        self.deletions[commit.unit] = Deletion(commit.id, scope, forgotten_at)
        self._expiries.add(DELETION, Entry(forgotten_at, commit.unit, b"", scope))

    def _forget_empty(self, name: str) -> None:
        unit = self.units.get(name)
        if unit is not None and unit.is_empty:
            del self.units[name]

    # ------------------------------------------------------------ messages

    def _known(self, unit: Unit, message: Message, *, begun: bool) -> bool:
        """Whether a message is here already. `begun`: a start is, only if its run has begun."""
        if unit.has(message.id):
            return True
        if not isinstance(message.body, Start):
            return False
        if message.id in self.tombstones:
            return True
        # A run has the id of the message that started it.
        row = unit.row
        if row is None or row.run != message.id:
            return False
        return row.started_at > 0 or not begun

    def _deliver(self, message: Message) -> None:
        unit = self.units.setdefault(message.to, Unit())
        # A place goes even to a message that is here already. A store that writes many messages at
        # once learns too late that it is, and the places of all stores are the same.
        self.last_place += 1
        if self._known(unit, message, begun=True):
            return
        # The token of a lease is not stored, and the sender goes on with its own struct.
        scope = self.scope(message.to, message.scope)
        message = msgspec.structs.replace(message, scope=scope, token=None)
        unit.put(self.last_place, message)
        self.arrived[self.last_place] = message
        # A start makes its unit, so it never has to give up.
        if unit.row is None and not isinstance(message.body, Start):
            until = self._gives_up_at(message)
            self._expiries.add(UNDELIVERED, Entry(until, message.to, message.id, scope))

    def _take(self, unit: Unit, message: bytes) -> Message | None:
        """Take a message out of an inbox, if it is there."""
        found = unit.take(message)
        if found is None:
            return None
        place, taken = found
        del self.arrived[place]
        return taken

    def post(self, message: Message) -> Posted:
        """Put a message into its target's inbox, or say why not."""
        unit = self.unit(message.to)
        if self._known(unit, message, begun=False):
            return unit.posted_again(message.id)
        posted = self._admit(unit, message)
        if posted.outcome == "accepted":
            self._deliver(message)
        return posted

    def _admit(self, unit: Unit, message: Message) -> Posted:
        """Say whether a message that is new may be delivered. A result takes its task's place."""
        body = message.body
        if isinstance(body, Start):
            return Posted("accepted")
        if isinstance(body, ActivityDone):
            if unit.finish_task(body, message.token):
                return Posted("accepted")
            return Posted("lost_lease")
        if unit.row is None:
            # Behind a start that waits, a message is for the run that it will make.
            if not unit.starts:
                return Posted("missing")
        elif unit.row.status in CLOSED and not isinstance(body, ADMIN) and not unit.is_replaced:
            return Posted("missing", "closed")
        if isinstance(body, Send | Raise) and len(unit.inbox) >= self.limits.inbox_messages:
            return Posted("full")
        return Posted("accepted")

    # ------------------------------------------------------------ tasks

    def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks that wait for a worker, by rank."""
        steps = leasing(request)
        found: object = None
        try:
            while True:
                found = self._carry_out(request, steps.send(found))
        except StopIteration as end:
            leased: Leased = end.value
            return leased

    def _carry_out(self, request: TaskRequest, step: Step) -> object:
        """Carry out a step of a lease. Return what it has found."""
        queue, at = request.queue, request.at
        match step:
            case ReadQueue():
                keys = Counter[str | None]()
                for task in self.tasks(queue):
                    if task.worker is not None:
                        keys[task.key] += 1
                return QueueState(keys, self.starts.get(queue))
            case FindTasks():
                found = list(self._find(request, step))
                found.sort(key=_in_line)
                return found[: step.limit]
            case ReadSessions():
                return self._living_sessions(request)
            case OpenSessions():
                return [name for name in step.sessions if self._open(request, name, step.until)]
            case GiveTasks():
                for task in step.tasks:
                    self.units[task.unit].give(task)
            case NoteStarts():
                self.starts[queue] = step.starts
            case FindNext():
                later = [task.visible_at for task in self.tasks(queue) if _is_later(task, at)]
                return min(later, default=None)
        return None

    def tasks(self, queue: str) -> Iterator[Task]:
        """The tasks of a queue, in no order."""
        for unit in self.units.values():
            for task in unit.tasks.values():
                if task.queue == queue:
                    yield task

    def _find(self, request: TaskRequest, step: FindTasks) -> Iterator[Task]:
        for task in self.tasks(request.queue):
            if task.worker is not None or task.visible_at > request.at:
                continue
            if not request.match.fits(task) or task.key in step.full_keys:
                continue
            holder = self._holder(request, task.session)
            # A session without a worker can be opened, if the worker may have one more.
            may_have = holder == request.worker
            if holder is None:
                may_have = task.session is None or step.may_open
            if may_have:
                yield copy(task)

    def _holder(self, request: TaskRequest, session: str | None) -> str | None:
        """The worker that has a session of a queue now."""
        if session is None:
            return None
        held = self.sessions.get((request.queue, session))
        if held is None or held.expires_at <= request.at:
            return None
        return held.worker

    def _living_sessions(self, request: TaskRequest) -> dict[str, str]:
        """The sessions of a queue that have a worker now."""
        living: dict[str, str] = {}
        for queue, session in self.sessions:
            holder = self._holder(request, session)
            if queue == request.queue and holder is not None:
                living[session] = holder
        return living

    def _open(self, request: TaskRequest, session: str, until: int) -> bool:
        """Give the worker a session that has none."""
        # Those that are over go on the way, as in every store.
        for key, held in list(self.sessions.items()):
            if held.expires_at <= request.at:
                del self.sessions[key]
        if self._holder(request, session) not in (None, request.worker):
            return False
        self.sessions[request.queue, session] = Session(request.worker, until)
        return True

    def hold_session(self, hold: SessionHold, at: int) -> bool:
        """Keep a session, or give it up. False: it is another worker's by now."""
        key = (hold.queue, hold.session)
        held = self.sessions.get(key)
        if held is None or held.worker != hold.worker:
            return False
        self.sessions[key] = Session(hold.worker, at + hold.lease_ms)
        if not hold.lease_ms:
            del self.sessions[key]
        return True

    def give_back(self, lease: Renewal) -> str | None:
        """Take the worker from a task. Returns its queue. None: the lease is lost."""
        return self.unit(lease.unit).give_back(lease)

    def renew(self, renewal: Renewal, at: int) -> bool:
        """Extend a lease. False: its row is gone, or has another token."""
        return self.unit(renewal.unit).renew(renewal, at)

    # ------------------------------------------------------------ sweeping

    def sweep(self, fences: Iterable[Fence], at: int, limit: int) -> Swept:
        """Remove at most `limit` rows that have expired, oldest first.

        Scopes that their fence does not own are left alone.
        """
        scopes = {fence.scope for fence in fences if self.holds(fence)}
        removed = 0
        for kind in (ANSWER, TOMBSTONE, DELETION, DEAD_LETTER):
            removed += len(self._sweep_kind(kind, scopes, at, limit - removed))
        buried = self._sweep_kind(UNDELIVERED, scopes, at, limit - removed)
        return Swept(removed + len(buried), buried)

    def _sweep_kind(self, kind: int, scopes: set[str], at: int, limit: int) -> list[str]:
        """Remove at most `limit` rows of a kind. Returns the unit of each."""
        removed: list[str] = []
        later: list[Entry] = []
        while len(removed) < limit:
            entry = self._expiries.take(kind, scopes, at)
            if entry is None:
                break
            unit = self.unit(entry.unit)
            if kind == UNDELIVERED and unit.starts:
                # The message will be delivered, unless that start never comes to anything.
                later.append(entry)
            elif self._expires_at(kind, unit, entry) == entry.at:
                self._expire(kind, unit, entry, at)
                removed.append(entry.unit)
                self._forget_empty(entry.unit)
        # Only now: an entry that is put back at once would be taken again for ever.
        for entry in later:
            self._expiries.add(kind, entry)
        return removed

    def _expires_at(self, kind: int, unit: Unit, entry: Entry) -> int | None:
        """When the row of an entry expires, as it is now. None: it is gone."""
        if kind == ANSWER:
            recorded = unit.answers.get(entry.key)
            if recorded is not None:
                return recorded.answer.expires_at
        elif kind == TOMBSTONE:
            tombstone = self.tombstones.get(entry.key)
            if tombstone is not None:
                return tombstone.expires_at
        elif kind == DELETION:
            deletion = self.deletions.get(entry.unit)
            if deletion is not None:
                return deletion.expires_at
        elif kind == DEAD_LETTER:
            buried = unit.dead_letters.get(entry.key)
            if buried is not None:
                return buried.expires_at
        elif unit.row is None:
            waiting = unit.inbox.get(entry.key)
            if waiting is not None:
                return self._gives_up_at(waiting[1])
        return None

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
            message = self._take(unit, entry.key)
            assert message is not None, "it was looked at before"
            until = at + self.limits.dead_letter_ms
            self._bury(unit, entry.scope, message, NO_INSTANCE, until)

    # ------------------------------------------------------------ dead letters

    def _bury(self, unit: Unit, scope: str, message: Message, reason: str, until: int) -> None:
        """Keep a message as a dead letter until a time (ms)."""
        # The same message can be buried twice, if its sender repeats it.
        kept = msgspec.structs.replace(message, token=None)
        unit.dead_letters[message.id] = Buried(scope, kept, until, reason)
        self._expiries.add(DEAD_LETTER, Entry(until, message.to, message.id, scope))

    def drop_letters(self, letters: Iterable[bytes]) -> int:
        """Remove dead letters. Returns how many were there."""
        dropped = 0
        for name, unit in list(self.units.items()):
            # Most units have none, and a list of letters may be long.
            if not unit.dead_letters:
                continue
            for letter in letters:
                if unit.dead_letters.pop(letter, None) is not None:
                    dropped += 1
            self._forget_empty(name)
        return dropped


def _is_later(task: Task, at: int) -> bool:
    """Whether a task that waits for a worker becomes visible after a time (ms)."""
    return task.worker is None and task.visible_at > at


def _in_line(task: Task) -> tuple[int, int, str, bytes, int, int, int]:
    """By rank. The rest of the key makes the order the same in every store."""
    key = (task.unit, task.run, task.execution, task.seq, task.attempt)
    return task.rank, task.visible_at, *key
