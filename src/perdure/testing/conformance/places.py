"""Places: a reader that goes on from a place misses no message behind it."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.kernel.data.message import Message
from perdure.ports.store import InboxPart
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    begin,
    ids,
    numbered,
    scene,
)

SCOPE = ["default/0"]


async def _now(scenario: Scenario) -> str | None:
    """The place of now."""
    page = await scenario.store.arrivals(SCOPE, None, 10)
    assert page.items == []
    return page.next


async def _arrived(scenario: Scenario, after: str | None, limit: int = 100) -> list[str]:
    """All that arrivals says, page by page."""
    found: list[str] = []
    while True:
        page = await scenario.store.arrivals(SCOPE, after, limit)
        assert page.next is not None
        found += page.items
        if len(page.items) < limit:
            return found
        after = page.next


async def _read(scenario: Scenario, unit: str, after: str | None, limit: int = 100) -> list[bytes]:
    """The ids of all that waits behind a place, page by page."""
    found: list[bytes] = []
    while True:
        part = await scenario.store.inbox(unit, after, limit)
        found += ids(part.messages)
        if len(part.messages) < limit:
            return found
        after = part.place


class Places:
    """`Loaded.place`, `inbox` and `arrivals`."""

    async def test_an_inbox_is_read_in_order_and_in_parts(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            messages = scenario.messages("order", 7)
            await scenario.post(*messages)
            await scenario.post(scenario.start("other"))
            assert (await scenario.store.inbox("order", None, 100)).messages == (
                await scenario.load("order")
            ).inbox
            for limit in (1, 2, 3, 7, 8):
                assert await _read(scenario, "order", None, limit) == ids(messages)

    async def test_an_empty_inbox_gives_back_the_place(self, store_factory: StoreFactory) -> None:
        # A reader that got None would begin again, and see old messages twice.
        async with scene(store_factory) as scenario:
            assert await scenario.store.inbox("order", None, 10) == InboxPart([], None)
            await scenario.accepted(scenario.start("order"))
            place = (await scenario.store.inbox("order", None, 10)).place
            assert place is not None
            assert await scenario.store.inbox("order", place, 10) == InboxPart([], place)

    async def test_a_unit_is_loaded_with_the_place_behind_its_inbox(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            assert (await scenario.load("order")).place is None
            await scenario.post(scenario.message("order"), scenario.message("order"))
            place = (await scenario.load("order")).place
            assert await _read(scenario, "order", place) == []
            late = await scenario.accepted(scenario.message("order"))
            assert await _read(scenario, "order", place) == [late.id]

    async def test_no_place_is_given_twice_when_an_inbox_empties(
        self, store_factory: StoreFactory
    ) -> None:
        # SQLite gives a row id again when the newest row is deleted, unless the table forbids it.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            place, arrived = None, await _now(scenario)
            for version in range(1, 6):
                message = await scenario.accepted(scenario.message("order"))
                assert await _read(scenario, "order", place) == [message.id]
                assert await _arrived(scenario, arrived) == ["order"]
                place, arrived = (await scenario.load("order")).place, await _now(scenario)
                await scenario.applied("order", version, consume=[message.id])
                assert await _read(scenario, "order", place) == []
                assert await _arrived(scenario, arrived) == []

    async def test_a_place_stays_good_when_the_unit_is_deleted(
        self, store_factory: StoreFactory
    ) -> None:
        # The owner keeps the place of a unit in memory, and may not know of the deletion yet.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            await scenario.post(scenario.message("order"), scenario.message("order"))
            place, arrived = (await scenario.load("order")).place, await _now(scenario)
            await scenario.applied("order", 1, delete=NOW)
            assert await _read(scenario, "order", None) == []
            start = await scenario.accepted(scenario.start("order"))
            assert await _read(scenario, "order", place) == [start.id]
            assert await _arrived(scenario, arrived) == ["order"]

    async def test_no_message_is_missed_between_two_readings(
        self, store_factory: StoreFactory
    ) -> None:
        # A message with a lower number may become visible later than one with a higher number,
        # where transactions run side by side.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            sent: list[bytes] = []
            seen: dict[bytes, None] = {}
            place: str | None = None
            version = 1
            for n in range(20):
                messages = scenario.messages("order", n % 3 + 1)
                sent += ids(messages)
                posts = begin(map(scenario.post, messages))
                mail = await scenario.store.inbox("order", place, 2)
                seen |= dict.fromkeys(ids(mail.messages))
                place = mail.place
                await asyncio.gather(*posts)
                if n % 4 == 3:  # only the messages that were read are consumed
                    await scenario.applied("order", version, consume=list(seen))
                    version += 1
            seen |= dict.fromkeys(await _read(scenario, "order", place))
            assert list(seen) == sent

    async def test_arrivals_begin_now(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.accepted(scenario.start("old"))
            place = await _now(scenario)
            assert place is not None
            assert await _arrived(scenario, place) == []
            await scenario.accepted(scenario.start("new"))
            assert await _arrived(scenario, place) == ["new"]

    async def test_arrivals_tell_what_still_waits(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("a")
            await scenario.applied("b")
            place = await _now(scenario)
            gone = await scenario.accepted(scenario.message("a"))
            await scenario.accepted(scenario.message("b", visible_at=NOW + 90))
            assert sorted(await _arrived(scenario, place)) == ["a", "b"], (
                "mail that is not visible yet counts"
            )
            await scenario.applied("a", 1, consume=[gone.id])
            assert await _arrived(scenario, place) == ["b"]

    async def test_mail_of_a_commit_arrives(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            place = await _now(scenario)
            await scenario.applied("a", post=[scenario.start("b"), scenario.message("a")])
            assert sorted(await _arrived(scenario, place)) == ["a", "b"]

    async def test_pages_of_arrivals_have_all_units(self, store_factory: StoreFactory) -> None:
        # Several messages of one unit may stand on both sides of the border of a page.
        async with scene(store_factory) as scenario:
            place = await _now(scenario)
            names = numbered("order", 7)
            await scenario.post(*scenario.starts(names))
            await scenario.post(*scenario.messages_to(names))
            for limit in (1, 2, 3, 6, 7, 8, 100):
                assert set(await _arrived(scenario, place, limit)) == set(names)

    async def test_arrivals_keep_to_their_scopes(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=2) as scenario:
            place = await _now(scenario)
            names = numbered("order", 10)
            await scenario.post(*scenario.starts(names))
            here = [name for name in names if scenario.scope(name) == "default/0"]
            assert 0 < len(here) < 10
            assert sorted(await _arrived(scenario, place)) == here
            page = await scenario.store.arrivals(["default/0", "default/1"], place, 100)
            assert sorted(page.items) == names
            assert (await scenario.store.arrivals([], place, 100)).items == []

    async def test_no_arrival_is_missed_between_two_looks(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            place = await _now(scenario)
            found: set[str] = set()
            names = numbered("order", 40)
            for n, name in enumerate(names):
                messages: list[Message] = [scenario.start(name)]
                if n % 2:
                    messages.append(scenario.message(names[n // 2]))
                post = asyncio.ensure_future(scenario.post(*messages))
                page = await scenario.store.arrivals(SCOPE, place, n % 3 + 1)
                found |= set(page.items)
                place = page.next
                await post
            found |= set(await _arrived(scenario, place, 3))
            assert found == set(names)
