"""`ls`, `show` and `history`: what is in a store. Reading needs no node and disturbs none."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from perdure.cli import screen
from perdure.cli.condition import parse_condition
from perdure.cli.door import must_find, reading
from perdure.cli.options import DEFAULT_URL, AsJson, Id, StoreUrl, point_in_time
from perdure.cli.outcome import Exit
from perdure.cli.timeline import duration, render, steps
from perdure.cli.view import (
    Json,
    event_json,
    failure_lines,
    fields_json,
    payload_json,
    row_json,
    step_json,
    time_text,
)
from perdure.cli.watch import read_history
from perdure.description import HistoryEvent
from perdure.errors import NotFound, UsageError
from perdure.filter import Filter, units_query
from perdure.kernel.commit import Status, UnitRow
from perdure.ports.store import Counts, Executions, KvEntries, Page, Store, Units, UnitView
from perdure.testing.history import History, export_history

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
_TEXT_COLUMNS = 60
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
        list[StatusName] | None, typer.Option("--status", help="Only these; may be repeated.", show_default=False)
    ] = None,
    type: Annotated[str | None, _filter("--type", "Only this workflow.")] = None,
    version: Annotated[str | None, _filter("--version", "Only this version of the workflow.")] = None,
    reason: Annotated[
        str | None, _filter("--reason", "Only with this reason: timer, paused, poison, nondeterminism, ...")
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
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="At most so many; 0 for all.")] = 50,
    after: Annotated[str | None, _filter("--after", "Go on from the `next` of the page before.")] = None,
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
    page, counts = asyncio.run(_list(store, query, everything=limit == 0))
    rows = [view.row for view in page.items]
    if as_json:
        screen.json({"instances": [row_json(row) for row in rows], "next": page.next})
        return Exit.OK
    if rows:
        screen.show(_table(rows))
    elif any(counts[name] for name in COLOURS):
        screen.note(f"nothing fits these filters; there are {_counted(counts)}")
    else:
        mail = counts["inbox"]
        waits = f"; {mail} message{'s' * (mail != 1)} wait{'s' * (mail == 1)} for a node: perdure serve" if mail else ""
        screen.note(f"no instances{waits}")
    if page.next is not None:
        screen.note(f"there are more: --after {page.next}   (or --limit 0 for all)")
    return Exit.OK


async def _list(url: str, query: Units, *, everything: bool) -> tuple[Page[UnitView], dict[str, int]]:
    import msgspec

    async with reading(url) as store:
        page = await store.query(query)
        items = list(page.items)
        while everything and page.next is not None:
            page = await store.query(msgspec.structs.replace(query, after=page.next))
            items += page.items
        counts = {} if items else dict((await store.query(Counts())).items)
        return Page(items, page.next), counts


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])


def _table(rows: list[UnitRow]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    now_ms = time.time_ns() // 1_000_000
    table = Table(box=None, pad_edge=False, header_style="bright_black")
    for name in ("id", "workflow", "version", "status"):
        table.add_column(name, no_wrap=True, overflow="fold")
    table.add_column("age", no_wrap=True, justify="right")
    table.add_column("changed", no_wrap=True, justify="right")
    table.add_column("why", overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(row.id),
            Text(row.type),
            Text(row.type_version, style="bright_black"),
            Text(row.status, style=COLOURS.get(row.status, "")),
            Text(_age(now_ms - row.created_at)),
            Text(_age(now_ms - (row.updated_at or row.created_at))),
            Text(_short(_why(row)), style="bright_black"),
        )
    return table


def _age(ms: int) -> str:
    """A length of time for people who compare rows: whole seconds are enough."""
    return duration(ms // 1000 * 1000) if ms >= 1_000 else "now"


def _why(row: UnitRow) -> str:
    """What an open one waits for, or why a closed one has no result."""
    if row.failure is not None:
        return f"{row.reason}: {row.failure.message}" if row.reason else row.failure.display()
    return row.reason or ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_COLUMNS else line[: _TEXT_COLUMNS - 1] + "…"


# ---------------------------------------------------------------- one instance


@dataclass(frozen=True, slots=True)
class _Instance:
    """All that `show` shows."""

    row: UnitRow
    executions: list[int]
    kv: Json
    history: list[HistoryEvent]


def show(
    id: Id,
    store: StoreUrl = DEFAULT_URL,
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="At most so many steps; 0 for all.")] = 40,
    as_json: AsJson = False,
) -> int:
    """Show an instance: its state, its result or failure, and the timeline of its steps."""
    instance = asyncio.run(_read(store, id))
    if as_json:
        found = steps(instance.history)
        screen.json(
            {
                **row_json(instance.row),
                "executions": instance.executions,
                "kv": instance.kv,
                "steps": [step_json(step) for step in found],
            }
        )
        return Exit.OK
    now_ms = time.time_ns() // 1_000_000
    screen.show(_facts(instance, now_ms), "", render(instance.history, now_ms=now_ms, rows=rows or None))
    return Exit.OK


async def _read(url: str, id: str) -> _Instance:
    async with reading(url) as store:
        row = (await must_find(store, id)).row
        kv: Json = {}
        after: str | None = None
        while True:
            page = await store.query(KvEntries(unit=id, after=after))
            kv |= {key: payload_json(value) for key, value in page.items}
            if page.next is None:
                break
            after = page.next
        executions = await _executions(store, row)
        return _Instance(row, executions, kv, await read_history(store, id, row.execution))


async def _executions(store: Store, row: UnitRow) -> list[int]:
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
    facts.add_column(style="bright_black", no_wrap=True)
    facts.add_column(overflow="fold")

    def fact(name: str, value: object, style: str = "") -> None:
        if value not in (None, "", {}):
            facts.add_row(name, Text(str(value), style=style))

    fact("id", row.id, "bold")
    fact("workflow", f"{row.type} {row.type_version}")
    waits = f" ({row.reason})" if row.reason and row.reason != row.status else ""
    fact("status", f"{row.status}{waits}", COLOURS.get(row.status, ""))
    fact("parent", row.parent_unit)
    fact("created", f"{time_text(row.created_at)}, {duration(now_ms - row.created_at)} ago")
    if row.closed_at:
        fact("ended", f"{time_text(row.closed_at)}, after {duration(row.closed_at - row.created_at)}")
    elif row.wake_at:
        fact("wakes", f"{time_text(row.wake_at)}, in {duration(row.wake_at - now_ms)}")
    others = f", execution {row.execution}" if row.execution > 1 else ""
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
            fact(name, text, "red" if name else "bright_black")
    return facts


def _input(history: list[HistoryEvent]) -> bytes | None:
    first = history[0].event if history else None
    return getattr(first, "input", None)


# ---------------------------------------------------------------- history


def history(
    id: Id,
    execution: Annotated[
        int | None,
        typer.Option(
            "--execution", min=1, metavar="N", help="Which execution; else the current one.", show_default=False
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Write it to a file (-: to stdout), for `perdure replay`.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --export: all executions that are kept.")] = False,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Print the history of an instance: every event, with its payloads as JSON. Or write it to a file."""
    if export is not None and execution is not None:
        msg = "--export takes the current execution, or with --all all of them; leave out --execution"
        raise UsageError(msg)
    if everything and export is None:
        msg = "--all goes with --export; one execution is printed with --execution N"
        raise UsageError(msg)
    if export is not None:
        return _export(store, id, export, everything=everything, as_json=as_json)
    number, events = asyncio.run(_history(store, id, execution))
    if as_json:
        screen.json({"id": id, "execution": number, "events": [event_json(entry) for entry in events]})
    else:
        screen.show(_events(events))
    return Exit.OK


