"""What does not get dearer the more instances there are. Costs are counted in instructions, which no load changes."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from engine import World, waits_for

from perdure import App, Client, workflow
from perdure.client.gateway import StoreGateway
from perdure.kernel.data.message import Message
from perdure.kernel.unit.turn import Outcome

numbers = workflow.Channel[int]("numbers")

LEAVING_MAX = 1_500
"""Instructions for one that waits. They were 2,100 while each variable was compared with abstract classes."""


@dataclass
class Instructions:
    """How many this thread has executed."""

    count: int = 0


@contextmanager
def counted() -> Iterator[Instructions]:
    """Count the instructions of all Python code that this thread enters meanwhile."""
    found = Instructions()

    def step(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            found.count += 1
        return step

    before = sys.gettrace()
    # Python 3.12 looks only in `settrace` whether any frame wants this.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(step)
    try:
        yield found
    finally:
        sys.settrace(before)


async def test_one_more_costs_the_same_however_many_work_beyond_the_cap(
    world: World, app: App
) -> None:
    @app.activity
    async def endless() -> None:
        await asyncio.Event().wait()

    @app.workflow(guard="off")
    async def works() -> None:
        await endless()

    async with world.node(app, residents=10, activities=10_000) as node:

        async def start(first: int, many: int) -> None:
            for number in range(first, first + many):
                await node.client.workflow(works, id=f"w-{number}").start()

        async def cost(first: int) -> int:
            with counted() as instructions:
                await start(first, 20)
            return instructions.count

        await start(0, 50)
        few = await cost(50)
        await start(70, 430)
        many = await cost(500)
        assert node.residents == 520, "none of them can leave"
        assert many < 1.5 * few
        await node.stop(0)


async def test_the_loop_has_its_turn_while_thousands_leave_memory(world: World, app: App) -> None:
    left = 0
    left_at_once: list[int] = []

    class Witness:
        """Lives in a frame."""

    def leave() -> None:
        nonlocal left
        left += 1

    @app.workflow(guard="off")
    async def waits() -> int:
        witness = Witness()
        weakref.finalize(witness, leave)
        return await numbers.receive()

    async def watch() -> None:
        while True:
            before = left
            await asyncio.sleep(0)
            left_at_once.append(left - before)

    many = 3_000
    async with world.node(app) as node:
        await asyncio.gather(
            *(node.client.workflow(waits, id=f"w-{number}").start() for number in range(many))
        )
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        await node.stop()
        await asyncio.sleep(0)
        watching.cancel()
    assert left == many
    assert max(left_at_once) < many / 2, "the loop stood still"


async def test_leaving_memory_is_a_few_instructions(world: World, app: App) -> None:
    @app.workflow(guard="off")
    async def waits() -> int:
        return await numbers.receive()

    async def cost(first: int, many: int) -> int:
        async with world.node(app) as node:
            for number in range(first, first + many):
                await node.client.workflow(waits, id=f"w-{number}").start()
            with counted() as instructions:
                await node.stop()
            return instructions.count

    few, many = await cost(0, 20), await cost(20, 220)
    assert (many - few) / 200 < LEAVING_MAX


async def test_ids_of_messages_that_were_taken_are_forgotten(world: World, app: App) -> None:
    many = 300

    @app.workflow(guard="off")
    async def reader() -> int:
        for _ in range(many):
            await numbers.receive()
        return await workflow.receive("end", int)

    ids: set[bytes] = set()

    class Outside(StoreGateway):
        """As a client in another process: what it sends is posted."""

        async def send(self, message: Message) -> Outcome:
            ids.add(message.id)
            return await super().send(message)

    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        outside = Client(Outside(node.store)).get("r")
        for number in range(many):
            await outside.send(numbers, number)
        await waits_for(handle, "message end")
        assert len(ids) == many

        def remembered() -> int:
            sets = [len(ids & found) for found in gc.get_objects() if type(found) is set]
            own, most = sorted(sets, reverse=True)[:2]
            assert own == many
            return most

        # They are forgotten once the commits are known to the node, which is behind their rows.
        async with asyncio.timeout(10):
            while remembered() >= many / 2:
                await asyncio.sleep(0.01)
