"""`ls`: the instances of a store. Reading needs no node and disturbs none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.condition import parse_condition
from perdure.cli.door import reading
from perdure.cli.layout import Cell, Column, Row
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl, Wide, point_in_time
from perdure.cli.outcome import Exit
from perdure.cli.sheet import Sheet
from perdure.cli.timeline import duration
from perdure.cli.view import row_json
from perdure.client.description import readable_row
from perdure.client.filter import Filter, units_query
from perdure.client.posted import posted_starts
from perdure.errors import UsageError
from perdure.kernel.data.commit import Status, UnitRow
from perdure.ports.store import ClientStore, Counts, Page, Units, UnitView

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
_WATCH_S = 1.0


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
    watch: Annotated[
        bool, typer.Option("--watch", help="List again each second, until Ctrl-C.")
    ] = False,
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
    if watch:
        if as_json or not limit:
            msg = "--watch goes with neither --json nor --limit 0: it shows what fits on a screen"
            raise UsageError(msg)
        # Ctrl-C is how people end this, and no error.
        with suppress(KeyboardInterrupt):
            asyncio.run(_watch(store, query, wide=wide))
    elif as_json:
        asyncio.run(_print_json(store, query, everything=limit == 0))
    else:
        asyncio.run(_print_once(store, query, everything=limit == 0, wide=wide))
    return Exit.OK


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows to list, and the place of the next ones."""

    rows: list[UnitRow]
    next: str | None


async def _parts(store: ClientStore, query: Units, *, everything: bool) -> AsyncGenerator[_Part]:
    """The first part, or all parts in turn. The first one begins with the posted starts."""
    limit: int | None = query.limit
    if everything:
        limit = None
    posted = await posted_starts(store, query, limit)
    page = await store.query(query)
    rows = _rows(page)
    # A start that was taken between the two looks is in both.
    begun = {row.id for row in rows}
    yield _Part([*(row for row in posted if row.id not in begun), *rows], page.next)
    while everything and page.next is not None:
        page = await store.query(msgspec.structs.replace(query, after=page.next))
        yield _Part(_rows(page), page.next)


def _rows(page: Page[UnitView]) -> list[UnitRow]:
    return [readable_row(view.row)[0] for view in page.items]


async def _print_json(url: str, query: Units, *, everything: bool) -> None:
    async with reading(url) as store:
        document = screen.JsonList("instances")
        place: str | None = None
        async for part in _parts(store, query, everything=everything):
            document.add(*map(row_json, part.rows))
            place = part.next
        document.end(next=place)


async def _print_sheet(store: ClientStore, query: Units, *, everything: bool, wide: bool) -> None:
    """Print each part when it has been read."""
    sheet = Sheet(_COLUMNS, wide=wide)
    place: str | None = None
    async for part in _parts(store, query, everything=everything):
        now_ms = _now_ms()
        sheet.add(_cells(row, now_ms) for row in part.rows)
        place = part.next
    if sheet.is_empty:
        _note_nothing(dict((await store.query(Counts())).items))
    if place is not None:
        screen.note(f"there are more: --after {place}   (or --limit 0 for all)")


async def _print_once(url: str, query: Units, *, everything: bool, wide: bool) -> None:
    async with reading(url) as store:
        await _print_sheet(store, query, everything=everything, wide=wide)


async def _watch(url: str, query: Units, *, wide: bool) -> None:
    """Print the list anew, on an empty screen, until the command is interrupted."""
    async with reading(url) as store:
        while True:
            screen.clear()
            await _print_sheet(store, query, everything=False, wide=wide)
            await asyncio.sleep(_WATCH_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _note_nothing(counts: dict[str, int]) -> None:
    """Say why there is nothing to list."""
    there = [f"{counts[name]} {name}" for name in COLOURS if counts[name]]
    text = "no instances"
    if there:
        text = f"nothing fits these filters; there are {', '.join(there)}"
    # Messages may stand in the store before their instance does.
    if counts["inbox"] == 1:
        text += "; 1 message waits for a node: perdure serve"
    elif counts["inbox"]:
        text += f"; {counts['inbox']} messages wait for a node: perdure serve"
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
        " ".join(_why(row, now_ms).split()),
    )


def _age(ms: int) -> str:
    """A length of time in whole seconds, which are enough for people who compare rows."""
    if ms >= 1_000:
        return duration(ms // 1000 * 1000)
    return "now"


def _why(row: UnitRow, now_ms: int) -> str:
    """The reason why an open one waits, or why a closed one has no result."""
    if row.failure is not None:
        if row.reason:
            return screen.near(f"{row.reason}: {row.failure.message}")
        return row.failure.display()
    if row.reason == "posted":
        return "posted: no node has taken it"
    reason = row.reason or ""
    if row.status != "running" or not row.wake_at:
        return reason
    # The deadline of the wait, or another timer beside it.
    timer = f"in {duration(max(0, row.wake_at - now_ms) // 1000 * 1000)}"
    if reason.startswith("timer"):
        return f"{reason} {timer}"
    return f"{reason}, timer {timer}"
