"""A node that leaves its cluster while an activity of it takes its time."""

from __future__ import annotations

import asyncio
import logging

import pytest
from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.cluster.local import LocalCluster
from perdure.errors import StoreUnavailable
from perdure.ports.clock import SystemClock
from perdure.store.memory import MemoryStore

SHARDS = 16


class Away(MemoryStore):
    """A store whose releases can be refused."""

    def __init__(self) -> None:
        super().__init__(shards=SHARDS)
        self.away = False

    async def release(self, fences):  # type: ignore[no-untyped-def]
        if self.away:
            raise StoreUnavailable("gone for a moment")
        return await super().release(fences)


async def test_others_go_on_while_an_activity_is_finished(app: App) -> None:
    go = asyncio.Event()
    attempts: list[str] = []

    @app.activity
    async def work(name: str) -> str:
        attempts.append(name)
        if name == "long":
            await go.wait()
        return name

    @app.workflow
    async def long() -> str:
        return await work("long")

    @app.workflow
    async def later(name: str) -> str:
        await workflow.receive("go", bool)
        return await work(name)

    cluster = LocalCluster(SystemClock())
    options = NodeOptions(handover_ms=60_000)
    async with Away() as store:
        a, b = (Node(app, store, name=name, cluster=cluster, options=options) for name in "ab")
        async with b:
            await a.start()
            await until(lambda: len(a.scopes) + len(b.scopes) == SHARDS and bool(a.scopes), "both")
            number = 0
            while a.metrics.running == 0:  # until one of them is on `a`
                await b.client.workflow(long, id=f"long-{number}").start()
                number += 1
                await asyncio.sleep(0.01)
            handles = [b.client.workflow(later, id=f"later-{n}") for n in range(40)]
            for handle in handles:
                await handle.start(handle.id)
            stopping = asyncio.ensure_future(a.stop(grace=60))
            await until(lambda: len(a.scopes) == 1, "all scopes but that of the activity")
            away = next(iter(a.scopes))
            from perdure.kernel.data.placement import scope_of

            free = [handle for handle in handles if scope_of(handle.id, SHARDS) != away]
            async with asyncio.timeout(20):
                for handle in free:
                    await handle.send("go", True)
                found = [await handle.result() for handle in free]
            assert found == [handle.id for handle in free]
            assert not stopping.done()
            go.set()
            await stopping
            async with asyncio.timeout(20):
                for n in range(number):
                    assert await b.client.get(f"long-{n}").result() == "long"
            assert attempts.count("long") == number, "none was cut off"


async def test_a_hand_over_that_fails_is_made_up_for_at_the_end(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = LocalCluster(SystemClock())
    async with Away() as store:
        a, b = (Node(app, store, name=name, cluster=cluster) for name in "ab")
        async with b:
            await a.start()
            await until(lambda: len(a.scopes) + len(b.scopes) == SHARDS and bool(a.scopes), "both")
            store.away = True
            with caplog.at_level(logging.WARNING):
                stopping = asyncio.ensure_future(a.stop())
                await until(lambda: "hands its scopes over at its end" in caplog.text, "the record")
                store.away = False
                await stopping
            await until(lambda: len(b.scopes) == SHARDS, "all scopes")
