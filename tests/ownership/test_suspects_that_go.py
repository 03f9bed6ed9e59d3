"""A scope that goes while its suspects are being counted leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.node.ownership.blame import Blame
from perdure.ports.store import Incarnation, Units
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


async def test_one_that_is_held_back_stays_so_when_its_scope_is_given_up_in_order(app: App) -> None:
    ran: list[str] = []

    @app.activity
    async def endless(node: str) -> None:
        ran.append(node)
        await asyncio.Event().wait()

    @app.workflow
    async def works() -> None:
        await endless("x")

    held = Blame(1, 1, "held")
    options = NodeOptions(stop_ms=0, trial_ms=200, control_ms=1_000)
    async with MemoryStore() as store:
        async with Node(app, store, options=options) as before:
            await before.client.workflow(works, id="w").start()
            await until(lambda: ran, "its activity")
        ran.clear()

        async def blame() -> Blame:
            return Blame.read((await store.query(Units(ids=("w",)))).items[0].row.suspect)

        async def is_held() -> bool:
            return await blame() == held

        # It was alone on a brief trial when the last owner crashed.
        claim = (await store.claim([SCOPE], Incarnation("crashed", "ff")))[SCOPE]
        (found,) = await store.load(["w"])
        assert found.row is not None
        row = msgspec.structs.replace(found.row, suspect=Blame(1, 0, "brief").number)
        fence = Fence(SCOPE, claim.epoch, "ff")
        await store.commit([Commit(bytes(16), fence, row.updated_at, "w", found.version, row)])
        cluster = MemoryCluster()
        cluster.assign("a", [SCOPE])
        async with Node(app, store, name="a", options=options, cluster=cluster) as a:
            await until(is_held, "its time of control")
            cluster.assign("a", [])
            await until(lambda: not a.scopes, "the scope is given up")
            cluster.assign("b", [SCOPE])
            async with Node(app, store, name="b", options=options, cluster=cluster):
                began_s = time.monotonic()
                await until(lambda: ran, "its brief trial")
                assert time.monotonic() - began_s > 0.9, "its control begins anew"
