"""What happens to a child when its parent ends, gives it up, or is cancelled: the three rules."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, NotFound, workflow
from perdure.errors import UsageError
from perdure.kernel.data.message import Delete, Message
from perdure.workflow import Child

ends = [
    "parent-returns",
    "parent-is-cancelled",
    "parent-is-terminated",
    "parent-fails",
    "parent-gives-up",
]


async def _running(handle: Any) -> bool:
    try:
        return await handle.status() == "running"
    except NotFound:
        return False


async def _is_gone(handle: Any) -> bool:
    return not await _running(handle)


@pytest.mark.parametrize("end", ends)
@pytest.mark.parametrize("rule", ["cancel", "terminate", "abandon"])
async def test_the_rule_holds(world: World, app: App, rule: Any, end: str) -> None:
    @app.activity
    async def clean_up() -> str:
        return "clean"

    @app.workflow
    async def child() -> str:
        try:
            return await workflow.receive("go", str)
        finally:
            workflow.kv.set("cleanup", await clean_up())

    @app.workflow
    async def parent() -> str:
        call = asyncio.ensure_future(workflow.child(child, id="child", parent_close=rule)())
        await workflow.receive("end", bool)
        if end == "parent-fails":
            raise ValueError("oh")
        if end == "parent-gives-up":
            call.cancel()
            await workflow.receive("never", bool)
        return "done"

    async with world.node(app) as node:
        above, below = node.client.workflow(parent, id="parent"), node.client.get("child")
        await above.start()
        await until(lambda: _running(below), "the child runs")
        if end == "parent-is-cancelled":
            await above.cancel()
        elif end == "parent-is-terminated":
            await above.terminate()
        else:
            await above.send("end", True)
        if end != "parent-gives-up":
            await above.wait(timeout=30)
        if rule == "abandon":
            await below.send("go", "alone")
            assert await below.result(timeout=30) == "alone"
        else:
            ended = await below.wait(timeout=30)
            assert ended.status == "cancelled"
            assert ended.failure is not None
            assert ended.failure.type == ("CancelledError" if rule == "cancel" else "Terminated")
            assert "'parent'" in ended.failure.message
        assert await below.kv_get("cleanup", str) == (None if rule == "terminate" else "clean")


async def test_cancel_reaches_all_children_and_grandchildren(world: World, app: App) -> None:
    @app.workflow
    async def leaf() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def middle(n: int) -> None:
        await asyncio.gather(*(workflow.child(leaf, id=f"leaf-{n}-{i}")() for i in range(2)))

    @app.workflow
    async def root() -> None:
        await asyncio.gather(middle(1), middle(2))

    async with world.node(app) as node:
        handle = node.client.workflow(root, id="r")
        await handle.start()

        async def all_there() -> bool:
            return len(await node.client.list(type="leaf", status="running")) == 4

        await until(all_there, "four leaves")
        await handle.cancel("over")
        await handle.wait(timeout=30)

        async def all_gone() -> bool:
            return not await node.client.list(status=("running", "pending"))

        await until(all_gone, "all cancelled")
        assert {d.status for d in await node.client.list()} == {"cancelled"}


def held_later(why: str) -> tuple[App, App]:
    """An app with a parent of two children, and the next one, which has to hold the parent."""
    apps = App("before"), App("after")

    async def child() -> str:
        return await workflow.receive("go", str)

    calls = [app.workflow(name="child")(child) for app in apps]

    @apps[0].workflow(name="parent")
    async def parent() -> str:
        both = [workflow.child(calls[0], id=below)() for below in ("one", "two")]
        return "".join(await asyncio.gather(*both))

    if why == "nondeterminism":

        @apps[1].workflow(name="parent")
        async def parted() -> str:
            one = workflow.child(calls[1], id="one")()
            await workflow.sleep(1)
            return await one

    if why == "poison":

        @apps[1].workflow(name="parent", guard="off")
        async def endless() -> str:
            while True:
                pass

    return apps


@pytest.mark.parametrize("verb", ["terminate", "replace", "delete"])
@pytest.mark.parametrize("why", ["not_registered", "nondeterminism", "poison"])
async def test_children_are_told_when_their_parent_is_held_without_its_code(
    world: World, why: str, verb: str
) -> None:
    before, after = held_later(why)

    @after.workflow
    async def other() -> None: ...

    async with world.node(before) as node:
        await node.client.workflow("parent", id="parent").start()
        for below in ("one", "two"):
            await until(partial(_running, node.client.get(below)), "a child runs")
    async with world.node(after, turn_limit_ms=100) as node:
        handle = node.client.get("parent")
        await handle.send("anything", "loads it")
        await waits_for(handle, why)
        if verb == "terminate":
            await handle.terminate("enough")
        elif verb == "replace":
            await node.client.workflow(other, id="parent", if_exists="replace").run()
        else:
            assert await handle.delete(force=True) == 3
            assert not any((await node.client.counts()).values())
            return
        for below in ("one", "two"):
            assert (await node.client.get(below).wait(timeout=PATIENCE_S)).status == "cancelled"


async def test_children_of_a_held_run_that_was_replaced_are_none_of_the_new_run(
    world: World, app: App
) -> None:
    @app.workflow
    async def child() -> str:
        return await workflow.receive("go", str)

    async def parent(below: str) -> str:
        return await workflow.child(child, id=below, parent_close="abandon")()

    before = App("before")
    before.workflow(name="old")(parent)
    before.workflow(name="child")(child.definition.fn)
    app.workflow(name="new")(parent)
    async with world.node(before) as node:
        await node.client.workflow("old", id="parent").start("old child")
        await until(partial(_running, node.client.get("old child")), "the old child runs")
    async with world.node(app) as node:
        handle = node.client.workflow("new", id="parent", if_exists="replace")
        await handle.send("anything", "loads it")
        await waits_for(handle, "not_registered")
        await handle.start("new child")
        await until(partial(_running, node.client.get("new child")), "the new child runs")
        # No client takes the tree, which has the old child, too.
        request = Message(b"d" * 16, "parent", Delete(force=True), 0)
        assert await node.gateway.send(request) == "ok"
        await until(partial(_is_gone, node.client.get("new child")), "the new child's end")
        assert await _running(node.client.get("old child"))


async def test_an_unknown_rule_is_refused(app: App) -> None:
    @app.workflow
    async def child() -> None:
        pass

    with pytest.raises(UsageError, match="parent_close"):
        workflow.child(child, parent_close="kill")  # type: ignore[arg-type]
    assert isinstance(workflow.child(child, parent_close="abandon"), Child)
