"""The database fails over to another server: nothing acknowledged is lost, or the loss is noticed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from postgres_pair import Pair
from postgres_server import server_url
from postgres_stores import FreshStore, administrator

from perdure import App
from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.events import ActivityCompleted
from perdure.servers import connect, servers_of
from perdure.store import open_store
from perdure.store.postgres.witness import Found, Witness
from perdure.testing.conformance.scenario import NOW, Scenario


@pytest.fixture
def pairs() -> Iterator[Any]:
    made: list[Pair] = []

    def pair(*, is_synchronous: bool) -> Pair:
        made.append(Pair(is_synchronous=is_synchronous))
        made[-1].start()
        return made[-1]

    yield pair
    for one in made:
        one.remove()


# ---------------------------------------------------------------- choosing a server


def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def with_first(host: str) -> str:
    """The URL of the tests' server behind another one."""
    return server_url().replace("127.0.0.1", f"{host},127.0.0.1")


def test_a_url_names_several_servers() -> None:
    assert servers_of("postgresql://u:p%40@a:1,b,c:3/db?sslmode=disable") == [
        f"postgresql://u:p%40@{host}/db?sslmode=disable" for host in ("a:1", "b", "c:3")
    ]
    assert servers_of("postgresql://a/db") == ["postgresql://a/db"]


async def test_a_server_that_refuses_is_passed_over() -> None:
    url = with_first(f"127.0.0.1:{dead_port()}")
    async with open_store(f"{url}?schema=passed_over&create=true&shards=1") as store:
        await Scenario(store).claim()
        assert store.address.name.count("127.0.0.1") == 2  # type: ignore[attr-defined]


async def test_a_machine_that_answers_nothing_costs_a_moment() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(10)
        began = time.monotonic()
        connection = await connect(
            with_first(f"127.0.0.1:{silent.getsockname()[1]}"), timeout_s=30.0
        )
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert time.monotonic() - began < 10


async def test_when_none_takes_writes_each_says_why(pairs: Any) -> None:
    pair = pairs(is_synchronous=False)
    pair.kill_primary()
    with pytest.raises(OSError, match=r"none of the servers takes writes \(127\.0\.0\.1:.*; 127"):
        await connect(pair.url, timeout_s=5.0)
    with pytest.raises(StoreUnavailable, match="none of the servers takes writes") as caught:
        async with open_store(pair.url):
            raise AssertionError
    assert not caught.value.is_permanent


async def test_a_wrong_password_at_all_of_them_is_that() -> None:
    url = server_url().replace("perdure@127.0.0.1", "nobody@127.0.0.1")
    hosts = url.partition("@")[2].partition("/")[0]
    with pytest.raises(StoreUnavailable, match="nobody") as caught:
        async with open_store(url.replace(hosts, f"{hosts},{hosts}")):
            raise AssertionError
    assert caught.value.is_permanent


def test_a_standby_is_no_store() -> None:
    with pytest.raises(UsageError, match="target_session_attrs"):
        open_store("postgresql://a,b/db?target_session_attrs=standby")


# ---------------------------------------------------------------- going back in time

HERE = Witness("order", b"run", 5, False, "default/0", 3)


@pytest.mark.parametrize(
    ("witness", "found", "is_missing"),
    [
        (HERE, Found(3, 5, b"run", False), False),
        (HERE, Found(3, 6, b"run", False), False),  # a commit whose answer did not come
        (HERE, Found(3, 4, b"run", False), True),
        (HERE, Found(3, None, None, False), True),
        (HERE, Found(3, None, None, True), False),  # a deletion whose answer did not come
        (HERE, Found(3, 1, b"next", True), False),  # the same, and the id was used again
        (HERE, Found(2, 5, b"run", False), True),
        (HERE, Found(None, None, None, False), True),
        (HERE, Found(4, None, None, False), False),  # another owner
        (HERE, Found(4, 4, b"run", False), False),
        (Witness("order", b"run", 5, True, "default/0", 3), Found(3, 4, b"run", False), True),
        (Witness("order", b"run", 5, True, "default/0", 3), Found(3, None, None, True), False),
        (Witness("order", b"run", 5, True, "default/0", 3), Found(3, None, None, False), False),
        (Witness("order", b"run", 5, True, "default/0", 3), Found(3, 1, b"next", False), False),
    ],
)
def test_a_witness_is_missing_only_when_nothing_else_explains_it(
    witness: Witness, found: Found, is_missing: bool
) -> None:
    assert witness.is_missing(found) == is_missing


