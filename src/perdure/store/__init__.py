"""Stores, and the door to them: `open_store("sqlite:///shop.db")`."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote_to_bytes, urlsplit

import msgspec

from perdure.errors import UsageError
from perdure.store.limits import DEFAULT_LIMITS, StoreLimits

if TYPE_CHECKING:
    from perdure.ports.clock import Clock
    from perdure.ports.store import Store

T = TypeVar("T", bound=msgspec.Struct)

_SPACE = 0x20
_SCHEMES = (
    "memory://, sqlite:// (in memory), sqlite:///relative.db, sqlite:////absolute/path.db, "
    "postgresql://user:password@host/database"
)


def open_store(
    url: str | Store, *, limits: StoreLimits = DEFAULT_LIMITS, clock: Clock | None = None
) -> Store:
    """The store that a URL names. Open it with `async with`. A store is returned as it is.

    URLs are `memory://`, `sqlite://` (in memory), `sqlite:///relative.db` and
    `sqlite:////absolute/path.db`, and `postgresql://user:password@host/database`. Options follow a
    `?`. Every store has `shards=N`. PostgreSQL has `schema=name` and others (see
    `perdure.store.postgres.address.Options`). SQLite has
    `synchronous=full|normal|off`, `standby=true`, `read_only=true` and `busy_ms=N`, too (see
    `perdure.store.sqlite.database.Options`).

    Raises:
        UsageError: the scheme or an option is unknown. The message lists the known ones.
    """
    # Stores are imported only when they are named: SQLite's needs a library and takes its time.
    if not isinstance(url, str):
        if not hasattr(url, "commit"):
            msg = f"{url!r} is neither a store nor a URL of one; use one of {_SCHEMES}"
            raise UsageError(msg)
        return url
    parts, given = _split(url)
    if parts.scheme == "memory" and not parts.netloc and not parts.path:
        from perdure.store.memory import MemoryStore

        shards = _convert(_MemoryOptions, given, url).shards
        return MemoryStore(limits=limits, clock=clock, shards=shards)
    if parts.scheme == "sqlite" and not parts.netloc:
        from perdure.store.sqlite import SQLiteStore
        from perdure.store.sqlite.database import Options

        path = _file_of(parts, url)
        options = _convert(Options, given, url)
        return SQLiteStore(path, options=options, limits=limits, clock=clock)
    if is_postgres(url):
        return _open_postgres(parts, given, url, limits, clock)
    hint = ""
    # With two slashes the name of the file would be that of a host.
    if parts.scheme == "sqlite":
        hint = f" (three slashes for a relative path: sqlite:///{parts.netloc}{parts.path})"
    msg = f"{url!r} names no store that this release knows{hint}; use one of {_SCHEMES}"
    raise UsageError(msg)


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL store, which any machine may use."""
    return url.partition(":")[0] in ("postgresql", "postgres")


def _open_postgres(
    parts: SplitResult,
    given: dict[str, str],
    url: str,
    limits: StoreLimits,
    clock: Clock | None,
) -> Store:
    try:
        from perdure.store.postgres import PostgresStore
    except ModuleNotFoundError as error:
        msg = f"a PostgreSQL store needs {error.name}; install it: pip install 'perdure[postgres]'"
        raise UsageError(msg) from error
    from perdure.store.postgres.address import Options, address_of

    address = address_of(parts, _convert(Options, given, without_password(url)))
    return PostgresStore(address, limits=limits, clock=clock)


async def is_there(url: str) -> bool:
    """Whether there is a store at a URL. Nothing is made.

    Raises:
        StoreError: it cannot be seen, or what is there is no store.
    """
    store = open_store(url)
    if is_postgres(url):
        from perdure.store.postgres import PostgresStore
        from perdure.store.postgres.migrate import upgrade

        assert isinstance(store, PostgresStore)
        return (await upgrade(store.address, check=True)).format > 0
    from perdure.store.sqlite import SQLiteStore
    from perdure.store.sqlite.database import MEMORY, has_content

    if not isinstance(store, SQLiteStore):
        return False
    if store.path == MEMORY:
        return False
    return await asyncio.to_thread(has_content, Path(store.path))


def with_option(url: str, option: str, value: str) -> str:
    """The URL with an option, unless the user has set it."""
    if f"{option}=" in url:
        return url
    separator = "?"
    if "?" in url:
        separator = "&"
    return f"{url}{separator}{option}={value}"


def without_password(url: str) -> str:
    """A URL for messages and logs."""
    return re.sub(r"(://[^/?@:]*):[^@]*@", r"\1:***@", url)


def _split(url: str) -> tuple[SplitResult, dict[str, str]]:
    """The parts of a URL, and its options.

    No part may be left out silently, because the rest would name another store.
    """
    shown = without_password(url)
    # `urlsplit` removes tabs and line ends.
    if any(ord(character) < _SPACE for character in url):
        msg = (
            f"{shown!r} has a control character in it; "
            "the name of a file with one is written with %, as in %09"
        )
        raise UsageError(msg)
    if not url.partition(":")[2].startswith("//"):
        hint = ""
        if url:
            hint = f"; did you mean 'sqlite:///{url.removeprefix('sqlite:')}'"
        msg = f"{shown!r} names no store that this release knows{hint}; use one of {_SCHEMES}"
        raise UsageError(msg)
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        msg = f"{shown!r} is no URL ({error}); use one of {_SCHEMES}"
        raise UsageError(msg) from error
    if "#" in url:
        msg = (
            f"{shown!r} has a '#' in it, which ends the name in a URL; "
            "write %23 for one in the name of a file"
        )
        raise UsageError(msg)
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"{shown!r} has the option {twice!r} more than once; give it once"
        raise UsageError(msg)
    return parts, given


def _file_of(parts: SplitResult, url: str) -> str:
    from perdure.store.sqlite.database import MEMORY

    if not parts.path:
        return MEMORY
    try:
        path = unquote_to_bytes(parts.path.removeprefix("/")).decode()
    except UnicodeDecodeError as error:
        msg = (
            f"{url!r}: what stands behind a % is not UTF-8 ({error.reason}); "
            "write %25 for a % in the name of a file"
        )
        raise UsageError(msg) from error
    if not path:
        msg = f"{url!r}: no file is named; sqlite:// is in memory; use one of {_SCHEMES}"
        raise UsageError(msg)
    if "\0" in path:
        msg = f"{url!r}: the name of a file cannot have a NUL in it; use one of {_SCHEMES}"
        raise UsageError(msg)
    return path


class _MemoryOptions(msgspec.Struct, frozen=True):
    shards: int = 1


def _convert(kind: type[T], given: dict[str, str], url: str) -> T:
    known = [field.name for field in msgspec.structs.fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        msg = f"{url!r} has the unknown option {unknown[0]!r}; known are {', '.join(known)}"
        raise UsageError(msg)
    try:
        # Not strict, because the values of a URL are all text.
        options = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        msg = f"{url!r}: {error}"
        raise UsageError(msg) from None
    shards = getattr(options, "shards", None)
    if shards is not None and shards < 1:
        msg = f"{url!r}: a store has at least one shard"
        raise UsageError(msg)
    if getattr(options, "busy_ms", 0) < 0:
        msg = f"{url!r}: busy_ms is a time, and cannot be negative"
        raise UsageError(msg)
    return options
