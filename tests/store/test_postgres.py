"""What only a shared database shows: two writers, connections that are lost, poolers, notifications, bad input."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from postgres_proxy import Pooler, Proxy, listening, redirected
from postgres_server import new_server, server_url
from postgres_stores import FreshStore, Schemas

from perdure.errors import StoreError, StoreFormat, StoreUnavailable, UsageError
from perdure.kernel.data.commit import Fence
from perdure.kernel.data.message import Send
from perdure.ports.store import Claim, Hint, Incarnation, Units
from perdure.store import open_store
from perdure.store.postgres import PostgresStore
from perdure.store.postgres.address import Options, address_of
from perdure.testing.conformance.scenario import NOW, Scenario, chunk, ids, numbered, task


@pytest.fixture
def schemas() -> Iterator[Schemas]:
    found = Schemas()
    yield found
    found.give_back()


@pytest.fixture
def schema(schemas: Schemas) -> str:
    return schemas.take()


def store_at(url: str, schema: str, **options: Any) -> PostgresStore:
    return PostgresStore(address_of(urlsplit(url), Options(schema=schema, **options)))


@asynccontextmanager
async def two(schema: str, **options: Any) -> AsyncIterator[tuple[Scenario, Scenario]]:
    """Two processes on one store, as far as the store can see."""
    async with (
        FreshStore(schema, 2, **options) as first,
        store_at(server_url(), schema, **options) as second,
    ):
        yield Scenario(first, "one"), Scenario(second, "two")


@asynccontextmanager
async def administrator(schema: str) -> AsyncIterator[Any]:
    """A connection past the store."""
    connection = await asyncpg.connect(server_url(), server_settings={"search_path": f'"{schema}"'})
    try:
        yield connection
    finally:
        await connection.close()


async def until_waits(connection: Any, count: int = 1) -> None:
    """Until so many sessions wait for a lock."""
    for _ in range(2_000):
        # Inside a transaction the activity stays as it was at the first look.
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        found = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        if found >= count:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError(f"{found} sessions wait for a lock")


# ---------------------------------------------------------------- two writers


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
            scenario.store.lease("gpu", f"worker-{n}", 10, 1_000, NOW)
            for n, scenario in enumerate((one, other) * 4)
        ]
        leased = [one.seq for tasks in await asyncio.gather(*calls) for one in tasks]
        assert sorted(leased) == sorted(set(leased))
        assert len(leased) == 40


# ---------------------------------------------------------------- connections that are lost


async def test_a_commit_whose_answer_was_lost_is_found_out(schema: str) -> None:
    proxy = Proxy(server_url())
    async with FreshStore(schema, 1) as direct, listening(proxy.serve) as port:
        async with store_at(redirected(server_url(), port), schema) as store:
            scenario = Scenario(store)
            await scenario.claim()
            for version in range(3):
                proxy.loses_answers_to = b"event of %d" % version
                events = chunk(version + 1, events=b"event of %d" % version)
                await scenario.applied("order", version, journal=[events])
                assert proxy.lost == version + 1
            loaded = await Scenario(direct).load("order")
            assert (loaded.version, len(loaded.journal)) == (3, 3)


async def test_a_commit_that_never_arrives_is_submitted_again(schema: str) -> None:
    proxy = Proxy(server_url())
    async with FreshStore(schema, 1), listening(proxy.serve) as port:
        async with store_at(redirected(server_url(), port), schema) as store:
            scenario = Scenario(store)
            await scenario.claim()
            await scenario.applied("order")
            proxy.refuses = True
            proxy.cut()
            commit = store.commit([scenario.commit("order", 1)])
            await asyncio.sleep(0.1)
            assert not commit.done()
            proxy.refuses = False
            assert await commit == ["applied"]


async def test_a_server_that_stays_away_is_an_error_with_the_outcome(schema: str) -> None:
    proxy = Proxy(server_url())
    async with FreshStore(schema, 1) as direct, listening(proxy.serve) as port:
        url = redirected(server_url(), port)
        async with store_at(url, schema, patience_ms=50) as store:
            scenario = Scenario(store)
            await scenario.claim()
            await scenario.applied("order")
            commit = scenario.commit("order", 1, journal=[chunk(1, events=b"lost event")])
            proxy.loses_answers_to = b"lost event"
            proxy.refuses = True
            with pytest.raises(StoreUnavailable) as caught:
                await store.commit([commit])
            assert caught.value.outcome == "unknown"
            later = scenario.commit("order", 2, {"journal_events": 1})
            with pytest.raises(StoreUnavailable) as caught:
                await store.commit([later])
            assert (caught.value.outcome, caught.value.is_permanent) == ("none", False)
            assert "password" not in str(caught.value)
            proxy.cut()
            for read in (store.load(["order"]), store.query(Units())):
                with pytest.raises(StoreUnavailable):
                    await read
            assert (await Scenario(direct).load("order")).version == 2
            proxy.refuses = False
            assert await store.commit([commit]) == ["applied"]
            assert await store.commit([later]) == ["applied"]


async def test_a_session_that_is_ended_in_the_middle_of_a_commit_costs_nothing(
    schema: str,
) -> None:
    async with two(schema) as (one, _), administrator(schema) as connection:
        await one.claim()
        await one.applied("order")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM units WHERE id = 'order' FOR UPDATE")
        commit = one.store.commit([one.commit("order", 1)])
        await until_waits(connection)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        await transaction.rollback()
        assert await commit == ["applied"]
        assert (await one.load("order")).version == 2


async def test_all_sessions_are_ended_and_the_store_goes_on(schema: str) -> None:
    async with two(schema) as (one, other), administrator(schema) as connection:
        await one.claim()
        await one.applied("order")
        await other.load("order")
        for version in range(1, 4):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name = 'perdure'"
            )
            await one.applied("order", version)
            await one.accepted(one.message("order"))
            assert (await other.load("order")).version == version + 1


async def test_a_serialization_failure_is_tried_again(schema: str) -> None:
    async with two(schema) as (one, _), administrator(schema) as connection:
        await one.claim()
        await connection.execute(
            "CREATE SEQUENCE tries;"
            "CREATE FUNCTION fail_twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('tries') < 3 THEN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END IF;"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER failing BEFORE INSERT ON units FOR EACH ROW EXECUTE FUNCTION fail_twice()"
        )
        try:
            await one.applied("order")
            assert await connection.fetchval("SELECT last_value FROM tries") == 3
        finally:
            await connection.execute(
                "DROP TRIGGER failing ON units; DROP FUNCTION fail_twice; DROP SEQUENCE tries"
            )


async def test_a_lock_that_is_held_for_too_long_fails_the_batch_and_nothing_else(
    schema: str,
) -> None:
    async with two(schema, lock_ms=50) as (one, _), administrator(schema) as connection:
        await one.claim()
        await one.applied("order")
        async with connection.transaction():
            await connection.execute("SELECT FROM units WHERE id = 'order' FOR UPDATE")
            commit = one.commit("order", 1)
            with pytest.raises(StoreUnavailable, match="lock") as caught:
                await one.store.commit([commit])
            assert caught.value.outcome == "none"
        assert await one.apply(commit) == ["applied"]


async def test_a_full_disk_fails_the_batch_and_is_no_verdict(schema: str) -> None:
    async with two(schema) as (one, _), administrator(schema) as connection:
        await one.claim()
        await connection.execute(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER failing BEFORE INSERT ON units FOR EACH ROW EXECUTE FUNCTION no_space()"
        )
        commits = one.commits(numbered("order", 4))
        try:
            with pytest.raises(StoreUnavailable, match="disk") as caught:
                await one.store.commit(commits)
            assert caught.value.outcome == "none"
        finally:
            await connection.execute("DROP TRIGGER failing ON units; DROP FUNCTION no_space")
        assert await one.apply(*commits) == ["applied"] * 4


async def test_a_text_that_postgresql_cannot_hold_fails_alone(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(schema) as (one, _):
        await one.claim()
        bad = [
            one.commit("nul", row={"reason": "a\0b"}),
            one.commit("half", row={"type": "\ud800"}),
        ]
        commits = one.commits(numbered("order", 9))
        with caplog.at_level(logging.CRITICAL):
            verdicts = await one.apply(*commits[:4], *bad, *commits[4:])
        assert verdicts == ["applied"] * 4 + ["invalid"] * 2 + ["applied"] * 5
        assert {record.instance for record in caplog.records} == {"nul", "half"}  # type: ignore[attr-defined]
        good = one.message("order-1")
        with pytest.raises(StoreError, match="order-2"):
            await one.post(one.message("order-2", Send("a", b""), sender="\0"))
        assert (await one.post(good))[0].outcome == "accepted"


# ---------------------------------------------------------------- a server that restarts


async def test_a_restart_of_the_server_loses_nothing() -> None:
    server = new_server(fsync=True)
    server.start()
    try:
        async with store_at(server.url, "perdure", shards=1, patience_ms=30_000) as store:
            scenario = Scenario(store)
            await scenario.claim()
            applied: list[str] = []
            is_over = asyncio.Event()

            async def live() -> None:
                number = 0
                while not is_over.is_set():
                    number += 1
                    await scenario.applied(f"order-{number}")
                    applied.append(f"order-{number}")

            lives = asyncio.create_task(live())
            for how in ("crash", "order"):
                before = len(applied)
                while len(applied) < before + 20:
                    await asyncio.sleep(0.005)
                stop = signal.SIGQUIT if how == "crash" else signal.SIGINT
                await asyncio.to_thread(server.stop, stop)
                await asyncio.to_thread(server.start)
            before = len(applied)
            while len(applied) < before + 5:
                await asyncio.sleep(0.005)
            is_over.set()
            await lives
            assert await scenario.versions(applied) == [1] * len(applied)
            assert (await scenario.counts())["running"] == len(applied)
    finally:
        server.remove()


# ---------------------------------------------------------------- notifications


async def heard(hints: AsyncIterator[Hint]) -> Hint:
    async with asyncio.timeout(10):
        return await anext(hints)


async def listens(*scenarios: Scenario) -> None:
    for scenario in scenarios:
        store = scenario.store
        assert isinstance(store, PostgresStore)
        store.hints()
        while not store.is_listening:
            await asyncio.sleep(0.005)


async def test_a_post_of_another_process_is_heard(schema: str) -> None:
    async with two(schema) as (one, other):
        await one.claim()
        await one.applied("order")
        await listens(one)
        hints = one.store.hints()
        await other.accepted(other.message("order"))
        assert await heard(hints) == Hint("order", one.scope("order"))


async def test_a_commit_of_another_owner_is_heard(schema: str) -> None:
    async with two(schema) as (one, other):
        await one.claim("default/0")
        await other.claim("default/1")
        await listens(other)
        hints = other.store.hints()
        target = one.unit_in("default/1")
        await one.applied(one.unit_in("default/0"), post=[one.message(target)])
        assert await heard(hints) == Hint(target, "default/1")


async def test_a_change_of_another_process_ends_the_wait_at_once(schema: str) -> None:
    async with two(schema) as (one, other):
        await one.claim()
        await one.applied("order")
        await listens(one, other)
        wait = asyncio.create_task(other.store.wait_change("order", 1, 20_000))
        # Until only the notification or the slow look of 5 s can end it.
        await asyncio.sleep(0.4)
        began = time.monotonic()
        await one.applied("order", 1)
        assert await wait == 2
        assert time.monotonic() - began < 1.5


async def test_thousands_of_hints_fit(schema: str) -> None:
    async with two(schema) as (one, other):
        await one.claim()
        await listens(one)
        hints = one.store.hints()
        names = [f"{'ü' * 150}-{n}" for n in range(300)]
        await other.post(*other.starts(names))
        assert {(await heard(hints)).unit for _ in names} == set(names)


async def test_a_garbled_notification_harms_nobody(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(schema) as (one, other), administrator(schema) as connection:
        await one.claim()
        await listens(one)
        hints = one.store.hints()
        for payload in ("", "{", "[1]", '["x", [["order"]]]'):
            await connection.execute("SELECT pg_notify($1, $2)", f"perdure:{schema}", payload)
        await other.accepted(other.start("order"))
        assert (await heard(hints)).unit == "order"
        assert "cannot be read" in caplog.text


# ---------------------------------------------------------------- poolers


async def test_a_pooler_may_change_the_connection_behind_each_transaction(schema: str) -> None:
    pooler = Pooler(server_url())
    async with FreshStore(schema, 1), listening(pooler.serve) as port:
        url = redirected(server_url(), port)
        options = {"pooled": True, "listen": server_url()}
        async with (
            store_at(url, schema, **options) as first,
            store_at(url, schema, pooled=True) as second,
        ):
            one, other = Scenario(first), Scenario(second, "two")
            await one.claim()
            await listens(one)
            hints = first.hints()
            for version in range(4):
                await one.applied("order", version, journal=[chunk(version + 1)])
                await other.accepted(other.message("order"))
                assert (await heard(hints)).unit == "order"
            assert len((await other.load("order")).journal) == 4
            assert len(await other.all(Units())) == 1
            wait = asyncio.create_task(second.wait_change("order", 4, 10_000))
            await one.applied("order", 4)
            assert await wait == 5
            assert not second.is_listening
        pooler.close()
    assert pooler.transactions > 20


async def test_a_pooler_without_its_option_is_named(schema: str) -> None:
    pooler = Pooler(server_url())
    async with FreshStore(schema, 1), listening(pooler.serve) as port:
        with pytest.raises(StoreUnavailable, match="pooled=true"):
            await store_at(redirected(server_url(), port), schema).__aenter__()
        pooler.close()


# ---------------------------------------------------------------- addresses, and what is wrong with them


async def refusal(url: str) -> str:
    with pytest.raises(StoreError) as caught:
        async with open_store(url):
            pass
    assert "secret" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


async def test_what_is_wrong_with_a_server_is_said() -> None:
    url = server_url()
    assert "nowhere" in await refusal(url.replace("/postgres", "/nowhere"))
    assert "user" in await refusal(url.replace("perdure@", "stranger:secret@"))
    proxy = Proxy(url)
    proxy.refuses = True
    async with listening(proxy.serve) as port:
        assert "StoreUnavailable" in await refusal(redirected(url, port))
    assert "did not answer" in await refusal(redirected(url, port))


@pytest.mark.parametrize("schema", ['Über "uns"; DROP', "a.b", "UPPER", "select", "x" * 63])
async def test_a_schema_may_have_any_name(schema: str) -> None:
    url = f"{server_url()}?schema={quote(schema)}&shards=1"
    try:
        async with open_store(url) as store:
            scenario = Scenario(store)
            await scenario.claim()
            await scenario.applied("order", journal=[chunk(1)])
            await scenario.accepted(scenario.message("order"))
        async with open_store(url) as store:
            assert (await Scenario(store).load("order")).version == 1
    finally:
        async with administrator("public") as connection:
            quoted = schema.replace('"', '""')
            await connection.execute(f'DROP SCHEMA "{quoted}" CASCADE')


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("schema=", "schema"),
        ("schema=pg_mine", "pg_"),
        (f"schema={'x' * 64}", "63"),
        ("shards=0", "shard"),
        ("readers=0", "readers"),
        ("nonsense=1", "nonsense"),
        ("lock_ms=x", "lock_ms"),
    ],
)
def test_a_wrong_option_is_refused(options: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        open_store(f"postgresql://me:secret@localhost/db?{options}")
    assert "secret" not in str(caught.value)


async def test_a_schema_with_other_tables_is_no_store(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_foreign"
    async with administrator(schema) as connection:
        await connection.execute(f'CREATE SCHEMA "{schema}"; CREATE TABLE customers (id int)')
        try:
            text = await refusal(f"{server_url()}?schema={schema}")
            assert "StoreFormat" in text
            assert "customers" in text
        finally:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_another_format_or_shard_count_is_refused(schema: str) -> None:
    async with FreshStore(schema, 2), administrator(schema) as connection:
        url = f"{server_url()}?schema={schema}"
        assert "2 shards" in await refusal(f"{url}&shards=3")
        await connection.execute("UPDATE meta SET value = '9' WHERE key IN ('format', 'prepared')")
        assert "upgrade perdure" in await refusal(url)
        await connection.execute("UPDATE meta SET value = 'x' WHERE key = 'format'")
        assert "StoreFormat" in await refusal(url)
        await connection.execute("UPDATE meta SET value = '1' WHERE key IN ('format', 'prepared')")


async def test_tables_that_were_removed_are_a_format_error(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_gone"
    async with store_at(server_url(), schema, shards=1) as store:
        scenario = Scenario(store)
        await scenario.claim()
        async with administrator(schema) as connection:
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
        with pytest.raises(StoreFormat, match="tables"):
            await store.load(["order"])
        with pytest.raises(StoreUnavailable) as caught:
            await store.commit([scenario.commit("order")])
        assert caught.value.is_permanent


async def test_a_user_without_rights_is_told_so(schemas: Schemas) -> None:
    schema = f"{schemas.take()}_mine"
    async with administrator("public") as connection:
        await connection.execute("CREATE ROLE poor LOGIN")
        try:
            url = server_url().replace("perdure@", "poor@")
            assert "right" in await refusal(f"{url}?schema={schema}")
            async with store_at(server_url(), schema, shards=1):
                assert "right" in await refusal(f"{url}?schema={schema}")
        finally:
            await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE; DROP ROLE poor')


async def test_the_time_is_that_of_the_server(schema: str) -> None:
    async with FreshStore(schema, 1) as store:
        assert abs(await store.now() - time.time() * 1000) < 5_000


async def test_fences_of_a_strange_incarnation_are_no_match(schema: str) -> None:
    async with FreshStore(schema, 1) as store:
        scenario = Scenario(store)
        await scenario.claim()
        strange = Fence("default/0", 1, "'; DROP TABLE units; --")
        assert await scenario.apply(scenario.commit("order", fence=strange)) == ["fenced"]
