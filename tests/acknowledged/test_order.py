"""Messages of one sender are received in the order in which it sent them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, Client, Limits, workflow
from perdure.client.gateway import StoreGateway
from perdure.codec import encode
from perdure.errors import WorkflowFailed
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.message import Message, Send
from perdure.ports.store import Loaded, Page, Wake
from perdure.store.memory import MemoryStore

numbers = workflow.Channel[int]("numbers")


@pytest.mark.parametrize("per_execution", [1, 3])
async def test_over_continue_as_new(world: World, app: App, per_execution: int) -> None:
    """The message that comes in the turn of an execution's end is behind all that wait."""

    @app.activity
    async def pause(number: int) -> int:
        return number

    @app.workflow
    async def reader(seen: list[int], until_: int) -> list[int]:
        for _ in range(per_execution):
            seen = [*seen, await pause(await numbers.receive())]
            if len(seen) == until_:
                return seen
        workflow.continue_as_new(reader, seen, until_)

    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start([], 40)
        for number in range(40):
            await handle.send(numbers, number)
        assert await handle.result(timeout=30) == list(range(40))


@pytest.mark.parametrize("turn_messages", [1, 7, 1_000])
async def test_of_a_client_of_another_process(tmp_path: Path, app: App, turn_messages: int) -> None:
    """InboxPart that is read while mail of an earlier reading waits is behind it."""

    @app.workflow
    async def reader(count: int) -> list[int]:
        return [await numbers.receive() for _ in range(count)]

    world = World(f"sqlite:///{tmp_path}/x.db")
    async with world.node(app, limits=Limits(turn_messages=turn_messages)) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start(300)
        async with Client.open(f"sqlite:///{tmp_path}/x.db") as outside:
            for number in range(300):
                await outside.get("r").send(numbers, number)
        assert await handle.result(timeout=20) == list(range(300))


class Slow(MemoryStore):
    """A store whose commits are held up until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts = await super().commit(batch)
        await self.gate.wait()
        return verdicts


async def test_between_workflows_while_commits_are_answered_late(app: App) -> None:
    """The target reads its inbox for another sender's mail while the sender's commit is on its way."""

    @app.workflow
    async def reader(count: int) -> list[int]:
        got: list[int] = []
        while len(got) < count:
            number = await numbers.receive()
            if number >= 0:
                got.append(number)
        return got

    @app.workflow
    async def writer(target: str) -> None:
        for number in range(6):
            workflow.send(target, numbers, number)
            await asyncio.sleep(0)
            await workflow.receive("go", bool)

    async with Slow() as store, World(store).node(app) as node:
        target = node.client.workflow(reader, id="target")
        source = node.client.workflow(writer, id="source")
        await target.start(6)
        await source.start("target")
        outside = Client(StoreGateway(store))
        for _ in range(5):
            store.gate.clear()
            step = asyncio.ensure_future(source.send("go", True))
            await outside.get("target").send(numbers, -1)
            store.gate.set()
            await step
        assert await target.result(timeout=30) == list(range(6))


class Late(MemoryStore):
    """A store that reads at once, and gives what it read when the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = asyncio.Event()

    async def load(self, units: Sequence[str]) -> list[Loaded]:
        found = await super().load(units)
        if "target" in units and not self.gate.is_set():
            self.reading.set()
            await self.gate.wait()
        return found


async def test_between_workflows_while_the_target_is_read(app: App) -> None:
    """What is sent after the target was read, and before the answer is there, is not overtaken."""

    @app.workflow
    async def reader(count: int) -> list[int]:
        return [await numbers.receive() for _ in range(count)]

    @app.workflow
    async def writer(target: str) -> None:
        for number in range(4):
            workflow.send(target, numbers, number)
            await workflow.receive("go", bool)

    @app.workflow
    async def nothing() -> None: ...

    async with Late() as store, World(store).node(app, residents=1) as node:
        target = node.client.workflow(reader, id="target")
        source = node.client.workflow(writer, id="source")
        await target.start(4)
        await node.client.workflow(nothing, id="n").run()
        await until(lambda: node.residents <= 1, "the target has left memory")
        store.gate.clear()
        await source.start("target")  # it sends 0, and the target is read for it
        await asyncio.wait_for(store.reading.wait(), 30)
        await source.send("go", True)  # 1 is not in what was read
        await source.send("go", True)
        store.gate.set()
        await until(lambda: node.residents <= 2, "the target was loaded")
        await source.send("go", True)
        assert await target.result(timeout=30) == [0, 1, 2, 3]


