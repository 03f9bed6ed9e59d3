"""A cluster in a SQLite file, for the nodes of one machine.

Each node has its own connection. The nodes look at the file now and then: nothing tells a process
of the write of another one. Nothing here has to survive a loss of power, because a member that is
forgotten joins again.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import apsw

from perdure.cluster.record import Records, encode, load_of
from perdure.errors import StoreUnavailable
from perdure.ports.cluster import NameTaken, Seen, Standing, View

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

    from perdure.ports.cluster import Load, Member
    from perdure.ports.store import Incarnation

_LOOK_S = 0.1
"""How often a wait for a change looks at the file."""

_BUSY_MS = 1_000
"""How long a write waits for that of another process."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS members (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL UNIQUE,
    beat INTEGER NOT NULL,
    record BLOB NOT NULL,
    load BLOB,
    heard_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revisions (only_row INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
INSERT OR IGNORE INTO revisions VALUES (1, 0);
"""
_RENEW = "UPDATE members SET beat = beat + 1, record = ?, load = ?, heard_at = ? WHERE id = ?"
_STANDINGS = "SELECT node, id, beat, record, load, heard_at FROM members ORDER BY id"
_RAISE = "UPDATE revisions SET revision = revision + 1"

Values = tuple[Any, ...]


class Rows(Protocol):
    """The rows of a statement."""

    def __iter__(self) -> Iterator[Values]:
        """Row by row."""
        ...

    @property
    def get(self) -> Any:
        """The only value of the only row. None: there is no row."""
        ...


class Connection(Protocol):
    """The part of a connection that is used, typed more exactly than in the library's stubs."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(self, statements: str, values: Values = (), /) -> Rows:
        """Run statements."""
        ...

    def changes(self) -> int:
        """Rows that the last statement changed."""
        ...

    def set_busy_timeout(self, ms: int, /) -> None:
        """Wait so long for the writes of others."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class SQLiteCluster:
    """Who is alive, in a file that all nodes can open."""

    shares_loop = False

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._connection: Connection | None = None
        self._file: tuple[int, int] | None = None
        self._records = Records(path)

    async def __aenter__(self) -> Self:
        """Open the file. Creates it when it is new."""
        self._open()
        return self

    def _open(self) -> None:
        with self._errors():
            self._connection = cast("Connection", apsw.Connection(self._path))
            self._file = _file_at(self._path)
        try:
            with self._errors():
                self._connection.set_busy_timeout(_BUSY_MS)
                self._connection.execute("PRAGMA synchronous = OFF")
            with self._writing() as connection:
                connection.execute(_SCHEMA)
        except BaseException:
            self._close()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except apsw.Error as error:
            msg = f"the cluster file {self._path} does not answer: {error}"
            raise StoreUnavailable(msg, "unknown") from error

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        """One transaction that writes."""
        with self._errors():
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite ends the transaction itself after some errors, such as a full disk.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _opened(self) -> Connection:
        if self._connection is None:
            msg = f"the cluster file {self._path} is not open; use `async with`"
            raise StoreUnavailable(msg)
        # The others meet in the file that has the name. SQLite would refuse every write to one that
        # was deleted or replaced, and this node would stay frozen.
        if _file_at(self._path) != self._file:
            self._close()
            self._open()
        return self._connection

    # ------------------------------------------------------------ the port

    async def join(self, member: Member) -> View:
        """Become a member."""
        who = member.incarnation
        with self._writing() as connection:
            named = connection.execute("SELECT id FROM members WHERE node = ?", (who.node,)).get
            if named is not None and named != who.id:
                raise NameTaken(who.node)
            if named is None:
                row = (who.id, who.node, 1, encode(member), None, _wall_ms())
                connection.execute("INSERT INTO members VALUES (?, ?, ?, ?, ?, ?)", row)
                connection.execute(_RAISE)
            return self._view(connection)

    async def renew(self, member: Member, load: Load | None = None) -> View | None:
        """Show that a member lives, and record what has changed in it."""
        id_ = member.incarnation.id
        record = encode(member)
        with self._writing() as connection:
            before = connection.execute("SELECT record FROM members WHERE id = ?", (id_,)).get
            if before is None:
                return None
            said: bytes | None = None
            if load is not None:
                said = encode(load)
            connection.execute(_RENEW, (record, said, _wall_ms(), id_))
            if before != record:
                connection.execute(_RAISE)
            return self._view(connection)

    async def leave(self, incarnation: Incarnation) -> None:
        """End a membership."""
        self._delete("id = ?", (incarnation.id,))

    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        """End the membership of a dead member, unless its beat is another one by now."""
        return self._delete("id = ? AND beat = ?", (incarnation.id, beat))

    def _delete(self, condition: str, values: Values) -> bool:
        with self._writing() as connection:
            delete = f"DELETE FROM members WHERE {condition}"  # noqa: S608 - no input
            connection.execute(delete, values)
            is_deleted = connection.changes() > 0
            if is_deleted:
                connection.execute(_RAISE)
        return is_deleted

    async def view(self) -> View:
        """All members."""
        with self._errors():
            return self._view(self._opened())

    async def standings(self) -> list[Standing]:
        """All members, with their loads."""
        now_ms = _wall_ms()
        found: list[Standing] = []
        with self._errors():
            for node, id_, beat, record, load, heard_ms in self._opened().execute(_STANDINGS):
                seen = Seen(self._records.read(node, id_, record), beat)
                # All processes of a file have one clock. It may have been set back meanwhile.
                found.append(Standing(seen, max(0, now_ms - heard_ms), load_of(load)))
        return found

    async def changed(self, revision: int, within_ms: int) -> View:
        """Wait until the revision is another one, or the time is up."""
        ends_s = monotonic() + within_ms / 1000
        while True:
            view = await self.view()
            left_s = ends_s - monotonic()
            if view.revision != revision or left_s <= 0:
                return view
            await asyncio.sleep(min(left_s, _LOOK_S))

    # ------------------------------------------------------------ reading

    def _view(self, connection: Connection) -> View:
        # One statement, so that the members fit the revision.
        query = (
            "SELECT revision, node, id, beat, record FROM revisions LEFT JOIN members ORDER BY id"
        )
        revision = 0
        members: list[Seen] = []
        for number, node, id_, beat, record in connection.execute(query):
            revision = number
            if id_ is not None:
                members.append(Seen(self._records.read(node, id_, record), beat))
        return View(revision, tuple(members))


def _wall_ms() -> int:
    return time_ns() // 1_000_000


def _file_at(path: str) -> tuple[int, int] | None:
    """The file that has a name at this moment. None: there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
