"""Guarantee 5: `applied` means durable. For stores that keep their content when they are closed."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from perdure.kernel.data.commit import ExecutionRow, KvEntry
from perdure.ports.store import Claim, Executions
from perdure.store.limits import DEFAULT_LIMITS
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    answer,
    begin,
    chunk,
    ids,
    numbered,
    task,
)


class Durability:
    """Guarantee 5."""

    async def test_what_was_applied_is_there_after_reopening(
        self, store_factory: StoreFactory
    ) -> None:
        async with store_factory(1, DEFAULT_LIMITS) as store:
            scenario = Scenario(store)
            await scenario.claim()
            known = scenario.message("order")
            await scenario.applied(
                "order",
                row={"execution": 2, "wake_at": NOW + 5},
                journal=[chunk(1, execution=2)],
                ended=[ExecutionRow(1, "1.0.0", NOW, NOW, 3)],
                kv=[KvEntry("key", b"value")],
                answers=[answer(known)],
                tasks_added=[task(scenario, "order")],
            )
            await scenario.accepted(scenario.message("order"))
            before, info = await scenario.load("order"), store.info
        async with store_factory(1, DEFAULT_LIMITS) as store:
            again = Scenario(store)
            assert store.info == info
            assert await again.load("order") == before
            assert (await again.post(known))[0].answer == "started"
            assert len(await again.all(Executions(unit="order"))) == 1
            assert await again.due(NOW + 5) == {"order": (0, True)}

    async def test_epochs_go_on_after_reopening(self, store_factory: StoreFactory) -> None:
        # An epoch that began again at 1 would let commits of an earlier life through.
        claims: list[Claim] = []
        for release in (True, False, False):
            async with store_factory(1, DEFAULT_LIMITS) as store:
                scenario = Scenario(store)
                claims += (await scenario.claim()).values()
                if release:
                    await store.release(scenario.fences())
        assert claims == [Claim(1, clean=True), Claim(2, clean=True), Claim(3, clean=False)]

    async def test_places_go_on_after_reopening(self, store_factory: StoreFactory) -> None:
        # A place that is given twice would hide a message from a reader that goes on from it.
        async with store_factory(1, DEFAULT_LIMITS) as store:
            scenario = Scenario(store)
            await scenario.claim()
            await scenario.applied("order")
            message = await scenario.accepted(scenario.message("order"))
            place, arrived = (
                (await scenario.load("order")).place,
                (await store.arrivals(["default/0"], None, 10)).next,
            )
            await scenario.applied("order", 1, consume=[message.id])
        async with store_factory(1, DEFAULT_LIMITS) as store:
            again = Scenario(store, "two")
            assert (await store.inbox("order", place, 10)).messages == []
            late = await again.accepted(again.message("order"))
            assert ids((await store.inbox("order", place, 10)).messages) == [late.id]
            assert (await store.arrivals(["default/0"], arrived, 10)).items == ["order"]

    async def test_an_owner_of_an_earlier_life_is_fenced(self, store_factory: StoreFactory) -> None:
        async with store_factory(1, DEFAULT_LIMITS) as store:
            scenario = Scenario(store)
            await scenario.claim()
            landed = await scenario.applied("order")
            late = scenario.commit("order", 1)
        async with store_factory(1, DEFAULT_LIMITS) as store:
            other = Scenario(store, "two")
            await other.claim()
            assert await store.commit([late]) == ["fenced"]
            assert await store.commit([landed]) == ["applied"]

    async def test_a_store_is_what_it_was_created_as(self, store_factory: StoreFactory) -> None:
        # Another number of shards would look for stored units in other scopes.
        async with store_factory(1, DEFAULT_LIMITS) as store:
            created = store.info
        async with store_factory(1, DEFAULT_LIMITS) as store:
            assert store.info == created
            assert "durable" in created.capabilities

    async def test_what_was_submitted_before_closing_is_written(
        self, store_factory: StoreFactory
    ) -> None:
        # A node submits its last commits and closes the store without waiting for each of them.
        import asyncio

        async with store_factory(1, DEFAULT_LIMITS) as store:
            scenario = Scenario(store)
            await scenario.claim()
            calls = begin(map(scenario.apply, scenario.commits(numbered("order", 20))))
            await asyncio.sleep(0)
        verdicts = await asyncio.gather(*calls)
        assert verdicts == [["applied"]] * 20
        async with store_factory(1, DEFAULT_LIMITS) as store:
            assert [unit.version for unit in await store.load(numbered("order", 20))] == [1] * 20
