"""What a group of tasks failed of is kept: each error with its text and its line, and not without end."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from engine import World

from perdure import ActivityError, App, ApplicationError, Failure, WorkflowFailed
from perdure.codec.failure import failure_of


async def _raises(error: Exception) -> None:
    raise error


async def _group() -> None:
    async with asyncio.TaskGroup() as outer:
        outer.create_task(_raises(ValueError("the first")))
        outer.create_task(_raises(ExceptionGroup("inner", [KeyError("deep"), TypeError("down")])))


def _flat(failure: Failure) -> list[tuple[str, str]]:
    return [
        pair
        for part in failure.parts
        for pair in ([(part.type, part.message)] if not part.parts else _flat(part))
    ]


EXPECTED = [("ValueError", "the first"), ("KeyError", "'deep'"), ("TypeError", "down")]


@pytest.mark.parametrize("where", ["workflow", "activity"])
async def test_each_error_of_a_group_is_kept(world: World, app: App, where: str) -> None:
    activity = app.activity(name="work")(_group)

    @app.workflow
    async def fails() -> None:
        await (activity() if where == "activity" else _group())

    async with world.node(app) as node:
        with pytest.raises(
            WorkflowFailed, match="ValueError: the first; KeyError: 'deep'; TypeError: down"
        ) as caught:
            await node.client.workflow(fails, id="f").run()
        failure = caught.value.failure
        assert _flat(failure) == EXPECTED
        assert "in _raises" in failure.parts[0].traceback
        stored = (await node.client.get("f").describe()).failure
        assert stored == failure


async def test_code_that_catches_sees_the_parts(world: World, app: App) -> None:
    activity = app.activity(name="work")(_group)

    async def body() -> list[Any]:
        try:
            await activity()
        except ActivityError as error:
            return [_flat(error.failure), str(error)]
        return []

    found, text = await world.replayed(app, body)
    assert [tuple(pair) for pair in found] == EXPECTED
    assert text.count("the first") == 1


def test_a_group_of_very_many_errors_is_cut() -> None:
    errors = [ValueError("x" * 10_000, n) for n in range(1_000)]
    failure = failure_of(ExceptionGroup("many", [ExceptionGroup("nested", errors[:3]), *errors]))
    assert 1 < len(failure.parts) <= 20
    assert "left out" in failure.message
    assert len(msgspec.msgpack.encode(failure)) < 100_000


def test_very_deep_groups_are_cut() -> None:
    error: Exception = ValueError("the bottom")
    for depth in range(200):
        error = ExceptionGroup(f"level {depth}", [error])
    assert len(msgspec.msgpack.encode(failure_of(error))) < 100_000


def test_many_errors_that_carry_parts_are_cut() -> None:
    part = Failure("ValueError", "y" * 15_000, traceback="z" * 15_000)
    inner = Failure("ExceptionGroup", "two", parts=(part, part))
    group = ExceptionGroup("all", [ActivityError(f"no {n}", inner) for n in range(50)])
    assert len(msgspec.msgpack.encode(failure_of(group))) < 100_000


def test_a_group_with_a_final_error_is_final() -> None:
    final = ApplicationError("no", retryable=False)
    assert failure_of(ExceptionGroup("a", [ValueError(), ValueError()])).retryable
    assert not failure_of(
        ExceptionGroup("a", [ValueError(), ExceptionGroup("b", [final])])
    ).retryable


def test_a_cause_that_is_a_group_names_what_is_in_it() -> None:
    error = RuntimeError("outer")
    error.__cause__ = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    assert failure_of(error).causes == (
        ("ExceptionGroup", "two (2 sub-exceptions) [ValueError: a; KeyError: 'b']"),
    )


def test_what_an_older_release_wrote_is_read() -> None:
    data = msgspec.msgpack.encode(["ValueError", "no", "application", True, "", [], None])
    assert msgspec.msgpack.decode(data, type=Failure) == Failure("ValueError", "no")
