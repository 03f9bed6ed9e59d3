"""Reads of a SQLite store, as functions of a connection that is inside a transaction.

Statements stand in `sql/loads.sql`, except those of lists. A list has a condition for each filter
that is given, and SQLite has to see which ones: a statement with all filters, such as `?1 IS NULL
OR status = ?1`, would use no index. So the statements of lists are composed here, from texts of
this module and with all values as parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from perdure.ports.where import Where
from perdure.store.page import check_limit, key_of, page_of, place_of
from perdure.store.sqlite.attributes import found_units, is_equal, leading, of_unit
from perdure.store.sqlite.columns import (
    UNIT_COLUMNS,
    UNIT_FIELDS,
    message_of,
    run_of,
    unit_of,
)
from perdure.store.sqlite.connection import Connection, Values, ids_json
from perdure.store.sqlite.counts import counts, queues, totals
from perdure.store.sqlite.places import READ_LAST
from perdure.store.sqlite.tasks import overdue, tasks_of_unit, waiting
from perdure.store.statements import statements

T = TypeVar("T")
K = TypeVar("K", bound=tuple[Any, ...])

SQL = statements("perdure.store.sqlite", "loads")
_WIDTH = len(UNIT_FIELDS)

# ---------------------------------------------------------------- load


def load(connection: Connection, units: Sequence[str]) -> list[Loaded]:
    """Units as stored."""
    asked = (ids_json(units),)
    rows: dict[str, Values] = {}
    for values in connection.execute(SQL["load_units"], asked):
        rows[values[0]] = values
    inboxes: dict[str, list[Message]] = {unit: [] for unit in units}
    places: dict[str, Values] = {}
    for values in connection.execute(SQL["load_inbox"], asked):
        message = message_of(values[:-1])
        inboxes[message.to].append(message)
        places[message.to] = values[-1:]
    found: dict[str, Loaded] = {}
    for unit in units:
        place: str | None = None
        if unit in places:
            place = place_of(places[unit])
        version = 0
        row: UnitRow | None = None
        if unit in rows:
            version = rows[unit][_WIDTH]
            row = unit_of(rows[unit])
        found[unit] = Loaded(unit, version, row, inbox=inboxes[unit], place=place)
    for values in connection.execute(SQL["load_journal"], asked):
        found[values[0]].journal.append(JournalChunk(*values[1:]))
    for values in connection.execute(SQL["load_kv"], asked):
        found[values[0]].kv.append(KvEntry(*values[1:]))
    for values in connection.execute(SQL["load_tasks"], asked):
        task = Task(*values)
        found[task.unit].tasks.append(task)
    for unit, part, data, version in connection.execute(SQL["load_state"], asked):
        found[unit].state.append(StatePart(part, data, version))
    has_runs = False
    for values in connection.execute(SQL["load_runs"], asked):
        has_runs = True
        found[values[0]].runs.append(run_of(values[1:]))
    # Few units have runs beside their own, and their journals come behind those of the units.
    if has_runs:
        for values in connection.execute(SQL["load_run_journals"], asked):
            found[values[0]].journal.append(JournalChunk(*values[1:]))
    return [found[unit] for unit in units]


def versions(connection: Connection, units: Sequence[str]) -> dict[str, int]:
    """The versions of units that exist."""
    return dict(connection.execute(SQL["versions"], (ids_json(units),)))


# ---------------------------------------------------------------- messages


def inbox(connection: Connection, unit: str, after: str | None, limit: int) -> InboxPart:
    """The messages that wait for a unit, in order, from a place on."""
    check_limit(limit)
    (start,) = key_of(after, tuple[int]) or (0,)
    rows = list(connection.execute(SQL["inbox"], (unit, start, limit)))
    if not rows:
        return InboxPart([], after)
    return InboxPart([message_of(row[:-1]) for row in rows], place_of(rows[-1][-1:]))


def arrivals(
    connection: Connection, scopes: Sequence[str], after: str | None, limit: int
) -> Page[str]:
    """Units of these scopes with messages that came behind a place, and still wait."""
    check_limit(limit)
    now = connection.execute(READ_LAST).get
    if after is None:
        return Page([], place_of((now,)))
    (start,) = key_of(after, tuple[int]) or (0,)
    # An idle node asks every few seconds, and nothing has come.
    if now <= start:
        return Page([], after)
    found: dict[str, None] = {}
    for position, unit in connection.execute(SQL["arrivals"], (start, ids_json(scopes))):
        found[unit] = None
        if len(found) == limit:
            return Page(list(found), place_of((position,)))
    return Page(list(found), place_of((now,)))


# ---------------------------------------------------------------- wakes

_BEFORE_ALL = -(1 << 62)
_BEHIND_ALL = 1 << 62
"""A time and a place before all others. None would not do: in SQL nothing is greater than NULL."""


def wakes(
    connection: Connection, scopes: Sequence[str], until: int, after: str | None, limit: int
) -> Page[Wake]:
    """Units that are due, have visible messages, or an expired lease, by scope and time."""
    check_limit(limit)
    start = key_of(after, tuple[str, int, str]) or ("", _BEFORE_ALL, "")
    found: list[tuple[str, int, str]] = []
    result: dict[str, Wake] = {}
    asked = {"scopes": ids_json(sorted(set(scopes))), "first": start[0], "until": until}
    for (scope,) in list(connection.execute(SQL["due_scopes"], asked)):
        at = _BEFORE_ALL
        unit = ""
        if scope == start[0]:
            _, at, unit = start
        # One more than fits, which says that there is another page.
        room = limit + 1 - len(found)
        values = {"scope": scope, "until": until, "at": at, "unit": unit, "limit": room}
        for at, unit, suspect, has_messages in connection.execute(SQL["wakes"], values):
            # The first of several times of a unit is when it needed its owner.
            if len(found) < limit:
                result.setdefault(unit, Wake(unit, at, suspect, bool(has_messages)))
            found.append((scope, at, unit))
        if len(found) > limit:
            return Page(list(result.values()), place_of(found[limit - 1]))
    return Page(list(result.values()))


def next_wake(connection: Connection, scopes: Sequence[str], after: int) -> int | None:
    """The earliest time later than `after` at which `wakes` will have more to say."""
    found: int | None = connection.execute(SQL["next_wake"], (ids_json(scopes), after)).get
    return found


# ---------------------------------------------------------------- queries


def answer(connection: Connection, query: Query[T]) -> Page[T]:
    """Answer a query.

    Raises:
        UsageError: the limit or the place is none, or this store does not know such queries.
    """
    check_limit(query.limit)
    handler = _HANDLERS.get(type(query))
    if handler is None:
        msg = f"a SQLite store cannot answer a {type(query).__name__} query"
        raise UsageError(msg)
    return cast("Page[T]", handler(connection, query))


def _page(
    connection: Connection,
    sql: str,
    values: Sequence[Any],
    limit: int,
    make: Callable[[Values], tuple[Values, T]],
) -> Page[T]:
    return page_of([make(row) for row in connection.execute(sql, (*values, limit + 1))], limit)


class Filter:
    """The conditions of a list."""

    def __init__(self) -> None:
        """Start with none."""
        self.terms: list[str] = ["1"]
        self.values: list[Any] = []

    def __str__(self) -> str:
        """What stands behind WHERE."""
        return " AND ".join(self.terms)

    def add(self, term: str, *values: Any) -> None:
        """Add a condition."""
        self.terms.append(term)
        self.values += values

    def bind(self, values: Sequence[Any]) -> None:
        """Add values that stand in front of those of the conditions."""
        self.values[:0] = values

    def one_of(self, column: str, values: tuple[str, ...]) -> None:
        """Add a condition that a column has one of the values. Without values there is none."""
        if values:
            self.add(f"{column} IN ({', '.join('?' * len(values))})", *values)


def units_sql(query: Units) -> tuple[str, list[Any]]:
    """The statement of a list, and its values without the limit."""
    where = Filter()
    source, newest_first = "units", "created_at DESC, id DESC"
    if query.where:
        source, newest_first = _with_attributes(where, query.where)
    where.one_of("status", query.statuses)
    where.one_of("type", query.types)
    where.one_of("type_version", query.type_versions)
    where.one_of("id", query.ids)
    where.one_of("reason", query.reasons)
    if query.id_prefix is not None:
        # LIKE would need escapes for the prefix, and does not tell capitals from small ones.
        prefix = query.id_prefix
        where.add("id >= ? AND substr(id, 1, ?) = ?", prefix, len(prefix), prefix)
    if query.parent is not None:
        where.add("parent_unit = ?", query.parent)
    if query.created_after is not None:
        where.add("created_at > ?", query.created_after)
    if query.created_before is not None:
        where.add("created_at < ?", query.created_before)
    if query.closed_after is not None:
        where.add("closed_at > ?", query.closed_after)
    if query.closed_before is not None:
        where.add("closed_at < ?", query.closed_before)
    # A damaged row may have anything as its time, and must not hide those that come after it.
    start = key_of(query.after, tuple[int | float | str, str])
    if start is not None:
        where.add(f"({newest_first.replace(' DESC', '')}) < (?, ?)", *start)
    sql = (
        f"SELECT {UNIT_COLUMNS}, version FROM {source} WHERE {where}"  # noqa: S608 - no input
        f" ORDER BY {newest_first} LIMIT ?"
    )
    return sql, where.values


def _units(connection: Connection, query: Units) -> Page[UnitView]:
    def view(values: Values) -> tuple[Values, UnitView]:
        row = unit_of(values)
        return (row.created_at, row.id), UnitView(row, values[_WIDTH])

    sql, values = units_sql(query)
    return _page(connection, sql, values, query.limit, view)


def _with_attributes(where: Filter, conditions: Sequence[Where]) -> tuple[str, str]:
    """Add conditions on search attributes. Returns the tables to read, and the order of creation.

    When one value is asked for, the index has the units in that order, and a page costs what it
    holds. Otherwise all units that the first condition gives are sorted.
    """
    first, others = leading(conditions)
    found, values = found_units(first)
    where.bind(values)
    for condition in others:
        for term, more in of_unit(condition):
            where.add(term, *more)
    # CROSS JOIN has SQLite read the index first, in its order.
    source = f"{found} CROSS JOIN units ON units.id = found.unit"
    if is_equal(first):
        return source, "found.created DESC, found.unit DESC"
    return source, "created_at DESC, id DESC"


def _journal(connection: Connection, query: Journal) -> Page[JournalChunk]:
    def view(row: Values) -> tuple[Values, JournalChunk]:
        return row[:2], JournalChunk(*row)

    start = key_of(query.after, tuple[int, int])
    # All pages of a list show one execution, also when the next one has begun meanwhile.
    if start is not None:
        execution, first = start
    else:
        execution = query.execution or _current(connection, query)
        first = _BEFORE_ALL
    values = (query.unit, query.run, execution, first)
    return _page(connection, SQL["journal"], values, query.limit, view)


def _current(connection: Connection, query: Journal) -> int:
    """The number of a run's current execution (0: there is no such run)."""
    if query.run:
        found: int = connection.execute(SQL["run_execution"], (query.unit, query.run)).get
    else:
        found = connection.execute(SQL["current_execution"], (query.unit,)).get
    return found


