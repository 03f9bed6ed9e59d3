"""A turn: the results of a unit's messages, gathered in one go.

A turn is filled while messages are taken (`workflow_unit.py`) and while the run's work is collected
(`collect.py`). At the end it packs what becomes durable into a Commit, for the node's committer.
All else follows once that commit is durable, or at once if there is none. Only the methods of a
turn write to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from logging import LogRecord
from typing import Literal

import msgspec

from perdure.kernel.data.commit import (
    Answer,
    Commit,
    ExecutionRow,
    Fence,
    JournalChunk,
    KvEntry,
    Letter,
    Task,
    TaskKey,
    UnitRow,
)
from perdure.kernel.data.message import AnyBody, Cancel, Message, Terminate
from perdure.kernel.data.placement import scope_of
from perdure.kernel.loop.call import Call
from perdure.kernel.unit.budget import Budget
from perdure.kernel.unit.mailbox import Entry

Outcome = Literal["ok", "started", "joined", "exists", "closed", "missing", "full", "open"]
"""The answer to the sender of a message, once the turn is durable."""


@dataclass(frozen=True, slots=True)
class Milestones:
    """Events that happen once in the life of an instance, and happened in this turn.

    `held`: the instance is suspended, and was not before or was for another reason. `replaced`
    are the last states of the runs that had the id until now, in order. One turn may take several
    starts that replace.
    """

    started: bool = False
    ended: bool = False
    held: bool = False
    replaced: tuple[UnitRow, ...] = ()


_NONE = Milestones()


class Turn(msgspec.Struct, eq=False):
    """The results of one turn.

    `answers` go to the senders of messages. `calls` are activities and checkpoints to run, and
    `cancelled` those to give up. `wake_at` is when the unit wants its next turn (ms, 0: at once,
    because it has work of its own). `again` asks for another turn now. `closed` says that the unit
    has ended, now or before, and `deleted` that it is gone with all it owned. `milestones` are None
    in most turns. `logs` are the log records of the code.

    It begins empty, in a store with so many shards. `scope` is that of its owner.
    """

    # There is one for each message, so it is a struct, which is made without a line of Python.

    unit: str
    # The time of the turn (ms).
    now: int
    budget: Budget
    _shards: int
    scope: str
    # These become durable.
    chunks: list[JournalChunk] = []
    ended: Sequence[ExecutionRow] = ()
    kv: Sequence[KvEntry] = ()
    post: list[Message] = []
    prune: Sequence[int] = ()
    tombstone_until: int | None = None
    _consume: list[bytes] = []
    _remembered: list[bytes] = []
    _keeping: dict[bytes, Message] = {}
    letters: list[Letter] = []
    tasks: list[Task] = []
    dropped_tasks: list[TaskKey] = []
    _touched: bool = False
    # These follow.
    commit: Commit | None = None
    # The ids of messages that the commit puts into the unit's own inbox.
    kept: Collection[bytes] = ()
    answers: dict[bytes, Outcome] = {}
    calls: list[Call] = []
    cancelled: list[Call] = []
    logs: Sequence[LogRecord] = ()
    wake_at: int | None = None
    again: bool = False
    closed: bool = False
    deleted: bool = False
    warning: str | None = None
    milestones: Milestones | None = None

    # ------------------------------------------------------------ messages

    def consume(self, entry: Entry, outcome: Outcome = "ok") -> None:
        """The message has had its effect. Its row in the inbox goes, if it has one."""
        message = entry.message
        self.answers.setdefault(message.id, outcome)
        # This very turn would have stored it, so there is no row to remove.
        if self._keeping.pop(message.id, None) is not None:
            return
        if not entry.stored:
            return
        self._consume.append(message.id)
        # Only a client sends the same message again. Other units post it once, in a commit.
        if message.sender is None:
            self._remembered.append(message.id)

    def drop(self, entry: Entry) -> None:
        """A message that was kept is not received any more, so its sender is told `closed`."""
        self.answers[entry.message.id] = "closed"
        self.consume(entry, "closed")

    def refuse(self, entry: Entry, reason: str) -> None:
        """The message does not fit its receiver. It becomes a dead letter. The code is not told."""
        self.letters.append(Letter(entry.message, reason))
        self.consume(entry)

    def answer(self, message: bytes, outcome: Outcome) -> None:
        """Tell the sender something, whether or not the message is taken."""
        self.answers[message] = outcome

    def keep(self, entry: Entry) -> Entry:
        """Store the message in the unit's inbox, and give the entry that says so."""
        message = entry.message
        self.answers.setdefault(message.id, "ok")
        if entry.stored:
            return entry
        self._keeping[message.id] = message
        return Entry(message, True, entry.number)

    def send(self, target: str, body: AnyBody, message_id: bytes) -> None:
        """Send a message to another unit."""
        scope = scope_of(target, self._shards)
        message = Message(message_id, target, body, self.now, 0, self.unit, None, scope)
        self.post.append(message)

    def unsend_to_self(self) -> None:
        """The unit has ended, so its messages to itself have no receiver."""
        self.post = [message for message in self.post if message.to != self.unit]

    def unsend_stops(self, targets: Collection[str]) -> None:
        """Do not ask these units to stop."""
        stops = (Cancel, Terminate)
        self.post = [
            message
            for message in self.post
            if message.to not in targets or not isinstance(message.body, stops)
        ]

    # ------------------------------------------------------------ the unit

    def touch(self) -> None:
        """The row has changed, so there is something to commit."""
        self._touched = True

    def append(self, chunk: JournalChunk) -> None:
        """Write events into the journal."""
        self.chunks.append(chunk)

    def end_execution(self, row: ExecutionRow) -> None:
        """Note an execution that continued as new."""
        self.ended = (*self.ended, row)

    @property
    def ends_run(self) -> bool:
        """Whether the unit's run has ended in this turn. No store has its last row then."""
        return self.milestones is not None and self.milestones.ended

    def replace(self, row: UnitRow) -> None:
        """A new run takes the id of this one, which ends in this turn. Its history goes with it."""
        self.chunks.clear()
        before: tuple[UnitRow, ...] = ()
        if self.milestones is not None:
            before = self.milestones.replaced
        # The other milestones were those of the run that is gone.
        self.milestones = Milestones(replaced=(*before, row))

    def remove_history(self, executions: Iterable[int]) -> None:
        """Remove executions that have ended."""
        self.prune = (*self.prune, *executions)
        self.touch()

    def remove_unit(self, tombstone_until: int) -> None:
        """Remove the unit. A tombstone stays until the given time (ms, 0: none)."""
        self.tombstone_until = tombstone_until

    @property
    def removes_unit(self) -> bool:
        """Whether the unit is gone after this turn."""
        return self.tombstone_until is not None

    def store_kv(self, entries: Sequence[KvEntry]) -> None:
        """Write these entries of the KV store."""
        self.kv = entries

    def add_task(self, task: Task) -> None:
        """Have workers run an attempt."""
        self.tasks.append(task)

    def drop_task(self, key: TaskKey) -> None:
        """Have no worker run this attempt. One that runs it is told."""
        self.dropped_tasks.append(key)

    # ------------------------------------------------------------ effects

    def run(self, call: Call) -> None:
        """Run an activity or a checkpoint."""
        self.calls.append(call)

    def run_nothing(self) -> None:
        """The unit cannot go on, so no work begins for it."""
        self.calls.clear()

    def give_up(self, calls: Iterable[Call]) -> None:
        """Stop the work of these calls."""
        self.cancelled.extend(calls)

    def log(self, records: Sequence[LogRecord]) -> None:
        """Show these log records of the code, behind those of a run that it replaces."""
        self.logs = [*self.logs, *records]

    def warn(self, text: str) -> None:
        """Warn the people who run the node."""
        self.warning = text

    def reach(self, *, started: bool = False, ended: bool = False, held: bool = False) -> None:
        """Note a milestone."""
        before = self.milestones or _NONE
        # One turn may pass several: code that ends at once has started and ended.
        self.milestones = Milestones(
            before.started | started,
            before.ended | ended,
            before.held | held,
            before.replaced,
        )

    def ask_again(self) -> None:
        """The unit has more to do now."""
        self.again = True

    def wait_until(self, at: int | None) -> None:
        """The unit wants its next turn at this time (ms). None: a message must come."""
        self.wake_at = at

    def end(self) -> None:
        """The unit has ended."""
        self.closed = True

    # ------------------------------------------------------------ the commit

    def pack(
        self, row: UnitRow, expect: int, fence: Fence, commit_id: bytes, dedupe_ms: int
    ) -> bool:
        """Put all that becomes durable into one Commit. False: there is nothing.

        The commit has a copy of the row, because the unit goes on with its own. Answers to clients
        are kept for `dedupe_ms`.
        """
        written = self.chunks or self._touched or self._consume or self._keeping or self.letters
        has_tasks = self.tasks or self.dropped_tasks
        if not (written or has_tasks or self.post or self.kv or self.tombstone_until is not None):
            return False
        # A unit that was loaded in between may have taken the same messages in another order. One
        # order makes both commits the same, which is how a follower is checked against its owner.
        if len(self._consume) > 1:
            self._consume.sort()
        answers: Sequence[Answer] = ()
        if self._remembered:
            self._remembered.sort()
            expires_at = self.now + dedupe_ms
            answers = [Answer(m, self.answers.get(m, "ok"), expires_at) for m in self._remembered]
        post = self.post
        if self._keeping:
            self.kept = self._keeping.keys()
            kept = list(self._keeping.values())
            for message in kept:
                message.wait_in(row.scope)
            post = [*kept, *post]
        # The messages of an id that is free again wait where its next unit will be.
        home: str | None = None
        if self.tombstone_until is not None:
            home = scope_of(self.unit, self._shards)
        self.commit = Commit(
            commit_id,
            fence,
            self.now,
            self.unit,
            expect,
            row.snapshot(self.now),
            self.chunks,
            self.ended,
            self.kv,
            self._consume or (),
            answers,
            post or (),
            self.tasks or (),
            self.dropped_tasks or (),
            prune=self.prune,
            delete=self.tombstone_until,
            home=home,
            letters=self.letters or (),
        )
        return True

    def pack_removal(
        self, row: UnitRow, expect: int, fence: Fence, commit_id: bytes, dedupe_ms: int
    ) -> None:
        """Put the removal of the unit into one Commit."""
        # All that the unit owned goes with it, so none of that is written.
        self.chunks = []
        self.ended = ()
        self.kv = ()
        self.letters = []
        self.tasks = []
        self.dropped_tasks = []
        self.closed = True
        self.deleted = True
        self.pack(row, expect, fence, commit_id, dedupe_ms)
