"""Reads of a PostgreSQL store, as functions of a connection.

Statements stand in `sql/loads.sql`, except those of lists. A list has a condition for each filter
that is given, and the server has to see which ones to choose an index. So the statements of lists
are composed here, from texts of this module and with all values as parameters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from perdure.errors import UsageError
from perdure.kernel.data.commit import (
    ExecutionRow,
    JournalChunk,
    KvEntry,
    StatePart,
    Task,
    UnitRow,
)
from perdure.kernel.data.message import Message
from perdure.ports.store import (
    Counts,
    DeadLetter,
    DeadLetters,
    Executions,
    Inbox,
    InboxPart,
    Incarnation,
    Journal,
    KvEntries,
    Loaded,
    Overdue,
    Page,
    Query,
    Queues,
    Scopes,
    ScopeView,
    Starts,
    Tasks,
    Totals,
    Units,
    UnitView,
    Waiting,
    Wake,
)
from perdure.store.page import check_limit, key_of, page_of, place_of
from perdure.store.postgres.attributes import add_condition
from perdure.store.postgres.columns import (
    UNIT_COLUMNS,
    UNIT_FIELDS,
    message_of,
    run_of,
    unit_of,
)
from perdure.store.postgres.connection import Connection, Values
from perdure.store.postgres.counts import counts, queues, totals
from perdure.store.postgres.filter import Filter
from perdure.store.postgres.places import Cursor, cursor_of
from perdure.store.postgres.tasks import overdue, tasks_of_unit, waiting
from perdure.store.statements import statements

T = TypeVar("T")

SQL = statements("perdure.store.postgres", "loads")
_WIDTH = len(UNIT_FIELDS)
_POSITION = 8
"""The column of a message's position in `inbox`. Its snapshot is the next one."""

# ---------------------------------------------------------------- load


async def load(connection: Connection, units: Sequence[str]) -> list[Loaded]:
    """Units as stored. It is called inside a snapshot."""
    asked = list(dict.fromkeys(units))
    rows = {row[0]: row for row in await connection.fetch(SQL["load_units"], asked)}
    snapshot: str = await connection.fetchval(SQL["snapshot"])
    inboxes: dict[str, list[Message]] = {unit: [] for unit in asked}
    for values in await connection.fetch(SQL["load_inbox"], asked):
        message = message_of(values)
        inboxes[message.to].append(message)
    found: dict[str, Loaded] = {}
    for unit in asked:
        place: str | None = None
        if inboxes[unit]:
            # All messages of the snapshot were read, so reading goes on with those that it does
            # not show.
            place = Cursor(snapshot).text
        version = 0
        row: UnitRow | None = None
        if unit in rows:
            version = rows[unit][_WIDTH]
            row = unit_of(rows[unit])
        found[unit] = Loaded(unit, version, row, inbox=inboxes[unit], place=place)
    for values in await connection.fetch(SQL["load_journal"], asked):
        found[values[0]].journal.append(JournalChunk(*values[1:]))
    for values in await connection.fetch(SQL["load_kv"], asked):
        found[values[0]].kv.append(KvEntry(*values[1:]))
    for values in await connection.fetch(SQL["load_tasks"], asked):
        task = Task(*values)
        found[task.unit].tasks.append(task)
    for unit, part, data, version in await connection.fetch(SQL["load_state"], asked):
        found[unit].state.append(StatePart(part, data, version))
    runs = await connection.fetch(SQL["load_runs"], asked)
    for values in runs:
        found[values[0]].runs.append(run_of(values[1:]))
    # Few units have runs beside their own, and their journals come behind those of the units.
    if runs:
        for values in await connection.fetch(SQL["load_run_journals"], asked):
            found[values[0]].journal.append(JournalChunk(*values[1:]))
    return [found[unit] for unit in units]


async def version_of(connection: Connection, unit: str) -> tuple[int, str]:
    """The version and the scope of a unit (0 and nothing: there is none)."""
    row = await connection.fetchrow(SQL["version"], unit)
    if row is None:
        return 0, ""
    version, scope = row
    return version, scope


