"""Limits, sessions, tags and priorities, as several workers keep to them; and stores that fail under workers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from engine import PATIENCE_S, World, until

from perdure import App, Node, NodeOptions, activity
from perdure.errors import DefinitionError, StoreUnavailable, UsageError
from perdure.kernel.data.message import ActivityDone, Message
from perdure.ports.store import (
    Posted,
)
from perdure.ports.tasks import Renewal
from perdure.store import open_store
from perdure.store.memory import MemoryStore

OPTIONS: dict[str, Any] = {"rescan_ms": 50, "task_lease_ms": 2_000}


class Site:
    """An app on several workers, which counts what runs at once, and where."""

    def __init__(self, **rules: Any) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.begun: list[float] = []
        self.order: list[int] = []
        self.places: dict[str, set[str]] = {}
        self.rules = rules
        self.held: asyncio.Event | None = None

    def app(self, place: str = "owner") -> App:
        """The app, as it is deployed to a place."""
        app = App("site")
        app.queue("gpu", **self.rules)

        @app.activity(queue="gpu")
        async def work(number: int, label: str, seconds: float) -> str:
            for what in ("all", f"key {label}", f"node {place}"):
                self.now[what] += 1
                self.most[what] = max(self.most[what], self.now[what])
            self.begun.append(time.monotonic())
            self.order.append(number)
            self.places.setdefault(label, set()).add(place)
            if self.held is not None:
                await self.held.wait()
            await asyncio.sleep(seconds)
            for what in ("all", f"key {label}", f"node {place}"):
                self.now[what] -= 1
            return place

        @app.workflow
        async def crowd(calls: list[dict[str, Any]], seconds: float) -> list[str]:
            made = []
            for number, options in enumerate(calls):
                label = str(options.get("key") or options.get("session") or "")
                made.append(work.with_options(**options)(number, label, seconds))
            return list(await asyncio.gather(*made))

        return app

    @asynccontextmanager
    async def running(
        self, world: World, *places: str, **options: Any
    ) -> AsyncIterator[tuple[Node, dict[str, Node]]]:
        """An owner that serves no queue, and workers."""
        workers: dict[str, Node] = {}
        async with AsyncExitStack() as stack:
            owner = world.node(self.app(), serves=(), **OPTIONS)
            await stack.enter_async_context(owner)
            for place in places:
                node = world.node(self.app(place), worker_only=True, **(OPTIONS | options))
                workers[place] = await stack.enter_async_context(node)
            yield owner, workers

    async def run(
        self, owner: Node, calls: Sequence[dict[str, Any]], seconds: float = 0.0
    ) -> list[str]:
        """Make calls with these options, and wait for all of them."""
        handle = owner.client.workflow("crowd", id=f"crowd-{len(self.order)}")
        await handle.start(list(calls), seconds)
        found: list[str] = await handle.result(timeout=PATIENCE_S)
        return found


# ---------------------------------------------------------------- limits


async def test_all_workers_together_keep_to_the_concurrency(world: World) -> None:
    site = Site(concurrency=3)
    async with site.running(world, "one", "two") as (owner, _):
        await site.run(owner, [{}] * 30, 0.01)
        assert site.most["all"] == 3


async def test_a_limit_costs_no_waiting(world: World) -> None:
    # The next task is leased when the store has the result of the one before, and not a second later.
    site = Site(concurrency=1)
    async with site.running(world, "one") as (owner, _):
        assert len(await site.run(owner, [{}] * 40)) == 40


async def test_each_worker_keeps_to_its_own_limit(world: World) -> None:
    site = Site(per_node=2)
    async with site.running(world, "one", "two") as (owner, _):
        await site.run(owner, [{}] * 20, 0.01)
        assert site.most["node one"] == 2
        assert site.most["node two"] == 2


async def test_a_key_runs_once_at_a_time(world: World) -> None:
    site = Site(per_key=1)
    async with site.running(world, "one", "two") as (owner, _):
        await site.run(owner, [{"key": f"k-{n % 3}"} for n in range(24)], 0.01)
        assert [site.most[f"key k-{n}"] for n in range(3)] == [1, 1, 1]
        assert site.most["all"] > 1


async def test_no_period_has_more_starts_than_the_rate(world: World) -> None:
    site = Site(rate=5, period=0.3)
    async with site.running(world, "one", "two") as (owner, _):
        await site.run(owner, [{}] * 14)
        begun = sorted(site.begun)
        # The sixth begins a period behind the first. They are measured a little later than they were leased.
        for first, sixth in zip(begun, begun[5:], strict=False):
            assert sixth - first > 0.2


async def test_urgent_tasks_go_first(world: World) -> None:
    site = Site(concurrency=1)
    site.held = asyncio.Event()
    async with site.running(world, "one") as (owner, _):
        running = asyncio.ensure_future(
            site.run(owner, [{}, {"priority": 9}, {}, {"priority": 0}, {"priority": 1}, {}])
        )
        await until(lambda: len(site.order) == 1, "the first")
        site.held.set()
        await running
        # The first was all that there was room for. It may be any of those that came at once.
        rest = [number for number in (3, 4, 0, 2, 5, 1) if number != site.order[0]]
        assert site.order[1:] == rest


# ---------------------------------------------------------------- sessions and tags


async def test_a_session_stays_on_one_worker(world: World) -> None:
    site = Site()
    async with site.running(world, "one", "two", activities=2) as (owner, _):
        await site.run(owner, [{"session": f"s-{n % 4}"} for n in range(24)], 0.005)
        assert all(len(site.places[f"s-{n}"]) == 1 for n in range(4))


async def test_a_session_goes_on_elsewhere_when_its_worker_stops(world: World) -> None:
    site = Site()
    async with site.running(world, "one") as (owner, workers):
        assert await site.run(owner, [{"session": "s"}]) == ["one"]
        await workers["one"].stop()
        async with world.node(site.app("two"), worker_only=True, **OPTIONS):
            assert await site.run(owner, [{"session": "s"}]) == ["two"]


async def test_an_idle_session_ends(world: World) -> None:
    site = Site()
    async with site.running(world, "one", session_idle_ms=1, task_lease_ms=2_000) as (owner, _):
        assert await site.run(owner, [{"session": "s"}]) == ["one"]
        async with AsyncExitStack() as stack:
            store: Any = world.store
            if isinstance(store, str):
                store = await stack.enter_async_context(open_store(store))

            async def is_free() -> bool:
                return (await store.dump())["sessions"] == []

            await until(is_free, "the end of the session")


async def test_a_tag_needs_a_worker_that_has_it(world: World) -> None:
    site = Site()
    async with site.running(world, "plain") as (owner, _):
        tagged = world.node(
            site.app("tagged"), worker_only=True, tags=("a100",), only_tagged=True, **OPTIONS
        )
        async with tagged:
            assert await site.run(owner, [{"tag": "a100"}, {}]) == ["tagged", "plain"]


# ---------------------------------------------------------------- stores that fail


class Away(MemoryStore):
    """A store that takes no results and renews no leases for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.refused = 0
        self.lands = False

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        if self.is_away and isinstance(batch[0].body, ActivityDone):
            self.refused += 1
            if self.lands:
                await super().post(batch)
                raise StoreUnavailable("no answer", "unknown")
            raise StoreUnavailable("away")
        return await super().post(batch)

    async def renew(self, renewals: Sequence[Renewal], at: int) -> Any:
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().renew(renewals, at)


