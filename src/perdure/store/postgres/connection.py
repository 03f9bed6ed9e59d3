"""Connections to a PostgreSQL server, with the settings of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, Protocol, TypeVar

from perdure import servers
from perdure.store.postgres.address import Address
from perdure.store.postgres.errors import DRIVER_ERRORS, Meaning, meaning_of

T = TypeVar("T")

Values = Sequence[Any]
"""A row: a value for each column."""

CONNECT_S = 5.0
"""How long a server may take to answer a new connection."""
PATIENT_MS = 60_000
"""How long a client with long work may stand still in a transaction."""
_GRACE_S = 2.0
"""How much longer than the server a client waits for a statement to end.

A connection can be dead without an error, after a failure of the network.
"""


class Connection(Protocol):
    """The part of asyncpg's connection that a store uses. asyncpg has no types of its own."""

    async def fetch(self, query: str, *args: object) -> list[Values]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *args: object) -> Values | None:
        """The first row."""
        ...

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first value of the first row."""
        ...

    async def execute(self, query: str, *args: object) -> str:
        """Run statements without a result."""
        ...

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        """Call back for each notification."""
        ...

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        """Call back when the connection has ended."""
        ...

    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        ...

    def terminate(self) -> None:
        """End it without waiting for the server."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:
        """End it in order."""
        ...

    def get_server_version(self) -> tuple[int, ...]:
        """The version of the server: major, minor, and more."""
        ...


_connect: Callable[..., Awaitable[Connection]] = servers.connect


async def connect(address: Address, *, listening: bool = False) -> Connection:
    """Open a connection. A listening one goes past a pooler, if its URL is given."""
    options = address.options
    settings: dict[str, str] = {}
    dsn = address.dsn
    if listening and options.listen is not None:
        dsn = options.listen
    elif not options.pooled:
        settings = _settings(address)
    # A prepared statement belongs to one connection of the server, and a pooler changes it.
    cache_size = 100
    if options.pooled:
        cache_size = 0
    return await _connect(
        dsn,
        timeout_s=CONNECT_S,
        command_timeout=options.statement_ms / 1000 + _GRACE_S,
        server_settings=settings,
        statement_cache_size=cache_size,
    )


async def connect_patiently(address: Address) -> Connection:
    """Open a connection for work that may take long. It goes past a pooler."""
    options = address.options
    settings = _settings(address)
    settings["statement_timeout"] = "0"
    # Such work may read for a while between two statements. It must not stop for ever, either.
    settings["idle_in_transaction_session_timeout"] = str(PATIENT_MS)
    return await _connect(
        options.listen or address.dsn, timeout_s=CONNECT_S, server_settings=settings
    )


def _settings(address: Address) -> dict[str, str]:
    options = address.options
    settings = {
        "application_name": "perdure",
        "search_path": address.quoted_schema,
        "lock_timeout": str(options.lock_ms),
        "statement_timeout": str(options.statement_ms),
        "idle_in_transaction_session_timeout": str(options.lock_ms),
    }
    if address.is_lax:
        settings["synchronous_commit"] = "on"
    return settings


Mode = Literal["statement", "transaction", "snapshot"]
"""How a connection is used: for one statement, for some that are done together, or for reads that
see the same state."""

_BEGIN: dict[Mode, str] = {
    "statement": "BEGIN",
    "transaction": "BEGIN",
    "snapshot": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
}


@asynccontextmanager
async def turn(
    connection: Connection, address: Address, mode: Mode = "statement"
) -> AsyncGenerator[Connection]:
    """A use of a connection. Behind a pooler it is always a transaction, with all settings."""
    if mode == "statement" and not address.options.pooled:
        yield connection
        return
    await connection.execute(_begin(address, mode))
    try:
        yield connection
    except Exception:
        # The first error counts. A connection that is gone has no transaction any more.
        with suppress(*DRIVER_ERRORS):
            await connection.execute("ROLLBACK")
        raise
    except BaseException:
        # The caller was cancelled, and does not wait for the server.
        connection.terminate()
        raise
    await connection.execute("COMMIT")


def _begin(address: Address, mode: Mode) -> str:
    """The statements that begin a transaction, in one message."""
    lines = [_BEGIN[mode]]
    if address.options.pooled:
        settings = _settings(address)
        # That name is for people, who see the pooler's.
        del settings["application_name"]
        # The schema is quoted already, as an identifier.
        lines.append(f"SET LOCAL search_path = {settings.pop('search_path')}")
        lines += [f"SET LOCAL {name} = '{value}'" for name, value in settings.items()]
    return "; ".join(lines)


class Pool:
    """Connections for reads and short calls, opened when they are needed."""

    def __init__(self, address: Address) -> None:
        """Open none yet."""
        self._address = address
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(address.options.readers)

    @asynccontextmanager
    async def taken(self, mode: Mode = "statement") -> AsyncGenerator[Connection]:
        """A connection for the caller alone."""
        async with self._free:
            connection = await self._take()
            try:
                async with turn(connection, self._address, mode):
                    yield connection
            except Exception as error:
                if meaning_of(error) is Meaning.LOST:
                    connection.terminate()
                raise
            except BaseException:
                # Nobody knows what the cancelled caller has left behind.
                connection.terminate()
                raise
            finally:
                if not connection.is_closed():
                    self._idle.append(connection)

    async def _take(self) -> Connection:
        while self._idle:
            # The one that was used last: its statements are prepared, and it is likely alive.
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await connect(self._address)

    def give(self, connection: Connection) -> None:
        """Have a connection that was opened elsewhere, and is idle."""
        self._idle.append(connection)

    def forget(self) -> None:
        """Drop all idle connections. The server has likely ended them."""
        for connection in self._idle:
            connection.terminate()
        self._idle.clear()

    async def close(self) -> None:
        """Close all of them."""
        idle = self._idle
        self._idle = []
        await asyncio.gather(*map(close, idle))


def columns(rows: Iterable[Values], width: int) -> list[list[Any]]:
    """Rows as arrays, one for each of `width` columns. PostgreSQL makes rows of them again."""
    found: list[list[Any]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(found, row, strict=True):
            column.append(value)
    return found


async def close(connection: Connection) -> None:
    """Close a connection in order, if the server lets us."""
    try:
        await connection.close(timeout=_GRACE_S)
    except DRIVER_ERRORS:
        connection.terminate()


Work = Callable[[Connection], Awaitable[T]]
"""Statements on a connection, and what they give."""
