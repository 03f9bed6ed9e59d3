"""SQLite does what the reference in memory does, however it groups; a log of commits gives the same rows anywhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import Failure
from perdure.kernel.data.attributes import encode_attributes
from perdure.kernel.data.commit import (
    Answer,
    Commit,
    ExecutionRow,
    Fence,
    JournalChunk,
    KvEntry,
    RunRow,
    StatePart,
    Task,
    UnitRow,
    decode_commit,
    encode_commit,
)
from perdure.kernel.data.message import (
    ActivityDone,
    AnyBody,
    Cancel,
    Delete,
    Message,
    Prune,
    Raise,
    Send,
    Start,
)
from perdure.kernel.data.placement import scope_of
from perdure.kernel.data.queue import NO_RULES, QueueRules
from perdure.ports.store import (
    DeadLetters,
    Incarnation,
    Loaded,
    Overdue,
    Queues,
    Scopes,
    Store,
    Totals,
    Units,
)
from perdure.ports.tasks import Renewal, SessionHold, TaskMatch, TaskRequest
from perdure.ports.where import Op, Where
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.database import MEMORY, Options

SHARDS = 2
SCOPES = ("default/0", "default/1", "pin/a")
UNITS = ("a", "b", "c", "d")
LIMITS = StoreLimits(
    inbox_messages=3, undelivered_ms=40, dead_letter_ms=40, dedupe_ms=120, forgotten_ms=30
)
VALUES = (
    "",
    "a",
    "b",
    0,
    1,
    1.0,
    -2.5,
    True,
    False,
    datetime(2026, 1, 1, tzinfo=UTC),
    [],
    ["a"],
    ["b", "a", "a"],
)
STATUSES = ("pending", "running", "running", "suspended", "completed", "failed")


class Dumping(Store, Protocol):
    async def dump(self) -> dict[str, list[tuple[object, ...]]]: ...


class World:
    """Draws steps that are mostly sensible, and now and then not."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.ids = 0
        self.now = 100
        self.epochs = dict.fromkeys(SCOPES, 0)
        self.scopes = {unit: scope_of(unit, SHARDS) for unit in UNITS}
        self.versions: dict[str, int] = dict.fromkeys(UNITS, 0)
        self.runs: dict[str, bytes] = {}
        self.counted: dict[str, tuple[bytes, int, int]] = {}
        """By unit: its run, the run's execution, and the events of that."""
        self.called: dict[str, dict[bytes, int]] = {unit: {} for unit in UNITS}
        """By unit: the runs beside its own, and the events of each."""
        self.known: list[bytes] = [b"never seen"]
        self.starts: dict[str, list[bytes]] = {unit: [] for unit in UNITS}
        """A run has an id of its own: no other unit's start has it."""
        self.leased: list[Task] = []
        self.places: dict[str, str | None] = dict.fromkeys(UNITS)
        self.arrived: str | None = None

    def new_id(self) -> bytes:
        self.ids += 1
        return self.ids.to_bytes(16, "big")

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def message(self) -> Message:
        random = self.random
        to = random.choice(UNITS)
        bodies: list[AnyBody] = [
            Send("ch", b"v"),
            Send("ch", b"w"),
            Raise("n", b""),
            Cancel(),
            Delete(forget=True),
            Prune([1, 2]),
            Start("wf", None, b"in"),
        ]
        body = random.choice(bodies)
        token = None
        if self.leased and self.chance(30):
            task = random.choice(self.leased)
            to, token = task.unit, task.token
            body = ActivityDone(task.run, task.execution, task.seq, task.attempt, b"r")
        if isinstance(body, Start):
            key = self.start_id(to)
        else:
            key = random.choice(self.known) if self.chance(25) else self.new_id()
        self.known.append(key)
        return Message(
            key,
            to,
            body,
            self.now,
            self.now + random.choice((0, 0, 30)),
            random.choice((None, "x")),
            random.choice((None, b"before")),
            scope_of(to, SHARDS),
            token,
        )

    def start_id(self, unit: str) -> bytes:
        known = self.starts[unit]
        if not known or self.chance(50):
            known.append(self.new_id())
            return known[-1]
        return self.random.choice(known[-3:])

    def row(self, unit: str, run: bytes, execution: int) -> UnitRow:
        random = self.random
        row = UnitRow(
            unit,
            self.scopes[unit],
            "workflow",
            random.choice(("wf", "wf", "other")),
            "1.0.0",
            run,
            execution,
        )
        row.status = random.choice(STATUSES)
        row.wake_at = random.choice((None, 0, self.now + 5))
        row.created_at = random.choice((7, 7, 8))
        row.parent_unit = random.choice((None, None, "a"))
        row.failure = random.choice((None, Failure("E", "m")))
        row.started_at = random.choice((0, 5))
        row.paused = self.chance(20)
        row.attributes = self.attributes()
        return row

    def fences(self, count: int) -> list[Fence]:
        return [
            Fence(scope, self.epochs[scope] - self.chance(10), "n-1") for scope in SCOPES[:count]
        ]

    def attributes(self) -> bytes | None:
        random = self.random
        if self.chance(30):
            return random.choice((None, b"", b"\xff"))
        values: dict[str, Any] = {name: random.choice(VALUES) for name in "xy" if self.chance(70)}
        return encode_attributes(values, removing=False)

    def where(self) -> tuple[Where, ...]:
        random = self.random
        single = [value for value in VALUES if type(value) is not list]
        conditions: list[Where] = []
        for _ in range(random.randrange(1, 4)):
            op: Op = random.choice(get_args(Op))
            listed = [value for value in single if type(value) in (int, float)][
                : random.randrange(4)
            ]
            value: Any = listed if op == "in" else random.choice(single)
            conditions.append(Where(random.choice("xy"), op, value))
        return tuple(conditions)

    def commit(self, offsets: dict[str, int]) -> Commit:
        random, unit = self.random, self.random.choice(UNITS)
        run = self.runs.get(unit)
        if run is None or self.chance(10):
            run = self.start_id(unit)
        self.runs[unit] = run
        fence_scope = self.scopes[unit] if self.chance(95) else random.choice(SCOPES)
        if self.chance(10):
            self.scopes[unit] = random.choice((scope_of(unit, SHARDS), "pin/a"))
        epoch = self.epochs[fence_scope] - (1 if self.chance(5) else 0)
        expect = self.versions[unit] + offsets.get(unit, 0) + random.choice((0,) * 12 + (1, -1))
        offsets[unit] = offsets.get(unit, 0) + 1
        before = self.counted.get(unit, (b"", 0, 0))
        if before[0] != run:
            before = (run, 0, 0)
            self.called[unit] = {}
        execution = max(before[1], random.choice((1, 1, 2)))
        row = self.row(unit, run, execution)
        commit = Commit(
            self.new_id(), Fence(fence_scope, epoch, "n-1"), self.now, unit, max(expect, 0), row
        )
        commit.home = scope_of(unit, SHARDS)
        row.journal_events = before[2] if before[1] == execution else 0
        commit.journal = [
            JournalChunk(execution, row.journal_events + place, 1, b"events")
            for place in range(1, random.randrange(1, 4))
        ]
        row.journal_events += len(commit.journal)
        self.counted[unit] = (run, execution, row.journal_events)
        if self.chance(5):
            row.journal_events += random.choice((1, -1))
        if self.chance(5):
            commit.journal = [*commit.journal, *commit.journal[-1:]]
        self._runs(commit, unit)
        self._parts(commit, unit, run, execution)
        if self.chance(12):
            commit.delete = random.choice((0, self.now + 20))
        return commit

    def _runs(self, commit: Commit, unit: str) -> None:
        random, called = self.random, self.called[unit]
        if self.chance(30):
            run, events = random.choice((b"call-1", b"call-2")), random.randrange(3)
            before = called.get(run, 0)
            called[run] = before + events
            failure = random.choice((None, Failure("E", "m")))
            row = RunRow(run, "add", 1, 1, random.choice(STATUSES), called[run], failure=failure)
            commit.runs = [row]
            chunk = JournalChunk(1, before + 1, events, b"events", run)
            commit.journal = [*commit.journal, *([chunk] if events else [])]
        if called and self.chance(15):
            run = random.choice(list(called))
            if self.chance(90):
                commit.runs = [row for row in commit.runs if row.run != run]
                commit.journal = [chunk for chunk in commit.journal if chunk.run != run]
            called.pop(run)
            commit.runs_dropped = [run]
        if self.chance(30):
            data = random.choice((None, b"", b"state"))
            commit.state = [StatePart(random.choice("pq"), data, random.choice((1, 2)))]
        if self.chance(3):
            commit.state = [StatePart("p", b"1"), StatePart("p", b"2")]

    def see(self, loaded: Sequence[Loaded]) -> None:
        """Draw from now on what fits to what is stored."""
        self.versions = {unit.id: unit.version for unit in loaded}
        self.scopes = {unit: scope_of(unit, SHARDS) for unit in UNITS}
        self.counted.clear()
        for unit in loaded:
            self.called[unit.id] = {run.run: run.journal_events for run in unit.runs}
            if unit.row is not None:
                row = unit.row
                self.scopes[unit.id] = row.scope
                self.counted[unit.id] = (row.run, row.execution, row.journal_events)

    def _parts(self, commit: Commit, unit: str, run: bytes, execution: int) -> None:
        random = self.random
        if self.chance(30):
            values = (None, b"", b"value")
            commit.kv = [
                KvEntry(k, random.choice(values), random.choice(values), execution) for k in "xyx"
            ]
        if self.chance(20):
            commit.ended = [
                ExecutionRow(
                    random.randrange(1, 6), "1.0.0", 1, 2, 3, random.choice((b"", b"call-1"))
                )
            ]
        if self.chance(20):
            commit.prune = [1, 2, 3]
        if self.chance(40):
            commit.post = [self.message() for _ in range(random.randrange(1, 4))]
        if self.chance(40):
            commit.consume = [random.choice(self.known) for _ in range(3)]
            if commit.post and self.chance(30):
                commit.consume = [*commit.consume, commit.post[-1].id]
        if self.chance(30):
            commit.answers = [
                Answer(
                    random.choice(self.known),
                    "outcome",
                    self.now + random.choice((5, 50)),
                    random.choice((None, b"2")),
                    random.choice((None, Failure("E", "m"))),
                )
            ]
        if self.chance(30):
            seq = random.randrange(1, 5)
            commit.tasks_added = [
                Task(
                    unit,
                    random.choice((run, run, b"call-1")),
                    execution,
                    seq,
                    1,
                    commit.row.scope,
                    "q",
                    random.choice(("act", "other")),
                    b"in",
                    self.now,
                    tag=random.choice((None, None, "gpu")),
                    rank=self.now + random.choice((0, 0, 7)),
                    key=random.choice((None, "k", "l")),
                    session=random.choice((None, None, "s", "t")),
                    expires_at=random.choice((None, None, self.now + 5)),
                    ends_at=random.choice((None, self.now + 50)),
                    call=b"call",
                )
            ]
        if self.chance(30):
            commit.tasks_dropped = [(run, random.choice((1, 2)), random.randrange(1, 5), 1)]

    def request(self) -> TaskRequest:
        """A worker's request, with some of what it may ask for."""
        choice = self.random.choice
        return TaskRequest(
            queue="q",
            worker=choice(("worker", "other")),
            limit=choice((1, 2, 5)),
            lease_ms=20,
            at=self.now,
            match=TaskMatch(
                names=choice((None, ("act",))),
                tags=choice(((), ("gpu",))),
                only_tagged=choice((False, False, True)),
                sessions=choice((0, 1, 2)),
            ),
            rules=choice(
                (
                    NO_RULES,
                    QueueRules(concurrency=3),
                    QueueRules(per_key=1),
                    QueueRules(rate=2, rate_ms=9),
                    QueueRules(concurrency=4, per_key=2, rate=3, rate_ms=30),
                )
            ),
        )


