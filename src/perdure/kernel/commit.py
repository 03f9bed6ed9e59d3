"""A Commit: everything that one turn makes true, as plain data.

A Commit comes from the owner of a unit. It is fenced twice: by the epoch of the unit's scope and by the version of
the unit's row. Applying it is a pure function of stored rows and the Commit: all times come from `at`, ids from its
own fields. In a SQL store it is one transaction, in Raft it is the log entry. `verdict` is the whole rule of
acceptance; stores that cannot run Python inside their transaction are tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.errors import Failure
from perdure.kernel.message import Message

Status = Literal["pending", "running", "suspended", "completed", "failed", "cancelled"]
Verdict = Literal["applied", "fenced", "stale", "invalid"]

CLOSED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""Statuses that never change again."""

WAKE_NOW = 0
"""`wake_at` of a unit that must be loaded at once: it has open local work."""


class Fence(msgspec.Struct, array_like=True, frozen=True):
    """The right to write: a scope, the epoch in which it was claimed, and the node incarnation that claimed it."""

    scope: str
    epoch: int
    incarnation: str


class UnitRow(msgspec.Struct, array_like=True, gc=False):
    """The row of a unit. `version` orders its commits; `type_version` is the definition's semantic version."""

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
    input_digest: str = ""
    parent: bytes | None = None
    parent_unit: str | None = None
    custom_status: bytes | None = None
    custom_status_version: int = 0
    attributes: bytes | None = None
    result: bytes | None = None
    failure: Failure | None = None
    suspect: int = 0
    journal_events: int = 0
    journal_bytes: int = 0
    created_at: int = 0
    started_at: int = 0
    updated_at: int = 0
    closed_at: int | None = None

    # ------------------------------------------------------------ how the state changes

    def follow_on(self, before: UnitRow) -> None:
        """A new run takes the id of another one. What people see as one sequence goes on."""
        self.scope = before.scope
        self.execution = before.execution + 1
        self.custom_status_version = before.custom_status_version

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
        seen_before = (self.status, self.reason if self.status == "suspended" else None)
        self.status = status
        self.reason = reason
        self.wake_at = wake_at
        self.failure = failure
        return seen_before != (status, reason if status == "suspended" else None)

    def close(self, status: Status, at: int, result: bytes | None, failure: Failure | None) -> None:
        """The unit has ended."""
        self.status = status
        self.result = result
        self.failure = failure
        self.reason = self.wake_at = None
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
        """A copy for a commit of this time (ms). The unit goes on with the original."""
        self.updated_at = at
        return msgspec.structs.replace(self)


class JournalChunk(msgspec.Struct, array_like=True, gc=False):
    """Events of one turn: `first` is the index of the first one in its execution (from 1)."""

    execution: int
    first: int
    count: int
    events: bytes


class ExecutionRow(msgspec.Struct, array_like=True, gc=False):
    """An execution that ended because the code continued as new."""

    execution: int
    type_version: str
    started_at: int
    closed_at: int
    journal_events: int


class KvEntry(msgspec.Struct, array_like=True, gc=False):
    """A key of the KV store: its value now (None: deleted), and its value when execution `execution` began.

    Replay reads the value as it was at the start of the execution, so the first change in an execution keeps the old
    one as `base`. `updated_at` is when the value was written (ms), `base_at` the same of the base. An entry with
    neither value nor base does not exist: a store removes its row.
    """

    key: str
    value: bytes | None
    base: bytes | None = None
    execution: int = 0
    updated_at: int = 0
    base_at: int = 0


class Answer(msgspec.Struct, array_like=True, gc=False):
    """What a consumed client message was answered, so that a retry gets the same.

    It is kept until `expires_at`, and at most for the store's `dedupe_ms`.
    """

    message: bytes
    outcome: str
    expires_at: int


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


TaskKey = tuple[bytes, int, int, int]
"""A task of a unit: run, execution, number of the command, attempt."""


class Commit(msgspec.Struct, array_like=True, gc=False):
    """What one turn of one unit makes true. `expect` is the version of the row before (0: there must be none).

    Most commits have nothing in most of the fields. That is an empty tuple: a list each, in all the
    commits that are on their way, is what the garbage collector would look at most.
    """

    id: bytes
    fence: Fence
    at: int
    unit: str
    expect: int
    row: UnitRow
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
    """Set: the unit and all it owns is removed. A tombstone stays until this time (ms; 0: none), and at most for the
    store's `dedupe_ms` after the unit's creation."""


class Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a verdict needs to know of the stored unit: its version, the id of the commit that made it, and its scope.

    A unit that does not exist has version 0, the scope in which its messages wait (`scope_of`), and no commit, unless
    its deletion is still remembered.
    """

    version: int
    commit: bytes | None
    scope: str


def verdict(commit: Commit, stored: Stored, epoch: int, incarnation: str | None) -> Verdict:
    """Decide a commit from the stored unit, and the stored epoch and owner of the scope that the commit's fence names.

    A commit that is already in the row is `applied`, even by an owner that was fenced since: it did happen. Only the
    owner of the scope in which the unit *is* may write it; the commit's row may move it to another one.
    """
    if stored.commit == commit.id:
        return "applied"
    fence = commit.fence
    if fence.epoch != epoch or fence.incarnation != incarnation or fence.scope != stored.scope:
        return "fenced"
    if stored.version != commit.expect:
        return "stale"
    return "applied"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Commit)

encode_commit = _encoder.encode
decode_commit = _decoder.decode
