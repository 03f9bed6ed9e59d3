"""`replay` checks before a deploy whether code fits the histories of files or of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import redirect_stdout
from pathlib import Path
from sys import stderr
from typing import Annotated

import typer

from perdure.app import App
from perdure.cli import screen
from perdure.cli.door import reading
from perdure.cli.listings import StatusName
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl
from perdure.cli.outcome import Exit
from perdure.cli.target import find_app
from perdure.errors import UsageError
from perdure.kernel.data.commit import Status
from perdure.replay.history import History
from perdure.replay.replayer import OPEN, Replayed, ReplayMismatch, files_of, iterate_replays
from perdure.replay.replayer import replay as replay_one

Result = Replayed | ReplayMismatch | UsageError


def replay(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="FILE:APP or MODULE:APP; FILE if it has one App."),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Exported histories, or folders of them. Default: the store.",
            show_default=False,
        ),
    ] = None,
    status: Annotated[
        list[StatusName] | None,
        typer.Option(
            "--status", help="Of the store: only these. Default: the open ones. May be repeated."
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            "--type", metavar="NAME", help="Of the store: only this workflow.", show_default=False
        ),
    ] = None,
    store: StoreUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Replay histories against code: would a deploy of this code fit them?

    Nothing is stored, and no activity runs. Exit code 1 if one does not fit, 2 if a file cannot be
    read.
    """
    if files and (status or type):
        msg = "--status and --type choose instances of a store; leave them out when you name files"
        raise UsageError(msg)
    with redirect_stdout(stderr):  # the module may print, and stdout is for the answer
        app = find_app(target)
    statuses: tuple[Status, ...] = OPEN
    if status:
        statuses = tuple(one.value for one in status)
    results = asyncio.run(_collect(app, files or [], store, statuses, type, say=not as_json))
    if as_json:
        screen.json(
            {
                "fit": [_fit_json(r) for r in results if isinstance(r, Replayed)],
                **_wrong_json(results),
            }
        )
    else:
        _summary(results)
    kinds = {result.__class__ for result in results}
    # A file that cannot be read may hide a mismatch, so it comes first.
    if UsageError in kinds:
        return Exit.USAGE
    if ReplayMismatch in kinds:
        return Exit.FAILED
    return Exit.OK


async def _collect(
    app: App,
    files: list[Path],
    store: str,
    statuses: tuple[Status, ...],
    type: str | None,
    *,
    say: bool,
) -> list[Result]:
    if files:
        found = _from_files(app, files)
    else:
        found = _from_store(app, store, statuses, type)
    results: list[Result] = []
    async for result in found:
        results.append(result)
        if say:  # at once, because a store may take long
            screen.say(_line(result))
    return results


async def _from_store(
    app: App, url: str, statuses: tuple[Status, ...], type: str | None
) -> AsyncGenerator[Result]:
    async with reading(url) as store:
        async for result in iterate_replays(app, store, status=statuses, type=type):
            yield result


async def _from_files(app: App, files: list[Path]) -> AsyncGenerator[Result]:
    for file in files_of(files):
        try:
            yield replay_one(app, History.read(file))
        except (ReplayMismatch, UsageError) as wrong:
            yield wrong


def _line(result: Result) -> str:
    if isinstance(result, Replayed):
        later = ""
        if result.goes_on:
            later = f", and goes on with {', '.join(result.goes_on)}"
        skipped = "".join(f"\n         skipped: {why}" for why in result.skipped)
        return (
            f"fits     {result.id} ({result.workflow}, {result.status}): "
            f"{result.events} events{later}{skipped}"
        )
    if isinstance(result, ReplayMismatch):
        return screen.near(f"differs  {result}")
    return f"unread   {result}"


def _summary(results: list[Result]) -> None:
    if not results:
        screen.note("there is nothing to replay: no instance of the store fits the filters")
        return
    fit = sum(isinstance(result, Replayed) for result in results)
    what = "histories fit"
    if len(results) == 1:
        what = "history fits"
    screen.note(f"{fit} of {len(results)} {what} the code")


def _fit_json(result: Replayed) -> dict[str, object]:
    return {
        "id": result.id,
        "workflow": result.workflow,
        "status": result.status,
        "executions": result.executions,
        "events": result.events,
        "goes_on": list(result.goes_on),
        "skipped": list(result.skipped),
    }


def _wrong_json(results: list[Result]) -> dict[str, object]:
    return {
        "differ": [{"id": r.id, "why": str(r)} for r in results if isinstance(r, ReplayMismatch)],
        "unread": [str(r) for r in results if isinstance(r, UsageError)],
    }
