"""The store in a SQLite file (or in SQLite's memory): one writer thread, a few readers.

One process owns the file: it claims scopes and commits, and holds an OS lock that the kernel
releases when the process dies. Other processes may open the file meanwhile. They read, post
messages, and wait for changes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import quote

import msgspec

from perdure.errors import StoreFormat, StoreUnavailable, UsageError
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.moving import Key, RowPart, Seal
from perdure.ports.store import (
    Claim,
    Hint,
    InboxPart,
    Incarnation,
    Loaded,
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
from perdure.store.sqlite import moving, reads, sweeping, tasks
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.database import MEMORY, FileGuard, Options, open_database
from perdure.store.sqlite.dump import dump
from perdure.store.sqlite.fork import tell_children
from perdure.store.sqlite.lock import holder_of, is_owned
from perdure.store.sqlite.owner import Ownership
from perdure.store.sqlite.reader import FileReader, Reader, WriterReader
from perdure.store.sqlite.writer import Call, Writer
from perdure.store.watch import Waiter, Watchers, wait_for_change

T = TypeVar("T")

logger = logging.getLogger("perdure.store")

_CLAIM_AGAIN_S = 1.0
"""How long a standby that owns its file waits before it tries to write to the file again."""

UNOWNED_LOOK_MS = 250
"""How often a waiting process looks at a file that no process owns."""
FOREIGN_LOOK_MS = 5_000
"""The same, while the owner's socket answers. A hint may have been lost."""


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


