"""A message that went by the store, because its scope was on the way, comes before the next one of its sender."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from engine import until
from test_two_owners import EVEN, ODD, SHARDS, Pair, id_in

from perdure import App, Client, WorkflowTerminated, workflow
from perdure.client.gateway import StoreGateway
from perdure.kernel.data.message import Message, Start
from perdure.ports.store import Loaded, Posted
from perdure.store.memory import MemoryStore


class Slow(MemoryStore):
    """Takes starts while `takes` is set, and gives what it has read while `gives` is set."""

    def __init__(self) -> None:
        super().__init__(shards=SHARDS)
        self.takes, self.gives = asyncio.Event(), asyncio.Event()
        self.asked, self.read = asyncio.Event(), asyncio.Event()
        self.takes.set()
        self.gives.set()

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        if isinstance(batch[0].body, Start):
            self.asked.set()
            await self.takes.wait()
        return await super().post(batch)

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        found = await super().load(units)
        self.read.set()
        await self.gives.wait()
        return found


@pytest.mark.parametrize("renewed", [False, True])
async def test_a_start_that_is_posted_while_its_unit_is_read(app: App, renewed: bool) -> None:
    """The reading was too early for the start, and the terminate behind it comes by memory."""

    @app.workflow
    async def stays(tag: str) -> None:
        await workflow.receive("never", str)

    unit = id_in(ODD, "moving")
    async with Slow() as store:
        pair = Pair(app, store)
        pair.cluster.assign("a", EVEN)
        pair.cluster.assign("b", ODD)
        async with pair.a, pair.b:
            await pair.own(EVEN, ODD)
            await pair.b.client.workflow(stays, id=unit).start("old")
            client = pair.a.client
            store.asked.clear()
            store.takes.clear()
            again = client.workflow(stays, id=unit, if_exists="replace")
            starting = asyncio.create_task(again.start("new"))
            await asyncio.wait_for(store.asked.wait(), 30)
            if renewed:
                await pair.a.stop()
                await pair.a.start()
            await pair.own((*EVEN, *ODD), ())
            store.read.clear()
            store.gives.clear()
            # Something else has the unit read.
            await Client(StoreGateway(store)).get(unit).send("any", 1)
            await asyncio.wait_for(store.read.wait(), 30)
            store.takes.set()
            await asyncio.wait_for(starting, 30)
            stopping = asyncio.create_task(client.get(unit).terminate("stop the new one"))
            await until(lambda: pair.a.residents == 1, "the unit is being read")
            for _ in range(10):
                await asyncio.sleep(0)  # the terminate is in its mailbox
            store.gives.set()
            await asyncio.wait_for(stopping, 30)
            with pytest.raises(WorkflowTerminated, match="stop the new one"):
                await again.result(timeout=10)
