"""All that a store has arrives in the other one, between any two kinds."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import test_equivalence
from moved_stores import Places, comparable, content, furnish
from postgres_stores import administrator
from test_equivalence import LIMITS, SHARDS, live
from test_equivalence_postgres import Placed, both_places

from perdure import App, Client, workflow
from perdure.errors import StoreFormat, StoreLocked, StoreMoved, StoreUnavailable, UsageError
from perdure.kernel.data.commit import Answer
from perdure.kernel.data.message import Start
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.moving import Progress, give_up, move, plan
from perdure.ports.moving import MovableStore, RowPart, Seal
from perdure.ports.store import Scopes
from perdure.store import copied, is_there, open_store
from perdure.store.copied import ALL_KEYS, KEYS
from perdure.store.derived import Rows
from perdure.store.memory import MemoryStore
from perdure.testing.conformance.scenario import NOW, Scenario

KINDS = ("sqlite", "postgres")
PAIRS = [(source, target) for source in KINDS for target in KINDS]


@pytest.fixture(autouse=True)
def no_numbers_of_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random world compares two stores, and each kind has places of its own."""
    monkeypatch.setattr(test_equivalence, "both_places", both_places)


async def lived(url: str, seed: int) -> Rows:
    """Fill a store with what random batches leave behind, and return that."""
    store: Any = open_store(url, limits=LIMITS)
    async with store, MemoryStore(shards=SHARDS, limits=LIMITS) as same:
        await live(Random(seed), [Placed(store), Placed(same)], [], others=True)
        return comparable(await same.dump())


async def furnished(url: str) -> Rows:
    """A store with rows of all kinds, and these rows as the reference has them."""
    async with open_store(url) as store, MemoryStore(shards=SHARDS) as same:
        for one in (store, same):
            await furnish(Scenario(one))
        return comparable(await same.dump())


@pytest.mark.parametrize(("source", "target"), PAIRS)
async def test_everything_moves(places: Places, source: str, target: str) -> None:
    old, new = places.new(source, SHARDS), places.new(target, SHARDS)
    there = await furnished(old)
    assert await content(old) == there
    # A table without rows would prove nothing.
    assert [table for table, rows in there.items() if not rows] == []
    moved = await move(old, new)
    assert await content(new) == there
    assert moved.rows == {table: len(there[table]) for table in KEYS}


@pytest.mark.parametrize("seed", [16, 17])
@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres"), ("postgres", "sqlite")])
async def test_what_random_batches_leave_moves(
    places: Places, source: str, target: str, seed: int
) -> None:
    old, new = places.new(source, SHARDS), places.new(target, SHARDS)
    there = await lived(old, seed)
    await move(old, new)
    assert await content(new) == there


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgres"), ("postgres", "sqlite")])
@pytest.mark.parametrize(("before", "after"), [(1, 7), (7, 1)])
async def test_units_find_their_scopes_among_other_shards(
    places: Places, source: str, target: str, before: int, after: int
) -> None:
    old, new = places.new(source, before), places.new(target, after)
    async with open_store(old) as store:
        scenario = Scenario(store)
        await furnish(scenario)
        pinned = ("pin/gpu/node:3", "gpu/0")
        await scenario.claim(*pinned)
        for number, scope in enumerate(pinned):
            await scenario.applied(f"pinned {number}", 0, {"scope": scope}, home=scope)
    await move(old, new)
    rows = await content(new)
    for table, column, unit in (
        ("units", 1, 0),
        ("inbox", 2, 0),
        ("answers", 2, 0),
        ("tasks", 5, 0),
    ):
        for row in rows[table]:
            if not str(row[unit]).startswith("pinned"):
                assert row[column] == scope_of(str(row[unit]), after), (table, row)
    for row in (*rows["tombstones"], *rows["deletions"], *rows["dead_letters"]):
        scope = next(str(value) for value in row if str(value).startswith("default/"))
        assert int(scope.removeprefix("default/")) < after
    homes = {row[0]: row[1] for row in rows["units"]}
    assert homes["pinned 0"] == "pin/gpu/node:3"
    assert homes["pinned 1"] == scope_of("pinned 1", after, "gpu")
    # A node of the target finds the pin, and what is due.
    async with open_store(new) as store:
        found = [view.scope for view in await Scenario(store).all(Scopes())]
        assert sorted(found) == sorted(
            [pinned[0], *scopes_of(after, "default"), *scopes_of(after, "gpu")]
        )
        scenario = Scenario(store, "two")
        await scenario.claim()
        assert "dense" in await scenario.due(NOW + 10_000)


@pytest.mark.parametrize("after", [2, 5])
async def test_what_the_last_owner_left_unreleased_stays_so(places: Places, after: int) -> None:
    # The next owner counts what was at work. A crash would be forgiven otherwise.
    old, new = places.new("sqlite", 2), places.new("sqlite", after)
    async with open_store(old) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.claim("other/1")
        await store.release(scenario.fences("other/1"))
    await move(old, new)
    async with open_store(new) as store:
        scenario = Scenario(store, "two")
        claims = await scenario.claim(*[f"default/{n}" for n in range(after)], "other/1")
    for scope, claim in claims.items():
        assert claim.clean == (scope == "other/1")
        assert claim.epoch == 2


