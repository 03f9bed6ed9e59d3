"""`queue=` and `session=` of a call: recorded, seen by the activity, compared in replay, and limits per queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, RetryPolicy, activity, workflow
from perdure.errors import DefinitionError
from perdure.kernel.data.events import ActivityScheduled


@pytest.fixture
def where(app: App) -> Any:
    """An activity that says where it was called."""

    @app.activity
    async def where(text: str = "") -> list[str | None]:
        info = activity.info()
        return [text, info.queue, info.session]

    return where


async def test_a_session_and_a_queue_are_recorded_in_the_journal(
    world: World, app: App, where: Any
) -> None:
    @app.workflow
    async def calling() -> list[Any]:
        return [
            await where(),
            await where.with_options(session="s")(),
            await where.with_options(queue="gpu")(),
            await where.with_options(queue="gpu", session="s")(),
        ]

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        seen = await handle.run()
        history = await handle.history()
    recorded = [
        ["", e.event.queue, e.event.session]
        for e in history
        if isinstance(e.event, ActivityScheduled)
    ]
    assert (
        seen == recorded == [["", None, None], ["", None, "s"], ["", "gpu", None], ["", "gpu", "s"]]
    )


async def test_sessions_fan_out_and_mix_with_plain_calls(
    world: World, app: App, where: Any
) -> None:
    async def body() -> list[Any]:
        calls = [where.with_options(session=f"s{i % 3}")(str(i)) for i in range(9)]
        return await asyncio.gather(*calls, *(where(str(i)) for i in range(3)))

    expected = [[str(i), None, f"s{i % 3}"] for i in range(9)] + [
        [str(i), None, None] for i in range(3)
    ]
    assert await world.replayed(app, body) == expected


async def test_a_session_and_a_queue_go_on_in_the_next_execution_and_the_next_version(
    world: World, app: App, where: Any
) -> None:
    @app.workflow(name="loop", version=1)
    async def first(seen: list[Any]) -> list[Any]:
        session = str(workflow.uuid4())  # another one in each execution, if the code made it anew
        seen = [*seen, await where.with_options(queue="gpu", session=session)("one")]
        workflow.continue_as_version(2, second, seen, session)

    @app.workflow(name="loop", version=2)
    async def second(seen: list[Any], session: str) -> list[Any]:
        assert session != str(workflow.uuid4())
        return [*seen, await where.with_options(queue="gpu", session=session)("two")]

    async with world.node(app) as node:
        seen = await node.client.workflow("loop", id="l", version=1).run([])
    session = seen[0][2]
    assert session is not None
    assert seen == [["one", "gpu", session], ["two", "gpu", session]]


@pytest.mark.parametrize("fails", [1, 9])
async def test_a_call_in_a_session_is_retried_like_any_other(
    world: World, app: App, fails: int
) -> None:
    @app.activity(retry=RetryPolicy(3, 0))
    async def shaky() -> str | None:
        if activity.info().attempt <= fails:
            raise ConnectionError("again")
        return activity.info().session

    async def body() -> str | None:
        try:
            return await shaky.with_options(session="s")()
        except Exception as error:
            return str(error)

    found = await world.replayed(app, body)
    assert found == "s" if fails == 1 else "after 3 attempts" in str(found)


async def test_a_queue_of_one_runs_its_calls_one_after_the_other(world: World, app: App) -> None:
    """With a limit of one, what shares a queue is serialised; other queues go on meanwhile."""
    running: list[str] = []
    most = 0
    other_ran = asyncio.Event()

    @app.activity(queue="serial")
    async def alone(name: str) -> None:
        nonlocal most
        running.append(name)
        most = max(most, len(running))
        await other_ran.wait()
        running.remove(name)

    @app.activity(queue="other")
    async def other() -> None:
        other_ran.set()

    @app.workflow
    async def calling() -> None:
        await asyncio.gather(*(alone(str(i)) for i in range(5)), other())

    async with world.node(app, queues={"serial": 1}) as node:
        await node.client.workflow(calling, id="c").run()
    assert most == 1


async def test_a_full_queue_blocks_its_own_calls_only_and_then_unblocks(
    world: World, app: App
) -> None:
    gate = asyncio.Event()
    began: list[str] = []

    @app.activity
    async def work(name: str, hold: bool) -> str:
        began.append(name)
        if hold:
            await gate.wait()
        return name

    @app.workflow
    async def calling() -> list[str]:
        busy = [work.with_options(queue="gpu")(f"held {i}", True) for i in range(2)]
        queued = work.with_options(queue="gpu")("queued", False)
        free = await work.with_options(queue="cpu")("free", False)
        workflow.set_status(free)
        return [free, *await asyncio.gather(*busy), await queued]

    async with world.node(app, queues={"gpu": 2}) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await handle.custom_status(str, after_version=0, timeout=PATIENCE_S)
        assert sorted(began) == ["free", "held 0", "held 1"]
        gate.set()
        assert await handle.result(timeout=PATIENCE_S) == ["free", "held 0", "held 1", "queued"]


async def test_a_call_that_gets_no_slot_of_its_queue_can_be_given_a_limit(
    world: World, app: App
) -> None:
    """The remedy against starvation: `start_timeout`, or a race with a timer; the caller goes on."""
    clock = world.stop_time()
    gate = asyncio.Event()

    @app.activity(queue="gpu")
    async def work(hold: bool) -> str:
        if hold:
            await gate.wait()
        return "ran"

    @app.workflow
    async def blocker() -> str:
        return await work(True)

    @app.workflow
    async def patient() -> list[str]:
        seen = []
        try:
            await work.with_options(start_timeout=5)(False)
        except Exception as error:
            seen.append(type(error).__name__)
        index, _ = await workflow.select(work(False), asyncio.sleep(5))
        return [*seen, ["work", "timer"][index]]

    async with world.node(app, queues={"gpu": 1}) as node:
        held = node.client.workflow(blocker, id="b")
        await held.start()
        await waits_for(held, "activity work")
        handle = node.client.workflow(patient, id="p")
        await handle.start()
        for _ in range(2):
            await clock.until_armed(5_000)
            clock.advance(5_000)
        assert await handle.result(timeout=PATIENCE_S) == ["ActivityTimeout", "timer"]
        gate.set()
        assert await held.result(timeout=PATIENCE_S) == "ran"


async def test_a_given_up_call_of_a_queue_is_cancelled(world: World, app: App) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @app.activity(queue="gpu")
    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @app.workflow
    async def calling() -> int:
        index, _ = await workflow.select(work(), workflow.receive("go", bool))
        return index

    async with world.node(app) as node:
        handle = node.client.workflow(calling, id="c")
        await handle.start()
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        await handle.send("go", True)
        assert await handle.result(timeout=PATIENCE_S) == 1
        await until(stopped.is_set, "the activity is told")


@pytest.mark.parametrize("option", ["queue", "session"])
async def test_a_name_that_is_too_long_is_refused_at_the_call(
    world: World, app: App, where: Any, option: str
) -> None:
    async def body() -> list[Any]:
        seen: list[Any] = []
        for length in (200, 201):
            try:
                seen.append(
                    len(
                        (await where.with_options(**{option: "x" * length})())[
                            1 if option == "queue" else 2
                        ]
                    )
                )
            except DefinitionError as error:
                seen.append(str(error)[-60:])
        return seen

    fits, refused = await world.replayed(app, body)
    assert fits == 200
    assert "200" in refused


async def test_workers_of_several_kinds_in_one_workflow(world: World, app: App) -> None:
    """A pipeline over queues, sessions, a join and a loop: each call goes where it was told."""
    seen: list[tuple[str | None, str | None]] = []

    @app.activity
    async def step(n: int) -> int:
        info = activity.info()
        seen.append((info.queue, info.session))
        return n + 1

    @app.workflow
    async def pipeline(n: int) -> int:
        n = await step.with_options(queue="download", session="file-1")(n)
        parts = await asyncio.gather(*(step.with_options(queue="encode")(n) for _ in range(3)))
        for part in parts:
            n = await step.with_options(queue="upload", session="file-1")(part)
        return await step(n)

    async with world.node(app, queues={"download": 1, "encode": 2, "upload": 1}) as node:
        assert await node.client.workflow(pipeline, id="p").run(0) == 4
    assert seen == [
        ("download", "file-1"),
        *[("encode", None)] * 3,
        *[("upload", "file-1")] * 3,
        (None, None),
    ]
