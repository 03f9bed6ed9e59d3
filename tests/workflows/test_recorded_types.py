"""What workflow code records comes back as what it was, live and in replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from engine import World

from perdure import App, ApplicationError, workflow
from perdure.errors import UsageError


@dataclass
class Item:
    n: int


class Point(msgspec.Struct, frozen=True):
    x: int


class Color(Enum):
    RED = "red"


VALUES: list[Any] = [
    Item(1),
    [Item(1)],
    [None, Item(1)],
    {"a": Item(1), "b": Item(2)},
    {"a": [Item(1)], "b": [Item(2)]},
    (Item(1), "x", (1, 2)),
    [(1, Item(2))],
    {Point(1), Point(2)},
    frozenset({Color.RED}),
    {Color.RED: [Decimal("1.5")]},
    {1: "x"},
    [1, "two", None, 3.5, [True], {"a": b"b"}],
    [datetime(2026, 1, 1, tzinfo=UTC)],
    timedelta(1),
    [1, Decimal("1.10"), {"day": date(2026, 1, 1), "id": UUID(int=1)}, (1, {2})],
    datetime(2026, 3, 28, 9, tzinfo=ZoneInfo("Europe/Berlin")),
    b"x",
    None,
    [],
]


def name_of(value: Any) -> str:
    """The same in each process: some sets are in the order of addresses."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} of {', '.join(sorted(map(repr, value)))}"
    return repr(value)


@pytest.mark.parametrize("value", VALUES, ids=name_of)
async def test_a_value_and_a_variable_keep_their_type(world: World, app: App, value: Any) -> None:
    seen: list[Any] = []

    async def body() -> None:
        variable = workflow.variable("v", value)
        seen.append([workflow.value("n", value), variable.get(), variable.update(lambda old: old)])
        await workflow.checkpoint("pass", lambda: None)

    await world.replayed(app, body)
    assert len(seen) > 1
    for found in seen:
        assert found == [value] * 3
        assert [type(one) for one in found] == [type(value)] * 3


async def test_parts_of_several_types_need_a_type(world: World, app: App) -> None:
    async def body() -> list[str]:
        said: list[str] = []
        for record in (workflow.value, workflow.variable):
            try:
                record("v", [1, Item(1)])
            except UsageError as error:
                said.append(str(error))
        given = workflow.value("w", [Item(1)], type=list[Item])
        return [
            *said,
            repr(given),
            repr(workflow.variable("e", list[Item](), type=list[Item]).get()),
        ]

    first, second, given, empty = await world.replayed(app, body)
    assert first.startswith(
        "value 'v' does not tell its type: [1]: Item would come back as dict; give the type"
    )
    assert second.startswith("variable 'v' does not tell its type")
    assert (given, empty) == ("[Item(n=1)]", "[]")


def _annotated() -> list[Item]:
    return [Item(1)]


async def _awaited() -> dict[str, Item]:
    return {"a": Item(2)}


@pytest.mark.parametrize(("fn", "expected"), [(_annotated, [Item(1)]), (_awaited, {"a": Item(2)})])
async def test_a_checkpoint_has_the_type_that_its_function_declares(
    world: World, app: App, fn: Callable[[], Any], expected: Any
) -> None:
    seen: list[Any] = []

    async def body() -> None:
        seen.append(await workflow.checkpoint("c", fn))

    await world.replayed(app, body)
    assert len(seen) > 1
    assert all(found == expected for found in seen)


TYPES: dict[type, Any] = {Item: Item, list: list[Item], tuple: tuple[int, Item]}


@pytest.mark.parametrize("value", [Item(1), [Item(1)], (1, Item(2))], ids=repr)
async def test_a_checkpoint_that_does_not_tell_its_type_needs_one(
    world: World, app: App, value: Any
) -> None:
    seen: list[Any] = []

    async def body() -> str:
        seen.append(await workflow.checkpoint("typed", lambda: value, type=TYPES[type(value)]))
        try:
            await workflow.checkpoint("c", lambda: value)
        except ApplicationError as error:
            return str(error)
        return "accepted"

    assert "the value of checkpoint 'c' needs a type" in await world.replayed(app, body)
    assert all(found == value for found in seen)
