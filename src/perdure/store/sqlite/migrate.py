"""The format of a SQLite store: how a file gets it, and how an older file is brought up to date.

`sql/format_3.sql` makes the tables of a new file. A later format is one more file,
`sql/format_4.sql`. It turns a database of the format before into one of its own. A file of
statements that was released is never changed afterwards. The number of a database's format stands
in the table `meta`.
"""

from __future__ import annotations

import os
from contextlib import closing
from importlib.resources import files

from perdure.errors import StoreFormat
from perdure.store.sqlite.connection import Connection, opened, transaction
from perdure.store.sqlite.lock import OwnerLock
from perdure.store.statements import read_sql

_PACKAGE = "perdure.store.sqlite"
_PREFIX = "format_"


def formats() -> dict[int, str]:
    """The statements that lead to each format, in order. Those of the first one make a new file."""
    numbers: list[int] = []
    for file in (files(_PACKAGE) / "sql").iterdir():
        name = file.name.removesuffix(".sql")
        if name.startswith(_PREFIX):
            numbers.append(int(name.removeprefix(_PREFIX)))
    return {number: read_sql(_PACKAGE, f"{_PREFIX}{number}") for number in sorted(numbers)}


FORMAT = max(formats())
"""The store format that this release writes and the newest that it reads."""


def tables_of(connection: Connection) -> set[str]:
    """The names of a database's own tables."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return {name for (name,) in connection.execute(query)}


def pending(target: str | os.PathLike[str] | Connection) -> list[str]:
    """The formats through which a file, or an open database, still has to go.

    Raises:
        StoreFormat: it is no store, or of a format that this release cannot read.
    """
    if isinstance(target, str | os.PathLike):
        with closing(opened(os.fspath(target))) as connection:
            return pending(connection)
    return [_name(number) for number in _pending(target)]


def migrate(target: str | os.PathLike[str] | Connection) -> list[str]:
    """Bring a file to the format of this release, in one transaction. Returns its steps.

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
    # A file without tables has no owner, and neither has a store in memory.
    if todo[0] == min(formats()) or not target.filename:
        return _apply(target)
    # A node of an older release could go on with its own statements while the tables change.
    with OwnerLock(target.filename).kept_free(f"has to be brought to the {_name(todo[0])}"):
        return _apply(target)


def _name(number: int) -> str:
    return f"format {number}"


def _apply(target: Connection) -> list[str]:
    known = formats()
    with transaction(target):
        # Again, now that no other process can write: another one may have been faster.
        todo = _pending(target)
        for number in todo:
            target.execute(known[number])
            target.execute(
                "INSERT INTO meta (key, value) VALUES ('format', ?1)"
                " ON CONFLICT (key) DO UPDATE SET value = ?1",
                (str(number),),
            )
    return [_name(number) for number in todo]


def _pending(connection: Connection) -> list[int]:
    path = connection.filename or ":memory:"
    known = formats()
    tables = tables_of(connection)
    if not tables:
        return list(known)
    if "meta" not in tables or "units" not in tables:
        some = ", ".join(sorted(tables)[:3])
        msg = (
            f"{path} is a SQLite database, but no Perdure store (it has the tables {some}); "
            "name another file"
        )
        raise StoreFormat(msg)
    found = _format_of(connection, path)
    if found > max(known):
        msg = (
            f"{path} has the store format {found}; this release reads up to {max(known)}: "
            "upgrade perdure"
        )
        raise StoreFormat(msg)
    if found < min(known):
        msg = (
            f"{path} has the store format {found}, which perdure wrote before its first release; "
            f"this release reads the formats {min(known)} to {max(known)}. Let its instances end "
            "with the perdure that wrote it, and begin with a new file"
        )
        raise StoreFormat(msg)
    return [number for number in known if number > found]


def _format_of(connection: Connection, path: str) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    try:
        if row is not None:
            return int(row[0])
        why = "its table `meta` has no format"
    except (TypeError, ValueError) as error:
        why = str(error)
    msg = f"{path} does not say what store it is ({why}); restore the file from a backup"
    raise StoreFormat(msg)