def _executions(connection: Connection, query: Executions) -> Page[ExecutionRow]:
    def view(row: Values) -> tuple[Values, ExecutionRow]:
        return row[:1], ExecutionRow(*row)

    start = key_of(query.after, tuple[int]) or (_BEFORE_ALL,)
    values = (query.unit, query.run, *start)
    return _page(connection, SQL["executions"], values, query.limit, view)


def _kv(connection: Connection, query: KvEntries) -> Page[tuple[str, bytes]]:
    def view(row: Values) -> tuple[Values, tuple[str, bytes]]:
        key, value = row
        return (key,), (key, value)

    start = key_of(query.after, tuple[str])
    where = Filter()
    # A deleted key without a value stays for replay only.
    where.add("unit = ? AND value IS NOT NULL", query.unit)
    where.one_of("key", query.keys)
    if start is not None:
        where.add("key > ?", *start)
    sql = f"SELECT key, value FROM kv WHERE {where} ORDER BY key LIMIT ?"  # noqa: S608 - no input
    return _page(connection, sql, where.values, query.limit, view)


def _inbox(connection: Connection, query: Inbox) -> Page[Message]:
    def view(row: Values) -> tuple[Values, Message]:
        return row[-1:], message_of(row[:-1])

    start = key_of(query.after, tuple[int]) or (_BEFORE_ALL,)
    return _page(connection, SQL["inbox"], (query.unit, *start), query.limit, view)


