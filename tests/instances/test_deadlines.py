"""Deadlines cost no more than they must: those of steps that are over are forgotten, those of next year stay on disk,
and thousands that come at one moment do not stand in the way of the rest.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from perdure import App, Node, NodeOptions, testing, workflow
from perdure.errors import StoreUnavailable
from perdure.node.loop.deadlines import Deadlines
from perdure.ports.store import Page, Wake
from perdure.store.memory import MemoryStore
from perdure.testing import ManualClock

DAY_MS = 86_400_000


@pytest.fixture
def memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("memory")
async def test_deadlines_that_were_met_in_time_leave_nothing_behind() -> None:
    clock = ManualClock()
    deadlines = Deadlines(clock, lambda unit: None)
    before, _ = tracemalloc.get_traced_memory()
    for step in range(30_000):
        unit = f"order-{step % 20}"
        deadlines.set(unit, clock.now_ms() + DAY_MS + step)
        if step % 2:
            deadlines.clear(unit)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before < 500_000
    deadlines.stop()


async def test_every_deadline_that_still_counts_is_met_at_its_time() -> None:
    clock = ManualClock(0)
    met: list[tuple[str, int]] = []
    deadlines = Deadlines(clock, lambda unit: met.append((unit, clock.now_ms())))
    for unit in range(5_000):
        for at in (90_000, 10_000 + unit, 50_000 + unit):  # the last one counts
            deadlines.set(f"u{unit:04}", at)
        if unit % 10:
            deadlines.clear(f"u{unit:04}")
    clock.advance(100_000)
    await asyncio.sleep(0)
    assert met == [(f"u{unit:04}", 50_000 + unit) for unit in range(0, 5_000, 10)]


async def test_many_at_one_moment_let_others_have_their_turn() -> None:
    clock = ManualClock(0)
    met: list[str] = []
    deadlines = Deadlines(clock, met.append)
    for unit in range(40_000):
        deadlines.set(f"u{unit:05}", 1_000)
    clock.advance(1_000)
    passes = [len(met)]
    while passes[-1] < 40_000:
        await asyncio.sleep(0)
        passes.append(len(met))
    steps = [after - before for before, after in zip([0, *passes], passes, strict=False)]
    assert max(steps) <= 500
    assert met == sorted(met)


async def test_an_error_about_one_deadline_does_not_lose_the_others() -> None:
    clock = ManualClock(0)
    met: list[str] = []

    def due(unit: str) -> None:
        met.append(unit)
        if len(met) == 1:
            raise RuntimeError("of this one")

    deadlines = Deadlines(clock, due)
    for unit in ("a", "b", "c"):
        deadlines.set(unit, 1_000)
    with pytest.raises(RuntimeError, match="of this one"):
        clock.advance(1_000)
    await asyncio.sleep(0)
    assert met == ["a", "b", "c"]


async def test_what_is_beyond_the_horizon_is_not_held() -> None:
    clock = ManualClock(0)
    deadlines = Deadlines(clock, lambda unit: None, 1_000)
    assert deadlines.set("near", 1_000)
    assert not deadlines.set("far", 1_001)
    assert deadlines.set("put off", 500)
    assert not deadlines.set("put off", 5_000)
    assert len(deadlines) == 1


@pytest.mark.parametrize("residents", [1, 1_000])
@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
async def test_far_deadlines_are_met_by_later_scans(url: str, residents: int) -> None:
    app = App("far")
    seen: list[tuple[int, float]] = []

    @app.workflow
    async def naps(days: int) -> None:
        began = workflow.now()
        for _ in range(3):
            await asyncio.sleep(days * 86_400)
            seen.append((days, (workflow.now() - began) / timedelta(days=1)))

    async with testing.node(app, url, options=NodeOptions(residents=residents)) as node:
        handles = [node.client.workflow(naps, id=f"n{days}") for days in (1, 3, 30)]
        with node.clock.held():
            for handle, days in zip(handles, (1, 3, 30), strict=True):
                await handle.start(days)
        await asyncio.gather(*(handle.result() for handle in handles))
    expected = [(days, n * days) for days in (1, 3, 30) for n in (1, 2, 3)]
    assert sorted(seen) == expected


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_scan_that_the_store_does_not_answer_is_tried_again(
    failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("far")

    @app.workflow
    async def nap(days: int) -> str:
        await asyncio.sleep(days * 86_400)
        return "woke"

    class Absent(MemoryStore):
        left = 0

        async def wakes(
            self, scopes: Sequence[str], until: int, after: str | None, limit: int
        ) -> Page[Wake]:
            self._fail()
            return await super().wakes(scopes, until, after, limit)

        async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
            self._fail()
            return await super().next_wake(scopes, after)

        def _fail(self) -> None:
            if self.left:
                self.left -= 1
                raise StoreUnavailable("not there")

    async with (
        Absent() as store,
        testing.node(app, store, options=NodeOptions(residents=1)) as node,
    ):
        with node.clock.held():
            for days in (2, 5, 9):
                await node.client.workflow(nap, id=f"n{days}").start(days)
        store.left = failures
        for days in (2, 5, 9):
            assert await node.client.get(f"n{days}").result() == "woke"
        assert store.left == 0
    assert "asked again" in caplog.text


@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
async def test_of_many_that_only_sleep_few_are_in_memory(url: str) -> None:
    """They leave when they fall asleep, and each wakes in time. One that waits for a message stays."""
    app = App("asleep")

    @app.workflow
    async def naps() -> str:
        await asyncio.sleep(86_400)
        return "slept"

    @app.workflow
    async def waits() -> str:
        return await workflow.receive("go", str)

    async with testing.node(app, url) as node:
        waiting = node.client.workflow(waits, id="waits")
        await waiting.start()
        with node.clock.held():
            handles = [node.client.workflow(naps, id=f"n{i}") for i in range(1_500)]
            for handle in handles:
                await handle.start()
            assert node.residents <= 1_010
        results = await asyncio.gather(*(handle.result() for handle in handles))
        assert results == ["slept"] * 1_500
        await waiting.send("go", "now")
        assert await waiting.result() == "now"


async def test_a_scan_that_looked_too_early_does_not_put_a_deadline_off() -> None:
    """The instance has taken a turn since the store was asked, and comes due earlier now."""
    app = App("deadlines")

    @app.workflow
    async def patient() -> str:
        async with asyncio.timeout(1_800):
            await workflow.receive("go", bool)
        await asyncio.sleep(5)
        return "done"

    class Gated(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.gate = asyncio.Event(), asyncio.Event()

        async def wakes(
            self, scopes: Sequence[str], until: int, after: str | None, limit: int
        ) -> Page[Wake]:
            page = await super().wakes(scopes, until, after, limit)
            self.asked.set()
            await self.gate.wait()
            return page

    clock = ManualClock()
    async with Gated() as store:
        store.gate.set()
        async with Node(app, store, clock=clock) as node:
            await node.client.workflow(patient, id="p").start()
        store.gate.clear()
        store.asked.clear()
        async with Node(app, store, clock=clock) as node:
            handle = node.client.workflow(patient, id="p")
            await asyncio.wait_for(store.asked.wait(), 30)
            await handle.send("go", True)
            store.gate.set()
            for _ in range(20):
                await asyncio.sleep(0)
            clock.advance(5_000)
            assert await handle.result(timeout=30) == "done"


async def test_a_far_deadline_that_is_set_at_the_end_of_a_scan_is_met() -> None:
    """The scan has asked for the next deadline, and the answer does not have this one yet."""
    app = App("deadlines")

    @app.workflow
    async def sleeper() -> str:
        await workflow.sleep(100)
        return "done"

    class Gated(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.gate = asyncio.Event(), asyncio.Event()

        async def next_wake(self, scopes: Sequence[str], after: int) -> int | None:
            found = await super().next_wake(scopes, after)
            self.asked.set()
            await self.gate.wait()
            return found

    clock = ManualClock()
    options = NodeOptions(horizon_ms=10_000)
    async with Gated() as store, Node(app, store, clock=clock, options=options) as node:
        await asyncio.wait_for(store.asked.wait(), 30)
        handle = node.client.workflow(sleeper, id="s")
        await handle.start()
        store.gate.set()
        for _ in range(20):
            await asyncio.sleep(0)
        for _ in range(2):
            clock.advance(96_000)
            for _ in range(20):
                await asyncio.sleep(0)
        assert await handle.result(timeout=30) == "done"
