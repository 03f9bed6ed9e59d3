"""Guarantee 7: `wakes` omits nothing that was committed before the call."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from perdure.kernel.data.message import AnyBody, Delete, Prune
from perdure.ports.store import Wake
from perdure.testing.conformance.scenario import (
    NOW,
    StoreFactory,
    numbered,
    request,
    scene,
    task,
)


class Wakes:
    """Guarantee 7."""

    async def test_due_units_are_found_and_others_are_not(
        self, store_factory: StoreFactory
    ) -> None:
        # 0 means at once: the effects of the last turn have to be derived again. None: only a
        # message wakes the unit.
        async with scene(store_factory) as scenario:
            for unit, wake_at in (
                ("now", 0),
                ("past", NOW - 1),
                ("just", NOW),
                ("later", NOW + 1),
                ("never", None),
            ):
                await scenario.applied(unit, row={"wake_at": wake_at})
            assert await scenario.due(NOW) == {
                "now": (0, False),
                "past": (NOW - 1, False),
                "just": (NOW, False),
            }

    async def test_closed_units_do_not_wake(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            for status in ("pending", "running", "suspended", "completed", "failed", "cancelled"):
                await scenario.applied(status, row={"status": status, "wake_at": 0})
            assert sorted(await scenario.due()) == ["pending", "running", "suspended"]

    async def test_mail_wakes_when_it_is_visible(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("a")
            await scenario.applied("b")
            await scenario.accepted(scenario.message("a"))
            await scenario.accepted(scenario.message("b", visible_at=NOW + 10))
            await scenario.accepted(scenario.start("new"))
            assert await scenario.due(NOW) == {"a": (0, True), "new": (0, True)}
            assert await scenario.due(NOW + 10) == {
                "a": (0, True),
                "new": (0, True),
                "b": (NOW + 10, True),
            }

    async def test_mail_of_a_closed_unit_wakes_so_that_it_is_answered(
        self, store_factory: StoreFactory
    ) -> None:
        # A message between units is accepted whatever the state of its target. Its sender waits for
        # an answer.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", row={"status": "completed"})
            await scenario.applied("a", post=[scenario.message("order")])
            assert await scenario.due() == {"order": (0, True)}

    async def test_a_closed_unit_that_is_to_be_deleted_or_pruned_wakes(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            messages: list[tuple[str, AnyBody]] = [("done", Delete()), ("long", Prune([1]))]
            for unit, body in messages:
                await scenario.applied(unit, row={"status": "completed", "closed_at": NOW})
                await scenario.accepted(scenario.message(unit, body))
            assert await scenario.due() == {"done": (0, True), "long": (0, True)}

    async def test_consumed_mail_does_not_wake(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            message = await scenario.accepted(scenario.message("order"))
            await scenario.applied("order", 1, consume=[message.id])
            assert await scenario.due() == {}

    async def test_a_unit_that_is_due_and_has_mail_says_both(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order", row={"wake_at": NOW, "suspect": 2})
            for _ in range(3):
                await scenario.accepted(scenario.message("order"))
            page = await scenario.store.wakes(["default/0"], NOW, None, 100)
            assert page.items == [Wake("order", 0, 2, has_messages=True)]

    async def test_an_expired_lease_wakes_its_unit(self, store_factory: StoreFactory) -> None:
        # The owner decides about a lost attempt, so it must learn of the lease's end without asking
        # for tasks.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", tasks_added=[task(scenario, "order")])
            assert await scenario.due(NOW + 1_000) == {}
            await scenario.store.lease(request(worker="worker", limit=1, lease_ms=500, at=NOW))
            assert await scenario.due(NOW + 499) == {}
            assert await scenario.store.next_wake(["default/0"], NOW) == NOW + 500
            assert await scenario.due(NOW + 500) == {"order": (NOW + 500, False)}

    async def test_a_new_wake_time_replaces_the_old_one(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            for version, wake_at in enumerate((0, NOW + 5, None, NOW + 9)):
                await scenario.applied("order", version, {"wake_at": wake_at})
                if wake_at is None:
                    expected = {}
                else:
                    expected = {"order": (wake_at, False)}
                assert await scenario.due(NOW + 100) == expected

    async def test_only_the_scopes_that_were_asked_for(self, store_factory: StoreFactory) -> None:
        # Units of other scopes belong to other owners.
        async with scene(store_factory, shards=3) as scenario:
            for n in range(30):
                await scenario.applied(f"unit-{n}", row={"wake_at": 0})
                await scenario.accepted(scenario.start(f"mail-{n}"))
            names = numbered("unit", 30) + numbered("mail", 30)
            wanted = ["default/0", "default/2"]
            assert sorted(await scenario.due(scopes=wanted)) == sorted(
                n for n in names if scenario.scope(n) in wanted
            )
            assert await scenario.due(scopes=["pin/x"]) == {}

    async def test_small_pages_show_everything(self, store_factory: StoreFactory) -> None:
        # A unit that is due and has messages may stand in two indexes, and must not get lost at the
        # border of a page.
        async with scene(store_factory, shards=2) as scenario:
            for n in range(12):
                await scenario.applied(f"unit-{n}", row={"wake_at": n // 4})
                for _ in range(n % 3):
                    await scenario.accepted(scenario.message(f"unit-{n}"))
            for limit in (1, 3, 100):
                found: set[str] = set()
                after: str | None = None
                while True:
                    page = await scenario.store.wakes(["default/0", "default/1"], NOW, after, limit)
                    assert len(page.items) <= limit
                    found |= {wake.unit for wake in page.items}
                    if (after := page.next) is None:
                        break
                assert found == set(numbered("unit", 12))

    async def test_next_wake_is_the_earliest_time_after(self, store_factory: StoreFactory) -> None:
        # An owner sleeps until then. A time that is missing here is an alarm that rings too late.
        async with scene(store_factory) as scenario:
            assert await scenario.store.next_wake(["default/0"], 0) is None
            await scenario.applied("a", row={"wake_at": NOW + 30})
            await scenario.applied("b", row={"wake_at": NOW + 10, "status": "completed"})
            await scenario.accepted(scenario.message("a", visible_at=NOW + 20))
            assert await scenario.store.next_wake(["default/0"], NOW) == NOW + 20
            assert await scenario.store.next_wake(["default/0"], NOW + 20) == NOW + 30
            assert await scenario.store.next_wake(["default/0"], NOW + 30) is None
            assert await scenario.store.next_wake(["pin/x"], NOW) is None
            assert await scenario.store.next_wake([], NOW) is None
