"""A store that reports how long each operation took, and how it ended. It serves metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar

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

Record = Callable[[str, int, float, Exception | None], None]
"""Gets the operation, the number of its arguments, the seconds that it took, and its error."""


class MeasuredStore:
    """Measures a store. To its caller it is the same store."""

    # `wait_change` and `hints` are not measured: how long a wait takes says nothing about the
    # store.

    def __init__(
        self, store: Store, record: Record, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        """Wrap a store. `timer` gives seconds."""
        self._store = store
        self._record = record
        self._timer = timer

    async def _measured(self, operation: str, size: int, work: Awaitable[T]) -> T:
        began = self._timer()
        error: Exception | None = None
        try:
            return await work
        # A cancelled caller is a BaseException, and no error of the store.
        except Exception as raised:
            error = raised
            raise
        finally:
            self._record(operation, size, self._timer() - began, error)

    @property
    def info(self) -> StoreInfo:
        """Identity and shape of the store."""
        return self._store.info

    async def __aenter__(self) -> Self:
        """Open the store."""
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        await self._store.__aexit__(kind, error, trace)

    async def now(self) -> int:
        """Store time in milliseconds."""
        return await self._measured("now", 1, self._store.now())

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Take scopes over."""
        return await self._measured("claim", len(scopes), self._store.claim(scopes, owner))

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Give scopes up."""
        return await self._measured("release", len(fences), self._store.release(fences))

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Make commits durable together."""
        return await self._measured("commit", len(batch), self._store.commit(batch))

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Put messages into inboxes."""
        return await self._measured("post", len(batch), self._store.post(batch))

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Units as stored."""
        return await self._measured("load", len(units), self._store.load(units))

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """The messages that wait for a unit."""
        return await self._measured("inbox", 1, self._store.inbox(unit, after, limit))

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Units for which messages have come."""
        return await self._measured("arrivals", 1, self._store.arrivals(scopes, after, limit))

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Units that are due, or have messages."""
        return await self._measured("wakes", 1, self._store.wakes(scopes, until, after, limit))

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """The earliest `wake_at` or message later than `after`."""
        return await self._measured("next_wake", 1, self._store.next_wake(scopes, after))

    async def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks."""
        return await self._measured("lease", request.limit, self._store.lease(request))

    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        """Let other workers have leased tasks."""
        return await self._measured("give_back", len(leases), self._store.give_back(leases))

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        """Keep sessions."""
        return await self._measured(
            "hold_sessions", len(holds), self._store.hold_sessions(holds, at)
        )

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell workers of queues."""
        self._store.tell_workers(hints)

    def task_hints(self) -> AsyncIterator[TaskHint]:
        """Queues of which workers are told."""
        return self._store.task_hints()

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Extend leases."""
        return await self._measured("renew", len(renewals), self._store.renew(renewals, at))

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Remove what has expired."""
        return await self._measured("sweep", 1, self._store.sweep(fences, at, limit))

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters."""
        return await self._measured("drop_letters", len(letters), self._store.drop_letters(letters))

    async def query(self, query: Query[T]) -> Page[T]:
        """Lists and histories."""
        return await self._measured("query", 1, self._store.query(query))

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit's row has another version."""
        return await self._store.wait_change(unit, version, timeout_ms)

    def hints(self) -> AsyncIterator[Hint]:
        """Units that got messages."""
        return self._store.hints()
