"""Guarantee 8: failures are `StoreUnavailable` with an outcome, refusals are verdicts."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from collections.abc import Awaitable

from perdure.errors import StoreUnavailable, UsageError
from perdure.ports.store import Journal, KvEntries, Query, Units
from perdure.store.limits import DEFAULT_LIMITS
from perdure.testing.conformance.scenario import NOW, Scenario, StoreFactory, chunk, scene


async def _error_of(call: Awaitable[object]) -> Exception | None:
    try:
        await call
    except Exception as error:
        return error
    return None


class Failures:
    """Guarantee 8."""

    async def test_a_closed_store_says_so(self, store_factory: StoreFactory) -> None:
        store = store_factory(1, DEFAULT_LIMITS)
        async with store:
            scenario = Scenario(store)
            await scenario.claim()
            commit, message = scenario.commit("order"), scenario.message("order")
        calls: list[Awaitable[object]] = [
            store.commit([commit]),
            store.post([message]),
            store.load(["order"]),
            store.query(Units()),
            store.wakes(["default/0"], NOW, None, 10),
            store.inbox("order", None, 10),
            store.arrivals(["default/0"], None, 10),
            store.claim(["default/0"], scenario.owner),
            store.release(scenario.fences()),
            store.sweep(scenario.fences(), NOW, 10),
            store.wait_change("order", 0, 10),
        ]
        for call in calls:
            error = await _error_of(call)
            assert isinstance(error, StoreUnavailable), error
            assert error.outcome == "none"
            assert "closed" in str(error)

    async def test_a_place_that_was_not_given_by_a_page_is_a_usage_error(
        self, store_factory: StoreFactory
    ) -> None:
        # A place comes back from users, through URLs and command lines.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", journal=[chunk(1)])
            calls: list[Awaitable[object]] = [
                scenario.store.query(Units(after="nonsense")),
                scenario.store.query(Journal(unit="order", after="nonsense")),
                scenario.store.wakes(["default/0"], NOW, "nonsense", 10),
                scenario.store.inbox("order", "nonsense", 10),
                scenario.store.arrivals(["default/0"], "nonsense", 10),
            ]
            for call in calls:
                assert isinstance(await _error_of(call), UsageError)

    async def test_a_page_of_nothing_is_a_usage_error(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            for limit in (0, -1):
                assert isinstance(
                    await _error_of(scenario.store.query(KvEntries(unit="a", limit=limit))),
                    UsageError,
                )
                reads: list[Awaitable[object]] = [
                    scenario.store.wakes(["default/0"], NOW, None, limit),
                    scenario.store.inbox("order", None, limit),
                    scenario.store.arrivals(["default/0"], None, limit),
                ]
                for read in reads:
                    assert isinstance(await _error_of(read), UsageError)

    async def test_an_unknown_query_is_a_usage_error(self, store_factory: StoreFactory) -> None:
        class Strange(Query[str], frozen=True, kw_only=True):
            pass

        async with scene(store_factory) as scenario:
            error = await _error_of(scenario.store.query(Strange()))
            assert isinstance(error, UsageError)
            assert "Strange" in str(error)

    async def test_unknown_units_are_empty_not_errors(self, store_factory: StoreFactory) -> None:
        # An owner loads ids that have only messages so far.
        async with scene(store_factory) as scenario:
            loaded = await scenario.load("nobody")
            assert (loaded.id, loaded.version, loaded.row) == ("nobody", 0, None)
            assert (loaded.journal, loaded.kv, loaded.inbox, loaded.tasks) == ([], [], [], [])
            assert await scenario.all(Journal(unit="nobody")) == []
            assert await scenario.all(KvEntries(unit="nobody")) == []
