"""A message that is posted while the inbox is being read comes before the next one of its sender.

The sender posts messages with keys, and gives the others to the node in memory. It has an answer
for the first before it sends the second. So the receiver has to take them in this order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engine import PATIENCE_S, World, until, waits_for

from perdure import App, WorkflowHandle, workflow
from perdure.ports.store import InboxPart, Loaded
from perdure.store.memory import MemoryStore

numbers = workflow.Channel[int]("numbers")


class Slow(MemoryStore):
    """A store whose reads of one kind have their rows, and give them only when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0

    async def inbox(self, unit: str, after: str | None, limit: int) -> InboxPart:
        part = await super().inbox(unit, after, limit)
        self.reads += 1
        await self.gate.wait()
        return part

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        found = await super().load(units)
        self.reads += 1
        await self.gate.wait()
        return found


def readers(app: App) -> None:
    @app.workflow(name="reader")
    async def reader() -> list[int]:
        return [await numbers.receive() for _ in range(3)]


async def _order(store: Slow, world: World, app: App, *, in_memory: bool) -> list[int]:
    """Start a reader, and send to it while it is being read."""
    async with world.node(app) as node:
        handle = node.client.workflow("reader", id="r")
        await handle.start()
        await waits_for(handle, "message numbers")
        if in_memory:
            return await _send(store, handle)
    async with world.node(app) as node:
        return await _send(store, node.client.workflow("reader", id="r"))


async def _send(store: Slow, handle: WorkflowHandle[..., Any]) -> list[int]:
    store.gate.clear()
    reads = store.reads
    await handle.send(numbers, 1, key="one")
    await until(lambda: store.reads > reads, "the unit is being read")
    await handle.send(numbers, 2, key="two")
    last = asyncio.create_task(handle.send(numbers, 3))
    await asyncio.sleep(0)  # it is in the node's memory now
    store.gate.set()
    await last
    result: list[int] = await handle.result(timeout=PATIENCE_S)
    return result


async def test_while_a_unit_in_memory_has_its_inbox_read(app: App) -> None:
    readers(app)
    async with Slow() as store:
        assert await _order(store, World(store), app, in_memory=True) == [1, 2, 3]


async def test_while_a_unit_is_being_loaded(app: App) -> None:
    readers(app)
    async with Slow() as store:
        assert await _order(store, World(store), app, in_memory=False) == [1, 2, 3]
