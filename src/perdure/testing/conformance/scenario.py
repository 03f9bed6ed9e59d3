"""What the sections are written with: an open store, its owner, and short ways to say what happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from perdure.kernel.commit import (
    OWN_RUN,
    Answer,
    Commit,
    Fence,
    JournalChunk,
    Task,
    TaskKey,
    UnitRow,
    Verdict,
)
from perdure.kernel.message import AnyBody, Message, Send, Start
from perdure.kernel.placement import scope_of, scopes_of
from perdure.ports.store import Claim, Incarnation, Loaded, Page, Posted, Query, Store
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
    """An owner and its store. Ids are numbers that count up, so that a scenario is the same each time."""

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
        claims = await self.store.claim(scopes or scopes_of(self.store.info.shards), self.owner)
        self.claims.update(claims)
        return claims

    def scope(self, unit: str) -> str:
        """The scope of a new unit."""
        return scope_of(unit, self.store.info.shards)

    def fence(self, scope: str) -> Fence:
        """The right to write that this owner believes to have."""
        return Fence(scope, self.claims[scope].epoch if scope in self.claims else 0, self.owner.id)

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
        """A commit of this owner; `row` changes fields of the default row, `parts` are fields of the commit.

        The row counts the events of the journal, as far as this owner knows it.
        """
        made = self.row(unit, **(row or {}))
        if "journal_events" not in (row or {}):
            made.journal_events = self._count_events(made, parts.get("journal", ()))
        fields: dict[str, Any] = {"id": self.new_id(), "fence": self.fence(made.scope), "at": NOW}
        fields |= {"unit": unit, "expect": expect, "row": made, "home": self.scope(unit)}
        return Commit(**(fields | parts))

    def _count_events(self, row: UnitRow, chunks: Sequence[JournalChunk]) -> int:
        known = self._journals.get(row.id)
        is_known = known is not None and (known.run, known.execution) == (row.run, row.execution)
        events = 0
        if known is not None and is_known:
            events = known.journal_events
        for one in chunks:
            if one.run == OWN_RUN and one.execution == row.execution:
                events = one.first + one.count - 1
        return events

    def fences(self, *scopes: str) -> list[Fence]:
        """These rights for scopes, by default for all."""
        return [self.fence(scope) for scope in scopes or scopes_of(self.store.info.shards)]

    async def sweep(self, at: int, limit: int = 100, *scopes: str) -> int:
        """Sweep scopes, by default all; how many rows went."""
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
        """A message; without a body it sends to the channel `news`."""
        given: dict[str, Any] = {"id": self.new_id(), "at": NOW, "scope": self.scope(to)}
        return Message(
            to=to, body=Send("news", b"hello") if body is None else body, **(given | fields)
        )

    def start(self, to: str, **fields: Any) -> Message:
        """A message that starts a unit."""
        return self.message(to, Start("checkout", None, b"input"), **fields)

    async def post(self, *messages: Message) -> list[Posted]:
        """What became of messages that were posted together."""
        return await self.store.post(messages)

    async def accepted(self, message: Message) -> Message:
        """A message that was accepted."""
        assert [posted.outcome for posted in await self.store.post([message])] == ["accepted"]
        return message

    async def load(self, unit: str) -> Loaded:
        """A unit as stored."""
        return (await self.store.load([unit]))[0]

    async def inbox(self, unit: str) -> list[bytes]:
        """The ids of the messages that wait for a unit, in order."""
        return [message.id for message in (await self.load(unit)).inbox]

    async def all(self, query: Query[T]) -> list[T]:
        """Everything that a query finds, page by page."""
        from msgspec.structs import replace

        items: list[T] = []
        while True:
            page: Page[T] = await self.store.query(query)
            items += page.items
            if page.next is None:
                return items
            query = replace(query, after=page.next)

    async def due(
        self, until: int = NOW, scopes: Sequence[str] | None = None
    ) -> dict[str, tuple[int, bool]]:
        """What `wakes` says: unit → (at, mail)."""
        found: dict[str, tuple[int, bool]] = {}
        after: str | None = None
        while True:
            page = await self.store.wakes(
                scopes or scopes_of(self.store.info.shards), until, after, 100
            )
            for wake in page.items:
                found.setdefault(wake.unit, (wake.at, wake.mail))
            if (after := page.next) is None:
                return found


def chunk(
    first: int = 1,
    execution: int = 1,
    events: bytes = b"events",
    count: int = 1,
    run: bytes = OWN_RUN,
) -> JournalChunk:
    """A chunk of a journal; the store does not look into it."""
    return JournalChunk(execution, first, count, events, run)


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


def key_of(task: Task) -> TaskKey:
    """The name of a task."""
    return task.run, task.execution, task.seq, task.attempt


@asynccontextmanager
async def scene(factory: StoreFactory, shards: int = 1, **limits: Any) -> AsyncGenerator[Scenario]:
    """A new store, open, with an owner that has claimed all of it."""
    from msgspec.structs import replace

    async with factory(shards, replace(DEFAULT_LIMITS, **limits)) as store:
        scenario = Scenario(store)
        await scenario.claim()
        yield scenario
