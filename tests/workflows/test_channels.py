"""A channel buffers its messages from the start of the instance on, keeps their order, and loses none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, Channel, NotFound, workflow
from perdure.errors import NotRunning, PayloadError


@dataclass
class Bid:
    who: str
    cents: int


bids = Channel[Bid]("bids")
numbers = Channel[int]("numbers")
words = Channel[str]("words")


async def test_a_message_is_typed_at_both_ends(world: World, app: App) -> None:
    @app.workflow
    async def auction() -> str:
        bid = await bids.receive()
        return f"{type(bid).__name__} {bid.who} {bid.cents}"

    async with world.node(app) as node:
        handle = node.client.workflow(auction, id="a")
        await handle.start()
        await handle.send(bids, Bid("ann", 5))
        assert await handle.result(timeout=30) == "Bid ann 5"


async def test_a_wrong_value_is_refused_where_it_is_sent(world: World, app: App) -> None:
    @app.workflow
    async def auction() -> int:
        return await numbers.receive()

    async with world.node(app) as node:
        handle = node.client.workflow(auction, id="a")
        await handle.start()
        with pytest.raises(PayloadError, match="numbers"):
            await handle.send(numbers, "five")  # type: ignore[arg-type]
        await handle.send(numbers, 5)
        assert await handle.result(timeout=30) == 5


async def test_messages_before_the_wait_are_buffered_in_order(world: World, app: App) -> None:
    @app.workflow
    async def collect(count: int) -> list[int]:
        await words.receive()
        return [await numbers.receive() for _ in range(count)]

    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start(50)
        for i in range(50):
            await handle.send(numbers, i)
        await handle.send(words, "go")
        assert await handle.result(timeout=30) == list(range(50))


async def test_messages_that_arrive_in_one_turn_keep_their_order(world: World, app: App) -> None:
    @app.workflow
    async def collect(count: int) -> list[int]:
        return [await numbers.receive() for _ in range(count)]

    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start(200)
        await asyncio.gather(*(handle.send(numbers, i) for i in range(200)))
        assert await handle.result(timeout=30) == list(range(200))


async def test_nobody_is_there_before_the_start(world: World, app: App) -> None:
    async with world.node(app) as node:
        with pytest.raises(NotFound, match="order-1"):
            await node.client.get("order-1").send("numbers", 1)


async def test_nobody_is_there_after_the_end(world: World, app: App) -> None:
    @app.workflow
    async def done() -> None:
        pass

    async with world.node(app) as node:
        handle = node.client.workflow(done, id="d")
        await handle.run()
        before = len(await handle.history())
        with pytest.raises(NotRunning, match="'d' has ended"):
            await handle.send("numbers", 1)
        assert len(await handle.history()) == before


async def test_two_channels_are_independent(world: World, app: App) -> None:
    @app.workflow
    async def both() -> list[Any]:
        return [await words.receive(), await numbers.receive(), await words.receive()]

    async with world.node(app) as node:
        handle = node.client.workflow(both, id="b")
        await handle.start()
        await handle.send(numbers, 1)
        await handle.send(words, "a")
        await handle.send(words, "b")
        assert await handle.result(timeout=30) == ["a", 1, "b"]


async def test_two_waiters_get_the_messages_in_the_order_in_which_they_began_to_wait(
    world: World, app: App
) -> None:
    @app.workflow
    async def both() -> list[int]:
        return await asyncio.gather(numbers.receive(), numbers.receive())

    async with world.node(app) as node:
        handle = node.client.workflow(both, id="b")
        await handle.start()
        await handle.send(numbers, 1)
        await handle.send(numbers, 2)
        assert await handle.result(timeout=30) == [1, 2]


async def test_a_cancelled_receive_takes_no_message(world: World, app: App) -> None:
    @app.workflow
    async def impatient() -> list[int]:
        try:
            async with asyncio.timeout(0.005):
                await numbers.receive()
        except TimeoutError:
            workflow.set_status("late")
        await words.receive()
        return [await numbers.receive(), await numbers.receive()]

    async with world.node(app) as node:
        handle = node.client.workflow(impatient, id="i")
        await handle.start()
        await waits_for(handle, "message words")
        await handle.send(numbers, 1)
        await handle.send(numbers, 2)
        await handle.send(words, "go")
        assert await handle.result(timeout=30) == [1, 2]


async def test_buffered_messages_survive_the_node(world: World, app: App) -> None:
    @app.workflow
    async def collect() -> list[int]:
        await words.receive()
        return [await numbers.receive() for _ in range(5)]

    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start()
        for i in range(3):
            await handle.send(numbers, i)
    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        for i in range(3, 5):
            await handle.send(numbers, i)
        await handle.send(words, "go")
        assert await handle.result(timeout=30) == [0, 1, 2, 3, 4]


async def test_messages_that_were_received_before_the_restart_are_not_received_again(
    world: World, app: App
) -> None:
    @app.workflow
    async def collect() -> list[int]:
        first = [await numbers.receive() for _ in range(2)]
        await words.receive()
        return [*first, await numbers.receive()]

    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.start()
        for i in range(3):
            await handle.send(numbers, i)
        await waits_for(handle, "message words")
    async with world.node(app) as node:
        handle = node.client.workflow(collect, id="c")
        await handle.send(words, "go")
        assert await handle.result(timeout=30) == [0, 1, 2]


async def test_messages_are_carried_over_continue_as_new_without_limit_of_number(
    world: World, app: App
) -> None:
    @app.workflow
    async def eat(seen: list[int]) -> list[int]:
        seen = [*seen, await numbers.receive(), await numbers.receive()]
        if len(seen) < 60:
            workflow.continue_as_new(eat, seen)
        return seen

    async with world.node(app) as node:
        handle = node.client.workflow(eat, id="e")
        await handle.start([])
        await asyncio.gather(*(handle.send(numbers, i) for i in range(60)))
        assert await handle.result(timeout=30) == list(range(60))
        assert (await handle.describe()).execution == 30


async def test_carried_messages_come_before_newer_ones_and_survive_the_node(
    world: World, app: App
) -> None:
    @app.workflow
    async def second(started: bool = False) -> list[int]:
        await words.receive()
        if not started:
            workflow.continue_as_new(second, True)
        return [await numbers.receive() for _ in range(4)]

    async with world.node(app) as node:
        handle = node.client.workflow(second, id="s")
        await handle.start()
        await handle.send(numbers, 0)
        await handle.send(numbers, 1)
        await handle.send(words, "next")

        await handle.send(numbers, 2)
    async with world.node(app) as node:
        handle = node.client.workflow(second, id="s")
        await handle.send(numbers, 3)
        await handle.send(words, "go")
        assert await handle.result(timeout=30) == [0, 1, 2, 3]


async def test_a_workflow_sends_to_another(world: World, app: App) -> None:
    @app.workflow
    async def answer() -> int:
        return 2 * await numbers.receive()

    @app.workflow
    async def ask() -> str:
        workflow.send("answerer", numbers, 21)
        workflow.send("answerer", "ignored", {"by": "everyone"})
        return "asked"

    async with world.node(app) as node:
        answerer = node.client.workflow(answer, id="answerer")
        await answerer.start()
        assert await node.client.workflow(ask, id="ask").run() == "asked"
        assert await answerer.result(timeout=30) == 42


async def test_two_instances_do_not_share_their_channels(world: World, app: App) -> None:
    @app.workflow
    async def one() -> int:
        return await numbers.receive()

    async with world.node(app) as node:
        a, b = (node.client.workflow(one, id=i) for i in "ab")
        await a.start()
        await b.start()
        await b.send(numbers, 2)
        await a.send(numbers, 1)
        assert [await a.result(timeout=30), await b.result(timeout=30)] == [1, 2]


async def test_a_workflow_sends_to_itself(world: World, app: App) -> None:
    async def body() -> int:
        workflow.send(workflow.info().id, numbers, 3)
        return await numbers.receive()

    assert await world.replayed(app, body) == 3