async def test_messages_keep_their_order_and_come_before_later_ones(places: Places) -> None:
    urls = [places.new(kind, 1) for kind in ("sqlite", "postgres", "sqlite")]
    async with open_store(urls[0]) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        sent = scenario.messages("order", 5)
        await scenario.post(*sent)
        # Ids say nothing of the order.
        assert [m.id for m in sent] != sorted(m.id for m in sent)[::-1]
        await scenario.applied("order", 1, consume=[sent[1].id])
    wanted = [m.id for m in sent if m is not sent[1]]
    for source, target in pairwise(urls):
        await move(source, target)
        async with open_store(target) as store:
            scenario = Scenario(store, f"{len(wanted)}")
            later = scenario.message("order")
            assert await scenario.inbox("order") == wanted
            await scenario.accepted(later)
            wanted.append(later.id)
            assert await scenario.inbox("order") == wanted


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_answered_and_deleted_is_still_known(places: Places, kind: str) -> None:
    old, new = places.new("sqlite", 1), places.new(kind, 1)
    async with open_store(old) as store:
        scenario = Scenario(store)
        await scenario.claim()
        start, gone = scenario.start("order"), scenario.start("gone")
        await scenario.applied("order", answers=[Answer(start.id, "started", NOW + 10**9)])
        await scenario.applied("gone", 0, {"run": gone.id})
        deletion = scenario.commit("gone", 1, {"run": gone.id}, delete=NOW + 10**9)
        assert await scenario.apply(deletion) == ["applied"]
    await move(old, new)
    async with open_store(new) as store:
        posted = await store.post([start, gone])
        assert [(one.outcome, one.answer) for one in posted] == [
            ("duplicate", "started"),
            ("duplicate", None),
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("if_exists", ["replace", "renew"])
async def test_a_start_that_waits_still_takes_the_id(
    places: Places, kind: str, if_exists: str
) -> None:
    old, new = places.new("sqlite", 1), places.new(kind, 1)
    async with open_store(old) as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order", row={"status": "completed"})
        start = scenario.start("order")
        assert isinstance(start.body, Start)
        start.body.if_exists = if_exists
        await scenario.accepted(start)
    await move(old, new)
    async with open_store(new) as store:
        # Messages behind it are for the run that it will make, and not for the one that has ended.
        await Scenario(store, "later").accepted(Scenario(store, "behind").message("order"))


# ---------------------------------------------------------------- refusals


async def test_a_store_with_rows_is_no_target(places: Places) -> None:
    old, new = places.new("sqlite", 1), places.new("sqlite", 1)
    for url in (old, new):
        async with open_store(url) as store:
            await Scenario(store).accepted(Scenario(store).start("order"))
    for call in (move(old, new), plan(old, new)):
        with pytest.raises(UsageError, match=r"store2.db is not empty \(it has rows in inbox\)"):
            await call
    async with open_store(old) as store:
        assert store.info.seal is None


async def test_a_store_is_not_moved_into_itself(places: Places) -> None:
    url = places.new("postgres", 1)
    with pytest.raises(UsageError, match="are the same store"):
        await move(url.replace("?", "?create=true&"), url)
    async with open_store(url) as store:
        assert store.info.seal is None


async def test_a_source_is_not_made(places: Places) -> None:
    for kind in KINDS:
        missing, new = places.new(kind, None), places.new("sqlite", 1)
        with pytest.raises(StoreUnavailable, match="there is no store"):
            await move(missing, new)
        assert not await is_there(missing)
        assert not await is_there(new)


async def test_two_sources_do_not_share_a_target(places: Places) -> None:
    one, other, new = (places.new("sqlite", 1) for _ in range(3))
    async with open_store(one) as store, open_store(new) as target:
        seal = Seal(move="0a", role="target", other="sqlite:////one.db", other_id=store.info.id)
        await target.hold()  # type: ignore[attr-defined]
        await target.reseal(None, seal)  # type: ignore[attr-defined]
    async with open_store(other):
        pass
    for call in (move(other, new), plan(other, new)):
        with pytest.raises(StoreMoved, match=r"is being filled from sqlite:////one\.db"):
            await call
    with pytest.raises(UsageError, match="is not being moved to"):
        await give_up(other, new)
    await move(one, new)


async def test_a_move_goes_on_to_where_it_began_only(places: Places) -> None:
    old, new, other = (places.new("sqlite", 1) for _ in range(3))
    await furnished(old)
    with pytest.raises(KeyboardInterrupt):
        await move(old, new, report=interrupt)
    for call in (move(old, other), plan(old, other), give_up(old, other)):
        with pytest.raises(StoreMoved, match=r"is being moved to .*store2\.db"):
            await call
    # It would have been the first row of another store under the old name.
    assert (await plan(old, new)).step == "continue"


def interrupt(_: Progress) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_node_that_runs_is_not_moved_away_under(places: Places, side: str) -> None:
    for kind in KINDS:
        old, new = places.new(kind, 1), places.new(kind, 1)
        for url in (old, new):
            async with open_store(url):
                pass
        node = App("shop").node({"source": old, "target": new}[side])
        async with node:
            for call in (move(old, new), plan(old, new)):
                with pytest.raises(
                    StoreLocked, match=rf"owned by|nodes run on .*: {node.name}; stop them"
                ):
                    await call
        # One that has left in order does not count.
        assert (await move(old, new)).rows["units"] == 0


async def test_a_store_of_another_kind_says_what_it_lacks(places: Places) -> None:
    with pytest.raises(UsageError, match="a MemoryStore cannot be moved: it is no MovableStore"):
        await move(MemoryStore(), places.new("sqlite", 1))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_column_that_is_not_there_is_not_left_out(places: Places, kind: str) -> None:
    async with open_store(places.new(kind, 1)) as store:
        assert isinstance(store, MovableStore)
        seal = Seal(move="0a", role="target", other="sqlite:////one.db", other_id="one")
        await store.hold()
        await store.reseal(None, seal)
        part = RowPart(("run", "scope", "expires_at", "colour"), [(b"run", "default/0", 5, "red")])
        with pytest.raises(StoreFormat, match="no column 'colour' in its table tombstones"):
            await store.fill(seal, "tombstones", part)


# ---------------------------------------------------------------- completeness

NOT_COPIED = {
    # It says what this store is, and whether it moves.
    "meta",
    # Made anew: the index of attributes, the last place, and how many messages wait for each unit.
    "attributes",
    "places",
    "inboxes",
}
DERIVED = {"inbox": {"written", "replaces"}}
"""Columns of PostgreSQL that it makes itself."""


@pytest.mark.parametrize("kind", KINDS)
async def test_no_table_and_no_column_is_forgotten(places: Places, kind: str) -> None:
    # A new table belongs into `store/copied.py`, or into NOT_COPIED with a reason.
    url = places.new(kind, 1)
    async with open_store(url) as store:
        assert isinstance(store, MovableStore)
        await store.hold()
        found = await tables_of(url, store)
        assert found.keys() - NOT_COPIED == ALL_KEYS.keys()
        for table in ALL_KEYS:
            part = await store.rows(table, None)
            assert set(part.columns) == found[table] - DERIVED.get(table, set())


async def tables_of(url: str, store: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    if url.startswith("sqlite"):
        names = await store.inspect(
            "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table'"
        )
    else:
        async with administrator(store.address.options.schema) as connection:
            names = await connection.fetch(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = current_schema()"
            )
    for table, column in names:
        found.setdefault(table, set()).add(column)
    return found


# ---------------------------------------------------------------- a whole app


async def test_work_goes_on_where_it_stood(places: Places) -> None:
    urls = [places.new(kind) for kind in ("sqlite", "postgres", "sqlite")]
    ran: list[str] = []
    app = App("shop")

    @app.activity
    async def charge(step: str) -> str:
        ran.append(step)
        return step

    @app.workflow
    async def child() -> str:
        await approvals.receive()
        return await charge("child")

    approvals = workflow.Channel("approvals", str)

    @app.workflow
    async def order() -> list[str]:
        done = [await charge("first")]
        waiting = child()
        done.append(await approvals.receive())
        await workflow.sleep(0.2)
        done.append(await approvals.receive())
        return [*done, await waiting]

    async with app.node(urls[0]) as node:
        handle = node.client.workflow(order, id="order-1")
        await handle.start()
        async with asyncio.timeout(20):
            while not (children := await node.client.list(parent="order-1")):
                await asyncio.sleep(0.01)
        (found,) = children
    # A client that finds no node posts, and that moves along.
    async with Client.open(urls[0]) as client:
        await client.workflow(order, id="order-1").send(approvals, "posted")
    await move(urls[0], urls[1])
    async with app.node(urls[1]) as node:
        await node.client.get(found.id).send(approvals, "for the child")
    await move(urls[1], urls[2])
    async with app.node(urls[2]) as node:
        handle = node.client.workflow(order, id="order-1")
        await handle.send(approvals, "last")
        async with asyncio.timeout(20):
            assert await handle.result() == ["first", "posted", "last", "child"]
    assert ran == ["first", "child"]


async def test_progress_is_told_for_each_part(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied, "PART_ROWS", 2)
    old, new = places.new("sqlite", 1), places.new("sqlite", 1)
    await furnished(old)
    told: list[Progress] = []
    await move(old, new, report=told.append)
    tasks = [(one.step, one.done, one.total) for one in told if one.table == "tasks"]
    assert tasks == [("copy", 2, 3), ("copy", 3, 3), ("compare", 2, 3), ("compare", 3, 3)]
