"""Statements of programs, which run in the transaction of a commit.

A program may use tables of its own, and nothing else: SQLite asks `_allow` for each thing that a
statement would do. So a statement can neither end the transaction nor touch the rows of the store.
"""

from __future__ import annotations

import re

import apsw

from perdure.kernel.data.commit import Commit, SqlRefused
from perdure.store.sqlite.connection import Connection
from perdure.store.sqlite.database import BATCH_ERRORS
from perdure.store.sqlite.migrate import formats

_OURS = frozenset(
    name
    for sql in formats().values()
    for name in re.findall(r"^CREATE (?:TABLE|TRIGGER) (\w+)", sql, re.MULTILINE)
)
_FORBIDDEN = frozenset(
    {
        apsw.SQLITE_TRANSACTION,
        apsw.SQLITE_SAVEPOINT,
        apsw.SQLITE_ATTACH,
        apsw.SQLITE_DETACH,
        apsw.SQLITE_PRAGMA,
    }
)


class StatementError(Exception):
    """A statement of `commit` that cannot be run. The transaction is to be rolled back."""

    def __init__(self, commit: Commit, refusal: SqlRefused) -> None:
        """Name the commit, and the verdict that it gets."""
        super().__init__(refusal.why)
        self.commit = commit
        self.refusal = refusal


def _allow(
    action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
) -> int:
    """Answer SQLite whether a statement may do something. What the two names are depends on it."""
    if action in _FORBIDDEN or first in _OURS or second in _OURS:
        return apsw.SQLITE_DENY
    return apsw.SQLITE_OK


def run_statements(connection: Connection, commit: Commit) -> None:
    """Run the statements of a commit.

    Raises:
        StatementError: one of them is refused; it says which.
    """
    # Only for as long as they run: the store's own statements may do all of it.
    connection.set_authorizer(_allow)
    try:
        for number, statement in enumerate(commit.sql):
            try:
                # Rows of a SELECT mean nothing here, but its errors do.
                for _ in connection.execute(statement.sql, tuple(statement.values)):
                    pass
            # These say that the disk or the file is at fault, and not the statement.
            except BATCH_ERRORS:
                raise
            except (apsw.Error, TypeError, ValueError, OverflowError) as error:
                why = f"{type(error).__name__}: {error}"
                raise StatementError(commit, SqlRefused(number, why)) from error
    finally:
        connection.set_authorizer(None)