def _starts(connection: Connection, query: Starts) -> Page[Message]:
    def view(row: Values) -> tuple[Values, Message]:
        return row[-1:], message_of(row[:-1])

    start = key_of(query.after, tuple[int]) or (_BEHIND_ALL,)
    if query.ids:
        values = (ids_json(query.ids), *start)
        return _page(connection, SQL["starts_of"], values, query.limit, view)
    return _page(connection, SQL["starts"], start, query.limit, view)


def _dead_letters(connection: Connection, query: DeadLetters) -> Page[DeadLetter]:
    def view(row: Values) -> tuple[Values, DeadLetter]:
        return row[:2], DeadLetter(*row)

    where = Filter()
    if query.unit is not None:
        where.add("unit = ?", query.unit)
    if query.message is not None:
        where.add("message = ?", query.message)
    start = key_of(query.after, tuple[str, bytes])
    if start is not None:
        where.add("(unit, message) > (?, ?)", *start)
    columns = "unit, message, kind, sender, at, expires_at, reason, body"
    source = f"dead_letters WHERE {where}"
    sql = f"SELECT {columns} FROM {source} ORDER BY unit, message LIMIT ?"  # noqa: S608 - no input
    return _page(connection, sql, where.values, query.limit, view)


def _scopes(connection: Connection, query: Scopes) -> Page[ScopeView]:
    def view(row: Values) -> tuple[Values, ScopeView]:
        scope, epoch, node, incarnation = row
        owner: Incarnation | None = None
        if incarnation is not None:
            owner = Incarnation(node, incarnation)
        return (scope,), ScopeView(scope, epoch, owner)

    where = Filter()
    if query.scopes:
        where.add("scope IN (SELECT value FROM json_each(?))", ids_json(query.scopes))
    if query.prefix:
        prefix = query.prefix
        where.add("scope >= ? AND substr(scope, 1, ?) = ?", prefix, len(prefix), prefix)
    start = key_of(query.after, tuple[str])
    if start is not None:
        where.add("scope > ?", *start)
    source = f"scopes WHERE {where} ORDER BY scope"
    sql = f"SELECT scope, epoch, node, incarnation FROM {source} LIMIT ?"  # noqa: S608 - no input
    return _page(connection, sql, where.values, query.limit, view)


_HANDLERS: dict[type[Query[Any]], Callable[[Connection, Any], Page[Any]]] = {
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
