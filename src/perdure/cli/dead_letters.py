"""`dead-letters`: messages whose target never came to be."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import reading
from perdure.cli.layout import Cell, Column, Row
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl, Wide
from perdure.cli.outcome import Exit
from perdure.cli.sheet import Sheet
from perdure.cli.view import time_text
from perdure.ports.store import DeadLetter, DeadLetters, Page


def dead_letters(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Only those that were sent to this id.")
    ] = None,
    store: StoreUrl = DEFAULT_URL,
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="N", help="At most so many.")
    ] = 50,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="TEXT",
            help="Go on from the `next` of the page before.",
            show_default=False,
        ),
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """List messages that were sent to an id that no instance had, in the order of these ids."""
    page = asyncio.run(_read(store, DeadLetters(unit=id, limit=limit, after=after)))
    if as_json:
        screen.json({"dead_letters": [_json(dead) for dead in page.items], "next": page.next})
        return Exit.OK
    if not page.items:
        screen.note("no dead letters")
        return Exit.OK
    Sheet(_COLUMNS, wide=wide).add(map(_cells, page.items))
    if page.next is not None:
        screen.note(f"there are more: --after {page.next}")
    return Exit.OK


async def _read(url: str, query: DeadLetters) -> Page[DeadLetter]:
    async with reading(url) as store:
        return await store.query(query)


def _json(dead: DeadLetter) -> dict[str, object]:
    document: dict[str, object] = msgspec.structs.asdict(dead)
    # In the form in which histories show ids of messages.
    document["message"] = dead.message.hex()
    document["at"] = time_text(dead.at)
    document["expires_at"] = time_text(dead.expires_at)
    return document


_COLUMNS = (
    Column("to", is_head=True),
    *(Column(name) for name in ("kind", "from", "sent", "kept until")),
)


def _cells(dead: DeadLetter) -> Row:
    # Grey, so that it is not taken for the id of an instance.
    sender = Cell("a client", "bright_black")
    if dead.sender is not None:
        sender = Cell(dead.sender)
    sent, kept = time_text(dead.at) or "", time_text(dead.expires_at) or ""
    return dead.unit, dead.kind, sender, sent, kept
