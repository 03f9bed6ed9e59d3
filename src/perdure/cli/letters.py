"""`letters`: dead letters, which are messages that no instance took."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import posting, reading
from perdure.cli.layout import Cell, Column, Row
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl, Wide
from perdure.cli.outcome import Exit
from perdure.cli.payloads import payload_json
from perdure.cli.screen import json_text
from perdure.cli.sheet import Sheet
from perdure.cli.view import time_text
from perdure.errors import NotFound, UsageError
from perdure.kernel.data.message import decode_body
from perdure.ports.store import DeadLetter, DeadLetters, Page

# Enough to tell a million letters apart.
_SHOWN_DIGITS = 12


def ls(
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
    """List messages that no instance took, in the order of the ids to which they were sent."""
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


Letter = Annotated[
    str,
    typer.Argument(
        metavar="LETTER", help="The letter, or the first digits of it.", show_default=False
    ),
]


def show(letter: Letter, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Show a dead letter: why no instance took it, and what it says."""
    found = asyncio.run(_find(store, letter))
    document = {**_json(found), "body": _body_json(found)}
    if as_json:
        screen.json(document)
        return Exit.OK
    for name, value in document.items():
        text = value
        if not isinstance(value, str):
            text = json_text(value, indent=0)
        screen.say(f"{name:<10}  {text}")
    return Exit.OK


def resend(letter: Letter, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Send a dead letter to its id again, such as after a deploy that understands it."""

    async def act() -> DeadLetter:
        found = await _find(store, letter)
        async with posting(store) as client:
            await client.resend(found)
        return found

    found = asyncio.run(act())
    return _done(found, "resent", f"resend: posted to {found.unit}", as_json=as_json)


def drop(letter: Letter, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Remove a dead letter for good."""

    async def act() -> DeadLetter:
        found = await _find(store, letter)
        async with posting(store) as client:
            await client.drop(found)
        return found

    found = asyncio.run(act())
    return _done(found, "dropped", f"drop: removed a letter to {found.unit}", as_json=as_json)


def _done(letter: DeadLetter, verb: str, text: str, *, as_json: bool) -> int:
    if as_json:
        screen.json({"id": letter.unit, verb: letter.message.hex()})
    else:
        screen.say(text)
    return Exit.OK


async def _read(url: str, query: DeadLetters) -> Page[DeadLetter]:
    async with reading(url) as store:
        return await store.query(query)


async def _find(url: str, letter: str) -> DeadLetter:
    """The letter with these first digits.

    Raises:
        NotFound: there is none.
        UsageError: there are several.
    """
    found: list[DeadLetter] = []
    after: str | None = None
    async with reading(url) as store:
        while True:
            page = await store.query(DeadLetters(limit=1_000, after=after))
            found += [one for one in page.items if one.message.hex().startswith(letter.lower())]
            after = page.next
            if after is None:
                break
    if not found:
        msg = f"there is no dead letter {letter!r}; perdure letters ls lists them"
        raise NotFound(msg)
    if len(found) > 1:
        msg = f"{len(found)} dead letters begin with {letter!r}; give more digits"
        raise UsageError(msg)
    return found[0]


def _body_json(letter: DeadLetter) -> object:
    """The fields of the body. Payloads are shown as their values."""
    body = decode_body(letter.body)
    return {name: _field_json(value) for name, value in msgspec.structs.asdict(body).items()}


def _field_json(value: object) -> object:
    if isinstance(value, bytes):
        return payload_json(value)
    return msgspec.to_builtins(value, enc_hook=repr)


def _json(dead: DeadLetter) -> dict[str, object]:
    return {
        # In the form in which histories show ids of messages.
        "message": dead.message.hex(),
        "unit": dead.unit,
        "reason": dead.reason,
        "kind": dead.kind,
        "sender": dead.sender,
        "at": time_text(dead.at),
        "expires_at": time_text(dead.expires_at),
    }


_COLUMNS = (
    Column("letter", is_head=True),
    Column("to", is_head=True),
    *(Column(name) for name in ("kind", "from", "sent", "kept until", "why")),
)


def _cells(dead: DeadLetter) -> Row:
    # Grey, so that it is not taken for the id of an instance.
    sender = Cell("a client", "bright_black")
    if dead.sender is not None:
        sender = Cell(dead.sender)
    sent, kept = time_text(dead.at) or "", time_text(dead.expires_at) or ""
    letter = dead.message.hex()[:_SHOWN_DIGITS]
    return letter, dead.unit, dead.kind, sender, sent, kept, dead.reason