async def both(stores: list[Dumping], step: str, *arguments: Any) -> Any:
    """Do the same with both stores, and see that they say the same."""
    first, second = [await getattr(store, step)(*arguments) for store in stores]
    assert first == second, (step, arguments)
    return first


async def both_lists(stores: list[Dumping], world: World) -> None:
    """All pages of lists by search attributes."""
    statuses = world.random.choice(((), (), ("running", "completed")))
    query = Units(where=world.where(), statuses=statuses, limit=world.random.choice((1, 2, 50)))
    while True:
        page = await both(stores, "query", query)
        if page.next is None:
            return
        query = msgspec.structs.replace(query, after=page.next)


async def both_places(stores: list[Dumping], world: World) -> None:
    """InboxPart behind the places of the look before: every reader of the same rows has the same places."""
    random = world.random
    world.arrived = (
        await both(stores, "arrivals", SCOPES, world.arrived, random.choice((1, 2, 50)))
    ).next
    for unit in UNITS:
        if world.chance(50):
            mail = await both(stores, "inbox", unit, world.places[unit], random.choice((1, 2, 50)))
            world.places[unit] = random.choice((None, mail.place))


def decoded(line: bytes) -> tuple[str, list[Any]]:
    step, blobs = msgspec.msgpack.decode(line, type=tuple[str, list[bytes]])
    if step == "commit":
        return step, [decode_commit(blob) for blob in blobs]
    return step, [msgspec.msgpack.decode(blob, type=Message) for blob in blobs]


