"""The instance's key-value store: it reads its own writes, is kept over executions, and clients can read it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import App, Limits, WorkflowFailed, workflow
from perdure.errors import DecodeError, LimitExceeded


@dataclass
class Item:
    name: str
    count: int


async def test_reads_see_writes_at_once(world: World, app: App) -> None:
    async def body() -> list[Any]:
        kv, seen = workflow.kv, []
        seen.append(kv.get("a", int))
        seen.append(kv.get("a", int, 7))
        kv.set("a", 1)
        kv.set("b", "two")
        kv.set("a", 3)
        seen += [kv.get("a", int), kv.keys(), len(kv), "a" in kv, "c" in kv]
        kv.delete("a")
        kv.delete("never there")
        seen += [kv.get("a", int), kv.keys(), len(kv)]
        kv.set("a", 4)
        kv.clear()
        seen += [kv.keys(), len(kv)]
        kv.set("a", 5)
        seen.append(kv.get("a", int))
        return seen

    expected = [None, 7, 3, ["a", "b"], 2, True, False, None, ["b"], 1, [], 0, 5]
    assert await world.replayed(app, body) == expected


async def test_clients_read_what_is_durable(world: World, app: App) -> None:
    @app.workflow
    async def keeping() -> None:
        workflow.kv.set("item", Item("bolt", 5))
        workflow.kv.set("gone", 1)
        await workflow.receive("go", bool)
        workflow.kv.set("item", Item("bolt", 6))
        workflow.kv.delete("gone")
        workflow.kv.set("", "empty key")
        workflow.kv.set("ключ 🔑", "")
        await workflow.receive("end", bool)

    async with world.node(app) as node:
        handle = node.client.workflow(keeping, id="k")
        await handle.start()
        assert await handle.kv() == {"item": {"name": "bolt", "count": 5}, "gone": 1}
        await handle.send("go", True)
        await waits_for(handle, "message end")
        assert await handle.kv_get("item", Item) == Item("bolt", 6)
        assert await handle.kv_get("gone", int) is None
        assert await handle.kv() == {
            "item": {"name": "bolt", "count": 6},
            "": "empty key",
            "ключ 🔑": "",
        }
        with pytest.raises(DecodeError, match="item"):
            await handle.kv_get("item", int)
        await handle.send("end", True)
        await handle.wait(timeout=30)
        assert await handle.kv_get("", str) == "empty key"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_it_is_kept_after_the_end(world: World, app: App, end: str) -> None:
    @app.workflow
    async def keeping() -> None:
        workflow.kv.set("a", 1)
        await workflow.receive("go", bool)
        if end == "failed":
            raise ValueError

    async with world.node(app) as node:
        handle = node.client.workflow(keeping, id="k")
        await handle.start()
        await (handle.cancel() if end == "cancelled" else handle.send("go", True))
        assert (await handle.wait(timeout=30)).status == end
    async with world.node(app) as node:
        assert await node.client.get("k").kv() == {"a": 1}


async def test_read_modify_write_with_a_restart_before_each_step(world: World, app: App) -> None:
    @app.activity
    async def add(i: int) -> int:
        return i + 1

    @app.workflow
    async def counting() -> list[int]:
        seen = []
        for _ in range(4):
            await workflow.receive("tick", bool)
            value = await add(workflow.kv.get("count", int, 0) or 0)
            workflow.kv.set("count", value)
            seen.append(value)
        return seen

    for i in range(4):
        async with world.node(app) as node:
            handle = node.client.workflow(counting, id="c")
            await handle.start()
            await waits_for(handle, "message tick")
            assert await handle.kv() == ({"count": i} if i else {})
            await handle.send("tick", True)
            if i == 3:
                assert await handle.result(timeout=30) == [1, 2, 3, 4]
            else:
                await _count(handle, i + 1)


async def _count(handle: Any, wanted: int) -> None:
    async def has_it() -> bool:
        return bool(await handle.kv_get("count", int) == wanted)

    await until(has_it, f"the count is {wanted}")


async def test_it_is_carried_and_changed_over_continue_as_new(world: World, app: App) -> None:
    @app.workflow
    async def steps(i: int) -> list[Any]:
        kv, seen = workflow.kv, []
        seen.append(kv.get("n", int))
        await workflow.receive("go", bool)
        seen.append(kv.get("n", int))
        kv.set("n", i)
        if i == 1:
            kv.set("extra", 1)
        if i == 2:
            kv.delete("extra")
        await workflow.receive("go", bool)
        seen.append(kv.get("n", int))
        if i < 3:
            workflow.continue_as_new(steps, i + 1)
        return [seen, kv.keys()]

    async with world.node(app) as node:
        handle = node.client.workflow(steps, id="s")
        await handle.start(1)
    for _ in range(6):
        async with world.node(app) as node:
            handle = node.client.workflow(steps, id="s")
            await waits_for(handle, "message go")
            await handle.send("go", True)
    async with world.node(app) as node:
        assert await node.client.get("s").result(timeout=30) == [[2, 2, 3], ["n"]]
        assert await node.client.get("s").kv() == {"n": 3}


async def test_instances_do_not_share_it(world: World, app: App) -> None:
    @app.workflow
    async def child() -> list[str]:
        workflow.kv.set("child", 1)
        return workflow.kv.keys()

    @app.workflow
    async def parent() -> list[list[str]]:
        workflow.kv.set("parent", 1)
        return [await child(), workflow.kv.keys()]

    async with world.node(app) as node:
        assert await node.client.workflow(parent, id="p").run() == [["child"], ["parent"]]


async def test_branches_share_it(world: World, app: App) -> None:
    @app.activity
    async def echo(i: int) -> int:
        return i

    async def body() -> list[Any]:
        async def branch(i: int) -> None:
            workflow.kv.set(f"k{i}", await echo(i))

        await asyncio.gather(*(branch(i) for i in range(10)))
        return [workflow.kv.keys(), sum(workflow.kv.get(k, int) or 0 for k in workflow.kv.keys())]

    assert await world.replayed(app, body) == [[f"k{i}" for i in range(10)], 45]


async def test_a_wrong_type_is_an_error_where_it_is_read(world: World, app: App) -> None:
    async def body() -> str:
        workflow.kv.set("a", "text")
        try:
            workflow.kv.get("a", int)
        except DecodeError as error:
            return str(error)
        return ""

    assert "'a'" in await world.replayed(app, body)


async def test_the_number_of_keys_is_limited_over_turns_too(world: World, app: App) -> None:
    @app.workflow
    async def greedy(deletes: bool) -> str:
        for i in range(3):
            workflow.kv.set(f"k{i}", i)
        await asyncio.sleep(0.001)
        if deletes:
            workflow.kv.delete("k0")
        workflow.kv.set("k2", "again")
        workflow.kv.set("k3", 3)
        return "fits"

    async with world.node(app, limits=Limits(kv_keys=3)) as node:
        assert await node.client.workflow(greedy, id="fits").run(True) == "fits"
        with pytest.raises(WorkflowFailed, match=r"LimitExceeded.*3 keys.*Limits\.kv_keys.*'k3'"):
            await node.client.workflow(greedy, id="greedy").run(False)


async def test_the_size_of_a_value_and_of_a_key_is_limited(world: World, app: App) -> None:
    @app.workflow
    async def big(key: str, value: str) -> list[str]:
        try:
            workflow.kv.set(key, value)
        except LimitExceeded as error:
            return [str(error), *workflow.kv.keys()]
        return workflow.kv.keys()

    async with world.node(app, limits=Limits(kv_value_bytes=100, kv_key_bytes=10)) as node:
        assert await node.client.workflow(big, id="a").run("k", "x" * 90) == ["k"]
        message, *keys = await node.client.workflow(big, id="b").run("k", "x" * 101)
        assert "Limits.kv_value_bytes" in message
        assert keys == []
        message, *keys = await node.client.workflow(big, id="c").run("k" * 11, "x")
        assert "Limits.kv_key_bytes" in message
        assert keys == []


async def test_a_client_waits_for_a_value(world: World, app: App) -> None:
    @app.workflow
    async def answers() -> None:
        workflow.kv.set("response", await workflow.receive("request", int) * 2)
        await workflow.receive("end", bool)

    async with world.node(app) as node:
        handle = node.client.workflow(answers, id="k")
        await handle.start()
        assert await handle.kv_wait("response", int, timeout=0.02) is None, "nobody asked yet"
        waiting = asyncio.create_task(handle.kv_wait("response", int, timeout=30))
        await asyncio.sleep(0)
        await handle.send("request", 21)
        assert await waiting == 42
        await handle.send("end", True)
        await handle.wait(timeout=30)
        assert await handle.kv_wait("never", int, timeout=30) is None, "it has ended"
