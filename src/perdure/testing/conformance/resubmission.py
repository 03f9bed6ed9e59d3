"""Guarantee 2: resubmitting the identical Commit is idempotent, also with the first in flight."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.kernel.data.commit import KvEntry
from perdure.testing.conformance.scenario import NOW, Scenario, StoreFactory, chunk, numbered, scene


class Resubmission:
    """Guarantee 2."""

    async def test_a_commit_that_is_already_there_is_applied_and_changes_nothing(
        self, store_factory: StoreFactory
    ) -> None:
        # A caller whose connection broke in COMMIT does not know the outcome. It submits the
        # identical commit again, and never computes the turn anew.
        async with scene(store_factory) as scenario:
            post = [scenario.message("other")]
            commit = await scenario.applied(
                "order", journal=[chunk(1)], kv=[KvEntry("n", b"1")], post=post
            )
            before = await scenario.store.load(["order", "other"])
            assert await scenario.apply(commit) == ["applied"]
            assert await scenario.apply(commit, commit) == ["applied", "applied"]
            assert await scenario.store.load(["order", "other"]) == before

    async def test_a_commit_in_flight_can_be_submitted_again(
        self, store_factory: StoreFactory
    ) -> None:
        # The first may still be on the queue of the writer when its caller gives up and tries
        # again.
        async with scene(store_factory) as scenario:
            units = numbered("order", 20)
            commits = scenario.commits(units, journal=[chunk(1)])
            calls = map(scenario.apply, commits * 3)
            assert await asyncio.gather(*calls) == [["applied"]] * 60
            loaded = await scenario.store.load(units)
            for unit in loaded:
                assert (unit.version, len(unit.journal)) == (1, 1)

    async def test_a_cancelled_caller_finds_out_by_submitting_again(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            commit = scenario.commit("order", journal=[chunk(1)])
            call = asyncio.ensure_future(scenario.store.commit([commit]))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert await scenario.apply(commit) == ["applied"]
            assert (await scenario.load("order")).version == 1

    async def test_a_commit_that_landed_is_applied_although_its_owner_was_fenced_since(
        self, store_factory: StoreFactory
    ) -> None:
        # The commit was accepted while the fence held. `fenced` would tell the owner that its
        # effects did not happen.
        async with scene(store_factory) as scenario:
            commit = await scenario.applied("order")
            await Scenario(scenario.store, "two").claim()
            assert await scenario.apply(commit) == ["applied"]
            assert await scenario.apply(scenario.commit("order", 1)) == ["fenced"]

    async def test_a_commit_that_others_followed_is_stale(
        self, store_factory: StoreFactory
    ) -> None:
        # The row keeps the id of its last commit only. An owner has at most one commit in flight,
        # so this one was settled before.
        async with scene(store_factory) as scenario:
            commit = await scenario.applied("order")
            await scenario.applied("order", 1)
            assert await scenario.apply(commit) == ["stale"]

    async def test_a_deletion_can_be_submitted_again(self, store_factory: StoreFactory) -> None:
        # There is no row left that could keep the id of the commit, so the store remembers
        # deletions apart.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            deletion = await scenario.applied("order", 1, delete=NOW + 1_000)
            assert await scenario.apply(deletion) == ["applied"]
            await scenario.applied("other")
            forgetting = await scenario.applied("other", 1, delete=0)
            assert await scenario.apply(forgetting, deletion) == ["applied", "applied"]
            assert await scenario.rows("order", "other") == [None, None]

    async def test_messages_of_a_commit_that_is_submitted_again_are_not_doubled(
        self, store_factory: StoreFactory
    ) -> None:
        # The message is neither in the inbox nor answered any more. Only the verdict on the whole
        # commit keeps it from coming again.
        async with scene(store_factory) as scenario:
            message = scenario.message("other")
            commit = await scenario.applied("order", post=[message])
            await scenario.applied("other", consume=[message.id])
            assert await scenario.apply(commit) == ["applied"]
            assert await scenario.inbox("other") == []
