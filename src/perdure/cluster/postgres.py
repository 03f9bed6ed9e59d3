"""A cluster in a PostgreSQL database, which may be that of the store.

A node has one connection for it. The session of that connection holds an advisory lock, so that the
others see at once when the process has ended. Notifications tell of changes. Nothing else polls,
and each renewal is one statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from zlib import crc32

import asyncpg  # type: ignore[import-untyped]

from perdure import servers
from perdure.cluster.record import Records, encode, load_of
from perdure.errors import StoreUnavailable
from perdure.ports.cluster import NameTaken, Seen, Standing, View

if TYPE_CHECKING:
    from types import TracebackType

    from perdure.ports.cluster import Load, Member
    from perdure.ports.store import Incarnation

CONNECT_S = 5.0
COMMAND_S = 5.0
"""How long a server may take to answer. A dead connection is given up after that."""

_CHANNEL = "perdure_members"

_TABLES = """
CREATE SEQUENCE IF NOT EXISTS {schema}.member_locks AS integer CYCLE;
CREATE TABLE IF NOT EXISTS {schema}.members (
    id text COLLATE "C" PRIMARY KEY,
    node text COLLATE "C" NOT NULL UNIQUE,
    beat bigint NOT NULL,
    lock integer,
    record bytea NOT NULL,
    load bytea,
    heard_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS {schema}.member_revisions (
    only_row integer PRIMARY KEY, revision bigint NOT NULL
);
INSERT INTO {schema}.member_revisions VALUES (1, 0) ON CONFLICT DO NOTHING;
"""

# A statement that changes the members raises the revision, and notifies. It sees the state before
# that, and may wait for another change in the middle. So it must not tell the new revision: its
# members would not be those of the revision.
_RAISED = """
raised AS (
    UPDATE {schema}.member_revisions SET revision = revision + 1
    WHERE EXISTS (SELECT 1 FROM changed) RETURNING revision, pg_notify({channel}, revision::text)
)
"""
_JOIN = """
WITH changed AS (
    INSERT INTO {schema}.members (id, node, beat, lock, record)
    VALUES ($1, $2, 1, CASE WHEN $4 THEN nextval({sequence}) END, $3)
    ON CONFLICT DO NOTHING RETURNING id
), {raised}
SELECT count(*) FROM raised
"""
_RENEW = """
WITH before AS (SELECT record FROM {schema}.members WHERE id = $1 FOR UPDATE),
renewed AS (
    UPDATE {schema}.members SET
        beat = beat + 1, record = $2, load = $3, heard_at = clock_timestamp()
    FROM before WHERE id = $1 RETURNING id
),
changed AS (SELECT 1 FROM before WHERE before.record <> $2), {raised}
SELECT
    revision, node, id, beat + (id = $1)::int, record, {connected}, EXISTS (SELECT 1 FROM raised)
FROM {schema}.member_revisions CROSS JOIN {schema}.members
WHERE EXISTS (SELECT 1 FROM renewed) ORDER BY id
"""
_DELETE = """
WITH changed AS (
    DELETE FROM {schema}.members WHERE id = $1 AND ($2::bigint IS NULL OR beat = $2) RETURNING id
), {raised}
SELECT count(*) FROM raised
"""
_VIEW = """
SELECT revision, node, id, beat, record, {connected}
FROM {schema}.member_revisions LEFT JOIN {schema}.members ON true ORDER BY id
"""
_STANDINGS = """
SELECT node, id, beat, record, {connected}, load,
    greatest(0, extract(epoch FROM clock_timestamp() - heard_at) * 1000)::bigint
FROM {schema}.members ORDER BY id
"""
# A member without a session of its own has no lock, and nothing can be told of it.
_CONNECTED = """CASE WHEN members.lock IS NOT NULL THEN EXISTS (
    SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = {locks}::oid AND objid = members.lock::oid
) END"""
_LOOK_S = 1.0
"""How often a wait looks where there are no notifications."""

Row = Sequence[Any]
T = TypeVar("T")


class Connection(Protocol):
    """The part of asyncpg's connection that is used. asyncpg has no types of its own."""

    async def fetch(self, query: str, *args: object) -> list[Row]:
        """All rows."""
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


_connect: Callable[..., Awaitable[Connection]] = servers.connect

_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # The driver's own, when the server ends a session at which a statement just begins.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class PostgresCluster:
    """Who is alive, in a database that all nodes can reach."""

    shares_loop = False

    def __init__(
        self, dsn: str, schema: str = "perdure", *, has_session: bool = True, creates: bool = True
    ) -> None:
        """Nothing is opened yet. `schema` has the tables, and is made unless `creates` is False.

        Behind a pooler `has_session` is False: there are no notifications, and nobody can tell
        whether the member that joins here is connected.
        """
        self._dsn = dsn
        self._has_session = has_session
        self._creates = creates
        self._schema = '"' + schema.replace('"', '""') + '"'
        self._channel = f"{_CHANNEL}:{schema}"[:63]
        # The first half of the keys of advisory locks, which are those of the whole database: it
        # may have several clusters. The other half is a number of the member's own.
        self._locks = crc32(f"{_CHANNEL}:{schema}".encode()) & 0x7FFFFFFF
        names = {
            "schema": self._schema,
            "channel": _literal(self._channel),
            "connected": _CONNECTED.format(locks=self._locks),
            "sequence": _literal(f"{self._schema}.member_locks"),
        }
        names["raised"] = _RAISED.format(**names).strip()
        self._tables = _TABLES.format(**names)
        self._join = _JOIN.format(**names)
        self._renew = _RENEW.format(**names)
        self._delete = _DELETE.format(**names)
        self._view = _VIEW.format(**names)
        self._standings = _STANDINGS.format(**names)
        find = f"SELECT id, lock FROM {self._schema}.members WHERE node = $1"  # noqa: S608 - quoted
        self._find = find
        self._connection: Connection | None = None
        # The lock of the member that joined by this object.
        self._lock: int | None = None
        self._holds = False
        self._asking = asyncio.Lock()
        self._news = asyncio.Event()
        self._records = Records(f"schema {schema}")

    # ------------------------------------------------------------ the connection

    async def __aenter__(self) -> Self:
        """Connect. Makes the tables when they are not there."""
        if self._creates:
            await self._ask(self._make_tables)
        return self

    async def _make_tables(self, connection: Connection) -> None:
        # Not by IF NOT EXISTS alone: that asks for the right to create, also where nothing is to be
        # created.
        if await self._is_made(connection):
            return
        create = self._tables
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", self._schema):
            create = f"CREATE SCHEMA IF NOT EXISTS {self._schema}; {create}"
        # One process makes them at a time: IF NOT EXISTS does not keep two apart.
        lock = f"SELECT pg_advisory_xact_lock({self._locks}, 0);"
        await connection.execute(f"BEGIN; {lock} {create} COMMIT")

    async def _is_made(self, connection: Connection) -> bool:
        found = "SELECT to_regclass($1) IS NOT NULL"
        is_made: bool = await connection.fetchval(found, f"{self._schema}.member_revisions")
        return is_made

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        connection = self._connection
        self._connection = None
        if connection is not None:
            with suppress(*_ERRORS):  # it ends either way
                await connection.close(timeout=COMMAND_S)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            # A prepared statement belongs to one connection, and a pooler changes it.
            cache_size = 0
            if self._has_session:
                cache_size = 100
            connection = await _connect(
                self._dsn,
                timeout_s=CONNECT_S,
                command_timeout=COMMAND_S,
                statement_cache_size=cache_size,
            )
            self._connection = connection
            connection.add_termination_listener(self._wake)
            self._holds = False
            if self._has_session:
                await connection.add_listener(self._channel, self._wake)
        await self._hold(self._connection)
        return self._connection

    async def _hold(self, connection: Connection) -> None:
        """Hold the lock of this member for as long as the session lasts."""
        if self._lock is None or self._holds or not self._has_session:
            return
        # It is refused while the server has not seen the end of the session before, and is tried
        # again by the next call.
        take = "SELECT pg_try_advisory_lock($1, $2)"
        self._holds = await connection.fetchval(take, self._locks, self._lock)

    def _wake(self, *_: object) -> None:
        self._news.set()

    async def _ask(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something on the connection.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        async with self._asking:
            try:
                return await work(await self._connected())
            except _ERRORS as error:
                self._drop()
                msg = f"the cluster's database does not answer ({type(error).__name__}: {error})"
                raise StoreUnavailable(msg, "unknown") from error
            except asyncio.CancelledError:
                # Nobody reads the answer that is still to come.
                self._drop()
                raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    # ------------------------------------------------------------ the port

    async def join(self, member: Member) -> View:
        """Become a member."""
        who = member.incarnation

        async def work(connection: Connection) -> View:
            values = (who.id, who.node, encode(member), self._has_session)
            await connection.fetchval(self._join, *values)
            for id_, lock in await connection.fetch(self._find, who.node):
                if id_ != who.id:
                    raise NameTaken(who.node)
                if lock != self._lock:
                    self._lock = lock
                    self._holds = False
            await self._hold(connection)
            return self._read_all(await connection.fetch(self._view))

        return await self._ask(work)

    async def renew(self, member: Member, load: Load | None = None) -> View | None:
        """Show that a member lives, and record what has changed in it."""
        said: bytes | None = None
        if load is not None:
            said = encode(load)
        values = (member.incarnation.id, encode(member), said)
        rows = await self._ask(lambda connection: connection.fetch(self._renew, *values))
        if not rows:
            return None
        *_, has_changed = rows[0]
        if has_changed:
            return await self.view()
        return self._read_all([row[:-1] for row in rows])

    async def leave(self, incarnation: Incarnation) -> None:
        """End a membership."""
        await self._ask(lambda c: c.fetchval(self._delete, incarnation.id, None))

    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        """End the membership of a dead member, unless its beat is another one by now."""
        removed = await self._ask(lambda c: c.fetchval(self._delete, incarnation.id, beat))
        return bool(removed)

    async def view(self) -> View:
        """All members."""
        return self._read_all(await self._ask(lambda c: c.fetch(self._view)))

    async def standings(self) -> list[Standing]:
        """All members, with their loads."""

        async def work(connection: Connection) -> list[Standing]:
            if not self._creates and not await self._is_made(connection):
                return []
            found: list[Standing] = []
            rows = await connection.fetch(self._standings)
            for node, id_, beat, record, is_connected, load, silent_ms in rows:
                seen = Seen(self._records.read(node, id_, record), beat, is_connected)
                found.append(Standing(seen, silent_ms, load_of(load)))
            return found

        return await self._ask(work)

    async def changed(self, revision: int, within_ms: int) -> View:
        """Wait until the revision is another one, or the time is up."""
        ends_s = monotonic() + within_ms / 1000
        while True:
            # Before the look, so that a change behind it ends the wait.
            self._news.clear()
            view = await self.view()
            left_s = ends_s - monotonic()
            if view.revision != revision or left_s <= 0:
                return view
            # Each look asks again for a lock that was refused. Without it this member would soon be
            # taken for dead.
            lacks_lock = self._lock is not None and not self._holds
            if not self._has_session or lacks_lock:
                left_s = min(left_s, _LOOK_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._news.wait()

    # ------------------------------------------------------------ reading

    def _read_all(self, rows: list[Row]) -> View:
        revision = 0
        members: list[Seen] = []
        for number, node, id_, beat, record, is_connected in rows:
            revision = number
            if id_ is not None:
                members.append(Seen(self._records.read(node, id_, record), beat, is_connected))
        return View(revision, tuple(members))


def _literal(text: str) -> str:
    """A text in a statement that takes no arguments in its place."""
    return "'" + text.replace("'", "''") + "'"
