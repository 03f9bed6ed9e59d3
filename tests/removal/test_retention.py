"""Instances whose retention is over are deleted by their node; what is younger, or runs, stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from engine import PATIENCE_S, World, until

from perdure import App, NodeOptions, workflow
from perdure.errors import StoreFormat, StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.node import Node
from perdure.node.upkeep import sweeper
from perdure.ports.store import Loaded, Totals
from perdure.store.memory import MemoryStore
from perdure.testing import ManualClock
from perdure.testing.cluster import MemoryCluster


async def test_what_ended_long_ago_is_deleted(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def short(n: int) -> int:
        return n

    @app.workflow
    async def parent() -> int:
        await workflow.child(short, id="child")(1)
        return await workflow.receive("go", int)

    options = NodeOptions(retention_ms=60_000, sweep_ms=5)
    async with Node(app, world.store, clock=clock, options=options) as node:
        client = node.client
        await client.workflow(short, id="old").run(1)
        await client.workflow(parent, id="parent").start()
        clock.advance(59_000)
        await client.workflow(short, id="young").run(1)
        assert len(await client.list()) == 4
        clock.advance(2_000)

        async def ids() -> set[str]:
            return {d.id for d in await client.list()}

        async def only_the_young() -> bool:
            return await ids() == {"parent", "young"}

        await until(only_the_young, "the end of old and child")
        await client.get("parent").send("go", 2)
        assert await client.get("parent").result(timeout=30) == 2


async def test_answers_and_tombstones_are_swept(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def short(n: int) -> int:
        return n

    async with Node(app, world.store, clock=clock, options=NodeOptions(sweep_ms=5)) as node:
        handle = node.client.workflow(short, id="s")
        message = handle._message((1,), {})
        message.scope = "default/0"
        await node.gateway.send(message)
        await handle.result(timeout=30)
        await handle.delete()
        clock.advance(31 * 24 * 3600 * 1000)

        async def is_forgotten() -> bool:
            return (await node.store.post([message]))[0].outcome == "accepted"

        await until(is_forgotten, "the tombstone's end")


class Watched(MemoryStore):
    """Notes how many deletions come at once."""

    most_at_once = 0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        deletions = sum(commit.delete is not None for commit in batch)
        self.most_at_once = max(self.most_at_once, deletions)
        return await super().commit(batch)


async def test_old_instances_go_a_few_at_a_time(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def short(n: int) -> int:
        return n

    options = NodeOptions(retention_ms=60_000, sweep_ms=5)
    async with Watched() as store, Node(app, store, clock=clock, options=options) as node:
        for n in range(100):
            await node.client.workflow(short, id=f"s{n}").run(n)
        clock.advance(61_000)

        async def none_is_left() -> bool:
            return await node.client.list() == []

        await until(none_is_left, "the end of all")
        assert 0 < store.most_at_once <= 20, "other commits would wait behind them"


async def test_a_node_that_is_overtaken_at_deletions_stops(app: App) -> None:
    """The stop comes in the very moment in which the deletions are refused."""

    @app.workflow
    async def short() -> None: ...

    class Overtaken(MemoryStore):
        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            if any(commit.delete is not None for commit in batch):
                return ["fenced"] * len(batch)
            return await super().commit(batch)

    async with Overtaken() as store:
        node = Node(app, store, options=NodeOptions(retention_ms=1, sweep_ms=20, stop_ms=0))
        await node.start()
        await asyncio.gather(*(node.client.workflow(short, id=f"s{n}").run() for n in range(5)))
        with pytest.raises(StoreUnavailable, match="another node has taken over"):
            await asyncio.wait_for(node.wait_ended(), PATIENCE_S)


async def test_those_of_other_owners_hide_none_of_ours(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the newest, and more than one look brings. Their owner keeps them."""
    monkeypatch.setattr(sweeper, "_PAGE", 3)

    @app.workflow
    async def short() -> None: ...

    ids = [f"s{n}" for n in range(40)]
    ours, others = scopes_of(2)
    by_scope = {
        scope: [unit for unit in ids if scope_of(unit, 2) == scope] for scope in (ours, others)
    }
    async with MemoryStore(shards=2) as store:
        async with Node(app, store) as node:
            for unit in (*by_scope[ours], *by_scope[others]):
                await node.client.workflow(short, id=unit).run()
        cluster = MemoryCluster()
        cluster.assign("a", [ours])
        options = NodeOptions(retention_ms=1, sweep_ms=5)
        async with Node(app, store, name="a", options=options, cluster=cluster) as node:

            async def only_theirs() -> bool:
                found = {d.id for d in await node.client.list(limit=100)}
                return found == set(by_scope[others])

            await until(only_theirs, "the end of ours")


async def test_one_that_cannot_be_read_keeps_no_other(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_DELETES", 1)

    class Damaged(MemoryStore):
        async def load(self, units: Sequence[str]) -> list[Loaded]:
            if "s3" in units:
                raise StoreFormat("the rows of 's3' cannot be read")
            return await super().load(units)

    @app.workflow
    async def short() -> None: ...

    options = NodeOptions(retention_ms=1, sweep_ms=5)
    async with Damaged() as store, Node(app, store, options=options) as node:
        for n in range(6):
            await node.client.workflow(short, id=f"s{n}").run()

        async def only_the_damaged_one() -> bool:
            return [d.id for d in await node.client.list()] == ["s3"]

        await until(only_the_damaged_one, "the end of the others")


async def test_one_sweep_removes_all_that_has_expired(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is more than one batch holds."""
    monkeypatch.setattr(sweeper, "_ROWS", 2)

    @app.workflow
    async def short() -> None: ...

    clock = ManualClock()
    async with MemoryStore() as store, Node(app, store, clock=clock) as node:
        for n in range(5):
            await node.client.workflow(short, id=f"s{n}").run()
            await node.client.get(f"s{n}").delete()
        clock.advance(31 * 24 * 3600 * 1000)
        assert node._life is not None
        await node._life.sweeper.sweep()
        left = dict((await store.query(Totals(at=clock.now_ms()))).items)
        assert left["tombstones"] == 0
