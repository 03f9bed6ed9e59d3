"""Bad luck between a node and its store.

`UnreliableStore` refuses, does not answer or is late, as a seed decides:

    UnreliableStore(MemoryStore(), Mishaps(7, {"commit unanswered": 0.1, "read fails": 0.05}))
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Literal, Self, TypeVar

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.store import (
    Claim,
    Hint,
    InboxPart,
    Incarnation,
    Loaded,
    Page,
    Posted,
    Query,
    Store,
    StoreInfo,
    Swept,
    Wake,
)
from perdure.ports.tasks import Leased, Renewal, SessionHold, TaskHint, TaskRequest

T = TypeVar("T")


class PassingStore:
    """A store that hands all calls on to another one, which it neither opens nor closes.

    Stores that interfere with a call override its method.
    """

    def __init__(self, store: Store) -> None:
        """Wrap an open store."""
        self._store = store

    def _reach(self) -> Store:
        """The store of all calls that are handed on."""
        return self._store

    @property
    def info(self) -> StoreInfo:
        """The store's."""
        return self._store.info

    async def __aenter__(self) -> Self:
        """The store is open already."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The store stays open."""

    async def now(self) -> int:
        """The store's time."""
        return await self._reach().now()

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Load."""
        return await self._reach().load(units)

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """Read an inbox."""
        return await self._reach().inbox(unit, after, limit)

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Read arrivals."""
        return await self._reach().arrivals(scopes, after, limit)

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Read wakes."""
        return await self._reach().wakes(scopes, until, after, limit)

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """Read the next wake."""
        return await self._reach().next_wake(scopes, after)

    async def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks."""
        return await self._reach().lease(request)

    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        """Give leased tasks back."""
        return await self._reach().give_back(leases)

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        """Keep sessions."""
        return await self._reach().hold_sessions(holds, at)

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell workers of queues."""
        self._reach().tell_workers(hints)

    def task_hints(self) -> AsyncIterator[TaskHint]:
        """Listen to hints for workers."""
        return self._reach().task_hints()

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Renew leases."""
        return await self._reach().renew(renewals, at)

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Sweep."""
        return await self._reach().sweep(fences, at, limit)

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters."""
        return await self._reach().drop_letters(letters)

    async def query(self, query: Query[T]) -> Page[T]:
        """Query."""
        return await self._reach().query(query)

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait for a change."""
        return await self._reach().wait_change(unit, version, timeout_ms)

    def hints(self) -> AsyncIterator[Hint]:
        """Listen to hints."""
        return self._reach().hints()

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Claim."""
        return await self._reach().claim(scopes, owner)

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Release."""
        return await self._reach().release(fences)

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Commit."""
        return await self._reach().commit(batch)

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Post."""
        return await self._reach().post(batch)


Mishap = Literal[
    "commit refused",
    "commit unanswered",
    "commit overtaken",
    "commit late",
    "post refused",
    "post unanswered",
    "read fails",
    "read late",
    "hint lost",
    "hint late",
    "hint twice",
]
"""The mishaps between a node and its store.

`refused`: StoreUnavailable, and nothing was stored. `unanswered`: it was stored, and the answer is
StoreUnavailable with an unknown outcome. `overtaken`: another commit raises the version of the unit
before, so that the verdict is `stale`. `late`: done at once, and answered later.
"""


class Mishaps:
    """Decides from a seed which mishaps happen, and counts them."""

    def __init__(self, seed: int, rates: Mapping[Mishap, float], *, late_s: float = 0.02) -> None:
        """`rates` are probabilities from 0 (never) to 1. An answer is late by up to `late_s`."""
        self.counts: Counter[Mishap] = Counter()
        self._random = Random(seed)
        self._rates = dict(rates)
        self._late_s = late_s

    def strikes(self, mishap: Mishap) -> bool:
        """Whether this one happens now."""
        rate = self._rates.get(mishap, 0)
        # No number is drawn for a mishap without a rate, so that other rates keep their choices.
        if rate == 0 or self._random.random() >= rate:
            return False
        self.counts[mishap] += 1
        return True

    def delay_s(self) -> float:
        """The delay of a late answer."""
        return self._random.random() * self._late_s

    def commit_id(self) -> bytes:
        """The id of another writer's commit."""
        return self._random.randbytes(16)

    def begin(self, rates: Mapping[Mishap, float], seed: int) -> None:
        """Let other mishaps happen from now on, as another seed decides."""
        self._random = Random(seed)
        self._rates = dict(rates)

    def end(self) -> None:
        """Let no mishap happen any more."""
        self._rates.clear()


