"""Requests: `send`, `raise-event`, `cancel`, `terminate`, `pause`, `resume`, `retry`.

Each command posts its request, which is durable when the command returns. The node that owns the
store carries the request out, now or when there is such a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import Annotated, Any

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import find, posting, reading
from perdure.cli.options import DEFAULT_URL, AsJson, Id, Reason, StoreUrl, given_text
from perdure.cli.outcome import Exit
from perdure.cli.timeline import steps
from perdure.cli.watch import read_history
from perdure.client.handle import Handle
from perdure.errors import DecodeError, NotRunning
from perdure.kernel.data.commit import CLOSED, Status

# A longer history is not read to check the name of a channel.
_HISTORY_MAX = 5_000

Value = Annotated[
    str, typer.Argument(metavar="JSON", help="The value; - reads stdin.", show_default=False)
]


def send(
    id: Id,
    channel: Annotated[
        str, typer.Argument(metavar="CHANNEL", help="The name of the channel.", show_default=False)
    ],
    value: Value,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="TEXT",
            help="Send it once: another message with this key has no effect for a day.",
            show_default=False,
        ),
    ] = None,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Put a message into a channel of an instance. It is kept until the workflow receives it."""
    message = _value(value, f"the message for channel {channel!r}")
    asyncio.run(_post(store, id, lambda handle: handle.send(channel, message, key=key)))
    doubt = asyncio.run(_doubt(store, id, channel))
    if doubt is not None:
        screen.note(doubt)
    return _done(id, f"send: posted to {channel!r} of {id}", "send", as_json=as_json)


def raise_event(
    id: Id,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the event.", show_default=False)
    ],
    value: Value = "null",
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Raise a positional event.

    A workflow that waits for it now takes it. Without such a wait it is only recorded.
    """
    data = _value(value, f"the event {name!r}")
    asyncio.run(_post(store, id, lambda handle: handle.raise_event(name, data)))
    return _done(id, f"raise-event: posted {name!r} to {id}", "raise-event", as_json=as_json)


def cancel(
    id: Id, reason: Reason = "", store: StoreUrl = DEFAULT_URL, as_json: AsJson = False
) -> int:
    """Ask an instance to stop. Its code may clean up."""
    return _control(store, id, "cancel", lambda handle: handle.cancel(reason), as_json=as_json)


def terminate(
    id: Id, reason: Reason = "", store: StoreUrl = DEFAULT_URL, as_json: AsJson = False
) -> int:
    """End an instance at once, without asking its code."""
    return _control(
        store, id, "terminate", lambda handle: handle.terminate(reason), as_json=as_json
    )


def pause(
    id: Id, reason: Reason = "", store: StoreUrl = DEFAULT_URL, as_json: AsJson = False
) -> int:
    """Stop delivering to an instance. Messages that arrive are kept."""
    return _control(store, id, "pause", lambda handle: handle.pause(reason), as_json=as_json)


def resume(id: Id, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Go on delivering to a paused instance."""
    return _control(store, id, "resume", lambda handle: handle.resume(), as_json=as_json)


def retry(id: Id, store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Try a suspended instance again."""
    return _control(store, id, "retry", lambda handle: handle.retry(), as_json=as_json)


# ---------------------------------------------------------------- posting

Ask = Callable[[Handle[Any]], Awaitable[None]]


def _value(text: str, what: str) -> object:
    try:
        value: object = msgspec.json.decode(given_text(text))
    except msgspec.DecodeError as error:
        msg = f"{what} is no JSON: {error}; text needs double quotes, as in '\"yes\"'"
        raise DecodeError(msg) from error
    return value


async def _post(url: str, id: str, ask: Ask) -> None:
    async with posting(url) as client:
        await ask(client.get(id))


async def _doubt(url: str, id: str, channel: str) -> str | None:
    """What speaks against this channel: its code waits for others, and has not used it so far.

    The store does not know the channels of the code. Its history tells those that it waited for.
    """
    async with reading(url) as store:
        view = await find(store, id)
        if view is None or view.row.status in CLOSED or view.row.journal_events > _HISTORY_MAX:
            return None
        history = (await read_history(store, id, view.row.execution)).events
    waits = [step for step in steps(history) if step.kind == "message"]
    expected = list(dict.fromkeys(step.name for step in waits if step.open))
    if not expected or channel in {step.name for step in waits}:
        return None
    names = ", ".join(map(repr, expected))
    close = ""
    if get_close_matches(channel, expected, 1):
        close = ". A typing error?"
    return (
        f"{id!r} waits for a message of {names}, and has not used {channel!r} so far; "
        f"the message is kept until it does{close}"
    )


def _control(url: str, id: str, verb: str, ask: Ask, *, as_json: bool) -> int:
    """Post a request, unless the instance has ended.

    To stop an ended instance is no error, because it is stopped. Every other request is one.
    """
    # The store cannot tell this command what becomes of a posted request, so it looks first.
    status = asyncio.run(_status(url, id))
    if status not in CLOSED:
        asyncio.run(_post(url, id, ask))
        return _done(id, f"{verb}: posted to {id}", verb, as_json=as_json)
    if verb not in ("cancel", "terminate"):
        msg = (
            f"{id!r} is {status} already, so there is nothing to {verb}; "
            "start it anew with another id"
        )
        raise NotRunning(msg)
    screen.note(f"{id!r} is {status} already; nothing was changed")
    return _done(id, "", None, as_json=as_json)


async def _status(url: str, id: str) -> Status | None:
    async with reading(url) as store:
        view = await find(store, id)
        if view is None:  # perhaps a posted start that no node has taken yet
            return None
        return view.row.status


def _done(id: str, text: str, posted: str | None, *, as_json: bool) -> int:
    if as_json:
        screen.json({"id": id, "posted": posted})
    elif text:
        screen.say(text)
    return Exit.OK
