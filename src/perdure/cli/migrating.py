"""`migrate`: bring a store that an older release has written to the format of this one."""

from __future__ import annotations

import asyncio
from typing import Annotated, NamedTuple

import typer

from perdure.cli import screen
from perdure.cli.door import check_there
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl
from perdure.cli.outcome import Exit
from perdure.cluster import cluster_at
from perdure.errors import UsageError
from perdure.store import is_postgres, open_store, without_password
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
    finish: Annotated[
        bool,
        typer.Option(
            "--finish",
            help="PostgreSQL: remove what only nodes of older releases need. None may run.",
        ),
    ] = False,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Show the format of a store, and bring it to that of this release.

    Stop nodes of older releases before. On PostgreSQL they may go on: migrate first, then replace
    the nodes, then migrate with --finish.
    """
    if url is None:
        url = store
    check_there(url)
    found = _upgrade(url, check=check, finish=finish)
    if as_json:
        screen.json(
            {
                "store": without_password(url),
                "format": found.format,
                "applied": found.applied,
                "pending": found.pending,
            }
        )
    elif found.pending:
        screen.say(
            f"{found.name} has the format {found.format} and needs: {', '.join(found.pending)}"
        )
        screen.note(
            f"`perdure migrate {without_password(url)}` brings it up to date; {_before(url)}"
        )
    elif found.applied:
        screen.say(
            f"{found.name} has the format {found.format} now; applied: {', '.join(found.applied)}"
        )
    else:
        screen.say(f"{found.name} has the format {found.format}, which is that of this release")
    # A deploy script can stop here, before it starts nodes of the new release.
    if found.pending:
        return Exit.STORE
    return Exit.OK


class _Found(NamedTuple):
    """A store, the steps that were taken now, and those that are left."""

    name: str
    format: int
    pending: list[str]
    applied: list[str]


def _upgrade(url: str, *, check: bool, finish: bool) -> _Found:
    known = open_store(url)
    if isinstance(known, SQLiteStore):
        if finish:
            msg = f"{url} has no second half of a migration; leave --finish out"
            raise UsageError(msg)
        file = upgrade(known.path, known.options, check=check)
        return _Found(file.path, file.format, file.pending, file.applied)
    # Needs a library that not everyone has installed.
    from perdure.store.postgres import PostgresStore
    from perdure.store.postgres.migrate import Upgraded
    from perdure.store.postgres.migrate import upgrade as upgrade_schema

    assert isinstance(known, PostgresStore)  # `check_there` has refused all others

    async def work() -> Upgraded:
        found = await upgrade_schema(known.address, check=check, finish=finish)
        if not check:
            # The tables of the cluster, too: a node may lack the right to make them.
            async with cluster_at(known.meeting_place) as cluster:
                await cluster.view()
        return found

    schema = asyncio.run(work())
    return _Found(known.address.name, schema.format, schema.pending, schema.applied)


def _before(url: str) -> str:
    """What to do before a migration."""
    if is_postgres(url):
        return "copy the database before"
    return "copy the file before, and stop its nodes"
