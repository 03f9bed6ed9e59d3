"""The address of a PostgreSQL store: its server, its database, its schema and its options."""

from __future__ import annotations

from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

import msgspec

from perdure.errors import UsageError

SCHEMA_BYTES_MAX = 63
"""The longest name that PostgreSQL keeps. It cuts longer ones silently."""

# Those that asyncpg reads from the URL itself.
_SERVER_OPTIONS = ("host", "target_session_attrs", "sslmode", "sslrootcert", "sslcert", "sslkey")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a database is used. Times are in milliseconds."""

    schema: str = "perdure"
    """The schema that has the tables of the store. It is created when it is not there."""
    shards: int | None = None
    """The shard count of a new store. None: 2,048, or those that the store has."""
    create: bool = True
    """Whether a store is made where there is none. Without it that is an error."""
    readers: int = 4
    """Connections for reads and short calls. Each is opened when it is first needed."""
    pooled: bool = False
    """The server is a pooler in transaction mode, such as PgBouncer. Nothing then belongs to a
    connection: each statement brings its settings along in a transaction of its own."""
    listen: str | None = None
    """A second URL for notifications, which a pooler does not pass on."""
    lock_ms: int = 3_000
    """How long a statement waits for another transaction."""
    statement_ms: int = 6_000
    """How long a statement may take. It stays below the lease of a node, so that a node that stands
    still cannot keep another from taking over."""
    patience_ms: int = 5_000
    """How long a commit is tried again while the server cannot be reached."""
    host: str | None = None
    """The folder of a Unix socket."""
    target_session_attrs: Literal["read-write", "primary"] | None = None
    """Which of several servers is used. None: with several, the one that takes writes."""
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None


class Address(msgspec.Struct, frozen=True):
    """Where a store is. `name` is for people, and `dsn` for the driver.

    `is_lax`: the server acknowledges commits before they are on its disk, unless it is told not to.
    """

    dsn: str
    name: str
    options: Options
    is_lax: bool = False

    @property
    def quoted_schema(self) -> str:
        """The schema as an identifier of SQL."""
        return '"' + self.options.schema.replace('"', '""') + '"'

    @property
    def unpooled(self) -> Address:
        """The same store without a pooler in front of it."""
        options = msgspec.structs.replace(self.options, pooled=False)
        return msgspec.structs.replace(self, options=options)

    @property
    def place(self) -> str:
        """The URL without user, password and options: it names the store, for people."""
        parts = urlsplit(self.dsn)
        host = parts.netloc.rpartition("@")[2]
        names = {"schema": self.options.schema}
        if self.options.host is not None:
            names["host"] = self.options.host
        return f"postgresql://{host}{parts.path}?{urlencode(names, quote_via=quote)}"

    @property
    def channel(self) -> str:
        """The channel of notifications of this store."""
        # A long name of a schema would make one that is too long.
        return f"perdure:{self.options.schema}"[:SCHEMA_BYTES_MAX]


def address_of(parts: SplitResult, options: Options) -> Address:
    """The address that a URL names.

    Raises:
        UsageError: a part of it cannot be one.
    """
    schema = options.schema
    if not schema or "\0" in schema or len(schema.encode()) > SCHEMA_BYTES_MAX:
        msg = f"schema={schema!r} cannot be a schema: use 1 to {SCHEMA_BYTES_MAX} bytes of text"
        raise UsageError(msg)
    if schema.startswith("pg_"):
        msg = f"schema={schema!r} cannot be a schema: PostgreSQL keeps names with pg_ for itself"
        raise UsageError(msg)
    for name in ("readers", "lock_ms", "statement_ms", "patience_ms"):
        if getattr(options, name) < 1:
            msg = f"{name}={getattr(options, name)} must be positive"
            raise UsageError(msg)
    given: dict[str, str] = {}
    for name in _SERVER_OPTIONS:
        value = getattr(options, name)
        if value is not None:
            given[name] = value
    dsn = f"postgresql://{parts.netloc}{parts.path}"
    if given:
        dsn += f"?{urlencode(given, quote_via=quote)}"
    # What is left of the part with user and password.
    host = parts.netloc.rpartition("@")[2] or options.host or "localhost"
    database = unquote(parts.path.removeprefix("/"))
    return Address(dsn, f"{host}/{database} (schema {schema})", options)
