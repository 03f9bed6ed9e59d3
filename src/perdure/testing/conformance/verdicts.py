"""Guarantee 4: a verdict depends only on stored rows and the Commit."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from itertools import product

from perdure.kernel.commit import Fence, Stored, verdict
from perdure.testing.conformance.scenario import Scenario, StoreFactory, chunk, scene


class Verdicts:
    """Guarantee 4."""

    async def test_verdicts_are_those_of_the_kernel(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            units = [f"unit-{n}" for n in range(3)]
            stored: dict[str, Stored] = {}
            for unit, versions in zip(units, (0, 1, 2), strict=True):
                for version in range(versions):
                    commit = await scenario.applied(unit, version)
                    stored[unit] = Stored(version + 1, commit.id)
            epoch = scenario.claims["default/0"].epoch
            fences = [Fence("default/0", epoch, "one-1"), Fence("default/0", epoch - 1, "one-1")]
            fences.append(Fence("default/0", epoch, "two-1"))
            for unit, expect, fence in product(units, (0, 1, 2, 3), fences):
                commit = scenario.commit(unit, expect, fence=fence)
                expected = verdict(commit, stored.get(unit), epoch, "one-1")
                assert await scenario.apply(commit) == [expected], (unit, expect, fence)
                if expected == "applied":
                    stored[unit] = Stored(expect + 1, commit.id)

    async def test_a_new_unit_must_not_exist(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            assert await scenario.apply(scenario.commit("order", 0)) == ["stale"]

    async def test_an_update_needs_its_unit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            assert await scenario.apply(scenario.commit("order", 1)) == ["stale"]

    async def test_neighbours_do_not_change_a_verdict(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("b")
            batch = [scenario.commit(unit, expect) for unit, expect in (("a", 1), ("b", 1), ("c", 0), ("d", 2))]
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
            assert await scenario.apply(scenario.commit("order", 1)) == ["stale"]
            assert await other.apply(other.commit("order", 2, {"scope": "pin/order"})) == ["applied"]