@pytest.mark.parametrize("lands", [False, True])
async def test_a_result_waits_for_its_store(lands: bool) -> None:
    site = Site()
    async with Away() as store:
        store.lands = lands
        async with site.running(World(store), "one") as (owner, _):
            store.is_away = True
            running = asyncio.ensure_future(site.run(owner, [{}]))
            await until(lambda: store.refused >= 2, "refusals")
            store.is_away = False
            assert await running == ["one"]
            assert len(site.order) == 1


async def test_a_store_that_takes_no_leases_is_asked_again() -> None:
    site = Site()

    class Closed(MemoryStore):
        refuses = 3

        async def lease(self, request: Any) -> Any:
            if self.refuses:
                self.refuses -= 1
                raise StoreUnavailable("away")
            return await super().lease(request)

    async with Closed() as store, site.running(World(store), "one") as (owner, _):
        assert await site.run(owner, [{}]) == ["one"]


async def test_a_result_that_cannot_be_stored_fails_its_attempt() -> None:
    site = Site()

    class Picky(MemoryStore):
        async def post(self, batch: Sequence[Message]) -> list[Posted]:
            for message in batch:
                if isinstance(message.body, ActivityDone) and message.body.result is not None:
                    msg = "too wide"
                    raise UsageError(msg)
            return await super().post(batch)

    async with Picky() as store, site.running(World(store), "one") as (owner, _):
        with pytest.raises(Exception, match="cannot be stored: too wide"):
            await site.run(owner, [{}])


