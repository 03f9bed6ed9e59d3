"""Deletes against everything else at the same time: children that are being born, starts, sends, ends and deletes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from engine import PATIENCE_S, World, until

from perdure import App, ChildError, Client, NotFound, PerdureError, StillRunning, workflow
from perdure.ports.store import Units

ROUNDS = 6


async def settled(client: Client) -> bool:
    """Whether no instance and no message is left."""
    counts = await client.counts()
    return not any(counts.values())


@pytest.fixture
def spawner(app: App) -> Any:
    """A workflow that has child after child, each of which has a child."""

    @app.workflow
    async def leaf() -> None:
        await workflow.receive("never", bool)

    @app.workflow
    async def middle() -> None:
        await leaf()

    @app.workflow
    async def spawner(many: int) -> None:
        calls = []
        for _ in range(many):
            calls.append(middle())
            await asyncio.sleep(0.0005)
        await asyncio.gather(*calls)

    return spawner


@pytest.mark.parametrize("after", [0, 1, 3, 8])
async def test_no_child_outlives_a_tree_that_was_deleted_while_it_grew(
    world: World, app: App, spawner: Any, after: int
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(spawner, id="s")
        await handle.start(12)

        async def grown() -> bool:
            return len(await node.client.list(limit=None)) > after

        await until(grown, f"{after} descendants")
        assert await handle.delete(force=True) > min(after, 1)
        await until(lambda: settled(node.client), "nothing is left")
    async with world.node(app) as node:
        assert await settled(node.client)


async def test_a_tree_that_grew_while_it_was_deleted_is_gone_after_a_restart(
    world: World, app: App, spawner: Any
) -> None:
    """The node stops right behind the delete: what was on its way to the children arrives in the next one."""
    async with world.node(app) as node:
        handle = node.client.workflow(spawner, id="s")
        await handle.start(12)

        async def grown() -> bool:
            return len(await node.client.list(limit=None)) > 4

        await until(grown, "some descendants")
        await handle.delete(force=True)
    async with world.node(app) as node:
        await until(lambda: settled(node.client), "nothing is left")


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_any_mix_of_verbs_leaves_a_whole_instance_or_none(
    world: World, app: App, seed: int
) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    @app.workflow
    async def busy(i: int) -> int:
        workflow.kv.set("began", True)
        while (n := await workflow.receive("n", int)) >= 0:
            i = await double(n)
        return i

    chance = random.Random(seed)

    async def act(client: Client, n: int) -> None:
        handle = client.workflow(
            busy, id=f"b{n % 3}", if_exists=chance.choice(["join", "reject", "replace"])
        )
        verbs: list[Any] = [
            lambda: handle.start(n % 2),
            lambda: handle.start(n % 2),
            lambda: handle.send("n", chance.choice([1, 2, -1])),
            lambda: handle.delete(force=True),
            lambda: handle.delete(),
            lambda: handle.cancel(),
            lambda: handle.pause(),
            lambda: handle.resume(),
            lambda: client.delete(id_prefix="b", force=chance.random() < 0.5),
        ]
        for _ in range(12):
            with contextlib.suppress(PerdureError):  # a refusal is as good as an answer
                await chance.choice(verbs)()

    async with world.node(app) as node:
        await asyncio.gather(*(act(node.client, n) for n in range(9)))
    async with world.node(app) as node:
        for description in await node.client.list():
            handle = node.client.get(description.id)
            assert (await handle.history())[
                0
            ].event.__class__.__name__ == "Started" or description.paused
            await handle.delete(force=True)
        await until(lambda: settled(node.client), "nothing is left")


async def test_ten_deletes_of_a_tree_remove_it_once(world: World, app: App) -> None:
    @app.workflow
    async def leaf(i: int) -> int:
        return i

    @app.workflow
    async def root() -> int:
        return sum(await asyncio.gather(*(leaf(i) for i in range(8))))

    async with world.node(app) as node:
        handle = node.client.workflow(root, id="r")
        await handle.run()
        outcomes = await asyncio.gather(
            *(handle.delete() for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(o, int | NotFound) for o in outcomes)
        assert sum(o for o in outcomes if isinstance(o, int)) == 9
        assert await settled(node.client)


async def test_a_bulk_delete_beside_starts_takes_whole_trees_only(world: World, app: App) -> None:
    @app.workflow
    async def leaf(i: int) -> int:
        return i

    @app.workflow
    async def root() -> int:
        return sum(await asyncio.gather(*(leaf(i) for i in range(3))))

    async with world.node(app) as node:
        client = node.client

        async def start(i: int) -> None:
            await client.workflow(root, id=f"r{i}").run()

        async def sweep() -> int:
            return (await client.delete(type="root")).instances

        running = [asyncio.ensure_future(start(i)) for i in range(20)]
        removed = 0
        while not all(task.done() for task in running):
            removed += await sweep()
            await asyncio.sleep(0)  # in memory nothing of it waits
        await asyncio.gather(*running)
        removed += await sweep()
        assert removed == 20 * 4
        assert await settled(client)


class Interrupted:
    """A node whose store lets something happen right after it was asked for the children of a unit."""

    def __init__(self, node: Any, parent: str, happen: Any) -> None:
        self.node, self.parent, self.happen = node, parent, happen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node.gateway, name)

    @property
    def store(self) -> Any:
        return self

    async def query(self, query: Any) -> Any:
        page = await self.node.store.query(query)
        if isinstance(query, Units) and query.parent == self.parent and self.happen is not None:
            happen, self.happen = self.happen, None
            await happen()
        return page


@pytest.mark.parametrize("force", [False, True])
async def test_children_of_a_root_that_ends_while_its_tree_is_read_are_not_left(
    world: World, app: App, force: bool
) -> None:
    @app.workflow
    async def leaf(i: int) -> int:
        return i

    @app.workflow
    async def root() -> int:
        await workflow.receive("go", bool)
        return sum(await asyncio.gather(*(leaf(i) for i in range(3))))

    async with world.node(app) as node:
        handle = node.client.workflow(root, id="r")
        await handle.start()

        async def end() -> None:
            await handle.send("go", True)
            await handle.result(timeout=30)

        interrupted: Any = Interrupted(node, "r", end)
        if force:
            await Client(interrupted).get("r").delete(force=True)
        else:
            with pytest.raises(StillRunning):
                await Client(interrupted).get("r").delete()
            assert len(await node.client.list()) == 4
            assert await handle.delete() == 4
        assert await node.client.list() == []


async def test_a_child_that_is_deleted_while_its_parent_stops_is_not_asked_for_again(
    world: World, app: App
) -> None:
    @app.workflow
    async def child() -> str:
        return await workflow.receive("go", str)

    @app.workflow
    async def parent() -> str:
        try:
            return await workflow.child(child, id="child")()
        except ChildError as error:
            return f"told: {error.failure.type}"

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="parent")
        await handle.start()

        async def there() -> bool:
            return bool(await node.client.list(id_prefix="child"))

        await until(there, "the child")
        await node.client.get("child").delete(force=True)
    async with world.node(app) as node:
        assert await node.client.get("parent").result(timeout=PATIENCE_S) == "told: Terminated"
        assert not await node.client.list(id_prefix="child")
