"""A node that cannot start, or that has stopped, leaves nothing behind: no task, no alarm, no claim."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Node, NodeOptions, workflow
from perdure.errors import StoreUnavailable, UsageError, WorkflowViolation
from perdure.kernel.data.commit import Commit, Verdict
from perdure.store.memory import MemoryStore
from perdure.testing import ManualClock


async def test_a_start_that_fails_leaves_nothing_behind() -> None:
    wrong, right = App("life"), App("life")

    @wrong.workflow
    async def clocked() -> float:
        return time.time()

    @right.workflow
    async def plain(n: int) -> int:
        return n

    before = asyncio.all_tasks()
    async with MemoryStore() as store:
        node = Node(wrong, store)
        for _ in range(2):  # the second time it is the code again, not the node that "runs already"
            with pytest.raises(WorkflowViolation, match="clocked"):
                await node.start()
            assert asyncio.all_tasks() == before
        async with Node(right, store) as other:
            assert await other.client.workflow(plain, id="p").run(3) == 3
    assert asyncio.all_tasks() == before


async def test_nothing_rings_after_a_stop() -> None:
    app = App("life")

    @app.workflow
    async def far() -> None:
        await workflow.sleep(7_200)

    clock = ManualClock()
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    async with MemoryStore(clock=clock) as store:
        async with Node(app, store, clock=clock, options=NodeOptions(horizon_ms=60_000)) as node:
            await node.client.workflow(far, id="f").start()
        async with Node(app, store, clock=clock, options=NodeOptions(horizon_ms=60_000)):
            pass  # it has planned to look again, two hours from now
        clock.advance(8_000_000)
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        assert reports == [], "the stopped node looks no more"


async def test_a_delayed_start_that_is_paused_does_not_begin() -> None:
    app = App("life")

    @app.workflow
    async def late() -> str:
        return "begun"

    clock = ManualClock()
    async with MemoryStore(clock=clock) as store, Node(app, store, clock=clock) as node:
        handle = node.client.workflow(late, id="l", delay=60)
        await handle.start()
        await handle.pause()
        clock.advance(120_000)
        await handle.send("any", 1)  # a turn, and the time has come
        assert await handle.status() == "suspended"
        await handle.resume()
        assert await handle.result(timeout=30) == "begun"


async def test_a_node_that_is_started_again_loses_nothing() -> None:
    """Each start is a new life: its commits must not be taken for those of the life before."""
    app = App("life")

    @app.workflow
    async def adder() -> list[int]:
        return [await workflow.receive("number", int) for _ in range(3)]

    async with MemoryStore() as store:
        node = Node(app, store)
        for number in range(3):
            await node.start()
            handle = node.client.workflow(adder, id="a")
            await handle.start()
            await handle.send("number", number)
            if number == 2:
                assert await handle.result(timeout=30) == [0, 1, 2]
            await node.stop()


def watchdogs() -> int:
    """Threads of nodes that have not stopped altogether."""
    return sum(thread.name == "perdure-watchdog" for thread in threading.enumerate())


class Breaking(MemoryStore):
    """Takes no commits any more, and says so."""

    broken = False

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.broken:
            raise StoreUnavailable("broken", permanent=True)
        return await super().commit(batch)


async def test_a_stop_waits_for_the_one_that_is_on_its_way() -> None:
    """A node whose store fails stops by itself; who stops it meanwhile is not told too early that it has."""
    app = App("life")

    @app.workflow
    async def plain(n: int) -> int:
        return n

    threads, tasks = watchdogs(), asyncio.all_tasks()
    async with Breaking() as store:
        node = Node(app, store, options=NodeOptions(store_retry_ms=0))
        await node.start()
        await node.client.workflow(plain, id="p").run(1)
        store.broken = True
        with pytest.raises(StoreUnavailable):
            await node.client.workflow(plain, id="q").run(1)
        await asyncio.gather(node.stop(), node.stop())
        assert watchdogs() == threads
        assert asyncio.all_tasks() == tasks
        with pytest.raises(StoreUnavailable):
            await node.wait_ended()
        store.broken = False
        async with node:
            assert await node.client.workflow(plain, id="r").run(2) == 2
        await node.wait_ended()
    assert watchdogs() == threads


async def test_a_store_that_fails_during_the_start_fails_the_start() -> None:
    app = App("life")

    @app.workflow
    async def waiting() -> None:
        await workflow.receive("never", bool)

    class Halting(Breaking):
        async def arrivals(self, scopes: Sequence[str], after: str | None, limit: int) -> Any:
            page = await super().arrivals(scopes, after, limit)
            if self.broken:
                node._store_failed(StoreUnavailable("broken at the start"))
                await asyncio.sleep(0)
            return page

    threads, tasks = watchdogs(), asyncio.all_tasks()
    async with Halting() as store:
        node = Node(app, store)
        store.broken = True
        # The first look at the store may come before the start has ended, or behind it.
        with pytest.raises(StoreUnavailable, match="broken at the start"):
            await node.start()
            await asyncio.wait_for(node.wait_ended(), 30)
        await node.stop()
        assert (watchdogs(), asyncio.all_tasks()) == (threads, tasks)
        store.broken = False
        async with node:
            await node.client.workflow(waiting, id="w").start()


async def test_a_node_that_is_being_stopped_is_not_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop would close the store that the start has opened, and release its scopes."""
    app = App("life")
    node = app.node(f"sqlite:///{tmp_path / 'life.db'}")
    await node.start()
    stopping = asyncio.create_task(node.stop())
    refusals: list[str] = []
    async with asyncio.timeout(30):
        while not stopping.done():
            with pytest.raises(UsageError) as refused:
                await node.start()
            refusals.append(str(refused.value))
            await asyncio.sleep(0)
        await stopping
    assert "is being stopped; await `wait_ended()`" in refusals[-1]
    assert caplog.messages == [], "the store was there to the end"
    await node.start()
    await node.stop()


async def test_a_store_that_ends_leaves_the_outcome_of_an_earlier_try_unknown() -> None:
    """The last try did nothing. The one before it may have been recorded."""
    app = App("life")

    class Ending(MemoryStore):
        tries = 0

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            self.tries += 1
            if self.tries == 1:
                raise StoreUnavailable("no answer", "unknown")
            raise StoreUnavailable("the disk is gone", "none", permanent=True)

    @app.workflow
    async def plain() -> None: ...

    options = NodeOptions(store_retry_ms=0)
    async with Ending() as store:
        node = app.node(store, options=options)
        await node.start()
        with pytest.raises(StoreUnavailable):
            await node.client.workflow(plain, id="p").start()
        with pytest.raises(StoreUnavailable, match="the disk is gone") as ended:
            await asyncio.wait_for(node.wait_ended(), 30)
        assert ended.value.outcome == "unknown"
