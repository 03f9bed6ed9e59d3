"""A called workflow is a child: an instance of its own that replies to its parent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, ChildError, NotFound, workflow
from perdure.errors import InvalidId
from perdure.kernel.data.events import Started


async def test_a_child_gets_an_id_below_its_parents_and_its_result_comes_back(
    world: World, app: App
) -> None:
    @app.workflow
    async def child(i: int) -> list[Any]:
        info = workflow.info()
        return [i, info.id, info.parent]

    @app.workflow
    async def parent() -> list[Any]:
        return await child(1)

    async with world.node(app) as node:
        i, own, above = await node.client.workflow(parent, id="p").run()
        assert (i, above) == (1, "p")
        assert own.startswith("p/")
        assert [d.id for d in await node.client.list(parent="p")] == [own]
        described = await node.client.get(own).describe()
        assert (described.status, described.parent) == ("completed", "p")
        assert (await node.client.get("p").describe()).parent is None, "a root has none"
        with pytest.raises(NotFound):
            await node.client.get("nobody").describe()


async def test_the_parent_stands_in_the_history_and_is_known_after_a_replay(
    world: World, app: App
) -> None:
    parents: list[str | None] = []

    @app.workflow
    async def child() -> str | None:
        parents.append(workflow.info().parent)
        await workflow.receive("go", bool)
        return workflow.info().parent

    @app.workflow
    async def parent() -> str | None:
        return await workflow.child(child, id="below")()

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await waits_for(node.client.get("below"), "message go")
        begun = (await node.client.get("below").history())[0].event
        assert isinstance(begun, Started)
        assert begun.parent is not None
        assert begun.parent.unit == "p"
    async with world.node(app) as node:
        below = node.client.get("below")
        assert (await below.describe()).parent == "p"
        assert (await node.client.get("p").describe()).parent is None
        await below.send("go", True)
        assert await node.client.get("p").result(timeout=30) == "p"
    assert parents == ["p", "p"]


async def test_children_of_a_reused_id_do_not_join_those_of_its_earlier_life(
    world: World, app: App
) -> None:
    ran: list[int] = []

    @app.workflow
    async def mail(life: int) -> int:
        ran.append(life)
        return life

    @app.workflow
    async def order(life: int) -> list[Any]:
        return [mail.detach(life), await mail(life)]

    async with world.node(app) as node:
        first, _ = await node.client.workflow(order, id="o").run(1)
        await node.client.get(first).wait(timeout=30)
        await node.client.get("o").delete(force=True)
        second, _ = await node.client.workflow(order, id="o").run(2)
        assert await node.client.get(second).result(timeout=30) == 2
    assert first != second
    assert sorted(ran) == [1, 1, 2, 2]


async def test_the_child_of_a_very_long_id_is_found(world: World, app: App) -> None:
    @app.workflow
    async def child() -> str:
        return workflow.info().id

    @app.workflow
    async def parent() -> str:
        return await child()

    async with world.node(app) as node:
        own = await node.client.workflow(parent, id="p" * 512).run()
        assert (await node.client.get(own).describe()).parent == "p" * 512


async def test_many_children_at_once(world: World, app: App) -> None:
    @app.workflow
    async def child(i: int) -> int:
        await asyncio.sleep(0.001)
        return i * i

    async def body() -> list[int]:
        return await asyncio.gather(*(child(i) for i in range(20)))

    assert await world.replayed(app, body) == [i * i for i in range(20)]


async def test_a_named_child_has_its_name_as_it_is(world: World, app: App) -> None:
    @app.workflow
    async def child() -> str:
        return workflow.info().id

    async def body() -> list[str]:
        return [
            await workflow.child(child, id="ship-1")(),
            await workflow.child(child, id="ship-2")(),
        ]

    assert await world.replayed(app, body) == ["ship-1", "ship-2"]


async def test_a_bad_name_is_refused_at_the_call(world: World, app: App) -> None:
    @app.workflow
    async def child() -> str:
        return ""

    async def body() -> str:
        try:
            await workflow.child(child, id="x" * 600)()
        except InvalidId as error:
            return str(error)
        return ""

    assert "512" in await world.replayed(app, body)


async def test_a_name_that_is_taken_is_an_error_in_the_parent(world: World, app: App) -> None:
    @app.workflow
    async def child(i: int) -> int:
        await workflow.receive("go", bool)
        return i

    @app.workflow
    async def parent() -> str:
        try:
            await workflow.child(child, id="taken")(1)
        except ChildError as error:
            return error.failure.type
        return ""

    async with world.node(app) as node:
        await node.client.workflow(child, id="taken").start(1)
        assert await node.client.workflow(parent, id="p").run() == "AlreadyStarted"
        assert await node.client.get("taken").status() == "running"


async def test_a_childs_failure_is_an_error_that_the_parent_can_catch(
    world: World, app: App
) -> None:
    @app.workflow
    async def child() -> None:
        raise LookupError("no such bird")

    async def body() -> list[str]:
        try:
            await child()
        except ChildError as error:
            return [error.failure.type, error.failure.message, str(error)]
        return []

    kind, text, whole = await world.replayed(app, body)
    assert (kind, text) == ("LookupError", "no such bird")
    assert "child" in whole
    assert "no such bird" in whole


async def test_a_childs_version_can_be_exact(world: World, app: App) -> None:
    @app.workflow(name="child", version=1)
    async def child_1() -> str:
        return "one"

    @app.workflow(name="child", version=2)
    async def child_2() -> str:
        return "two"

    async def body() -> list[str]:
        return [await child_1(), await child_2(), await workflow.child(child_1, version=1)()]

    assert await world.replayed(app, body) == ["two", "two", "one"]


async def test_a_child_that_continues_as_new_replies_to_its_parent(world: World, app: App) -> None:
    @app.workflow
    async def child(i: int) -> int:
        await asyncio.sleep(0.001)
        if i < 5:
            workflow.continue_as_new(child, i + 1)
        return i

    async def body() -> int:
        return await child(0)

    assert await world.replayed(app, body) == 5


async def test_a_child_that_was_cancelled_tells_its_parent(world: World, app: App) -> None:
    @app.workflow
    async def child() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def parent() -> list[str]:
        try:
            await workflow.child(child, id="c")()
        except ChildError as error:
            return [error.failure.category, error.failure.message]
        return []

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await until(lambda: _there(node.client.get("c")), "the child")
        await node.client.get("c").cancel("not needed")
        category, message = await handle.result(timeout=30)
        assert category == "cancelled"
        assert "not needed" in message


async def test_a_child_that_was_terminated_tells_its_parent(world: World, app: App) -> None:
    @app.workflow
    async def child() -> None:
        await workflow.receive("never", int)

    @app.workflow
    async def parent() -> str:
        try:
            await workflow.child(child, id="c")()
        except ChildError as error:
            return error.failure.type
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(parent, id="p")
        await handle.start()
        await until(lambda: _there(node.client.get("c")), "the child")
        await node.client.get("c").terminate("enough")
        assert await handle.result(timeout=30) == "Terminated"


async def test_a_chain_of_children_over_a_restart(world: World, app: App) -> None:
    @app.workflow
    async def leaf() -> int:
        return await workflow.receive("go", int)

    @app.workflow
    async def middle() -> int:
        return 1 + await workflow.child(leaf, id="leaf")()

    @app.workflow
    async def root() -> int:
        return 1 + await middle()

    async with world.node(app) as node:
        await node.client.workflow(root, id="r").start()
        await until(lambda: _there(node.client.get("leaf")), "the leaf")
    async with world.node(app) as node:
        await node.client.get("leaf").send("go", 40)
        assert await node.client.get("r").result(timeout=30) == 42


async def test_a_multi_step_branch_with_a_child_can_lose_a_race(world: World, app: App) -> None:
    @app.workflow
    async def child() -> None:
        await workflow.receive("never", int)

    async def branch() -> str:
        await workflow.child(child, id="loser")()
        return "child"

    async def soon() -> str:
        await asyncio.sleep(0.005)
        return "timer"

    @app.workflow
    async def race() -> list[Any]:
        return list(await workflow.select(branch(), soon()))

    async with world.node(app) as node:
        assert await node.client.workflow(race, id="r").run() == [1, "timer"]
        assert (await node.client.get("loser").wait(timeout=30)).status == "cancelled"


async def _there(handle: Any) -> bool:
    try:
        return bool((await handle.describe()).started_at)
    except NotFound:
        return False
