"""The store in a PostgreSQL database, which several nodes share.

Two lanes write, one for commits and one for posted messages, each with a connection of its own. A
small pool serves reads and short calls. One more connection listens. All of it runs on the event
loop that opened the store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeVar

import asyncpg  # type: ignore[import-untyped]
import msgspec

from perdure.errors import StoreError, StoreFormat, StoreUnavailable, UsageError
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.clock import Clock
from perdure.ports.moving import Key, RowPart, Seal
from perdure.ports.store import (
    Claim,
    Hint,
    InboxPart,
    Incarnation,
    Loaded,
    MeetingPlace,
    Page,
    Posted,
    Query,
    StoreInfo,
    Swept,
    Wake,
)
from perdure.ports.tasks import Leased, Renewal, SessionHold, TaskHint, TaskRequest
from perdure.store.bell import Bell
from perdure.store.derived import Rows, check_scopes
from perdure.store.limits import DEFAULT_LIMITS, StoreLimits
from perdure.store.postgres import moving, reads, tasks
from perdure.store.postgres.address import Address
from perdure.store.postgres.connection import Connection, Mode, Pool, close, turn
from perdure.store.postgres.dump import dump
from perdure.store.postgres.errors import DRIVER_ERRORS, Meaning, explain, meaning_of
from perdure.store.postgres.lane import Lane, Writing
from perdure.store.postgres.migrate import connected, made_strict, open_schema
from perdure.store.postgres.notices import WATCH_S, Notices
from perdure.store.postgres.witness import Witness, last_applied
from perdure.store.postgres.witness import check as check_witness
from perdure.store.postgres.writes import (
    Accepted,
    Decided,
    changes,
    refuse_commit,
    refuse_post,
    write_commits,
    write_posts,
)
from perdure.store.watch import Watchers, answer, wait_for_change

T = TypeVar("T")

_LOOK_FIRST_MS = 25
"""How soon a waiting process looks again at a unit of another owner.