async def now(connection: Connection) -> int:
    """The time of the server in milliseconds."""
    at: int = await connection.fetchval(SQL["now"])
    return at


# ---------------------------------------------------------------- messages


async def inbox(connection: Connection, unit: str, after: str | None, limit: int) -> InboxPart:
    """The messages that wait for a unit, in order, from a place on."""
    check_limit(limit)
    cursor = cursor_of(after)
    rows = await _inbox_rows(connection, unit, cursor, limit + 1)
    if not rows and cursor.position:
        # The list has ended. What came meanwhile with a lower position is in the next one.
        cursor = Cursor(cursor.began)
        rows = await _inbox_rows(connection, unit, cursor, limit + 1)
    if not rows:
        return InboxPart([], after)
    messages = [message_of(row) for row in rows[:limit]]
    snapshot = rows[0][_POSITION + 1]
    if len(rows) > limit:
        return InboxPart(messages, cursor.at(rows[limit - 1][_POSITION], snapshot).text)
    return InboxPart(messages, cursor.ended(snapshot).text)


async def _inbox_rows(
    connection: Connection, unit: str, cursor: Cursor, limit: int
) -> list[Values]:
    if not cursor.seen:
        return await connection.fetch(SQL["inbox"], unit, cursor.position, limit)
    return await connection.fetch(SQL["inbox_since"], unit, cursor.position, limit, cursor.seen)


async def arrivals(
    connection: Connection, scopes: Sequence[str], after: str | None, limit: int
) -> Page[str]:
    """Units of these scopes with messages that came behind a place, and still wait."""
    check_limit(limit)
    cursor = cursor_of(after)
    # Before the rows, so that none falls between the two.
    snapshot: str = await connection.fetchval(SQL["snapshot"])
    if after is None:
        return Page([], Cursor(snapshot).text)
    rows = await connection.fetch(
        SQL["arrivals"], cursor.position, list(scopes), limit, cursor.seen
    )
    units = [unit for _, unit in rows]
    if len(rows) < limit:
        return Page(units, cursor.ended(snapshot).text)
    return Page(units, cursor.at(rows[-1][0], snapshot).text)


# ---------------------------------------------------------------- wakes

_BEFORE_ALL = -(1 << 62)
"""A time and a place before all others. None would not do: in SQL nothing is greater than NULL."""


async def wakes(
    connection: Connection, scopes: Sequence[str], until: int, after: str | None, limit: int
) -> Page[Wake]:
    """Units that are due, have visible messages, or an expired lease, by scope and time."""
    check_limit(limit)
    start = key_of(after, tuple[str, int, str])
    wanted = sorted(set(scopes))
    if start is not None:
        wanted = [scope for scope in wanted if scope >= start[0]]
    since = [_BEFORE_ALL] * len(wanted)
    behind = [""] * len(wanted)
    if start is not None and wanted and wanted[0] == start[0]:
        _, since[0], behind[0] = start
    # One more than fits, which says that there is another page.
    rows = await connection.fetch(SQL["wakes"], wanted, since, behind, until, limit + 1)
    result: dict[str, Wake] = {}
    for _, at, unit, suspect, has_messages in rows[:limit]:
        # The first of several times of a unit is when it needed its owner.
        result.setdefault(unit, Wake(unit, at, suspect, has_messages))
    if len(rows) > limit:
        return Page(list(result.values()), place_of(rows[limit - 1][:3]))
    return Page(list(result.values()))


async def next_wake(connection: Connection, scopes: Sequence[str], after: int) -> int | None:
    """The earliest time later than `after` at which `wakes` will have more to say."""
    found: int | None = await connection.fetchval(SQL["next_wake"], list(scopes), after)
    return found


# ---------------------------------------------------------------- queries


