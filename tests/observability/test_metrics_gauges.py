"""Gauges show what is there: instances by status, and work that waits."""

from __future__ import annotations

import asyncio

from engine import World, until
from meters import Meters

from perdure import App, Node, NodeOptions, workflow
from perdure.node.telemetry.instruments import BY_NAME
from perdure.store.memory import STATUSES


def node_of(world: World, app: App, meters: Meters, **options: int) -> Node:
    options.setdefault("stop_ms", 10)
    return Node(
        app, world.store, options=NodeOptions(**options), clock=world.clock, meter_provider=meters
    )


async def shows(meters: Meters, name: str, expected: dict[tuple[str, ...], float]) -> None:
    """Numbers of the store are those of the last question: ask until they are as expected."""

    def asked() -> bool:
        meters.gauge("perdure.instances")
        return meters.gauge(name) == expected

    await until(asked, f"{name} is {meters.gauge(name)}, not {expected}")


def by_status(**counts: int) -> dict[tuple[str, ...], float]:
    """What the gauge of instances shows when there are these."""
    return {("test", status): counts.get(status, 0) for status in STATUSES}


async def test_the_inbox_is_counted_without_what_is_not_visible(
    world: World, app: App, meters: Meters
) -> None:
    """Delayed starts and timers are no work that waits."""

    @app.workflow
    async def sleeps() -> None:
        await asyncio.sleep(3600)

    clock = world.stop_time()
    async with node_of(world, app, meters) as node:
        await node.client.workflow(sleeps, id="later", delay=60).start()
        await node.client.workflow(sleeps, id="now").start()
        await shows(meters, "perdure.inbox.depth", {("test",): 0})
        assert (await node.client.counts())["inbox"] == 0
        await node.client.get("now").send("unread", 1)
        await node.client.get("now").send("unread", 2)
        await shows(meters, "perdure.inbox.depth", {("test",): 2})
        assert (await node.client.counts())["inbox"] == 2
        await shows(meters, "perdure.instances", by_status(pending=1, running=1))
        assert meters.gauge("perdure.node.residents") == {("test",): 2}
        assert (
            meters.gauge("perdure.task.depth")
            == meters.gauge("perdure.dead_letters")
            == {("test",): 0}
        )
        clock.advance(60_000)
        await until(lambda: node.metrics.started == 2, "the delayed start")


async def test_the_instances_are_counted_by_status_while_they_begin_and_end(
    world: World, app: App, meters: Meters
) -> None:
    @app.workflow
    async def waits(ok: bool) -> None:
        await workflow.receive("end", bool)
        if not ok:
            raise ValueError("no")

    async with node_of(world, app, meters) as node:
        handles = [node.client.workflow(waits, id=name) for name in "abcd"]
        for handle in handles:
            await handle.start(handle.id != "b")
        await shows(meters, "perdure.instances", by_status(running=4))
        for handle in handles[:2]:
            await handle.send("end", True)
        await handles[2].terminate()
        await handles[3].pause()
        await shows(
            meters, "perdure.instances", by_status(suspended=1, completed=1, failed=1, cancelled=1)
        )


async def test_gauges_follow_the_nodes_of_a_process(app: App, meters: Meters) -> None:
    """A provider makes a gauge once: it must show the nodes that run now, and hold none that has stopped."""

    @app.workflow
    async def waits() -> None:
        await workflow.receive("end", bool)

    first = Node(app, "memory://", meter_provider=meters)
    for _ in range(2):
        async with first, Node(app, "memory://", meter_provider=meters) as second:
            await first.client.workflow(waits, id="x").start()
            await second.client.workflow(waits, id="x").start()
            await second.client.workflow(waits, id="y").start()
            assert meters.gauge("perdure.node.residents") == {("test",): 3}
        gauges = [name for name in meters.callbacks if BY_NAME[name].kind == "gauge"]
        assert [name for name in gauges if meters.gauge(name) != {}] == []
    assert meters.gauge("perdure.turns") == {("test",): 6}, "a counter does not go back"