The owner may have written it before it heard that there is a waiter. Each look is twice as late as
the one before.
"""
_LOOK_LAST_MS = 250
"""How late it looks at most while it hears no notifications."""
_READ_TRIES = 5
_READ_PAUSE_S = 0.05


class _Parts(msgspec.Struct):
    """The parts of an open store."""

    commits: Lane[Commit, Decided]
    posts: Lane[Message, Accepted]
    pool: Pool
    notices: Notices


class PostgresStore:
    """A store in one schema of a PostgreSQL database."""

    def __init__(
        self,
        address: Address,
        *,
        limits: StoreLimits = DEFAULT_LIMITS,
        clock: Clock | None = None,
    ) -> None:
        """Name the database. `async with` opens it, and creates the schema if need be.

        With a clock, its time is the store's. Only tests want that: otherwise it is the time of the
        database, which is the same for all nodes.
        """
        self._address = address
        self._limits = limits
        self._clock = clock
        self._watchers = Watchers()
        self._bell = Bell[Hint]()
        self._task_bell = Bell[TaskHint]()
        self._info: StoreInfo | None = None
        self._open: _Parts | None = None
        self._held: set[str] = set()
        # The connection of a move. Others have none.
        self._mover: Connection | None = None
        # The last commit that the server has acknowledged.
        self._witness: Witness | None = None

    @property
    def address(self) -> Address:
        """Where the store is, and how it is used."""
        return self._address

    @property
    def meeting_place(self) -> MeetingPlace:
        """Where its nodes meet. Past a pooler, if its URL is given."""
        options = self._address.options
        dsn = options.listen or self._address.dsn
        has_session = options.listen is not None or not options.pooled
        return MeetingPlace(dsn, options.schema, has_session)

    @property
    def info(self) -> StoreInfo:
        """Identity, format, shard count and capabilities. They are known once the store is open."""
        if self._info is None:
            raise self._closed()
        return self._info

    @property
    def is_listening(self) -> bool:
        """Whether notifications of other processes arrive at this moment."""
        return self._open is not None and self._open.notices.heard

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store {self._address.name} is closed; use it inside `async with store:`",
            permanent=True,
        )

    def _parts(self) -> _Parts:
        if self._open is None:
            raise self._closed()
        return self._open

    async def __aenter__(self) -> Self:
        """Connect to the database.

        Raises:
            StoreError: naming the store, what is wrong with it, and the remedy.
        """
        async with connected(self._address) as connection:
            self._address = await made_strict(connection, self._address)
            info = await open_schema(connection, self._address)
        pool = Pool(self._address)
        pool.give(connection)
        self._info = msgspec.structs.replace(info, dedupe_ms=self._limits.dedupe_ms)
        name = self._address.name
        writing_commits = Writing(
            partial(write_commits, limits=self._limits),
            refuse_commit,
            self._committed,
            self._check_witness,
        )
        writing_posts = Writing(
            partial(write_posts, limits=self._limits),
            partial(refuse_post, name=name),
            self._posted,
        )
        self._open = _Parts(
            Lane(self._address, writing_commits, "perdure-commits"),
            Lane(self._address, writing_posts, "perdure-posts"),
            pool,
            Notices(
                self._address,
                pool,
                self._bell.ring,
                self._changed_elsewhere,
                self._task_bell.ring,
            ),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is waiting, and close the connections."""
        parts = self._open
        mover = self._mover
        # First of all, so that nothing more is submitted to what is being closed.
        self._open = None
        self._mover = None
        # Each part is closed, whatever becomes of the others. The last one that is pushed goes
        # first.
        async with AsyncExitStack() as stack:
            if parts is not None:
                stack.push_async_callback(parts.pool.close)
                stack.push_async_callback(parts.notices.close)
                stack.push_async_callback(parts.posts.close)
                stack.push_async_callback(parts.commits.close)
            if mover is not None:
                stack.push_async_callback(close, mover)
            stack.callback(self._watchers.fail, self._closed())
            stack.callback(self._bell.close)
            stack.callback(self._task_bell.close)

    async def owner(self) -> str | None:
        """The nodes that run, for people. None: there is none."""
        return await self._read(reads.owner)

    # ------------------------------------------------------------ calls

    async def _read(
        self, work: Callable[[Connection], Awaitable[T]], mode: Mode = "statement"
    ) -> T:
        """Read, again with another connection while only the connection fails."""
        pool = self._parts().pool
        for left in reversed(range(_READ_TRIES)):
            try:
                async with pool.taken(mode) as connection:
                    return await work(connection)
            except Exception as error:
                if meaning_of(error) is Meaning.LOST and left:
                    # A server that was restarted has ended all of them.
                    pool.forget()
                    await asyncio.sleep(_READ_PAUSE_S)
                    continue
                self._fail(error, "none")
        raise AssertionError

    async def _call(
        self, work: Callable[[Connection], Awaitable[T]], mode: Mode = "statement"
    ) -> T:
        """Write something small. It is not submitted again when the outcome is unknown."""
        pool = self._parts().pool
        for left in reversed(range(_READ_TRIES)):
            was_sent = False
            try:
                async with pool.taken(mode) as connection:
                    was_sent = True
                    return await work(connection)
            except Exception as error:
                meaning = meaning_of(error)
                if meaning is Meaning.AGAIN and left:
                    continue
                outcome: Literal["none", "unknown"] = "none"
                if was_sent and meaning is Meaning.LOST:
                    outcome = "unknown"
                    pool.forget()
                self._fail(error, outcome)
        raise AssertionError

    def _fail(self, error: Exception, outcome: Literal["none", "unknown"]) -> NoReturn:
        """Raise what a caller gets for an error."""
        name = self._address.name
        if meaning_of(error) is not Meaning.CONTENT:
            raise explain(error, name, outcome) from error
        if isinstance(error, TypeError | msgspec.MsgspecError):
            msg = f"{name} holds a row that cannot be read ({error}); restore a backup"
            raise StoreFormat(msg) from error
        if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
            msg = f"{name} refused the request: {error}"
            raise StoreError(msg) from error
        raise error

    async def now(self) -> int:
        """The time of the database in milliseconds."""
        if self._clock is not None:
            return self._clock.now_ms()
        return await self._read(reads.now)

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Take scopes over. It waits for commits of their owners that are under way."""
        claims = await self._call(partial(tasks.claim, scopes=scopes, owner=owner))
        self._held.update(scopes)
        return claims

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Give up the scopes that these fences own."""
        scopes = await self._call(partial(tasks.release, fences=fences))
        self._held.difference_update(scopes)
        return scopes

    # ------------------------------------------------------------ commits and posts

    def commit(self, batch: Sequence[Commit]) -> asyncio.Future[list[Verdict]]:
        """Make commits durable, together with whatever else is waiting to be written.

        They are on their way when this returns, even if the future is never awaited.
        """
        verdicts: asyncio.Future[list[Verdict]] = asyncio.get_running_loop().create_future()
        if self._open is None:
            # Raised where it is awaited, as by the other stores.
            verdicts.set_exception(self._closed())
            return verdicts
        decided = self._open.commits.submit(batch)
        decided.add_done_callback(partial(_hand_over, verdicts))
        return verdicts

    async def _check_witness(self, connection: Connection) -> None:
        """See that the server has the last acknowledged commit. It may be another server."""
        if self._witness is not None:
            await check_witness(connection, self._witness, self._address.name)

    def _committed(self, commits: list[Commit], decided: list[Decided]) -> None:
        """Tell those who wait for units of these commits."""
        witness = last_applied(commits, decided)
        if witness is not None:
            self._witness = witness
        for _, hints in decided:
            for hint in hints:
                self._bell.ring(hint)
                if self._open is not None:
                    self._open.notices.posted(hint)
        # Most of the time nobody waits, and this runs for each group.
        changed = changes(commits, decided)
        for waiter, version in self._watchers.take(changed):
            answer(waiter, version)
        if self._open is not None:
            self._open.notices.changed(changed)

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Put messages into inboxes."""
        check_scopes(batch)
        if not batch:
            return []
        # The batch is written also when the caller is cancelled.
        accepted = await asyncio.shield(self._parts().posts.submit(batch))
        posted: list[Posted] = []
        for one, _ in accepted:
            if isinstance(one, StoreError):
                raise one
            posted.append(one)
        return posted

    def _posted(self, _messages: list[Message], accepted: list[Accepted]) -> None:
        for posted, hint in accepted:
            if isinstance(posted, Posted) and posted.outcome == "accepted":
                self._bell.ring(hint)
                # The owner is this process, and has heard the bell.
                if self._open is not None and hint.scope not in self._held:
                    self._open.notices.posted(hint)

    # ------------------------------------------------------------ reads

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Units as stored, all in one snapshot."""
        return await self._read(partial(reads.load, units=units), "snapshot")

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """The messages that wait for a unit, in order, from a place on."""
        return await self._read(partial(reads.inbox, unit=unit, after=after, limit=limit))

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Units of these scopes with messages that came behind a place, and still wait."""
        return await self._read(partial(reads.arrivals, scopes=scopes, after=after, limit=limit))

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Units that are due, have visible messages, or an expired lease, by scope and time."""
        return await self._read(
            partial(reads.wakes, scopes=scopes, until=until, after=after, limit=limit)
        )

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """The earliest time later than `after` at which `wakes` will have more to say."""
        return await self._read(partial(reads.next_wake, scopes=scopes, after=after))

    # ------------------------------------------------------------ tasks and sweeping

    async def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks that wait for a worker."""
        return await self._call(partial(tasks.lease, request=request), "transaction")

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Extend leases."""
        return await self._call(partial(tasks.renew, renewals=renewals, at=at))

    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        """Let other workers have leased tasks."""
        return await self._call(partial(tasks.give_back, leases=leases))

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        """Keep sessions, or give them up."""
        return await self._call(partial(tasks.hold_sessions, holds=holds, at=at))

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell the workers of all processes that queues have changed."""
        for hint in hints:
            self._task_bell.ring(hint)
            if self._open is not None:
                self._open.notices.tell_workers(hint)

    def task_hints(self) -> AsyncIterator[TaskHint]:
        """What workers are told here and in other processes."""
        if self._open is not None:
            self._open.notices.listen()
        return self._task_bell.listen()

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters."""
        return await self._call(partial(tasks.drop_letters, letters=letters))

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Remove expired answers, tombstones and dead letters, and bury undelivered messages."""
        return await self._call(
            partial(tasks.sweep, fences=fences, at=at, limit=limit, limits=self._limits)
        )

    # ------------------------------------------------------------ queries and waiting

    async def query(self, query: Query[T]) -> Page[T]:
        """Answer a query."""

        async def work(connection: Connection) -> Page[T]:
            return await reads.answer(connection, query)

        return await self._read(work, "snapshot")

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit has another version than `version`, or the time is up.

        A commit of this process ends the wait, and so does the notification of another one.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        look_ms = _LOOK_FIRST_MS
        while True:
            # Watched before the look at the version, so that no commit falls between the two.
            with self._watchers.watch(unit) as waiter:
                known, scope = await self._read(partial(reads.version_of, unit=unit))
                left_ms = math.ceil((deadline - loop.time()) * 1000)
                if known != version or left_ms <= 0:
                    return known
                notices = self._parts().notices
                longest_ms = _LOOK_LAST_MS
                if scope in self._held:
                    look_ms = longest_ms = int(WATCH_S * 1000)
                else:
                    notices.listen()
                    notices.watch(unit)
                    if notices.heard:
                        longest_ms = int(WATCH_S * 1000)
                look_ms = min(look_ms, longest_ms)
                changed = await wait_for_change(waiter, min(left_ms, look_ms))
                if changed is not None and changed != version:
                    return changed
                look_ms *= 2

    def _changed_elsewhere(self, unit: str, version: int) -> None:
        for waiter, changed in self._watchers.take([(unit, version)]):
            answer(waiter, changed)

    def hints(self) -> AsyncIterator[Hint]:
        """Units that got messages by `post`, here or in another process."""
        if self._open is not None:
            self._open.notices.listen()
        return self._bell.listen()

    async def dump(self) -> Rows:
        """All rows by table, sorted: comparable between stores."""
        return await self._read(dump, "snapshot")

    # ------------------------------------------------------------ moving

    @property
    def place(self) -> str:
        """Its URL, without user and password."""
        return self._address.place

    async def hold(self) -> None:
        """Have the connection on which all of a move is done.

        Raises:
            StoreLocked: another process moves this store.
        """
        if self._mover is None:
            try:
                self._mover = await moving.connect(self._address)
            except DRIVER_ERRORS as error:
                raise explain(error, self._address.name) from error

    async def _move(self, work: Callable[[Connection], Awaitable[T]], mode: Mode) -> T:
        mover = self._mover
        if mover is None:
            msg = f"{self._address.name} is not held; call `hold` before anything is moved"
            raise UsageError(msg)
        # Past a pooler, so that nothing is to be set for each transaction.
        address = self._address.unpooled
        try:
            async with turn(mover, address, mode):
                return await work(mover)
        except Exception as error:
            # A lost connection has lost the lock. The move is begun again, and goes on from there.
            self._fail(error, "unknown")

    async def seal(self) -> Seal | None:
        """The seal that it has now."""
        # Clients ask, too, and hold nothing.
        if self._mover is None:
            return await self._read(moving.seal_of)
        return await self._move(moving.seal_of, "transaction")

    async def reseal(self, before: Seal | None, after: Seal | None) -> None:
        """Put one seal in the place of another."""
        work = partial(moving.reseal, before=before, after=after, name=self._address.name)
        await self._move(work, "transaction")

    async def tables(self) -> Mapping[str, int]:
        """The tables to copy, and how many rows each has."""
        return await self._move(moving.tables, "snapshot")

    async def rows(self, table: str, after: Key | None) -> RowPart:
        """The rows of a table behind a key."""
        return await self._move(partial(moving.rows, table=table, after=after), "snapshot")

    async def last_key(self, table: str) -> Key | None:
        """The key of the last row."""
        return await self._move(partial(moving.last_key, table=table), "snapshot")

    async def fill(self, seal: Seal, table: str, part: RowPart) -> None:
        """Add rows while the store is the target of a move."""
        name = self._address.name
        work = partial(moving.fill, seal=seal, table=table, part=part, name=name)
        await self._move(work, "transaction")


def _hand_over(
    verdicts: asyncio.Future[list[Verdict]], decided: asyncio.Future[list[Decided]]
) -> None:
    """Give the caller of `commit` its verdicts."""
    # A lane cancels nothing, but a caller may have been cancelled.
    error = decided.exception()
    if verdicts.done():
        return
    if error is not None:
        verdicts.set_exception(error)
    else:
        verdicts.set_result([verdict for verdict, _ in decided.result()])
