"""The places of messages in a SQLite store.

They are numbers that only grow, over all inboxes. None is given twice.
"""

from __future__ import annotations

from perdure.store.sqlite.connection import Connection
from perdure.store.statements import statements

_SQL = statements("perdure.store.sqlite", "messages")
READ_LAST = _SQL["read_last_place"]
_WRITE_LAST = _SQL["write_last_place"]


class Places:
    """Gives places within transactions.

    The last one stands in a row, which is written once per transaction.
    """

    # AUTOINCREMENT would not do. It may skip numbers for a message that stands in the inbox
    # already, and another store could not give the same ones.

    def __init__(self, connection: Connection) -> None:
        """Read nothing yet."""
        self._connection = connection
        self._last: int | None = None
        self._written: int | None = None

    def forget(self) -> None:
        """Read the row again.

        Another connection may have written it, or the transaction was rolled back.
        """
        self._last = None
        self._written = None

    def next(self) -> int:
        """A place behind all that were given before."""
        last = self._last
        if last is None:
            last = self._read()
        self._last = last + 1
        return self._last

    def _read(self) -> int:
        last: int = self._connection.execute(READ_LAST).get
        self._written = last
        return last

    def write(self) -> None:
        """Call it before the transaction is committed."""
        if self._last != self._written:
            self._connection.execute(_WRITE_LAST, (self._last,))
            self._written = self._last
