"""The store port: where commits become durable.

One contract for memory, SQLite, PostgreSQL and Raft.

Guarantees, one section of the conformance suite (`perdure.testing.conformance`) each:

1. A Commit is all or nothing. A refused one leaves nothing and harms no neighbour in its batch.
2. Resubmitting the identical Commit is idempotent, also while the first is in flight.
3. After `claim` returns, commits of older epochs are decided for ever, and `load` sees all that
   landed.
4. A verdict depends only on stored rows and the Commit.
5. `applied` means durable: fsynced, or held by a quorum.
6. Messages of a Commit arrive in the target's inbox, once, in order.
7. `wakes` omits nothing that was committed before the call.
8. Failures are `StoreUnavailable(outcome="none" | "unknown")`, and refusals are verdicts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Generic, Literal, Protocol, Self, TypeVar, runtime_checkable

import msgspec

from perdure.errors import Failure
from perdure.kernel.data.commit import (
    OWN_RUN,
    Commit,
    ExecutionRow,
    Fence,
    JournalChunk,
    Task,
    UnitRow,
    Verdict,
)
from perdure.kernel.data.limits import DEDUPE_MS
from perdure.kernel.data.loaded import Loaded as Loaded  # noqa: PLC0414 - part of the port
from perdure.kernel.data.message import Message
from perdure.ports.moving import Seal
from perdure.ports.tasks import Leased, Renewal, SessionHold, TaskHint, TaskRequest
from perdure.ports.where import Where

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StoreInfo(msgspec.Struct, frozen=True):
    """The identity and the shape of a store.

    `id`, `format` and `shards` are fixed when it is created. A client's message that comes again
    within `dedupe_ms` is known. That is an option of the opening. `seal`: the store moves.
    """

    id: str
    format: int
    # Ids are hashed into shards, so another number would look for stored units elsewhere.
    shards: int
    # `sql` is one: statements of programs in a commit, which memory and Raft cannot run.
    capabilities: frozenset[str] = frozenset()
    dedupe_ms: int = DEDUPE_MS
    # As it was at the opening. Nodes and clients refuse a closed one at once.
    seal: Seal | None = None


class Incarnation(msgspec.Struct, frozen=True):
    """One life of a node: its name, and an id that is new at each start."""

    node: str
    id: str


class Claim(msgspec.Struct, frozen=True):
    """A claimed scope.

    `epoch` fences its commits. `clean` says that the last owner released it in order.
    """

    epoch: int
    clean: bool


class Posted(msgspec.Struct, frozen=True):
    """The fate of a posted message.

    `answer` is the recorded answer of a duplicate that was already consumed.
    """

    outcome: Literal["accepted", "duplicate", "missing", "full", "lost_lease"]
    answer: str | None = None
    # The answer of a call, or its failure. A client that asks again gets the same as at first.
    data: bytes | None = None
    failure: Failure | None = None


class Hint(msgspec.Struct, frozen=True):
    """A unit that got messages, and the scope in which it is believed to be."""

    unit: str
    scope: str


class InboxPart(msgspec.Struct, frozen=True):
    """Messages of one unit, in order.

    The next reading goes on from `place`, which only the store can interpret.
    """

    messages: list[Message]
    place: str | None


class Wake(msgspec.Struct, frozen=True):
    """A unit that needs its owner: it is due, or messages wait for it. `at` 0 means at once."""

    unit: str
    at: int
    # Crashes that are counted against the unit. Its owner must know them before it runs the unit.
    suspect: int = 0
    has_messages: bool = False


class Swept(msgspec.Struct, frozen=True):
    """The result of a sweep: the number of removed rows, and the targets of new dead letters."""

    removed: int
    buried: list[str] = []


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a long answer. `next` is the place to go on from (None: that was all)."""

    items: list[T]
    next: str | None = None


# ---------------------------------------------------------------- queries


