"""`workflow.select` and `workflow.join`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scene import act, cancelled, played, result

from perdure import workflow
from perdure.errors import UsageError
from perdure.kernel.data.events import ActivityScheduled, CommandCancelled


def test_select_gives_the_first_and_cancels_the_others() -> None:
    async def race() -> list[Any]:
        return list(await workflow.select(asyncio.sleep(5), act("a"), workflow.sleep(9)))

    drive = played(race)
    assert result(race) == [1, "A"]
    assert cancelled(drive.events()) == 2


def test_select_of_calls_only() -> None:
    async def race() -> list[Any]:
        return list(await workflow.select(act("a"), act("b"), act("c")))

    drive = played(race)
    assert result(race) == [0, "A"]
    assert [e.seq for e in drive.events() if isinstance(e, CommandCancelled)] == [2, 3]


def test_select_waits_for_the_cleanup_of_the_losers() -> None:
    async def race() -> list[Any]:
        log: list[Any] = []

        async def slow() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                log.append(await act("cleanup"))

        log.append(list(await workflow.select(slow(), asyncio.sleep(1))))
        return log

    assert result(race) == ["CLEANUP", [1, None]]


def test_the_first_argument_wins_a_tie() -> None:
    async def race() -> list[Any]:
        a, b = asyncio.ensure_future(act("a")), asyncio.ensure_future(act("b"))
        await asyncio.gather(a, b)
        return list(await workflow.select(b, a))

    assert result(race) == [0, "B"]


def test_the_error_of_the_winner_is_raised() -> None:
    async def race() -> str:
        async def fails() -> None:
            await asyncio.sleep(1)
            raise ValueError("first")

        try:
            await workflow.select(fails(), asyncio.sleep(5))
        except ValueError as error:
            return str(error)
        return "no error"

    assert result(race) == "first"


def test_a_cancelled_select_cancels_all() -> None:
    async def race() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await workflow.select(asyncio.sleep(5), asyncio.sleep(6), workflow.sleep(7))

    drive = played(race)
    assert drive.row.status == "completed"
    assert cancelled(drive.events()) == 3


def test_select_of_nothing() -> None:
    async def race() -> str:
        try:
            await workflow.select()
        except UsageError as error:
            return str(error)
        return "no error"

    assert "at least one" in result(race)


def test_join_in_both_orders() -> None:
    async def joined() -> list[Any]:
        async def fails() -> str:
            await asyncio.sleep(2)
            raise ValueError("late")

        async def after(delay: float, name: str) -> str:
            await asyncio.sleep(delay)
            return await act(name)

        both = [
            await workflow.join(after(3, "a"), fails(), after(1, "b"), order=order)
            for order in ("argument", "history")
        ]
        return [
            [o if isinstance(o, str) else type(o).__name__ for o in outcomes] for outcomes in both
        ]

    assert result(joined) == [["A", "ValueError", "B"], ["B", "ValueError", "A"]]


def test_join_of_calls() -> None:
    async def joined() -> list[Any]:
        return await workflow.join(act("a"), act("b"), order="history")

    drive = played(joined)
    assert result(joined) == ["A", "B"]
    assert sum(isinstance(e, ActivityScheduled) for e in drive.events()) == 2


async def test_outside_of_a_workflow() -> None:
    call = act("x")
    with pytest.raises(UsageError, match="for workflow code"):
        await workflow.select(call)
    call.close()
