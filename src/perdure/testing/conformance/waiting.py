"""Waiting for a change, and hints of messages."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.ports.store import Hint
from perdure.testing.conformance.scenario import NOW, Scenario, StoreFactory, begin, scene

LONG_MS = 20_000


class Waiting:
    """`wait_change` and `hints`."""

    async def test_a_version_that_is_past_answers_at_once(
        self, store_factory: StoreFactory
    ) -> None:
        # The caller has read an older row. The change came between its read and this call.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            await scenario.applied("order", 1)
            assert await scenario.store.wait_change("order", 1, LONG_MS) == 2
            assert await scenario.store.wait_change("order", 0, LONG_MS) == 2
            assert await scenario.store.wait_change("nobody", 3, LONG_MS) == 0

    async def test_a_commit_wakes_those_who_wait(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            wait = scenario.store.wait_change
            waits = begin([wait("a", 0, LONG_MS), wait("a", 0, LONG_MS), wait("b", 0, LONG_MS)])
            await scenario.applied("a")
            assert await asyncio.gather(*waits[:2]) == [1, 1]
            assert not waits[2].done()
            await scenario.applied("b")
            assert await waits[2] == 1

    async def test_a_deletion_is_a_change(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            wait = asyncio.ensure_future(scenario.store.wait_change("order", 1, LONG_MS))
            await scenario.applied("order", 1, delete=NOW)
            assert await wait == 0

    async def test_the_time_is_limited(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            assert await scenario.store.wait_change("order", 1, 0) == 1
            assert await scenario.store.wait_change("order", 1, 5) == 1

    async def test_no_change_is_missed_in_a_race(self, store_factory: StoreFactory) -> None:
        # The wait must look at the row after it has begun to listen, or a commit between both is
        # lost on it.
        async with scene(store_factory) as scenario:
            for version in range(30):
                wait = asyncio.ensure_future(scenario.store.wait_change("order", version, LONG_MS))
                commit = asyncio.ensure_future(scenario.applied("order", version))
                assert await wait == version + 1
                await commit

    async def test_a_wait_can_be_cancelled(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            wait = asyncio.ensure_future(scenario.store.wait_change("order", 0, LONG_MS))
            await asyncio.sleep(0)
            wait.cancel()
            await asyncio.wait([wait])
            assert wait.cancelled()
            await scenario.applied("order")

    async def test_a_post_rings_for_its_target(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            hints = scenario.store.hints()
            await scenario.applied("order")
            missing, message = scenario.message("nobody"), scenario.message("order")
            await scenario.post(missing, message)
            assert await anext(hints) == Hint("order", scenario.scope("order"))
            await scenario.accepted(scenario.start("new"))
            assert await anext(hints) == Hint("new", scenario.scope("new"))

    async def test_a_post_rings_although_its_caller_gave_up(
        self, store_factory: StoreFactory
    ) -> None:
        # The message is stored all the same, and its owner has to learn of it.
        async with scene(store_factory) as scenario:
            hints = scenario.store.hints()
            call = asyncio.ensure_future(scenario.post(scenario.start("order")))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert await anext(hints) == Hint("order", scenario.scope("order"))
            assert len(await scenario.inbox("order")) == 1

    async def test_a_commit_rings_for_units_of_other_owners(
        self, store_factory: StoreFactory
    ) -> None:
        # The owner of a target in its own scope delivers from memory. Only other owners need the
        # hint.
        async with scene(store_factory, shards=2) as scenario:
            await scenario.claim("group/own")
            other = Scenario(scenario.store, "two")
            await other.claim("group/foreign")
            await other.applied("known", home="group/foreign", row={"scope": "group/foreign"})
            hints = scenario.store.hints()
            messages = [
                scenario.message("mine", scope="group/own"),
                scenario.message("known", scope="group/foreign"),
                scenario.message("unknown", scope="group/foreign"),
                scenario.message("nobody's", scope="group/unowned"),
            ]
            refused = scenario.commit("stale", 3, post=[scenario.message("x", scope="group/x")])
            await scenario.apply(refused, scenario.commit("sender", post=messages))
            heard = [await anext(hints) for _ in range(3)]
            for hint, message in zip(heard, messages[1:], strict=True):
                assert hint == Hint(message.to, message.scope)

    async def test_hints_end_when_the_store_is_closed(self, store_factory: StoreFactory) -> None:
        # The loop over hints is a task of the node, which would keep it from stopping.
        async with scene(store_factory) as scenario:
            hints = scenario.store.hints()
            end = asyncio.ensure_future(anext(hints, "the end"))
            await asyncio.sleep(0)
        assert await end == "the end"
