"""`migrate`: bring a store that an older release has written to the format of this one."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli import screen
from perdure.cli.door import check_there
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl
from perdure.cli.outcome import Exit
from perdure.store import open_store
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.database import upgrade


def migrate(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="The store; the same as --store.", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Change nothing; exit code 5 if there is something to do."),
    ] = False,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Show the format of a store, and bring it to that of this release.

    Stop nodes of older releases before.
    """
    if url is None:
        url = store
    check_there(url)
    known = open_store(url)
    assert isinstance(known, SQLiteStore)  # no other store has a file, which was just checked
    found = upgrade(known.path, known.options, check=check)
    if as_json:
        screen.json(
            {
                "store": url,
                "format": found.format,
                "applied": found.applied,
                "pending": found.pending,
            }
        )
    elif found.pending:
        screen.say(
            f"{found.path} has the format {found.format} and needs: {', '.join(found.pending)}"
        )
        screen.note(
            f"`perdure migrate {url}` brings it up to date; "
            "copy the file before, and stop its nodes"
        )
    elif found.applied:
        screen.say(
            f"{found.path} has the format {found.format} now; applied: {', '.join(found.applied)}"
        )
    else:
        screen.say(f"{found.path} has the format {found.format}, which is that of this release")
    # A deploy script can stop here, before it starts nodes of the new release.
    if found.pending:
        return Exit.STORE
    return Exit.OK