@asynccontextmanager
async def rewound(schema: str, back: str) -> Any:
    """A store whose server loses its sessions, and something that it has acknowledged."""
    async with FreshStore(schema, 1) as store, administrator(schema) as connection:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        await scenario.applied("order", 1)
        await connection.execute(back)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'perdure' AND pid <> pg_backend_pid()"
        )
        yield scenario


@pytest.mark.parametrize(
    "back",
    [
        "UPDATE units SET version = 1",
        "DELETE FROM units",
        "UPDATE scopes SET epoch = epoch - 1",
    ],
)
async def test_a_server_that_went_back_gets_nothing_more(schema: str, back: str) -> None:
    async with rewound(schema, back) as scenario:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"went back in time.*'order'") as caught:
                await scenario.apply(scenario.commit("other"))
            assert caught.value.is_permanent
        assert (await scenario.load("other")).row is None


async def test_a_lost_connection_alone_is_no_loss(schema: str) -> None:
    async with rewound(schema, "SELECT 1") as scenario:
        await scenario.applied("order", 2)
        await scenario.applied("other")


async def test_a_unit_that_was_deleted_last_is_no_loss(schema: str) -> None:
    async with FreshStore(schema, 1) as store, administrator(schema) as connection:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        await scenario.applied("order", 1, delete=NOW)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'perdure' AND pid <> pg_backend_pid()"
        )
        await scenario.applied("other")


async def test_a_standby_without_the_last_commits_is_noticed(pairs: Any) -> None:
    pair = pairs(is_synchronous=False)
    async with open_store(f"{pair.url}?shards=1&patience_ms=20000") as store:
        scenario = Scenario(store)
        await scenario.claim()
        await scenario.applied("order")
        await pair.caught_up()
        pair.standby.stop()
        # The standby will never hear of this.
        await scenario.applied("order", 1)
        pair.kill_primary()
        pair.follow()
        await pair.promote()
        with pytest.raises(StoreUnavailable, match="went back in time") as caught:
            await scenario.apply(scenario.commit("order", 2))
        assert caught.value.is_permanent


# ---------------------------------------------------------------- under load


async def test_a_failover_under_load_loses_nothing_that_was_acknowledged(pairs: Any) -> None:
    pair = pairs(is_synchronous=True)
    await pair.caught_up()
    app = App("shop")

    @app.activity
    async def charge(number: int) -> int:
        return number

    @app.workflow
    async def order(number: int) -> int:
        return await charge(number) + await charge(-number)

    acknowledged: list[int] = []
    failing = asyncio.Event()
    done = asyncio.Event()

    async with app.node(f"{pair.url}?shards=8&sslmode=disable&statement_ms=2000") as node:

        async def starts(first: int) -> None:
            number = first
            while not done.is_set():
                try:
                    await node.client.workflow(order, id=f"order-{number}").start(number)
                except StoreUnavailable:
                    continue
                acknowledged.append(number)
                number += 4
                if len(acknowledged) == 40:
                    failing.set()

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for first in (1, 2, 3, 4):
                group.create_task(starts(first))
            await failing.wait()
            before = len(acknowledged)
            pair.kill_primary()
            await pair.promote()
            while len(acknowledged) < before + 40:
                await asyncio.sleep(0.01)
            done.set()
        async with asyncio.timeout(120):
            for number in acknowledged:
                result = await node.client.get(f"order-{number}").result()
                assert result == 0
        for number in acknowledged:
            history = await node.client.get(f"order-{number}").history()
            results = [one for one in history if isinstance(one.event, ActivityCompleted)]
            assert len(results) == 2, results
