"""The arithmetic of a retry policy, and what its attempts leave in the journal."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import ActivityError, ActivityTimeout, App, RetryPolicy, activity, workflow
from perdure.errors import ApplicationError, DefinitionError


def delays(policy: RetryPolicy, count: int = 5) -> list[int]:
    """The delays after the first failures, in milliseconds."""
    return [policy.delay_ms(attempt) for attempt in range(1, count + 1)]


def test_the_defaults() -> None:
    policy = RetryPolicy()
    assert policy.maximum_attempts == 3
    assert delays(policy, 10) == [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(5, 0), [0, 0, 0, 0, 0]),
        (RetryPolicy(5, 2, "fixed"), [2_000] * 5),
        (RetryPolicy(5, 0, "fixed"), [0] * 5),
        (RetryPolicy(5, 1, "linear"), [1_000, 2_000, 3_000, 4_000, 5_000]),
        (RetryPolicy(5, 1, "linear", maximum_interval=3), [1_000, 2_000, 3_000, 3_000, 3_000]),
        (RetryPolicy(5, 0, "linear"), [0] * 5),
        (RetryPolicy(5, 1, "exponential"), [1_000, 2_000, 4_000, 8_000, 16_000]),
        (RetryPolicy(5, 1, "exponential", maximum_interval=5), [1_000, 2_000, 4_000, 5_000, 5_000]),
        (RetryPolicy(5, 1, "exponential", coefficient=3), [1_000, 3_000, 9_000, 27_000, 30_000]),
        (RetryPolicy(5, 1, "exponential", coefficient=1), [1_000] * 5),
    ],
    ids=lambda v: (
        "" if isinstance(v, list) else f"{v.backoff}-{v.initial_interval:g}-{v.coefficient:g}"
    ),
)
def test_the_delays_of_each_backoff(policy: RetryPolicy, expected: list[int]) -> None:
    assert delays(policy) == expected


def test_a_late_attempt_waits_the_maximum_and_nothing_overflows() -> None:
    assert RetryPolicy(None, 1, "exponential", coefficient=1_000).delay_ms(10**6) == 30_000


def test_no_attempts_at_all_is_no_policy() -> None:
    with pytest.raises(DefinitionError, match="maximum_attempts"):
        RetryPolicy(0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("maximum_attempts", float("nan")),
        ("maximum_attempts", 2.5),
        ("maximum_attempts", True),
        ("maximum_attempts", "3"),
        ("coefficient", float("nan")),
        ("coefficient", "2"),
        ("initial_interval", float("nan")),
        ("maximum_interval", float("nan")),
        ("non_retryable", ValueError),
        ("non_retryable", "ValueError"),
        ("non_retryable", (int,)),
        ("non_retryable", (ValueError("one"),)),
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_refused(option: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=option):
        RetryPolicy(**{option: value})


async def test_a_group_with_an_error_that_is_not_retried_is_not_retried(
    world: World, app: App
) -> None:
    ran: list[str] = []

    @app.activity(retry=RetryPolicy(3, 0.001, non_retryable=(LookupError, "Declined")))
    async def bad(kind: str) -> None:
        ran.append(kind)
        inner: list[Exception] = [ConnectionError("a line is down")]
        if kind == "class":
            inner.append(ExceptionGroup("deep", [KeyError("derived from LookupError")]))
        if kind == "name":
            inner.append(ApplicationError("no", type="Declined"))
        raise ExceptionGroup("parts", inner)

    @app.workflow
    async def calling(kind: str) -> str:
        with suppress(ActivityError):
            await bad(kind)
        return kind

    async with world.node(app) as node:
        for kind in ("class", "name", "neither"):
            assert await node.client.workflow(calling, id=kind).run(kind) == kind
    assert ran == ["class", "name", "neither", "neither", "neither"]


async def test_a_single_attempt_fails_with_its_error(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(1))
    async def bad() -> None:
        raise ValueError("the only one")

    async def body() -> str:
        try:
            await bad()
        except ActivityError as error:
            return error.failure.message
        return ""

    assert await world.replayed(app, body) == "the only one"


async def test_the_last_error_is_the_one_that_is_raised(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(3, 0))
    async def bad() -> None:
        raise ValueError(f"attempt {activity.info().attempt}")

    async def body() -> str:
        try:
            await bad()
        except ActivityError as error:
            return error.failure.message
        return ""

    assert await world.replayed(app, body) == "attempt 3"


@pytest.mark.parametrize("interval", [0, 0.001])
async def test_the_journal_has_one_call_and_one_event_per_failed_attempt(
    world: World, app: App, interval: float
) -> None:
    """A retry is no new call and no timer of the workflow: the code does not see it, and replay does not repeat it."""

    @app.activity(retry=RetryPolicy(4, interval, "fixed"))
    async def shaky() -> int:
        if (attempt := activity.info().attempt) < 4:
            raise ConnectionError
        return attempt

    @app.workflow
    async def calling() -> int:
        return await shaky()

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        assert await handle.run() == 4
        kinds = [type(e.event).__name__ for e in await handle.history()]
    assert kinds.count("ActivityScheduled") == 1
    assert kinds.count("AttemptFailed") == 3
    assert kinds.count("ActivityCompleted") == 1
    assert "TimerStarted" not in kinds


async def test_a_success_before_its_timeout(world: World, app: App) -> None:
    @app.activity(timeout=60, retry=RetryPolicy(3))
    async def quick() -> int:
        return activity.info().attempt

    async def body() -> int:
        return await quick()

    assert await world.replayed(app, body) == 1


async def test_an_attempt_that_times_out_is_tried_again(world: World, app: App) -> None:
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(timeout=5, retry=RetryPolicy(2, 0))
    async def slow_once() -> str:
        attempts.append(activity.info().attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "second"

    @app.workflow
    async def calling() -> str:
        return await slow_once()

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await until(lambda: bool(attempts), "the first attempt")
        await clock.until_armed(5_000)
        clock.advance(5_000)
        assert await handle.result(timeout=PATIENCE_S) == "second"
    assert attempts == [1, 2]


async def test_errors_are_retried_and_then_the_total_time_ends_it(world: World, app: App) -> None:
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(total_timeout=10, retry=RetryPolicy(None, 0))
    async def bad() -> None:
        attempts.append(activity.info().attempt)
        if len(attempts) < 3:
            raise ValueError("soon again")
        await asyncio.Event().wait()

    @app.workflow
    async def calling() -> str:
        try:
            await bad()
        except ActivityTimeout as error:
            return str(error)
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await until(lambda: len(attempts) == 3, "the third attempt")
        await clock.until_armed(10_000)
        clock.advance(10_000)
        assert "10000 ms" in await handle.result(timeout=PATIENCE_S)


async def test_a_time_limit_in_the_code_is_not_retried(world: World, app: App) -> None:
    """The other way to write it: `asyncio.timeout` around the call bounds all attempts and their delays."""
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(retry=RetryPolicy(None, 60))
    async def bad() -> None:
        attempts.append(1)
        raise ValueError

    @app.workflow
    async def calling() -> str:
        try:
            async with asyncio.timeout(30):
                await bad()
        except TimeoutError:
            return "late"
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await until(lambda: bool(attempts), "the first attempt")
        await clock.until_armed(30_000)
        clock.advance(30_000)
        assert await handle.result(timeout=PATIENCE_S) == "late"
    assert attempts == [1]


@dataclass
class Receipt:
    cents: int


async def test_a_typed_result_after_retries(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(3, 0))
    async def charge(cents: int) -> Receipt:
        if activity.info().attempt < 3:
            raise ConnectionError
        return Receipt(cents)

    async def body() -> int:
        receipt = await charge(7)
        assert isinstance(receipt, Receipt)
        return receipt.cents

    assert await world.replayed(app, body) == 7


async def test_many_attempts(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(50, 0))
    async def stubborn() -> int:
        if activity.info().attempt < 50:
            raise ConnectionError
        return activity.info().attempt

    async def body() -> int:
        return await stubborn()

    assert await world.replayed(app, body) == 50


async def test_many_instances_retry_side_by_side(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(3, 0.001))
    async def shaky(i: int) -> list[int]:
        if activity.info().attempt <= i % 3:
            raise ConnectionError
        return [i, activity.info().attempt]

    @app.workflow
    async def calling(i: int) -> list[int]:
        return await shaky(i)

    async with world.node(app) as node:
        found: list[Any] = await asyncio.gather(
            *(node.client.workflow(calling, id=f"c{i}").run(i) for i in range(12))
        )
    assert found == [[i, i % 3 + 1] for i in range(12)]


@pytest.mark.parametrize("end", ["succeeds", "times out"])
async def test_retries_do_not_reach_the_next_execution(world: World, app: App, end: str) -> None:
    """Attempts of an execution that ended stay with it; the next execution has calls of its own."""
    clock = world.stop_time()
    calls: list[list[Any]] = []

    @app.activity(retry=RetryPolicy(None, 10, "fixed"), total_timeout=60)
    async def shaky(execution: int) -> int:
        calls.append([execution, activity.info().execution, activity.info().attempt])
        if execution == 1:
            raise ConnectionError
        if end == "times out":
            await asyncio.Event().wait()
        return execution

    @app.workflow
    async def loop(execution: int) -> str:
        if execution == 1:
            shaky(1)  # perdure: ignore[PD303]
            await workflow.receive("next", bool)
            workflow.continue_as_new(loop, 2)
        try:
            return f"result {await shaky(2)}"
        except ActivityTimeout:
            return "late"

    async with world.node(app) as node:
        handle = node.client.workflow(loop, id="l")
        await handle.start(1)
        await waits_for(handle, "activity shaky (attempt 2)")
        await handle.send("next", True)
        await until(lambda: len(calls) == 2, "the call of the next execution")
        if end == "times out":
            await clock.until_armed(60_000)
            clock.advance(60_000)
        assert await handle.result(timeout=PATIENCE_S) == (
            "result 2" if end == "succeeds" else "late"
        )
    assert calls == [[1, 1, 1], [2, 2, 1]]
