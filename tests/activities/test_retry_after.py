"""`RetryAfter`: an activity says when to try again, and the policy still says whether."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import ways
from engine import World, until, waits_for

from perdure import ActivityError, App, ApplicationError, RetryPolicy, activity
from perdure.errors import UsageError
from perdure.kernel.data import events as ev


class Busy(activity.RetryAfter):
    """One of the application's own."""

    def __init__(self) -> None:
        super().__init__(45, "the bank is busy", details={"queue": 3})


async def _in_a_group(*delays: float) -> None:
    async def fails(delay: float) -> None:
        raise activity.RetryAfter(delay)

    async with asyncio.TaskGroup() as group:
        for delay in delays:
            group.create_task(fails(delay))


def _raise(error: BaseException) -> Any:
    raise error


WAYS: dict[str, tuple[Callable[[], Any], int]] = {
    "seconds": (lambda: _raise(activity.RetryAfter(60)), 60_000),
    "a part of a second": (lambda: _raise(activity.RetryAfter(0.0001)), 1),
    "a timedelta": (lambda: _raise(activity.RetryAfter(timedelta(hours=1))), 3_600_000),
    "longer than any delay of the policy": (
        lambda: _raise(activity.RetryAfter(86_400)),
        86_400_000,
    ),
    "a class of one's own": (lambda: _raise(Busy()), 45_000),
    "a group": (lambda: _in_a_group(5, 70, 20), 70_000),
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_next_attempt_begins_then(world: World, app: App, way: str) -> None:
    fails, delay_ms = WAYS[way]
    clock = world.stop_time()
    times: list[int] = []

    @app.activity(retry=RetryPolicy(2, 1.0, maximum_interval=10))
    async def asks() -> str:
        times.append(clock.now_ms())
        if len(times) == 1:
            outcome = fails()
            if outcome is not None:
                await outcome
        return "done"

    @app.workflow
    async def calling() -> str:
        return await asks()

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        assert await clock.until_armed(delay_ms) == delay_ms
    # The time is journaled, so the next life waits for the rest.
    clock.advance(delay_ms - 1)
    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        assert await clock.until_armed(1) == 1
        assert len(times) == 1
        clock.advance(1)
        assert await handle.result(timeout=30) == "done"
    assert times == [times[0], times[0] + delay_ms]


@pytest.mark.parametrize("delay", [0, -5, timedelta(days=-1)])
async def test_a_time_that_has_passed_is_at_once(world: World, app: App, delay: Any) -> None:
    @app.activity(retry=RetryPolicy(2, initial_interval=3_600))
    async def asks() -> str:
        if activity.info().attempt == 1:
            raise activity.RetryAfter(delay)
        return "done"

    async def body() -> str:
        return await asks()

    assert await world.replayed(app, body) == "done"


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({}, 1),
        ({"retry": RetryPolicy(2)}, 2),
        ({"retry": RetryPolicy(5, non_retryable=("RetryAfter",))}, 1),
        ({"retry": RetryPolicy(5, non_retryable=(ApplicationError,))}, 1),
        ({"retry": RetryPolicy(5), "total_timeout": 60}, 1),
    ],
    ids=["no policy", "attempts", "by name", "by class", "total timeout"],
)
async def test_the_policy_decides_whether(
    world: World, app: App, options: dict[str, Any], attempts: int
) -> None:
    ran: list[int] = []

    @app.activity(**options)
    async def asks() -> None:
        ran.append(activity.info().attempt)
        delay = 3_600 if "total_timeout" in options else 0.01
        raise activity.RetryAfter(delay, "too many requests")

    async def body() -> str:
        try:
            await asks()
        except ActivityError as error:
            return str(error)
        return ""

    message = await world.replayed(app, body)
    assert message.endswith("RetryAfter: too many requests")
    assert ran == list(range(1, attempts + 1))


async def test_it_is_a_failure_with_type_and_details(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(2))
    def asks() -> None:
        raise Busy

    async with world.node(app) as node:

        @app.workflow
        async def calling() -> None:
            await asks()

        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await waits_for(handle, "activity asks (attempt 2)")
        events = [entry.event for entry in await handle.history()]
        failed = [event for event in events if isinstance(event, ev.AttemptFailed)]
        assert len(failed) == 1
        assert failed[0].retry_at - failed[0].at == 45_000
        assert (failed[0].failure.type, failed[0].failure.message) == ("Busy", "the bank is busy")
        assert failed[0].failure.details is not None


async def test_of_a_process() -> None:
    async with ways.app.node("memory://") as node:
        handle = node.client.workflow(ways.call, id="r")
        await handle.start("process", "retry after", None)

        async def attempt_failed() -> bool:
            return any(isinstance(e.event, ev.AttemptFailed) for e in await handle.history())

        await until(attempt_failed, "the attempt has failed")
        (failed,) = [
            entry.event
            for entry in await handle.history()
            if isinstance(entry.event, ev.AttemptFailed)
        ]
        assert failed.retry_at - failed.at == 3_600_000


@pytest.mark.parametrize("delay", [math.nan, math.inf, 1e12, True, "120", None])
def test_what_is_no_delay_is_refused(delay: Any) -> None:
    with pytest.raises(UsageError, match="RetryAfter needs seconds"):
        activity.RetryAfter(delay)


def test_its_text() -> None:
    assert str(activity.RetryAfter(90)) == "try again in 90 s"
