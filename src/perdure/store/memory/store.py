"""The store in memory: the public fake, and the reference that other stores are compared with.

Everything happens at the call, in the order of the calls; nothing survives the process.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from copy import copy
from itertools import takewhile
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast, get_args

from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.attributes import terms_of
from perdure.kernel.data.commit import CLOSED, Commit, Fence, Status, Task, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.store import (
    ANY_TASK,
    Claim,
    Counts,
    DeadLetter,
    DeadLetters,
    Executions,
    Hint,
    Inbox,
    InboxPart,
    Incarnation,
    Journal,
    KvEntries,
    Loaded,
    Page,
    Posted,
    Query,
    QueueDepth,
    Queues,
    Renewal,
    StoreInfo,
    Swept,
    TaskMatch,
    Totals,
    Units,
    UnitView,
    Wake,
)
from perdure.ports.where import Where
from perdure.store.bell import Bell
from perdure.store.derived import Rows, check_scopes
from perdure.store.limits import DEFAULT_LIMITS, StoreLimits
from perdure.store.memory.rows import Tables, Unit
from perdure.store.page import check_limit, key_of, page_of, place_of
from perdure.store.watch import Watchers, answer, wait_for_change

T = TypeVar("T")

FORMAT = 3
STATUSES: tuple[str, ...] = get_args(Status)


class MemoryStore:
    """A store in memory. Deterministic: it draws its id at construction and reads `clock` only in `now`."""

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
        self._bell = Bell()
        self._open = False

    async def __aenter__(self) -> Self:
        """Open it; what it held before is still there."""
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
        for commit, result in zip(batch, verdicts, strict=True):
            if result == "applied":
                self._ring_for(commit, rows)
        changed = {
            commit.unit
            for commit, result in zip(batch, verdicts, strict=True)
            if result == "applied"
        }
        for waiter, version in self._watchers.take(
            [(unit, self._version(unit)) for unit in changed]
        ):
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
        return [self._load(name, rows.units.get(name, Unit())) for name in units]

    def _load(self, name: str, unit: Unit) -> Loaded:
        inbox = [copy(message) for _, message in unit.inbox.values()]
        last = next(reversed(unit.inbox.values()), None)
        place = place_of((last[0],)) if last is not None else None
        if unit.row is None:
            return Loaded(name, inbox=inbox, place=place)
        current = unit.row.execution
        chunks = [
            chunk
            for (run, execution, _), chunk in sorted(unit.journal.items())
            if execution == (unit.runs[run].execution if run else current)
        ]
        tasks = [copy(task) for _, task in sorted(unit.tasks.items())]
        kv = [entry for _, entry in sorted(unit.kv.items())]
        runs = [copy(run) for _, run in sorted(unit.runs.items())]
        state = [part for _, part in sorted(unit.state.items())]
        row = copy(unit.row)
        return Loaded(name, unit.version, row, chunks, kv, inbox, tasks, place, runs, state)

    def _version(self, unit: str) -> int:
        known = self._rows().units.get(unit)
        return known.version if known is not None else 0

    # ------------------------------------------------------------ mail

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        """The messages that wait for a unit, in order, from a place on."""
        check_limit(limit)
        (start,) = key_of(after, tuple[int]) or (0,)
        waiting = self._rows().units.get(unit, Unit()).inbox.values()
        found = [(place, message) for place, message in waiting if place > start][:limit]
        return InboxPart(
            [copy(message) for _, message in found], place_of(found[-1][:1]) if found else after
        )

    async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Page[str]:
        """Units of these scopes for which mail has come behind a place, and still waits."""
        check_limit(limit)
        rows, wanted = self._rows(), set(scopes)
        if after is None:
            return Page([], place_of((rows.last_place,)))
        (start,) = key_of(after, tuple[int]) or (0,)
        behind = takewhile(lambda place: place > start, reversed(rows.arrived))
        found: dict[str, None] = {}
        for place in reversed(list(behind)):
            message = rows.arrived[place]
            if message.scope in wanted:
                found[message.to] = None
                if len(found) == limit:
                    return Page(list(found), place_of((place,)))
        return Page(list(found), place_of((rows.last_place,)))

    # ------------------------------------------------------------ wakes

    def _times(self, scopes: Sequence[str]) -> Iterator[tuple[str, int, str]]:
        rows = self._rows()
        wanted = set(scopes)
        for name, unit in rows.units.items():
            row = unit.row
            is_open = row is not None and row.scope in wanted and row.status not in CLOSED
            if row is not None and is_open and row.wake_at is not None:
                yield row.scope, row.wake_at, name
            for _, message in unit.inbox.values():
                if message.scope in wanted:
                    yield message.scope, message.visible_at, name
            for task in unit.tasks.values():
                if task.scope in wanted and task.expires_at is not None:
                    yield task.scope, task.expires_at, name

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        """Units that are due, have visible mail, or have an expired task lease; by scope and time."""
        check_limit(limit)
        start = key_of(after, tuple[str, int, str])
        times = sorted(
            {
                key
                for key in self._times(scopes)
                if key[1] <= until and (start is None or key > start)
            }
        )
        wakes: dict[str, Wake] = {}
        for _, at, name in times[:limit]:
            if name not in wakes:
                unit = self._tables.units[name]
                has_messages = any(
                    message.visible_at <= until for _, message in unit.inbox.values()
                )
                wakes[name] = Wake(
                    name, at, unit.row.suspect if unit.row is not None else 0, has_messages
                )
        return Page(
            list(wakes.values()), place_of(times[limit - 1]) if len(times) > limit else None
        )

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        """The earliest time later than `after` at which `wakes` will have more to say."""
        return min((at for _, at, _ in self._times(scopes) if at > after), default=None)

    # ------------------------------------------------------------ tasks and sweeping

    async def lease(
        self,
        queue: str,
        worker: str,
        limit: int,
        lease_ms: int,
        at: int,
        match: TaskMatch = ANY_TASK,
    ) -> list[Task]:
        """Lease tasks that nobody has had yet."""
        return self._rows().lease(queue, worker, limit, lease_ms, at, match)

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        """Extend leases."""
        rows = self._rows()
        return ["kept" if rows.renew(renewal, at) else "lost" for renewal in renewals]

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        """Remove expired answers, tombstones and dead letters; bury undelivered messages."""
        return self._rows().sweep(fences, at, limit)

    # ------------------------------------------------------------ queries

    async def query(self, query: Query[T]) -> Page[T]:
        """Answer a query."""
        rows = self._rows()
        check_limit(query.limit)
        asked: Query[Any] = query
        page: Page[Any]
        match asked:
            case Units():
                page = self._list(asked, rows)
            case Journal():
                page = self._journal(asked, rows.units.get(asked.unit, Unit()))
            case Executions():
                ended = sorted(rows.units.get(asked.unit, Unit()).executions.items())
                numbered = [
                    ((number,), copy(row)) for (run, number), row in ended if run == asked.run
                ]
                page = self._page(asked, numbered, tuple[int])
            case KvEntries():
                entries = sorted(rows.units.get(asked.unit, Unit()).kv.items())
                wanted = [
                    ((key,), (key, entry.value))
                    for key, entry in entries
                    if entry.value is not None and (not asked.keys or key in asked.keys)
                ]
                page = self._page(asked, wanted, tuple[str])
            case DeadLetters():
                dead = sorted(
                    _dead_letters(rows, asked.unit), key=lambda one: (one.unit, one.message)
                )
                places = [((one.unit, one.message), one) for one in dead]
                page = self._page(asked, places, tuple[str, bytes])
            case Inbox():
                inbox = rows.units.get(asked.unit, Unit()).inbox.values()
                page = self._page(
                    asked, [((place,), copy(message)) for place, message in inbox], tuple[int]
                )
            case Counts():
                page = Page(_counts(rows, asked.at))
            case Totals():
                page = Page(_totals(rows, asked.at))
            case Queues():
                depths = sorted(_depths(rows, asked.at).items())
                page = self._page(
                    asked,
                    [((name,), QueueDepth(name, *depth)) for name, depth in depths],
                    tuple[str],
                )
            case _:
                msg = f"the memory store cannot answer a {type(query).__name__} query"
                raise UsageError(msg)
        return cast("Page[T]", page)

    def _page(
        self, query: Query[T], rows: list[tuple[tuple[Any, ...], T]], kind: type[tuple[Any, ...]]
    ) -> Page[T]:
        start = key_of(query.after, kind)
        return page_of([pair for pair in rows if start is None or pair[0] > start], query.limit)

    def _journal(self, query: Journal, unit: Unit) -> Page[Any]:
        start = key_of(query.after, tuple[int, int])
        wanted = query.execution or _current(unit, query.run)
        if start is not None:
            wanted = start[0]
        places = [
            ((execution, first), chunk)
            for (run, execution, first), chunk in sorted(unit.journal.items())
            if run == query.run and execution == wanted
        ]
        return self._page(query, places, tuple[int, int])

    def _list(self, query: Units, rows: Tables) -> Page[UnitView]:
        start = key_of(query.after, tuple[int, str])
        found = [
            ((unit.row.created_at, name), UnitView(copy(unit.row), unit.version))
            for name, unit in rows.units.items()
            if unit.row is not None and matches(query, UnitView(unit.row, unit.version))
        ]
        found.sort(key=lambda pair: pair[0], reverse=True)
        return page_of([pair for pair in found if start is None or pair[0] < start], query.limit)

    # ------------------------------------------------------------ waiting

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> int:
        """Wait until the unit has another version than `version`, or the time is up."""
        with self._watchers.watch(unit) as waiter:
            if (known := self._version(unit)) != version:
                return known
            changed = await wait_for_change(waiter, timeout_ms)
        return self._version(unit) if changed is None else changed

    def hints(self) -> AsyncIterator[Hint]:
        """Ids of units that got mail by `post`."""
        return self._bell.listen()

    async def dump(self) -> Rows:
        """Everything, by table, sorted: comparable between stores."""
        return self._rows().dump()


def _current(unit: Unit, run: bytes) -> int:
    """The number of a run's current execution (0: there is no such run)."""
    if run:
        return unit.runs[run].execution if run in unit.runs else 0
    return unit.row.execution if unit.row is not None else 0


