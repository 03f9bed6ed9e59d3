"""A deleted instance is gone with all it owned, its id is free, and nobody is left waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import (
    App,
    ChildError,
    Client,
    HasParent,
    NotFound,
    PerdureError,
    StillRunning,
    WorkflowTerminated,
    workflow,
)
from perdure.kernel.data.message import Delete, Message, Reply
from perdure.ports.store import Executions, Inbox, Journal, KvEntries


async def is_gone(client: Client, id: str) -> bool:
    """Whether nothing of the instance is left in the store, but for the letters of children that outlived it."""
    try:
        await client.get(id).describe()
    except NotFound:
        store = client._gateway.store
        for query in (Journal(unit=id, execution=1), Executions(unit=id), KvEntries(unit=id)):
            assert (await store.query(query)).items == [], query
        assert not [
            m for m in (await store.query(Inbox(unit=id))).items if not isinstance(m.body, Reply)
        ]
        return True
    return False


@pytest.fixture
def greet(app: App) -> Any:
    @app.workflow
    async def greet(name: str) -> str:
        workflow.kv.set("name", name)
        return f"hello {name}"

    return greet


@pytest.fixture
def wait(app: App) -> Any:
    @app.workflow
    async def wait(n: int = 0) -> str:
        return await workflow.receive("go", str)

    return wait


async def test_what_has_ended_is_removed_and_its_id_is_free(
    world: World, app: App, greet: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(greet, id="g")
        assert await handle.run("Ada") == "hello Ada"
        assert await handle.delete() == 1
        assert await is_gone(node.client, "g")
        assert await handle.run("Bob") == "hello Bob"
        assert await handle.kv() == {"name": "Bob"}


async def test_an_unknown_id_is_named(world: World, app: App) -> None:
    async with world.node(app) as node:
        with pytest.raises(NotFound, match="nobody"):
            await node.client.get("nobody").delete()
        with pytest.raises(NotFound, match="nobody"):
            await node.client.get("nobody").prune(keep_last=1)


async def test_what_runs_is_refused_without_force(world: World, app: App, wait: Any) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(wait, id="w")
        await handle.start()
        with pytest.raises(StillRunning, match=r"'w' is running; cancel it .* force=True"):
            await handle.delete()
        await handle.send("go", "on")
        assert await handle.result(timeout=30) == "on"


async def test_force_ends_what_runs_and_tells_who_waits(world: World, app: App, wait: Any) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(wait, id="w")
        await handle.start()
        waiter = asyncio.create_task(handle.result(timeout=30))
        await waits_for(handle, "message go")
        assert await handle.delete(force=True, reason="spring cleaning") == 1
        with pytest.raises(WorkflowTerminated, match="spring cleaning"):
            await waiter
        assert await is_gone(node.client, "w")


@pytest.mark.parametrize("how", ["paused", "delayed", "held", "busy"])
async def test_force_removes_it_in_every_state(world: World, app: App, wait: Any, how: str) -> None:
    entered = asyncio.Event()
    cancelled = asyncio.Event()

    @app.activity
    async def work() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @app.workflow
    async def busy() -> None:
        await work()

    async with world.node(app) as node:
        if how == "delayed":
            handle: Any = node.client.workflow(wait, id="x", delay=3_600)
            await handle.start()
        elif how == "held":
            handle = node.client.workflow("absent", id="x")
            await handle.start()
            await waits_for(handle, "not_registered")
        elif how == "busy":
            handle = node.client.workflow(busy, id="x")
            await handle.start()
            await entered.wait()
        else:
            handle = node.client.workflow(wait, id="x")
            await handle.start()
            await handle.pause()
            await handle.send("go", "later")
        assert await handle.delete(force=True) == 1
        assert await is_gone(node.client, "x")
        if how == "busy":
            await asyncio.wait_for(cancelled.wait(), 30)
    async with world.node(app) as node:  # nothing of it comes back
        assert await node.client.list() == []


async def test_a_tree_goes_as_a_whole(world: World, app: App) -> None:
    @app.workflow
    async def leaf(n: int) -> int:
        return n

    @app.workflow
    async def branch(n: int) -> int:
        return sum([await workflow.child(leaf, id=f"leaf-{n}-{i}")(i) for i in range(2)])

    @app.workflow
    async def root() -> int:
        return sum([await workflow.child(branch, id=f"branch-{n}")(n) for n in range(2)])

    async with world.node(app) as node:
        handle = node.client.workflow(root, id="root")
        await handle.run()
        tree = await handle.tree()
        assert [d.id for d in tree.walk()] == [
            "root", "branch-0", "leaf-0-0", "leaf-0-1", "branch-1", "leaf-1-0", "leaf-1-1",
        ]  # fmt: skip
        with pytest.raises(HasParent, match="'branch-0' is a child of 'root'"):
            await node.client.get("branch-0").delete()
        assert await node.client.get("branch-0").delete(force=True) == 3
        assert await handle.delete() == 4
        assert await node.client.list() == []


async def test_a_running_tree_goes_with_force_and_not_without(
    world: World, app: App, wait: Any
) -> None:
    @app.workflow
    async def parent() -> str:
        return await workflow.child(wait, id="child", parent_close="abandon")()

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="parent")
        await handle.start()
        await until(lambda: exists(node.client, "child"), "the child")
        with pytest.raises(StillRunning, match="'parent' is running"):
            await handle.delete()
        await handle.terminate()
        with pytest.raises(StillRunning, match="descendant 'child' is running"):
            await handle.delete()
        assert not await is_gone(node.client, "parent")
        assert await handle.delete(force=True) == 2
        assert await is_gone(node.client, "parent")
        assert await is_gone(node.client, "child")


async def test_a_delete_that_finds_a_run_open_is_refused_by_its_turn(
    world: World, app: App, wait: Any
) -> None:
    """The client looks first. When its look was too early, the turn that takes the delete decides."""
    async with world.node(app) as node:
        handle = node.client.workflow(wait, id="w")
        await handle.start(1)
        request = Message(b"d" * 16, "w", Delete(force=False), 0)
        assert await node.gateway.send(request) == "open"
        await handle.send("go", "still here")
        assert await handle.result(timeout=30) == "still here"


async def test_open_children_go_with_their_parent_in_one_commit(
    world: World, app: App, wait: Any
) -> None:
    @app.workflow
    async def parent() -> str:
        return await workflow.child(wait, id="child", parent_close="abandon")()

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="parent")
        await handle.start()
        await until(lambda: exists(node.client, "child"), "the child")
        request = Message(b"d" * 16, "parent", Delete(force=True), 0)  # no client takes the tree
        assert await node.gateway.send(request) == "ok"
        await until(lambda: is_gone(node.client, "child"), "the child's end")


async def test_a_parent_is_told_that_its_child_was_deleted(
    world: World, app: App, wait: Any
) -> None:
    @app.workflow
    async def parent() -> str:
        try:
            return await workflow.child(wait, id="child")()
        except ChildError as error:
            return str(error)

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="parent")
        await handle.start()
        await until(lambda: exists(node.client, "child"), "the child")
        await node.client.get("child").delete(force=True, reason="not needed")
        assert "not needed" in await handle.result(timeout=30)


async def test_a_delete_that_was_interrupted_is_finished_by_the_next(
    world: World, app: App, wait: Any
) -> None:
    @app.workflow
    async def parent() -> str:
        return await workflow.child(wait, id="child", parent_close="abandon")()

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="parent")
        await handle.start()
        await until(lambda: exists(node.client, "child"), "the child")
        await handle.terminate()
        await until(lambda: ended(node.client, "parent"), "the end")
        assert (
            await node.gateway.send(Message(b"1" * 16, "parent", Delete(cascade=False), 0)) == "ok"
        )
        assert not await is_gone(node.client, "child")
        assert await handle.delete(force=True) == 1
        assert await is_gone(node.client, "child")


async def test_a_start_right_behind_a_delete_begins_anew(
    world: World, app: App, greet: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(greet, id="g")
        await handle.run("Ada")
        again = node.client.workflow(greet, id="g", if_exists="reject")
        removed, _ = await asyncio.gather(handle.delete(), until_started(again, "Bob"))
        assert removed == 1
        assert await again.result(timeout=30) == "hello Bob"


async def test_concurrent_deletes_remove_once(world: World, app: App, greet: Any) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(greet, id="g")
        await handle.run("Ada")
        outcomes = await asyncio.gather(
            *(handle.delete() for _ in range(10)), return_exceptions=True
        )
        assert sum(1 for o in outcomes if o == 1) == 1
        assert all(o in (0, 1) or isinstance(o, NotFound) for o in outcomes)


async def test_a_redelivered_start_does_not_bring_it_back(
    world: World, app: App, greet: Any
) -> None:
    async with world.node(app) as node:
        handle = node.client.workflow(greet, id="g")
        message: Message = handle._message(("Ada",), {})
        message.scope = "default/0"
        await node.gateway.send(message)
        await handle.result(timeout=30)
        await handle.delete()
        posted = (await node.store.post([message]))[0]
        assert posted.outcome == "duplicate"
        await handle.run("Bob")
        await handle.delete(forget=True)


async def test_a_client_without_a_node_asks_for_it(
    world: World, app: App, greet: Any, wait: Any
) -> None:
    async with world.node(app) as node:
        client = Client.open(node.store)
        await node.client.workflow(greet, id="g").run("Ada")
        await node.client.workflow(wait, id="w").start()
        with pytest.raises(StillRunning):
            await client.get("w").delete()
        assert await client.get("g").delete() == 1
        assert await client.get("w").delete(force=True) == 1
    async with world.node(app) as node:  # whose inboxes are read at the latest now
        await until(lambda: is_gone(node.client, "g"), "the end of g")
        await until(lambda: is_gone(node.client, "w"), "the end of w")


async def exists(client: Client, id: str) -> bool:
    return bool(await client.list(id_prefix=id))


async def ended(client: Client, id: str) -> bool:
    return (await client.get(id).describe()).closed_at is not None


async def until_started(handle: Any, name: str) -> None:
    async def is_started() -> bool:
        try:
            await handle.start(name)
        except PerdureError:
            return False
        return True

    await until(is_started, "the start of a deleted id")
