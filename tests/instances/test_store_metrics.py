"""What a store holds, as clients and `perdure stats` count it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World

from perdure import App, Client, StoreMetrics, workflow


def definitions(app: App) -> tuple[Any, Any, Any]:
    @app.workflow
    async def waiting() -> None:
        async with asyncio.timeout(3_600):
            await workflow.receive("go", bool)

    @app.workflow
    async def steps(n: int) -> None:
        if n:
            workflow.continue_as_new(steps, n - 1)

    @app.workflow
    async def failing() -> None:
        raise ValueError("oh")

    return waiting, steps, failing


async def test_instances_executions_and_events_are_counted(world: World, app: App) -> None:
    waiting, steps, failing = definitions(app)
    async with world.node(app) as node:
        client = node.client
        assert (await client.metrics()).total == 0
        await client.workflow(steps, id="s").run(2)
        await client.workflow(waiting, id="w").start()
        await client.workflow(failing, id="f").start()
        await client.get("f").wait(timeout=30)
        metrics = await client.metrics()
        assert metrics.instances == {
            "pending": 0,
            "running": 1,
            "suspended": 0,
            "completed": 1,
            "failed": 1,
            "cancelled": 0,
        }
        assert (metrics.total, metrics.open, metrics.executions) == (3, 1, 5)
        histories = [await client.get("s").history(n) for n in (1, 2, 3)]
        histories += [await client.get(name).history() for name in ("w", "f")]
        assert metrics.history_events == sum(map(len, histories))
        assert metrics.history_bytes > 0
        counts = await client.counts()
        assert {status: counts[status] for status in metrics.instances} == metrics.instances
        await client.get("s").prune(keep_last=1)
        pruned = await client.metrics()
        assert pruned.executions == 3
        assert pruned.history_events == sum(map(len, histories[2:]))


async def test_a_timer_and_a_delayed_start_are_not_waiting(world: World, app: App) -> None:
    waiting, _, _ = definitions(app)
    clock = world.stop_time()
    async with world.node(app) as node:
        await node.client.workflow(waiting, id="w").start()
        await node.client.workflow(waiting, id="later", delay=60).start()
        metrics = await node.client.metrics()
        assert (metrics.messages, metrics.messages_delayed) == (0, 1)
        assert (await node.client.counts())["inbox"] == 0
        store = node.client.store
        async with Client.open(store, clock=clock) as foreign:
            await foreign.workflow(waiting, id="posted").start()
            assert (await foreign.metrics()).messages_delayed == 1
        assert await node.client.queues() == {}


def test_the_numbers_cannot_be_changed() -> None:
    numbers: dict[str, Any] = dict.fromkeys(StoreMetrics.__dataclass_fields__, 0)
    metrics = StoreMetrics(**numbers | {"instances": {"running": 2}})
    with pytest.raises(AttributeError):
        metrics.messages = 1  # type: ignore[misc]
    assert (metrics.total, metrics.open) == (2, 2)