def _dead_letters(rows: Tables, wanted: str | None) -> Iterator[DeadLetter]:
    for name, unit in rows.units.items():
        if wanted is None or name == wanted:
            for _, message, expires_at in unit.dead_letters.values():
                kind = type(message.body).__name__
                yield DeadLetter(name, message.id, kind, message.sender, message.at, expires_at)


def _counts(rows: Tables, at: int | None) -> list[tuple[str, int]]:
    units = rows.units.values()
    statuses: list[str] = [unit.row.status for unit in units if unit.row is not None]
    messages = [message.visible_at for unit in units for _, message in unit.inbox.values()]
    tasks = [task.visible_at for unit in units for task in unit.tasks.values()]
    return [
        *((status, statuses.count(status)) for status in STATUSES),
        ("inbox", sum(at is None or visible_at <= at for visible_at in messages)),
        ("tasks", sum(at is None or visible_at <= at for visible_at in tasks)),
        ("dead_letters", sum(len(unit.dead_letters) for unit in units)),
    ]


def _totals(rows: Tables, at: int) -> list[tuple[str, int]]:
    units = rows.units.values()
    known = [unit.row for unit in units if unit.row is not None]
    ended = [row for unit in units for row in unit.executions.values()]
    messages = [message.visible_at for unit in units for _, message in unit.inbox.values()]
    depths = list(_depths(rows, at).values())
    tasks = [sum(depth[place] for depth in depths) for place in range(4)]
    return [
        *_counts(rows, at)[: len(STATUSES)],
        ("executions", len(known) + len(ended)),
        (
            "history_events",
            sum(row.journal_events for row in known) + sum(row.journal_events for row in ended),
        ),
        ("history_bytes", sum(row.journal_bytes for row in known)),
        ("messages", sum(visible_at <= at for visible_at in messages)),
        ("messages_delayed", sum(visible_at > at for visible_at in messages)),
        *zip(("tasks", "tasks_delayed", "tasks_leased", "tasks_expired"), tasks, strict=True),
        ("answers", sum(len(unit.answers) for unit in units)),
        ("tombstones", len(rows.tombstones)),
        ("dead_letters", sum(len(unit.dead_letters) for unit in units)),
    ]


