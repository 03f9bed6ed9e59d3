"""A Commit: everything that one turn makes true, as plain data.

A turn packs it (`kernel/unit/turn.py`), the node's committer collects it with others, and a store
decides and applies it. It is fenced twice: by the epoch of the unit's scope, and by the version of
the unit's row.

Applying a Commit is a pure function of stored rows and the Commit. All times come from `at`, and
all ids from its own fields. So any store can do it, and every replica of a log gets the same rows.

`verdict` is the whole rule of acceptance. `flaw_of` finds what makes an accepted Commit impossible.
Stores that cannot run Python inside their transaction are tested against both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from perdure.errors import Failure
from perdure.kernel.data.message import Message

Status = Literal["pending", "running", "suspended", "completed", "failed", "cancelled"]


class SqlRefused(msgspec.Struct, array_like=True, frozen=True):
    """The verdict on a commit with a statement of the program that the store cannot run.

    `statement` is its number in `Commit.sql`, from 0. Nothing of the commit was written.
    """

    statement: int
    why: str


Verdict = Literal["applied", "fenced", "stale", "invalid"] | SqlRefused

CLOSED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""Statuses that never change again."""

WAKE_NOW = 0
"""`wake_at` of a unit that must be loaded at once: it has open local work."""


class Fence(msgspec.Struct, array_like=True, frozen=True):
    """The right to write: a scope, and the claim of its owner.

    `epoch` counts the claims of the scope, and `incarnation` is the life of the node that claimed.
    """

    scope: str
    epoch: int
    incarnation: str


# `gc=False` on all data here: no cycle can go through it, and the garbage collector need not look
# at what very many waiting units hold.
class UnitRow(msgspec.Struct, array_like=True, gc=False):
    """The row of a unit.

    `type_version` is the semantic version of the definition of which `type` is the name. Times are
    store time in milliseconds.
    """

    id: str
    scope: str
    kind: str
    type: str
    type_version: str
    run: bytes
    execution: int = 1
    format: int = 1
    flags: int = 0
    status: Status = "pending"
    reason: str | None = None
    wake_at: int | None = None
    paused: bool = False
    # A start of the same id is compared with this, so that the journal need not be read.
    input_digest: str = ""
    parent: bytes | None = None
    parent_unit: str | None = None
    custom_status: bytes | None = None
    # It counts changes, so that a client that waits for one misses none.
    custom_status_version: int = 0
    attributes: bytes | None = None
    result: bytes | None = None
    failure: Failure | None = None
    # Crashes of the process while this unit was at work (`node/ownership/suspects.py`).
    suspect: int = 0
    journal_events: int = 0
    journal_bytes: int = 0
    created_at: int = 0
    started_at: int = 0
    updated_at: int = 0
    closed_at: int | None = None

    # ------------------------------------------------------------ how the state changes

    def follow_on(self, before: UnitRow) -> None:
        """A new run takes the id of another one. The numbers that people see go on."""
        # The messages of the id wait in this scope.
        self.scope = before.scope
        self.execution = before.execution + 1
        self.custom_status_version = before.custom_status_version

    def move(self, scope: str) -> None:
        """Be in another scope, whose owner advances the unit from then on."""
        self.scope = scope

    def delay(self, until: int) -> None:
        """Begin at this time (ms)."""
        self.wake_at = until

    def begin(self, type_version: str, at: int) -> None:
        """The code begins, in this version of its definition."""
        self.type_version = type_version
        self.started_at = at

    def next_execution(self, type_version: str, size: int) -> None:
        """The code has continued as new. Its new journal has one event of `size` bytes."""
        self.execution += 1
        self.type_version = type_version
        self.journal_events = 1
        self.journal_bytes = size

    def grow(self, events: int, size: int) -> None:
        """The journal has that many more events and bytes."""
        self.journal_events += events
        self.journal_bytes += size

    def pause(self) -> None:
        """Deliver nothing from now on."""
        self.paused = True

    def resume(self) -> None:
        """Deliver again."""
        self.paused = False

    def become(
        self, status: Status, reason: str | None, wake_at: int | None, failure: Failure | None
    ) -> bool:
        """Take the state that the unit is in. True: people see another state than before.

        The reason of a running unit says what it waits for. It changes with each turn, so it is
        stored along with the next commit and needs none of its own.
        """
        is_new = self.status != status
        if status == "suspended" and self.reason != reason:
            is_new = True
        self.status = status
        self.reason = reason
        self.wake_at = wake_at
        self.failure = failure
        return is_new

    def close(self, status: Status, at: int, result: bytes | None, failure: Failure | None) -> None:
        """The unit has ended."""
        self.status = status
        self.result = result
        self.failure = failure
        self.reason = None
        self.wake_at = None
        self.paused = False
        self.closed_at = at

    def orphan(self) -> None:
        """The parent is not told of the end."""
        self.parent = None

    def suspect_of(self, crashes: int) -> None:
        """Note how many crashes the unit may have caused."""
        self.suspect = crashes

    def show_status(self, status: bytes | None) -> None:
        """Take the custom status that the code has set."""
        self.custom_status = status
        self.custom_status_version += 1

    def tag(self, attributes: bytes | None) -> None:
        """Take the search attributes that the code has set."""
        self.attributes = attributes

    def snapshot(self, at: int) -> UnitRow:
        """A copy for a commit of this time (ms)."""
        # A copy, because the unit goes on with the original before the store has read the commit.
        self.updated_at = at
        return msgspec.structs.replace(self)


