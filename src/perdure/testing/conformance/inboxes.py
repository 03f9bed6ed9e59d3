"""Posts: every process may put messages into inboxes, idempotently by message id."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

from perdure.kernel.data.message import (
    AnyBody,
    Cancel,
    Delete,
    Pause,
    Prune,
    Raise,
    Resume,
    Retry,
    Send,
    Start,
    Terminate,
)
from perdure.ports.store import Inbox, Posted
from perdure.testing.conformance.scenario import NOW, StoreFactory, answer, bodies_of, ids, scene


class Inboxes:
    """Posts and inboxes."""

    async def test_a_post_waits_and_creates_no_unit(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            start = scenario.start("order")
            assert await scenario.post(start) == [Posted("accepted")]
            loaded = await scenario.load("order")
            assert (loaded.row, loaded.version) == (None, 0)
            assert loaded.inbox == [start]

    async def test_order_is_that_of_the_posts(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            messages = scenario.messages("order", 10)
            await scenario.post(*messages[:4])
            for message in messages[4:]:
                await scenario.accepted(message)
            assert await scenario.inbox("order") == ids(messages)

    async def test_order_survives_consuming(self, store_factory: StoreFactory) -> None:
        # Numbers that are derived from the rows that are there would be given again.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            messages = scenario.messages("order", 5)
            await scenario.post(*messages[:3])
            await scenario.applied("order", 1, consume=[messages[2].id, messages[0].id])
            await scenario.post(*messages[3:])
            assert await scenario.inbox("order") == [messages[1].id, messages[3].id, messages[4].id]

    async def test_only_the_named_messages_are_consumed(self, store_factory: StoreFactory) -> None:
        # A message may arrive while the turn is under way, which has not seen it.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            seen, late = scenario.message("order"), scenario.message("order")
            await scenario.accepted(seen)
            commit = scenario.commit("order", 1, consume=[seen.id])
            await scenario.accepted(late)
            assert await scenario.apply(commit) == ["applied"]
            assert await scenario.inbox("order") == [late.id]

    async def test_consuming_what_is_not_there_is_fine(self, store_factory: StoreFactory) -> None:
        # An owner consumes messages that reached it in memory and were never stored.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", consume=[b"never seen"])
            assert (await scenario.load("order")).version == 1

    async def test_inboxes_are_separate(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("a")
            await scenario.applied("b")
            message = await scenario.accepted(scenario.message("a"))
            await scenario.applied("b", 1, consume=[message.id])
            assert await scenario.inbox("a") == [message.id]

    async def test_a_waiting_message_is_a_duplicate(self, store_factory: StoreFactory) -> None:
        # A client repeats a post until it gets an answer.
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            message = scenario.message("order")
            assert await scenario.post(message, message) == [
                Posted("accepted"),
                Posted("duplicate"),
            ]
            assert await scenario.post(message) == [Posted("duplicate")]
            assert await scenario.inbox("order") == [message.id]

    async def test_an_answered_message_is_a_duplicate_with_its_answer(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            message = await scenario.accepted(scenario.message("order"))
            await scenario.applied(
                "order", 1, consume=[message.id], answers=[answer(message, "sent")]
            )
            assert await scenario.post(message) == [Posted("duplicate", "sent")]
            assert await scenario.inbox("order") == []

    async def test_the_first_answer_stays(self, store_factory: StoreFactory) -> None:
        # A client may have got it already. A repeated message gets the same.
        async with scene(store_factory) as scenario:
            message = scenario.message("order")
            await scenario.applied("order", answers=[answer(message, "first")])
            await scenario.applied("order", 1, answers=[answer(message, "second")])
            assert await scenario.post(message) == [Posted("duplicate", "first")]

    async def test_a_start_of_the_run_that_exists_is_a_duplicate(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            start = scenario.start("order")
            await scenario.applied("order", row={"run": start.id})
            assert await scenario.post(start) == [Posted("duplicate")]
            assert await scenario.post(scenario.start("order")) == [Posted("accepted")]

    async def test_a_start_of_a_deleted_run_is_a_duplicate(
        self, store_factory: StoreFactory
    ) -> None:
        # A start that is delivered again must not run again, although its run is gone.
        async with scene(store_factory) as scenario:
            start = scenario.start("order")
            await scenario.applied("order", row={"run": start.id})
            await scenario.applied("order", 1, {"run": start.id}, delete=NOW + 1_000)
            assert await scenario.post(start) == [Posted("duplicate")]
            assert await scenario.post(scenario.start("order")) == [Posted("accepted")]

    async def test_nothing_but_a_start_reaches_a_unit_that_does_not_exist(
        self, store_factory: StoreFactory
    ) -> None:
        # A client learns of a wrong id at once. Between units a message waits, because its target
        # may be about to start.
        async with scene(store_factory) as scenario:
            bodies: list[AnyBody] = [
                Send("a", b""),
                Raise("a", b""),
                Cancel(),
                Terminate(),
                Pause(),
                Resume(),
                Retry(),
            ]
            bodies += [Delete(), Prune()]
            posted = await scenario.post(*scenario.with_bodies("order", bodies))
            assert posted == [Posted("missing")] * len(bodies)
            assert (await scenario.load("order")).inbox == []

    async def test_a_unit_whose_start_waits_can_be_sent_to(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            messages = [
                scenario.start("order"),
                scenario.message("order"),
                scenario.message("order", Cancel()),
            ]
            assert await scenario.post(*messages) == [Posted("accepted")] * 3
            assert await scenario.inbox("order") == ids(messages)

    async def test_a_closed_unit_is_missing_and_says_closed(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for status in ("completed", "failed", "cancelled"):
                await scenario.applied(status, row={"status": status})
                assert await scenario.post(scenario.message(status)) == [
                    Posted("missing", "closed")
                ]
                assert await scenario.post(scenario.message(status, Cancel())) == [
                    Posted("missing", "closed")
                ]
                assert await scenario.post(scenario.start(status)) == [Posted("accepted")]

    async def test_a_closed_unit_whose_replacing_start_waits_can_be_sent_to(
        self, store_factory: StoreFactory
    ) -> None:
        # A start is a barrier: the messages behind it are for the run that it makes.
        async with scene(store_factory) as scenario:
            await scenario.applied("order", row={"status": "completed"})
            joining = scenario.message("order", Start("checkout", None, b"input"))
            assert await scenario.post(joining) == [Posted("accepted")]
            assert await scenario.post(scenario.message("order")) == [Posted("missing", "closed")]
            replacing = scenario.message(
                "order", Start("checkout", None, b"input", if_exists="replace")
            )
            messages = [replacing, scenario.message("order"), scenario.message("order", Cancel())]
            assert await scenario.post(*messages) == [Posted("accepted")] * 3

    async def test_a_closed_unit_can_be_deleted_and_pruned(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            for status in ("completed", "failed", "cancelled"):
                await scenario.applied(status, row={"status": status})
                bodies: list[AnyBody] = [
                    Delete(force=True, forget=True, cascade=False, reason="old"),
                    Prune([1, 3]),
                ]
                messages = scenario.with_bodies(status, bodies)
                assert await scenario.post(*messages, messages[0]) == [
                    *[Posted("accepted")] * 2,
                    Posted("duplicate"),
                ]
                assert bodies_of((await scenario.load(status)).inbox) == bodies

    async def test_a_unit_whose_start_waits_can_be_deleted(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            messages = [scenario.start("order"), scenario.message("order", Delete())]
            assert await scenario.post(*messages) == [Posted("accepted")] * 2

    async def test_a_full_inbox_refuses_sends_but_not_control(
        self, store_factory: StoreFactory
    ) -> None:
        # A flooded instance must still be possible to cancel.
        async with scene(store_factory, inbox_messages=2) as scenario:
            await scenario.applied("order")
            first = await scenario.accepted(scenario.message("order"))
            await scenario.accepted(scenario.message("order", Raise("n", b"")))
            more = [scenario.message("order"), scenario.message("order", Raise("n", b""))]
            assert await scenario.post(*more) == [Posted("full"), Posted("full")]
            assert await scenario.post(scenario.message("order", Cancel())) == [Posted("accepted")]
            assert await scenario.post(first) == [Posted("duplicate")]
            assert await scenario.post(scenario.message("other", Cancel())) == [Posted("missing")]
            inbox = await scenario.inbox("order")
            await scenario.applied("order", 1, consume=inbox)
            assert await scenario.post(more[0]) == [Posted("accepted")]

    async def test_a_suspended_unit_takes_mail(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied(
                "order", row={"status": "suspended", "reason": "paused", "paused": True}
            )
            messages = [scenario.message("order"), scenario.message("order", Retry())]
            assert await scenario.post(*messages) == [Posted("accepted")] * 2

    async def test_an_inbox_is_listed_in_order_and_pages(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            messages = [scenario.message("order", visible_at=NOW - n) for n in range(7)]
            await scenario.post(*messages)
            listed = await scenario.all(Inbox(unit="order", limit=3))
            assert ids(listed) == ids(messages)
            assert await scenario.all(Inbox(unit="other")) == []

    async def test_large_and_empty_values_survive(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("order")
            values = [b"", bytes(range(256)), b"x" * 1_000_000]
            sent = [Send("Kanal ☃", value) for value in values]
            for body in sent:
                await scenario.accepted(scenario.message("order", body))
            inbox = (await scenario.load("order")).inbox
            assert bodies_of(inbox) == sent

    async def test_the_number_that_waits_is_exact_whatever_came_and_went(
        self, store_factory: StoreFactory
    ) -> None:
        # A store may keep the number instead of counting rows. One message that is counted twice
        # closes the inbox for ever.
        async with scene(store_factory, inbox_messages=5) as scenario:
            await scenario.applied("order")
            messages = scenario.messages("order", 3)
            await scenario.applied("a", post=[*messages, messages[0], scenario.message("order")])
            outcomes = await scenario.outcomes("order", 2)
            assert outcomes == ["accepted", "full"]
            assert await scenario.post(messages[0]) == [Posted("duplicate")]
            await scenario.applied(
                "order", 1, consume=[messages[0].id, messages[0].id, b"never seen"]
            )
            await scenario.applied("a", 1, post=[messages[1]])
            outcomes = await scenario.outcomes("order", 2)
            assert outcomes == ["accepted", "full"]
            await scenario.applied("order", 2, delete=0)
            await scenario.applied("order")
            outcomes = await scenario.outcomes("order", 6)
            assert outcomes == ["accepted"] * 5 + ["full"]