class Query(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A read that may be a little stale. `after` is the `next` of the page before."""

    limit: int = 100
    after: str | None = None


class UnitView(msgspec.Struct, frozen=True):
    """A unit's row and version."""

    row: UnitRow
    version: int


class Units(Query[UnitView], frozen=True, kw_only=True):
    """Rows in order of creation (newest first), filtered.

    Empty tuples do not filter. All of `where` must fit.
    """

    statuses: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    type_versions: tuple[str, ...] = ()
    id_prefix: str | None = None
    parent: str | None = None
    ids: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    created_after: int | None = None
    created_before: int | None = None
    closed_after: int | None = None
    closed_before: int | None = None
    where: tuple[Where, ...] = ()


class Journal(Query[JournalChunk], frozen=True, kw_only=True):
    """The journal of one execution (None: the current one of the unit's own run), in order."""

    unit: str
    execution: int | None = None
    run: bytes = OWN_RUN


class Executions(Query[ExecutionRow], frozen=True, kw_only=True):
    """The executions of a run that ended by continue-as-new, oldest first."""

    unit: str
    run: bytes = OWN_RUN


class KvEntries(Query[tuple[str, bytes]], frozen=True, kw_only=True):
    """The KV entries of a unit that have a value, by key."""

    unit: str
    keys: tuple[str, ...] = ()


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that no instance took. `unit` is the id to which it was sent, `reason` says why.

    `kind` is that of its body, `sender` the unit that sent it (None: a client), `at` the time at
    which it was sent, and `expires_at` the time at which it will be removed. `body` is the encoded
    body (`perdure.kernel.data.message.decode_body`).
    """

    unit: str
    message: bytes
    kind: str
    sender: str | None
    at: int
    expires_at: int
    reason: str
    body: bytes


class DeadLetters(Query[DeadLetter], frozen=True, kw_only=True):
    """The dead letters of a unit (None: of all units), by unit, or the one with an id."""

    unit: str | None = None
    message: bytes | None = None


NO_INSTANCE = "no instance had the id in time"
"""The reason of a dead letter whose target never came to be."""


class Inbox(Query[Message], frozen=True, kw_only=True):
    """Messages that wait for a unit, in order."""

    unit: str


class Starts(Query[Message], frozen=True, kw_only=True):
    """Starts of clients that wait while no unit has their id: the first one of each id.

    The newest come first. Those that are not visible yet are among them. `ids` chooses some ids (an
    empty tuple does not filter).
    """

    ids: tuple[str, ...] = ()


class ScopeView(msgspec.Struct, frozen=True):
    """A scope and its owner.

    `owner` None: the last owner has released it, or it was never claimed.
    """

    scope: str
    epoch: int
    owner: Incarnation | None


class Scopes(Query[ScopeView], frozen=True, kw_only=True):
    """Scopes that were claimed at least once, by name. An empty tuple does not filter."""

    scopes: tuple[str, ...] = ()
    prefix: str = ""


class Counts(Query[tuple[str, int]], frozen=True, kw_only=True):
    """Number of units by status, and of waiting messages, tasks and dead letters.

    Those are named `inbox`, `tasks` and `dead_letters`. `starts` is the number of ids for which a
    start waits (`Starts`), whether it is visible or not. With `at`, messages and tasks that
    are not visible yet at this time do not count. A delayed start is such a message.
    """

    at: int | None = None


class Totals(Query[tuple[str, int]], frozen=True, kw_only=True):
    """All numbers of a store in one snapshot.

    They are the fields of `perdure.client.store_metrics.StoreMetrics`. The number of units stands
    under the name of each status. It may read every unit's row. `at` tells visible messages from
    delayed ones.
    """

    at: int


class QueueDepth(msgspec.Struct, frozen=True):
    """The tasks of a queue.

    `visible` wait for a worker, `delayed` for their time (a retry). `leased` are with a worker.
    `expired` have a lease that ran out. `oldest_ms` is how long the oldest of the visible ones has
    waited (0: there is none).
    """

    queue: str
    visible: int
    delayed: int
    leased: int
    expired: int
    oldest_ms: int = 0


class Queues(Query[QueueDepth], frozen=True, kw_only=True):
    """Queues that have tasks, by name. `at` as in `Totals`."""

    at: int


class Waiting(Query[str], frozen=True, kw_only=True):
    """Those of these queues, by name, that have a task without a worker that is visible at `at`.

    It costs a look for each queue, however many tasks there are.
    """

    queues: tuple[str, ...]
    at: int


class Tasks(Query[Task], frozen=True, kw_only=True):
    """The tasks of a unit, by the numbers of their calls. Their inputs are left out."""

    unit: str


class Overdue(Query[Task], frozen=True, kw_only=True):
    """Tasks of these scopes whose `expires_at` has passed at `at`, the earliest first.

    Those with a worker have an expired lease. The others have waited too long. Their inputs are
    left out.
    """

    scopes: tuple[str, ...]
    at: int


@runtime_checkable
class OwnedStore(Protocol):
    """A store that knows the process that owns it. A store in memory has no such process."""

    async def owner(self) -> str | None:
        """The owner, for people. None: there is none."""
        ...


class MeetingPlace(msgspec.Struct, frozen=True):
    """A PostgreSQL database and its schema, where the nodes of a store meet.

    `has_session`: a connection is a session of the server, and not one of a pooler.
    """

    dsn: str
    schema: str
    has_session: bool


@runtime_checkable
class SharedStore(Protocol):
    """A store that several nodes have open at once. They are a cluster there by default."""

    @property
    def meeting_place(self) -> MeetingPlace:
        """Where its nodes meet."""
        ...


class Store(Protocol):
    """Where commits become durable. Open it with `async with`.

    Every method may raise `StoreUnavailable`, `UsageError` for impossible arguments, and
    `StoreFormat` for stored data that is damaged beyond reading. It raises nothing else. One
    damaged row must not keep others from being read.
    """

    @property
    def info(self) -> StoreInfo:
        """Identity, format, shard count and capabilities."""
        ...

    async def __aenter__(self) -> Self:
        """Open the store. Creates it when it is new."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it. All acknowledged writes are durable."""
        ...

    async def now(self) -> int:
        """Store time in milliseconds."""
        ...

    # The store mints epochs. So safety depends on no clock, and on no opinion about who is alive.
    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Take scopes over. Older epochs can write no more when this returns."""
        ...

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Give up scopes in order: the next claim of each is `clean`. Returns the given up scopes.

        A fence names the epoch and the incarnation that give it up. Where another owner has claimed
        the scope since, nothing happens: a late release must not take it from the winner.
        """
        ...

    # A caller that does not know the outcome submits the identical commit again.
    def commit(self, batch: Sequence[Commit]) -> Awaitable[list[Verdict]]:
        """Make commits durable together, at most one per unit in a batch. May be an `async def`.

        A batch has one order: the rows of all its accepted commits first, then the statements of
        their programs, then all their messages, each in the order of the batch.
        """
        ...

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Put messages into inboxes, idempotently by message id.

        `missing` with the answer "closed" means that the unit has ended. Then it only takes a
        start, `Delete` and `Prune`. With a start that replaces it in its inbox it takes every
        message, because those behind the start are for the new run.

        Raises:
            UsageError: a message names no scope. None of the batch was accepted.
        """
        ...

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Units as stored, one snapshot each."""
        ...

    # There is no high-water mark: a message can commit late and stand before one that was read.
    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """The messages that wait for a unit, in order.

        They begin behind the place `after` (None: at the beginning). Fewer than `limit` mean that
        there are no more now. Reading on from `place` returns every message that is committed
        later. It may return some again, so a reader must know by their ids which ones it has. With
        nothing found, `place` is `after`. A place stays good when the inbox empties, when its unit
        is deleted, and when the store is opened again.
        """
        ...

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Units of these scopes with messages that came behind the place `after`, and still wait.

        The cost is that of the messages that came, not of those that wait. Messages that are not
        visible yet count: the caller decides when to look at them. Fewer than `limit` items mean
        that there are no more now. Unlike that of other pages, `next` is always a place to go on
        from. It may return some units again, and misses none whose messages are committed later.
        `after=None` returns no items, and the place of now.

        Messages that came before their unit moved into a scope are not new in that scope. An owner
        that takes over a scope or a unit reads `wakes`, after it has asked for the place of now.
        """
        ...

    # An owner that takes a scope over knows nothing of it, so this must find all units.
    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Units of these scopes that are due by `until`, or that have visible messages."""
        ...

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """The earliest `wake_at` or message later than `after`. None: there is none."""
        ...

    async def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks that the worker can take, by rank, within the limits of the queue.

        A task of a session is leased only to the worker that has the session. A session without a
        worker goes to the one that takes its first task.
        """
        ...

    # By the token and not by the worker, whose earlier lease of the same task may have run out.
    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Extend leases. `lost`: the task was cancelled, or another worker has it by now."""
        ...

    # The same attempt again, because nothing has failed.
    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        """Let other workers have leased tasks, each as the same attempt with its last details.

        Leases that are lost are left alone. Returns the queues that have tasks again.
        """
        ...

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        """Keep sessions, or give them up. False: the session is another worker's by now."""
        ...

    # An owner tells of its commits, so that commits without tasks pay nothing for it.
    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell the workers of all processes that queues have changed. Lossy, and never raises."""
        ...

    def task_hints(self) -> AsyncIterator[TaskHint]:
        """What `tell_workers` is told here and in other processes.

        Lossy: losing all of it costs latency only.
        """
        ...

    # By fence, because several owners share a store, and each sweeps its own scopes.
    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Remove at most `limit` rows: expired answers, tombstones and dead letters.

        A message whose target did not come to be in time becomes a dead letter. Scopes that their
        fence does not own any more are left alone.
        """
        ...

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters by the ids of their messages. Returns how many were there."""
        ...

    async def query(self, query: Query[T]) -> Page[T]:
        """Lists and histories, which may be a little stale."""
        ...

    # A version and not an event, because the change may come before the call.
    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit's row has a version other than `version` (0: no row).

        Returns the version that it has then, or when the time is up. In one process a commit ends
        the wait. Across processes the owner's hint does, with a slow look at the store as the
        safety net.
        """
        ...

    # Only so that a new message is found at once. `arrivals` finds all of them a little later.
    def hints(self) -> AsyncIterator[Hint]:
        """Units that got messages by a post, or by a commit of another owner.

        Lossy: losing all of them costs latency only.
        """
        ...
