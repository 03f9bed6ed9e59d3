"""What has come to stay is out of the sight of the garbage collector, for as long as the node runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from perdure import App, Node, NodeOptions, workflow

app = App("elders")
go = workflow.Channel[int]("go")


@app.workflow
async def waiting() -> int:
    return await go.receive()


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """The suite freezes what it has imported."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


async def start_waiting(node: Node, count: int) -> None:
    for n in range(count):
        await node.client.workflow(waiting, id=f"w-{n}").start()


async def test_a_node_leaves_the_collector_alone() -> None:
    async with app.node("memory://") as node:
        await start_waiting(node, 30)
        assert gc.get_freeze_count() == 0


async def test_instances_that_came_into_memory_are_set_apart_and_given_back() -> None:
    async with app.node("memory://", options=NodeOptions(gc_residents=10)) as node:
        program = gc.get_freeze_count()
        assert program > 0, "what the program has made is set apart at the start"
        await start_waiting(node, 9)
        assert gc.get_freeze_count() <= program, "not yet"
        await start_waiting(node, 30)
        assert gc.get_freeze_count() > program + 20 * 10, "ten objects each at least"
        await node.client.workflow(waiting, id="w-3").send(go, 7)
        assert await node.client.workflow(waiting, id="w-3").result() == 7
    assert gc.get_freeze_count() == 0, "the collector sees everything when the node has stopped"


async def test_garbage_is_collected_before_the_rest_is_set_apart() -> None:
    class Knot:
        """Refers to itself, so only the collector frees it."""

    alive: list[int] = []

    class Noted(Knot):
        def __del__(self) -> None:
            alive.pop()

    gc.disable()
    try:
        async with app.node("memory://", options=NodeOptions(gc_residents=10)) as node:
            knot = Noted()
            alive.append(1)
            knot.me = knot  # type: ignore[attr-defined]
            del knot
            await start_waiting(node, 10)
            assert alive == []
    finally:
        gc.enable()
