"""TestCluster: real nodes in one process, on virtual time, with faults."""

from __future__ import annotations

import asyncio
import time

import pytest

from perdure import App, workflow
from perdure.errors import StoreUnavailable, UsageError, WorkflowFailed
from perdure.testing import TestCluster, WaitsForever
from perdure.transport.network import Faults

app = App("several")
approved = workflow.Channel[bool]("approved")


@app.activity
async def charge(cents: int) -> str:
    await asyncio.sleep(5)
    return f"charged {cents}"


@app.activity(timeout=30)
def compute(seconds: float) -> str:
    time.sleep(seconds)
    return "quick"


@app.workflow
async def heavy() -> str:
    return await compute(0.2)


@app.activity(timeout=0.1)
def compute_long(seconds: float) -> None:
    time.sleep(seconds)


@app.workflow
async def hanging() -> None:
    await compute_long(0.3)


@app.workflow
async def order(cents: int) -> str:
    if not await approved.receive():
        return "refused"
    await asyncio.sleep(60)
    return await charge(cents)


async def test_the_death_of_a_node() -> None:
    began_s = time.perf_counter()
    async with TestCluster(app) as cluster:
        handle = cluster.client.workflow(order, id="order-1")
        await handle.start(7)
        owner = await cluster.owner("order-1")
        await owner.kill()
        await handle.send(approved, True)
        assert await handle.result() == "charged 7"
        assert await cluster.owner("order-1") is not owner
    assert time.perf_counter() - began_s < 20


async def test_a_frozen_node_wakes_up_and_records_nothing_twice() -> None:
    began = 0

    async def slow(cents: int) -> str:
        nonlocal began
        began += 1
        await asyncio.sleep(5)
        return f"charged {cents}"

    async with TestCluster(app, activities={charge: slow}) as cluster:
        handle = cluster.client.workflow(order, id="order-1")
        await handle.start(7)
        await handle.send(approved, True)
        await asyncio.sleep(62)
        assert began == 1
        owner = await cluster.owner("order-1")
        incarnation = owner.node.incarnation
        owner.freeze()
        assert await handle.result() == "charged 7"
        assert began == 2
        owner.thaw()
        await cluster.settled()
        assert owner.node.incarnation != incarnation
        assert len(await cluster.calls(charge)) == 1


async def test_a_frozen_node_does_nothing() -> None:
    async with TestCluster(app, nodes=1) as cluster:
        cluster.node(0).freeze()
        handle = cluster.client.workflow(order, id="order-1")
        await handle.start(7)
        await asyncio.sleep(600)
        assert (await handle.describe()).status == "pending"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await cluster.node(0).client.get("order-1").send("approved", False)
        cluster.node(0).thaw()
        await handle.send(approved, False)  # the one before was given up by its sender
        assert await handle.result() == "refused"


async def test_a_node_that_is_cut_off_from_the_store() -> None:
    async with TestCluster(app) as cluster:
        handle = cluster.client.workflow(order, id="order-1")
        await handle.start(7)
        owner = await cluster.owner("order-1")
        owner.cut("store")
        with pytest.raises(StoreUnavailable, match="cut on purpose"):
            await owner.client.get("order-1").status()
        owner.heal("store")
        await owner.client.get("order-1").send("approved", False)
        assert await handle.result() == "refused"


async def test_a_node_that_is_cut_off_from_the_cluster_hands_its_work_over() -> None:
    async with TestCluster(app) as cluster:
        handle = cluster.client.workflow(order, id="order-1")
        await handle.start(7)
        owner = await cluster.owner("order-1")
        owner.cut("cluster")
        await asyncio.sleep(60)
        assert await cluster.owner("order-1") is not owner
        await handle.send(approved, False)
        assert await handle.result() == "refused"
        owner.heal()
        await cluster.settled()


async def test_callers_of_a_killed_node_are_told() -> None:
    async with TestCluster(app) as cluster:
        node = cluster.node(1)
        waiting = asyncio.create_task(node.client.workflow(order, id="order-1").run(7))
        await asyncio.sleep(1)
        await node.kill()
        with pytest.raises(StoreUnavailable, match="'node-1' was killed") as caught:
            await waiting
        assert caught.value.outcome == "unknown"
        with pytest.raises(UsageError, match="does not run"):
            await node.client.get("order-1").status()
        await node.restart()
        assert await node.client.get("order-1").status() == "running"


