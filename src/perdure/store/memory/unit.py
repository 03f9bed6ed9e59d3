"""A unit in memory: its row, everything that it owns, and what changes them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.kernel.data.commit import (
    OWN_RUN,
    Answer,
    Commit,
    ExecutionRow,
    JournalChunk,
    KvEntry,
    Owned,
    RunRow,
    StatePart,
    Task,
    TaskKey,
    UnitRow,
)
from perdure.kernel.data.message import ActivityDone, Message, Start
from perdure.ports.store import (
    Posted,
)
from perdure.ports.tasks import Renewal


class Recorded(NamedTuple):
    """An answer that is kept, in the scope that sweeps it."""

    scope: str
    answer: Answer


class Buried(NamedTuple):
    """A dead letter: a message that no unit took, and why."""

    scope: str
    message: Message
    expires_at: int
    reason: str


class Unit(msgspec.Struct):
    """A unit and everything that it owns.

    `row` is None while only messages wait for the unit, and after its deletion. `inbox` has
    messages with their places, and `starts` counts the starts among them.
    """

    row: UnitRow | None = None
    version: int = 0
    commit: bytes = b""
    journal: dict[tuple[bytes, int, int], JournalChunk] = {}
    executions: dict[tuple[bytes, int], ExecutionRow] = {}
    kv: dict[str, KvEntry] = {}
    inbox: dict[bytes, tuple[int, Message]] = {}
    starts: int = 0
    answers: dict[bytes, Recorded] = {}
    tasks: dict[TaskKey, Task] = {}
    dead_letters: dict[bytes, Buried] = {}
    runs: dict[bytes, RunRow] = {}
    state: dict[str, StatePart] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of the unit."""
        return self.row is None and not (self.inbox or self.answers or self.dead_letters)

    @property
    def is_replaced(self) -> bool:
        """Whether a start waits that gives a closed unit a new run.

        Messages behind such a start are for the new run.
        """
        for _, message in self.inbox.values():
            if isinstance(message.body, Start) and message.body.replaces_closed:
                return True
        return False

    def owned(self) -> Owned:
        """What `flaw_of` needs to know of the rows that the unit owns."""
        runs = {name: (run.execution, run.journal_events) for name, run in self.runs.items()}
        return Owned(runs, self.executions.keys(), self.tasks.keys())

    def current_execution(self, run: bytes) -> int:
        """The number of a run's current execution (0: there is no such run)."""
        if run:
            found = self.runs.get(run)
            if found is not None:
                return found.execution
        elif self.row is not None:
            return self.row.execution
        return 0

    # ------------------------------------------------------------ commits

    def write(self, commit: Commit) -> None:
        """Take the row of a commit, and all that the unit owns by it."""
        row = commit.row
        if self.row is not None and self.row.run != row.run:
            # A new run begins with nothing of the run that it replaces.
            self._drop_owned()
        if self.row is None or self.row.scope != row.scope:
            self.move_inbox(row.scope)
            for key, task in self.tasks.items():
                self.tasks[key] = replace(task, scope=row.scope)
        # Copies, because structs that were handed in belong to the caller.
        self.row = copy(row)
        self.version = commit.expect + 1
        self.commit = commit.id
        self._write_runs(commit)
        self._write_state(commit)
        for dropped in commit.tasks_dropped:
            self.tasks.pop(dropped, None)
        for task in commit.tasks_added:
            self.tasks[task.run, task.execution, task.seq, task.attempt] = copy(task)

    def delete(self) -> None:
        """Remove the row and all that the unit owns. Its inbox and its dead letters stay."""
        self.row = None
        self.version = 0
        self.commit = b""
        self._drop_owned()
        self.answers = {}

    def _drop_owned(self) -> None:
        self.journal = {}
        self.executions = {}
        self.kv = {}
        self.tasks = {}
        self.runs = {}
        self.state = {}

    def _write_runs(self, commit: Commit) -> None:
        """Write runs, and what was journaled of them and of the unit's own."""
        for run in commit.runs_dropped:
            self._drop_run(run)
        for run_row in commit.runs:
            self.runs[run_row.run] = copy(run_row)
        for chunk in commit.journal:
            self.journal[chunk.run, chunk.execution, chunk.first] = chunk
        for ended in commit.ended:
            self.executions[ended.run, ended.execution] = ended
        for execution in commit.prune:
            # The journal of the current execution is what the unit is loaded from.
            if execution != commit.row.execution:
                self._prune(execution)

    def _drop_run(self, run: bytes) -> None:
        """Remove a run and all that is its own."""
        self.runs.pop(run, None)
        self.journal = {at: chunk for at, chunk in self.journal.items() if at[0] != run}
        self.executions = {at: row for at, row in self.executions.items() if at[0] != run}
        self.tasks = {key: task for key, task in self.tasks.items() if key[0] != run}

    def _prune(self, execution: int) -> None:
        """Remove an ended execution of the unit's own run."""
        self.executions.pop((OWN_RUN, execution), None)
        for place in [place for place in self.journal if place[:2] == (OWN_RUN, execution)]:
            del self.journal[place]

    def _write_state(self, commit: Commit) -> None:
        for part in commit.state:
            if part.data is None:
                self.state.pop(part.part, None)
            else:
                self.state[part.part] = part
        for entry in commit.kv:
            # A deleted key stays while replay of this execution needs its base.
            if entry.value is None and entry.base is None:
                self.kv.pop(entry.key, None)
            else:
                self.kv[entry.key] = entry

    # ------------------------------------------------------------ messages

    def has(self, message: bytes) -> bool:
        """Whether a message waits in the inbox, or was answered."""
        return message in self.inbox or message in self.answers

    def posted_again(self, message: bytes) -> Posted:
        """What to say to a message that is here already: its answer, if it has one."""
        recorded = self.answers.get(message)
        if recorded is None:
            return Posted("duplicate")
        answer = recorded.answer
        return Posted("duplicate", answer.outcome, answer.data, answer.failure)

    def put(self, place: int, message: Message) -> None:
        """Put a message into the inbox."""
        self.inbox[message.id] = (place, message)
        self.starts += isinstance(message.body, Start)

    def take(self, message: bytes) -> tuple[int, Message] | None:
        """Take a message out of the inbox, with its place. None: it is not there."""
        found = self.inbox.pop(message, None)
        if found is not None:
            self.starts -= isinstance(found[1].body, Start)
        return found

    def record(self, scope: str, answer: Answer) -> bool:
        """Keep an answer. False: the message has one, and the first one counts."""
        if answer.message in self.answers:
            return False
        self.answers[answer.message] = Recorded(scope, answer)
        return True

    def move_inbox(self, scope: str) -> None:
        """Have all messages wait in this scope."""
        for _, message in self.inbox.values():
            message.wait_in(scope)

    # ------------------------------------------------------------ tasks

    def give(self, task: Task) -> None:
        """Give a task to the worker that it names."""
        self.tasks[task.run, task.execution, task.seq, task.attempt] = copy(task)

    def renew(self, renewal: Renewal, at: int) -> bool:
        """Extend a lease. False: its task is gone, or has another token."""
        task = self._leased(renewal)
        if task is None:
            return False
        self.give(replace(task, expires_at=at + renewal.lease_ms, details=_details(task, renewal)))
        return True

    def give_back(self, lease: Renewal) -> str | None:
        """Take the worker from a task. Returns its queue. None: the lease is lost."""
        task = self._leased(lease)
        if task is None:
            return None
        free = replace(task, worker=None, token=None, leased_at=None, expires_at=task.ends_at)
        self.give(replace(free, details=_details(task, lease)))
        return task.queue

    def _leased(self, lease: Renewal) -> Task | None:
        wanted = (lease.seq, lease.attempt, lease.token)
        for task in self.tasks.values():
            if (task.seq, task.attempt, task.token) == wanted:
                return task
        return None

    def finish_task(self, done: ActivityDone, token: bytes | None) -> bool:
        """Remove the task of a result. False: the lease with this token was lost."""
        key = (done.run, done.execution, done.seq, done.attempt)
        task = self.tasks.get(key)
        # A task that waits for a worker has no token, and none must not fit none.
        if task is None or task.token is None or task.token != token:
            return False
        del self.tasks[key]
        return True

    # ------------------------------------------------------------ what is read

    def messages(self) -> list[Message]:
        """The messages that wait, in order."""
        return [message for _, message in self.inbox.values()]

    def before_the_next_run(self) -> list[Message]:
        """The messages that came before the first start that waits, in order."""
        found: list[Message] = []
        for message in self.messages():
            if isinstance(message.body, Start):
                break
            found.append(message)
        return found

    def current_journal(self) -> Sequence[JournalChunk]:
        """The journals of the current executions: the unit's own first, then those of its runs."""
        current = {run: row.execution for run, row in self.runs.items()}
        current[OWN_RUN] = self.current_execution(OWN_RUN)
        chunks = sorted(self.journal.items())
        return [chunk for (run, execution, _), chunk in chunks if execution == current.get(run)]


def _details(task: Task, renewal: Renewal) -> bytes | None:
    """The details of a task behind a sign of life."""
    # Without details it says that those of the one before are still right.
    if renewal.details is None:
        return task.details
    return renewal.details
