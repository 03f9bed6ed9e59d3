"""Notifications between processes, and poolers between them and the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from postgres_proxy import Pooler, listening, redirected
from postgres_server import server_url
from postgres_stores import (
    FreshStore,
    administrator,
    heard,
    listens,
    store_at,
    two,
)

from perdure.errors import StoreUnavailable
from perdure.ports.store import Hint, Units
from perdure.testing.conformance.scenario import Scenario, chunk

# ---------------------------------------------------------------- notifications


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


@asynccontextmanager
async def pooler_of_ours() -> AsyncIterator[str]:
    """As strict as one can be: each transaction gets another connection."""
    pooler = Pooler(server_url())
    async with listening(pooler.serve) as port:
        yield redirected(server_url(), port)
    assert pooler.transactions > 20
    pooler.close()


@asynccontextmanager
async def pgbouncer() -> AsyncIterator[str]:
    """The real one, where it is installed."""
    program = os.environ.get("PERDURE_TEST_PGBOUNCER") or shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed; the strict pooler of these tests was used")
    parts = urlsplit(server_url())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{parts.username}" ""\n')
        (folder / "config").write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\n"
            f"auth_file = {folder}/users\npool_mode = transaction\nunix_socket_dir =\n"
        )
        # It refuses to run as root.
        user = 65534 if os.geteuid() == 0 else None
        process = subprocess.Popen([program, "-q", str(folder / "config")], user=user)
        try:
            for _ in range(500):
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert process.poll() is None, "pgbouncer has ended"
                await asyncio.sleep(0.01)
            yield redirected(server_url(), port)
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("pooler", [pooler_of_ours, pgbouncer])
async def test_a_pooler_may_change_the_connection_behind_each_transaction(
    schema: str, pooler: Callable[[], AbstractAsyncContextManager[str]]
) -> None:
    async with FreshStore(schema, 1), pooler() as url:
        async with (
            store_at(url, schema, pooled=True, listen=server_url()) as first,
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


async def test_a_pooler_without_its_option_is_named(schema: str) -> None:
    pooler = Pooler(server_url())
    async with FreshStore(schema, 1), listening(pooler.serve) as port:
        with pytest.raises(StoreUnavailable, match="pooled=true"):
            await store_at(redirected(server_url(), port), schema).__aenter__()
        pooler.close()
