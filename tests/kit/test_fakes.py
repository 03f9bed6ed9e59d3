"""Fakes run in the place of activities, and a test reads the calls from the histories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from kit_shop import approved, make_app

from perdure import ActivityError, App, RetryPolicy, WorkflowFailed, activity, testing, workflow
from perdure.errors import NotFound, UsageError
from perdure.testing import ActivityRecord, VirtualNode

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def plain(card: str, cents: int = 100) -> str:
    return f"fake {card} {cents}"


async def coroutine(card: str, cents: int = 100) -> str:
    await asyncio.sleep(0)
    return f"fake {card} {cents}"


class Callable_:
    def __call__(self, card: str, cents: int) -> str:
        return f"fake {card} {cents}"


FAKES: dict[str, Callable[..., Any]] = {
    "def": plain,
    "async def": coroutine,
    "lambda": lambda card, cents: f"fake {card} {cents}",
    "object": Callable_(),
    "partial": partial(lambda kind, card, cents: f"{kind} {card} {cents}", "fake"),
    "mock": Mock(return_value="fake 4242 100"),
    "async mock": AsyncMock(return_value="fake 4242 100"),
    "anything": lambda *args, **kwargs: f"fake {args[0]} {args[1]}",
}


@pytest.mark.parametrize("kind", FAKES)
async def test_whatever_can_be_called_can_be_a_fake(kind: str, app: App) -> None:
    async with testing.node(app, activities={"charge": FAKES[kind]}) as node:
        assert await node.client.workflow("pay", id="p").run("4242") == "fake 4242 100"
        assert node.clock.now() == BEGIN, "the real one fails twice, and waits for hours"


async def test_a_fake_of_a_def_runs_in_its_place(node: VirtualNode) -> None:
    seen: list[tuple[str, bool]] = []
    node.replace("note", lambda text, *, loud=False: seen.append((text, loud)))
    await node.client.workflow("noted", id="n").run("hello", 1)
    assert seen == [("hello", False)]


async def test_a_fake_can_fail_and_is_tried_again(node: VirtualNode) -> None:
    answers = iter([ConnectionError("away"), "paid"])

    def charge(card: str, cents: int) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return f"{answer} at attempt {activity.info().attempt}"

    node.replace("charge", charge)
    assert await node.client.workflow("pay", id="p").run("4242") == "paid at attempt 2"
    assert node.clock.now() == BEGIN + timedelta(hours=1)


async def test_a_fake_takes_over_from_the_next_attempt_on(node: VirtualNode) -> None:
    handle = node.client.workflow("pay", id="p")
    await handle.start("4242")
    await node.clock.sleep(0)
    node.replace("charge", plain)
    assert await handle.result() == "fake 4242 100"
    (call,) = await node.calls()
    assert (call.attempts, call.outcome) == (2, "completed")


async def test_what_a_fake_returns_must_be_what_the_activity_could_return(
    node: VirtualNode,
) -> None:
    node.replace("charge", lambda card, cents: 5)
    with pytest.raises(
        WorkflowFailed, match=r"result of activity 'charge': Expected `str`, got `int`"
    ):
        await node.client.workflow("pay", id="p").run("4242")


async def test_fakes_stay_over_a_restart(node: VirtualNode) -> None:
    node.replace("charge", plain)
    await node.restart()
    assert await node.client.workflow("pay", id="p").run("4242") == "fake 4242 100"


async def test_the_app_itself_is_not_changed(app: App) -> None:
    real = app.find_activity("charge")
    async with testing.node(app).replace("charge", plain) as node:
        assert node.app.find_activity("charge") is not real
        assert app.find_activity("charge") is real


async def test_what_is_registered_later_is_there(node: VirtualNode, app: App) -> None:
    @app.workflow
    async def late() -> str:
        return "here"

    assert await node.client.workflow(late, id="l").run() == "here"


# ---------------------------------------------------------------- calls


async def test_calls_are_read_with_arguments_times_and_outcomes(node: VirtualNode) -> None:
    await node.client.workflow("pay", id="p").run("4242")
    (call,) = await node.calls("charge")
    assert call == ActivityRecord(
        "p", 1, "charge", {"card": "4242", "cents": 100}, BEGIN, "completed", 3, "4242-100", None
    )
    assert await node.calls("note") == []


async def test_each_call_is_there_once_in_the_order_of_time(node: VirtualNode, app: App) -> None:
    @app.activity
    async def refuse(text: str) -> None:
        raise ValueError(text)

    @app.workflow
    async def loser() -> None:
        with pytest.raises(ActivityError):
            await refuse("no")
        _, pending = await asyncio.wait(
            [_asked(), asyncio.ensure_future(asyncio.sleep(1))], return_when="FIRST_COMPLETED"
        )
        for task in pending:
            task.cancel()

    def _asked() -> asyncio.Future[object]:
        return asyncio.ensure_future(ask("p"))

    ask: Any = app_activity(app, "ask")
    await node.client.workflow("patient", id="p").start()
    await node.client.workflow("noted", id="n").start("first", 0.5)
    await node.client.workflow(loser, id="l").run()
    await node.client.get("p").send(approved, True)
    await node.clock.sleep(1)
    calls = await node.calls()
    assert [(c.name, c.outcome, c.at - BEGIN) for c in calls] == [
        ("refuse", "failed", timedelta(0)),
        ("ask", "cancelled", timedelta(0)),
        ("note", "completed", timedelta(seconds=0.5)),
    ]
    assert calls[0].failure is not None
    assert calls[0].failure.message == "no"
    assert [c.name for c in await node.calls(id="n")] == ["note"]


def app_activity(app: App, name: str) -> Any:
    """The activity of this name, to be called from a workflow."""
    from perdure.activity import AsyncActivity

    definition = app.find_activity(name)
    assert definition is not None
    return AsyncActivity(definition, definition.options)


async def test_calls_of_earlier_executions_and_detached_ones_are_there(
    node: VirtualNode, app: App
) -> None:
    note = app_activity(app, "note")

    @app.workflow
    async def thrice(left: int) -> None:
        await note(f"{left}", loud=True)
        if left:
            workflow.continue_as_new(thrice, left - 1)
        note.detach("bye")

    await node.client.workflow(thrice, id="t").run(2)
    await node.clock.sleep(0)
    calls = await node.calls(note)
    assert [(c.execution, c.arguments) for c in calls] == [
        (1, {"text": "2", "loud": True}),
        (2, {"text": "1", "loud": True}),
        (3, {"text": "0", "loud": True}),
        (1, {"text": "bye", "loud": False}),
    ]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["chrage", "", 7, None])
def test_an_activity_that_is_not_there_is_named_with_those_that_are(name: object, app: App) -> None:
    with pytest.raises(
        UsageError,
        match=r"app 'shop' has no activity .* to replace; it has ask, charge, hang, note",
    ):
        testing.node(app, activities={name: plain})  # type: ignore[dict-item]


def test_an_activity_of_another_app_is_refused(app: App) -> None:
    other: Any = app_activity(make_app(), "charge")
    with pytest.raises(UsageError, match="<activity charge> is another app's"):
        testing.node(app).replace(other, plain)


@pytest.mark.parametrize(
    ("fake", "why"),
    [
        (lambda: "x", r"charge\(card, cents\): too many positional arguments"),
        (lambda card, cents, more: "x", "missing a required argument: 'more'"),
        (lambda card, *, cents: "x", "too many positional arguments"),
    ],
)
def test_a_fake_that_cannot_take_the_arguments_is_refused(
    fake: Callable[..., object], why: str, app: App
) -> None:
    with pytest.raises(
        UsageError,
        match=f"the fake for activity 'charge' cannot be called as .*{why.split(': ')[-1]}",
    ):
        testing.node(app).replace("charge", fake)


def test_keywords_of_the_activity_must_be_keywords_of_the_fake(app: App) -> None:
    with pytest.raises(
        UsageError, match=r"called as note\(text, loud=\): .*'loud'; give it the same parameters"
    ):
        testing.node(app).replace("note", lambda text: None)


def test_a_constant_is_no_fake(app: App) -> None:
    with pytest.raises(UsageError, match="must be a function, got 'paid'"):
        testing.node(app, activities={"charge": "paid"})  # type: ignore[dict-item]


async def test_calls_of_what_does_not_exist_are_asked_for_in_vain(node: VirtualNode) -> None:
    with pytest.raises(UsageError, match="app 'shop' has no activity 'chrage'; it has ask, charge"):
        await node.calls("chrage")
    with pytest.raises(NotFound, match="no instance has the id 'x'"):
        await node.calls("charge", id="x")


async def test_a_retry_policy_of_a_call_counts_for_its_fake(node: VirtualNode, app: App) -> None:
    charge = app_activity(app, "charge")

    @app.workflow
    async def once() -> str:
        return str(await charge.with_options(retry=RetryPolicy(maximum_attempts=1))("4242"))

    node.replace(charge, Mock(side_effect=ConnectionError("away")))
    with pytest.raises(WorkflowFailed, match="failed after 1 attempt"):
        await node.client.workflow(once, id="o").run()
