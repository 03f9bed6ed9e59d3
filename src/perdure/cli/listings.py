"""`ls` and `show`: the instances of a store. Reading needs no node and disturbs none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.condition import parse_condition
from perdure.cli.door import must_find, reading
from perdure.cli.layout import Cell, Column, Row
from perdure.cli.options import DEFAULT_URL, AsJson, Id, StoreUrl, Wide, point_in_time
from perdure.cli.outcome import Exit
from perdure.cli.sheet import Sheet
from perdure.cli.timeline import duration, render, steps
from perdure.cli.view import (
    Json,
    failure_lines,
    is_undecodable,
    payload_json,
    row_json,
    step_json,
    time_text,
)
from perdure.cli.watch import read_history
from perdure.client.description import HistoryEvent, readable_row
from perdure.client.filter import Filter, units_query
from perdure.kernel.data.commit import Status, UnitRow
from perdure.ports.store import Counts, Executions, KvEntries, Page, Store, Units, UnitView

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {
    "pending": "bright_black",
    "running": "cyan",
    "suspended": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}
# Rows of one query where all are listed. A store may hold more than fits into memory.
_ROUND = 500


class StatusName(Enum):
    """The life of an instance."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def _filter(flag: str, what: str) -> object:
    return typer.Option(flag, metavar="TEXT", help=what, show_default=False)


def _when(flag: str, what: str) -> object:
    help_ = f"Only those {what} this: an age (30d, 12h) or a date (2026-01-31)."
    return typer.Option(flag, metavar="WHEN", help=help_, show_default=False)


