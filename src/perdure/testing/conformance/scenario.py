"""The tools of the sections: an open store, its owner, and short names for their actions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from perdure.kernel.data.commit import (
    OWN_RUN,
    Answer,
    Commit,
    ExecutionRow,
    Fence,
    JournalChunk,
    Task,
    TaskKey,
    UnitRow,
    Verdict,
)
from perdure.kernel.data.message import AnyBody, Message, Send, Start
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.ports.store import (
    Claim,
    Counts,
    Incarnation,
    Loaded,
    Page,
    Posted,
    Query,
    Store,
    UnitView,
)
from perdure.ports.tasks import TaskRequest
from perdure.store.limits import DEFAULT_LIMITS, StoreLimits

T = TypeVar("T")

NOW = 1_000_000
"""The time of a scenario's commits and messages, unless it says otherwise (ms)."""


class StoreFactory(Protocol):
    """Makes a store that is not yet open."""

    def __call__(self, shards: int, limits: StoreLimits) -> Store:
        """With so many shards and these limits."""
        ...


class Scenario:
    """An owner and its store. Ids count up, so that a scenario is the same each time."""

    def __init__(self, store: Store, node: str = "one") -> None:
        """Own nothing yet."""
        self.store = store
        self.owner = Incarnation(node, f"{node}-1")
        self.claims: dict[str, Claim] = {}
        self._ids = 0
        self._journals: dict[str, UnitRow] = {}

    def new_id(self) -> bytes:
        """A fresh id of 16 bytes."""
        self._ids += 1
        return self.owner.id.encode().ljust(8, b".")[:8] + self._ids.to_bytes(8, "big")

    async def claim(self, *scopes: str) -> Mapping[str, Claim]:
        """Claim scopes, by default all."""
        claims = await self.store.claim(self._chosen(scopes), self.owner)
        self.claims.update(claims)
        return claims

    def _chosen(self, scopes: Sequence[str] | None) -> Sequence[str]:
        if scopes:
            return scopes
        return scopes_of(self.store.info.shards)

    def scope(self, unit: str) -> str:
        """The scope of a new unit."""
        return scope_of(unit, self.store.info.shards)

    def unit_in(self, scope: str) -> str:
        """The id of a new unit in this scope."""
        return next(unit for unit in numbered("order", 1_000) if self.scope(unit) == scope)

    def fence(self, scope: str) -> Fence:
        """The right to write that this owner believes to have."""
        epoch = 0
        if scope in self.claims:
            epoch = self.claims[scope].epoch
        return Fence(scope, epoch, self.owner.id)

    def row(self, unit: str, **changes: Any) -> UnitRow:
        """A running workflow's row."""
        fields: dict[str, Any] = {
            "id": unit,
            "scope": self.scope(unit),
            "kind": "workflow",
            "type": "checkout",
            "type_version": "1.0.0",
            "run": b"run of " + unit.encode(),
            "status": "running",
            "created_at": NOW,
        }
        return UnitRow(**(fields | changes))

    def commit(
        self, unit: str, expect: int = 0, row: Mapping[str, Any] | None = None, **parts: Any
    ) -> Commit:
        """A commit of this owner.

        `row` changes fields of the default row, and `parts` are fields of the commit. The row
        counts the events of the journal, as far as this owner knows it.
        """
        changes: dict[str, Any] = {}
        if row is not None:
            changes |= row
        made = self.row(unit, **changes)
        # A row that does not agree with its journal is a flaw, which most tests are not about.
        if "journal_events" not in changes:
            counted = self._count_events(made, parts.get("journal", ()))
            made = replace(made, journal_events=counted)
        fields: dict[str, Any] = {"id": self.new_id(), "fence": self.fence(made.scope), "at": NOW}
        fields |= {"unit": unit, "expect": expect, "row": made, "home": self.scope(unit)}
        return Commit(**(fields | parts))

    def commits(self, units: Sequence[str], expect: int = 0, **parts: Any) -> list[Commit]:
        """A commit of each of some units."""
        return [self.commit(unit, expect, **parts) for unit in units]

    def _count_events(self, row: UnitRow, chunks: Sequence[JournalChunk]) -> int:
        events = 0
        known = self._journals.get(row.id)
        # A new run or a new execution begins with an empty journal.
        if known is not None and known.run == row.run and known.execution == row.execution:
            events = known.journal_events
        for one in chunks:
            if one.run == OWN_RUN and one.execution == row.execution:
                events = one.first + one.count - 1
        return events

    def fences(self, *scopes: str) -> list[Fence]:
        """These rights for scopes, by default for all."""
        return [self.fence(scope) for scope in self._chosen(scopes)]

    async def sweep(self, at: int, limit: int = 100, *scopes: str) -> int:
        """Sweep scopes, by default all. Returns the number of removed rows."""
        return (await self.store.sweep(self.fences(*scopes), at, limit)).removed

    async def apply(self, *commits: Commit) -> list[Verdict]:
        """The verdicts of one batch."""
        verdicts = await self.store.commit(commits)
        for commit, verdict in zip(commits, verdicts, strict=True):
            if verdict == "applied":
                self._journals[commit.unit] = commit.row
        return verdicts

    async def applied(
        self, unit: str, expect: int = 0, row: Mapping[str, Any] | None = None, **parts: Any
    ) -> Commit:
        """A commit that was applied."""
        commit = self.commit(unit, expect, row, **parts)
        assert await self.apply(commit) == ["applied"]
        return commit

    def message(self, to: str, body: AnyBody | None = None, **fields: Any) -> Message:
        """A message. Without a body it sends to the channel `news`."""
        if body is None:
            body = Send("news", b"hello")
        given: dict[str, Any] = {"id": self.new_id(), "at": NOW, "scope": self.scope(to)}
        return Message(to=to, body=body, **(given | fields))

    def messages_to(self, units: Sequence[str]) -> list[Message]:
        """A message to each of some units."""
        return [self.message(unit) for unit in units]

    def with_bodies(self, to: str, bodies: Sequence[AnyBody]) -> list[Message]:
        """A message for each of some bodies."""
        return [self.message(to, body) for body in bodies]

    def starts(self, units: Sequence[str]) -> list[Message]:
        """A start of each of some units."""
        return [self.start(unit) for unit in units]

    def messages(self, to: str, count: int) -> list[Message]:
        """Several messages to the channel `news`."""
        return self.messages_to([to] * count)

    def start(self, to: str, **fields: Any) -> Message:
        """A message that starts a unit."""
        return self.message(to, Start("checkout", None, b"input"), **fields)

    async def post(self, *messages: Message) -> list[Posted]:
        """Post messages together."""
        return await self.store.post(messages)

    async def accepted(self, message: Message) -> Message:
        """A message that was accepted."""
        assert outcomes_of(await self.store.post([message])) == ["accepted"]
        return message

    async def outcomes(self, to: str, count: int) -> list[str]:
        """The outcomes of several messages, each posted by itself."""
        found: list[str] = []
        for message in self.messages(to, count):
            found += outcomes_of(await self.store.post([message]))
        return found

    async def load(self, unit: str) -> Loaded:
        """A unit as stored."""
        return (await self.store.load([unit]))[0]

    async def rows(self, *units: str) -> list[UnitRow | None]:
        """The rows of units."""
        return [loaded.row for loaded in await self.store.load(units)]

    async def versions(self, units: Sequence[str]) -> list[int]:
        """The versions of units (0: there is none)."""
        return [loaded.version for loaded in await self.store.load(units)]

    async def inbox(self, unit: str) -> list[bytes]:
        """The ids of the messages that wait for a unit, in order."""
        return ids((await self.load(unit)).inbox)

    async def all(self, query: Query[T]) -> list[T]:
        """All items of a query, page by page."""
        items: list[T] = []
        while True:
            page: Page[T] = await self.store.query(query)
            items += page.items
            if page.next is None:
                return items
            query = replace(query, after=page.next)

    async def counts(self) -> dict[str, int]:
        """The numbers of the store, by name."""
        return dict((await self.store.query(Counts())).items)

    async def due(
        self, until: int = NOW, scopes: Sequence[str] | None = None
    ) -> dict[str, tuple[int, bool]]:
        """The units of `wakes`, each with its time and whether messages wait for it."""
        found: dict[str, tuple[int, bool]] = {}
        after: str | None = None
        while True:
            page = await self.store.wakes(self._chosen(scopes), until, after, 100)
            for wake in page.items:
                found.setdefault(wake.unit, (wake.at, wake.has_messages))
            after = page.next
            if after is None:
                return found


