"""Values arrive as what they were on each way that they take, and a declared type may change."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

from engine import PATIENCE_S, World, waits_for
from hypothesis import given, settings
from hypothesis import strategies as st
from random_types import KINDS, same, types_of

from perdure import App, workflow
from perdure.errors import EncodeError


async def on_each_way(type_: Any, value: Any) -> list[tuple[str, Any]]:
    app = App("ways")
    channel: workflow.Channel[Any] = workflow.Channel("channel", type_)

    async def echo(given: Any) -> Any:
        return given

    async def travel(given: Any) -> Any:
        seen.append(("argument", given))
        seen.append(("activity", await activity(given)))
        seen.append(("child", await workflow.child(child)(given)))
        seen.append(("checkpoint", await workflow.checkpoint("c", lambda: given, type=type_)))
        seen.append(("value", workflow.value("v", given, type=type_)))
        seen.append(("message", await channel.receive()))
        workflow.kv.set("k", given)
        return given

    # The annotations are made here, where the type is known.
    for fn in (echo, travel):
        fn.__annotations__ = {"given": type_, "return": type_}
    seen: list[tuple[str, Any]] = []
    activity: Any = app.activity(echo)
    child: Any = app.workflow(name="child")(echo)
    main: Any = app.workflow(travel)
    async with app.node("memory://") as node:
        handle = node.client.workflow(main, id="w")
        await handle.start(value)
        await handle.send(channel, value)
        seen.append(("result", await handle.result(timeout=PATIENCE_S)))
    return seen


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_value_arrives_as_it_was_on_each_way(data: st.DataObject) -> None:
    type_, values = data.draw(types_of([*KINDS, "Model", "Strict"]))
    value = data.draw(values)
    try:
        seen = asyncio.run(on_each_way(type_, value))
    except EncodeError:  # a union of a model may take a value for another of its types
        return
    assert len(seen) == 7
    for way, found in seen:
        assert same(value, found), (way, type_, value, found)


def counting(app: App, type_: Any, sent: Any) -> Any:
    """A workflow that calls an activity and sends a message, both of the type that is given."""
    channel: workflow.Channel[Any] = workflow.Channel("numbers", type_)

    async def count(number: Any) -> str:
        return f"counted {number}"

    count.__annotations__ = {"number": type_, "return": str}
    activity: Any = app.activity(count)

    @app.workflow(name="w")
    async def main() -> list[str]:
        said: list[str] = []
        for number in sent:
            try:
                said.append(await activity(number))
                workflow.send("other", channel, number)
            except EncodeError as error:
                said.append(f"refused: {error}")
        await workflow.receive("end", bool)
        return said

    return main


async def test_what_was_accepted_and_refused_stays_so_when_the_type_changes(world: World) -> None:
    sent = [Decimal("1.5"), "three", 7]
    first, then = App("a"), App("a")
    main = counting(first, Decimal, sent)
    async with world.node(first) as node:
        handle = node.client.workflow(main, id="w")
        await handle.start()
        await waits_for(handle, "message end")
    # As `Any` a Decimal is written in another way, and the text and the number are accepted.
    main = counting(then, Any, sent)
    async with world.node(then) as node:
        handle = node.client.workflow(main, id="w")
        await handle.send("end", True)
        refusal = "refused: cannot encode argument 'number' of activity 'count': Expected `Decimal`"
        assert await handle.result(timeout=PATIENCE_S) == [
            "counted 1.5",
            f"{refusal}, got `str`",
            f"{refusal}, got `int`",
        ]


async def test_what_was_accepted_stays_so_when_the_type_would_refuse_it(world: World) -> None:
    first, then = App("a"), App("a")
    main = counting(first, Any, [Decimal("1.5"), 7])
    async with world.node(first) as node:
        handle = node.client.workflow(main, id="w")
        await handle.start()
        await waits_for(handle, "message end")
    main = counting(then, str, [Decimal("1.5"), 7])
    async with world.node(then) as node:
        handle = node.client.workflow(main, id="w")
        await handle.send("end", True)
        assert await handle.result(timeout=PATIENCE_S) == ["counted 1.5", "counted 7"]