async def live(random: Random, stores: list[Dumping], log: list[bytes], *, others: bool) -> None:
    world = World(random)
    encode = msgspec.msgpack.encode
    for scope in SCOPES:
        world.epochs[scope] = (await both(stores, "claim", [scope], Incarnation("n", "n-1")))[
            scope
        ].epoch
    for _ in range(random.randrange(4, 12)):
        world.now += random.randrange(15)
        if world.chance(60):
            offsets: dict[str, int] = {}
            commits = [world.commit(offsets) for _ in range(random.randrange(1, 7))]
            log.append(encode(("commit", [encode_commit(commit) for commit in commits])))
            await both(stores, "commit", commits)
        else:
            messages = [world.message() for _ in range(random.randrange(1, 5))]
            log.append(encode(("post", [encode(message) for message in messages])))
            await both(stores, "post", messages)
        loaded = await both(stores, "load", UNITS)
        world.see(loaded)
        await both(stores, "wakes", SCOPES, world.now, None, 50)
        await both(stores, "next_wake", SCOPES, world.now)
        await both_lists(stores, world)
        await both_places(stores, world)
        await both(stores, "query", Totals(at=world.now))
        await both(stores, "query", Queues(at=world.now))
        await both(stores, "query", DeadLetters())
        await both(stores, "query", Scopes())
        if others and world.chance(40):
            leased = await both(stores, "lease", world.request())
            world.leased += leased.tasks
            beats = [
                Renewal(t.unit, t.seq, t.attempt, t.token or b"", 20, b"d")
                for t in world.leased[-2:]
            ]
            await both(stores, "renew", beats, world.now + 3)
            overdue = Overdue(scopes=tuple(SCOPES), at=world.now, limit=random.choice((1, 50)))
            await both(stores, "query", overdue)
            if world.chance(30):
                await both(stores, "give_back", beats[:1])
            lease_ms = random.choice((0, 20))
            holds = [SessionHold("q", s, "worker", lease_ms) for s in random.choice(("s", "ts"))]
            await both(stores, "hold_sessions", holds, world.now)
        if others and world.chance(30):
            await both(
                stores,
                "sweep",
                world.fences(random.randrange(1, 4)),
                world.now,
                random.choice((1, 100)),
            )
        if others and world.chance(5):
            await both(stores, "release", world.fences(2))
        if others and world.chance(15):
            for scope, claim in (
                await both(stores, "claim", SCOPES[:2], Incarnation("n", "n-1"))
            ).items():
                world.epochs[scope] = claim.epoch


