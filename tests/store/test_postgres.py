"""What only a shared database shows: two writers at once, and the order of their locks."""

from __future__ import annotations

import asyncio

from postgres_server import server_url
from postgres_stores import (
    Schemas,
    administrator,
    store_at,
    two,
    until_waits,
)

from perdure.ports.store import Claim, Incarnation
from perdure.ports.tasks import TaskRequest
from perdure.testing.conformance.scenario import NOW, chunk, ids, numbered, task


async def test_two_nodes_write_side_by_side(schema: str) -> None:
    async with two(schema) as (one, other):
        await one.claim("default/0")
        await other.claim("default/1")
        names = numbered("unit", 60)
        mine = [name for name in names if one.scope(name) == "default/0"]
        theirs = [name for name in names if one.scope(name) == "default/1"]
        for version in range(5):
            parts = {"journal": [chunk(version + 1)]}
            verdicts = await asyncio.gather(
                one.apply(*one.commits(mine, version, **parts)),
                other.apply(*other.commits(theirs, version, **parts)),
            )
            assert verdicts == [["applied"] * len(mine), ["applied"] * len(theirs)]
        assert await one.versions(names) == await other.versions(names) == [5] * len(names)


async def test_two_that_create_a_store_at_once_agree(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_new"
    stores = [store_at(server_url(), schema, shards=shards) for shards in (None, None, None)]
    try:
        await asyncio.gather(*[store.__aenter__() for store in stores])
        assert len({store.info for store in stores}) == 1
        assert stores[0].info.shards == 2_048
    finally:
        for store in stores:
            await store.__aexit__(None, None, None)
        async with administrator(schema) as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_a_claim_waits_for_a_commit_under_way_and_then_sees_it(schema: str) -> None:
    async with two(schema) as (one, other), administrator(schema) as connection:
        await one.claim()
        await one.applied("order")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM units WHERE id = 'order' FOR UPDATE")
        # It holds the lock of its incarnation, and waits for the row.
        commit = one.store.commit([one.commit("order", 1)])
        await until_waits(connection)
        claim = asyncio.create_task(other.claim())
        await until_waits(connection, 2)
        assert not claim.done()
        await transaction.rollback()
        assert await claim == {
            "default/0": Claim(2, clean=False),
            "default/1": Claim(2, clean=False),
        }
        # Whatever becomes of later commits: this one was decided before the claim returned.
        assert (await other.load("order")).version == 2
        assert await commit == ["applied"]
        assert await one.apply(one.commit("order", 2)) == ["fenced"]


async def test_a_claim_waits_for_nobody_else(schema: str) -> None:
    async with two(schema) as (one, other), administrator(schema) as connection:
        await one.claim("default/0")
        await other.claim("default/1")
        unit = one.unit_in("default/0")
        await one.applied(unit)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM units WHERE id = $1 FOR UPDATE", unit)
        commit = one.store.commit([one.commit(unit, 1)])
        await until_waits(connection)
        third = Incarnation("three", "three-1")
        assert (await other.store.claim(["default/1"], third))["default/1"].epoch == 2
        await transaction.rollback()
        assert await commit == ["applied"]


async def test_commits_race_with_claims_back_and_forth(schema: str) -> None:
    async with two(schema) as (one, other):
        names = numbered("order", 20)
        for _ in range(5):
            await one.claim()
            before = await one.versions(names)
            calls = []
            for name, version in zip(names, before, strict=True):
                row = {"journal_events": 0}
                calls.append(asyncio.ensure_future(one.apply(one.commit(name, version, row))))
            await asyncio.sleep(0)
            await other.claim()
            after = await other.versions(names)
            verdicts = await asyncio.gather(*calls)
            for old, new, verdict in zip(before, after, verdicts, strict=True):
                assert verdict == (["applied"] if new > old else ["fenced"])


async def test_messages_to_each_other_deadlock_nobody(schema: str) -> None:
    # Each deletes a unit to which the other sends: rows are locked in opposite orders.
    async with two(schema) as (one, other):
        await one.claim("default/0")
        await other.claim("default/1")
        left = [f"l{n}" for n in range(200) if one.scope(f"l{n}") == "default/0"][:20]
        right = [f"r{n}" for n in range(200) if one.scope(f"r{n}") == "default/1"][:20]
        for name in left:
            await one.applied(name)
        for name in right:
            await other.applied(name)
        calls = [
            scenario.store.commit(
                [
                    scenario.commit(name, 1, delete=0, post=scenario.messages_to(targets))
                    for name in names
                ]
            )
            for scenario, names, targets in ((one, left, right), (other, right, left))
        ]
        assert await asyncio.gather(*calls) == [["applied"] * 20] * 2
        assert await one.rows(*left, *right) == [None] * 40


async def test_a_post_and_a_deletion_leave_no_message_behind(schema: str) -> None:
    # A message that came to a unit as that was deleted has a unit no more: it is found by the sweep.
    async with two(schema) as (one, other), administrator(schema) as connection:
        await one.claim()
        await one.applied("order")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE inbox IN SHARE MODE")
        post = asyncio.create_task(other.post(other.message("order")))
        await until_waits(connection)
        deletion = one.store.commit([one.commit("order", 1, delete=0)])
        await until_waits(connection, 2)
        await transaction.rollback()
        assert await deletion == ["applied"]
        assert (await post)[0].outcome == "accepted"
        assert await one.inbox("order") == []


async def test_a_message_that_becomes_visible_late_is_not_missed(schema: str) -> None:
    # Its place is lower than that of a message which was read before.
    async with two(schema) as (one, _), administrator(schema) as connection:
        await one.claim()
        await one.applied("order")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO inbox (unit, message, position, scope, kind, body, at, visible_at,"
            " homeless, replaces) VALUES ('order', 'late', nextval('places'), 'default/0', 'Send',"
            " '', 0, 0, false, false)"
        )
        early = await one.accepted(one.message("order"))
        place = (await one.load("order")).place
        part = await one.store.inbox("order", None, 1)
        arrived = (await one.store.arrivals(["default/0", "default/1"], None, 10)).next
        assert ids(part.messages) == [early.id]
        await transaction.commit()
        for after in (place, part.place):
            assert ids((await one.store.inbox("order", after, 10)).messages) == [b"late"]
        assert await one.inbox("order") == [b"late", early.id]
        page = await one.store.arrivals(["default/0", "default/1"], arrived, 10)
        assert page.items == ["order"]
        page = await one.store.arrivals(["default/0", "default/1"], page.next, 10)
        assert page.items == []


async def test_workers_of_several_processes_share_the_tasks(schema: str) -> None:
    async with two(schema) as (one, other):
        await one.claim()
        await one.applied("order", tasks_added=[task(one, "order", seq) for seq in range(1, 41)])
        calls = [
            scenario.store.lease(
                TaskRequest(queue="gpu", worker=f"worker-{n}", limit=10, lease_ms=1_000, at=NOW)
            )
            for n, scenario in enumerate((one, other) * 4)
        ]
        leased = [one.seq for found in await asyncio.gather(*calls) for one in found.tasks]
        assert sorted(leased) == sorted(set(leased))
        assert len(leased) == 40
