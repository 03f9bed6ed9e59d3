"""What needs a node: the numbers by which a cluster is scaled, and those of each scope."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.kernel.data.message import AnyBody, Cancel, Raise, Retry, Send, Start
from perdure.ports.backlog import Backlog, Backlogs, Shards
from perdure.ports.store import Incarnation
from perdure.testing.conformance.scenario import NOW, Scenario, StoreFactory, scene

NOTHING = Backlog(0, 0, 0, 0)


async def _backlog(
    scenario: Scenario, at: int = NOW, living: tuple[str, ...] | None = None
) -> Backlog:
    page = await scenario.store.query(Backlogs(at=at, living=living))
    assert page.next is None
    (found,) = page.items
    return found


class BacklogsOfStores:
    """Backlogs and shards."""

    async def test_an_empty_store_needs_no_node(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            assert await _backlog(scenario) == NOTHING

    async def test_timers_count_when_their_time_has_come(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=3) as scenario:
            for number in range(6):
                row: Mapping[str, Any] = {"wake_at": NOW + 10 * number, "reason": "timer"}
                await scenario.applied(f"order-{number}", row=row)
            await scenario.applied("waits", row={"reason": "message news"})
            await scenario.applied("ended", row={"status": "completed", "wake_at": None})
            held = {"status": "suspended", "reason": "paused", "wake_at": NOW}
            await scenario.applied("held", row=held)
            assert await _backlog(scenario, NOW - 1) == NOTHING
            assert await _backlog(scenario, NOW) == Backlog(1, 0, 0, 0, NOW)
            assert await _backlog(scenario, NOW + 29) == Backlog(3, 0, 0, 0, NOW)
            assert await _backlog(scenario, NOW + 500) == Backlog(6, 0, 0, 0, NOW)

    async def test_work_under_way_is_busy_or_orphaned(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=2) as scenario:
            ours, theirs = (f"default/{number}" for number in range(2))
            for scope, count in ((ours, 2), (theirs, 3)):
                units = [f"order-{number}" for number in range(200)]
                wanted = [unit for unit in units if scenario.scope(unit) == scope]
                for unit in wanted[:count]:
                    await scenario.applied(unit, row={"wake_at": 0, "reason": "activity charge"})
            other = Incarnation("other", "other-1")
            await scenario.store.claim([theirs], other)
            living = (scenario.owner.id, other.id)
            assert await _backlog(scenario) == Backlog(0, 0, 0, 5)
            assert await _backlog(scenario, living=living) == Backlog(0, 0, 0, 5)
            assert await _backlog(scenario, living=living[:1]) == Backlog(0, 0, 3, 2)
            assert await _backlog(scenario, living=()) == Backlog(0, 0, 5, 0)
            # Given up in order, and not claimed yet.
            await scenario.store.release([scenario.fence(ours)])
            assert await _backlog(scenario, living=living) == Backlog(0, 0, 2, 3)
            assert await _backlog(scenario) == Backlog(0, 0, 2, 3)

    async def test_a_start_counts_when_its_time_has_come(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.post(scenario.start("now"), scenario.start("now"))
            later = scenario.start("later", visible_at=NOW + 10)
            await scenario.post(later)
            assert await _backlog(scenario, NOW) == Backlog(0, 1, 0, 0, NOW)
            assert (await _backlog(scenario, NOW + 10)).with_messages == 2
            # It has its row, and waits in its inbox until its time has come.
            row = {"status": "pending", "reason": "delayed", "wake_at": NOW + 10}
            await scenario.applied("later", row=row)
            assert (await _backlog(scenario, NOW)).with_messages == 1
            assert await _backlog(scenario, NOW + 10) == Backlog(1, 1, 0, 0, NOW)

    async def test_a_message_counts_if_its_instance_waits_for_it(
        self, store_factory: StoreFactory
    ) -> None:
        send, again = (
            Send("approved", b"yes"),
            Start("checkout", None, b"input", if_exists="replace"),
        )
        cases: list[tuple[str, str | None, int | None, AnyBody, int]] = [
            ("running", "message approved", None, send, 1),
            ("running", "message approved", NOW + 60_000, send, 1),
            ("running", "message other", None, send, 0),
            ("running", "timer approved", NOW + 60_000, send, 0),
            ("suspended", "paused", None, send, 0),
            ("pending", "delayed", NOW + 60_000, send, 0),
            ("running", "message other", None, Raise("approved", b"yes"), 1),
            ("running", "activity charge", None, Cancel(), 1),
            ("suspended", "poison", None, Cancel(), 0),
            ("suspended", "poison", None, Retry(), 1),
            ("completed", None, None, again, 1),
        ]
        async with scene(store_factory) as scenario:
            for number, (status, reason, wake_at, body, counted) in enumerate(cases):
                row = {"status": status, "reason": reason, "wake_at": wake_at}
                unit = f"order-{number}"
                await scenario.applied(unit, row=row)
                before = (await _backlog(scenario)).with_messages
                for _ in range(2):  # each instance counts once
                    await scenario.post(scenario.message(unit, body))
                assert (await _backlog(scenario)).with_messages - before == counted, cases[number]

    async def test_a_message_to_nobody_does_not_count(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", post=[scenario.message("nobody")])
            assert await _backlog(scenario) == Backlog(0, 0, 0, 0)

    async def test_an_instance_that_is_busy_or_due_counts_once(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for unit, wake_at in (("busy", 0), ("due", NOW - 5)):
                await scenario.applied(unit, row={"wake_at": wake_at, "reason": "message news"})
                await scenario.accepted(scenario.message(unit))
            assert await _backlog(scenario) == Backlog(1, 0, 0, 1, NOW - 5)

    async def test_the_oldest_is_the_one_that_waits_longest(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("due", row={"wake_at": NOW - 5, "reason": "timer"})
            await scenario.accepted(scenario.start("new", at=NOW - 7))
            assert (await _backlog(scenario)).oldest_at == NOW - 7
            await scenario.applied("earlier", row={"wake_at": NOW - 9, "reason": "timer"})
            assert (await _backlog(scenario)).oldest_at == NOW - 9

    async def test_a_unit_that_waits_for_a_name_like_no_pattern(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for number, name in enumerate(("käse %_*?[", "a b", "'")):
                unit = f"order-{number}"
                await scenario.applied(unit, row={"reason": f"message {name}"})
                await scenario.accepted(scenario.message(unit, Send(name, b"")))
            assert (await _backlog(scenario)).with_messages == 3

    async def test_shards_have_their_owners_and_numbers(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=3) as scenario:
            scopes = [f"default/{number}" for number in range(3)]
            states: list[Mapping[str, Any]] = [
                {"wake_at": 0},
                {"wake_at": NOW},
                {"wake_at": NOW + 1},
                {"wake_at": None},
                {"status": "suspended", "wake_at": 0},
                {"status": "completed"},
            ]
            units = [f"order-{number}" for number in range(300)]
            for scope in scopes[:2]:
                there = [unit for unit in units if scenario.scope(unit) == scope]
                for unit, state in zip(there, states, strict=False):
                    await scenario.applied(unit, row=state)
            other = Incarnation("other", "other-1")
            await scenario.store.claim(scopes[1:2], other)
            await scenario.store.release([scenario.fence(scopes[2])])
            for limit in (1, 2, 100):
                found = await scenario.all(Shards(at=NOW, limit=limit))
                assert [view.scope for view in found] == scopes
                assert [view.epoch for view in found] == [1, 2, 1]
                assert [view.owner for view in found] == [scenario.owner, other, None]
                numbers = [(view.open, view.busy, view.due) for view in found]
                assert numbers == [(5, 1, 1), (5, 1, 1), (0, 0, 0)]