def chunk(
    first: int = 1,
    execution: int = 1,
    events: bytes = b"events",
    count: int = 1,
    run: bytes = OWN_RUN,
) -> JournalChunk:
    """A chunk of a journal. The store does not look into it."""
    return JournalChunk(execution, first, count, events, run)


def begin(calls: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Begin calls without waiting for them."""
    return [asyncio.ensure_future(call) for call in calls]


def first_chunks(count: int) -> list[JournalChunk]:
    """The first chunks of a journal, with an event each."""
    return [chunk(number) for number in range(1, count + 1)]


def ids(messages: Sequence[Message]) -> list[bytes]:
    """The ids of messages, in order."""
    return [message.id for message in messages]


def numbered(prefix: str, count: int) -> list[str]:
    """Numbered ids of units: `order-0`, `order-1`, and so on."""
    return [f"{prefix}-{number}" for number in range(count)]


def events_of(chunks: Sequence[JournalChunk]) -> list[bytes]:
    """The events of chunks, in order."""
    return [chunk.events for chunk in chunks]


def firsts_of(chunks: Sequence[JournalChunk]) -> list[int]:
    """The numbers of the first events of chunks, in order."""
    return [chunk.first for chunk in chunks]


def executions_of(rows: Sequence[JournalChunk | ExecutionRow]) -> list[int]:
    """The executions of chunks, or of those that ended, in order."""
    return [row.execution for row in rows]


def bodies_of(messages: Sequence[Message]) -> list[AnyBody]:
    """The bodies of messages, in order."""
    return [message.body for message in messages]


def outcomes_of(posted: Sequence[Posted]) -> list[str]:
    """The outcomes of posted messages, in order."""
    return [one.outcome for one in posted]


def keys_of(tasks: Sequence[Task]) -> list[TaskKey]:
    """The names of tasks, in order."""
    return [key_of(task) for task in tasks]


def seqs_of(tasks: Sequence[Task]) -> list[int]:
    """The numbers of tasks, in order."""
    return [task.seq for task in tasks]


def units_of(views: Sequence[UnitView]) -> list[str]:
    """The ids of listed units, in order."""
    return [view.row.id for view in views]


def answer(message: Message, outcome: str = "started", expires_at: int = NOW + 1_000) -> Answer:
    """The answer of a consumed message."""
    return Answer(message.id, outcome, expires_at)


def task(scenario: Scenario, unit: str, seq: int = 1, attempt: int = 1, **fields: Any) -> Task:
    """A task of a unit, visible at once."""
    given: dict[str, Any] = {
        "run": b"run of " + unit.encode(),
        "execution": 1,
        "scope": scenario.scope(unit),
    }
    given |= {"queue": "gpu", "name": "render", "input": b"input"}
    return Task(unit=unit, seq=seq, attempt=attempt, **(given | fields))


def request(**changes: Any) -> TaskRequest:
    """A request for up to ten tasks of the queue `gpu`, for a second."""
    given: dict[str, Any] = {"queue": "gpu", "worker": "worker", "limit": 10}
    given |= {"lease_ms": 1_000, "at": NOW} | changes
    return TaskRequest(**given)


def tasks_of(scenario: Scenario, unit: str, *seqs: int) -> list[Task]:
    """Tasks of a unit with these numbers."""
    return [task(scenario, unit, seq) for seq in seqs]


def key_of(task: Task) -> TaskKey:
    """The name of a task."""
    return task.run, task.execution, task.seq, task.attempt


@asynccontextmanager
async def scene(factory: StoreFactory, shards: int = 1, **limits: Any) -> AsyncGenerator[Scenario]:
    """A new store, open, with an owner that has claimed all of it."""
    async with factory(shards, replace(DEFAULT_LIMITS, **limits)) as store:
        scenario = Scenario(store)
        await scenario.claim()
        yield scenario
