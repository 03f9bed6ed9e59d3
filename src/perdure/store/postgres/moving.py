"""Moving a PostgreSQL store: its seal, its rows as they are, and rows that come from another store.

One connection does it all. Its session holds a lock, so that a second process is refused at once. A
process that has lost the connection has lost the lock, and writes nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from perdure.errors import StoreFormat, StoreLocked, UsageError
from perdure.kernel.data.message import Start, decode_body
from perdure.ports.moving import Key, RowPart, Seal
from perdure.store.copied import ALL_KEYS, KEYS, SEALED, PartMaker, behind
from perdure.store.postgres.address import Address
from perdure.store.postgres.columns import attribute_values
from perdure.store.postgres.connection import Connection, Values, columns, connect_patiently
from perdure.store.seal import KEY, MARK, check_seal, decode, encode, loses_rows, not_empty
from perdure.store.statements import statements

_SQL = statements("perdure.store.postgres", "moving")

DERIVED = {"inbox": ("written", "replaces")}
"""Columns that are made of others, or of the transaction that writes the row."""

_HIDDEN = {"queues": "starts IS NOT NULL"}
"""Conditions of the rows that count. A queue without them is only a row to lock."""

_FETCHED = 100
"""Rows of one answer of the server. Any of them may be large."""


async def connect(address: Address) -> Connection:
    """A connection for a move, which holds the lock.

    Raises:
        StoreLocked: another process moves the store.
        UsageError: the server is a pooler, so that a connection holds nothing.
    """
    options = address.options
    if options.pooled and options.listen is None:
        msg = f"{address.name} is behind a pooler; move it with the URL of the server itself"
        raise UsageError(msg)
    connection = await connect_patiently(address)
    try:
        if not await connection.fetchval(_SQL["lock"], options.schema):
            msg = f"another process moves {address.name}; wait until it has ended"
            raise StoreLocked(msg)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def seal_of(connection: Connection) -> Seal | None:
    """The seal that the store has."""
    return decode(await connection.fetchval(_SQL["read_seal"], KEY))


async def reseal(
    connection: Connection, before: Seal | None, after: Seal | None, name: str
) -> None:
    """Put one seal in the place of another, inside a transaction."""
    # It waits for transactions that write, and keeps later ones waiting until all is decided.
    await connection.execute(_SQL["lock_tables"])
    check_seal(await seal_of(connection), before, name)
    if after is not None and after.role == "target" and not after.is_done:
        for table in KEYS:
            if await connection.fetchval(f"SELECT 1 {_rows_of(table)} LIMIT 1"):
                raise not_empty(name, table)
        await connection.execute(_SQL["forget_scopes"])
    for table in SEALED:
        await connection.execute(f"DROP TRIGGER IF EXISTS sealed ON {table}")
    if loses_rows(before, after):
        for table in SEALED:
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a name of ours
    await connection.execute(_SQL["drop_function"])
    if after is None:
        await connection.execute(_SQL["drop_seal"], KEY)
        return
    await connection.execute(_SQL["write_seal"], KEY, encode(after))
    if after.is_closed:
        await _close(connection, after)


async def _close(connection: Connection, seal: Seal) -> None:
    """Have triggers refuse all writes, but those of the move into the store itself."""
    text = (MARK + encode(seal)).replace("'", "''")
    await connection.execute(_SQL["create_function"].replace("{text}", text))
    condition = ""
    if seal.role == "target":
        # A move lets itself in, for one transaction at a time.
        condition = f"WHEN (current_setting('perdure.move', true) IS DISTINCT FROM '{seal.move}') "
    for table in SEALED:
        await connection.execute(
            f"CREATE TRIGGER sealed BEFORE INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW {condition}EXECUTE FUNCTION refuse_sealed()"
        )


async def tables(connection: Connection) -> dict[str, int]:
    """The tables to copy, and how many rows each has."""
    sizes: dict[str, int] = {}
    for table in KEYS:
        sizes[table] = await connection.fetchval(f"SELECT count(*) {_rows_of(table)}")
    return sizes


async def types_of(connection: Connection, table: str) -> dict[str, str]:
    """The columns of a table with their types, but for those that are derived."""
    found = await connection.fetch(_SQL["columns"], table)
    derived = DERIVED.get(table, ())
    return {name: type_ for name, type_ in found if name not in derived}


async def rows(connection: Connection, table: str, after: Key | None) -> RowPart:
    """The rows of a table behind a key, inside a transaction."""
    types = await types_of(connection, table)
    shown = ", ".join(_neutral(name, type_) for name, type_ in types.items())
    condition = behind(table, (f"${number}" for number in count(1)), after)
    order = ", ".join(ALL_KEYS[table])
    query = f"SELECT {shown} {_rows_of(table)} AND {condition} ORDER BY {order}"
    cursor = f"DECLARE part_of_{table} NO SCROLL CURSOR FOR {query}"
    await connection.execute(cursor, *(after or ()))
    maker = PartMaker(table, tuple(types))
    is_full = False
    found: list[Values] = [()] * _FETCHED
    while len(found) == _FETCHED and not is_full:
        # A name for each table, because the driver remembers the columns of a statement.
        found = await connection.fetch(f"FETCH {_FETCHED} FROM part_of_{table}")
        for row in found:
            is_full = maker.add(tuple(row))
    return maker.part(is_last=not is_full)


def _rows_of(table: str) -> str:
    """All rows of a table, as a statement has them."""
    return f"FROM {table} WHERE {_HIDDEN.get(table, 'true')}"


def _neutral(name: str, type_: str) -> str:
    if type_ == "boolean":
        return f"{name}::int"
    return name


async def last_key(connection: Connection, table: str) -> Key | None:
    """The key of the last row."""
    names = ALL_KEYS[table]
    order = ", ".join(f"{name} DESC" for name in names)
    row = await connection.fetchrow(
        f"SELECT {', '.join(names)} {_rows_of(table)} ORDER BY {order} LIMIT 1"
    )
    if row is None:
        return None
    return tuple(row)


async def fill(connection: Connection, seal: Seal, table: str, part: RowPart, name: str) -> None:
    """Add rows to a store that is sealed as the target of a move, inside a transaction."""
    # The row of the seal stays as it is until this transaction has ended.
    check_seal(decode(await connection.fetchval(_SQL["hold_seal"], KEY)), seal, name)
    await connection.fetchval(_SQL["let_in"], seal.move)
    types = await types_of(connection, table)
    unknown = set(part.columns) - types.keys()
    if unknown:
        msg = f"{name} has no column {min(unknown)!r} in its table {table}; run `perdure migrate`"
        raise StoreFormat(msg)
    if not part.rows:
        return
    names = list(part.columns)
    values = columns(part.rows, len(names))
    if table == "inbox":
        names.append("replaces")
        types = {**types, "replaces": "boolean"}
        bodies = values[part.columns.index("body")]
        values.append([_replaces(body) for body in bodies])
    await connection.execute(_insert(table, names, types), *values)
    if table == "units":
        await _index_attributes(connection, part)
    if table == "inbox":
        last = max(values[part.columns.index("position")])
        await connection.fetchval(_SQL["raise_last_place"], last)


def _replaces(body: bytes) -> int:
    start = decode_body(body)
    return int(isinstance(start, Start) and start.replaces_closed)


def _insert(table: str, names: list[str], types: Mapping[str, str]) -> str:
    arrays: list[str] = []
    shown: list[str] = []
    for number, name in enumerate(names, 1):
        if types[name] == "boolean":
            arrays.append(f"${number}::int[]")
            shown.append(f"given.{name} <> 0")
        else:
            arrays.append(f"${number}::{types[name]}[]")
            shown.append(f"given.{name}")
    given = ", ".join(names)
    return (
        f"INSERT INTO {table} ({given}) SELECT {', '.join(shown)} "  # noqa: S608 - names of ours
        f"FROM unnest({', '.join(arrays)}) AS given ({given}) "
        f"ON CONFLICT ({', '.join(ALL_KEYS[table])}) DO NOTHING"
    )


async def _index_attributes(connection: Connection, part: RowPart) -> None:
    """Index the search attributes of units."""
    place = {name: number for number, name in enumerate(part.columns)}
    units: list[str] = []
    terms: list[Values] = []
    for row in part.rows:
        data = row[place["attributes"]]
        if data is None:
            continue
        unit = row[place["id"]]
        units.append(unit)
        terms += [(unit, *term, row[place["created_at"]]) for term in attribute_values(data)]
    if units:
        # They may be there from a run of the same part before.
        await connection.execute(_SQL["drop_attributes"], units)
        await connection.execute(_SQL["insert_attributes"], *columns(terms, 6))
