"""Stores, and the door to them: `open_store("sqlite:///shop.db")`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from perdure.errors import UsageError
from perdure.store.limits import DEFAULT_LIMITS, StoreLimits

if TYPE_CHECKING:
    from perdure.ports.clock import Clock
    from perdure.ports.store import Store

T = TypeVar("T", bound=msgspec.Struct)

_SCHEMES = "memory://, sqlite:// (in memory), sqlite:///relative.db, sqlite:////absolute/path.db"


def open_store(url: str | Store, *, limits: StoreLimits = DEFAULT_LIMITS, clock: Clock | None = None) -> Store:
    """The store that a URL names; open it with `async with`. A store is returned as it is.

    `memory://` · `sqlite://` (in memory) · `sqlite:///relative.db` · `sqlite:////absolute/path.db`. Options follow a
    `?`: `shards=N` for all; `synchronous=full|normal|off`, `standby=true`, `read_only=true`, `busy_ms=N` for SQLite
    (see `perdure.store.database.Options`).

    Raises:
        UsageError: the scheme or an option is unknown; the message lists those that are known.
    """
    if not isinstance(url, str):
        if not hasattr(url, "commit"):
            msg = f"{url!r} is neither a store nor a URL of one; use one of {_SCHEMES}"
            raise UsageError(msg)
        return url
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "memory" and not parts.netloc and not parts.path:
        from perdure.store.memory import MemoryStore

        return MemoryStore(limits=limits, clock=clock, shards=_convert(_MemoryOptions, given, url).shards)
    if parts.scheme == "sqlite" and not parts.netloc:
        from perdure.store.database import MEMORY, Options
        from perdure.store.sqlite import SQLiteStore

        path = unquote(parts.path.removeprefix("/")) or MEMORY
        return SQLiteStore(path, options=_convert(Options, given, url), limits=limits, clock=clock)
    hint = ""
    if parts.scheme == "sqlite":
        hint = f" (three slashes for a relative path: sqlite:///{parts.netloc}{parts.path})"
    msg = f"{url!r} names no store that this release knows{hint}; use one of {_SCHEMES}"
    raise UsageError(msg)


class _MemoryOptions(msgspec.Struct, frozen=True):
    shards: int = 1


def _convert(kind: type[T], given: dict[str, str], url: str) -> T:
    known = [field.name for field in msgspec.structs.fields(kind)]
    if unknown := sorted(set(given) - set(known)):
        msg = f"{url!r} has the unknown option {unknown[0]!r}; known are {', '.join(known)}"
        raise UsageError(msg)
    try:
        options = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        msg = f"{url!r}: {error}"
        raise UsageError(msg) from None
    if (shards := getattr(options, "shards", None)) is not None and shards < 1:
        msg = f"{url!r}: a store has at least one shard"
        raise UsageError(msg)
    return options