def ls(  # noqa: PLR0913, PLR0917 - each is an option of the command
    store: StoreUrl = DEFAULT_URL,
    status: Annotated[
        list[StatusName] | None,
        typer.Option("--status", help="Only these; may be repeated.", show_default=False),
    ] = None,
    type: Annotated[str | None, _filter("--type", "Only this workflow.")] = None,
    version: Annotated[
        str | None, _filter("--version", "Only this version of the workflow.")
    ] = None,
    reason: Annotated[
        str | None,
        _filter("--reason", "Only with this reason: timer, paused, poison, nondeterminism, ..."),
    ] = None,
    prefix: Annotated[str | None, _filter("--prefix", "Only ids that begin so.")] = None,
    parent: Annotated[str | None, _filter("--parent", "Only children of this instance.")] = None,
    created_after: Annotated[str | None, _when("--created-after", "created after")] = None,
    created_before: Annotated[str | None, _when("--created-before", "created before")] = None,
    ended_after: Annotated[str | None, _when("--ended-after", "that ended after")] = None,
    ended_before: Annotated[str | None, _when("--ended-before", "that ended before")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only with this search attribute: customer=c1, 'total>=100'; may be repeated.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, metavar="N", help="At most so many; 0 for all.")
    ] = 50,
    after: Annotated[
        str | None, _filter("--after", "Go on from the `next` of the page before.")
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """List instances, newest first."""
    statuses: tuple[Status, ...] = tuple(one.value for one in status or ())
    filters: Filter = {
        "status": statuses,
        "type": type,
        "version": version,
        "reason": reason,
        "id_prefix": prefix,
        "parent": parent,
        "created_after": point_in_time(created_after, "--created-after"),
        "created_before": point_in_time(created_before, "--created-before"),
        "closed_after": point_in_time(ended_after, "--ended-after"),
        "closed_before": point_in_time(ended_before, "--ended-before"),
        "where": tuple(parse_condition(text) for text in where or ()),
    }
    query = units_query(filters, limit or _ROUND, after)
    if as_json:
        asyncio.run(_print_json(store, query, everything=limit == 0))
    else:
        asyncio.run(_print_sheet(store, query, everything=limit == 0, wide=wide))
    return Exit.OK


async def _pages(store: Store, query: Units, *, everything: bool) -> AsyncGenerator[Page[UnitView]]:
    """The first page, or all pages in turn."""
    page = await store.query(query)
    yield page
    while everything and page.next is not None:
        page = await store.query(msgspec.structs.replace(query, after=page.next))
        yield page


async def _print_json(url: str, query: Units, *, everything: bool) -> None:
    async with reading(url) as store:
        document = screen.JsonList("instances")
        place: str | None = None
        async for page in _pages(store, query, everything=everything):
            document.add(*(row_json(readable_row(view.row)[0]) for view in page.items))
            place = page.next
        document.end(next=place)


async def _print_sheet(url: str, query: Units, *, everything: bool, wide: bool) -> None:
    """Print each page when it has been read."""
    async with reading(url) as store:
        sheet = Sheet(_COLUMNS, wide=wide)
        place: str | None = None
        async for page in _pages(store, query, everything=everything):
            now_ms = time.time_ns() // 1_000_000
            sheet.add(_cells(readable_row(view.row)[0], now_ms) for view in page.items)
            place = page.next
        if sheet.is_empty:
            _note_nothing(dict((await store.query(Counts())).items))
        if place is not None:
            screen.note(f"there are more: --after {place}   (or --limit 0 for all)")


def _note_nothing(counts: dict[str, int]) -> None:
    """Say why there is nothing to list."""
    there = [f"{counts[name]} {name}" for name in COLOURS if counts[name]]
    if there:
        screen.note(f"nothing fits these filters; there are {', '.join(there)}")
        return
    waiting = counts["inbox"]
    text = "no instances"
    # Posted starts are no instances yet, which surprises after a `perdure start`.
    if waiting == 1:
        text += "; 1 message waits for a node: perdure serve"
    elif waiting:
        text += f"; {waiting} messages wait for a node: perdure serve"
    screen.note(text)


# Reasons shrink before they move below their rows.
_COLUMNS = (
    Column("id", is_head=True),
    Column("workflow"),
    Column("version", "bright_black"),
    Column("status"),
    Column("age", is_right=True),
    Column("changed", is_right=True),
    Column("why", "bright_black", role="text", least=40),
)


def _cells(row: UnitRow, now_ms: int) -> Row:
    return (
        row.id,
        row.type,
        row.type_version,
        Cell(row.status, COLOURS.get(row.status, "")),
        _age(now_ms - row.created_at),
        _age(now_ms - (row.updated_at or row.created_at)),
        " ".join(_why(row).split()),
    )


def _age(ms: int) -> str:
    """A length of time in whole seconds, which are enough for people who compare rows."""
    if ms >= 1_000:
        return duration(ms // 1000 * 1000)
    return "now"


def _why(row: UnitRow) -> str:
    """The reason why an open one waits, or why a closed one has no result."""
    if row.failure is not None:
        if row.reason:
            return f"{row.reason}: {row.failure.message}"
        return row.failure.display()
    return row.reason or ""


# ---------------------------------------------------------------- one instance


@dataclass(frozen=True, slots=True)
class _Instance:
    """The content of `show`."""

    row: UnitRow
    executions: list[int]
    kv: Json
    history: list[HistoryEvent]
    unreadable: list[str]


def show(
    id: Id,
    store: StoreUrl = DEFAULT_URL,
    rows: Annotated[
        int, typer.Option("--rows", min=0, metavar="N", help="At most so many steps; 0 for all.")
    ] = 40,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """Show an instance: its state, its result or failure, and the timeline of its steps."""
    instance = asyncio.run(_read(store, id))
    code = screen.note_unreadable(instance.unreadable)
    if as_json:
        found = steps(instance.history)
        screen.json(
            {
                **row_json(instance.row),
                "executions": instance.executions,
                "kv": instance.kv,
                "steps": [step_json(step) for step in found],
                "unreadable": instance.unreadable,
            }
        )
        return code
    now_ms = time.time_ns() // 1_000_000
    # A pipe has no width.
    wide = wide or not screen.answers().is_terminal
    drawn = render(instance.history, now_ms=now_ms, rows=rows or None, wide=wide)
    screen.show(_facts(instance, now_ms), "", drawn)
    return code


async def _read(url: str, id: str) -> _Instance:
    async with reading(url) as store:
        row, damaged = readable_row((await must_find(store, id)).row)
        kv = await _read_kv(store, id)
        executions = await kept_executions(store, row)
        read = await read_history(store, id, row.execution)
    # A damaged part is named, and the others are shown: that is when people look.
    unreadable = [
        f"the column {name} of {id!r} cannot be read; it is shown as empty" for name in damaged
    ]
    for key, value in kv.items():
        if is_undecodable(value):
            unreadable.append(f"the KV entry {key!r} of {id!r} cannot be read")
    return _Instance(row, executions, kv, read.events, [*unreadable, *read.unreadable])


async def _read_kv(store: Store, id: str) -> Json:
    kv: Json = {}
    after: str | None = None
    while True:
        page = await store.query(KvEntries(unit=id, after=after))
        kv |= {key: payload_json(value) for key, value in page.items}
        after = page.next
        if after is None:
            return kv


async def kept_executions(store: Store, row: UnitRow) -> list[int]:
    """The numbers of the executions whose history is kept, oldest first."""
    numbers: list[int] = []
    after: str | None = None
    while True:
        page = await store.query(Executions(unit=row.id, after=after))
        numbers += [ended.execution for ended in page.items]
        if page.next is None:
            return [*numbers, row.execution]
        after = page.next


def _facts(instance: _Instance, now_ms: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    row = instance.row
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bright_black", overflow="fold")
    facts.add_column(overflow="fold")

    def fact(name: str, value: object, style: str = "") -> None:
        if value not in (None, "", {}):
            facts.add_row(name, Text(str(value), style=style))

    fact("id", row.id, "bold")
    fact("workflow", f"{row.type} {row.type_version}")
    waits = ""
    # Some reasons are the name of the status, and need not be said twice.
    if row.reason and row.reason != row.status:
        waits = f" ({row.reason})"
    fact("status", f"{row.status}{waits}", COLOURS.get(row.status, ""))
    fact("parent", row.parent_unit)
    fact("created", f"{time_text(row.created_at)}, {duration(now_ms - row.created_at)} ago")
    if row.closed_at:
        took = duration(row.closed_at - row.created_at)
        fact("ended", f"{time_text(row.closed_at)}, after {took}")
    elif row.wake_at:
        fact("wakes", f"{time_text(row.wake_at)}, in {duration(row.wake_at - now_ms)}")
    others = ""
    if row.execution > 1:
        others = f", execution {row.execution}"
    fact("history", f"{row.journal_events} events, {row.journal_bytes} bytes{others}")
    for name, payload in (
        ("input", _input(instance.history)),
        ("set status", row.custom_status),
        ("result", row.result),
    ):
        if payload is not None:
            fact(name, screen.json_text(payload_json(payload), indent=0))
    if row.attributes is not None:
        fact("attributes", screen.json_text(payload_json(row.attributes), indent=0))
    for key, value in instance.kv.items():
        fact(f"kv {key}", screen.json_text(value, indent=0))
    if row.failure is not None:
        for name, text in failure_lines(row.failure):
            style = "red"
            if not name:  # the traceback below its failure
                style = "bright_black"
            fact(name, text, style)
    return facts


def _input(history: list[HistoryEvent]) -> bytes | None:
    if not history:
        return None
    # Only a start has an input. A damaged history may begin with another event.
    return getattr(history[0].event, "input", None)
