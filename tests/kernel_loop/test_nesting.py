"""A workflow's loop inside another loop: the outer one, its current task and asyncio itself are as before."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvloop
from scene import act, result, started

from perdure import App
from perdure.kernel.loop.ordered import OrderedSet

app = App("nested")


@app.activity
async def shout(word: str) -> str:
    await asyncio.sleep(0)
    return word.upper()


@app.workflow
async def chorus(words: list[str]) -> list[str]:
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(shout(word)) for word in words]
    return [call.result() for call in calls]


async def scene() -> list[str]:
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(act(word)) for word in "ab"]
        await asyncio.sleep(1)
    return [call.result() for call in calls]


async def in_a_task() -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert result(scene) == ["A", "B"]
    assert asyncio.get_running_loop() is loop
    assert asyncio.current_task() is task
    async with asyncio.timeout(30):
        await asyncio.sleep(0)


async def in_a_callback() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def callback() -> None:
        try:
            assert asyncio.current_task() is None
            assert result(scene) == ["A", "B"]
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is None
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    loop.call_soon(callback)
    await done


async def in_a_node() -> None:
    async with app.node("memory://") as node:
        words = ["one", "two", "three"]
        assert await node.client.workflow(chorus, id="c-1").run(words) == ["ONE", "TWO", "THREE"]
        handles = [node.client.workflow(chorus, id=f"many-{i}") for i in range(20)]
        assert await asyncio.gather(*[h.run([str(i)]) for i, h in enumerate(handles)]) == [
            [str(i)] for i in range(20)
        ]


async def in_two_nodes() -> None:
    async with app.node("memory://") as one, app.node("memory://") as two:
        results = await asyncio.gather(
            *[
                n.client.workflow(chorus, id=f"c-{i}").run(["x", "y"])
                for n in (one, two)
                for i in range(10)
            ]
        )
    assert results == [["X", "Y"]] * 20


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("place", [in_a_task, in_a_callback, in_a_node, in_two_nodes])
def test_inside_another_loop(
    place: Callable[[], Coroutine[Any, Any, None]],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(place())


def test_without_any_loop() -> None:
    assert result(scene) == ["A", "B"]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


async def test_on_a_thread() -> None:
    assert await asyncio.to_thread(result, scene) == ["A", "B"]


class Sets:
    """Notices what kind of set asyncio's modules make."""

    def __init__(self) -> None:
        self.kinds: list[type] = []

    def look(self) -> None:
        for module in ("asyncio.tasks", "asyncio.taskgroups", "anyio._backends._asyncio"):
            made = sys.modules[module].__dict__["set"](range(3))
            self.kinds.append(type(made))


async def test_asyncio_keeps_its_sets_outside() -> None:
    sets = Sets()

    async def looks() -> None:
        await anyio.sleep(0)
        await act("x")
        sets.look()

    drive = started(looks)
    drive.finish()
    assert sets.kinds == [OrderedSet] * 3
    sets.kinds.clear()
    sets.look()
    assert sets.kinds == [set] * 3
    done, pending = await asyncio.wait([asyncio.create_task(asyncio.sleep(0))])
    assert type(done) is set
    assert type(pending) is set
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(0))
        assert type(tasks._tasks) is set  # type: ignore[attr-defined]


async def test_generators_and_the_collector_of_the_node_are_as_before() -> None:
    closed: list[str] = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append("by its own loop")

    generator = items()
    await anext(generator)
    assert result(scene) == ["A", "B"]
    assert gc.isenabled()
    later = items()
    await anext(later)
    del generator, later
    gc.collect()
    async with asyncio.timeout(30):
        while len(closed) < 2:
            await asyncio.sleep(0)


async def test_the_collector_never_starts_inside_a_workflow() -> None:
    """What it ends may have a `finally` that calls an activity: that would be a call of this workflow."""
    outer = asyncio.get_running_loop()
    are_inside: list[bool] = []

    def note(phase: str, info: dict[str, int]) -> None:
        are_inside.append(asyncio.get_running_loop() is not outer)

    threshold = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1)
    try:
        assert result(scene) == ["A", "B"]
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(note)
    assert are_inside.count(False) >= 20
    assert are_inside.count(True) == 0


async def test_the_node_does_not_leak_its_context() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="empty")
    variable.set("the node's")

    async def looks() -> str:
        before = variable.get()
        variable.set("the workflow's")
        await act("x")
        return before

    assert result(looks) == "empty"
    assert variable.get() == "the node's"


async def test_an_error_in_a_turn_leaves_the_outer_loop_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure.kernel.loop.loop.CALLBACKS_MAX", 1_000)

    async def busy() -> None:
        while True:
            await asyncio.sleep(0)

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    with pytest.raises(RuntimeError):
        started(busy)
    assert asyncio.get_running_loop() is loop
    assert asyncio.current_task() is task
    assert gc.isenabled()


async def test_exits_do_not_reach_the_node() -> None:
    async def leaves() -> None:
        await act("x")
        raise SystemExit(3)

    drive = started(leaves)
    drive.finish()
    assert drive.row.status == "failed"
    assert drive.row.failure is not None
    assert drive.row.failure.type == "SystemExit"
