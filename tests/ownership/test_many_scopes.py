"""A node gains hundreds of scopes at once, and one search finds who ends the process in them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from engine import until

from perdure import App, Node, NodeOptions, Workflow
from perdure.kernel.data.commit import Fence
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.node.ownership.blame import Blame
from perdure.ports.store import Incarnation, Page, Units, Wake
from perdure.store.memory import MemoryStore
from perdure.testing.clock import ManualClock
from perdure.testing.cluster import MemoryCluster

SHARDS = 2
FIRST, SECOND = scopes_of(SHARDS)
TRIAL_MS = 1_000


class Asked(MemoryStore):
    """Counts the scans."""

    def __init__(self, shards: int) -> None:
        super().__init__(shards=shards)
        self.asked: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        self.asked["wakes"] += 1
        return await super().wakes(scopes, until, after, limit)

    async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
        self.asked["next_wake"] += 1
        found = await super().next_wake(scopes, after)
        await self.gate.wait()
        return found


def far_app(app: App) -> Workflow[[], str]:
    """A workflow with a deadline that is beyond the horizon."""

    @app.workflow
    async def late() -> str:
        await asyncio.sleep(100)
        return "late"

    return late


FAR = NodeOptions(horizon_ms=10_000, stop_ms=0)


async def test_the_store_is_asked_once_for_all_scopes_that_are_gained(app: App) -> None:
    late = far_app(app)
    clock = ManualClock()
    async with Asked(shards=2_048) as store:
        async with Node(app, store, clock=clock, options=FAR) as node:
            await node.client.workflow(late, id="far").start()
            await until(lambda: store.asked == {"wakes": 1, "next_wake": 1}, "the first scan")
        # The next life has the deadline from the store alone.
        async with Node(app, store, clock=clock, options=FAR) as node:
            await until(lambda: store.asked == {"wakes": 2, "next_wake": 2}, "the next first scan")
            clock.advance(await clock.until_armed(95_000))
            await until(lambda: store.asked == {"wakes": 3, "next_wake": 3}, "the scan of all")
            clock.advance(10_000)
            assert await node.client.workflow(late, id="far").result(timeout=5) == "late"


async def test_a_deadline_that_comes_during_a_scan_is_met(app: App) -> None:
    late = far_app(app)
    clock = ManualClock()
    async with Asked(shards=4) as store:
        async with Node(app, store, clock=clock, options=FAR) as node:
            await node.client.workflow(late, id="one").start()
            await until(lambda: store.asked["next_wake"] == 1, "the first scan")
            store.gate.clear()
            clock.advance(await clock.until_armed(95_000))
            await until(lambda: store.asked["next_wake"] == 2, "the end of the scan of all")
            other = node.client.workflow(late, id="other")
            await other.start()
            store.gate.set()
            clock.advance(await clock.until_armed(5_000))
            assert await node.client.workflow(late, id="one").result(timeout=5) == "late"
            clock.advance(await clock.until_armed(95_000))
            await until(lambda: store.asked["next_wake"] == 3, "the next scan")
            clock.advance(10_000)
            assert await other.result(timeout=5) == "late"


@dataclass
class Crash:
    """Two scopes with an instance each, both at work when their owner crashed. Nothing runs yet."""

    app: App
    store: MemoryStore
    cluster: MemoryCluster = field(default_factory=MemoryCluster)
    clock: ManualClock = field(default_factory=ManualClock)
    ran: list[str] = field(default_factory=list[str])
    fences: list[Fence] = field(default_factory=list[Fence])

    def node(self, name: str) -> Node:
        options = NodeOptions(stop_ms=0, crash_failures=1, trial_ms=TRIAL_MS)
        return Node(
            self.app,
            self.store,
            name=name,
            options=options,
            cluster=self.cluster,
            clock=self.clock,
        )

    async def blame(self, unit: str) -> Blame:
        """What its row says."""
        page = await self.store.query(Units(ids=(unit,)))
        return Blame.read(page.items[0].row.suspect)

    async def pass_trial(self) -> None:
        """Let the time of the trial pass."""
        self.clock.advance(await self.clock.until_armed(TRIAL_MS))

    async def is_free(self, unit: str) -> bool:
        return (await self.blame(unit)).state == "free"

    async def is_on_trial(self, unit: str) -> bool:
        return (await self.blame(unit)).state == "trial" and unit in self.ran

    async def waits(self, unit: str) -> bool:
        return (await self.blame(unit)).state == "held" and unit not in self.ran


def id_in(scope: str) -> str:
    return next(f"w{n}" for n in range(99) if scope_of(f"w{n}", SHARDS) == scope)


def tasks_named(name: str) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


ONE, TWO = id_in(FIRST), id_in(SECOND)


@pytest.fixture
async def crash(app: App) -> AsyncIterator[Crash]:
    async with MemoryStore(shards=SHARDS) as store:
        crash = Crash(app, store)

        @app.activity
        async def work(unit: str) -> None:
            crash.ran.append(unit)
            await asyncio.Event().wait()

        @app.workflow
        async def works(unit: str) -> None:
            await work(unit)

        crash.cluster.assign("before", [FIRST, SECOND])
        async with crash.node("before") as before:
            for unit in (ONE, TWO):
                await before.client.workflow(works, id=unit).start(unit)
            await until(lambda: sorted(crash.ran) == [ONE, TWO], "both are at work")
        # An owner that never releases them.
        claims = await store.claim([FIRST, SECOND], Incarnation("crashed", "ff"))
        crash.fences = [Fence(name, claim.epoch, "ff") for name, claim in claims.items()]
        crash.ran.clear()
        yield crash


async def test_a_node_tries_one_at_a_time_in_scopes_that_it_gained_apart(crash: Crash) -> None:
    crash.cluster.assign("a", [FIRST])
    async with crash.node("a"):
        await until(lambda: crash.is_on_trial(ONE), "the first is on trial")
        crash.cluster.assign("a", [FIRST, SECOND])
        await until(lambda: crash.waits(TWO), "the second waits")
        await crash.pass_trial()
        await until(lambda: crash.is_on_trial(TWO), "the second is on trial")
        assert (await crash.blame(ONE)).state == "free"
        await crash.pass_trial()

        await until(lambda: crash.is_free(TWO), "the second is free")
    # All have been counted, so the scopes were released in order.
    claims = await crash.store.claim([FIRST, SECOND], Incarnation("next", "ee"))
    assert [claim.clean for claim in claims.values()] == [True, True]


async def test_a_scope_that_was_released_in_order_has_no_suspects(crash: Crash) -> None:
    await crash.store.release([fence for fence in crash.fences if fence.scope == SECOND])
    crash.cluster.assign("a", [FIRST, SECOND])
    async with crash.node("a"):
        await until(lambda: crash.is_on_trial(ONE), "the first is on trial")
        await until(lambda: TWO in crash.ran, "the second works")
        assert (await crash.blame(TWO)).crashes == 0


async def test_a_search_ends_with_the_last_of_its_scopes(crash: Crash) -> None:
    crash.cluster.assign("a", [FIRST])
    async with crash.node("a") as node:
        await until(lambda: crash.is_on_trial(ONE), "the first is on trial")
        crash.cluster.assign("a", [])
        await until(lambda: not node.scopes, "its scope is given up")
        crash.cluster.assign("a", [SECOND])
        # At once, although the time of the first trial has not passed.
        await until(lambda: crash.is_on_trial(TWO), "the second is on trial")


async def test_scopes_that_go_leave_the_trial_of_the_others_alone(
    crash: Crash, caplog: pytest.LogCaptureFixture
) -> None:
    crash.cluster.assign("a", [FIRST, SECOND])
    async with crash.node("a") as node:
        await until(lambda: crash.is_on_trial(ONE), "the first is on trial")
        await until(lambda: crash.waits(TWO), "the second waits")
        # The one that waits goes to another node, and is not held there.
        crash.cluster.assign("a", [FIRST])
        await until(lambda: list(node.scopes) == [FIRST], "a scope is given up")
        crash.cluster.assign("b", [SECOND])
        async with crash.node("b"):
            await until(lambda: TWO in crash.ran, "the second works at the other node")
            await crash.pass_trial()

            await until(lambda: crash.is_free(ONE), "the trial of the first ends")
            await until(lambda: not tasks_named("perdure-trials"), "the search ends")
    tried = [record.getMessage() for record in caplog.records if "on trial" in record.getMessage()]
    assert len(tried) == 1
    assert repr(ONE) in tried[0]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_scope_that_goes_during_its_trial_lets_the_others_have_theirs(crash: Crash) -> None:
    crash.cluster.assign("a", [FIRST, SECOND])
    async with crash.node("a") as node:
        await until(lambda: crash.is_on_trial(ONE), "the first is on trial")
        crash.cluster.assign("a", [SECOND])
        await until(lambda: list(node.scopes) == [SECOND], "a scope is given up")
        await crash.pass_trial()
        await until(lambda: crash.is_on_trial(TWO), "the second is on trial")
        await crash.pass_trial()

        await until(lambda: crash.is_free(TWO), "the second is free")