# ---------------------------------------------------------------- declarations and options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"concurrency": 0}, "concurrency of queue 'gpu' must be a whole number of at least 1"),
        ({"per_key": True}, "per_key of queue 'gpu' must be a whole number"),
        ({"rate": 1.5}, "rate of queue 'gpu' must be a whole number"),
        ({"rate": 1, "period": 0}, "period of queue 'gpu' must be at least a millisecond"),
    ],
)
def test_a_limit_that_is_none_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        App("bad").queue("gpu", **options)


def test_a_queue_has_one_declaration() -> None:
    app = App("one")
    app.queue("gpu", concurrency=2)
    app.queue("gpu", concurrency=2)
    with pytest.raises(DefinitionError, match="declares queue 'gpu' already, with other limits"):
        app.queue("gpu", concurrency=3)
    other = App("other")
    other.queue("gpu")
    other.queue("mail")
    with pytest.raises(DefinitionError, match="give queue 'gpu' other limits"):
        app.include(other)
    assert app.queues() == ["gpu"]


def test_the_queues_of_an_app_are_those_that_it_names() -> None:
    app = App("names")

    @app.activity(queue="line")
    async def work() -> None: ...

    app.queue("gpu")
    assert app.queues() == ["gpu", "line"]
    assert app.find_queue("line") is None


@pytest.mark.parametrize("priority", [-1, 10, True, 1.0, "5"])
def test_a_priority_is_a_small_number(priority: Any) -> None:
    app = App("priorities")

    @app.activity
    async def work() -> None: ...

    with pytest.raises(DefinitionError, match="priority of activity 'work' must be 0"):
        work.with_options(priority=priority)


def test_names_in_options() -> None:
    environment = {"PERDURE_SERVES": "gpu, mail", "PERDURE_WORKER_ONLY": "true"}
    options = NodeOptions.load(environment=environment)
    assert (options.serves, options.worker_only) == (("gpu", "mail"), True)
    assert NodeOptions.load(environment={"PERDURE_SERVES": ""}).serves == ()
    assert NodeOptions.load(environment={"PERDURE_ONLY_TAGGED": "0"}).only_tagged is False
    with pytest.raises(UsageError, match="PERDURE_WORKER_ONLY must be true or false"):
        NodeOptions.load(environment={"PERDURE_WORKER_ONLY": "perhaps"})
    with pytest.raises(UsageError, match=r"'a b' cannot be the name of one of NodeOptions\.tags"):
        NodeOptions(tags=("a b",))
    with pytest.raises(UsageError, match=r"NodeOptions\.serves must be a tuple of names"):
        NodeOptions(serves="gpu")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"NodeOptions\.worker_only must be True or False"):
        NodeOptions(worker_only=1)  # type: ignore[arg-type]


def test_names_in_a_file(tmp_path: Any) -> None:
    path = tmp_path / "perdure.toml"
    path.write_text('[node]\nserves = ["gpu"]\ntags = []\nworker_only = true\n')
    options = NodeOptions.load(path, environment={})
    assert (options.serves, options.tags, options.worker_only) == (("gpu",), (), True)
    path.write_text('[node]\nserves = "gpu"\n')
    with pytest.raises(UsageError, match="serves must be a list of names"):
        NodeOptions.load(path, environment={})
    path.write_text("[node]\nworker_only = 1\n")
    with pytest.raises(UsageError, match="worker_only must be true or false"):
        NodeOptions.load(path, environment={})


async def test_an_activity_knows_its_queue_and_session(world: World) -> None:
    app = App("info")
    app.queue("gpu")
    seen: list[Any] = []

    @app.activity(queue="gpu")
    async def work() -> None:
        info = activity.info()
        seen.append((info.queue, info.session, info.workflow, info.attempt, info.instance))

    @app.workflow
    async def job() -> None:
        await work.with_options(session="s")()

    async with world.node(app) as node:
        await node.client.workflow(job, id="one").run()
    assert seen == [("gpu", "s", "job", 1, "one")]