def _export(url: str, id: str, file: Path, *, everything: bool, as_json: bool) -> int:
    exported = asyncio.run(_exported(url, id, everything=everything))
    if str(file) == "-":
        screen.say(exported.encode().decode().rstrip())
        return Exit.OK
    exported.write(file)
    executions = len(exported.executions)
    if as_json:
        screen.json({"id": id, "file": str(file), "executions": executions, "events": exported.count})
    else:
        many = f"{executions} execution{'s' * (executions != 1)}, {exported.count} events"
        screen.say(f"wrote the history of {id} to {file}: {many}")
    return Exit.OK


async def _exported(url: str, id: str, *, everything: bool) -> History:
    async with reading(url) as store:
        await must_find(store, id)
        return await export_history(store, id, every_execution=everything)


async def _history(url: str, id: str, execution: int | None) -> tuple[int, list[HistoryEvent]]:
    async with reading(url) as store:
        row = (await must_find(store, id)).row
        number = execution if execution is not None else row.execution
        known = await _executions(store, row)
        if number not in known:
            kept = ", ".join(map(str, known))
            msg = f"{id!r} has no execution {number}; kept {'is' if len(known) == 1 else 'are'} {kept}"
            raise NotFound(msg)
        return number, await read_history(store, id, number)


def _events(events: list[HistoryEvent]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bright_black")
    table.add_column("#", justify="right", style="bright_black")
    table.add_column("time", no_wrap=True, style="bright_black")
    table.add_column("event", no_wrap=True)
    table.add_column("seq", justify="right", style="bright_black")
    table.add_column("", overflow="fold")
    for entry in events:
        fields = fields_json(entry.event)
        at, seq = fields.pop("at", None), fields.pop("seq", None)
        told = {
            name: value
            for name, value in fields.items()
            if value not in (None, False, 0) or name in ("value", "result")
        }
        facts = "  ".join(f"{name}={_fact(name, value)}" for name, value in told.items())
        table.add_row(
            str(entry.number), Text(str(at or "")), Text(type(entry.event).__name__), str(seq or ""), Text(facts)
        )
    return table


def _fact(name: str, value: object) -> str:
    if name == "failure":
        return _failure_fact(cast("Json", value))
    return value if isinstance(value, str) and " " not in value else screen.json_text(value, indent=0)


def _failure_fact(failure: Json) -> str:
    text = f"{failure['type']}: {failure['message']}"
    parts = [_failure_fact(part) for part in cast("list[Json]", failure["parts"])]
    return f"{text} [{'; '.join(parts)}]" if parts else text
