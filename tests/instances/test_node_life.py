"""A node that cannot start, or that has stopped, leaves nothing behind: no task, no alarm, no claim."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from perdure import App, Node, NodeOptions, workflow
from perdure.errors import WorkflowViolation
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
        assert await handle.result(timeout=5) == "begun"


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
                assert await handle.result(timeout=5) == [0, 1, 2]
            await node.stop()
