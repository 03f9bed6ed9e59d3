"""A scope that a node has lost and owns again, while an instance of it is still on its way out of memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from engine import PATIENCE_S, until

from perdure import App, Node, NodeOptions, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.ports.store import Incarnation
from perdure.store.memory import MemoryStore
from perdure.testing import ManualClock
from perdure.testing.cluster import MemoryCluster

SCOPE = "default/0"


class Permitted(MemoryStore):
    """Takes one batch for each permit while it is strict."""

    def __init__(self) -> None:
        super().__init__()
        self.strict = False
        self.waiting = 0
        self.permits = asyncio.Semaphore(0)

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        if self.strict:
            self.waiting += 1
            await self.permits.acquire()
            self.waiting -= 1
        return await super().commit(batch)

    async def pass_to_another(self) -> None:
        """Another node owns the scope for a moment."""
        thief = Incarnation("thief", "ab" * 8)
        claim = (await self.claim([SCOPE], thief))[SCOPE]
        await self.release([Fence(SCOPE, claim.epoch, thief.id)])


@pytest.mark.parametrize("work", ["an activity", "a timer"])
async def test_what_a_scan_found_of_an_instance_that_was_leaving_is_done(
    app: App, work: str
) -> None:
    done = asyncio.Event()

    @app.activity
    async def slow() -> str:
        await done.wait()
        return "done"

    @app.workflow
    async def worker() -> str:
        if work == "a timer":
            await workflow.sleep(60)
            return "done"
        return await slow()

    @app.workflow
    async def echo() -> int:
        return await workflow.receive("n", int)

    clock = ManualClock()
    cluster = MemoryCluster()
    cluster.assign("a", [SCOPE])
    options = NodeOptions(stop_ms=0, rescan_ms=600_000)
    async with Permitted() as store:
        async with Node(
            app, store, name="a", options=options, cluster=cluster, clock=clock
        ) as node:
            await until(lambda: node.scopes == {SCOPE: "serving"}, "the scope")
            await node.client.workflow(echo, id="e").start()
            await node.client.workflow(worker, id="w").start()
            store.strict = True
            sending = asyncio.create_task(node.client.get("e").send("n", 1))
            await until(lambda: store.waiting, "the first commit")
            done.set()
            clock.advance(60_000)
            for _ in range(20):
                await asyncio.sleep(0)  # the worker has taken a turn, whose commit waits
            await store.pass_to_another()
            store.permits.release()
            await until(lambda: node.scopes == {} and store.waiting, "the loss of the scope")
            cluster.assign("a", [SCOPE])
            await until(lambda: node.scopes == {SCOPE: "serving"}, "the scope again")
            for _ in range(20):
                await asyncio.sleep(0)  # the scan has ended
            store.strict = False
            store.permits.release()
            assert await node.client.get("w").result(timeout=PATIENCE_S) == "done"
            await sending
            assert await node.client.get("e").result(timeout=PATIENCE_S) == 1


async def test_a_commit_of_unknown_outcome_says_nothing_of_a_later_one(app: App) -> None:
    """The later one is refused, as the scope is another node's, and its message goes by the store."""

    class Hiccup(Permitted):
        answers = False

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            verdicts = await super().commit(batch)
            if not self.answers:
                self.answers = True
                raise StoreUnavailable("the answer is lost", "unknown")
            return verdicts

    @app.workflow
    async def echo() -> int:
        return await workflow.receive("n", int)

    cluster = MemoryCluster()
    cluster.assign("a", [SCOPE])
    async with Hiccup() as store, Node(app, store, name="a", cluster=cluster) as node:
        await until(lambda: node.scopes == {SCOPE: "serving"}, "the scope")
        handle = node.client.workflow(echo, id="e")
        await handle.start()
        await store.pass_to_another()
        await handle.send("n", 1)
        cluster.assign("a", [SCOPE])
        assert await handle.result(timeout=PATIENCE_S) == 1
