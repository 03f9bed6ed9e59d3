"""The store in memory: the public fake, and the reference that other stores are compared with.

Everything happens at the call, in the order of the calls. Nothing survives the process.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import Literal, Self, TypeVar

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import CLOSED, Commit, Fence, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.clock import Clock, SystemClock
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
from perdure.store.memory.dump import dump
from perdure.store.memory.queries import answer as answer_query
from perdure.store.memory.rows import Tables
from perdure.store.memory.unit import Unit
from perdure.store.page import check_limit, key_of, place_of
from perdure.store.watch import Watchers, answer, wait_for_change

T = TypeVar("T")

FORMAT = 3

Time = tuple[str, int, str]
"""A scope, a time at which a unit in it needs its owner, and the unit."""


class MemoryStore:
    """A store in memory.

    It is deterministic: it draws its id at construction, and reads `clock` in `now` only.
    """

    def __init__(
        self,
        *,
        shards: int = 1,
        limits: StoreLimits = DEFAULT_LIMITS,
        clock: Clock | None = None,
        id: str | None = None,
    ) -> None:
        """Create an empty store with so many shards."""
        self.info = StoreInfo(id or uuid.uuid4().hex, FORMAT, shards, dedupe_ms=limits.dedupe_ms)
        self._clock = clock or SystemClock()
        self._tables = Tables(limits)
        self._watchers = Watchers()
        self._bell = Bell[Hint]()
        self._task_bell = Bell[TaskHint]()
        self._open = False

    async def __aenter__(self) -> Self:
        """Open it. Its rows of before are still there."""
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._open = False
        self._bell.close()
        self._task_bell.close()
        self._watchers.fail(self._closed())

    def _rows(self) -> Tables:
        if not self._open:
            raise self._closed()
        return self._tables

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(
            "the memory store is closed; use it inside `async with store:`", permanent=True
        )

    async def now(self) -> int:
        """Store time in milliseconds."""
        return self._clock.now_ms()

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Take scopes over."""
        rows = self._rows()
        return {scope: rows.claim(scope, owner) for scope in scopes}

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Give up the scopes that these fences own."""
        rows = self._rows()
        return [fence.scope for fence in fences if rows.release(fence)]

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Apply a batch."""
        rows = self._rows()
        verdicts = rows.commit(batch)
        changed: set[str] = set()
        for commit, result in zip(batch, verdicts, strict=True):
            if result == "applied":
                changed.add(commit.unit)
                self._ring_for(commit, rows)
        versions = [(unit, self._version(unit)) for unit in changed]
        for waiter, version in self._watchers.take(versions):
            answer(waiter, version)
        return verdicts

    def _ring_for(self, commit: Commit, rows: Tables) -> None:
        """Ring for messages to units of other owners. A node tells its own units itself."""
        for message in commit.post:
            scope = rows.scope(message.to, message.scope)
            if rows.owner(scope) != commit.fence.incarnation:
                self._bell.ring(Hint(message.to, scope))

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Put messages into inboxes."""
        rows = self._rows()
        check_scopes(batch)
        posted = [rows.post(message) for message in batch]
        for message, result in zip(batch, posted, strict=True):
            if result.outcome == "accepted":
                scope = rows.scope(message.to, message.scope)
                self._bell.ring(Hint(message.to, scope))
        return posted

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        """Units as stored."""
        rows = self._rows()
        return [self._load(name, rows.unit(name)) for name in units]

    def _load(self, name: str, unit: Unit) -> Loaded:
        # Structs that the owner of a unit changes are copied, because it changes them in place.
        inbox = [copy(message) for message in unit.messages()]
        place = None
        if unit.inbox:
            last, _ = next(reversed(unit.inbox.values()))
            place = place_of((last,))
        if unit.row is None:
            return Loaded(name, inbox=inbox, place=place)
        return Loaded(
            name,
            unit.version,
            copy(unit.row),
            list(unit.current_journal()),
            [entry for _, entry in sorted(unit.kv.items())],
            inbox,
            [copy(task) for _, task in sorted(unit.tasks.items())],
            place,
            [copy(run) for _, run in sorted(unit.runs.items())],
            [part for _, part in sorted(unit.state.items())],
        )

    def _version(self, unit: str) -> int:
        return self._rows().unit(unit).version

    # ------------------------------------------------------------ messages

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """The messages that wait for a unit, in order, from a place on."""
        check_limit(limit)
        (start,) = key_of(after, tuple[int]) or (0,)
        found: list[Message] = []
        last = start
        for place, message in self._rows().unit(unit).inbox.values():
            if place > start:
                found.append(copy(message))
                last = place
                if len(found) == limit:
                    break
        if not found:
            return InboxPart([], after)
        return InboxPart(found, place_of((last,)))

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Units of these scopes with messages that came behind a place, and still wait."""
        check_limit(limit)
        rows = self._rows()
        if after is None:
            return Page([], place_of((rows.last_place,)))
        (start,) = key_of(after, tuple[int]) or (0,)
        # From the newest one back, so that the cost is that of what has come.
        behind: list[int] = []
        for place in reversed(rows.arrived):
            if place <= start:
                break
            behind.append(place)
        wanted = set(scopes)
        found: dict[str, None] = {}
        for place in reversed(behind):
            message = rows.arrived[place]
            if message.scope in wanted:
                found[message.to] = None
                if len(found) == limit:
                    return Page(list(found), place_of((place,)))
        return Page(list(found), place_of((rows.last_place,)))

    # ------------------------------------------------------------ wakes

    def _times(self, scopes: Sequence[str]) -> Iterator[Time]:
        """All times of these scopes, in no order, some of them several times."""
        wanted = set(scopes)
        for name, unit in self._rows().units.items():
            row = unit.row
            if row is not None and row.scope in wanted:
                wake_at = row.wake_at
                if wake_at is not None and row.status not in CLOSED:
                    yield row.scope, wake_at, name
            for message in unit.messages():
                if message.scope in wanted:
                    yield message.scope, message.visible_at, name
            for task in unit.tasks.values():
                if task.expires_at is not None and task.scope in wanted:
                    yield task.scope, task.expires_at, name

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Units that are due, have visible messages, or an expired lease, by scope and time."""
        check_limit(limit)
        start = key_of(after, tuple[str, int, str])
        due: set[Time] = set()
        for time in self._times(scopes):
            if time[1] <= until and (start is None or time > start):
                due.add(time)
        times = sorted(due)
        wakes: dict[str, Wake] = {}
        for _, at, name in times[:limit]:
            # The first of several times of a unit is when it needed its owner.
            if name not in wakes:
                wakes[name] = self._wake(name, at, until)
        if len(times) > limit:
            return Page(list(wakes.values()), place_of(times[limit - 1]))
        return Page(list(wakes.values()))

    def _wake(self, name: str, at: int, until: int) -> Wake:
        unit = self._rows().unit(name)
        suspect = 0
        if unit.row is not None:
            suspect = unit.row.suspect
        has_messages = any(message.visible_at <= until for message in unit.messages())
        return Wake(name, at, suspect, has_messages)

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """The earliest time later than `after` at which `wakes` will have more to say."""
        return min((at for _, at, _ in self._times(scopes) if at > after), default=None)

    # ------------------------------------------------------------ tasks and sweeping

    async def lease(self, request: TaskRequest) -> Leased:
        """Lease tasks that wait for a worker."""
        return self._rows().lease(request)

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Extend leases."""
        rows = self._rows()
        results: list[Literal["kept", "lost"]] = []
        for renewal in renewals:
            if rows.renew(renewal, at):
                results.append("kept")
            else:
                results.append("lost")
        return results

    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        """Let other workers have leased tasks."""
        rows = self._rows()
        hints: dict[TaskHint, None] = {}
        for lease in leases:
            queue = rows.give_back(lease)
            # None: the lease is lost, and the task is another worker's by now.
            if queue is not None:
                hints[TaskHint(queue)] = None
        return list(hints)

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        """Keep sessions, or give them up."""
        rows = self._rows()
        return [rows.hold_session(hold, at) for hold in holds]

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell the workers that queues have changed."""
        for hint in hints:
            self._task_bell.ring(hint)

    def task_hints(self) -> AsyncIterator[TaskHint]:
        """What workers are told."""
        return self._task_bell.listen()

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Remove expired answers, tombstones and dead letters, and bury undelivered messages."""
        return self._rows().sweep(fences, at, limit)

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        """Remove dead letters."""
        return self._rows().drop_letters(set(letters))

    # ------------------------------------------------------------ queries and waiting

    async def query(self, query: Query[T]) -> Page[T]:
        """Answer a query."""
        return answer_query(self._rows(), query)

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit has another version than `version`, or the time is up."""
        # Watched before the look at the version, so that no commit falls between the two.
        with self._watchers.watch(unit) as waiter:
            known = self._version(unit)
            if known != version:
                return known
            changed = await wait_for_change(waiter, timeout_ms)
        if changed is None:
            return self._version(unit)
        return changed

    def hints(self) -> AsyncIterator[Hint]:
        """Units that got messages by `post`, or by a commit of another owner."""
        return self._bell.listen()

    async def dump(self) -> Rows:
        """All rows by table, sorted: comparable between stores."""
        return dump(self._rows())
