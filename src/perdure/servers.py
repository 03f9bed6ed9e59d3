"""Connecting to a PostgreSQL server, or to that one of several which is the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]

STAGGER_S = 0.5
"""How long one server may keep the next one waiting for its turn.

A machine that is gone does not refuse a connection. It answers nothing.
"""
PRIMARY = "target_session_attrs"
_Attempt = asyncio.Task[Any]

# asyncpg has annotations for its own use only.
_connect = cast(
    "Callable[..., Awaitable[Any]]",
    asyncpg.connect,  # pyright: ignore[reportUnknownMemberType]
)


def servers_of(dsn: str) -> list[str]:
    """A URL for each server that a URL names: `postgresql://one,two:5433/shop` names two."""
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]


async def connect(dsn: str, *, timeout_s: float, **settings: Any) -> Any:
    """A connection to the server of a URL, or to the first of several that takes writes.

    Raises:
        Exception: as asyncpg does. With several servers that fail in different ways, an OSError
            says what each of them said.
    """
    servers = servers_of(dsn)
    if len(servers) == 1:
        return await _connect(dsn, timeout=timeout_s, **settings)
    if PRIMARY not in dict(parse_qsl(urlsplit(dsn).query)):
        settings[PRIMARY] = "read-write"

    def attempt(server: str) -> Awaitable[Any]:
        return _connect(server, timeout=timeout_s, **settings)

    return await _Race(servers, attempt).run()


class _Race:
    """Attempts to connect, each begun when the one before has failed or takes long."""

    def __init__(self, servers: list[str], attempt: Callable[[str], Awaitable[Any]]) -> None:
        """None has begun yet."""
        self._waiting = list(servers)
        self._attempt = attempt
        self._running: dict[_Attempt, str] = {}
        self._failed: dict[str, Exception] = {}

    async def run(self) -> Any:
        """The first connection that was made."""
        try:
            while self._waiting or self._running:
                self._begin()
                found = await self._next()
                if found is not None:
                    return found
            raise self._failure()
        finally:
            await self._end()

    def _begin(self) -> None:
        if self._waiting:
            server = self._waiting.pop(0)
            task = asyncio.ensure_future(self._attempt(server))
            self._running[task] = server

    async def _next(self) -> Any:
        """A connection. None: all that have ended have failed, or it is another server's turn."""
        patience_s: float | None = None
        if self._waiting:
            patience_s = STAGGER_S
        done, _ = await asyncio.wait(
            self._running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            error = task.exception()
            if error is None:
                # The others are ended, also one that has just succeeded as well.
                del self._running[task]
                return task.result()
            if not isinstance(error, Exception):
                raise error
            self._failed[self._running.pop(task)] = error
        return None

    def _failure(self) -> Exception:
        errors = list(self._failed.values())
        # A wrong password, say, at each of them.
        if len({type(error) for error in errors}) == 1:
            return errors[0]
        said = [f"{_host(server)}: {error}" for server, error in self._failed.items()]
        return OSError(f"none of the servers takes writes ({'; '.join(said)})")

    async def _end(self) -> None:
        """End the attempts that nobody waits for any more."""
        for task in self._running:
            task.cancel()
        for ended in await asyncio.gather(*self._running, return_exceptions=True):
            if not isinstance(ended, BaseException):
                ended.terminate()


def _host(server: str) -> str:
    return urlsplit(server).netloc.rpartition("@")[2]