async def test_a_disturbed_store() -> None:
    async with TestCluster(app, seed=3) as cluster:
        for number, node in enumerate(cluster.nodes):
            node.disturb(
                {"commit unanswered": 0.7, "hint lost": 0.9, "read fails": 0.1}, seed=number
            )
            node.slow("store", 0.2)
            node.set_clock(300 * number)
        handles = [cluster.client.workflow(order, id=f"order-{n}") for n in range(10)]
        for handle in handles:
            await handle.start(1)
            await handle.send(approved, True)
        assert [await handle.result() for handle in handles] == ["charged 1"] * 10
        assert sum(node.mishaps.counts["commit unanswered"] for node in cluster.nodes) > 0


async def sent_within_s(cluster: TestCluster, *, links: bool) -> float:
    """How long a message takes from one node to an instance of another, without hints of the store."""
    for node in cluster.nodes:
        node.disturb({"hint lost": 1.0})
        if not links:
            node.cut("nodes")
    await asyncio.sleep(1)
    handle = cluster.client.workflow(order, id="order-1")
    await handle.start(7)
    owner = await cluster.owner("order-1")
    (other,) = [node for node in cluster.nodes if node is not owner]
    began = cluster.now()
    await other.client.get("order-1").send("approved", False)
    assert await handle.result() == "refused"
    return (cluster.now() - began).total_seconds()


async def test_a_message_for_another_node_comes_over_the_link_between_them() -> None:
    async with TestCluster(app, nodes=2) as cluster:
        assert await sent_within_s(cluster, links=True) < 0.5


async def test_without_a_link_it_comes_by_the_store_and_nothing_is_lost() -> None:
    async with TestCluster(app, nodes=2) as cluster:
        assert 0.5 < await sent_within_s(cluster, links=False) <= 6


async def test_a_frozen_node_does_not_hold_up_the_one_that_asks_it() -> None:
    async with TestCluster(app, nodes=2) as cluster:
        node, other = cluster.nodes
        ids = [f"order-{n}" for n in range(8)]
        await asyncio.sleep(1)  # for the link
        node.freeze()
        await asyncio.gather(*(other.client.workflow(order, id=unit).start(7) for unit in ids))
        await asyncio.gather(*(other.client.get(unit).send("approved", False) for unit in ids))
        results = [await cluster.client.workflow(order, id=unit).result() for unit in ids]
        assert results == ["refused"] * len(ids)
        node.thaw()
        await cluster.settled()


async def test_bad_links_lose_nothing() -> None:
    async with TestCluster(app, nodes=3, seed=5) as cluster:
        cluster.links.use(Faults(drop=0.5, duplicate=0.5, reorder=0.5, delay_ms=(0, 2_000)))
        for number in range(12):
            handle = cluster.node(number % 3).client.workflow(order, id=f"order-{number}")
            await handle.start(7)
            await handle.send("approved", False)
            assert await handle.result() == "refused"


async def test_a_function_on_a_thread_takes_real_time() -> None:
    async with TestCluster(app) as cluster:
        began_s = time.perf_counter()
        assert await cluster.client.workflow(heavy, id="heavy-1").run() == "quick"
        assert time.perf_counter() - began_s >= 0.2


async def test_a_function_that_hangs_meets_its_timeout() -> None:
    async with TestCluster(app) as cluster:
        with pytest.raises(WorkflowFailed, match="took too long"):
            await cluster.client.workflow(hanging, id="hanging-1").run()


async def test_a_test_that_waits_in_vain_is_told_so() -> None:
    with pytest.raises(WaitsForever, match=r"'order-1' .* is running .*approved"):
        async with TestCluster(app, limit=600) as cluster:
            await cluster.client.workflow(order, id="order-1").run(7)


async def test_the_time_of_the_loop_is_real_again_behind_it() -> None:
    loop = asyncio.get_running_loop()
    before_s = loop.time()
    async with TestCluster(app, nodes=1):
        await asyncio.sleep(3_600)
        with pytest.raises(UsageError, match="one cluster at once"):
            await TestCluster(app).__aenter__()
    assert loop.time() - before_s < 100
    await asyncio.sleep(0.001)


async def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="nodes"):
        TestCluster(app, nodes=0)
    async with TestCluster(app, nodes=1) as cluster:
        with pytest.raises(UsageError, match="no node 1"):
            cluster.node(1)
        with pytest.raises(UsageError, match="no way to 'moon'"):
            cluster.node(0).cut("moon")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="runs already"):
            await cluster.node(0).start()
