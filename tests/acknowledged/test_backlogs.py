"""Many messages for one instance are taken in turns, and what nobody can receive leaves no one in memory."""

from __future__ import annotations

import asyncio
from time import perf_counter

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, Limits, workflow
from perdure.errors import InboxFull, NotFound, WorkflowFailed
from perdure.kernel.data import events as ev

numbers = workflow.Channel[int]("numbers")


def _work(seconds: float) -> None:
    ends = perf_counter() + seconds
    while perf_counter() < ends:
        pass


async def test_a_backlog_is_no_poison(world: World, app: App) -> None:
    """Taken in one turn, it would exceed the limit of a turn. A slice of a busy machine does not."""

    @app.workflow(guard="off")
    async def reader(count: int) -> int:
        await workflow.receive("go", bool)
        for _ in range(count):
            await numbers.receive()
            _work(0.003)
        return count

    async with world.node(app, turn_limit_ms=1_000) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start(500)
        await asyncio.gather(*(handle.send(numbers, n) for n in range(500)))
        turns = node.metrics.turns
        await handle.send("go", True)
        assert await handle.result(timeout=30) == 500
        assert node.metrics.turns - turns > 3
        assert node.metrics.turn_failures == 0


async def test_due_timers_of_one_instance_are_taken_in_turns(world: World, app: App) -> None:
    @app.workflow
    async def sleeping() -> int:
        await asyncio.gather(*(asyncio.sleep(60) for _ in range(50)))
        return 50

    clock = world.stop_time()
    async with world.node(app, limits=Limits(turn_messages=5)) as node:
        handle = node.client.workflow(sleeping, id="s")
        await handle.start()
        turns = node.metrics.turns
        clock.advance(60_000)
        assert await handle.result(timeout=30) == 50
        assert node.metrics.turns - turns >= 10


async def test_a_backlog_holds_up_no_other_instance(world: World, app: App) -> None:
    @app.workflow(guard="off")
    async def reader(count: int) -> int:
        await workflow.receive("go", bool)
        for _ in range(count):
            await numbers.receive()
            _work(0.0005)
        return count

    @app.workflow
    async def nothing() -> None: ...

    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start(500)
        await asyncio.gather(*(handle.send(numbers, n) for n in range(500)))
        await handle.send("go", True)
        turns = node.metrics.turns
        await node.client.workflow(nothing, id="n").run()
        assert await handle.status() == "running", (
            "the other one did not wait for the whole backlog"
        )
        assert node.metrics.turns - turns < 10
        assert await handle.result(timeout=30) == 500


async def test_the_inbox_limit_counts_what_waits(world: World, app: App) -> None:
    @app.workflow
    async def reader() -> list[int]:
        await workflow.receive("go", bool)
        return [await numbers.receive() for _ in range(3)]

    async with world.node(app, limits=Limits(inbox_messages=3)) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        await handle.send(numbers, 0)
        await handle.pause("hold on")
        await handle.send(numbers, 1)
        await handle.send(numbers, 2)
        with pytest.raises(InboxFull):
            await handle.send(numbers, 3)
        await handle.resume()
        with pytest.raises(InboxFull):
            await handle.send(numbers, 3)


async def test_messages_to_nobody_leave_nobody_in_memory(world: World, app: App) -> None:
    async with world.node(app) as node:
        for number in range(50):
            with pytest.raises(NotFound):
                await node.client.get(f"missing-{number}").send("word", "hello")
            with pytest.raises(NotFound):
                await node.client.get(f"missing-{number}").cancel("why")
            with pytest.raises(NotFound):
                await node.client.get(f"missing-{number}").result(timeout=1)
        assert node.residents == 0


async def test_mail_for_an_instance_that_comes_later_waits_for_it_on_disk(
    world: World, app: App
) -> None:
    @app.workflow
    async def writer() -> None:
        workflow.send("later", "word", "early")

    @app.workflow
    async def reader() -> str:
        return await workflow.receive("word", str)

    async with world.node(app) as node:
        await node.client.workflow(writer, id="w").run()
        await until(lambda: node.residents == 0, "nobody is in memory")
        assert await node.client.workflow(reader, id="later").run() == "early"


