"""KV from the outside and between instances: reads that replay, bulk reads of clients, many at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import PATIENCE_S, World, waits_for

from perdure import App, Limits, NotFound, WorkflowFailed, workflow
from perdure.errors import DecodeError, UsageError


@dataclass
class Setting:
    name: str
    level: int


@pytest.fixture
def settings(app: App) -> Any:
    """A workflow that keeps values until it is told to end, and changes them when asked."""

    @app.workflow
    async def settings(values: dict[str, Any]) -> None:
        for key, value in values.items():
            workflow.kv.set(key, value)
        while True:
            change = await workflow.receive("change", dict[str, Any])
            for key, value in change.items():
                if value is None:
                    workflow.kv.delete(key)
                else:
                    workflow.kv.set(key, value)

    return settings


async def test_what_is_not_there_is_the_default(world: World, app: App, settings: Any) -> None:
    @app.workflow
    async def reader() -> list[Any]:
        kv, nobody = workflow.kv_of("s"), workflow.kv_of("nobody")
        return [
            await kv.get("none", int),
            await kv.get("none", int, 7),
            await nobody.get("a", int, 8),
        ]

    async with world.node(app) as node:
        await node.client.workflow(settings, id="s").start({"a": 1})
        assert await node.client.workflow(reader, id="r").run() == [None, 7, 8]


async def test_it_is_typed_and_a_wrong_type_is_an_error_of_the_reader(
    world: World, app: App, settings: Any
) -> None:
    @app.workflow
    async def reader() -> list[str]:
        setting = await workflow.kv_of("s").get("a", Setting)
        assert setting is not None
        try:
            await workflow.kv_of("s").get("a", int)
        except DecodeError as error:
            return [setting.name, str(error)]
        return []

    async with world.node(app) as node:
        await node.client.workflow(settings, id="s").start({"a": {"name": "loud", "level": 11}})
        name, error = await node.client.workflow(reader, id="r").run()
        assert name == "loud"
        assert "KV value 'a' of 's'" in error


async def test_a_replay_has_what_was_read_although_it_changed_since(
    file_world: World, app: App, settings: Any
) -> None:
    @app.workflow
    async def reader() -> list[int | None]:
        seen = [await workflow.kv_of("s").get("a", int)]
        await workflow.receive("go", bool)
        seen.append(await workflow.kv_of("s").get("a", int))
        return seen

    async with file_world.node(app) as node:
        source, handle = (
            node.client.workflow(settings, id="s"),
            node.client.workflow(reader, id="r"),
        )
        await source.start({"a": 1})
        await handle.start()
        await waits_for(handle, "message go")
        await source.send("change", {"a": 2})
        await source.send("change", {"b": 1})
        assert await source.kv_wait("b", int, timeout=PATIENCE_S) == 1
    async with file_world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.send("go", True)
        assert await handle.result(timeout=PATIENCE_S) == [1, 2]


async def test_reading_ones_own_sees_what_this_turn_wrote(world: World, app: App) -> None:
    async def body() -> list[Any]:
        workflow.kv.set("a", 1)
        return [await workflow.kv_of(workflow.info().id).get("a", int), workflow.kv.get("a", int)]

    assert await world.replayed(app, body) == [1, 1]


def test_it_is_for_workflow_code() -> None:
    with pytest.raises(UsageError, match="kv_of"):
        workflow.kv_of("x")


async def test_ten_read_what_one_keeps(world: World, app: App, settings: Any) -> None:
    @app.workflow
    async def reader() -> int:
        values = await asyncio.gather(*(workflow.kv_of("s").get(f"k{i}", int, 0) for i in range(5)))
        return sum(value or 0 for value in values)

    async with world.node(app) as node:
        await node.client.workflow(settings, id="s").start({f"k{i}": i for i in range(5)})
        sums = await asyncio.gather(
            *(node.client.workflow(reader, id=f"r{i}").run() for i in range(10))
        )
    assert sums == [10] * 10


async def test_ten_write_at_once_and_each_has_its_own(file_world: World, app: App) -> None:
    @app.activity
    async def echo(i: int) -> int:
        return i

    @app.workflow
    async def writer(me: int) -> int:
        for i in range(5):
            workflow.kv.set(f"k{i}", await echo(10 * me + i))
        return len(workflow.kv)

    async with file_world.node(app) as node:
        handles = [node.client.workflow(writer, id=f"w{me}") for me in range(10)]
        assert await asyncio.gather(*(h.run(me) for me, h in enumerate(handles))) == [5] * 10
        for me, handle in enumerate(handles):
            assert await handle.kv() == {f"k{i}": 10 * me + i for i in range(5)}


async def test_all_keys_that_fit_over_several_turns(file_world: World, app: App) -> None:
    limit = Limits().kv_keys

    @app.workflow
    async def filling(count: int) -> int:
        for i in range(count):
            workflow.kv.set(f"k{i:03}", i)
            if i % 30 == 29:
                await asyncio.sleep(0.0001)
        return len(workflow.kv)

    async with file_world.node(app) as node:
        full = node.client.workflow(filling, id="full")
        assert await full.run(limit) == limit
        assert len(await full.kv()) == limit
        with pytest.raises(WorkflowFailed, match=r"Limits\.kv_keys"):
            await node.client.workflow(filling, id="over").run(limit + 1)


async def test_removing_all_makes_room_for_as_many(world: World, app: App) -> None:
    @app.workflow
    async def refilling() -> list[str]:
        for i in range(3):
            workflow.kv.set(f"a{i}", i)
        await asyncio.sleep(0.001)
        workflow.kv.clear()
        for i in range(3):
            workflow.kv.set(f"b{i}", i)
        return workflow.kv.keys()

    async with world.node(app, limits=Limits(kv_keys=3)) as node:
        assert await node.client.workflow(refilling, id="r").run() == ["b0", "b1", "b2"]


async def test_a_client_reads_all_entries_at_every_stage(file_world: World, app: App) -> None:
    @app.workflow
    async def stages(execution: int) -> None:
        if execution == 1:
            await workflow.receive("go", bool)
            workflow.kv.set("a", 1)
            workflow.kv.set("b", {"nested": [1, 2]})
            await workflow.receive("go", bool)
            workflow.kv.set("a", 2)
            workflow.kv.delete("b")
            await workflow.receive("go", bool)
            workflow.continue_as_new(stages, 2)
        workflow.kv.set("c", "next execution")
        await workflow.receive("go", bool)
        workflow.kv.clear()
        await workflow.receive("go", bool)

    expected: list[dict[str, object]] = [
        {},
        {"a": 1, "b": {"nested": [1, 2]}},
        {"a": 2},
        {"a": 2, "c": "next execution"},
        {},
    ]
    async with file_world.node(app) as node:
        handle = node.client.workflow(stages, id="s")
        await handle.start(1)
        for number, entries in enumerate(expected):
            await waits_for(handle, "message go")
            assert await handle.kv() == entries, number
            await handle.send("go", True)
        with pytest.raises(NotFound):
            await node.client.get("nobody").kv()


async def test_it_is_written_between_activities_and_timers_and_in_the_branch_that_wins(
    world: World, app: App
) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    async def branch(name: str, wins: bool) -> str:
        workflow.kv.set(f"{name} began", True)
        if not wins:
            await workflow.receive("never", bool)
        workflow.kv.set(name, await double(4))
        return name

    async def body() -> dict[str, Any]:
        workflow.kv.set("before", await double(1))
        await asyncio.sleep(0.001)
        workflow.kv.set("before", (workflow.kv.get("before", int) or 0) + 1)
        await workflow.select(branch("loser", wins=False), branch("winner", wins=True))
        return {key: workflow.kv.get(key, object) for key in workflow.kv.keys()}

    expected = {"before": 3, "loser began": True, "winner": 8, "winner began": True}
    assert await world.replayed(app, body) == expected


async def test_values_pile_up_over_a_chain_of_executions(file_world: World, app: App) -> None:
    @app.workflow
    async def piling(i: int) -> int:
        workflow.kv.set(f"k{i}", i)
        workflow.kv.set("count", (workflow.kv.get("count", int) or 0) + 1)
        if i < 20:
            workflow.continue_as_new(piling, i + 1)
        return len(workflow.kv)

    async with file_world.node(app) as node:
        handle = node.client.workflow(piling, id="p")
        assert await handle.run(1) == 21
        assert (await handle.kv())["count"] == 20


async def test_request_and_response_over_messages_and_kv(world: World, app: App) -> None:
    """A client asks a running instance by message and takes the answer from its KV."""

    @app.workflow
    async def server() -> None:
        while True:
            number = await workflow.receive("request", int)
            if number < 0:
                return
            workflow.kv.set(f"answer {number}", number * number)

    async with world.node(app) as node:
        handle = node.client.workflow(server, id="s")
        await handle.start()
        for number in (3, 5):
            await handle.send("request", number)
            assert (
                await handle.kv_wait(f"answer {number}", int, timeout=PATIENCE_S) == number * number
            )
        await handle.send("request", -1)
        await handle.result(timeout=PATIENCE_S)


async def test_a_value_that_is_read_and_written_in_every_turn_counts_right(
    file_world: World, app: App
) -> None:
    """Each turn reads what the one before wrote; a node stops after each of them, so that each is replayed."""

    @app.workflow
    async def counter() -> int:
        while (count := (workflow.kv.get("count", int) or 0)) < 4:
            workflow.kv.set("count", count + 1)
            await workflow.receive("tick", bool)
        return count

    for tick in range(4):
        async with file_world.node(app) as node:
            handle = node.client.workflow(counter, id="c")
            await handle.start()
            assert await handle.kv_get("count", int) == tick + 1
            await handle.send("tick", True)
    async with file_world.node(app) as node:
        assert await node.client.get("c").result(timeout=PATIENCE_S) == 4
