"""A call whose `await` was forgotten is a warning with its line when the workflow ends."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import pytest
from engine import World

from perdure import App, workflow


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "never awaited" in r.getMessage()]


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(f"# {text}"))


async def test_a_child_that_may_outlive_its_parent_is_not_named(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.workflow
    async def kid() -> None: ...

    @app.workflow
    async def parent() -> int:
        workflow.child(kid, id="k", parent_close="abandon")()  # type: ignore[unused-coroutine]
        return 1

    async with world.node(app) as node:
        await node.client.workflow(parent, id="p").run()
    assert not warnings_of(caplog)


@pytest.mark.parametrize("pause", [0, 0.3])
async def test_a_call_that_was_never_awaited_is_named_with_its_line(
    world: World, app: App, caplog: pytest.LogCaptureFixture, pause: float
) -> None:
    @app.activity
    async def charge(cents: int) -> None: ...

    @app.workflow
    async def careless() -> int:
        charge(5)  # type: ignore[unused-coroutine]  # perdure: ignore[PD303]  # the forgotten one
        await asyncio.sleep(pause)
        return 1

    async with world.node(app) as node:
        assert await node.client.workflow(careless, id="c").run() == 1
    (warning,) = warnings_of(caplog)
    assert warning.startswith("activity charge was called and never awaited")
    assert f", at {__file__}:{line_of('the forgotten one')}. " in warning
    record = next(r for r in caplog.records if "never awaited" in r.getMessage())
    assert (record.levelno, record.__dict__["instance"]) == (logging.WARNING, "c")


async def test_a_child_too(world: World, app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.workflow
    async def kid() -> None: ...

    @app.workflow
    async def careless() -> int:
        kid()  # type: ignore[unused-coroutine]  # perdure: ignore[PD303]  # the forgotten child
        return 1

    async with world.node(app) as node:
        await node.client.workflow(careless, id="c").run()
    (warning,) = warnings_of(caplog)
    assert f", at {__file__}:{line_of('the forgotten child')}. " in warning


async def test_one_warning_counts_the_calls_of_an_activity_and_names_each_line(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def charge(cents: int) -> None: ...

    @app.workflow
    async def careless() -> int:
        await charge(1)
        for cents in range(3):
            charge.with_options(  # type: ignore[unused-coroutine]  # perdure: ignore[PD303]  # in a loop
                timeout=5
            )(cents)
        helper()
        kept = charge(4)
        return len([kept])

    def helper() -> None:
        charge(5)  # type: ignore[unused-coroutine]  # perdure: ignore[PD303]  # in a helper

    async with world.node(app) as node:
        await node.client.workflow(careless, id="c").run()
    (warning,) = warnings_of(caplog)
    lines = [f"{__file__}:{line_of(text)}" for text in ("in a loop", "in a helper")]
    assert f"never awaited 5 times, at {' or '.join(lines)}. " in warning


async def test_a_call_that_is_kept_and_never_awaited_is_named_with_its_line(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def charge(cents: int) -> None: ...

    @app.workflow
    async def careless() -> int:
        await charge(1)
        kept = charge(2)  # the kept one
        await asyncio.sleep(0.2)
        return len([kept])

    async with world.node(app) as node:
        await node.client.workflow(careless, id="c").run()
    (warning,) = warnings_of(caplog)
    assert f", at {__file__}:{line_of('the kept one')}. No code has looked" in warning


async def test_calls_that_are_awaited_in_any_form_are_not_named(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def quick(n: int) -> int:
        return n

    @app.activity
    async def slow() -> None:
        await asyncio.sleep(3600)

    @app.workflow
    async def careful() -> int:
        early, late = quick(1), quick(2)
        await asyncio.sleep(0.2)
        total = await late + await early
        total += sum(await asyncio.gather(quick(3), quick(4)))
        answered = [quick(-n) for n in range(3)]
        await asyncio.sleep(0.2)
        total += sum(await asyncio.gather(*answered[:2])) + await asyncio.wait_for(answered[2], 0)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(quick(5))
        await workflow.select(quick(6), slow())
        # These stay open to the end, and the code has waited for each of them for a while.
        both = asyncio.ensure_future(quick(7)), asyncio.ensure_future(slow())
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(slow()), 0.1)
        unwanted = asyncio.ensure_future(slow())
        unwanted.cancel()
        seen = asyncio.ensure_future(quick(8))
        await asyncio.sleep(0.2)
        return total + task.result() + seen.result()

    async with world.node(app) as node:
        assert await node.client.workflow(careful, id="c").run() == 20
    assert not warnings_of(caplog)


async def test_a_call_that_is_closed_and_left_open_is_named(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def slow() -> None:
        await asyncio.sleep(3600)

    @app.workflow
    async def closes() -> None:
        # `close` leaves the work as it is, so the call was given up without a word.
        slow().close()

    async with world.node(app) as node:
        await node.client.workflow(closes, id="c").run()
    assert len(warnings_of(caplog)) == 1


async def test_a_workflow_that_fails_before_it_awaits_is_not_blamed(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def slow() -> None:
        await asyncio.sleep(3600)

    @app.workflow
    async def fails() -> None:
        first = slow()
        if workflow.info().id:
            raise ValueError("oh")
        await first

    async with world.node(app) as node:
        handle = node.client.workflow(fails, id="f")
        await handle.start()
        assert (await handle.wait(timeout=30)).status == "failed"
    assert not warnings_of(caplog)
