"""`workflow.info()` shows the same in a replay as it did live, at every line, so code may decide by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from replay.harness import Rig, done, greet

from perdure import App, workflow
from perdure.kernel.data import message as msg

LAST = 2
seen: dict[int, list[list[int]]] = {}
"""For each execution what each run of it saw: the live one, and each replay of a part of it."""


async def main(execution: int = 1) -> list[int]:
    numbers = [workflow.info().history_events]
    seen.setdefault(execution, []).append(numbers)

    def look() -> None:
        numbers.append(workflow.info().history_events)

    async def beside() -> None:
        look()
        await asyncio.sleep(1)
        look()

    task = asyncio.create_task(beside())
    workflow.kv.set("a", execution)
    look()
    call = greet("ann")
    look()
    await call
    look()
    workflow.patched("new")
    look()
    await workflow.receive("go", str)
    look()
    await task
    await greet("bob")
    look()
    if execution < LAST:
        workflow.continue_as_new(following, execution + 1)
    return numbers


following = App("next").workflow(name="main")(main)

TURNS: list[Callable[[int], list[msg.Body]]] = [
    lambda execution: [done(1, "hello", execution=execution), msg.Send("go", b"\x01\xa1x")],
    lambda execution: [msg.Pause("a break")],
    lambda execution: [msg.Resume(), msg.Send("unread", b"\x01\xc0")],
    lambda execution: [],
    lambda execution: [done(4, "hello", execution=execution)],
]


@pytest.mark.parametrize("evicted", [False, True], ids=["warm", "loaded before each turn"])
def test_the_length_of_the_history_is_that_of_this_line(evicted: bool):
    seen.clear()
    rig = Rig(main)
    rig.start()
    for execution in range(1, LAST + 1):
        if execution > 1:
            rig.turn()  # what follows continue_as_new begins with the next turn
        for bodies in TURNS:
            if evicted:
                rig.reload()
            rig.turn(*bodies(execution), after_ms=400)
    assert rig.result == [1, 2, 3, 3, 5, 6, 8, 11, 13]
    for runs in seen.values():
        assert len(runs) > 1, "a replay saw them as well"
        for numbers in runs:
            assert numbers == rig.result[: len(numbers)]
