"""Each limit is enforced, by an error that names the limit, its value and the option."""

from __future__ import annotations

import asyncio
import logging

import pytest
from engine import World, until, waits_for

from perdure import ActivityError, App, Limits, WorkflowFailed, workflow
from perdure.errors import InboxFull, PayloadTooLarge


async def test_history_events(world: World, app: App, caplog: pytest.LogCaptureFixture) -> None:
    stopped = asyncio.Event()

    @app.activity
    async def step(i: int) -> int:
        return i

    @app.activity
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @app.workflow
    async def endless() -> None:
        slow()  # perdure: ignore[PD303]
        i = 0
        while True:
            i = await step(i + 1)

    async with world.node(app, limits=Limits(history_events=50)) as node:
        handle = node.client.workflow(endless, id="e")
        with pytest.raises(
            WorkflowFailed,
            match=r"LimitExceeded.*limit is 50 \(Limits\.history_events\).*continue_as_new",
        ):
            await handle.run()
        assert (await handle.describe()).history_events <= 53
        await asyncio.wait_for(stopped.wait(), 30)
    assert any(
        "Limits.history_events" in r.message and r.levelno == logging.WARNING
        for r in caplog.records
    )


async def test_history_bytes(world: World, app: App) -> None:
    @app.activity
    async def step(text: str) -> str:
        return text

    @app.workflow
    async def endless() -> None:
        while True:
            await step("x" * 1_000)

    async with world.node(app, limits=Limits(history_bytes=20_000)) as node:
        with pytest.raises(
            WorkflowFailed, match=r"LimitExceeded.*20000 \(Limits\.history_bytes\).*continue_as_new"
        ):
            await node.client.workflow(endless, id="e").run()


async def test_continue_as_new_stays_below_the_limit(world: World, app: App) -> None:
    @app.activity
    async def step(i: int) -> int:
        return i + 1

    @app.workflow
    async def loop(i: int) -> int:
        while i < 100:
            i = await step(i)
            if workflow.info().history_events > 40:
                workflow.continue_as_new(loop, i)
        return i

    async with world.node(app, limits=Limits(history_events=50)) as node:
        assert await node.client.workflow(loop, id="l").run(0) == 100


async def test_payloads_in_every_direction(world: World, app: App) -> None:
    big = "x" * 1_001

    @app.activity
    async def echo(text: str) -> str:
        return text

    @app.activity
    async def grow() -> str:
        return big

    @app.workflow
    async def child(text: str) -> str:
        return text

    @app.workflow
    async def work(text: str) -> list[str]:
        seen: list[str] = []
        for call in (lambda: echo(big), lambda: child(big), grow):
            try:
                await call()
            except (PayloadTooLarge, ActivityError) as error:
                seen.append(str(error))
        try:
            workflow.send("somebody", "channel", big)
        except PayloadTooLarge as error:
            seen.append(str(error))
        return seen

    @app.workflow
    async def big_result() -> str:
        return big

    async with world.node(app, limits=Limits(payload_bytes=1_000)) as node:
        for verb in ("start", "run"):
            with pytest.raises(
                PayloadTooLarge, match=r"input of workflow 'work'.*Limits\.payload_bytes"
            ):
                await getattr(node.client.workflow(work, id="w"), verb)(big)
        messages = await node.client.workflow(work, id="w").run("small")
        assert len(messages) == 4
        for message, what in zip(
            messages, ("'echo'", "'child'", "'grow'", "'channel'"), strict=True
        ):
            assert what in message
            assert "Limits.payload_bytes" in message
        with pytest.raises(
            WorkflowFailed, match=r"PayloadTooLarge.*result of workflow 'big_result'"
        ):
            await node.client.workflow(big_result, id="b").run()

        @app.workflow
        async def waiting() -> str:
            return await workflow.receive("text", str)

        handle = node.client.workflow(waiting, id="r")
        await handle.start()
        with pytest.raises(PayloadTooLarge, match="'text'"):
            await handle.send("text", big)
        with pytest.raises(PayloadTooLarge, match="'news'"):
            await handle.raise_event("news", big)
        await handle.send("text", "small")
        assert await handle.result(timeout=30) == "small"


async def test_a_payload_of_exactly_the_limit_fits(world: World, app: App) -> None:
    @app.workflow
    async def work(data: bytes) -> int:
        return len(data)

    from perdure.codec import encode

    size = 1_000 - (len(encode([b"x" * 500])) - 500)
    async with world.node(app, limits=Limits(payload_bytes=1_000)) as node:
        assert await node.client.workflow(work, id="w").run(b"x" * size) == size
        with pytest.raises(PayloadTooLarge, match="1001 bytes"):
            await node.client.workflow(work, id="v").run(b"x" * (size + 1))


async def test_an_inbox_that_is_full(world: World, app: App) -> None:
    @app.workflow
    async def late() -> int:
        await workflow.receive("go", bool)
        return sum([await workflow.receive("n", int) for _ in range(3)])

    async with world.node(app, limits=Limits(inbox_messages=3)) as node:
        handle = node.client.workflow(late, id="l")
        await handle.start()
        await waits_for(handle, "message go")
        for i in range(3):
            await handle.send("n", i)
        with pytest.raises(InboxFull, match="'l'"):
            await handle.send("n", 3)
        await handle.cancel()
        await until(lambda: _ended(handle), "control messages are no mail")


async def _ended(handle: object) -> bool:
    return (await handle.status()) == "cancelled"  # type: ignore[attr-defined]


@pytest.mark.parametrize("why", ["paused", "delayed", "suspended"])
async def test_an_inbox_is_full_also_while_nobody_reads_it(
    world: World, app: App, why: str
) -> None:
    @app.workflow
    async def late() -> int:
        return sum([await workflow.receive("n", int) for _ in range(3)])

    name = "late" if why != "suspended" else "unknown"
    async with world.node(app, limits=Limits(inbox_messages=3)) as node:
        handle = node.client.workflow(name, id="l", delay=3600 if why == "delayed" else None)
        await handle.start()
        if why == "paused":
            await handle.pause()
        for i in range(3):
            await handle.send("n", i)
        with pytest.raises(InboxFull, match="'l'"):
            await handle.send("n", 3)
        if why == "paused":
            await handle.resume()
            assert await handle.result(timeout=30) == 3
