"""A node that is to own a scope waits until the living node before has released it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from engine import until

from perdure import App, Node, NodeOptions, Workflow
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Fence
from perdure.kernel.data.placement import scopes_of
from perdure.ports.store import Claim, Incarnation, Scopes
from perdure.store.memory import MemoryStore
from perdure.testing.cluster import MemoryCluster

SHARDS = 3
NAMES = scopes_of(SHARDS)


class Claimed(MemoryStore):
    """Notes the claims."""

    def __init__(self) -> None:
        super().__init__(shards=SHARDS)
        self.is_away = False
        self.claims: list[tuple[str, list[str], list[bool]]] = []

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> dict[str, Claim]:
        claims = dict(await super().claim(scopes, owner))
        cleanly = [claim.clean for claim in claims.values()]
        self.claims.append((owner.node, list(claims), cleanly))
        return claims

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        if self.is_away:
            raise StoreUnavailable("away on purpose")
        return await super().release(fences)


class Handover:
    """A node whose turns can be held up, and another one that is to take over."""

    def __init__(self, app: App, store: Claimed, handover_ms: int = 60_000) -> None:
        self.store = store
        self.cluster = MemoryCluster()
        options = NodeOptions(stop_ms=0, handover_ms=handover_ms)
        self.a, self.b = (
            Node(app, store, name=name, options=options, cluster=self.cluster) for name in "ab"
        )

    def assign(self, a: Sequence[str], b: Sequence[str]) -> None:
        living = [self.a.incarnation, self.b.incarnation]
        self.cluster.assign("b", b, living)
        self.cluster.assign("a", a, living)


@pytest.fixture
async def store() -> AsyncIterator[Claimed]:
    async with Claimed() as store:
        yield store


async def owners(store: Claimed) -> list[str | None]:
    page = await store.query(Scopes())
    return [view.owner.node if view.owner else None for view in page.items]


async def test_a_scope_is_claimed_behind_its_release(app: App, store: Claimed) -> None:
    pair = Handover(app, store)
    pair.cluster.assign("a", NAMES)
    async with pair.a, pair.b:
        await until(lambda: len(pair.a.scopes) == SHARDS, "the first owner")
        pair.assign(NAMES[:1], NAMES[1:])
        await until(lambda: len(pair.b.scopes) == 2, "the second owner")
        assert await owners(store) == ["a", "b", "b"]
    assert [clean for _, _, cleanly in store.claims for clean in cleanly] == [True] * 5


async def test_a_scope_without_a_living_owner_is_claimed_at_once(app: App, store: Claimed) -> None:
    await store.claim(NAMES[:2], Incarnation("dead", "dd"))
    pair = Handover(app, store)
    async with pair.a, pair.b:
        await store.claim(NAMES[2:], pair.a.incarnation)  # it lives, and does not know of its scope
        pair.assign([], NAMES)
        await until(lambda: len(pair.b.scopes) == 2, "the scopes of the dead one")
        assert await owners(store) == ["b", "b", "a"]


async def test_the_wait_for_a_release_has_an_end(app: App, store: Claimed) -> None:
    pair = Handover(app, store, handover_ms=100)
    async with pair.a, pair.b:
        await store.claim(NAMES, pair.a.incarnation)
        pair.assign([], NAMES)
        await until(lambda: len(pair.b.scopes) == SHARDS, "all scopes")
        assert store.claims[-1] == ("b", NAMES, [False] * SHARDS)


async def test_another_assignment_ends_the_wait(app: App, store: Claimed) -> None:
    pair = Handover(app, store)
    async with pair.a, pair.b:
        await store.claim(NAMES, pair.a.incarnation)
        pair.assign([], NAMES)
        await until(lambda: pair.b.client is not None, "it runs")
        # The owner has died meanwhile.
        pair.cluster.assign("b", NAMES, [pair.b.incarnation])
        await until(lambda: len(pair.b.scopes) == SHARDS, "all scopes")


async def test_a_scope_whose_release_failed_is_served_when_it_is_wanted_again(
    app: App, store: Claimed
) -> None:
    pair = Handover(app, store)
    pair.assign(NAMES, [])
    async with pair.a:
        await until(lambda: len(pair.a.scopes) == SHARDS, "the first owner")
        store.is_away = True
        pair.assign(NAMES[:1], [])
        await until(lambda: list(pair.a.scopes.values()).count("draining") == 2, "the drain")
        pair.assign(NAMES, [])
        store.is_away = False
        await until(lambda: set(pair.a.scopes.values()) == {"serving"}, "all are served again")


def sleeper(app: App, gate: asyncio.Event) -> Workflow[[], str]:
    @app.activity
    async def slow() -> str:
        await gate.wait()
        return "done"

    @app.workflow
    async def works() -> str:
        return await slow()

    return works


async def test_work_goes_on_at_the_next_owner_without_blame(app: App, store: Claimed) -> None:
    gate = asyncio.Event()
    works = sleeper(app, gate)
    pair = Handover(app, store)
    pair.cluster.assign("a", NAMES)
    async with pair.a, pair.b:
        await until(lambda: len(pair.a.scopes) == SHARDS, "the first owner")
        handles = [pair.a.client.workflow(works, id=f"w{n}") for n in range(20)]
        for handle in handles:
            await handle.start()
        results = [asyncio.ensure_future(handle.result(timeout=30)) for handle in handles]
        pair.assign([], NAMES)
        await until(lambda: pair.b.metrics.running == 20, "the activities")
        gate.set()
        assert await asyncio.gather(*results) == ["done"] * 20
