"""Lists and counts of a memory store, by walking its dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, TypeVar, cast, get_args

from msgspec.structs import replace

from perdure.errors import UsageError
from perdure.kernel.data.attributes import terms_of
from perdure.kernel.data.commit import (
    CLOSED,
    ExecutionRow,
    JournalChunk,
    Status,
    Task,
    UnitRow,
)
from perdure.kernel.data.message import (
    Delete,
    Message,
    Resume,
    Retry,
    Send,
    Start,
    Terminate,
    encode_body,
)
from perdure.ports.backlog import Backlog, Backlogs, Shards, ShardView
from perdure.ports.store import (
    Counts,
    DeadLetter,
    DeadLetters,
    Executions,
    Inbox,
    Journal,
    KvEntries,
    Overdue,
    Page,
    Query,
    QueueDepth,
    Queues,
    Scopes,
    ScopeView,
    Starts,
    Tasks,
    Totals,
    Units,
    UnitView,
    Waiting,
)
from perdure.store.derived import (
    overdue_from,
    overdue_key,
    overdue_page,
    task_place,
    tasks_from,
    tasks_page,
    waiting_from,
    waiting_page,
)
from perdure.store.memory.rows import Tables
from perdure.store.memory.unit import Unit
from perdure.store.page import check_limit, key_of, page_of

T = TypeVar("T")

Keyed = list[tuple[tuple[Any, ...], T]]
"""Items with the keys by which they are sorted and pages go on."""

STATUSES: tuple[str, ...] = get_args(Status)


def answer(tables: Tables, query: Query[T]) -> Page[T]:
    """Answer a query.

    Raises:
        UsageError: the limit or the place is none, or this store does not know such queries.
    """
    check_limit(query.limit)
    handler = _HANDLERS.get(type(query))
    if handler is None:
        msg = f"the memory store cannot answer a {type(query).__name__} query"
        raise UsageError(msg)
    return cast("Page[T]", handler(tables, query))


def _page(query: Query[T], items: Keyed[T], kind: type[tuple[Any, ...]]) -> Page[T]:
    """The page of sorted items that the query asks for."""
    start = key_of(query.after, kind)
    if start is not None:
        items = [pair for pair in items if pair[0] > start]
    return page_of(items, query.limit)


# ---------------------------------------------------------------- lists


def _units(tables: Tables, query: Units) -> Page[UnitView]:
    start = key_of(query.after, tuple[int, str])
    found: Keyed[UnitView] = []
    for unit in _candidates(tables, query):
        if unit.row is not None and _fits(query, unit.row):
            key = (unit.row.created_at, unit.row.id)
            # Newest first, so the next page has smaller keys.
            if start is None or key < start:
                found.append((key, UnitView(copy(unit.row), unit.version)))
    found.sort(key=_key, reverse=True)
    return page_of(found, query.limit)


def _candidates(tables: Tables, query: Units) -> Iterable[Unit]:
    """The units that the query may be about. Each caller that waits for an end asks for one id."""
    if not query.ids:
        return tables.units.values()
    return [tables.units[name] for name in set(query.ids) & tables.units.keys()]


def _key(pair: tuple[tuple[Any, ...], object]) -> tuple[Any, ...]:
    return pair[0]


def _fits(query: Units, row: UnitRow) -> bool:
    """Whether a unit fits all filters."""
    wanted: tuple[tuple[Sequence[str], str | None], ...] = (
        (query.statuses, row.status),
        (query.types, row.type),
        (query.type_versions, row.type_version),
        (query.ids, row.id),
        (query.reasons, row.reason),
    )
    for values, value in wanted:
        if values and value not in values:
            return False
    if query.id_prefix is not None and not row.id.startswith(query.id_prefix):
        return False
    if query.parent is not None and row.parent_unit != query.parent:
        return False
    if not _is_between(query.created_after, row.created_at, query.created_before):
        return False
    if not _is_between(query.closed_after, row.closed_at, query.closed_before):
        return False
    if not query.where:
        return True
    terms = terms_of(row.attributes)
    return all(condition.fits(terms) for condition in query.where)


def _is_between(after: int | None, at: int | None, before: int | None) -> bool:
    """Whether a time is between two others, without these. None for one of them: any."""
    if after is None and before is None:
        return True
    if at is None:
        return False  # what has not ended has ended at no time
    if after is not None and at <= after:
        return False
    return before is None or at < before


def _journal(tables: Tables, query: Journal) -> Page[JournalChunk]:
    unit = tables.unit(query.unit)
    start = key_of(query.after, tuple[int, int])
    # All pages of a list show one execution, also when the next one has begun meanwhile.
    if start is not None:
        wanted = start[0]
    else:
        wanted = query.execution or unit.current_execution(query.run)
    chunks: Keyed[JournalChunk] = []
    for (run, execution, first), chunk in sorted(unit.journal.items()):
        if run == query.run and execution == wanted:
            chunks.append(((execution, first), chunk))
    return _page(query, chunks, tuple[int, int])


def _executions(tables: Tables, query: Executions) -> Page[ExecutionRow]:
    ended: Keyed[ExecutionRow] = []
    for (run, number), row in sorted(tables.unit(query.unit).executions.items()):
        if run == query.run:
            ended.append(((number,), copy(row)))
    return _page(query, ended, tuple[int])


def _kv(tables: Tables, query: KvEntries) -> Page[tuple[str, bytes]]:
    found: Keyed[tuple[str, bytes]] = []
    for key, entry in sorted(tables.unit(query.unit).kv.items()):
        is_wanted = not query.keys or key in query.keys
        # A deleted key without a value stays for replay only.
        if is_wanted and entry.value is not None:
            found.append(((key,), (key, entry.value)))
    return _page(query, found, tuple[str])


def _inbox(tables: Tables, query: Inbox) -> Page[Message]:
    waiting = tables.unit(query.unit).inbox.values()
    return _page(query, [((place,), copy(message)) for place, message in waiting], tuple[int])


def _starts(tables: Tables, query: Starts) -> Page[Message]:
    start = key_of(query.after, tuple[int])
    found: Keyed[Message] = []
    for place, message in _waiting_starts(tables):
        is_wanted = not query.ids or message.to in query.ids
        # Newest first, so the next page has smaller places.
        if is_wanted and (start is None or (place,) < start):
            found.append(((place,), copy(message)))
    found.sort(key=_key, reverse=True)
    return page_of(found, query.limit)


def _waiting_starts(tables: Tables) -> Iterable[tuple[int, Message]]:
    """The first start of a client for each id that no unit has."""
    for unit in tables.units.values():
        if unit.row is not None:
            continue
        for place, message in unit.inbox.values():
            if isinstance(message.body, Start) and message.sender is None:
                yield place, message
                break


def _dead_letters(tables: Tables, query: DeadLetters) -> Page[DeadLetter]:
    found: Keyed[DeadLetter] = []
    for name, unit in tables.units.items():
        if query.unit is None or name == query.unit:
            for _, message, expires_at, reason in unit.dead_letters.values():
                if query.message not in (None, message.id):
                    continue
                kind, body = type(message.body).__name__, encode_body(message.body)
                one = DeadLetter(
                    name, message.id, kind, message.sender, message.at, expires_at, reason, body
                )
                found.append(((name, message.id), one))
    found.sort(key=_key)
    return _page(query, found, tuple[str, bytes])


def _scopes(tables: Tables, query: Scopes) -> Page[ScopeView]:
    found: Keyed[ScopeView] = []
    for name in sorted(tables.scopes):
        if (not query.scopes or name in query.scopes) and name.startswith(query.prefix):
            held = tables.scopes[name]
            found.append(((name,), ScopeView(name, held.epoch, held.owner)))
    return _page(query, found, tuple[str])


# ---------------------------------------------------------------- counts


def _statuses(tables: Tables) -> dict[str, int]:
    found = dict.fromkeys(STATUSES, 0)
    for unit in tables.units.values():
        if unit.row is not None:
            found[unit.row.status] += 1
    return found


def _times_of_messages(tables: Tables) -> Iterable[int]:
    """When each waiting message may be seen."""
    return [message.visible_at for message in tables.arrived.values()]


def _tasks(tables: Tables) -> list[Task]:
    found: list[Task] = []
    for unit in tables.units.values():
        found += unit.tasks.values()
    return found


def _visible(times: Iterable[int], at: int | None) -> int:
    """How many of these times have come (None: all have)."""
    return sum(at is None or visible_at <= at for visible_at in times)


def _counts(tables: Tables, query: Counts) -> Page[tuple[str, int]]:
    found = _statuses(tables)
    found["inbox"] = _visible(_times_of_messages(tables), query.at)
    found["tasks"] = _visible([task.visible_at for task in _tasks(tables)], query.at)
    found["dead_letters"] = sum(len(unit.dead_letters) for unit in tables.units.values())
    found["starts"] = len(list(_waiting_starts(tables)))
    return Page(list(found.items()))


def _totals(tables: Tables, query: Totals) -> Page[tuple[str, int]]:
    found = _statuses(tables)
    executions = events = size = answers = dead_letters = 0
    for unit in tables.units.values():
        answers += len(unit.answers)
        dead_letters += len(unit.dead_letters)
        executions += len(unit.executions)
        for ended in unit.executions.values():
            events += ended.journal_events
        if unit.row is not None:
            executions += 1
            events += unit.row.journal_events
            size += unit.row.journal_bytes
    found |= {"executions": executions, "history_events": events, "history_bytes": size}
    found["messages"] = _visible(_times_of_messages(tables), query.at)
    found["messages_delayed"] = len(tables.arrived) - found["messages"]
    tasks = [0] * 4
    for depth in _depths(tables, query.at).values():
        for place, count in enumerate(depth):
            tasks[place] += count
    found |= zip(("tasks", "tasks_delayed", "tasks_leased", "tasks_expired"), tasks, strict=True)
    found |= {"answers": answers, "tombstones": len(tables.tombstones)}
    found |= {"dead_letters": dead_letters, "starts": len(list(_waiting_starts(tables)))}
    return Page(list(found.items()))


def _queues(tables: Tables, query: Queues) -> Page[QueueDepth]:
    depths = sorted(_depths(tables, query.at).items())
    found: Keyed[QueueDepth] = []
    for name, (visible, delayed, leased, expired) in depths:
        oldest_ms = _oldest(tables, name, query.at)
        found.append(((name,), QueueDepth(name, visible, delayed, leased, expired, oldest_ms)))
    return _page(query, found, tuple[str])


def _oldest(tables: Tables, queue: str, at: int) -> int:
    """How long the oldest visible task of a queue has waited (ms)."""
    oldest = at
    for task in tables.tasks(queue):
        if task.worker is None:
            oldest = min(oldest, task.visible_at)
    return at - oldest


def _tasks_of_unit(tables: Tables, query: Tasks) -> Page[Task]:
    start = tasks_from(query)
    found = [replace(task, input=b"") for task in tables.unit(query.unit).tasks.values()]
    found.sort(key=task_place)
    return tasks_page(query, [task for task in found if task_place(task) > start])


def _waiting(tables: Tables, query: Waiting) -> Page[str]:
    found: set[str] = set()
    for task in _tasks(tables):
        is_free = task.worker is None and task.visible_at <= query.at
        if is_free and task.queue in query.queues:
            found.add(task.queue)
    behind = waiting_from(query)
    # Sorted, and behind the place, as an index gives them.
    rows: list[tuple[str]] = []
    for queue in sorted(found):
        if queue > behind:
            rows.append((queue,))  # noqa: PERF401 - the rows that other stores read
    return waiting_page(query, rows)


def _overdue(tables: Tables, query: Overdue) -> Page[Task]:
    start = overdue_from(query)
    found: list[Task] = []
    for task in _tasks(tables):
        if task.expires_at is None or task.scope not in query.scopes:
            continue
        if task.expires_at <= query.at and overdue_key(task) > start:
            found.append(replace(task, input=b""))
    found.sort(key=overdue_key)
    return overdue_page(query, found)


def _depths(tables: Tables, at: int) -> dict[str, list[int]]:
    """Tasks by queue, in the order of the fields of `QueueDepth`."""
    depths: dict[str, list[int]] = {}
    for task in _tasks(tables):
        depth = depths.setdefault(task.queue, [0] * 4)
        depth[_column(task, at)] += 1
    return depths


def _column(task: Task, at: int) -> int:
    """Where a task is counted: visible, delayed, leased, or its lease has expired."""
    if task.worker is None:
        return int(task.visible_at > at)
    if task.expires_at is not None and task.expires_at > at:
        return 2
    return 3


# ---------------------------------------------------------------- what needs a node

_AWAITED = "message "
"""The beginning of the reason of a unit that waits for a message from a channel."""


def _shards(tables: Tables, query: Shards) -> Page[ShardView]:
    found: Keyed[ShardView] = []
    for name in sorted(tables.scopes):
        held = tables.scopes[name]
        opened = busy = due = 0
        for row in _open_rows(tables):
            if row.scope == name:
                opened += 1
                if row.status != "suspended" and row.wake_at is not None:
                    busy += row.wake_at == 0
                    due += 0 < row.wake_at <= query.at
        found.append(((name,), ShardView(name, held.epoch, held.owner, opened, busy, due)))
    return _page(query, found, tuple[str])


def _open_rows(tables: Tables) -> list[UnitRow]:
    rows = [unit.row for unit in tables.units.values() if unit.row is not None]
    return [row for row in rows if row.status not in CLOSED]


def _backlog(tables: Tables, query: Backlogs) -> Page[Backlog]:
    owners = {name: held.owner for name, held in tables.scopes.items()}
    due: list[int] = []
    busy = orphaned = 0
    for row in _open_rows(tables):
        if row.status == "suspended" or row.wake_at is None or row.wake_at > query.at:
            continue
        if row.wake_at:
            due.append(row.wake_at)
            continue
        owner = owners.get(row.scope)
        if owner is None:
            orphaned += 1
        elif query.living is None or owner.id in query.living:
            busy += 1
        else:
            orphaned += 1
    since: dict[str, int] = {}
    for message in tables.arrived.values():
        if message.visible_at <= query.at and _is_wanted(tables, message, query.at):
            # One that may be seen at once has 0 as its time.
            at = max(message.visible_at, message.at)
            since[message.to] = min(at, since.get(message.to, at))
    oldest_at = min([*due, *since.values()], default=None)
    return Page([Backlog(len(due), len(since), orphaned, busy, oldest_at)])


def _is_wanted(tables: Tables, message: Message, at: int) -> bool:
    """Whether a message needs a node: its unit would take it, and is not counted otherwise."""
    row = tables.unit(message.to).row
    kind = type(message.body)
    if row is None:
        return kind is Start
    if row.wake_at is not None and row.wake_at <= at:
        return False
    if row.status == "suspended":
        return kind in (Resume, Retry, Terminate, Delete)
    if kind is not Send:
        return True
    if row.status != "running":
        return False
    reason = row.reason or ""
    if not reason.startswith(_AWAITED):
        return False
    return reason.removeprefix(_AWAITED).encode() in encode_body(message.body)


_HANDLERS: dict[type[Query[Any]], Callable[[Tables, Any], Page[Any]]] = {
    Units: _units,
    Journal: _journal,
    Executions: _executions,
    KvEntries: _kv,
    Inbox: _inbox,
    Starts: _starts,
    DeadLetters: _dead_letters,
    Scopes: _scopes,
    Counts: _counts,
    Totals: _totals,
    Queues: _queues,
    Shards: _shards,
    Backlogs: _backlog,
    Overdue: _overdue,
    Tasks: _tasks_of_unit,
    Waiting: _waiting,
}
