"""Two nodes on one store, each with some of its scopes: who asks need not know who owns what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest
from engine import until

from perdure import App, Node, NodeOptions, workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.ports.store import Page, Query, Units
from perdure.store.memory import MemoryStore
from perdure.testing.cluster import MemoryCluster

T = TypeVar("T")

SHARDS = 4
EVEN, ODD = ("default/0", "default/2"), ("default/1", "default/3")


def id_in(scopes: tuple[str, ...], stem: str) -> str:
    """An id that belongs to one of these scopes."""
    return next(f"{stem}{n}" for n in range(99) if scope_of(f"{stem}{n}", SHARDS) in scopes)


class Pair:
    """Two nodes, `a` and `b`, and who should own what."""

    def __init__(self, app: App, store: MemoryStore) -> None:
        self.store = store
        self.cluster = MemoryCluster()
        options = NodeOptions(stop_ms=0, rescan_ms=60_000)
        self.a, self.b = (
            Node(app, store, name=name, options=options, cluster=self.cluster) for name in "ab"
        )

    async def own(self, a: tuple[str, ...], b: tuple[str, ...]) -> None:
        """Assign, and wait until it is so."""
        self.cluster.assign("a", a)
        self.cluster.assign("b", b)
        for node, scopes in ((self.a, a), (self.b, b)):
            await until(lambda n=node, s=scopes: set(n.scopes) == set(s), "the scopes of a node")


@pytest.fixture
async def pair(app: App, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    for gateway in ("perdure.node.gateway", "perdure.client.gateway"):
        # Whatever ends is told, and is not found by looking again: the tests may be patient.
        monkeypatch.setattr(f"{gateway}._ROUND_MS", 3_600_000)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(MemoryStore(shards=SHARDS))
        pair = Pair(app, store)
        pair.cluster.assign("a", EVEN)
        pair.cluster.assign("b", ODD)
        for node in (pair.a, pair.b):
            await stack.enter_async_context(node)
        await pair.own(EVEN, ODD)
        yield pair


async def test_each_verb_works_at_the_node_that_does_not_own_the_instance(
    pair: Pair, app: App
) -> None:
    @app.workflow
    async def adds() -> int:
        return await workflow.receive("n", int) + await workflow.receive("n", int)

    unit = id_in(ODD, "far")
    here, there = pair.a.client.workflow(adds, id=unit), pair.b.client.get(unit)
    await here.start()
    result = asyncio.ensure_future(here.result(timeout=30))
    await here.send("n", 1)
    await there.send("n", 2)
    assert await result == 3
    assert await here.result(timeout=30) == 3
    await until(lambda: pair.a.residents == pair.b.residents == 0, "nothing in memory")


async def test_a_start_is_run_from_the_other_node(pair: Pair, app: App) -> None:
    @app.workflow
    async def plain(n: int) -> int:
        return n + 1

    assert await pair.a.client.workflow(plain, id=id_in(ODD, "far")).run(1) == 2
    assert await pair.b.client.workflow(plain, id=id_in(EVEN, "far")).run(2) == 3


async def test_instances_of_two_nodes_send_to_each_other(pair: Pair, app: App) -> None:
    @app.workflow
    async def player(other: str, serves: bool) -> list[int]:
        seen: list[int] = []
        if serves:
            workflow.send(other, "ball", 0)
        while len(seen) < 5:
            ball = await workflow.receive("ball", int)
            seen.append(ball)
            workflow.send(other, "ball", ball + 1)
        return seen

    left, right = id_in(EVEN, "left"), id_in(ODD, "right")
    first = pair.a.client.workflow(player, id=left)
    second = pair.b.client.workflow(player, id=right)
    await first.start(right, False)
    await second.start(left, True)
    assert await first.result(timeout=30) == [0, 2, 4, 6, 8]
    assert await second.result(timeout=30) == [1, 3, 5, 7, 9]


async def test_a_scope_that_is_handed_over_goes_on_at_once(pair: Pair, app: App) -> None:
    gate = asyncio.Event()
    began: list[int] = []

    @app.activity
    async def slow() -> int:
        began.append(1)
        await gate.wait()
        return 1

    @app.workflow
    async def works() -> int:
        total = await slow()
        await asyncio.sleep(0.05)
        return total + await workflow.receive("n", int)

    unit = id_in(EVEN, "moves")
    handle = pair.a.client.workflow(works, id=unit)
    await handle.start()
    result = asyncio.ensure_future(handle.result(timeout=10))
    await until(lambda: began, "the activity")
    await pair.own((), EVEN + ODD)
    assert pair.a.residents == 0
    await until(lambda: len(began) == 2, "the activity at the new owner")
    gate.set()
    await handle.send("n", 2)
    assert await result == 3, "who waited at the old owner is told"


async def test_a_message_that_waits_at_a_busy_instance_moves_with_it(pair: Pair, app: App) -> None:
    @app.workflow
    async def counts() -> list[int]:
        return [await workflow.receive("n", int) for _ in range(40)]

    unit = id_in(EVEN, "moves")
    handle = pair.a.client.workflow(counts, id=unit)
    await handle.start()

    async def send_all() -> None:
        for number in range(40):
            await handle.send("n", number)
            await asyncio.sleep(0)

    sending = asyncio.ensure_future(send_all())
    for a, b in [((), EVEN + ODD), (EVEN + ODD, ()), (EVEN, ODD)]:
        await pair.own(a, b)
    await sending
    assert await handle.result(timeout=30) == list(range(40))


async def test_an_owner_that_was_overtaken_drops_the_scope_and_goes_on_with_the_others(
    pair: Pair, app: App
) -> None:
    @app.workflow
    async def waits() -> int:
        return await workflow.receive("n", int)

    lost, kept = id_in(("default/0",), "lost"), id_in(("default/2",), "kept")
    for unit in (lost, kept):
        await pair.a.client.workflow(waits, id=unit).start()
    pair.cluster.assign("b", ("default/0", *ODD))  # while `a` still believes that it owns it
    await until(lambda: "default/0" in pair.b.scopes, "the second owner")
    await pair.a.client.get(lost).send("n", 1)
    assert await pair.a.client.get(lost).result(timeout=30) == 1
    assert set(pair.a.scopes) == {"default/2"}
    await pair.a.client.get(kept).send("n", 2)
    assert await pair.a.client.get(kept).result(timeout=30) == 2


async def test_a_node_that_stops_leaves_its_scopes_to_the_other(pair: Pair, app: App) -> None:
    @app.workflow
    async def waits() -> int:
        return await workflow.receive("n", int)

    unit = id_in(EVEN, "stays")
    await pair.a.client.workflow(waits, id=unit).start()
    await pair.a.stop()
    posted = asyncio.ensure_future(pair.b.client.get(unit).send("n", 7))
    await posted
    pair.cluster.assign("b", scopes_of(SHARDS))
    assert await pair.b.client.get(unit).result(timeout=30) == 7


async def test_deadlines_and_retries_move_with_their_scope(pair: Pair, app: App) -> None:
    @app.workflow
    async def naps() -> str:
        await asyncio.sleep(0.3)
        return "awake"

    unit = id_in(EVEN, "naps")
    handle = pair.a.client.workflow(naps, id=unit)
    await handle.start()
    await pair.own((), EVEN + ODD)
    assert await pair.b.client.get(unit).result(timeout=30) == "awake"


async def test_a_commit_that_may_have_landed_is_not_sent_again(app: App) -> None:
    """The first owner's commit landed without an answer, and the second has written since."""

    @app.workflow
    async def counts() -> list[int]:
        seen: list[int] = []
        while (number := await workflow.receive("n", int)) >= 0:
            seen.append(number)
        return seen

    class Unanswered(MemoryStore):
        """Loses an answer to one owner, and takes no more from it before it is told to."""

        loses: str | None = None
        lost = 0

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            mine = [c for c in batch if c.fence.incarnation == self.loses]
            if mine and self.lost:
                raise StoreUnavailable("away", "none")
            verdicts = await super().commit(batch)
            if mine:
                self.lost += 1
                raise StoreUnavailable("the answer was lost", "unknown")
            return verdicts

    unit = id_in(EVEN, "counts")
    async with Unanswered(shards=SHARDS) as store:
        pair = Pair(app, store)
        pair.cluster.assign("a", EVEN)
        pair.cluster.assign("b", ODD)
        async with pair.a, pair.b:
            await pair.own(EVEN, ODD)
            handle = pair.a.client.workflow(counts, id=unit)
            await handle.start()
            store.loses = pair.a.incarnation.id
            sent = asyncio.ensure_future(handle.send("n", 1))
            await until(lambda: store.lost, "the commit without an answer")
            pair.cluster.assign("b", EVEN + ODD)
            await until(lambda: EVEN[0] in pair.b.scopes, "the second owner")
            await pair.b.client.get(unit).send("n", 2)
            store.loses = None
            with pytest.raises(StoreUnavailable) as caught:
                await sent
            assert caught.value.outcome == "unknown"
            await pair.b.client.get(unit).send("n", -1)
            assert await pair.b.client.get(unit).result(timeout=30) == [1, 2]


