"""Guarantee 3: after `claim` returns, commits of older epochs are decided for ever.

`load` sees all that landed.
"""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.kernel.data.commit import Fence, Verdict
from perdure.kernel.data.placement import scopes_of
from perdure.ports.store import Claim, Incarnation, Scopes, ScopeView
from perdure.testing.conformance.scenario import (
    Scenario,
    StoreFactory,
    begin,
    chunk,
    numbered,
    scene,
)


class Claims:
    """Guarantee 3."""

    async def test_the_first_claim_ever_is_clean(self, store_factory: StoreFactory) -> None:
        # No owner has crashed here, so no unit is suspected.
        async with scene(store_factory) as scenario:
            assert scenario.claims == {"default/0": Claim(1, clean=True)}

    async def test_each_claim_raises_the_epoch(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            other = Scenario(scenario.store, "two")
            assert await other.claim() == {"default/0": Claim(2, clean=False)}
            assert await scenario.claim() == {"default/0": Claim(3, clean=False)}

    async def test_a_release_makes_the_next_claim_clean(self, store_factory: StoreFactory) -> None:
        # After an unclean claim the units that were at work are suspects. An owner that ends in
        # order must be able to say so.
        async with scene(store_factory) as scenario:
            assert await scenario.store.release(scenario.fences()) == ["default/0"]
            assert await scenario.claim() == {"default/0": Claim(2, clean=True)}
            assert await scenario.claim() == {"default/0": Claim(3, clean=False)}

    async def test_after_a_release_commits_are_fenced(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            await scenario.store.release(scenario.fences())
            assert await scenario.apply(scenario.commit("order", 1)) == ["fenced"]

    async def test_a_late_release_does_not_take_the_scope_from_the_winner(
        self, store_factory: StoreFactory
    ) -> None:
        # An owner that stops slowly may release after another one has taken over.
        async with scene(store_factory, shards=2) as scenario:
            other = Scenario(scenario.store, "two")
            await other.claim("default/1")
            assert await scenario.store.release(scenario.fences()) == ["default/0"]
            unit = scenario.unit_in("default/1")
            assert await other.apply(other.commit(unit)) == ["applied"]
            assert await scenario.store.release(scenario.fences()) == []
            assert (await scenario.claim("default/0", "default/1")) == {
                "default/0": Claim(2, clean=True),
                "default/1": Claim(3, clean=False),
            }

    async def test_the_owners_of_scopes_are_listed(self, store_factory: StoreFactory) -> None:
        # A node that is to own a scope waits until its owner has released it.
        async with scene(store_factory, shards=4) as scenario:
            other = Scenario(scenario.store, "two")
            await other.claim("default/1", "default/3")
            assert await scenario.store.release(scenario.fences()) == ["default/0", "default/2"]
            views = [
                ScopeView("default/0", 1, None),
                ScopeView("default/1", 2, other.owner),
                ScopeView("default/2", 1, None),
                ScopeView("default/3", 2, other.owner),
            ]
            for limit in (1, 3, 100):
                assert await scenario.all(Scopes(limit=limit)) == views
                asked = Scopes(scopes=("default/3", "default/0", "default/9"), limit=limit)
                assert await scenario.all(asked) == [views[0], views[3]]
                assert await scenario.all(Scopes(prefix="default/", limit=limit)) == views
                assert await scenario.all(Scopes(prefix="pin/", limit=limit)) == []
                asked = Scopes(scopes=("default/3", "default/0"), prefix="default/3", limit=limit)
                assert await scenario.all(asked) == [views[3]]

    async def test_a_release_names_the_incarnation_and_the_epoch(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.claim()
            wrong = [
                Fence("default/0", 1, "one-1"),
                Fence("default/0", 2, "two-1"),
                Fence("pin/x", 0, "one-1"),
            ]
            assert await scenario.store.release(wrong) == []
            await scenario.applied("order")
            assert await scenario.store.release([*wrong, *scenario.fences()]) == ["default/0"]

    async def test_an_older_epoch_is_fenced(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            other = Scenario(scenario.store, "two")
            await other.claim()
            assert await scenario.apply(scenario.commit("order", 1)) == ["fenced"]
            assert await other.apply(other.commit("order", 1)) == ["applied"]

    async def test_another_incarnation_of_the_same_epoch_is_fenced(
        self, store_factory: StoreFactory
    ) -> None:
        # A process that was copied or restarted with its old state has the right epoch, and is not
        # the owner.
        async with scene(store_factory) as scenario:
            twin = Scenario(scenario.store, "twin")
            twin.claims = dict(scenario.claims)
            assert await twin.apply(twin.commit("order")) == ["fenced"]

    async def test_an_epoch_that_was_never_claimed_is_fenced(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for fence in (
                Fence("default/0", 99, "one-1"),
                Fence("pin/order", 1, "one-1"),
                Fence("default/0", 0, ""),
            ):
                assert await scenario.apply(scenario.commit("order", fence=fence)) == ["fenced"]

    async def test_scopes_are_claimed_one_by_one(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=4) as scenario:
            other = Scenario(scenario.store, "two")
            scopes = scopes_of(4)
            await other.claim(scopes[1])
            batch = [scenario.commit(scenario.unit_in(scope)) for scope in scopes]
            assert await scenario.apply(*batch) == ["applied", "fenced", "applied", "applied"]

    async def test_many_scopes_are_claimed_at_once(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            scopes = numbered("pin/order", 500)
            claims = await scenario.store.claim(scopes, Incarnation("two", "two-1"))
            assert claims == dict.fromkeys(scopes, Claim(1, clean=True))

    async def test_commits_that_race_with_a_claim_are_decided_when_it_returns(
        self, store_factory: StoreFactory
    ) -> None:
        # The new owner loads at once. A commit of the old one that landed afterwards would be lost
        # on it.
        async with scene(store_factory) as scenario:
            other = Scenario(scenario.store, "two")
            commits = scenario.commits(numbered("order", 30), journal=[chunk(1)])
            calls = begin(map(scenario.apply, commits[:15]))
            claim = asyncio.ensure_future(other.claim())
            calls += begin(map(scenario.apply, commits[15:]))
            await claim
            versions = await scenario.versions(numbered("order", 30))
            verdicts: list[Verdict] = []
            for call, version in zip(calls, versions, strict=True):
                decided = await call
                has_landed = version == 1
                assert has_landed == (decided == ["applied"])
                verdicts += decided
            assert await scenario.apply(*commits) == verdicts
            assert set(verdicts) <= {"applied", "fenced"}
