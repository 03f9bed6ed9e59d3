"""Interceptors around the verbs of a client: order, what they may change, where their errors go."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from engine import World, until

from perdure import AlreadyStarted, App, Client, Interceptor, Node, workflow
from perdure.errors import StillRunning, UsageError
from perdure.interceptor import NextSend, Outgoing, Verb
from perdure.store.memory import MemoryStore


class Recorder(Interceptor):
    """Writes down what passes, before and after."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def send(self, call: Outgoing, next: NextSend) -> object:
        self.seen.append(f"{self.name} {call.verb} {call.id} {call.name}")
        result = await next(call)
        self.seen.append(f"{self.name} done")
        return result


class Changing(Interceptor):
    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    async def send(self, call: Outgoing, next: NextSend) -> object:
        return await next(replace(call, **self.changes))


@pytest.fixture
def echo(app: App) -> Any:
    @app.workflow
    async def echo(text: str, times: int = 1) -> str:
        return text * times

    return echo


async def test_the_first_is_the_outermost(world: World, app: App, echo: Any) -> None:
    seen: list[str] = []
    both = [Recorder("a", seen), Recorder("b", seen)]
    async with Node(app, world.store, interceptors=both) as node:
        assert await node.client.workflow(echo, id="x").run("hi") == "hi"
    assert seen == ["a run x echo", "b run x echo", "b done", "a done"]


async def test_every_verb_that_asks_something_is_seen(world: World, app: App) -> None:
    channel = workflow.Channel[int]("numbers")

    @app.workflow
    async def waits() -> int:
        return await channel.receive()

    seen: list[str] = []
    async with Node(app, world.store, interceptors=[Recorder("a", seen)]) as node:
        handle = node.client.workflow(waits, id="x")
        await handle.start()
        await handle.pause("a while")
        await handle.resume()
        await handle.raise_event("bell")
        await handle.retry()
        await handle.send(channel, 7)
        assert await handle.result(timeout=30) == 7
        await node.client.get("x").cancel("late")
        await node.client.get("x").terminate("later")
        assert await handle.status() == "completed"
        await handle.prune(keep_last=1)
        await handle.delete()
        runs = asyncio.create_task(node.client.workflow(waits, id="y").run())
        await until(lambda: is_there(node.client, "y"), "the second instance")
        await node.client.prune(["y"], keep_last=1)
        await node.client.get("y").send(channel, 1)
        await runs
        await node.client.delete(["y"])
    assert [line for line in seen if line != "a done"] == [
        "a start x waits",
        "a pause x None",
        "a resume x None",
        "a raise_event x bell",
        "a retry x None",
        "a send x numbers",
        "a cancel x None",
        "a terminate x None",
        "a prune x None",
        "a delete x None",
        "a run y waits",
        "a send y numbers",
        "a delete y None",
    ]
    assert {line.split()[1] for line in seen if line != "a done"} == set(get_args(Verb))


async def is_there(client: Client, id: str) -> bool:
    return bool(await client.list(id_prefix=id))


async def test_a_bulk_call_is_seen_for_each_instance(world: World, app: App) -> None:
    @app.workflow
    async def count(n: int) -> None:
        if n:
            workflow.continue_as_new(count, n - 1)

    class Sparing(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            if call.id == "b" and call.verb == "delete":
                raise StillRunning("b is spared")
            return await next(call)

    seen: list[str] = []
    async with Node(app, world.store, interceptors=[Recorder("a", seen), Sparing()]) as node:
        for name in "ab":
            await node.client.workflow(count, id=name).run(2)
        seen.clear()
        pruned = await node.client.prune(type="count", keep_last=1)
        assert sorted(pruned.executions) == ["a", "b"]
        removed = await node.client.delete(type="count")
        assert (removed.deleted, removed.skipped) == (["a"], {"b": "b is spared"})
        assert await node.client.get("b").status() == "completed"
    asked = sorted(line for line in seen if line != "a done")
    assert asked == ["a delete a None", "a delete b None", "a prune a None", "a prune b None"]


async def test_arguments_are_replaced_before_they_are_encoded(
    world: World, app: App, echo: Any
) -> None:
    changing = Changing(args=("lo",), kwargs={"times": 2})
    async with Node(app, world.store, interceptors=[changing]) as node:
        assert await node.client.workflow(echo, id="x").run("hi") == "lolo"


async def test_a_result_is_replaced(world: World, app: App, echo: Any) -> None:
    class Shouting(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            return str(await next(call)).upper()

    async with Node(app, world.store, interceptors=[Shouting()]) as node:
        assert await node.client.workflow(echo, id="x").run("hi") == "HI"
        assert await node.client.get("x").result() == "hi", (
            "reading is not intercepted, and nothing stored is changed"
        )


async def test_headers_reach_those_further_in(world: World, app: App, echo: Any) -> None:
    class Tagging(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            call.headers["tenant"] = "acme"
            return await next(call)

    class Reading(Interceptor):
        headers: dict[str, str] | None = None

        async def send(self, call: Outgoing, next: NextSend) -> object:
            self.headers = call.headers
            return await next(call)

    reading = Reading()
    async with Node(app, world.store, interceptors=[Tagging(), reading]) as node:
        await node.client.workflow(echo, id="x").start("hi")
        assert reading.headers == {"tenant": "acme"}


async def test_an_error_reaches_the_caller_and_nothing_is_sent(
    world: World, app: App, echo: Any
) -> None:
    class Refusing(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            raise PermissionError(call.id)

    async with Node(app, world.store, interceptors=[Refusing()]) as node:
        with pytest.raises(PermissionError, match="x"):
            await node.client.workflow(echo, id="x").start("hi")
        assert await node.client.list() == []


async def test_interceptors_see_the_errors_of_the_verb(world: World, app: App, echo: Any) -> None:
    caught: list[BaseException] = []

    class Catching(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            try:
                return await next(call)
            except Exception as error:
                caught.append(error)
                raise

    async with Node(app, world.store, interceptors=[Catching()]) as node:
        await node.client.workflow(echo, id="x").start("hi")
        with pytest.raises(AlreadyStarted) as raised:
            await node.client.workflow(echo, id="x", if_exists="reject").start("hi")
        assert caught == [raised.value]


@pytest.mark.parametrize("change", [{"id": "y"}, {"verb": "run"}, {"name": "other"}], ids=str)
async def test_what_is_asked_of_whom_cannot_be_changed(
    world: World, app: App, echo: Any, change: dict[str, Any]
) -> None:
    async with Node(app, world.store, interceptors=[Changing(**change)]) as node:
        with pytest.raises(UsageError, match="'x'; it may change args, kwargs and headers only"):
            await node.client.workflow(echo, id="x").start("hi")
        assert await node.client.list() == []


async def test_a_client_of_a_store_has_its_own(tmp_path: Path, app: App, echo: Any) -> None:
    seen: list[str] = []
    url = f"sqlite:///{tmp_path}/x.db"
    async with app.node(url) as node:
        async with Client.open(url, interceptors=[Recorder("a", seen)]) as client:
            await client.workflow(echo, id="x").start("hi")
        assert await node.client.get("x").result(timeout=30) == "hi"
    assert seen == ["a start x echo", "a done"]


async def test_what_is_no_interceptor_is_refused(app: App) -> None:
    async with MemoryStore() as store:
        wrong: Any = [Recorder]
        with pytest.raises(UsageError, match="is no interceptor; give an object, not its class"):
            app.node(store, interceptors=wrong)
        wrong = [print]
        with pytest.raises(
            UsageError, match="is no interceptor; derive its class from Interceptor"
        ):
            Client.open(store, interceptors=wrong)
