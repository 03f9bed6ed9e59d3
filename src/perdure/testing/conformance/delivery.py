"""Guarantee 6: messages of a Commit arrive in the target's inbox, once, in order."""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio

from perdure.errors import UsageError
from perdure.kernel.data.commit import Commit, Fence
from perdure.kernel.data.events import Parent
from perdure.kernel.data.message import AnyBody, Cancel, Reply, Send, Start
from perdure.testing.conformance.scenario import (
    NOW,
    Scenario,
    StoreFactory,
    answer,
    ids,
    scene,
)


class Delivery:
    """Guarantee 6."""

    async def test_messages_arrive_in_order(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("target")
            messages = scenario.messages("target", 6)
            await scenario.applied("a", post=messages[:3])
            await scenario.applied("b", post=messages[3:5])
            await scenario.applied("a", 1, post=messages[5:])
            assert await scenario.inbox("target") == ids(messages)

    async def test_messages_of_one_batch_arrive_in_the_order_of_its_commits(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            messages = scenario.messages("target", 3)
            batch: list[Commit] = []
            for n, message in enumerate(messages):
                batch.append(scenario.commit(f"unit-{n}", post=[message]))
            assert await scenario.apply(*batch) == ["applied"] * 3
            assert await scenario.inbox("target") == ids(messages)

    async def test_messages_come_behind_the_rows_of_their_batch(
        self, store_factory: StoreFactory
    ) -> None:
        # Stores write rows and messages of a batch in one go each. A fixed order makes every store
        # and every replica agree.
        async with scene(store_factory) as scenario:
            await scenario.applied("gone")
            early, kept = scenario.message("gone"), scenario.message("new")
            batch = [
                scenario.commit("sender", post=[early, kept]),
                scenario.commit("gone", 1, delete=0),
                scenario.commit("new", consume=[kept.id]),
            ]
            assert await scenario.apply(*batch) == ["applied"] * 3
            assert await scenario.inbox("gone") == [early.id]
            assert await scenario.inbox("new") == [kept.id]

    async def test_a_batch_in_flight_keeps_its_place_behind_another(
        self, store_factory: StoreFactory
    ) -> None:
        # The second batch consumes a message of the first. If they changed places, the message
        # would stay for ever.
        async with scene(store_factory) as scenario:
            message = scenario.message("target")
            first = asyncio.ensure_future(
                scenario.store.commit([scenario.commit("sender", post=[message])])
            )
            second = asyncio.ensure_future(
                scenario.store.commit([scenario.commit("target", consume=[message.id])])
            )
            assert [await first, await second] == [["applied"], ["applied"]]
            assert await scenario.inbox("target") == []

    async def test_a_message_waits_in_the_scope_that_it_names(
        self, store_factory: StoreFactory
    ) -> None:
        # The sender knows where the target is. The store cannot derive the scope of an entity from
        # its id.
        async with scene(store_factory, shards=2) as scenario:
            await scenario.claim("entities/7")
            await scenario.applied("order", post=[scenario.message("cart", scope="entities/7")])
            await scenario.accepted(scenario.start("cart", scope="entities/7"))
            assert await scenario.due(scopes=["entities/7"]) == {"cart": (0, True)}
            assert await scenario.due() == {}
            loaded = await scenario.load("cart")
            assert [message.scope for message in loaded.inbox] == ["entities/7"] * 2
            home = {"home": "entities/7", "fence": scenario.fence("entities/7")}
            moved = {"scope": "pin/cart"}
            await scenario.claim("pin/cart")
            await scenario.applied("cart", 0, moved, **home)
            assert await scenario.due(scopes=["pin/cart"]) == {"cart": (0, True)}
            gone = {"home": "entities/7", "fence": scenario.fence("pin/cart"), "delete": 0}
            await scenario.applied("cart", 1, moved, **gone)
            assert [m.scope for m in (await scenario.load("cart")).inbox] == ["entities/7"]

    async def test_a_message_without_a_scope_is_refused(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            (refused,) = await asyncio.gather(
                scenario.post(scenario.start("order", scope="")), return_exceptions=True
            )
            assert isinstance(refused, UsageError)
            assert "'order' names no scope" in str(refused)
            assert await scenario.inbox("order") == []

    async def test_a_message_comes_back_whole(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            parent = Parent("order", b"run", 2, 7)
            start = Start("wf", "2.0.0", b"in", parent, "reject", b"attributes", "somebody")
            bodies: list[AnyBody] = [
                start,
                Send("ch", b""),
                Reply(b"run", 1, 7, result=b"r"),
                Cancel("why", b"run"),
            ]
            messages = [
                scenario.message(
                    "child", body, visible_at=NOW + n, sender="order", previous=b"before"
                )
                for n, body in enumerate(bodies)
            ]
            await scenario.applied("order", post=messages)
            inbox = (await scenario.load("child")).inbox
            assert inbox == messages

    async def test_a_message_arrives_once(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            message = scenario.message("target")
            await scenario.applied("a", post=[message, message])
            await scenario.applied("b", post=[message])
            assert await scenario.inbox("target") == [message.id]

    async def test_an_answered_message_does_not_come_back(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            message = scenario.message("target")
            await scenario.applied("target", answers=[answer(message)])
            await scenario.applied("a", post=[message])
            assert await scenario.inbox("target") == []

    async def test_a_unit_can_keep_its_own_start_for_later(
        self, store_factory: StoreFactory
    ) -> None:
        # A delayed start has a row already, so that it can be listed and cancelled.
        async with scene(store_factory) as scenario:
            start = scenario.start("child", visible_at=NOW + 50)
            row = {"run": start.id, "status": "pending", "started_at": 0}
            await scenario.applied("child", row=row, post=[start])
            assert await scenario.inbox("child") == [start.id]
            assert await scenario.due(NOW + 50) == {"child": (NOW + 50, True)}
            await scenario.applied(
                "child", 1, row | {"status": "running", "started_at": NOW}, consume=[start.id]
            )
            assert await scenario.inbox("child") == []

    async def test_a_start_of_a_run_that_has_begun_is_dropped(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            start = scenario.start("child")
            await scenario.applied("child", row={"run": start.id, "started_at": NOW})
            await scenario.applied("a", post=[start])
            assert await scenario.inbox("child") == []

    async def test_a_start_of_a_deleted_run_is_dropped(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            start, other = scenario.start("child"), scenario.start("child")
            await scenario.applied("child", row={"run": start.id})
            await scenario.applied("child", 1, {"run": start.id}, delete=NOW + 1_000)
            await scenario.applied("a", post=[start, other])
            assert await scenario.inbox("child") == [other.id]

    async def test_a_unit_can_write_to_itself(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            first, second = scenario.message("order"), scenario.message("order")
            await scenario.applied("order", post=[first])
            await scenario.applied("order", 1, consume=[first.id], post=[second])
            assert await scenario.inbox("order") == [second.id]

    async def test_a_message_waits_for_a_unit_that_does_not_exist(
        self, store_factory: StoreFactory
    ) -> None:
        # A parent may send to a child whose start is still under way.
        async with scene(store_factory) as scenario:
            message = scenario.message("later")
            await scenario.applied("a", post=[message])
            assert await scenario.inbox("later") == [message.id]
            await scenario.applied("later")
            assert await scenario.inbox("later") == [message.id]

    async def test_the_inbox_limit_does_not_stop_units(self, store_factory: StoreFactory) -> None:
        # A commit cannot wait for room: its turn is journaled, and replay would send again.
        async with scene(store_factory, inbox_messages=1) as scenario:
            await scenario.applied("target")
            await scenario.applied("a", post=scenario.messages("target", 3))
            assert len(await scenario.inbox("target")) == 3

    async def test_waiting_messages_follow_their_unit_to_another_scope(
        self, store_factory: StoreFactory
    ) -> None:
        # The new owner scans its own scopes only.
        async with scene(store_factory, shards=2) as scenario:
            home = scenario.scope("order")
            await scenario.claim("pin/order")
            early, late = scenario.message("order"), scenario.message("order")
            await scenario.applied("a", post=[early])
            fence = Fence(home, scenario.claims[home].epoch, scenario.owner.id)
            await scenario.applied("order", row={"scope": "pin/order"}, fence=fence)
            await scenario.applied("b", post=[late])
            assert await scenario.due(scopes=[home]) == {}
            assert await scenario.due(scopes=["pin/order"]) == {"order": (0, True)}
            assert await scenario.inbox("order") == [early.id, late.id]

    async def test_both_ends_can_commit_in_one_batch(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("b")
            old = await scenario.accepted(scenario.message("b"))
            new = scenario.message("b")
            batch = [
                scenario.commit("a", post=[new]),
                scenario.commit("b", 1, consume=[old.id]),
                scenario.commit("c", post=[scenario.message("a")]),
            ]
            assert await scenario.apply(*batch) == ["applied"] * 3
            assert await scenario.inbox("b") == [new.id]
            assert await scenario.inbox("a") == [batch[2].post[0].id]

    async def test_senders_of_two_owners_reach_one_inbox(self, store_factory: StoreFactory) -> None:
        async with scene(store_factory, shards=2) as scenario:
            other = Scenario(scenario.store, "two")
            await other.claim(other.scope("y"))
            first, second = scenario.message("target"), other.message("target")
            foreign = scenario.scope("y")
            near = next(
                unit for unit in ("m", "n", "o", "p", "q") if scenario.scope(unit) != foreign
            )
            await scenario.applied(near, post=[first])
            await other.applied("y", post=[second])
            assert await scenario.inbox("target") == [first.id, second.id]

    async def test_a_message_that_its_own_commit_consumes_does_not_come(
        self, store_factory: StoreFactory
    ) -> None:
        # A unit may send to itself and receive the message in the same turn.
        async with scene(store_factory) as scenario:
            kept, gone = (
                scenario.message("order", sender="order"),
                scenario.message("order", sender="a"),
            )
            other = scenario.message("other", id=gone.id)
            commit = scenario.commit("order", post=[kept, gone, other], consume=[gone.id])
            assert await scenario.apply(commit) == ["applied"]
            assert (await scenario.inbox("order"), await scenario.inbox("other")) == (
                [kept.id],
                [gone.id],
            )
            assert await scenario.apply(commit) == ["applied"]
            deletion = scenario.commit("order", 1, delete=0, post=[scenario.start("order")])
            deletion.consume = [deletion.post[0].id]
            assert await scenario.apply(deletion) == ["applied"]
            assert await scenario.inbox("order") == []

    async def test_a_message_between_units_comes_once_without_an_answer(
        self, store_factory: StoreFactory
    ) -> None:
        async with scene(store_factory) as scenario:
            await scenario.applied("b")
            message = scenario.message("b", sender="a")
            commit = scenario.commit("a", post=[message])
            assert await scenario.apply(commit, scenario.commit("c")) == ["applied"] * 2
            # The sender's commit is in flight twice, and the target takes the message in between.
            batch = [commit, scenario.commit("b", 1, consume=[message.id])]
            assert await scenario.apply(*batch) == ["applied"] * 2
            assert await scenario.apply(commit) == ["applied"]
            assert await scenario.inbox("b") == []
            await scenario.applied("a", 1)
            assert await scenario.apply(commit) == ["stale"]
            assert await scenario.inbox("b") == []