class Defects(logging.Handler):
    """What a store says of a commit that `flaw_of` has let pass and its database refused."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


@contextmanager
def no_defects() -> Iterator[None]:
    handler, logger = Defects(), logging.getLogger("perdure.store")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert handler.found == []


def pair() -> tuple[MemoryStore, SQLiteStore]:
    return MemoryStore(shards=SHARDS, limits=LIMITS), SQLiteStore(
        MEMORY, options=Options(shards=SHARDS), limits=LIMITS
    )


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_random_batches_give_the_same_verdicts_and_the_same_rows(random: Random) -> None:
    async def run() -> None:
        first, second = pair()
        async with first, second:
            await live(random, [first, second], [], others=True)
            assert await first.dump() == await second.dump()

    with no_defects():
        asyncio.run(run())


async def call(store: Store, step: str, items: Sequence[object]) -> object:
    """A call that begins with its task, so that all begin in their order, whichever of them are coroutines."""
    return await getattr(store, step)(items)


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_log_of_a_run_gives_the_same_rows_in_an_empty_store(random: Random) -> None:
    async def run() -> None:
        log: list[bytes] = []
        first, second = pair()
        async with first, second:
            await live(random, [first, second], log, others=False)
            lived = await first.dump()
        third, fourth = pair()
        async with third, fourth:
            calls: list[Any] = []
            for store in (third, fourth):
                for scope in SCOPES:
                    await store.claim([scope], Incarnation("n", "n-1"))
                for line in log:
                    step, items = decoded(line)
                    # All in flight at once: how a store groups what it is given must not matter.
                    calls.append(asyncio.create_task(call(store, step, items)))
            await asyncio.gather(*calls)
            assert await third.dump() == lived
            assert await fourth.dump() == lived

    with no_defects():
        asyncio.run(run())
