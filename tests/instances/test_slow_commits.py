"""While the store is slow, turns wait for it. They do not pile up behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from perdure import App, workflow
from perdure.ports.store import Commit, Verdict
from perdure.store.memory import MemoryStore

INSTANCES = 5_000
LATER = 100
"""Those whose messages come when the store has been slow for a while."""


class Gated(MemoryStore):
    """Answers while its gate is open, and notes the largest batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        await self.gate.wait()
        return await super().commit(batch)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Answer nothing meanwhile. A check that fails opens the gate, or the node could not stop."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()


async def test_few_turns_are_ahead_of_a_store_that_does_not_answer() -> None:
    app = App("slow")

    @app.workflow
    async def echo() -> int:
        return await workflow.receive("number", int)

    async with Gated() as store, app.node(store) as node:
        handles = [node.client.workflow(echo, id=f"e-{n}") for n in range(INSTANCES)]
        numbered = list(enumerate(handles))
        await asyncio.gather(*(handle.start() for handle in handles))
        assert node._life is not None
        turns = node._life.turns
        before = turns.count
        earlier, later = numbered[:-LATER], numbered[-LATER:]
        with store.closed():
            sending = [asyncio.create_task(h.send("number", n)) for n, h in earlier]
            taken = -1
            # A hundred passes of the loop without a turn: no other round follows.
            while taken != turns.count:
                taken = turns.count
                for _ in range(100):
                    await asyncio.sleep(0)
            # More than a batch, because turns go on while the store is at work. At most a batch on
            # its way, 512 commits that wait, and the turns of one round, which takes 10 ms.
            assert 256 < taken - before < INSTANCES / 2
            for n, handle in later:
                sending.append(asyncio.create_task(handle.send("number", n)))
                for _ in range(3):
                    await asyncio.sleep(0)
            assert turns.count == taken, "a unit that becomes ready meanwhile brings no round"
            assert not any(task.done() for task in sending)
        async with asyncio.timeout(30):
            await asyncio.gather(*sending)
            results = await asyncio.gather(*(handle.result() for handle in handles))
        assert results == list(range(INSTANCES))