def _depths(rows: Tables, at: int) -> dict[str, list[int]]:
    """Tasks by queue: visible, delayed, leased, expired."""
    depths: dict[str, list[int]] = {}
    for unit in rows.units.values():
        for task in unit.tasks.values():
            late = task.visible_at > at if task.worker is None else (task.expires_at or 0) <= at
            depths.setdefault(task.queue, [0] * 4)[2 * (task.worker is not None) + late] += 1
    return depths


def matches(query: Units, view: UnitView) -> bool:
    """Whether a unit is asked for."""
    row = view.row
    return (
        (not query.statuses or row.status in query.statuses)
        and (not query.types or row.type in query.types)
        and (not query.type_versions or row.type_version in query.type_versions)
        and (not query.ids or row.id in query.ids)
        and (not query.reasons or row.reason in query.reasons)
        and (query.id_prefix is None or row.id.startswith(query.id_prefix))
        and (query.parent is None or row.parent_unit == query.parent)
        and (query.created_after is None or row.created_at > query.created_after)
        and (query.created_before is None or row.created_at < query.created_before)
        and (
            query.closed_after is None
            or (row.closed_at is not None and row.closed_at > query.closed_after)
        )
        and (
            query.closed_before is None
            or (row.closed_at is not None and row.closed_at < query.closed_before)
        )
        and (not query.where or _fits(query.where, row.attributes))
    )


def _fits(where: Sequence[Where], attributes: bytes | None) -> bool:
    terms = terms_of(attributes)
    return all(condition.fits(terms) for condition in where)
