"""Sweeping: expired rows go, and messages without a target become dead letters."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from perdure.kernel.data.commit import Answer
from perdure.kernel.data.message import Send
from perdure.ports.store import Posted, Totals
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    answer,
    ids,
    numbered,
    outcomes_of,
    scene,
)

DAY_MS = 86_400_000


async def _count(scenario: Scenario, what: str) -> int:
    return (await scenario.counts())[what]


async def _total(scenario: Scenario, what: str) -> int:
    return dict((await scenario.store.query(Totals(at=NOW))).items)[what]


class Sweeping:
    """Expiry."""

    async def test_an_expired_answer_is_forgotten(self, store_factory: StoreFactory) -> None:
        # Clients stop repeating a message long before, so a later one with this id is another
        # message.
        async with scene(store_factory) as scenario:
            short, long = scenario.message("order"), scenario.message("order")
            await scenario.applied(
                "order", answers=[answer(short, "a", NOW + 10), answer(long, "b", NOW + 20)]
            )
            assert await scenario.sweep(NOW + 9) == 0
            assert await scenario.sweep(NOW + 10) == 1
            assert await scenario.post(short, long) == [
                Posted("accepted"),
                Posted("duplicate", "b"),
            ]

    async def test_an_expired_tombstone_is_forgotten(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            start = scenario.start("order")
            await scenario.applied("order", row={"run": start.id})
            await scenario.applied("order", 1, {"run": start.id}, delete=NOW + 10)
            assert await scenario.post(start) == [Posted("duplicate")]
            assert await scenario.sweep(NOW + 10) == 1
            assert await scenario.post(start) == [Posted("accepted")]

    async def test_an_undelivered_message_becomes_a_dead_letter_and_goes(
        self, store_factory: StoreFactory
    ) -> None:
        # No row of an inbox stays for ever. A sender's mistake can be seen for some time before it
        # goes.
        async with scene(
            store_factory, undelivered_ms=DAY_MS, dead_letter_ms=2 * DAY_MS
        ) as scenario:
            await scenario.applied(
                "a",
                post=[scenario.message("nobody"), scenario.message("nobody", visible_at=2 * NOW)],
            )
            assert await scenario.sweep(NOW + DAY_MS - 1) == 0
            assert await scenario.sweep(NOW + DAY_MS) == 1
            assert (await _count(scenario, "inbox"), await _count(scenario, "dead_letters")) == (
                1,
                1,
            )
            assert await scenario.sweep(NOW + 3 * DAY_MS) == 2
            assert (await _count(scenario, "inbox"), await _count(scenario, "dead_letters")) == (
                0,
                1,
            )
            assert await scenario.sweep(NOW + 9 * DAY_MS) == 1
            assert await _count(scenario, "dead_letters") == 0

    async def test_starts_and_what_waits_behind_them_are_never_buried(
        self, store_factory: StoreFactory
    ) -> None:
        # A start makes its target by itself, however late it becomes visible.
        async with scene(store_factory) as scenario:
            messages = [
                scenario.start("order", visible_at=NOW + 90 * DAY_MS),
                scenario.message("order", Send("a", b"")),
            ]
            await scenario.post(*messages)
            await scenario.applied("unit")
            await scenario.accepted(scenario.message("unit"))
            assert await scenario.sweep(NOW + 30 * DAY_MS) == 0
            assert await scenario.inbox("order") == ids(messages)

    async def test_a_sweep_is_limited_and_oldest_first(self, store_factory: StoreFactory) -> None:
        # A sweep shares the writer with commits, so each one is short. The rest is the next
        # sweep's.
        async with scene(store_factory) as scenario:
            messages = scenario.messages("order", 5)
            expiries = [NOW + 5, NOW + 1, NOW + 4, NOW + 2, NOW + 3]
            answers: list[Answer] = []
            for message, at in zip(messages, expiries, strict=True):
                answers.append(answer(message, "x", at))
            await scenario.applied("order", answers=answers)
            assert await scenario.sweep(NOW + 100, 2) == 2
            known = outcomes_of(await scenario.post(*messages))
            assert known == ["duplicate", "accepted", "duplicate", "accepted", "duplicate"]
            assert await scenario.sweep(NOW + 100) == 3
            assert await scenario.sweep(NOW + 100) == 0

    async def test_a_sweep_keeps_to_its_scopes(self, store_factory: StoreFactory) -> None:
        # Each owner sweeps its own scopes. Two sweepers of one scope would do the work twice.
        async with scene(store_factory, shards=2) as scenario:
            messages = {unit: scenario.message(unit) for unit in numbered("unit", 10)}
            for unit, message in messages.items():
                await scenario.applied(unit, answers=[answer(message, "x", NOW)])
            assert await Scenario(scenario.store, "two").sweep(NOW) == 0, "it owns nothing"
            here = [unit for unit in messages if scenario.scope(unit) == "default/1"]
            assert 0 < len(here) < 10
            assert await scenario.sweep(NOW, 100, "default/1") == len(here)
            for unit, message in messages.items():
                outcome = "duplicate"
                if unit in here:
                    outcome = "accepted"
                assert outcomes_of(await scenario.post(message)) == [outcome]

    async def test_who_was_fenced_sweeps_no_more(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            message = scenario.message("order")
            await scenario.applied("order", answers=[answer(message, "a", NOW)])
            other = Scenario(scenario.store, "two")
            await other.claim()
            assert await scenario.sweep(NOW) == 0
            assert await scenario.post(message) == [Posted("duplicate", "a")]
            assert await other.sweep(NOW) == 1
            await other.store.release(other.fences())
            assert await other.sweep(NOW) == 0

    async def test_answers_and_tombstones_are_kept_for_the_dedupe_window(
        self, store_factory: StoreFactory
    ) -> None:
        # The expiry of a commit is an upper limit. The store knows how long a message may come
        # again.
        async with scene(store_factory, dedupe_ms=100) as scenario:
            start, message = scenario.start("order"), scenario.message("order")
            await scenario.applied(
                "order", row={"run": start.id}, answers=[answer(message, "a", NOW + DAY_MS)]
            )
            await scenario.applied("old", row={"created_at": NOW - 100})
            await scenario.applied("old", 1, {"created_at": NOW - 100}, delete=NOW + DAY_MS)
            assert await _total(scenario, "tombstones") == 0, "its start cannot come any more"
            await scenario.applied("child", row={"parent_unit": "order"})
            await scenario.applied("child", 1, {"parent_unit": "order"}, delete=NOW + DAY_MS)
            assert await _total(scenario, "tombstones") == 0, "its parent starts it once"
            assert await scenario.sweep(NOW + 99) == 0
            assert await scenario.sweep(NOW + 100) == 1
            await scenario.applied("order", 1, {"run": start.id}, delete=NOW + DAY_MS)
            assert (await scenario.post(start), await _total(scenario, "tombstones")) == (
                [Posted("duplicate")],
                1,
            )
            assert await scenario.sweep(NOW + 99) == 0
            assert await scenario.sweep(NOW + 100) == 1
            assert await scenario.post(start) == [Posted("accepted")]

    async def test_a_deletion_is_remembered_as_long_as_it_may_come_again(
        self, store_factory: StoreFactory
    ) -> None:
        # The row is gone, and with it the id of its last commit. The owner may not know the outcome
        # yet.
        async with scene(store_factory, forgotten_ms=50) as scenario:
            for unit, until in (("a", 0), ("b", NOW + DAY_MS)):
                await scenario.applied(unit)
                deletion = await scenario.applied(unit, 1, delete=until)
                assert await scenario.sweep(NOW + 49) == 0
                assert await scenario.apply(deletion) == ["applied"]
                assert await scenario.sweep(NOW + 50) == 1
                assert await scenario.apply(deletion) == ["stale"]

    async def test_who_waits_for_a_start_is_not_looked_for_among_the_rest(
        self, store_factory: StoreFactory
    ) -> None:
        # A sweep that looks at each message of a large inbox would stop all commits meanwhile.
        async with scene(store_factory, undelivered_ms=DAY_MS) as scenario:
            for n in range(20):
                await scenario.applied(f"a{n}", post=scenario.messages("order", 10))
            start = await scenario.accepted(scenario.start("order"))
            assert await scenario.sweep(NOW + DAY_MS, 1_000) == 0
            await scenario.applied("order", row={"run": start.id}, consume=[start.id])
            await scenario.applied("order", 1, {"run": start.id}, delete=0)
            assert len(await scenario.inbox("order")) == 0
            await scenario.applied("b", post=scenario.messages("order", 10))
            assert await scenario.sweep(NOW + DAY_MS, 1_000) == 11
