"""The schema of a SQLite store, as numbered files, and the function that brings a file up to date.

`sql/sqlite/NNN_name.sql` are applied in order, in one transaction, and recorded with a checksum. A file that was
applied is never changed afterwards; a change is a new file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from importlib.resources import files

import msgspec

from perdure.errors import StoreFormat
from perdure.store.attributes import index_all
from perdure.store.connection import Connection, opened, transaction
from perdure.store.lock import OwnerLock

_CREATE = (
    "CREATE TABLE IF NOT EXISTS schema_migrations"
    " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) WITHOUT ROWID"
)


_STEPS: dict[int, Callable[[Connection], None]] = {2: index_all}
"""What SQL cannot do of a migration; it runs after its statements."""


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, its name and its statements."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What the file must still be when it is compared later."""
        return sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations that this release knows, in order."""
    found: list[Migration] = []
    for file in (files("perdure.store") / "sql" / "sqlite").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def tables_of(connection: Connection) -> set[str]:
    """The names of a database's own tables."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return {name for (name,) in connection.execute(query)}


def pending(target: str | os.PathLike[str] | Connection) -> list[str]:
    """The names of the migrations that a file, or an open database, still needs.

    Raises:
        StoreFormat: it is somebody else's, was written by a newer release, or by one whose migrations differ.
    """
    if isinstance(target, str | os.PathLike):
        with closing(opened(os.fspath(target))) as connection:
            return pending(connection)
    return [migration.name for migration in _pending(target)]


def migrate(target: str | os.PathLike[str] | Connection) -> list[str]:
    """Apply what is pending, in one transaction; the names of what was applied.

    Nodes that run an older release must be stopped before.

    Raises:
        StoreFormat: as `pending`.
        StoreLocked: a node of an older release owns the file.
    """
    if isinstance(target, str | os.PathLike):
        with closing(opened(os.fspath(target))) as connection:
            return migrate(connection)
    todo = _pending(target)
    if not todo:
        return []
    if todo[0].version == 1 or not target.filename:  # it is new: nobody owns it
        return _apply(target)
    with OwnerLock(target.filename).kept_free(f"needs the migration {todo[0].name}"):
        return _apply(target)


def _apply(target: Connection) -> list[str]:
    with transaction(target):
        todo = _pending(target)  # again, now under the lock: another process may have been faster
        target.execute(_CREATE)
        for migration in todo:
            target.execute(migration.sql)
            if (step := _STEPS.get(migration.version)) is not None:
                step(target)
            row = (migration.version, migration.name, migration.checksum)
            target.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (?, ?, ?)", row
            )
    return [migration.name for migration in todo]


def _pending(connection: Connection) -> list[Migration]:
    path = connection.filename or ":memory:"
    tables = tables_of(connection)
    known = {migration.version: migration for migration in migrations()}
    if "schema_migrations" not in tables:
        if tables:
            some = ", ".join(sorted(tables)[:3])
            msg = f"{path} is a SQLite database, but no Perdure store (it has the tables {some}); name another file"
            raise StoreFormat(msg)
        return list(known.values())
    applied = list(
        connection.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    )
    for version, name, checksum in applied:
        if version not in known:
            msg = f"{path} has the schema {version} ({name}), which this release does not know; upgrade perdure"
            raise StoreFormat(msg)
        if checksum != known[version].checksum:
            msg = (
                f"{path}: migration {version} ({name}) was applied in another form than this release has;"
                " use the release that created the file, or restore a backup"
            )
            raise StoreFormat(msg)
    done = {version for version, _, _ in applied}
    return [migration for version, migration in known.items() if version not in done]
