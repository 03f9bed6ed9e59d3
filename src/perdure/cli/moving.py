"""`move`: everything that a store has, into another store."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import check_shared, check_there
from perdure.cli.options import AsJson
from perdure.cli.outcome import Exit
from perdure.errors import UsageError
from perdure.moving import Moved, Plan, Progress, give_up, plan
from perdure.moving import move as move_store

if TYPE_CHECKING:
    from rich.console import Console

# A report comes for each part, and a slow terminal must not slow the copy.
_REDRAW_S = 0.1


def move(
    source: Annotated[
        str,
        typer.Option("--from", metavar="URL", help="The store as it is.", show_default=False),
    ],
    target: Annotated[
        str,
        typer.Option("--to", metavar="URL", help="A new, empty store.", show_default=False),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be moved, and change nothing.")
    ] = False,
    give_up_move: Annotated[
        bool,
        typer.Option(
            "--give-up",
            help="Take the old store back after a move that was interrupted; the new one is "
            "emptied.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Move everything from one store into another one of any kind.

    Stop all nodes before. The old store then refuses work and names the new one. A move that was
    interrupted goes on when the same command is run again.
    """
    if dry_run and give_up_move:
        msg = "--dry-run and --give-up exclude each other"
        raise UsageError(msg)
    check_there(source)
    check_shared(target)
    if dry_run:
        return _show_plan(asyncio.run(plan(source, target)), as_json=as_json)
    if give_up_move:
        asyncio.run(give_up(source, target))
        return _tell_given_up(source, target, as_json=as_json)
    began_s = time.monotonic()
    bar = _Bar()
    try:
        moved = asyncio.run(move_store(source, target, report=bar.show))
    finally:
        # At an error, too: its text would stand behind the numbers, on the same line.
        bar.end()
    return _tell_moved(moved, time.monotonic() - began_s, as_json=as_json)


class _Bar:
    """One line on stderr that is written anew. Without a terminal, one line for each step."""

    def __init__(self) -> None:
        self._console: Console = screen.notes()
        self._step: tuple[str, str] | None = None
        self._drawn_s = 0.0

    def show(self, progress: Progress) -> None:
        """Draw it, unless that was done a moment ago."""
        text = f"{progress.step} {progress.table}: {progress.done:,} of {progress.total:,} rows"
        now_s = time.monotonic()
        if self._console.is_terminal:
            # The last one is always drawn, so that the step ends with its full number.
            is_last = progress.done >= progress.total
            if is_last or now_s - self._drawn_s >= _REDRAW_S:
                self._drawn_s = now_s
                self._console.file.write(f"\r\x1b[2K{text}")
                self._console.file.flush()
        elif (progress.step, progress.table) != self._step:
            self._step = (progress.step, progress.table)
            rows = screen.counted(progress.total, "row")
            screen.note(f"{progress.step} {progress.table}: {rows}")

    def end(self) -> None:
        """Leave the line empty for what follows."""
        if self._console.is_terminal:
            self._console.file.write("\r\x1b[2K")
            self._console.file.flush()


def _show_plan(found: Plan, *, as_json: bool) -> int:
    if as_json:
        screen.json(msgspec.to_builtins(found))
        return Exit.OK
    total = sum(found.rows.values())
    verb = {"begin": "would move", "continue": "would go on moving", "done": "has moved"}[
        found.step
    ]
    screen.say(f"{verb} {screen.counted(total, 'row')} from {found.source} to {found.target}")
    for table, rows in found.rows.items():
        if rows:
            screen.say(f"  {table}: {rows:,}")
    screen.note("nothing was changed")
    return Exit.OK


def _tell_moved(moved: Moved, took_s: float, *, as_json: bool) -> int:
    if as_json:
        screen.json({**msgspec.to_builtins(moved), "seconds": round(took_s, 3)})
        return Exit.OK
    if moved.already:
        screen.say(f"{moved.source} had moved to {moved.target} already")
        return Exit.OK
    rows = screen.counted(sum(moved.rows.values()), "row")
    instances = screen.counted(moved.rows.get("units", 0), "instance")
    stores = f"{moved.source} to {moved.target}"
    screen.say(f"moved {rows} ({instances}) from {stores} in {took_s:.1f} s")
    screen.note(f"{moved.source} takes no more work; start your nodes with --store {moved.target}")
    return Exit.OK


def _tell_given_up(source: str, target: str, *, as_json: bool) -> int:
    from perdure.store import without_password

    old, new = without_password(source), without_password(target)
    if as_json:
        screen.json({"source": old, "target": new, "given_up": True})
    else:
        screen.say(f"{old} takes work again; {new} is empty")
    return Exit.OK
