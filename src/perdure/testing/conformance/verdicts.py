"""Guarantee 4: a verdict depends only on stored rows and the Commit."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from itertools import product

from perdure.kernel.data.commit import Fence, Stored, verdict
from perdure.testing.conformance.scenario import (
    Scenario,
    StoreFactory,
    chunk,
    numbered,
    scene,
)


class Verdicts:
    """Guarantee 4."""

    async def test_verdicts_are_those_of_the_kernel(self, store_factory: StoreFactory) -> None:
        # The kernel has the rule as a pure function. Replicas of a log must come to the same
        # verdicts from the same rows.
        async with scene(store_factory) as scenario:
            units = numbered("unit", 3)
            stored = {unit: Stored(0, None) for unit in units}
            for unit, versions in zip(units, (0, 1, 2), strict=True):
                for version in range(versions):
                    commit = await scenario.applied(unit, version)
                    stored[unit] = Stored(version + 1, commit.id, "default/0")
            epoch = scenario.claims["default/0"].epoch
            fences = [Fence("default/0", epoch, "one-1"), Fence("default/0", epoch - 1, "one-1")]
            fences.append(Fence("default/0", epoch, "two-1"))
            for unit, expect, fence in product(units, (0, 1, 2, 3), fences):
                commit = scenario.commit(unit, expect, fence=fence)
                expected = verdict(commit, stored[unit], epoch, "one-1")
                assert await scenario.apply(commit) == [expected], (unit, expect, fence)
                if expected == "applied":
                    stored[unit] = Stored(expect + 1, commit.id, "default/0")

    async def test_a_new_unit_must_not_exist(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            assert await scenario.apply(scenario.commit("order", 0)) == ["stale"]

    async def test_an_update_needs_its_unit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            assert await scenario.apply(scenario.commit("order", 1)) == ["stale"]

    async def test_neighbours_do_not_change_a_verdict(self, store_factory: StoreFactory) -> None:
        # The store decides what stands together in a batch, so a verdict may not depend on it.
        async with scene(store_factory) as scenario:
            await scenario.applied("b")
            batch = [
                scenario.commit("a", 1),
                scenario.commit("b", 1),
                scenario.commit("c", 0),
                scenario.commit("d", 2),
            ]
            assert await scenario.apply(*batch) == ["stale", "applied", "applied", "stale"]

    async def test_versions_count_commits(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            for version in range(4):
                await scenario.applied("order", version, journal=[chunk(version + 1)])
                assert (await scenario.load("order")).version == version + 1

    async def test_a_unit_can_be_moved_to_another_scope(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=2) as scenario:
            home = scenario.scope("order")
            other = Scenario(scenario.store, "two")
            await other.claim("pin/order")
            await scenario.applied("order")
            await scenario.applied("order", 1, {"scope": "pin/order"}, fence=scenario.fence(home))
            assert await scenario.apply(scenario.commit("order", 2)) == ["fenced"]
            assert await other.apply(other.commit("order", 2, {"scope": "pin/order"})) == [
                "applied"
            ]

    async def test_an_owner_of_one_scope_writes_no_unit_of_another(
        self, store_factory: StoreFactory
    ) -> None:
        # A fence proves the ownership of its own scope only. A unit is written by the owner of the
        # scope in which it is stored.
        async with scene(store_factory, shards=2) as scenario:
            await scenario.claim("pin/order")
            near = scenario.unit_in("default/0")
            far = scenario.unit_in("default/1")
            await scenario.applied(far)
            wrong = [scenario.fence("default/0"), scenario.fence("pin/order")]
            for fence in wrong:
                for scope in ("default/0", "default/1", "pin/order"):
                    assert await scenario.apply(
                        scenario.commit(far, 1, {"scope": scope}, fence=fence)
                    ) == ["fenced"]
                    assert await scenario.apply(scenario.commit(far, 1, fence=fence, delete=0)) == [
                        "fenced"
                    ]
            assert await scenario.apply(
                scenario.commit(near, fence=scenario.fence("default/1"))
            ) == ["fenced"]
            assert await scenario.apply(
                scenario.commit(near, fence=scenario.fence("pin/order"))
            ) == ["fenced"]
            assert (await scenario.load(far)).version == 1
            assert (await scenario.load(near)).row is None

    async def test_a_unit_moves_by_the_owner_of_the_scope_in_which_it_is(
        self, store_factory: StoreFactory
    ) -> None:
        # The commit that moves a unit is the last act of the old owner. From then on only the new
        # one writes it.
        async with scene(store_factory, shards=2) as scenario:
            await scenario.claim("pin/order")
            home, pin = scenario.fence(scenario.scope("order")), scenario.fence("pin/order")
            await scenario.applied("order", row={"scope": "pin/order"}, fence=home)
            assert await scenario.apply(scenario.commit("order", 1, fence=home)) == ["fenced"]
            await scenario.applied("order", 1, fence=pin)
            assert await scenario.apply(scenario.commit("order", 2, fence=pin)) == ["fenced"]
            await scenario.applied("order", 2, {"scope": "pin/order"}, fence=home)
            deletion = await scenario.applied("order", 3, {"scope": "pin/order"}, delete=0)
            assert await scenario.apply(deletion) == ["applied"]
            assert await scenario.apply(scenario.commit("order", fence=pin)) == ["fenced"], (
                "its id is at home again"
            )
            await scenario.applied("order", fence=home)
