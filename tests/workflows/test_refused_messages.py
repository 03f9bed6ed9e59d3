"""A message that does not fit the type of its wait is a dead letter, and the wait goes on."""

from __future__ import annotations

import asyncio
import logging

import pytest
from engine import World, waits_for
from pydantic import BaseModel, field_validator

from perdure import App, NotFound, NotRunning, workflow


class Small(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _small(cls, n: int) -> int:
        if n > 9:
            raise ValueError("too large")
        return n


approved = workflow.Channel[bool]("approved")
smalls = workflow.Channel[Small]("smalls")


async def test_the_instance_waits_on_and_takes_the_right_message(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.workflow
    async def approval() -> list[bool]:
        return [await approved.receive(), await approved.receive()]

    async with world.node(app) as node:
        handle = node.client.workflow(approval, id="a")
        await handle.start()
        await waits_for(handle, "message approved")
        await handle.send("approved", "yes")
        await handle.send("approved", True)
    # The next life replays it, and knows nothing of the refused message.
    async with world.node(app) as node:
        again = node.client.get("a")
        await again.send("approved", {"yes": 1})
        await again.send("approved", False)
        assert await again.result(timeout=30) == [True, False]
        found = await node.client.dead_letters(unit="a")
        assert [(one.kind, one.sender) for one in found] == [("Send", None)] * 2
        assert all("channel 'approved'" in one.reason for one in found)
        assert (await node.client.counts())["dead_letters"] == 2
        letters = [one.message.hex() for one in found]
    records = [one for one in caplog.records if "refused a message" in one.getMessage()]
    assert {one.levelno for one in records} == {logging.WARNING}
    assert {one.message_id for one in records} == set(letters)  # type: ignore[attr-defined]
    assert {one.instance for one in records} == {"a"}  # type: ignore[attr-defined]


async def test_messages_that_were_kept_are_refused_as_well(world: World, app: App) -> None:
    @app.workflow
    async def late() -> int:
        await approved.receive()
        return (await smalls.receive()).n

    async with world.node(app) as node:
        handle = node.client.workflow(late, id="a")
        await handle.start()
        # The type refuses the second one by code of the program.
        for value in ("x", {"n": 12}, {"n": 7}):
            await handle.send("smalls", value)
    async with world.node(app) as node:
        again = node.client.get("a")
        await again.send(approved, True)
        assert await again.result(timeout=30) == 7
        letters = await node.client.dead_letters()
        assert len(letters) == 2
        assert any("too large" in one.reason for one in letters)


async def test_an_event_that_does_not_fit_was_not_raised(world: World, app: App) -> None:
    @app.workflow
    async def waits() -> int:
        return await workflow.wait_event("go", int)

    async with world.node(app) as node:
        handle = node.client.workflow(waits, id="a")
        await handle.start()
        await waits_for(handle, "event go")
        await handle.raise_event("go", "now")
        await handle.raise_event("go", 5)
        assert await handle.result(timeout=30) == 5
        assert [one.kind for one in await node.client.dead_letters()] == ["Raise"]


async def test_a_workflow_may_send_what_does_not_fit(world: World, app: App) -> None:
    @app.workflow
    async def target() -> bool:
        return await approved.receive()

    @app.workflow
    async def source() -> None:
        workflow.send("t", "approved", "yes")
        workflow.send("t", "approved", True)

    async with world.node(app) as node:
        handle = node.client.workflow(target, id="t")
        await handle.start()
        await node.client.workflow(source, id="s").run()
        assert await handle.result(timeout=30) is True
        assert [one.sender for one in await node.client.dead_letters()] == ["s"]


async def test_code_with_another_type_holds_a_recorded_message_and_does_not_fail(
    world: World,
) -> None:
    def reading(kind: type[object]) -> App:
        app = App("reader")
        numbers = workflow.Channel("numbers", kind)

        @app.workflow(name="reader")
        async def reader() -> str:
            first = await numbers.receive()
            await approved.receive()
            return repr(first)

        return app

    async with world.node(reading(str)) as node:
        handle = node.client.workflow("reader", id="r")
        await handle.start()
        await handle.send("numbers", "one")
        await waits_for(handle, "message approved")
    async with world.node(reading(int)) as node:
        await node.client.get("r").send(approved, True)
        await waits_for(node.client.get("r"), "nondeterminism")
        failure = (await node.client.get("r").describe()).failure
        assert failure is not None
        assert "the code waits for another type" in failure.message
    async with world.node(reading(str)) as node:
        assert await node.client.get("r").result(timeout=30) == "'one'"


class Odd(BaseModel):
    kind: str

    @field_validator("kind")
    @classmethod
    def _fails(cls, kind: str) -> str:
        if kind in FAULTS:
            raise FAULTS[kind]
        return kind


FAULTS: dict[str, BaseException] = {
    "runtime": RuntimeError("away"),
    "exit": SystemExit(3),
    "cancelled": asyncio.CancelledError(),
    "generator": GeneratorExit(),
    "memory": MemoryError(),
    "stop": StopIteration(),
}

odds = workflow.Channel[Odd]("odds")


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_validator_that_raises_anything_refuses_the_message(
    world: World, app: App, kind: str
) -> None:
    # `sys.exit` in a validator would end the program otherwise.
    @app.workflow
    async def picky() -> str:
        return (await odds.receive()).kind

    async with world.node(app) as node:
        handle = node.client.workflow(picky, id="p")
        await handle.start()
        await handle.send("odds", {"kind": kind})
        await handle.send("odds", {"kind": "fine"})
        assert await handle.result(timeout=30) == "fine"
        assert len(await node.client.dead_letters(unit="p")) == 1


async def test_each_execution_refuses_what_does_not_fit(world: World, app: App) -> None:
    numbers = workflow.Channel[int]("numbers")

    @app.workflow
    async def adds(total: int) -> int:
        number = await numbers.receive()
        if not number:
            return total
        return workflow.continue_as_new(adds, total + number)

    async with world.node(app) as node:
        handle = node.client.workflow(adds, id="a")
        await handle.start(0)
        await handle.pause()
        for value in (1, "bad", 2, {"n": 3}, 4, 0):
            await handle.send("numbers", value)
        assert await node.client.dead_letters() == [], "a paused instance refuses nothing"
        await handle.resume()
        assert await handle.result(timeout=30) == 7
        assert len(await node.client.dead_letters(unit="a")) == 2


async def test_the_letters_of_a_run_stay_when_it_is_replaced_or_deleted(
    world: World, app: App
) -> None:
    @app.workflow
    async def waits() -> bool:
        return await approved.receive()

    async with world.node(app) as node:
        client = node.client
        await client.workflow(waits, id="w").start()
        await client.get("w").send("approved", "first")
        replacing = client.workflow(waits, id="w", if_exists="replace")
        await replacing.start()
        await client.get("w").send("approved", "second")
        await client.get("w").send("approved", True)
        assert await replacing.result(timeout=30) is True
        letters = await client.dead_letters(unit="w")
        assert len(letters) == 2
        with pytest.raises(NotRunning):
            await client.resend(letters[0])
        await client.get("w").delete()
        with pytest.raises(NotFound):
            await client.resend(letters[0])
        assert len(await client.dead_letters(unit="w")) == 2, "what was not sent is kept"
        assert await client.drop(*letters) == 2


async def test_a_letter_that_is_sent_twice_is_received_once(world: World, app: App) -> None:
    # Another program with other code has refused it, and this code can take it.
    texts = workflow.Channel[str]("approved")
    takes: list[str] = []

    @app.workflow
    async def strict() -> None:
        await approved.receive()
        while True:
            takes.append(await texts.receive())

    async with world.node(app) as node:
        handle = node.client.workflow(strict, id="s")
        await handle.start()
        await handle.send("approved", "late")
        [letter] = await node.client.dead_letters(unit="s")
        await handle.send("approved", True)
        await asyncio.gather(node.client.resend(letter), node.client.resend(letter))
        await node.client.resend(letter)  # a list that was read before
        await handle.send("approved", "end")
        await waits_for(handle, "message approved")
        assert await node.client.dead_letters() == []
    assert takes == ["late", "end"]
