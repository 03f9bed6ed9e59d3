"""Who wins a race is decided by the order of the journal, and nothing is lost by losing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from engine import PATIENCE_S, World, waits_for

from perdure import App, Client, workflow


@pytest.mark.parametrize("first", ["a", "b"])
async def test_of_two_events_in_one_turn_the_first_delivered_wins(
    world: World, app: App, first: str
) -> None:
    @app.workflow
    async def race() -> list[Any]:
        index, value = await workflow.select(
            workflow.wait_event("a", int), workflow.wait_event("b", int)
        )
        await workflow.receive("end", bool)
        return [index, value]

    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.start()
        await waits_for(handle, "event a")
        order = [first, "b" if first == "a" else "a"]
        await asyncio.gather(*(handle.raise_event(name, i) for i, name in enumerate(order)))
    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == ["ab".index(first), 0]


async def test_of_three_kinds_the_one_that_the_journal_has_first_wins(
    world: World, app: App
) -> None:
    gate = asyncio.Event()

    @app.activity
    async def slow() -> str:
        await gate.wait()
        return "activity"

    @app.workflow
    async def race() -> list[Any]:
        won = await workflow.select(
            slow(), asyncio.sleep(3600, "timer"), workflow.wait_event("news", str)
        )
        await workflow.receive("end", bool)
        return list(won)

    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.start()
        await handle.raise_event("news", "event")
        gate.set()
        await waits_for(handle, "message end")
    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == [2, "event"]


async def test_the_event_of_a_loser_is_there_in_replay_and_does_not_block(
    world: World, app: App
) -> None:
    """What came for a loser is in the journal; a replay passes it and goes on."""

    @app.activity
    async def note(text: str) -> str:
        return text

    @app.workflow
    async def racing() -> list[Any]:
        won = await workflow.select(workflow.wait_event("a", str), workflow.wait_event("b", str))
        after = await note("after the race")
        await workflow.receive("end", bool)
        return [*won, after]

    async with world.node(app) as node:
        handle = node.client.workflow(racing, id="r")
        await handle.start()
        await handle.raise_event("a", "winner")
        await handle.raise_event("b", "for the loser")
        await waits_for(handle, "message end")
    for _ in range(2):
        async with world.node(app) as node:
            await waits_for(node.client.get("r"), "message end")
    async with world.node(app) as node:
        handle = node.client.workflow(racing, id="r")
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == [0, "winner", "after the race"]


async def test_work_is_called_after_a_race_as_before_it(world: World, app: App) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    async def body() -> list[int]:
        _, value = await workflow.select(double(1), workflow.receive("never", int))
        _, value = await workflow.select(workflow.receive("never", int), double(value))
        return [value, await double(value)]

    assert await world.replayed(app, body) == [4, 8]


async def test_a_result_that_nobody_awaits_stops_nothing(world: World, app: App) -> None:
    @app.activity
    async def double(i: int) -> int:
        return 2 * i

    async def body() -> int:
        ignored = double(1)
        value = await double(2)
        await asyncio.sleep(0.001)
        assert ignored is not None
        return await double(value)

    assert await world.replayed(app, body) == 8


@pytest.mark.parametrize("winner", ["event", "timer"])
async def test_an_event_races_a_timer(world: World, app: App, winner: str) -> None:
    clock = world.stop_time()

    @app.workflow
    async def race() -> str:
        try:
            async with asyncio.timeout(60):
                return await workflow.wait_event("news", str)
        except TimeoutError:
            return "timer"

    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.start()
        await clock.until_armed(60_000)
        if winner == "event":
            await handle.raise_event("news", "event")
            clock.advance(60_000)
        else:
            clock.advance(60_000)
            assert await handle.wait(timeout=PATIENCE_S)
        assert await handle.result(timeout=PATIENCE_S) == winner


async def test_a_timer_that_came_due_first_beats_a_message_of_the_same_turn(
    world: World, app: App
) -> None:
    """The timer was due before the message came, while no node ran: it is told first."""
    clock = world.stop_time()

    @app.workflow
    async def race() -> str:
        index, _ = await workflow.select(workflow.receive("news", str), asyncio.sleep(60))
        return ["message", "timer"][index]

    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        await handle.start()
    clock.advance(120_000)
    async with Client.open(world.store, clock=clock) as client:
        await client.get("r").send("news", "later")
    async with world.node(app) as node:
        handle = node.client.workflow(race, id="r")
        assert await handle.result(timeout=PATIENCE_S) == "timer"


async def test_equal_calls_get_their_own_results_after_a_restart(
    file_world: World, app: App
) -> None:
    """Results are routed by the call, never by name and arguments."""
    gates = [asyncio.Event(), asyncio.Event()]
    ran: list[int] = []

    @app.activity
    async def same(text: str) -> int:
        mine = len(ran)
        ran.append(mine)
        await gates[min(mine, 1)].wait()
        return mine

    @app.workflow
    async def twins() -> list[int]:
        first, second = same("x"), same("x")
        early = await first
        workflow.set_status("first is there")
        return [early, await second]

    gates[0].set()
    async with file_world.node(app) as node:
        handle = node.client.workflow(twins, id="t")
        await handle.start()
        await handle.custom_status(str, after_version=0, timeout=PATIENCE_S)
    gates[1].set()
    async with file_world.node(app) as node:
        assert await node.client.get("t").result(timeout=PATIENCE_S) == [0, 2]
    assert ran == [0, 1, 2], "the one that was interrupted ran again, the other did not"


@pytest.mark.parametrize("quick", [True, False], ids=["the activity wins", "the timer wins"])
async def test_a_race_of_an_activity_and_a_timer_holds_over_a_restart(
    tmp_path: Path, app: App, quick: bool
) -> None:
    world = World(f"sqlite:///{tmp_path}/race.db")
    clock = world.stop_time()
    cancelled = asyncio.Event()

    @app.activity
    async def work() -> str:
        if quick:
            return "worked"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    @app.workflow
    async def racing() -> str:
        index, _ = await workflow.select(work(), workflow.sleep(60, name="limit"))
        await workflow.receive("go", bool)
        return ["worked", "too late"][index]

    async with world.node(app) as node:
        handle = node.client.workflow(racing, id="r")
        await handle.start()
        if not quick:
            await waits_for(handle, "activity work")
            clock.advance(60_000)
        await waits_for(handle, "message go")
        if not quick:
            await asyncio.wait_for(cancelled.wait(), 30)
    async with world.node(app) as node:
        await node.client.get("r").send("go", True)
        assert await node.client.get("r").result(timeout=30) == ("worked" if quick else "too late")
