"""`history`: every event of an instance, printed while it is read, or written to a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, cast

import typer

from perdure.cli import screen
from perdure.cli.door import must_find, reading
from perdure.cli.layout import Column
from perdure.cli.options import DEFAULT_URL, AsJson, Id, StoreUrl
from perdure.cli.outcome import Exit
from perdure.cli.sheet import Sheet
from perdure.cli.showing import kept_executions
from perdure.cli.view import Json, event_json, fields_json
from perdure.cli.watch import Part, read_parts
from perdure.client.description import HistoryEvent, readable_row
from perdure.errors import NotFound, UsageError
from perdure.ports.store import ClientStore
from perdure.replay.history import History, export_history


def history(
    id: Id,
    execution: Annotated[
        int | None,
        typer.Option(
            "--execution",
            min=1,
            metavar="N",
            help="The number of an execution. Default: the current one.",
            show_default=False,
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
    everything: Annotated[
        bool, typer.Option("--all", help="With --export: all executions that are kept.")
    ] = False,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Print the history of an instance, with payloads as JSON, or write it to a file."""
    if export is not None and execution is not None:
        msg = (
            "--export takes the current execution, or with --all all of them; leave out --execution"
        )
        raise UsageError(msg)
    if everything and export is None:
        msg = "--all goes with --export; one execution is printed with --execution N"
        raise UsageError(msg)
    if export is not None:
        return _export(store, id, export, everything=everything, as_json=as_json)
    return asyncio.run(_print(store, id, execution, as_json=as_json))


def _export(url: str, id: str, file: Path, *, everything: bool, as_json: bool) -> int:
    exported = asyncio.run(_exported(url, id, everything=everything))
    if str(file) == "-":
        # The text of the file and nothing else, so that `> FILE` writes the same bytes.
        screen.say(exported.encode().decode().rstrip())
        return Exit.OK
    exported.write(file)
    executions = len(exported.executions)
    if as_json:
        screen.json(
            {"id": id, "file": str(file), "executions": executions, "events": exported.count}
        )
    else:
        many = f"{screen.counted(executions, 'execution')}, {exported.count} events"
        screen.say(f"wrote the history of {id} to {file}: {many}")
    return Exit.OK


async def _exported(url: str, id: str, *, everything: bool) -> History:
    async with reading(url) as store:
        await must_find(store, id)
        return await export_history(store, id, every_execution=everything)


async def _print(url: str, id: str, execution: int | None, *, as_json: bool) -> Exit:
    """Print the events part by part, because a long history takes long to read."""
    async with reading(url) as store:
        number = await _execution_of(store, id, execution)
        parts = read_parts(store, id, number)
        if as_json:
            unreadable = await _print_json(parts, id, number)
        else:
            unreadable = await _print_sheet(parts)
        return screen.note_unreadable(unreadable)


async def _print_json(parts: AsyncIterator[Part], id: str, number: int) -> list[str]:
    document = screen.JsonList("events", id=id, execution=number)
    unreadable: list[str] = []
    async for part in parts:
        document.add(*map(event_json, part.events))
        unreadable += part.unreadable
    document.end(unreadable=unreadable)
    return unreadable


async def _print_sheet(parts: AsyncIterator[Part]) -> list[str]:
    sheet = Sheet(_COLUMNS)
    unreadable: list[str] = []
    async for part in parts:
        sheet.add(map(_cells, part.events))
        unreadable += part.unreadable
    return unreadable


async def _execution_of(store: ClientStore, id: str, execution: int | None) -> int:
    """The number of the named execution, or of the current one.

    Raises:
        NotFound: the history of this execution is not kept.
    """
    row, _ = readable_row((await must_find(store, id)).row)
    number = row.execution
    if execution is not None:
        number = execution
    known = await kept_executions(store, row)
    if number not in known:
        verb = "are"
        if len(known) == 1:
            verb = "is"
        kept = ", ".join(map(str, known))
        msg = f"{id!r} has no execution {number}; kept {verb} {kept}"
        raise NotFound(msg)
    return number


_COLUMNS = (
    Column("#", "bright_black", is_right=True),
    Column("time", "bright_black"),
    Column("event", is_head=True),
    Column("seq", "bright_black", is_right=True),
    Column("", role="folded", least=20),
)


def _cells(entry: HistoryEvent) -> tuple[str, ...]:
    """An event as a line of the sheet."""
    fields = fields_json(entry.event)
    # These two have columns of their own. Events without them leave the cells empty.
    at = fields.pop("at", None) or ""
    seq = fields.pop("seq", None) or ""
    facts = "  ".join(_facts(fields))
    return str(entry.number), str(at), type(entry.event).__name__, str(seq), facts


def _facts(fields: Json) -> Iterator[str]:
    """The fields that differ from their defaults."""
    for name, value in fields.items():
        # A recorded value of None or 0 is what the user wants to see.
        is_payload = name in ("value", "result")
        if is_payload or value not in (None, False, 0):
            yield f"{name}={_fact(name, value)}"


def _fact(name: str, value: object) -> str:
    if name == "failure":
        return _failure_fact(cast("Json", value))
    # Text with spaces needs quotes, or the fields of a line would run together.
    if isinstance(value, str) and " " not in value:
        return value
    return screen.json_text(value, indent=0)


def _failure_fact(failure: Json) -> str:
    text = f"{failure['type']}: {failure['message']}"
    parts = [_failure_fact(part) for part in cast("list[Json]", failure["parts"])]
    if parts:
        return f"{text} [{'; '.join(parts)}]"
    return text
