"""Retries: how often, after which delay, which errors are final, and the count after a restart."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from engine import World, until, waits_for

from perdure import ActivityError, App, ApplicationError, RetryPolicy, activity, workflow
from perdure.errors import DefinitionError


class Fatal(Exception):
    pass


class VeryFatal(Fatal):
    pass


async def _until_attempts(times: list[int], count: int) -> None:
    await until(lambda: len(times) >= count, f"attempt {count}")


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(4, 1.0, "fixed"), [1_000, 1_000, 1_000]),
        (RetryPolicy(5, 1.0, "linear", maximum_interval=2.5), [1_000, 2_000, 2_500, 2_500]),
        (
            RetryPolicy(5, 1.0, "exponential", coefficient=3, maximum_interval=20),
            [1_000, 3_000, 9_000, 20_000],
        ),
        (RetryPolicy(3, 0, "fixed"), [0, 0]),
    ],
    ids=["fixed", "linear", "exponential", "zero"],
)
async def test_the_delays(world: World, app: App, policy: RetryPolicy, delays: list[int]) -> None:
    clock = world.stop_time()
    times: list[int] = []

    @app.activity(retry=policy)
    async def bad() -> None:
        times.append(clock.now_ms())
        raise ValueError(f"attempt {activity.info().attempt}")

    @app.workflow
    async def calling() -> str:
        try:
            await bad()
        except ActivityError as error:
            return str(error)
        return ""

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        for i, delay in enumerate(delays):
            await _until_attempts(times, i + 1)
            if delay:
                assert await clock.until_armed(delay) == delay
                clock.advance(delay)
        message = await handle.result(timeout=30)
    count = len(delays) + 1
    assert f"after {count} attempts" in message
    assert f"attempt {count}" in message
    assert [b - a for a, b in pairwise(times)] == delays


async def test_it_is_not_tried_again_unless_asked_for(world: World, app: App) -> None:
    times: list[int] = []

    @app.activity
    async def bad() -> None:
        times.append(1)
        raise ValueError("no")

    async def body() -> str:
        try:
            await bad()
        except ActivityError as error:
            return str(error)
        return ""

    assert "after 1 attempt: ValueError: no" in await world.replayed(app, body)
    assert times == [1]


async def test_a_later_attempt_that_succeeds_gives_the_result(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(5, 0.001))
    def flaky() -> int:
        attempt = activity.info().attempt
        if attempt < 3:
            raise ConnectionError("try again")
        return attempt

    async def body() -> int:
        return await flaky()

    assert await world.replayed(app, body) == 3


@pytest.mark.parametrize(
    "final", [(Fatal,), ("VeryFatal",), ("Fatal", VeryFatal)], ids=["class", "name", "both"]
)
async def test_types_that_are_not_retried(world: World, app: App, final: Any) -> None:
    ran: list[str] = []

    @app.activity(retry=RetryPolicy(5, 0.001, non_retryable=final))
    async def bad(kind: str) -> None:
        ran.append(kind)
        raise (
            VeryFatal(kind) if kind == "fatal" or activity.info().attempt == 3 else ValueError(kind)
        )

    @app.workflow
    async def calling(kind: str) -> str:
        try:
            await bad(kind)
        except ActivityError as error:
            return error.failure.type
        return ""

    async with world.node(app) as node:
        assert await node.client.workflow(calling, id="a").run("fatal") == "VeryFatal"
        assert ran == ["fatal"]
        assert await node.client.workflow(calling, id="b").run("other") == "VeryFatal"
        assert ran == ["fatal", "other", "other", "other"]


async def test_an_application_error_can_be_final_and_carry_details(world: World, app: App) -> None:
    ran: list[int] = []

    @app.activity(retry=RetryPolicy(5, 0.001))
    async def bad() -> None:
        ran.append(1)
        raise ApplicationError("no money", type="Declined", retryable=False, details={"cents": 5})

    async def body() -> list[Any]:
        from perdure.codec import decode

        try:
            await bad()
        except ActivityError as error:
            failure = error.failure
            assert failure.details is not None
            return [
                failure.type,
                failure.message,
                failure.retryable,
                error.retryable,
                decode(failure.details),
            ]
        return []

    assert await world.replayed(app, body) == ["Declined", "no money", False, False, {"cents": 5}]
    assert ran == [1]


async def test_the_count_goes_on_after_a_restart_between_two_attempts(
    world: World, app: App
) -> None:
    clock = world.stop_time()
    attempts: list[int] = []

    @app.activity(retry=RetryPolicy(3, 10, "fixed"))
    async def bad() -> None:
        attempts.append(activity.info().attempt)
        raise ValueError("no")

    @app.workflow
    async def calling() -> str:
        try:
            await bad()
        except ActivityError as error:
            return str(error)
        return ""

    for count in (1, 2):
        async with world.node(app) as node:
            await node.client.workflow(calling, id="c").start()
            await _until_attempts(attempts, count)
            await waits_for(node.client.get("c"), f"activity bad (attempt {count + 1})")
        clock.advance(10_000)
    async with world.node(app) as node:
        assert "after 3 attempts" in await node.client.get("c").result(timeout=30)
    assert attempts == [1, 2, 3]


async def test_a_retry_that_waits_keeps_its_time_over_a_restart(world: World, app: App) -> None:
    clock = world.stop_time()
    times: list[int] = []

    @app.activity(retry=RetryPolicy(2, 10, "fixed"))
    async def bad() -> int:
        times.append(clock.now_ms())
        if len(times) == 1:
            raise ValueError("no")
        return len(times)

    @app.workflow
    async def calling() -> int:
        return await bad()

    async with world.node(app) as node:
        await node.client.workflow(calling, id="c").start()
        await waits_for(node.client.get("c"), "activity bad (attempt 2)")
        clock.advance(4_000)
    async with world.node(app) as node:
        assert await clock.until_armed(6_000) == 6_000
        clock.advance(6_000)
        assert await node.client.get("c").result(timeout=30) == 2
    assert times[1] - times[0] == 10_000


async def test_an_attempt_that_the_node_did_not_finish_runs_again_under_the_same_number(
    world: World, app: App
) -> None:
    attempts: list[int] = []
    gate = asyncio.Event()

    @app.activity(retry=RetryPolicy(3, 0.001))
    async def slow() -> int:
        attempts.append(activity.info().attempt)
        if len(attempts) == 1:
            raise ValueError("first")
        await gate.wait()
        return activity.info().attempt

    @app.workflow
    async def calling() -> int:
        return await slow()

    async with world.node(app) as node:
        await node.client.workflow(calling, id="c").start()
        await _until_attempts(attempts, 2)
    gate.set()
    async with world.node(app) as node:
        assert await node.client.get("c").result(timeout=30) == 2
    assert attempts == [1, 2, 2]


async def test_the_idempotency_key_is_the_same_for_all_attempts_and_differs_between_calls(
    world: World, app: App
) -> None:
    keys: list[str] = []

    @app.activity(retry=RetryPolicy(3, 0.001))
    async def charge() -> str:
        info = activity.info()
        keys.append(info.idempotency_key)
        if info.attempt < 3:
            raise ValueError("no")
        return info.idempotency_key

    async def body() -> list[str]:
        return [await charge(), await charge()]

    first, second = await world.replayed(app, body)
    assert keys == [first] * 3 + [second] * 3
    assert first != second


async def test_a_workflow_that_is_cancelled_between_two_attempts_gets_no_further_one(
    world: World, app: App
) -> None:
    clock = world.stop_time()
    times: list[int] = []

    @app.activity(retry=RetryPolicy(None, 10))
    async def bad() -> None:
        times.append(1)
        raise ValueError("no")

    @app.workflow
    async def calling() -> None:
        await bad()

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await waits_for(handle, "activity bad (attempt 2)")
        await handle.cancel()
        assert (await handle.wait(timeout=30)).status == "cancelled"
        clock.advance(60_000)
        await asyncio.sleep(0)
    assert times == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"maximum_attempts": 0},
        {"backoff": "random"},
        {"coefficient": 0.5},
        {"initial_interval": -1},
        {"maximum_interval": float("nan")},
    ],
    ids=lambda w: next(iter(w)),
)
def test_a_wrong_policy_is_refused_where_it_is_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


async def test_a_huge_exponent_does_not_overflow(app: App) -> None:
    policy = RetryPolicy(None, 1, "exponential", coefficient=10, maximum_interval=60)
    assert policy.delay_ms(5_000) == 60_000
    assert workflow is not None
