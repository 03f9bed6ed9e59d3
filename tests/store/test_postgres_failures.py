"""Connections that are lost in the middle of a commit, servers that restart, statements that cannot be done."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from postgres_proxy import Proxy, listening, redirected
from postgres_server import new_server, server_url
from postgres_stores import (
    FreshStore,
    administrator,
    listens,
    store_at,
    two,
    until_waits,
)

from perdure.errors import StoreError, StoreUnavailable
from perdure.kernel.data.message import Send
from perdure.ports.store import Units
from perdure.store.postgres import notices
from perdure.store.postgres.address import Options, address_of
from perdure.store.postgres.connection import Connection, connect
from perdure.store.postgres.lane import Lane, Writing
from perdure.testing.conformance.scenario import Scenario, chunk, numbered

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


async def test_a_defect_of_the_store_leaves_no_caller_waiting(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def write(_connection: object, batches: list[list[str]]) -> list[str]:
        found = [word for batch in batches for word in batch]
        return [] if "lost" in found else found

    address = address_of(urlsplit(server_url()), Options(schema=schema))
    lane = Lane(address, Writing(write, lambda word, _: word, lambda _words, _results: None), "x")
    with pytest.raises(StoreUnavailable) as caught:
        await lane.submit(["lost"])
    assert caught.value.outcome == "unknown"
    assert "defect" in caplog.text
    assert await lane.submit(["kept"]) == ["kept"]
    await lane.close()


async def test_a_store_listens_again_after_an_error_of_the_driver_itself(
    schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[None] = []

    async def connect_late(*args: Any, **options: Any) -> Connection:
        tries.append(None)
        if len(tries) == 1:
            # The driver says this of a session that the server ends at the wrong moment.
            raise asyncpg.InternalClientError("cannot switch to state 12")
        return await connect(*args, **options)

    monkeypatch.setattr(notices, "connect", connect_late)
    async with FreshStore(schema, 2) as store, asyncio.timeout(10):
        await listens(Scenario(store))
    assert len(tries) == 2
