"""A scope that goes while its suspects are being counted leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.kernel.data.commit import Commit, Verdict
from perdure.ports.store import Incarnation
from perdure.store.memory import MemoryStore
from perdure.testing.cluster import MemoryCluster

SCOPE = "default/0"


class Slow(MemoryStore):
    """Answers commits late, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts = await super().commit(batch)
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return verdicts


async def test_a_scope_that_is_given_up_while_its_suspects_are_counted(app: App) -> None:
    @app.activity
    async def endless() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def works() -> None:
        await endless()
        await workflow.receive("never", int)

    options = NodeOptions(stop_ms=0, crash_failures=1)
    async with Slow() as store:
        async with Node(app, store, options=options) as before:
            await before.client.workflow(works, id="w").start()
        # An owner that never releases: for the next one it has crashed.
        await store.claim([SCOPE], Incarnation("crashed", "ff"))
        cluster = MemoryCluster()
        store.gate.clear()
        cluster.assign("a", [SCOPE])
        async with Node(app, store, name="a", options=options, cluster=cluster) as node:
            await until(lambda: store.waiting == 1, "the commit that counts the suspect")
            cluster.assign("a", [])
            await until(lambda: set(node.scopes.values()) == {"draining"}, "the drain")
            store.gate.set()
            await until(lambda: not node.scopes, "the scope is given up")
            assert node.residents == 0