async def test_a_node_goes_on_sweeping_when_a_scope_leaves_in_the_middle_of_it(app: App) -> None:
    @app.workflow
    async def ends() -> None:
        pass

    class Told(MemoryStore):
        """Counts the sweeper's looks for what has ended. Looks and commits wait while gates are closed."""

        def __init__(self) -> None:
            super().__init__(shards=1)
            self.looks = 0
            self.looking, self.committing = asyncio.Event(), asyncio.Event()
            self.committing.set()

        async def query(self, query: Query[T]) -> Page[T]:
            page = await super().query(query)
            if isinstance(query, Units) and query.closed_before is not None:
                self.looks += 1
                await self.looking.wait()
            return page

        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            await self.committing.wait()
            return await super().commit(batch)

    async with Told() as store:
        cluster = MemoryCluster()
        cluster.assign("a", scopes_of(1))
        options = NodeOptions(stop_ms=0, retention_ms=1, sweep_ms=20)
        async with Node(app, store, name="a", options=options, cluster=cluster) as node:
            await until(lambda: node.scopes == {scopes_of(1)[0]: "serving"}, "its scope")
            await node.client.workflow(ends, id="old").run()
            await until(lambda: store.looks, "a look for what has ended")
            store.committing.clear()
            held = asyncio.ensure_future(node.client.workflow(ends, id="new").start())
            cluster.assign("a", ())
            await until(lambda: "draining" in node.scopes.values(), "the scope leaves")
            store.looking.set()
            looks = store.looks
            await until(lambda: store.looks > looks, "another look")
            store.committing.set()
            await held
