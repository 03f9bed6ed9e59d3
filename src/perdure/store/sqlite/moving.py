"""Moving a SQLite store: its seal, its rows as they are, and rows that come from another store.

Each function runs inside a transaction.
"""

from __future__ import annotations

from itertools import repeat

from perdure.errors import StoreFormat
from perdure.ports.moving import Key, RowPart, Seal
from perdure.store.copied import ALL_KEYS, KEYS, SEALED, PartMaker, behind
from perdure.store.seal import KEY, MARK, check_seal, decode, encode, loses_rows, not_empty
from perdure.store.sqlite.attributes import index_rows
from perdure.store.sqlite.connection import Connection
from perdure.store.statements import statements

_INSERT_ATTRIBUTE = statements("perdure.store.sqlite", "commits")["insert_attribute"]
_SQL = statements("perdure.store.sqlite", "moving")

_WRITES = ("INSERT", "UPDATE", "DELETE")


def seal_of(connection: Connection) -> Seal | None:
    """The seal that the store has."""
    row = connection.execute(_SQL["read_seal"], (KEY,)).fetchone()
    if row is None:
        return None
    return decode(row[0])


def reseal(connection: Connection, before: Seal | None, after: Seal | None, name: str) -> None:
    """Put one seal in the place of another."""
    check_seal(seal_of(connection), before, name)
    if before is None or not before.is_closed:
        _check_target(connection, after, name)
    for table in SEALED:
        _open(connection, table)
    if loses_rows(before, after):
        # Behind the opening of the tables, which refuse it before.
        for table in SEALED:
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of ours
    if after is None:
        connection.execute(_SQL["drop_seal"], (KEY,))
        return
    connection.execute(_SQL["write_seal"], (KEY, encode(after)))
    if after.is_closed:
        for table in SEALED:
            _close(connection, table, after)


def _check_target(connection: Connection, after: Seal | None, name: str) -> None:
    """Refuse a target with rows. Scopes that were claimed are forgotten, and fence nobody."""
    if after is None or after.role != "target" or after.is_done:
        return
    for table in KEYS:
        if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608
            raise not_empty(name, table)
    connection.execute(_SQL["forget_scopes"])


def _open(connection: Connection, table: str) -> None:
    for write in _WRITES:
        connection.execute(f"DROP TRIGGER IF EXISTS sealed_{table}_{write.lower()}")


def _close(connection: Connection, table: str, seal: Seal) -> None:
    text = (MARK + encode(seal)).replace("'", "''")
    for write in _WRITES:
        connection.execute(
            f"CREATE TRIGGER sealed_{table}_{write.lower()} BEFORE {write} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{text}'); END"
        )


def tables(connection: Connection) -> dict[str, int]:
    """The tables to copy, and how many rows each has."""
    sizes: dict[str, int] = {}
    for table in KEYS:
        sizes[table] = connection.execute(f"SELECT count(*) FROM {table}").get  # noqa: S608
    return sizes


def columns_of(connection: Connection, table: str) -> tuple[str, ...]:
    """The columns of a table. None is derived from others."""
    return tuple(name for (name,) in connection.execute(_SQL["columns"], (table,)))


def rows(connection: Connection, table: str, after: Key | None) -> RowPart:
    """The rows of a table behind a key."""
    columns = columns_of(connection, table)
    condition = behind(table, repeat("?"), after)
    found = connection.execute(
        f"SELECT {', '.join(columns)} FROM {table} WHERE {condition} "  # noqa: S608 - names of ours
        f"ORDER BY {', '.join(ALL_KEYS[table])}",
        after or (),
    )
    maker = PartMaker(table, columns)
    for row in found:
        if maker.add(row):
            return maker.part(is_last=False)
    return maker.part(is_last=True)


def last_key(connection: Connection, table: str) -> Key | None:
    """The key of the last row."""
    names = ALL_KEYS[table]
    order = ", ".join(f"{name} DESC" for name in names)
    return connection.execute(
        f"SELECT {', '.join(names)} FROM {table} ORDER BY {order} LIMIT 1"  # noqa: S608
    ).fetchone()


def fill(connection: Connection, seal: Seal, table: str, part: RowPart, name: str) -> None:
    """Add rows to a store that is sealed as the target of a move."""
    check_seal(seal_of(connection), seal, name)
    unknown = set(part.columns) - set(columns_of(connection, table))
    if unknown:
        msg = f"{name} has no column {min(unknown)!r} in its table {table}; run `perdure migrate`"
        raise StoreFormat(msg)
    _open(connection, table)
    marks = ", ".join("?" * len(part.columns))
    # Not OR IGNORE, which would hide a NULL where none may be.
    connection.executemany(
        f"INSERT INTO {table} ({', '.join(part.columns)}) VALUES ({marks}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(ALL_KEYS[table])}) DO NOTHING",
        part.rows,
    )
    if table == "units":
        _index_attributes(connection, seal, part)
    if table == "inbox":
        connection.execute(_SQL["raise_last_place"])
    _close(connection, table, seal)


def _index_attributes(connection: Connection, seal: Seal, part: RowPart) -> None:
    """Index the search attributes of units."""
    _open(connection, "attributes")
    place = {name: number for number, name in enumerate(part.columns)}
    id_, attributes, created_at = place["id"], place["attributes"], place["created_at"]
    for row in part.rows:
        if row[attributes] is None:
            continue
        # They may be there from a run of the same part before.
        connection.execute(_SQL["drop_attributes"], (row[id_],))
        found = index_rows(row[id_], row[attributes], row[created_at])
        connection.executemany(_INSERT_ATTRIBUTE, found)
    _close(connection, "attributes", seal)