class SQLiteStore:
    """A store in a SQLite file.

    Structs that are handed to `commit` must not be changed until it answers.
    """

    def __init__(
        self,
        path: str = MEMORY,
        *,
        options: Options | None = None,
        limits: StoreLimits = DEFAULT_LIMITS,
        clock: Clock | None = None,
    ) -> None:
        """Name the file. `async with` opens it, and creates it if need be."""
        self.path = path
        self._file = path
        # A program may change its folder.
        if path != MEMORY:
            self._file = _absolute(path)
        self._options = options or Options()
        self._limits = limits
        self._clock = clock or SystemClock()
        self._watchers = Watchers()
        self._bell = Bell[Hint]()
        self._task_bell = Bell[TaskHint]()
        self._info: StoreInfo | None = None
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._forked = False
        self._owner = Ownership(
            self._file,
            path,
            self._bell,
            self._task_bell,
            self.wait_change,
            standby=self._options.standby,
        )

    @property
    def options(self) -> Options:
        """How the file is opened."""
        return self._options

    @property
    def info(self) -> StoreInfo:
        """Identity, format, shard count and capabilities. They are known once the store is open."""
        if self._info is None:
            raise self._closed()
        return self._info

    def _name(self) -> str:
        """The path as it was given, while it still means the same file."""
        if self.path == MEMORY or _absolute(self.path) == self._file:
            return self.path
        return self._file

    def _closed(self) -> StoreUnavailable:
        if self._forked:
            return StoreUnavailable(
                f"the store {self.path} was opened before this process was forked; open it anew",
                permanent=True,
            )
        return StoreUnavailable(
            f"the store {self.path} is closed; use it inside `async with store:`",
            permanent=True,
        )

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            StoreError: naming the file, what is wrong with it, and the remedy.
        """
        name = self._name()
        # On a thread, because the disk may be slow and another program may hold the file.
        new_id = uuid.uuid4().hex
        connection, info = await asyncio.to_thread(open_database, name, self._options, new_id)
        self._info = msgspec.structs.replace(info, dedupe_ms=self._limits.dedupe_ms)
        if self.path == MEMORY:
            self._writer = Writer(
                connection, self.path, None, self._watchers, self._bell, self._limits
            )
            self._reader = WriterReader(self._writer)
        else:
            guard = FileGuard(self._file, name, read_only=self._options.read_only)
            self._writer = Writer(connection, name, guard, self._watchers, self._bell, self._limits)
            self._reader = FileReader(name, self._options, guard)
        tell_children(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is waiting, and close the file."""
        writer = self._writer
        reader = self._reader
        # First of all, so that nothing more is submitted to what is being closed.
        self._writer = None
        self._reader = None
        # Each part is closed, whatever becomes of the others. The last one that is pushed goes
        # first.
        async with AsyncExitStack() as stack:
            if writer is not None:
                stack.push_async_callback(asyncio.to_thread, writer.close)
            if reader is not None:
                stack.push_async_callback(asyncio.to_thread, reader.close)
            stack.push_async_callback(self._owner.close)
            stack.callback(self._watchers.fail, self._closed())
            stack.callback(self._bell.close)
            stack.callback(self._task_bell.close)

    def forked(self) -> None:
        """Be closed, in a forked child."""
        # The parent's connections and threads are of no use there.
        for part in (self._writer, self._reader):
            if part is not None:
                part.forked()
        self._forked = True
        self._writer = None
        self._reader = None
        self._owner.forked()

    async def owner(self) -> str | None:
        """The process that owns the file now, for people: "process 4242 (node 6cc33b6a)".

        None: there is none.
        """
        if self.path == MEMORY:
            return None
        if not await asyncio.to_thread(is_owned, self._file):
            return None
        return str(holder_of(self._file))

    def _writing(self) -> Writer:
        if self._writer is None:
            raise self._closed()
        if self._options.read_only:
            msg = f"{self.path} was opened with read_only=true; open it without to write"
            raise UsageError(msg)
        return self._writer

    async def _read(self, function: Callable[[Connection], T]) -> T:
        if self._reader is None:
            raise self._closed()
        try:
            return await self._reader.read(function)
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            msg = (
                f"{self.path} holds a row that cannot be read ({error}); "
                "stop the node and restore a backup"
            )
            raise StoreFormat(msg) from error

    async def _write(self, function: Callable[[Connection], T]) -> T:
        result: T
        (result,) = await self._writing().submit([Call(function)])
        return result

    async def now(self) -> int:
        """The machine's time in milliseconds."""
        return self._clock.now_ms()

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Take scopes over.

        A standby waits for a file that cannot be written, as it does for an owner.

        Raises:
            StoreLocked: another process owns the file. The message names it.
        """
        self._writing()
        await self._owner.take(owner.id)
        try:
            claims = await self._write_claim(scopes, owner)
        except StoreUnavailable as error:
            if not self._options.standby:
                raise
            logger.warning("a standby waits until it can write to its store: %s", error)
            claims = await self._insist_on_claim(scopes, owner)
        await self._owner.count(scopes, claimed=True)
        return claims

    async def _write_claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        return await self._write(lambda connection: tasks.claim(connection, scopes, owner))

    async def _insist_on_claim(
        self, scopes: Sequence[str], owner: Incarnation
    ) -> Mapping[str, Claim]:
        while True:
            await asyncio.sleep(_CLAIM_AGAIN_S)
            # Raises when the store was closed meanwhile.
            self._writing()
            # The disk is still full or away. The first refusal was logged.
            with suppress(StoreUnavailable):
                return await self._write_claim(scopes, owner)

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Give up the scopes that these fences own."""
        scopes = await self._write(lambda connection: tasks.release(connection, fences))
        await self._owner.count(scopes, claimed=False)
        return scopes

    def commit(self, batch: Sequence[Commit]) -> asyncio.Future[list[Verdict]]:
        """Make commits durable, together with whatever else is waiting to be written.

        They are on their way when this returns, even if the future is never awaited.
        """
        # The usual way, without the frames of the checks: each turn commits.
        if self._writer is not None and not self._options.read_only:
            return self._writer.submit(batch)
        try:
            return self._writing().submit(batch)
        # Raised where it is awaited, as by the other stores.
        except (StoreUnavailable, UsageError) as error:
            refused: asyncio.Future[list[Verdict]] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Put messages into inboxes."""
        check_scopes(batch)
        if not batch:
            return []
        posted = self._writing().submit(batch)
        # The bell rings and the batch is written also when the caller is cancelled.
        posted.add_done_callback(partial(self._ring, batch))
        return await asyncio.shield(posted)

    def _ring(self, batch: Sequence[Message], posted: asyncio.Future[list[Posted]]) -> None:
        if posted.cancelled() or posted.exception() is not None:
            return
        for message, result in zip(batch, posted.result(), strict=True):
            if result.outcome == "accepted":
                hint = Hint(message.to, message.scope)
                self._bell.ring(hint)
                self._owner.tell(hint)

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Units as stored, all in one snapshot."""
        return await self._read(lambda connection: reads.load(connection, units))

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """The messages that wait for a unit, in order, from a place on."""
        return await self._read(lambda connection: reads.inbox(connection, unit, after, limit))

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Units of these scopes with messages that came behind a place, and still wait."""
        return await self._read(lambda connection: reads.arrivals(connection, scopes, after, limit))

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Units that are due, have visible messages, or an expired lease, by scope and time."""
        return await self._read(
            lambda connection: reads.wakes(connection, scopes, until, after, limit)
        )

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """The earliest time later than `after` at which `wakes` will have more to say."""
        return await self._read(lambda connection: reads.next_wake(connection, scopes, after))

    async def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks that wait for a worker."""
        return await self._write(lambda connection: tasks.lease(connection, request))

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Extend leases."""
        return await self._write(lambda connection: tasks.renew(connection, renewals, at))

    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        """Let other workers have leased tasks."""
        return await self._write(lambda connection: tasks.give_back(connection, leases))

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        """Keep sessions, or give them up."""
        return await self._write(lambda connection: tasks.hold_sessions(connection, holds, at))

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell the workers of all processes that queues have changed."""
        for hint in hints:
            self._task_bell.ring(hint)
        self._owner.tell_workers(hints)

    def task_hints(self) -> AsyncIterator[TaskHint]:
        """What workers are told here and in other processes."""
        self._owner.hear_of_tasks()
        return self._task_bell.listen()

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters."""
        return await self._write(lambda connection: sweeping.drop_letters(connection, letters))

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Remove expired answers, tombstones and dead letters, and bury undelivered messages."""
        return await self._write(
            lambda connection: sweeping.sweep(connection, fences, at, limit, self._limits)
        )

    async def query(self, query: Query[T]) -> Page[T]:
        """Answer a query."""
        return await self._read(lambda connection: reads.answer(connection, query))

    async def _version(self, unit: str) -> int:
        found = await self._read(lambda connection: reads.versions(connection, [unit]))
        return found.get(unit, 0)

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit has another version than `version`, or the time is up.

        In the owning process a commit ends the wait. In others the owner's socket does. While no
        owner answers the file is looked at every 250 ms.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            # Watched before the look at the version, so that no commit falls between the two.
            with self._watchers.watch(unit) as waiter:
                known = await self._version(unit)
                left_ms = math.ceil((deadline - loop.time()) * 1000)
                if known != version or left_ms <= 0:
                    return known
                if self.path == MEMORY or self._owner.held:
                    changed = await wait_for_change(waiter, left_ms)
                    if changed is not None:
                        return changed
                else:
                    await self._wait_for_foreign_change(waiter, unit, version, left_ms)

    async def _wait_for_foreign_change(
        self, waiter: Waiter, unit: str, version: int, left_ms: int
    ) -> None:
        """Wait until it is time to look at the file again."""
        if await self._owner.wait_change(unit, version, min(left_ms, FOREIGN_LOOK_MS)):
            return
        # No process owns the file, or this one has become its owner meanwhile.
        await wait_for_change(waiter, min(left_ms, UNOWNED_LOOK_MS))

    def hints(self) -> AsyncIterator[Hint]:
        """Units that got messages by `post`, here or in another process."""
        return self._bell.listen()

    async def inspect(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of a query on the writing connection, for people. It must change nothing."""
        return await self._write(lambda connection: list(connection.execute(sql)))

    async def dump(self) -> Rows:
        """All rows by table, sorted: comparable between stores."""
        return await self._read(dump)

    # ------------------------------------------------------------ moving

    @property
    def place(self) -> str:
        """Its URL, with the whole path."""
        if self.path == MEMORY:
            return "sqlite://"
        return f"sqlite:///{quote(self._file)}"

    async def hold(self) -> None:
        """Own the file, without a claim.

        Raises:
            StoreLocked: another process owns the file. The message names it.
        """
        await self._owner.take("move")

    async def seal(self) -> Seal | None:
        """The seal that it has now."""
        return await self._read(moving.seal_of)

    async def reseal(self, before: Seal | None, after: Seal | None) -> None:
        """Put one seal in the place of another."""
        await self._rewrite(partial(moving.reseal, before=before, after=after, name=self._name()))

    async def tables(self) -> Mapping[str, int]:
        """The tables to copy, and how many rows each has."""
        return await self._read(moving.tables)

    async def rows(self, table: str, after: Key | None) -> RowPart:
        """The rows of a table behind a key."""
        return await self._read(partial(moving.rows, table=table, after=after))

    async def last_key(self, table: str) -> Key | None:
        """The key of the last row."""
        return await self._read(partial(moving.last_key, table=table))

    async def fill(self, seal: Seal, table: str, part: RowPart) -> None:
        """Add rows while the store is the target of a move."""
        await self._rewrite(
            partial(moving.fill, seal=seal, table=table, part=part, name=self._name())
        )

    async def _rewrite(self, function: Callable[[Connection], None]) -> None:
        await self._writing().submit([Call(function, rewrites=True)])
