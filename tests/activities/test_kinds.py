"""An activity is an `async def`, a `def` on a thread, or a `def` in another process."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from dataclasses import dataclass

import pytest
from engine import World

from perdure import ActivityError, App, WorkflowFailed, activity, workflow
from perdure.errors import DefinitionError, EncodeError, UsageError

tenant = contextvars.ContextVar("tenant", default="none")


@dataclass
class Order:
    name: str
    items: list[int]


async def test_async_and_def(world: World, app: App) -> None:
    threads: list[str] = []

    @app.activity
    async def on_the_loop(order: Order, factor: int = 2) -> Order:
        threads.append(threading.current_thread().name)
        return Order(order.name, [factor * i for i in order.items])

    @app.activity
    def on_a_thread(order: Order, *, word: str) -> str:
        threads.append(threading.current_thread().name)
        return f"{order.name} {word}"

    async def body() -> list[object]:
        order = await on_the_loop(Order("a", [1, 2]), factor=3)
        return [type(order).__name__, order.items, await on_a_thread(order, word="done")]

    assert await world.replayed(app, body) == ["Order", [3, 6], "a done"]
    assert threads[0] == threading.main_thread().name
    assert threads[1].startswith("perdure-activity")
    assert len(threads) == 2, "a replay runs no activity"


async def test_two_calls_with_equal_arguments_are_two_calls(world: World, app: App) -> None:
    count = 0

    @app.activity
    async def next_one(x: int) -> int:
        nonlocal count
        count += 1
        return count

    async def body() -> list[int]:
        return [
            await next_one(1),
            await next_one(1),
            *await asyncio.gather(next_one(1), next_one(1)),
        ]

    assert sorted(await world.replayed(app, body)) == [1, 2, 3, 4]


async def test_outside_of_a_workflow_it_is_the_plain_function(app: App) -> None:
    @app.activity
    async def coroutine(i: int) -> int:
        return i

    @app.activity
    def plain(i: int) -> str:
        return threading.current_thread().name

    assert await coroutine(1) == 1
    assert await plain(1) != threading.current_thread().name
    assert await coroutine.fn(2) == 2
    assert plain.fn(2) == threading.current_thread().name


async def test_an_activity_calls_another_as_a_plain_function(world: World, app: App) -> None:
    @app.activity
    def inner(i: int) -> int:
        return i + 1

    @app.activity
    async def outer(i: int) -> int:
        return await inner(i) * 10

    @app.workflow
    async def calling() -> int:
        return await outer(1)

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        assert await handle.run() == 20
        scheduled = [
            e.event for e in await handle.history() if type(e.event).__name__ == "ActivityScheduled"
        ]
        assert [e.name for e in scheduled] == ["outer"]


async def test_an_argument_of_the_wrong_type_fails_at_the_call(world: World, app: App) -> None:
    ran: list[int] = []

    @app.activity
    async def wants_a_number(i: int) -> int:
        ran.append(i)
        return i

    @app.workflow
    async def careless() -> str:
        try:
            await wants_a_number("three")  # type: ignore[arg-type]
        except EncodeError as error:
            return str(error)
        return ""

    async with world.node(app) as node:
        message = await node.client.workflow(careless, id="c").run()
        assert "wants_a_number" in message
    assert ran == []


async def test_a_result_of_the_wrong_type_is_a_failure_of_the_activity(
    world: World, app: App
) -> None:
    @app.activity
    async def wrong() -> int:
        return "three"  # type: ignore[return-value]

    @app.activity
    async def not_data() -> object:
        return object()

    @app.workflow
    async def calling() -> list[str]:
        seen = []
        for call in (wrong, not_data):
            try:
                await call()
            except ActivityError as error:
                seen.append(f"{error.failure.category} {error.failure.message}")
        return seen

    async with world.node(app) as node:
        first, second = await node.client.workflow(calling, id="c").run()
        assert first.startswith("configuration")
        assert "wrong" in first
        assert second.startswith("configuration")
        assert "not_data" in second


@pytest.mark.parametrize("world", ["memory"], indirect=True)
async def test_a_process_runs_what_needs_a_processor(world: World) -> None:
    import cpu

    async with world.node(cpu.app, processes=1) as node:
        total, pid = await node.client.workflow(cpu.crunch, id="c").run(1000)
        assert total == sum(range(1000))
        assert pid != os.getpid()
        with pytest.raises(WorkflowFailed, match="LookupError: no luck"):
            await node.client.workflow(cpu.break_down, id="b").run("no luck")


async def test_a_process_needs_a_function_that_it_can_import(app: App) -> None:
    with pytest.raises(DefinitionError, match="module level"):

        @app.activity(executor="process")
        def local() -> None:
            pass

    with pytest.raises(DefinitionError, match="module level"):

        @app.activity(executor="process")
        async def coroutine() -> None:
            pass


async def test_many_at_once(world: World, app: App) -> None:
    @app.activity
    async def square(i: int) -> int:
        return i * i

    @app.workflow
    async def fan_out(n: int) -> int:
        return sum(await asyncio.gather(*(square(i) for i in range(n))))

    async with world.node(app) as node:
        assert await node.client.workflow(fan_out, id="f").run(300) == sum(
            i * i for i in range(300)
        )


async def test_no_more_at_once_than_the_node_allows(world: World, app: App) -> None:
    inside = most = 0
    both = asyncio.Event()

    @app.activity
    async def busy() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 2:
            both.set()
        await both.wait()
        await asyncio.sleep(0)
        inside -= 1

    @app.workflow
    async def fan_out() -> None:
        await asyncio.gather(*(busy() for _ in range(10)))

    async with world.node(app, activities=2) as node:
        await asyncio.wait_for(node.client.workflow(fan_out, id="f").run(), 30)
    assert most == 2


async def test_a_queue_has_its_own_limit(world: World, app: App) -> None:
    inside: dict[str, int] = {"slow": 0, "": 0}
    most = dict(inside)

    def enter(queue: str) -> None:
        inside[queue] += 1
        most[queue] = max(most[queue], inside[queue])

    @app.activity(queue="slow")
    async def slow() -> None:
        enter("slow")
        await asyncio.sleep(0.001)
        inside["slow"] -= 1

    @app.activity
    async def quick() -> None:
        enter("")
        await asyncio.sleep(0.001)
        inside[""] -= 1

    @app.workflow
    async def fan_out() -> None:
        await asyncio.gather(*(slow() for _ in range(4)), *(quick() for _ in range(4)))

    async with world.node(app, queues={"slow": 1}) as node:
        await asyncio.wait_for(node.client.workflow(fan_out, id="f").run(), 30)
    assert most["slow"] == 1
    assert most[""] > 1


async def test_with_options_changes_a_call_and_nothing_else(world: World, app: App) -> None:
    @app.activity(timeout=3600)
    async def slow() -> str:
        await asyncio.sleep(0.05)
        return "done"

    @app.workflow
    async def calling() -> list[str]:
        seen = []
        try:
            await slow.with_options(timeout=0.005)()
        except ActivityError as error:
            seen.append(error.failure.type)
        return [*seen, await slow()]

    async with world.node(app) as node:
        assert await node.client.workflow(calling, id="c").run() == ["ActivityTimeout", "done"]


async def test_a_forgotten_await_between_two_turns_keeps_running(world: World, app: App) -> None:
    ran: list[str] = []

    @app.activity
    async def note(what: str) -> str:
        ran.append(what)
        return what

    @app.workflow
    async def calling() -> str:
        later = note("first")
        await note("second")
        return await later

    async with world.node(app) as node:
        assert await node.client.workflow(calling, id="c").run() == "first"
    assert sorted(ran) == ["first", "second"]


async def test_the_info_of_an_attempt(world: World, app: App) -> None:
    @app.activity(name="shop.charge")
    def charge() -> list[object]:
        info = activity.info()
        return [
            info.name,
            info.instance,
            info.workflow,
            info.workflow_version,
            info.attempt,
            info.execution,
        ]

    @app.workflow(version=3)
    async def calling() -> list[object]:
        return await charge()

    async with world.node(app) as node:
        assert await node.client.workflow(calling, id="c").run() == [
            "shop.charge",
            "c",
            "calling",
            "3.0.0",
            1,
            1,
        ]


async def test_outside_of_an_activity_each_says_so() -> None:
    for call in (
        activity.info,
        activity.heartbeat,
        activity.is_cancelled,
        lambda: activity.resources(int),
    ):
        with pytest.raises(UsageError, match="inside an activity"):
            call()
    assert workflow is not None


async def test_resources_are_made_once_and_closed_at_the_stop(world: World, app: App) -> None:
    events: list[str] = []

    class Pool:
        name = "pool"

    @app.resources
    async def resources():  # type: ignore[no-untyped-def]
        events.append("open")
        yield Pool()
        events.append("close")

    @app.activity
    async def use() -> str:
        return activity.resources(Pool).name

    @app.activity
    def use_on_a_thread() -> str:
        return activity.resources(Pool).name

    @app.activity
    async def use_wrongly() -> str:
        return activity.resources(str)

    @app.workflow
    async def calling() -> list[str]:
        seen = [await use(), await use_on_a_thread()]
        try:
            await use_wrongly()
        except ActivityError as error:
            seen.append(error.failure.message)
        return seen

    for _ in range(2):
        async with world.node(app) as node:
            handle = node.client.workflow(calling, id="c", if_exists="replace")
            *names, message = await handle.run()
            assert names == ["pool", "pool"]
            assert "Pool" in message
            assert events[-1] == "open"
        assert events[-1] == "close"
    assert events == ["open", "close"] * 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has brought eager tasks")
async def test_a_loop_that_begins_tasks_at_once_hears_of_each_end(world: World, app: App) -> None:
    @app.activity
    async def quick() -> str:
        return "quick"

    @app.activity
    async def fails() -> str:
        raise ValueError("no")

    async def body() -> list[object]:
        ended = await asyncio.gather(quick(), fails(), return_exceptions=True)
        return [ended[0], type(ended[1]).__name__, await workflow.checkpoint("c", lambda: "step")]

    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    try:
        assert await world.replayed(app, body) == ["quick", "ActivityError", "step"]
    finally:
        loop.set_task_factory(None)
