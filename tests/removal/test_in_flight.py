"""A forced delete of work in flight: nothing of it comes back, and the next life of the id is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import (
    App,
    Client,
    Node,
    NodeOptions,
    NotFound,
    RetryPolicy,
    WorkflowTerminated,
    activity,
    workflow,
)
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.events import ActivityCompleted
from perdure.kernel.data.message import ActivityDone, Delete, Message
from perdure.store.memory import MemoryStore

REASONS = {
    "activity": "activity work",
    "retry": "activity shaky (attempt 2)",
    "timer": "timer nap",
    "event": "event news",
    "message": "message go",
    "child": "child below",
    "checkpoint": "checkpoint step",
    "slot": "activity work",
}


async def left(client: Client) -> dict[str, int]:
    """What the store counts that is not zero."""
    return {name: count for name, count in (await client.counts()).items() if count}


def in_flight(app: App, gate: asyncio.Event) -> Any:
    """A workflow that waits for something of this kind, and ends at once in its second life."""

    @app.activity(queue="one")
    async def work() -> str:
        await gate.wait()
        return "late"

    @app.activity(retry=RetryPolicy(None, 3_600))
    async def shaky() -> None:
        raise ConnectionError

    @app.workflow
    async def below() -> str:
        return await workflow.receive("go", str)

    async def wait_for_gate() -> None:
        await gate.wait()

    ways: dict[str, Callable[[], Any]] = {
        "activity": work,
        "slot": work,
        "retry": shaky,
        "timer": lambda: workflow.sleep(3_600, name="nap"),
        "event": lambda: workflow.wait_event("news", str),
        "message": lambda: workflow.receive("go", str),
        "child": lambda: workflow.child(below, id="below")(),
        "checkpoint": lambda: workflow.checkpoint("step", wait_for_gate),
    }

    @app.workflow
    async def flying(kind: str, life: int) -> str:
        workflow.kv.set("life", life)
        if life == 1:
            await ways[kind]()
        return f"life {life}"

    return flying


@pytest.mark.parametrize("kind", sorted(REASONS))
async def test_nothing_of_it_reaches_the_next_life_of_the_id(
    world: World, app: App, kind: str
) -> None:
    gate = asyncio.Event()
    flying = in_flight(app, gate)
    async with world.node(app, queues={"one": 1}) as node:
        if kind == "slot":
            blocker = node.client.workflow(flying, id="blocker")
            await blocker.start("activity", 1)
            await waits_for(blocker, REASONS["activity"])
        handle = node.client.workflow(flying, id="f")
        await handle.start(kind, 1)
        await waits_for(handle, REASONS[kind])
        if kind == "child":
            await waits_for(node.client.get("below"), "message go")
        waiter = asyncio.ensure_future(handle.result(timeout=PATIENCE_S))
        await asyncio.sleep(0)
        assert await handle.delete(force=True) == (2 if kind == "child" else 1)
        with pytest.raises(WorkflowTerminated, match="deleted"):
            await waiter
        assert await handle.run(kind, 2) == "life 2"
        before = await handle.history()
        gate.set()
        if kind == "slot":
            assert await blocker.result(timeout=PATIENCE_S) == "life 1"
            await blocker.delete()
        assert await handle.history() == before
        assert await handle.kv() == {"life": 2}
        assert await handle.delete() == 1
        assert await left(node.client) == {}
    async with world.node(app) as node:
        assert await left(node.client) == {}


async def test_a_result_of_the_life_before_does_not_count(world: World, app: App) -> None:
    """A worker that was cut off comes back with a result after its instance was deleted and started again."""
    began: list[bytes] = []
    gate = asyncio.Event()

    @app.activity
    async def work() -> str:
        began.append(bytes.fromhex(activity.info().run))
        await gate.wait()
        return "own"

    @app.workflow
    async def working() -> str:
        return await work()

    async with world.node(app) as node:
        handle = node.client.workflow(working, id="w")
        await handle.start()
        await until(lambda: len(began) == 1, "the first life works")
        await handle.delete(force=True)
        await handle.start()
        await until(lambda: len(began) == 2, "the second life works")
        stale = ActivityDone(began[0], 1, 1, 1, b"\x01\xa5stale", None, None)
        await node.gateway.send(Message(b"s" * 16, "w", stale, node.clock.now_ms(), 0, "w"))
        assert await handle.status() == "running"
        gate.set()
        assert await handle.result(timeout=PATIENCE_S) == "own"
        assert (
            len([e for e in await handle.history() if isinstance(e.event, ActivityCompleted)]) == 1
        )


async def test_a_replay_that_is_on_its_way_is_deleted_too(world: World, app: App) -> None:
    """Instances that a new node is about to load, some of them in the middle of it."""

    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def waiting(i: int) -> int:
        for _ in range(5):
            i = await double(i)
        return await workflow.receive("go", int)

    async with world.node(app) as node:
        handles = [node.client.workflow(waiting, id=f"w{i}") for i in range(30)]
        await asyncio.gather(*(h.start(i) for i, h in enumerate(handles)))
        for handle in handles:
            await waits_for(handle, "message go")
    async with world.node(app) as node:
        handles = [node.client.workflow(waiting, id=f"w{i}") for i in range(30)]
        sends = [h.send("go", 1) for h in handles[::3]]
        outcomes = await asyncio.gather(
            *sends, *(h.delete(force=True) for h in handles), return_exceptions=True
        )
        assert outcomes[10:] == [1] * 30
        assert all(o is None or isinstance(o, NotFound) for o in outcomes[:10])
        assert await left(node.client) == {}


async def test_the_others_are_not_disturbed(world: World, app: App) -> None:
    """Many are deleted while as many run on."""

    @app.activity
    async def add(i: int) -> int:
        await asyncio.sleep(0)
        return i + 1

    @app.workflow
    async def counting(n: int) -> int:
        total = 0
        for _ in range(n):
            total = await add(total)
        return total

    async with world.node(app) as node:
        doomed = [node.client.workflow(counting, id=f"doomed-{i}") for i in range(20)]
        staying = [node.client.workflow(counting, id=f"staying-{i}") for i in range(20)]
        await asyncio.gather(*(h.start(40) for h in [*doomed, *staying]))
        await asyncio.gather(*(h.delete(force=True) for h in doomed))
        assert await asyncio.gather(*(h.result(timeout=30) for h in staying)) == [40] * 20
        assert {d.id for d in await node.client.list()} == {h.id for h in staying}
        for handle in doomed:
            with pytest.raises(NotFound):
                await handle.describe()


async def test_what_is_asked_of_a_deleted_one_is_refused(world: World, app: App) -> None:
    @app.workflow
    async def quick() -> None:
        workflow.kv.set("a", 1)

    async with world.node(app) as node:
        handle = node.client.workflow(quick, id="q")
        await handle.run()
        await handle.delete()
        asks: list[Callable[[], Any]] = [
            handle.describe, handle.result, handle.wait, handle.status, handle.history, handle.executions, handle.kv,
            handle.tree, handle.delete, handle.cancel, handle.terminate, handle.pause, handle.resume, handle.retry,
            lambda: handle.send("c", 1), lambda: handle.raise_event("e", 1), lambda: handle.prune(keep_last=1),
            lambda: handle.custom_status(str), lambda: handle.kv_get("a", int),
        ]  # fmt: skip
        for ask in asks:
            with pytest.raises(NotFound, match="'q'"):
                await ask()
        assert await left(node.client) == {}


async def test_records_of_the_turn_that_deletes_are_shown(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.workflow
    async def tidy() -> None:
        try:
            await workflow.sleep(3_600)
        finally:
            workflow.logger.info("tidies up")

    caplog.set_level("INFO", "perdure.workflow")
    async with world.node(app) as node:
        handle = node.client.workflow(tidy, id="t")
        await handle.start()
        await waits_for(handle, "timer")
        asking = asyncio.create_task(handle.cancel())  # both go into one turn
        await handle.delete(force=True)
        await asking
    assert [r.getMessage() for r in caplog.records if r.name == "perdure.workflow"] == ["tidies up"]


async def test_a_start_that_is_posted_while_a_deletion_is_written_begins(app: App) -> None:
    """The deleted unit leaves memory, and nothing else would look into its inbox."""

    class Slow(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.gate = asyncio.Event(), asyncio.Event()
            self.gate.set()

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            self.asked.set()
            await self.gate.wait()
            return await super().commit(batch)

    @app.workflow
    async def echo(n: int) -> int:
        if n == 1:
            await workflow.receive("never", int)
        return n

    options = NodeOptions(rescan_ms=600_000)
    async with Slow() as store, Node(app, store, options=options) as node:
        await node.client.workflow(echo, id="e").start(1)
        store.asked.clear()
        store.gate.clear()
        deleting = asyncio.create_task(
            node.gateway.send(Message(b"d" * 16, "e", Delete(force=True), 0))
        )
        await asyncio.wait_for(store.asked.wait(), 30)
        async with Client.open(store) as outside:
            again = outside.workflow(echo, id="e", if_exists="replace")
            await again.start(2)
            for _ in range(20):
                await asyncio.sleep(0)  # the hint has come
            store.gate.set()
            assert await deleting == "ok"
            assert await again.result(timeout=30) == 2
