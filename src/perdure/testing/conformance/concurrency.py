"""Many callers at once."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.ports.store import Units
from perdure.testing.conformance.scenario import (
    Scenario,
    StoreFactory,
    chunk,
    ids,
    numbered,
    outcomes_of,
    scene,
)


class Concurrency:
    """Many callers at once."""

    async def test_many_units_commit_side_by_side(self, store_factory: StoreFactory) -> None:
        # A node submits each unit's next commit as soon as the last one is decided, so commits of
        # many units overlap all the time.
        async with scene(store_factory) as scenario:

            async def live(unit: str) -> None:
                for version in range(5):
                    await scenario.applied(unit, version, journal=[chunk(version + 1)])

            await asyncio.gather(*map(live, numbered("unit", 40)))
            views = await scenario.all(Units())
            assert len(views) == 40
            assert {view.version for view in views} == {5}

    async def test_of_many_commits_for_one_version_exactly_one_is_applied(
        self, store_factory: StoreFactory
    ) -> None:
        # Two owners that both believe in their claim race like this. The loser must learn it from
        # its verdict.
        async with scene(store_factory) as scenario:
            for version in range(3):
                commits = [scenario.commit("order", version, {"reason": str(n)}) for n in range(20)]
                verdicts = await asyncio.gather(*map(scenario.apply, commits))
                assert verdicts.count(["applied"]) == 1
                winner = commits[verdicts.index(["applied"])]
                [row] = await scenario.rows("order")
                assert row is not None
                assert row.reason == winner.row.reason

    async def test_posts_from_everywhere_are_all_kept(self, store_factory: StoreFactory) -> None:
        # A client that got no answer posts again, perhaps while the first post is still under way.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            messages = scenario.messages("order", 100)
            posts = [scenario.post(message) for message in messages * 2]
            outcomes: list[str] = []
            for posted in await asyncio.gather(*posts):
                outcomes += outcomes_of(posted)
            assert (outcomes.count("accepted"), outcomes.count("duplicate")) == (100, 100)
            assert sorted(await scenario.inbox("order")) == sorted(ids(messages))

    async def test_posts_commits_and_reads_do_not_disturb_each_other(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:

            async def live(unit: str) -> int:
                received = 0
                await scenario.applied(unit)
                for version in range(1, 6):
                    await scenario.accepted(scenario.message(unit))
                    loaded = await scenario.load(unit)
                    assert (loaded.version, len(loaded.inbox)) == (version, 1)
                    received += 1
                    await scenario.applied(unit, version, consume=ids(loaded.inbox))
                return received

            assert await asyncio.gather(*map(live, numbered("unit", 15))) == [5] * 15
            assert (await scenario.counts())["inbox"] == 0

    async def test_a_bad_commit_among_many_callers_fails_alone(
        self, store_factory: StoreFactory
    ) -> None:
        # A store groups commits of several calls into one transaction. The callers know nothing of
        # each other.
        async with scene(store_factory) as scenario:
            await scenario.applied("bad", journal=[chunk(1)])
            commits = scenario.commits(numbered("unit", 30), journal=[chunk(1)])
            commits.insert(17, scenario.commit("bad", 1, journal=[chunk(1)]))
            verdicts = await asyncio.gather(*map(scenario.apply, commits))
            assert verdicts.pop(17) == ["invalid"]
            assert verdicts == [["applied"]] * 30

    async def test_what_was_acknowledged_is_loaded(self, store_factory: StoreFactory) -> None:
        # A store may read on other connections than it writes. A reader must see every commit that
        # was acknowledged before.
        async with scene(store_factory) as scenario:
            for version in range(20):
                await scenario.applied("order", version, journal=[chunk(version + 1)])
                loaded, other = await asyncio.gather(
                    scenario.load("order"), Scenario(scenario.store).load("order")
                )
                assert loaded.version == other.version == len(loaded.journal) == version + 1
