"""The part of a SQLite connection that the store uses.

It is narrow, and typed more exactly than the library's own stubs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import apsw
import msgspec

Values = tuple[Any, ...]
Bindings = Sequence[Any] | Mapping[str, Any]
Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]
"""Gets an action, what it is about, the database, and the trigger that wants it. Answers SQLite."""

_encode_json = msgspec.json.encode


class Cursor(Protocol):
    """The rows of a statement."""

    def __iter__(self) -> Iterator[Values]:
        """Row by row."""
        ...

    def fetchone(self) -> Values | None:
        """The next row."""
        ...

    @property
    def get(self) -> Any:
        """The only value of the only row."""
        ...


class Connection(Protocol):
    """A connection to a database."""

    def execute(self, statements: str, bindings: Bindings | None = None, /) -> Cursor:
        """Run statements."""
        ...

    def executemany(self, statements: str, bindings: Iterable[Bindings], /) -> Cursor:
        """Run a statement for each row of bindings."""
        ...

    def set_authorizer(self, authorizer: Authorizer | None, /) -> None:
        """Have a function say, while a statement is prepared, whether it may do what it would."""
        ...

    def changes(self) -> int:
        """Rows that the last statement changed."""
        ...

    def readonly(self, name: str, /) -> bool:
        """Whether a database can only be read."""
        ...

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    @property
    def filename(self) -> str:
        """The file, empty for one in memory."""
        ...

    def set_wal_hook(self, hook: Callable[[object, str, int], int] | None, /) -> None:
        """Call it after each commit to a write-ahead log, with the number of pages in the log."""
        ...

    def wal_checkpoint(self) -> tuple[int, int]:
        """Copy the log into the database."""
        ...

    def close(self, force: bool = False, /) -> None:
        """Close it."""
        ...


def opened(path: str, flags: int | None = None) -> Connection:
    """Open a database. Without flags it is created if need be."""
    if flags is None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    return cast("Connection", apsw.Connection(path, flags=flags))


@contextmanager
def transaction(connection: Connection) -> Generator[None]:
    """One writing transaction: committed at the end, rolled back on an error."""
    # IMMEDIATE, because a transaction that begins as a reader can find itself unable to write.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite ends the transaction itself after some errors, such as a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def ids_json(ids: Collection[str]) -> str:
    """Ids as the argument of `json_each`, so that a statement takes any number of them."""
    return _encode_json(ids).decode()