async def test_mail_for_more_missing_instances_than_a_node_remembers_waits_for_them(
    world: World, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.node.loop.memory._HOMELESS_MAX", 2)
    ids = [f"later-{number}" for number in range(5)]

    @app.workflow
    async def writer() -> None:
        for later in ids:
            workflow.send(later, "word", later)

    @app.workflow
    async def reader() -> str:
        return await workflow.receive("word", str)

    async with world.node(app) as node:
        await node.client.workflow(writer, id="w").run()
        await until(lambda: node.residents == 0, "nobody is in memory")
        for later in ids:
            handle = node.client.workflow(reader, id=later)
            await handle.start()
            assert await handle.result(timeout=PATIENCE_S) == later


@pytest.mark.parametrize("verb", ["cancel", "terminate", "pause"])
async def test_code_that_continues_as_new_at_once_can_be_stopped(
    world: World, app: App, verb: str
) -> None:
    @app.workflow
    async def spin(number: int) -> int:
        workflow.continue_as_new(spin, number + 1)

    async with world.node(app, limits=Limits(executions_kept=1)) as node:
        handle = node.client.workflow(spin, id="s")
        await handle.start(0)
        await asyncio.wait_for(getattr(handle, verb)("enough"), 30)
        if verb == "pause":
            await waits_for(handle, "paused")
            before = (await handle.describe()).execution
            await handle.resume()

            async def goes_on() -> bool:
                return (await handle.describe()).execution > before

            await until(goes_on, "it goes on")
        else:
            with pytest.raises(WorkflowFailed):
                await handle.result(timeout=30)
            assert await handle.status() == "cancelled"


@pytest.mark.parametrize("more", ["spin", "end"])
async def test_code_that_is_paused_between_two_executions_can_be_cancelled(
    world: World, app: App, more: str
) -> None:
    """Its code begins by the cancel. It goes on again at once, or ends."""

    @app.workflow
    async def spin(stay: bool) -> str:
        if not stay and more == "end":
            return "ended"
        workflow.continue_as_new(spin, False)

    async with world.node(app, limits=Limits(executions_kept=1)) as node:
        handle = node.client.workflow(spin, id="s")
        await asyncio.gather(handle.start(True), handle.pause())
        await waits_for(handle, "paused")
        await asyncio.wait_for(handle.cancel("enough"), 5)
        description = await handle.wait(timeout=30)
        assert description.status == ("completed" if more == "end" else "cancelled")
        assert not description.paused
        last = (await handle.history())[-1].event
        assert isinstance(last, ev.Completed if more == "end" else ev.Cancelled)


async def test_a_stop_ends_while_code_continues_as_new_at_once(world: World, app: App) -> None:
    @app.workflow
    async def spin(number: int) -> int:
        workflow.continue_as_new(spin, number + 1)

    node = world.node(app, limits=Limits(executions_kept=1))
    await node.start()
    await node.client.workflow(spin, id="s").start(0)
    await asyncio.wait_for(node.stop(0), 30)


async def test_an_event_in_the_turn_of_continue_as_new_is_for_the_next_execution(
    world: World, app: App
) -> None:
    @app.workflow
    async def listening(count: int) -> int:
        await workflow.wait_event("tick", int)
        if count == 3:
            return count
        workflow.continue_as_new(listening, count + 1)

    async with world.node(app) as node:
        handle = node.client.workflow(listening, id="l")
        await handle.start(1)
        await asyncio.gather(*(handle.raise_event("tick", n) for n in range(3)))
        assert await handle.result(timeout=30) == 3


async def test_an_execution_that_is_paused_before_it_begins_does_not_begin_by_a_restart(
    world: World, app: App
) -> None:
    ran: list[int] = []

    @app.workflow
    async def spin(number: int) -> int:
        ran.append(number)
        workflow.continue_as_new(spin, number + 1)

    async with world.node(app, limits=Limits(executions_kept=1)) as node:
        handle = node.client.workflow(spin, id="s")
        await handle.start(0)
        await handle.pause("hold on")
    before = len(ran)
    async with world.node(app) as node:
        handle = node.client.workflow(spin, id="s")
        await handle.send("any", 1)
        assert await handle.status() == "suspended"
        assert len(ran) == before
        await handle.terminate("enough")