OWN_RUN = b""
"""The unit's own run. Its counters and its result stand in the unit's row, and its id in `run`."""


class JournalChunk(msgspec.Struct, array_like=True, gc=False):
    """Events of one turn: `first` is the index of the first one in its execution (from 1).

    `run` is the run to which they belong. A workflow has only its own run. An entity has a run for
    each call of a method that lasts, and each has a `RunRow`.
    """

    execution: int
    first: int
    count: int
    events: bytes
    run: bytes = OWN_RUN


class RunRow(msgspec.Struct, array_like=True, gc=False):
    """A run of a unit that has several at a time, beside the unit's own.

    `type` names what runs, such as the method of an entity. `first_seq` is the number of the first
    command of its current execution. `parent` is the caller that waits for the result. The counters
    are those of the current execution's journal.
    """

    run: bytes
    type: str
    execution: int = 1
    first_seq: int = 1
    status: Status = "running"
    journal_events: int = 0
    journal_bytes: int = 0
    parent: bytes | None = None
    result: bytes | None = None
    failure: Failure | None = None
    started_at: int = 0
    closed_at: int | None = None


class StatePart(msgspec.Struct, array_like=True, gc=False):
    """A part of a unit's state, such as the fields of one trait. None for `data` removes the part.

    `version` is that of the schema by which `data` was written, so that newer code can convert it.
    """

    part: str
    data: bytes | None
    version: int = 1


class ExecutionRow(msgspec.Struct, array_like=True, gc=False):
    """An execution that ended because the code continued as new."""

    execution: int
    type_version: str
    started_at: int
    closed_at: int
    journal_events: int
    run: bytes = OWN_RUN


class KvEntry(msgspec.Struct, array_like=True, gc=False):
    """A key of the KV store: its value now (None: deleted), and its value before.

    Replay reads the value as it was when the execution `execution` began. So the first change in an
    execution keeps that value as `base`. `updated_at` is when the value was written (ms), and
    `base_at` is the same of the base. An entry with neither value nor base does not exist, and a
    store removes its row.
    """

    key: str
    value: bytes | None
    base: bytes | None = None
    execution: int = 0
    updated_at: int = 0
    base_at: int = 0


class Answer(msgspec.Struct, array_like=True, gc=False):
    """The answer to a consumed client message. A retry of the message gets the same.

    It is kept until `expires_at`, and at most for the store's `dedupe_ms`. `data` is the encoded
    result of a call, `failure` the error in which it ended.
    """

    message: bytes
    outcome: str
    expires_at: int
    data: bytes | None = None
    failure: Failure | None = None


class Letter(msgspec.Struct, array_like=True, gc=False):
    """A message that the unit has refused, and the reason. It becomes a dead letter."""

    message: Message
    reason: str


class Task(msgspec.Struct, array_like=True, gc=False):
    """One attempt of an activity for a pool of workers. A missing row means cancelled or lost."""

    unit: str
    run: bytes
    execution: int
    seq: int
    attempt: int
    scope: str
    queue: str
    name: str
    input: bytes
    visible_at: int = 0
    worker: str | None = None
    token: bytes | None = None
    expires_at: int | None = None
    details: bytes | None = None
    tag: str | None = None
    """Only workers that say this tag may take the task. None: every worker."""
    rank: int = 0
    """The place in the queue: a smaller one goes first (`kernel/data/queue.py`)."""
    key: str | None = None
    """The limit `per_key` of the queue counts the tasks of one key."""
    session: str | None = None
    """Tasks of one session go to one worker while that worker lives."""
    ends_at: int | None = None
    """When all attempts together have taken too long (ms). None: they have no limit."""
    leased_at: int | None = None
    call: bytes = b""
    """What a worker must know of the call beside its input (`kernel/data/queue.py`)."""


TaskKey = tuple[bytes, int, int, int]
"""A task of a unit: run, execution, number of the command, attempt."""


