"""What holds for the journal of any program: drawn programs, run to their end, and their histories looked at."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from engine import PATIENCE_S, World

from perdure import ActivityError, App, workflow
from perdure.kernel.data import events as ev
from perdure.kernel.data.events import AnyEvent

ENDS = (ev.Completed, ev.Failed, ev.Cancelled, ev.ContinuedAsNew)
PROGRAMS = 12


@pytest.fixture
def drawn(app: App) -> Any:
    """A workflow that draws what it does."""

    @app.activity
    async def work(i: int) -> int:
        if i % 5 == 4:
            raise ValueError(f"{i} is bad")
        return i

    @app.workflow
    async def leaf(i: int) -> int:
        return await work(i - i % 5)

    @app.workflow
    async def drawn(seed: int, execution: int) -> int:
        chance = random.Random(seed * 100 + execution)
        total = 0

        async def step(depth: int) -> int:
            kind = chance.randrange(7 if depth < 3 else 4)
            match kind:
                case 0:
                    return await work(chance.randrange(20))
                case 1:
                    await asyncio.sleep(0.0005)
                case 2:
                    workflow.kv.set(f"k{chance.randrange(3)}", depth)
                case 3:
                    return await leaf(chance.randrange(20))
                case 4:
                    return sum(
                        v
                        for v in await workflow.join(*(step(depth + 1) for _ in range(3)))
                        if isinstance(v, int)
                    )
                case 5:
                    index, _ = await workflow.select(step(depth + 1), step(depth + 1))
                    return index
                case _:
                    work(1)  # perdure: ignore[PD303]
            return 0

        for _ in range(6):
            try:
                total += await step(0)
            except ActivityError:
                total -= 1
        if execution < 2:
            workflow.continue_as_new(drawn, seed, execution + 1)
        if seed % 4 == 3:
            raise RuntimeError(f"drawn to fail at {total}")
        return total

    return drawn


async def histories(world: World, app: App, drawn: Any, seed: int) -> list[list[AnyEvent]]:
    """The events of both executions."""
    async with world.node(app) as node:
        handle = node.client.workflow(drawn, id="d")
        await handle.start(seed, 1)
        await handle.wait(timeout=PATIENCE_S)
        found = []
        for execution in await handle.executions():
            history = await handle.history(execution)
            assert [e.number for e in history] == list(range(1, len(history) + 1)), (
                "numbers have no gaps"
            )
            found.append([e.event for e in history])
        return found


@pytest.mark.parametrize("seed", range(PROGRAMS))
async def test_numbers_ends_calls_and_counts(world: World, app: App, drawn: Any, seed: int) -> None:
    executions = await histories(world, app, drawn, seed)
    assert len(executions) == 2
    for events in executions:
        assert isinstance(events[0], ev.Started)
        assert [isinstance(e, ENDS) for e in events] == [*[False] * (len(events) - 1), True], (
            "one end, the last event"
        )
        scheduled = {e.seq for e in events if isinstance(e, ev.ActivityScheduled)}
        outcomes = [
            e.seq for e in events if isinstance(e, ev.ActivityCompleted | ev.ActivityFailed)
        ]
        given_up = {e.seq for e in events if isinstance(e, ev.CommandCancelled)}
        assert len(outcomes) == len(set(outcomes)), "each call has one outcome at the most"
        assert set(outcomes) <= scheduled
        assert scheduled == set(outcomes) | (given_up & scheduled), (
            "each call has an outcome, or was given up"
        )
        commands = [
            e
            for e in events
            if isinstance(e, ev.ActivityScheduled | ev.TimerStarted | ev.CallStarted)
        ]
        assert len(events) <= 2 + 3 * len(commands) + len(
            [e for e in events if isinstance(e, ev.KvSet)]
        ), "no more than a command, its answer and its being given up"


async def test_what_a_reader_does_to_a_history_changes_nothing(file_world: World, app: App) -> None:
    """A history is read as copies: entries cannot be exchanged, and what was read once is read again."""

    @app.workflow
    async def twice(i: int) -> int:
        if i == 1:
            workflow.continue_as_new(twice, 2)
        return i

    async with file_world.node(app) as node:
        handle = node.client.workflow(twice, id="t")
        assert await handle.run(1) == 2
        for execution in (1, 2):
            first = await handle.history(execution)
            with pytest.raises(AttributeError):
                first[0].number = 7  # type: ignore[misc]
            first[0].event.at = 0  # type: ignore[union-attr]
            first.clear()
            again = await handle.history(execution)
            assert [entry.number for entry in again] == [1, 2]
            assert again[0].event.at > 0  # type: ignore[union-attr]
