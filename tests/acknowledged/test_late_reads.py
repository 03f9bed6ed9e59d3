"""What comes while the store is being read for an instance is neither lost nor out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine import World, until, waits_for

from perdure import App, workflow
from perdure.ports.store import Loaded
from perdure.store.memory import MemoryStore

numbers = workflow.Channel[int]("numbers")


class LateReads(MemoryStore):
    """A store that has read an instance and answers when the test lets it."""

    def __init__(self, late: str) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.has_read = asyncio.Event()
        self._late = late

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        loaded = await super().load(units)
        if self._late in units and not self.gate.is_set():
            self.has_read.set()
            await self.gate.wait()
        return loaded


async def test_messages_that_come_during_a_load_are_in_order_and_not_left_for_later(
    app: App,
) -> None:
    @app.workflow
    async def reader() -> list[int]:
        return [await numbers.receive() for _ in range(4)]

    @app.workflow
    async def writer() -> None:
        for number in range(3):
            workflow.send("r", numbers, number)
            await workflow.receive("go", bool)

    @app.workflow
    async def nothing() -> None: ...

    world = World(LateReads("r"))
    store = world.store
    assert isinstance(store, LateReads)
    # No look at the store finds what got lost, before the test has failed.
    async with store, world.node(app, residents=1, rescan_ms=3_600_000) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        await node.client.workflow(nothing, id="n").run()
        await until(lambda: node.residents <= 1, "the reader has left memory")
        store.gate.clear()
        first = asyncio.ensure_future(handle.send(numbers, -1))
        await store.has_read.wait()
        source = node.client.workflow(writer, id="w")
        await source.start()
        await waits_for(source, "message go")
        store.gate.set()
        await first
        await source.send("go", True)
        await source.send("go", True)
        assert [n for n in await handle.result(timeout=5) if n >= 0] == [0, 1, 2]