async def answer(connection: Connection, query: Query[T]) -> Page[T]:
    """Answer a query.

    Raises:
        UsageError: the limit or the place is none, or this store does not know such queries.
    """
    check_limit(query.limit)
    handler = _HANDLERS.get(type(query))
    if handler is None:
        msg = f"a PostgreSQL store cannot answer a {type(query).__name__} query"
        raise UsageError(msg)
    return cast("Page[T]", await handler(connection, query))


async def _page(
    connection: Connection,
    sql: str,
    values: Sequence[Any],
    limit: int,
    make: Callable[[Values], tuple[Values, T]],
) -> Page[T]:
    rows = await connection.fetch(sql, *values, limit + 1)
    return page_of([make(row) for row in rows], limit)


def units_sql(query: Units) -> tuple[str, list[Any]]:
    """The statement of a list, and its values without the limit."""
    where = Filter()
    for condition in query.where:
        add_condition(where, condition)
    where.one_of("status", query.statuses)
    where.one_of("type", query.types)
    where.one_of("type_version", query.type_versions)
    where.one_of("id", query.ids)
    where.one_of("reason", query.reasons)
    if query.id_prefix is not None:
        # LIKE would need escapes for the prefix.
        where.add("id >= {} AND starts_with(id, {})", query.id_prefix, query.id_prefix)
    if query.parent is not None:
        where.add("parent_unit = {}", query.parent)
    if query.created_after is not None:
        where.add("created_at > {}", query.created_after)
    if query.created_before is not None:
        where.add("created_at < {}", query.created_before)
    if query.closed_after is not None:
        where.add("closed_at > {}", query.closed_after)
    if query.closed_before is not None:
        where.add("closed_at < {}", query.closed_before)
    start = key_of(query.after, tuple[int, str])
    if start is not None:
        where.add("(created_at, id) < ({}, {})", *start)
    sql = (
        f"SELECT {UNIT_COLUMNS}, version FROM units WHERE {where}"  # noqa: S608 - no input
        f" ORDER BY created_at DESC, id DESC LIMIT ${len(where.values) + 1}"
    )
    return sql, where.values


async def _units(connection: Connection, query: Units) -> Page[UnitView]:
    def view(values: Values) -> tuple[Values, UnitView]:
        row = unit_of(values)
        return (row.created_at, row.id), UnitView(row, values[_WIDTH])

    sql, values = units_sql(query)
    return await _page(connection, sql, values, query.limit, view)


async def _journal(connection: Connection, query: Journal) -> Page[JournalChunk]:
    def view(row: Values) -> tuple[Values, JournalChunk]:
        return row[:2], JournalChunk(*row)

    start = key_of(query.after, tuple[int, int])
    # All pages of a list show one execution, also when the next one has begun meanwhile.
    if start is not None:
        execution, first = start
    else:
        execution = query.execution or await _current(connection, query)
        first = _BEFORE_ALL
    values = (query.unit, query.run, execution, first)
    return await _page(connection, SQL["journal"], values, query.limit, view)


async def _current(connection: Connection, query: Journal) -> int:
    """The number of a run's current execution (0: there is no such run)."""
    if query.run:
        found: int = await connection.fetchval(SQL["run_execution"], query.unit, query.run)
    else:
        found = await connection.fetchval(SQL["current_execution"], query.unit)
    return found


async def _executions(connection: Connection, query: Executions) -> Page[ExecutionRow]:
    def view(row: Values) -> tuple[Values, ExecutionRow]:
        return row[:1], ExecutionRow(*row)

    start = key_of(query.after, tuple[int]) or (_BEFORE_ALL,)
    values = (query.unit, query.run, *start)
    return await _page(connection, SQL["executions"], values, query.limit, view)


