"""A failure is data: type, message, traceback, causes, category, retryable or not."""

from __future__ import annotations

import pytest
from engine import World

from perdure import ActivityError, App, ApplicationError, ChildError, WorkflowFailed
from perdure.errors import Failure


class Custom(Exception):
    pass


async def test_the_failure_of_an_activity(world: World, app: App) -> None:
    @app.activity
    def bad() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise Custom("outer") from error

    caught: list[Failure] = []

    async def body() -> str:
        try:
            await bad()
        except ActivityError as error:
            caught.append(error.failure)
            return str(error)
        return ""

    assert await world.replayed(app, body) == "activity 'bad' failed after 1 attempt: Custom: outer"
    live, replayed = caught
    assert live == replayed
    assert (live.type, live.message, live.category) == ("Custom", "outer", "application")
    assert live.causes == (("KeyError", "'inner'"),)
    assert "test_failures.py" in live.traceback
    assert 'raise Custom("outer") from error' in live.traceback
    assert "attempts.py" not in live.traceback, "the frames of the framework are left out"


async def test_the_failure_of_a_workflow(world: World, app: App) -> None:
    @app.activity
    async def bad() -> None:
        raise Custom("deep")

    @app.workflow
    async def caller() -> None:
        await bad()

    @app.workflow
    async def parent() -> None:
        await caller()

    @app.workflow
    async def careful() -> str:
        try:
            await parent()
        except ChildError as error:
            return error.failure.display()
        return ""

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed) as caught:
            await node.client.workflow(caller, id="c").run()
        assert str(caught.value).startswith(
            "caller 'c' failed: ActivityError: activity 'bad' failed after 1 attempt"
        )
        assert caught.value.failure.causes == (("Custom", "deep"),)
        assert "deep" in await node.client.workflow(careful, id="p").run()
        description = await node.client.get("c").describe()
        assert description.status == "failed"
        assert description.failure == caught.value.failure


async def test_a_workflow_that_raises_shows_its_line(world: World, app: App) -> None:
    @app.workflow
    async def bad() -> None:
        raise Custom("here")

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed, match="Custom: here") as caught:
            await node.client.workflow(bad, id="b").run()
        failure = caught.value.failure
        assert 'raise Custom("here")' in failure.traceback
        assert failure.category == "application"


async def test_an_application_error_of_a_workflow(world: World, app: App) -> None:
    @app.workflow
    async def bad() -> None:
        raise ApplicationError("out of stock", type="OutOfStock", retryable=False, details=[1, 2])

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed, match="OutOfStock: out of stock") as caught:
            await node.client.workflow(bad, id="b").run()
        assert caught.value.failure.retryable is False
        assert caught.value.retryable is False


@pytest.mark.parametrize(
    "kind", [BaseException, SystemExit, GeneratorExit, StopIteration, StopAsyncIteration]
)
async def test_unusual_exceptions_are_failures_as_well(
    world: World, app: App, kind: type[BaseException]
) -> None:
    @app.activity
    async def bad() -> None:
        raise kind("odd")

    @app.activity
    def bad_on_a_thread() -> None:
        raise kind("odd")

    @app.workflow
    async def calling() -> list[str]:
        seen = []
        for call in (bad, bad_on_a_thread):
            try:
                await call()
            except ActivityError as error:
                seen.append(f"{error.failure.type}: {error.failure.message}")
        return seen

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        plain = f"{kind.__name__}: odd"
        expected = [plain, plain]
        if (
            kind is StopIteration
        ):  # a coroutine turns it into a RuntimeError, and no future may have it
            expected = [
                f"RuntimeError: {what} raised StopIteration"
                for what in ("coroutine", "the activity")
            ]
        assert await handle.result(timeout=30) == expected


async def test_compensation_after_a_failure(world: World, app: App) -> None:
    log: list[str] = []

    @app.activity
    async def debit(who: str) -> str:
        log.append(f"debit {who}")
        return who

    @app.activity
    async def ship(fails: bool) -> str:
        if fails:
            raise Custom("no truck")
        return "shipped"

    @app.activity
    async def credit(who: str) -> str:
        log.append(f"credit {who}")
        return who

    @app.workflow
    async def order(fails: bool) -> str:
        who = await debit("ann")
        try:
            return await ship(fails)
        except ActivityError:
            await credit(who)
            return "rolled back"

    async with world.node(app) as node:
        assert await node.client.workflow(order, id="a").run(False) == "shipped"
        assert await node.client.workflow(order, id="b").run(True) == "rolled back"
    assert log == ["debit ann", "debit ann", "credit ann"]
