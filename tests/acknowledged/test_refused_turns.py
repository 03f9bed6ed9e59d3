"""A turn that is refused or discarded leaves each message as it was: nothing is lost, nothing is believed stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import CLOSED, Commit, Verdict
from perdure.ports.store import Inbox, Incarnation
from perdure.store.memory import MemoryStore

numbers = workflow.Channel[int]("numbers")


async def test_a_message_beside_a_start_that_joins(world: World, app: App) -> None:
    """The start is tried as if the id were new. The store refuses that turn, and the message is in it."""

    @app.workflow
    async def reader() -> int:
        await workflow.receive("go", bool)
        return await numbers.receive()

    async with world.node(app) as node:
        await node.client.workflow(reader, id="r").start()
    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await asyncio.gather(handle.start(), handle.send(numbers, 7))
        assert len((await node.store.query(Inbox(unit="r"))).items) == 1
    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.send("go", True)
        assert await handle.result(timeout=30) == 7


async def test_a_message_in_a_turn_that_took_too_long(world: World, app: App) -> None:
    blocks = [True]

    @app.workflow
    async def reader() -> int:
        await workflow.receive("block", bool)
        while blocks[0]:
            pass
        await workflow.receive("go", bool)
        return await numbers.receive()

    async with world.node(app, turn_limit_ms=100, turn_failures=1) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        blocked = handle.send("block", True)
        await asyncio.gather(handle.send(numbers, 7), blocked)
        await waits_for(handle, "poison")
        blocks[0] = False
    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.retry()
        await handle.send("go", True)
        assert await handle.result(timeout=30) == 7


class Refusing(MemoryStore):
    """Answers `stale` to the next commits, as if another owner had written to their units."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for commit in batch:
            if self.refusals:
                self.refusals -= 1
                verdicts.append("stale")
            else:
                verdicts += await super().commit([commit])
        return verdicts


@pytest.fixture
async def refusing() -> AsyncIterator[Refusing]:
    async with Refusing() as store:
        yield store


async def test_refused_commits_change_neither_messages_nor_their_order(
    refusing: Refusing, app: App
) -> None:
    @app.workflow
    async def reader(count: int) -> list[int]:
        await workflow.receive("go", bool)
        return [await numbers.receive() for _ in range(count)]

    async with World(refusing).node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start(60)
        for first in range(0, 60, 10):
            refusing.refusals = 2
            await asyncio.gather(*(handle.send(numbers, n) for n in range(first, first + 10)))
        refusing.refusals = 3
        await handle.send("go", True)
        assert await handle.result(timeout=30) == list(range(60))


class Unwilling(MemoryStore):
    """Takes no end of an instance."""

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for commit in batch:
            if commit.row.status in CLOSED:
                verdicts.append("invalid")
            else:
                verdicts += await super().commit([commit])
        return verdicts


async def test_a_turn_that_is_refused_without_its_code_as_well_is_not_tried_for_ever(
    app: App,
) -> None:
    @app.workflow
    async def reader() -> int:
        return await numbers.receive()

    async with Unwilling() as store, World(store).node(app, turn_failures=2) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        with pytest.raises(StoreUnavailable, match="was not recorded"):
            await asyncio.wait_for(handle.terminate("enough"), PATIENCE_S)
        assert node.metrics.turn_failures == 3
        assert await handle.status() == "running"


async def test_a_node_whose_scope_was_taken_stops_and_leaves_it_to_the_winner(app: App) -> None:
    started: list[int] = []
    cancelled: list[int] = []

    @app.activity
    async def forever(number: int) -> None:
        started.append(number)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(number)

    @app.workflow
    async def long(number: int) -> None:
        await forever(number)

    @app.workflow
    async def nothing() -> None: ...

    async with MemoryStore() as store:
        node = World(store).node(app)
        await node.start()
        await node.client.workflow(long, id="long").start(1)
        await until(lambda: started == [1], "the activity runs")
        claims = await store.claim(["default/0"], Incarnation("winner", "w"))
        with pytest.raises(StoreUnavailable):
            await node.client.workflow(nothing, id="n").run()
        with pytest.raises(StoreUnavailable, match="another node has taken over"):
            await asyncio.wait_for(node.wait_ended(), 30)
        assert cancelled == [1], "it does not go on with work that is another node's now"
        again = await store.claim(["default/0"], Incarnation("next", "n"))
        assert again["default/0"].epoch == claims["default/0"].epoch + 1
        assert not again["default/0"].clean, "the late stop has not released the winner's scope"