class Scanned(MemoryStore):
    """Does not say what waits before its gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def wakes(
        self, scopes: Sequence[str], until: int, after: str | None, limit: int
    ) -> Page[Wake]:
        await self.gate.wait()
        return await super().wakes(scopes, until, after, limit)


async def test_to_a_target_that_starts_while_the_store_is_scanned(app: App) -> None:
    """The first message is from the life before, when its target was not there."""

    @app.workflow
    async def writer() -> None:
        workflow.send("r", numbers, 1)
        await workflow.receive("go", bool)
        workflow.send("r", numbers, 2)

    @app.workflow
    async def reader() -> list[int]:
        return [await numbers.receive(), await numbers.receive()]

    async with Scanned() as store:
        async with World(store).node(app) as node:
            await node.client.workflow(writer, id="w").start()
            await waits_for(node.client.get("w"), "message go")
        store.gate.clear()
        async with World(store).node(app) as node:
            target = node.client.workflow(reader, id="r")
            await target.start()
            await node.client.get("w").send("go", True)
            await node.client.get("w").wait(timeout=PATIENCE_S)
            store.gate.set()
            assert await target.result(timeout=PATIENCE_S) == [1, 2]


async def test_while_paused_and_evicted(world: World, app: App) -> None:
    @app.workflow
    async def reader(count: int) -> list[int]:
        return [await numbers.receive() for _ in range(count)]

    @app.workflow
    async def nothing() -> None: ...

    async with world.node(app, residents=1, limits=Limits(turn_messages=5)) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start(60)
        for number in range(60):
            if number == 10:
                await handle.pause("hold on")
            if number % 7 == 0:
                await node.client.workflow(nothing, id=f"n{number}").run()
            await handle.send(numbers, number)
        await waits_for(handle, "paused")
        await handle.resume()
        assert await handle.result(timeout=30) == list(range(60))


async def test_a_message_to_an_instance_on_disk_comes_once(world: World, app: App) -> None:
    """It is delivered in memory, and stands in the inbox that is read at the same time."""

    @app.workflow
    async def reader() -> list[int]:
        got = [await numbers.receive()]
        async with asyncio.timeout(None):
            got.append(await numbers.receive())
        return got

    @app.workflow
    async def writer(number: int) -> None:
        workflow.send("r", numbers, number)

    @app.workflow
    async def nothing() -> None: ...

    async with world.node(app, residents=1) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        await node.client.workflow(nothing, id="n").run()
        await until(lambda: node.residents <= 1, "the reader has left memory")
        await node.client.workflow(writer, id="w1").run(1)
        await waits_for(handle, "message numbers")
        await node.client.workflow(writer, id="w2").run(2)
        assert await handle.result(timeout=30) == [1, 2]


async def test_a_request_that_is_in_the_inbox_already_comes_once(world: World, app: App) -> None:
    """It was posted, and comes again through the node before that has seen it."""

    @app.workflow
    async def reader() -> list[int]:
        return [await numbers.receive(), await numbers.receive()]

    @app.workflow
    async def nothing() -> None: ...

    async with world.node(app, residents=1) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        await node.client.workflow(nothing, id="n").run()
        await until(lambda: node.residents <= 1, "the reader has left memory")
        message = Message(b"m" * 16, "r", Send("numbers", encode(1)), 0, scope="default/0")
        await node.store.post([message])
        assert await node.gateway.send(message) == "ok"
        await handle.send(numbers, 2)
        assert await handle.result(timeout=30) == [1, 2]


@pytest.mark.parametrize("leaver", [None, 0, 1])
async def test_a_request_that_comes_again_before_its_answer_comes_once(
    world: World, app: App, leaver: int | None
) -> None:
    """Each of its senders is answered, also when another one waits no longer."""

    @app.workflow
    async def reader() -> list[int]:
        return [await numbers.receive(), await numbers.receive()]

    async with world.node(app) as node:
        handle = node.client.workflow(reader, id="r")
        await handle.start()
        message = Message(b"m" * 16, "r", Send("numbers", encode(1)), 0, scope="default/0")
        senders = [asyncio.ensure_future(node.gateway.send(message)) for _ in range(3)]
        if leaver is not None:
            await asyncio.sleep(0)
            senders.pop(leaver).cancel()
        answers = await asyncio.wait_for(asyncio.gather(*senders), PATIENCE_S)
        assert set(answers) == {"ok"}
        await handle.send(numbers, 2)
        assert await handle.result(timeout=30) == [1, 2]


async def test_on_two_channels_that_the_code_waits_for_at_once(world: World, app: App) -> None:
    @app.workflow
    async def reader(later: bool) -> list[str]:
        if later:
            await workflow.receive("begin", bool)
        seen: list[str] = []

        async def read(channel: str) -> None:
            while len(seen) < 8:
                number = await workflow.receive(channel, int)
                seen.append(f"{channel}{number}")

        await workflow.select(read("a"), read("b"))
        return seen

    async with world.node(app) as node:
        for later in (False, True):
            handle = node.client.workflow(reader, id=f"later {later}")
            await handle.start(later)
            for number in range(4):
                await handle.send("b", number)
                await handle.send("a", number)
            if later:
                await handle.send("begin", True)
            expected = [f"{channel}{number}" for number in range(4) for channel in "ba"]
            assert await handle.result(timeout=30) == expected


async def test_what_a_run_sent_before_it_failed_by_a_limit_arrives(world: World, app: App) -> None:
    """Its history says that the messages were sent."""

    @app.workflow
    async def reader() -> list[int]:
        return [await numbers.receive() for _ in range(8)]

    @app.workflow
    async def writer() -> None:
        for number in range(8):
            workflow.send("r", numbers, number)
        await workflow.receive("go", bool)

    async with world.node(app, limits=Limits(history_events=8)) as node:
        with pytest.raises(WorkflowFailed, match="the history would have"):
            await node.client.workflow(writer, id="w").run()
        sent = [type(entry.event).__name__ for entry in await node.client.get("w").history()]
        assert sent.count("MessageSent") == 8
    async with world.node(app) as node:
        assert await node.client.workflow(reader, id="r").run() == list(range(8))
