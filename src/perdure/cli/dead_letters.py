"""`dead-letters`: messages whose target never came to be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import reading
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl
from perdure.cli.outcome import Exit
from perdure.cli.view import time_text
from perdure.ports.store import DeadLetter, DeadLetters, Page

if TYPE_CHECKING:
    from rich.table import Table


# On a narrower terminal an id is folded to so much, and the terminal folds the lines.
_ID_COLUMNS = 10


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
    screen.show(_table(page.items))
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


def _table(rows: list[DeadLetter]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bright_black")
    # Ids are copied into other commands, so they are folded and never cut.
    table.add_column("to", overflow="fold", min_width=_ID_COLUMNS)
    table.add_column("kind", no_wrap=True)
    table.add_column("from", overflow="fold", min_width=_ID_COLUMNS)
    table.add_column("sent", no_wrap=True)
    table.add_column("kept until", no_wrap=True)
    for dead in rows:
        if dead.sender is not None:
            sender = Text(dead.sender)
        else:
            # Grey, so that it is not taken for the id of an instance.
            sender = Text("a client", style="bright_black")
        table.add_row(
            Text(dead.unit),
            dead.kind,
            sender,
            time_text(dead.at),
            time_text(dead.expires_at),
        )
    return table
