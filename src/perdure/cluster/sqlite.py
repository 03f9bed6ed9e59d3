"""A cluster in a SQLite file, for the nodes of one machine.

Each node has its own connection. The nodes look at the file now and then: nothing tells a process
of the write of another one. Nothing here has to survive a loss of power, because a member that is
forgotten joins again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Self

import apsw
import msgspec

from perdure.cluster.names import name_taken
from perdure.errors import StoreUnavailable
from perdure.ports.cluster import Member, Seen, View

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from perdure.ports.store import Incarnation

logger = logging.getLogger("perdure.cluster")

_LOOK_S = 0.1
"""How often a wait for a change looks at the file."""

_BUSY_MS = 1_000
"""How long a write waits for that of another process."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS members (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL UNIQUE,
    beat INTEGER NOT NULL,
    record BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revisions (only_row INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
INSERT OR IGNORE INTO revisions VALUES (1, 0);
"""
_RAISE = "UPDATE revisions SET revision = revision + 1"

_encode = msgspec.json.encode
# A record of a later release may have more fields, which are left out.
_decode = msgspec.json.Decoder(Member).decode


class SQLiteCluster:
    """Who is alive, in a file that all nodes can open."""

    shares_loop = False

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._connection: apsw.Connection | None = None
        self._unreadable: set[str] = set()

    async def __aenter__(self) -> Self:
        """Open the file. Creates it when it is new."""
        with self._errors():
            self._connection = apsw.Connection(self._path)
        try:
            with self._errors():
                self._connection.set_busy_timeout(_BUSY_MS)
                self._connection.execute("PRAGMA synchronous = OFF")
            with self._writing() as connection:
                connection.execute(_SCHEMA)
        except BaseException:
            self._close()
            raise
        return self

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
    def _writing(self) -> Generator[apsw.Connection]:
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

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            msg = f"the cluster file {self._path} is not open; use `async with`"
            raise StoreUnavailable(msg)
        return self._connection

    # ------------------------------------------------------------ the port

    async def join(self, member: Member) -> View:
        """Become a member."""
        who = member.incarnation
        with self._writing() as connection:
            named = connection.execute("SELECT id FROM members WHERE node = ?", (who.node,)).get
            if named is not None and named != who.id:
                raise name_taken(who.node)
            if named is None:
                row = (who.id, who.node, 1, _encode(member))
                connection.execute("INSERT INTO members VALUES (?, ?, ?, ?)", row)
                connection.execute(_RAISE)
            return self._view(connection)

    async def renew(self, member: Member) -> View | None:
        """Show that a member lives, and record what has changed in it."""
        id_ = member.incarnation.id
        record = _encode(member)
        with self._writing() as connection:
            before = connection.execute("SELECT record FROM members WHERE id = ?", (id_,)).get
            if before is None:
                return None
            update = "UPDATE members SET beat = beat + 1, record = ? WHERE id = ?"
            connection.execute(update, (record, id_))
            if before != record:
                connection.execute(_RAISE)
            return self._view(connection)

    async def leave(self, incarnation: Incarnation) -> None:
        """End a membership."""
        self._delete("id = ?", (incarnation.id,))

    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        """End the membership of a dead member, unless its beat is another one by now."""
        return self._delete("id = ? AND beat = ?", (incarnation.id, beat))

    def _delete(self, condition: str, values: tuple[str | int, ...]) -> bool:
        with self._writing() as connection:
            connection.execute(f"DELETE FROM members WHERE {condition}", values)  # noqa: S608 - no input
            is_deleted = connection.changes() > 0
            if is_deleted:
                connection.execute(_RAISE)
        return is_deleted

    async def view(self) -> View:
        """All members."""
        with self._errors():
            connection = self._opened()
            with connection:  # one transaction, so that the members fit the revision
                view = self._view(connection)
        return view

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

    def _view(self, connection: apsw.Connection) -> View:
        revision = connection.execute("SELECT revision FROM revisions").get
        members: list[Seen] = []
        for id_, beat, record in connection.execute("SELECT id, beat, record FROM members"):
            member = self._read(id_, record)
            if member is not None:
                members.append(Seen(member, beat))
        members.sort(key=lambda seen: seen.member.incarnation.id)
        return View(revision, tuple(members))

    def _read(self, id_: str, record: bytes) -> Member | None:
        """A member from its row. A row that cannot be read must not keep the others apart."""
        try:
            return _decode(record)
        except msgspec.MsgspecError as error:
            if id_ not in self._unreadable:
                text = "the row of member %s in %s cannot be read, and is left out: %s"
                logger.warning(text, id_, self._path, error)
            self._unreadable.add(id_)
            return None
