"""Many starts in few batches: each has an outcome of its own, and none stops the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from engine import PATIENCE_S, World, until

from perdure import (
    AlreadyStarted,
    App,
    Client,
    Interceptor,
    Node,
    PreparedStart,
    StartOutcome,
)
from perdure.errors import EncodeError, StoreUnavailable, UsageError
from perdure.interceptor import NextSend, Outgoing
from perdure.kernel.data.commit import Commit, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.store import Posted
from perdure.store.memory import MemoryStore

MANY = 1_203
"""Two whole batches and a part of one."""


def bills(app: App) -> Any:
    @app.workflow
    async def bill(number: int) -> int:
        return number

    return bill


@pytest.fixture(params=[False, True], ids=["node", "alone"])
async def client(request: pytest.FixtureRequest, world: World, app: App) -> AsyncIterator[Client]:
    """The client of a node, or one that stands alone beside a node."""
    bills(app)
    async with world.node(app) as node:
        if not request.param:
            yield node.client
            return
        async with Client.open(world.store) as client:
            yield client


def starts(client: Client, numbers: range, **options: Any) -> list[PreparedStart]:
    return [client.workflow("bill", id=f"b-{n}", **options).prepare(n) for n in numbers]


def outcomes_of(outcomes: Sequence[StartOutcome]) -> set[str]:
    return {one.outcome for one in outcomes}


async def test_all_are_started_in_order_and_joined_by_the_same_call(client: Client) -> None:
    handles = [client.workflow("bill", id=f"b-{n}") for n in range(MANY)]
    began = await client.start_many(handle.prepare(n) for n, handle in enumerate(handles))
    assert [one.id for one in began] == [f"b-{n}" for n in range(MANY)]
    assert outcomes_of(began) == {"started"}
    assert await handles[-1].result(timeout=PATIENCE_S) == MANY - 1

    async def have_ended() -> bool:
        return (await client.counts())["completed"] == MANY

    await until(have_ended, "all of them to end")
    again = await client.start_many(starts(client, range(MANY + 1)))
    assert outcomes_of(again[:-1]) == {"joined"}
    assert again[-1].outcome == "started"


async def test_each_that_fails_says_why_and_the_others_are_started(client: Client) -> None:
    await client.workflow("bill", id="taken").start(1)
    prepared = [
        client.workflow("bill", id="first").prepare(1),
        client.workflow("bill", id="taken").prepare(2),
        client.workflow("bill", id="no-data").prepare(object()),
        client.workflow("bill", id="taken", if_exists="reject").prepare(1),
        client.workflow("bill", id="last").prepare(3),
    ]
    found = await client.start_many(prepared)
    assert [one.id for one in found] == ["first", "taken", "no-data", "taken", "last"]
    kinds = [type(one.error) for one in found]
    assert kinds == [type(None), AlreadyStarted, EncodeError, AlreadyStarted, type(None)]
    assert "'taken'" in str(found[1].error)
    assert await client.get("first").result(timeout=PATIENCE_S) == 1
    assert await client.get("last").result(timeout=PATIENCE_S) == 3


async def test_a_call_with_other_arguments_than_the_function_has_fails_alone(
    world: World, app: App
) -> None:
    bill = bills(app)
    async with world.node(app) as node:
        handles = [node.client.workflow(bill, id=f"b-{n}") for n in range(3)]
        prepared = [handles[0].prepare(1), handles[1].prepare(), handles[2].prepare(2)]  # type: ignore[call-arg]
        found = await node.client.start_many(prepared)
        assert [one.outcome for one in found] == ["started", "failed", "started"]
        assert isinstance(found[1].error, TypeError)
        assert "'number'" in str(found[1].error)


async def test_what_is_no_prepared_start_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match=r"prepare\(arguments\)"):
        await client.start_many([client.workflow("bill", id="b")])  # type: ignore[list-item]
    assert await client.start_many([]) == []


async def test_ids_that_come_twice_begin_once(client: Client) -> None:
    twice = [*starts(client, range(3)), *starts(client, range(3))]
    found = await client.start_many(twice)
    assert len(found) == 6
    assert not [one for one in found if one.error]
    for n in range(3):
        assert await client.get(f"b-{n}").result(timeout=PATIENCE_S) == n

    async def all_taken() -> bool:
        return (await client.counts())["inbox"] == 0

    await until(all_taken, "all starts to be taken")
    assert (await client.counts())["completed"] == 3


async def test_starts_are_made_while_their_outcomes_are_read(client: Client) -> None:
    made: list[int] = []

    def endless() -> Any:
        n = 0
        while True:
            made.append(n)
            yield client.workflow("bill", id=f"b-{n}").prepare(n)
            n += 1

    seen = 0
    async for outcome in client.iterate_starts(endless()):
        assert outcome.id == f"b-{seen}"
        seen += 1
        if seen == 600:
            break
    assert 600 <= len(made) <= 1_500, "no more than a few batches are in memory"


async def test_posted_starts_are_joined_without_a_node(world: World, app: App) -> None:
    bills(app)
    async with world.node(app):
        pass  # makes the store
    async with Client.open(world.store) as client:
        assert outcomes_of(await client.start_many(starts(client, range(MANY)))) == {"started"}
        counts = await client.counts()
        assert (counts["starts"], counts["pending"], counts["inbox"]) == (MANY, 0, MANY)
        again = await client.start_many(starts(client, range(MANY)))
        assert outcomes_of(again) == {"joined"}
        [other] = await client.start_many([client.workflow("bill", id="b-7").prepare(8)])
        assert isinstance(other.error, AlreadyStarted)
        assert (await client.counts())["inbox"] == MANY, "nothing was posted twice"
        assert (await client.metrics()).starts == MANY
        listed = await client.list(status="pending", limit=None)
        assert len(listed) == MANY
        assert {one.reason for one in listed} == {"posted"}
        # The newest first, as all lists are.
        assert [one.id for one in listed[:2]] == [f"b-{MANY - 1}", f"b-{MANY - 2}"]


async def test_interceptors_see_each_start(world: World, app: App) -> None:
    bill = bills(app)
    seen: list[str] = []

    class Refuses(Interceptor):
        async def send(self, call: Outgoing, next: NextSend) -> object:
            seen.append(f"{call.verb} {call.id} {call.args}")
            if call.args == (1,):
                raise UsageError("not this one")
            return await next(call)

    async with Node(app, world.store, interceptors=[Refuses()]) as node:
        prepared = [node.client.workflow(bill, id=f"b-{n}").prepare(n) for n in range(3)]
        found = await node.client.start_many(prepared)
        assert [one.outcome for one in found] == ["started", "failed", "started"]
        assert str(found[1].error) == "not this one"
    assert sorted(seen) == [f"start b-{n} ({n},)" for n in range(3)]


async def test_a_store_that_is_away_fails_those_of_its_batch(app: App) -> None:
    class Away(MemoryStore):
        posts = 0

        async def post(self, batch: Sequence[Message]) -> list[Posted]:
            self.posts += 1
            if self.posts == 2:
                raise StoreUnavailable("away", "unknown")
            return await super().post(batch)

    bills(app)
    async with Away() as store, Client.open(store) as client:
        found = await client.start_many(starts(client, range(MANY)))
        assert [one.outcome for one in found] == (
            ["started"] * 500 + ["failed"] * 500 + ["started"] * (MANY - 1_000)
        )
        assert {type(one.error) for one in found[500:1_000]} == {StoreUnavailable}


async def test_a_node_makes_few_batches_of_many_starts(app: App) -> None:
    sizes: list[int] = []

    class Counts(MemoryStore):
        async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
            sizes.append(len(batch))
            return await super().commit(batch)

    bill = bills(app)
    async with Counts() as store, Node(app, store) as node:
        sizes.clear()
        prepared = [node.client.workflow(bill, id=f"b-{n}").prepare(n) for n in range(MANY)]
        assert outcomes_of(await node.client.start_many(prepared)) == {"started"}
        assert sum(sizes) == MANY
        assert len(sizes) < MANY / 10
