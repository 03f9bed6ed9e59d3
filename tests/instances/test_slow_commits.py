"""While the store is slow, turns wait for it. They do not pile up behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure import App, workflow
from perdure.ports.store import Commit, Verdict
from perdure.store.memory import MemoryStore

INSTANCES = 2_000


class Gated(MemoryStore):
    """Answers while its gate is open, and notes the largest batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        await self.gate.wait()
        return await super().commit(batch)


async def test_few_turns_are_ahead_of_a_store_that_does_not_answer() -> None:
    app = App("slow")

    @app.workflow
    async def echo() -> int:
        return await workflow.receive("number", int)

    async with Gated() as store, app.node(store) as node:
        handles = [node.client.workflow(echo, id=f"e-{n}") for n in range(INSTANCES)]
        await asyncio.gather(*(handle.start() for handle in handles))
        assert node._life is not None
        turns = node._life.turns
        before = turns.count
        store.gate.clear()
        sending = [asyncio.create_task(h.send("number", n)) for n, h in enumerate(handles)]
        taken = -1
        # A round of turns takes 10 ms. A hundred passes of the loop without one: no other follows.
        while taken != turns.count:
            taken = turns.count
            for _ in range(100):
                await asyncio.sleep(0)
        assert 256 < taken - before < INSTANCES / 2
        assert not any(task.done() for task in sending)
        store.gate.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*sending)
            results = await asyncio.gather(*(handle.result() for handle in handles))
        assert results == list(range(INSTANCES))
