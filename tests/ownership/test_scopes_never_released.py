"""Scopes whose owner, by the store, lives and does not serve them: nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging

import pytest

from perdure import App, workflow
from perdure.kernel.data.placement import scope_of
from perdure.testing import TestCluster

app = App("never-released")


@app.workflow
async def hears() -> int:
    return await workflow.receive("n", int)


async def test_a_scope_that_its_owner_does_not_know_of_is_claimed_after_the_hand_over() -> None:
    """Each renewal of the lease, which comes sooner than that, must not begin the wait anew."""
    async with TestCluster(app, nodes=2, limit=120) as cluster:
        handle = cluster.client.workflow(hears, id="hears-1")
        await handle.start()
        owner = await cluster.owner("hears-1")
        (other,) = [node for node in cluster.nodes if node is not owner]
        # As a node with an older view does that claims late, and has given the scope up meanwhile.
        scope = scope_of("hears-1", cluster.store.info.shards)
        await cluster.store.claim([scope], other.node.incarnation)
        await handle.send("n", 7)
        assert await handle.result() == 7


@pytest.mark.parametrize("slow_s", [0, 0.001, 0.01])
async def test_a_node_that_has_stopped_says_nothing_of_its_lease(
    slow_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last renewal was answered when it had given its seat up."""
    async with TestCluster(app, nodes=4) as cluster:
        with caplog.at_level(logging.WARNING, "perdure.node"):
            for node in cluster.nodes[:3]:
                node.slow("cluster", slow_s)
                await node.stop()
            await asyncio.sleep(60)
    assert not [r.getMessage() for r in caplog.records if "is frozen" in r.getMessage()]