async def _kv(connection: Connection, query: KvEntries) -> Page[tuple[str, bytes]]:
    def view(row: Values) -> tuple[Values, tuple[str, bytes]]:
        key, value = row
        return (key,), (key, value)

    start = key_of(query.after, tuple[str])
    where = Filter()
    # A deleted key without a value stays for replay only.
    where.add("unit = {} AND value IS NOT NULL", query.unit)
    where.one_of("key", query.keys)
    if start is not None:
        where.add("key > {}", *start)
    mark = len(where.values) + 1
    sql = f"SELECT key, value FROM kv WHERE {where} ORDER BY key LIMIT ${mark}"  # noqa: S608
    return await _page(connection, sql, where.values, query.limit, view)


async def _inbox(connection: Connection, query: Inbox) -> Page[Message]:
    def view(row: Values) -> tuple[Values, Message]:
        return (row[_POSITION],), message_of(row)

    start = key_of(query.after, tuple[int]) or (0,)
    return await _page(connection, SQL["inbox"], (query.unit, *start), query.limit, view)


async def _starts(connection: Connection, query: Starts) -> Page[Message]:
    def view(row: Values) -> tuple[Values, Message]:
        return (row[_POSITION],), message_of(row)

    start = key_of(query.after, tuple[int]) or (None,)
    if query.ids:
        values = (list(query.ids), *start)
        return await _page(connection, SQL["starts_of"], values, query.limit, view)
    return await _page(connection, SQL["starts"], start, query.limit, view)


async def _dead_letters(connection: Connection, query: DeadLetters) -> Page[DeadLetter]:
    def view(row: Values) -> tuple[Values, DeadLetter]:
        return row[:2], DeadLetter(*row)

    where = Filter()
    if query.unit is not None:
        where.add("unit = {}", query.unit)
    if query.message is not None:
        where.add("message = {}", query.message)
    start = key_of(query.after, tuple[str, bytes])
    if start is not None:
        where.add("(unit, message) > ({}, {})", *start)
    columns = "unit, message, kind, sender, at, expires_at, reason, body"
    mark = len(where.values) + 1
    source = f"dead_letters WHERE {where} ORDER BY unit, message LIMIT ${mark}"
    sql = f"SELECT {columns} FROM {source}"  # noqa: S608 - no input
    return await _page(connection, sql, where.values, query.limit, view)


async def owner(connection: Connection) -> str | None:
    """The nodes that have joined the cluster in this schema. None: there is none."""
    # A store that no node has opened has no such table.
    if await connection.fetchval("SELECT to_regclass('members')") is None:
        return None
    nodes = "SELECT string_agg(node, ', ' ORDER BY node) FROM members"
    found: str | None = await connection.fetchval(nodes)
    return found


async def _scopes(connection: Connection, query: Scopes) -> Page[ScopeView]:
    def view(row: Values) -> tuple[Values, ScopeView]:
        scope, epoch, node, incarnation = row
        owner: Incarnation | None = None
        if incarnation is not None:
            owner = Incarnation(node, incarnation)
        return (scope,), ScopeView(scope, epoch, owner)

    where = Filter()
    if query.scopes:
        where.add("scope = ANY({}::text[])", list(query.scopes))
    if query.prefix:
        where.add("scope >= {} AND starts_with(scope, {})", query.prefix, query.prefix)
    start = key_of(query.after, tuple[str])
    if start is not None:
        where.add("scope > {}", *start)
    mark = len(where.values) + 1
    source = f"scopes WHERE {where} ORDER BY scope LIMIT ${mark}"
    sql = f"SELECT scope, epoch, node, incarnation FROM {source}"  # noqa: S608 - no input
    return await _page(connection, sql, where.values, query.limit, view)


_HANDLERS: dict[type[Query[Any]], Callable[[Connection, Any], Awaitable[Page[Any]]]] = {
    Units: _units,
    Journal: _journal,
    Executions: _executions,
    KvEntries: _kv,
    Inbox: _inbox,
    Starts: _starts,
    DeadLetters: _dead_letters,
    Scopes: _scopes,
    Counts: counts,
    Totals: totals,
    Queues: queues,
    Overdue: overdue,
    Tasks: tasks_of_unit,
    Waiting: waiting,
}