class Statement(msgspec.Struct, array_like=True, gc=False):
    """A statement of the program in SQL. It sees the program's own tables only.

    `values` are its parameters: None, numbers, text and bytes. The type does not say so, because
    msgspec cannot tell text from bytes in a union.
    """

    sql: str
    values: Sequence[Any] = ()


class Commit(msgspec.Struct, array_like=True, gc=False):
    """The changes of one turn of one unit.

    `expect` is the version of the row before (0: there must be none). `consume` has the ids of
    messages that leave the inbox, and `post` has messages to other units. `ended` are executions
    that this turn has ended, and `prune` are the numbers of those whose history goes.
    """

    id: bytes
    fence: Fence
    at: int
    unit: str
    expect: int
    row: UnitRow
    # Most commits have nothing in most of the fields. A tuple, because the garbage collector would
    # look at a list each, in all the commits that are on their way.
    journal: Sequence[JournalChunk] = ()
    ended: Sequence[ExecutionRow] = ()
    kv: Sequence[KvEntry] = ()
    consume: Sequence[bytes] = ()
    answers: Sequence[Answer] = ()
    post: Sequence[Message] = ()
    tasks_added: Sequence[Task] = ()
    tasks_dropped: Sequence[TaskKey] = ()
    prune: Sequence[int] = ()
    delete: int | None = None
    """Set: the unit and all it owns is removed. A tombstone stays until this time (ms, 0: none),
    and at most for the store's `dedupe_ms` after the unit's creation."""
    runs: Sequence[RunRow] = ()
    """Runs as they are now. A run that is not named stays as it is."""
    runs_dropped: Sequence[bytes] = ()
    """Runs that go, each with its journal, its ended executions and its tasks."""
    state: Sequence[StatePart] = ()
    sql: Sequence[Statement] = ()
    """Statements for the same transaction, in this order. The store needs the capability `sql`."""
    home: str | None = None
    """The scope of the unit's messages while the unit does not exist. None: that of the fence."""
    letters: Sequence[Letter] = ()
    """Messages of the unit that do not fit their receiver. Those that stood in the inbox are
    consumed as well. A commit that deletes its unit has none."""


# ---------------------------------------------------------------- verdicts


class Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The part of a stored unit on which a verdict depends.

    `commit` is the id of the commit that made this version. A unit that does not exist has version
    0 and no scope: its first commit says where it belongs. It has no commit either, unless its
    deletion is still remembered. `run`, `execution` and `journal_events` are those of its row.
    """

    version: int
    commit: bytes | None
    scope: str | None = None
    run: bytes | None = None
    execution: int = 0
    journal_events: int = 0


def verdict(commit: Commit, stored: Stored, epoch: int, incarnation: str | None) -> Verdict:
    """Decide a commit from the stored unit, and from the stored owner of the scope that it names.

    `epoch` and `incarnation` are those of the scope that the commit's fence names. Only the owner
    of the scope in which the unit *is* may write it. The commit's row may move it to another one.
    """
    # First of all, because a commit that is in the row did happen. Its owner may have been fenced
    # since, and asks again because the answer was lost.
    if stored.commit == commit.id:
        return "applied"
    fence = commit.fence
    scope = stored.scope
    if scope is None:
        scope = commit.home
    if scope is None:
        scope = fence.scope
    if fence.epoch != epoch or fence.incarnation != incarnation or fence.scope != scope:
        return "fenced"
    if stored.version != commit.expect:
        return "stale"
    return "applied"


# ---------------------------------------------------------------- flaws


class Owned(msgspec.Struct, frozen=True):
    """The part of a stored unit's own rows on which `flaw_of` depends.

    `runs` are its runs beside its own, each with its current execution and the events of that.
    `ended` are executions that ended, by run and number.
    """

    runs: Mapping[bytes, tuple[int, int]] = {}
    ended: Collection[tuple[bytes, int]] = ()
    tasks: Collection[TaskKey] = ()


NOTHING_OWNED = Owned()


def needs_owned(commit: Commit) -> bool:
    """Whether `flaw_of` looks at what the unit owns. Most commits need no such reading."""
    return bool(commit.runs or commit.runs_dropped or commit.ended or commit.tasks_added)


def flaw_of(commit: Commit, stored: Stored, owned: Owned = NOTHING_OWNED) -> str | None:
    """The flaw of a commit that the verdict accepts. None: it can be written.

    A flaw is a defect of the commit's author, so the verdict is `invalid`. Every store asks this
    function and nothing else, so that no constraint of a database ever finds a flaw first.
    """
    row = commit.row
    if row.id != commit.unit:
        return f"its row has the id {row.id!r}"
    for message in commit.post:
        if not message.scope:
            return f"its message to {message.to!r} names no scope"
    if commit.delete is not None:
        # Nothing else of such a commit is written.
        return None
    is_same_run = stored.run == row.run
    if not is_same_run:
        # The new run replaces all that the old one owned.
        owned = NOTHING_OWNED
    own = commit.journal
    has_others = bool(commit.runs or commit.runs_dropped)
    for chunk in own:
        if chunk.run != OWN_RUN:
            has_others = True
    # A workflow has no other runs, so its chunks are not filtered.
    if has_others:
        flaw = _flaw_of_runs(commit, owned)
        if flaw is not None:
            return flaw
        own = [chunk for chunk in own if chunk.run == OWN_RUN]
    if not (is_same_run and _is_next_turn(row, own, stored)):
        before = (0, 0)
        if is_same_run:
            before = (stored.execution, stored.journal_events)
        flaw = _flaw_of_journal(own, before, (row.execution, row.journal_events))
        if flaw is not None:
            return flaw
    if commit.ended or commit.tasks_added or commit.state:
        return _flaw_of_parts(commit, owned)
    return None


def _is_next_turn(row: UnitRow, chunks: Sequence[JournalChunk], stored: Stored) -> bool:
    """Whether this is the usual journal of a turn: one chunk, behind all others."""
    # Seen first, because comparing in general costs a third more, and most commits are like this.
    if len(chunks) != 1 or row.execution != stored.execution:
        return False
    chunk = chunks[0]
    before = stored.journal_events
    if chunk.execution != row.execution or chunk.first != before + 1 or chunk.count < 1:
        return False
    return row.journal_events == before + chunk.count


def _flaw_of_journal(
    chunks: Sequence[JournalChunk], before: tuple[int, int], after: tuple[int, int]
) -> str | None:
    """Compare chunks of one run with its execution and number of events, before and after."""
    execution, events = before
    for chunk in chunks:
        # Each execution has a journal of its own.
        if chunk.execution > execution:
            execution, events = chunk.execution, 0
        if chunk.execution < execution:
            return f"it writes to the execution {chunk.execution}, which has ended"
        if chunk.first != events + 1 or chunk.count < 1:
            return (
                f"its journal goes on with {chunk.count} events from {chunk.first} on in the "
                f"execution {execution}, which has {events} events"
            )
        events += chunk.count
    if after[0] > execution:
        execution, events = after[0], 0
    if after != (execution, events):
        return (
            f"it says that the execution {after[0]} has {after[1]} events, and the journal has "
            f"{events} in the execution {execution}"
        )
    return None


def _flaw_of_runs(commit: Commit, owned: Owned) -> str | None:
    """Compare the runs beside the unit's own with their stored state."""
    chunks: dict[bytes, list[JournalChunk]] = {run.run: [] for run in commit.runs}
    if len(chunks) != len(commit.runs):
        return "it has two rows for one run"
    dropped = set(commit.runs_dropped)
    for name in (*chunks, *dropped):
        if name in (OWN_RUN, commit.row.run):
            return "it treats the unit's own run as one of the others"
        if name in chunks and name in dropped:
            return f"it drops the run {name.hex()} and writes it"
    for chunk in commit.journal:
        if chunk.run == OWN_RUN:
            continue
        if chunk.run not in chunks:
            return f"it has events of the run {chunk.run.hex()} and no row of it"
        chunks[chunk.run].append(chunk)
    for run in commit.runs:
        before = owned.runs.get(run.run, (0, 0))
        flaw = _flaw_of_journal(chunks[run.run], before, (run.execution, run.journal_events))
        if flaw is not None:
            return f"of the run {run.run.hex()}: {flaw}"
    return None


def _flaw_of_parts(commit: Commit, owned: Owned) -> str | None:
    """Look for rows that would stand twice."""
    # A store removes runs and tasks first, so rows of theirs are no obstacle.
    dropped_runs = set(commit.runs_dropped)
    ended: set[tuple[bytes, int]] = set()
    for row in commit.ended:
        key = (row.run, row.execution)
        is_stored = key in owned.ended and row.run not in dropped_runs
        if is_stored or key in ended:
            return "it ends an execution that has ended"
        ended.add(key)
    dropped = set(commit.tasks_dropped)
    added: set[TaskKey] = set()
    for task in commit.tasks_added:
        if task.unit != commit.unit:
            return f"it adds a task of {task.unit!r}"
        task_key = (task.run, task.execution, task.seq, task.attempt)
        is_stored = task_key in owned.tasks and task.run not in dropped_runs
        if task_key in added or (is_stored and task_key not in dropped):
            return "it adds a task that is there"
        added.add(task_key)
    parts = {state.part for state in commit.state}
    if len(parts) != len(commit.state):
        return "it has two values for one part of the state"
    return None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Commit)

encode_commit = _encoder.encode
"""Encode a commit, for a log or another process."""

decode_commit = _decoder.decode
"""Decode a commit. Raises `msgspec.DecodeError` when the bytes are no commit."""