class UnreliableStore(PassingStore):
    """A store with mishaps."""

    def __init__(self, store: Store, mishaps: Mishaps) -> None:
        """Wrap an open store."""
        super().__init__(store)
        self._mishaps = mishaps

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Commit, unless the store cannot be reached. Perhaps another commit comes first."""
        strikes = self._mishaps.strikes
        # A commit of a new unit has no version that could be raised before it.
        for commit in batch:
            if commit.expect and strikes("commit overtaken"):
                await self._overtake(commit)
        if strikes("commit refused"):
            raise StoreUnavailable("a commit was refused on purpose", "none")
        # From here on the commit is stored, whatever its caller gets to know.
        verdicts = await self._store.commit(batch)
        if strikes("commit late"):
            await asyncio.sleep(self._mishaps.delay_s())
        if strikes("commit unanswered"):
            raise StoreUnavailable("a commit was not answered on purpose", "unknown")
        return verdicts

    async def _overtake(self, commit: Commit) -> None:
        """Raise the version of the unit as another writer with the same fence would."""
        stored = (await self._store.load([commit.unit]))[0]
        # A commit that is submitted again may be stored already. Then no writer with this fence
        # could have come between its two answers.
        if stored.row is not None and stored.version == commit.expect:
            other_id = self._mishaps.commit_id()
            other = Commit(
                other_id, commit.fence, commit.at, commit.unit, stored.version, stored.row
            )
            await self._store.commit([other])

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Post, unless the store cannot be reached."""
        if self._mishaps.strikes("post refused"):
            raise StoreUnavailable("a post was refused on purpose", "none")
        posted = await self._store.post(batch)
        if self._mishaps.strikes("post unanswered"):
            raise StoreUnavailable("a post was not answered on purpose", "unknown")
        return posted

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Load, if the store can be read."""
        await self._before_reading()
        loaded = await self._store.load(units)
        await self._after_reading()
        return loaded

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """Read an inbox, if the store can be read."""
        await self._before_reading()
        found = await self._store.inbox(unit, after, limit)
        await self._after_reading()
        return found

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Read arrivals, if the store can be read."""
        await self._before_reading()
        return await self._store.arrivals(scopes, after, limit)

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Read wakes, if the store can be read."""
        await self._before_reading()
        return await self._store.wakes(scopes, until, after, limit)

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """Read the next wake, if the store can be read."""
        await self._before_reading()
        return await self._store.next_wake(scopes, after)

    async def query(self, query: Query[T]) -> Page[T]:
        """Query, if the store can be read."""
        await self._before_reading()
        page = await self._store.query(query)
        await self._after_reading()
        return page

    async def _before_reading(self) -> None:
        if self._mishaps.strikes("read fails"):
            raise StoreUnavailable("a read failed on purpose", "none")

    async def _after_reading(self) -> None:
        if self._mishaps.strikes("read late"):
            await asyncio.sleep(self._mishaps.delay_s())

    async def hints(self) -> AsyncIterator[Hint]:
        """The hints that are not lost. Some are late, and some come twice."""
        # Hints may be lost: the look at arrivals finds what they would have told.
        async for hint in self._store.hints():
            if self._mishaps.strikes("hint lost"):
                continue
            if self._mishaps.strikes("hint late"):
                await asyncio.sleep(self._mishaps.delay_s())
            yield hint
            if self._mishaps.strikes("hint twice"):
                yield hint
