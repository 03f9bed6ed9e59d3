"""`run`, `start` and `wait`: from a workflow and its arguments to an outcome."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from perdure.cli import logs, screen
from perdure.cli.batch import Batch, start_all
from perdure.cli.door import posting, reading
from perdure.cli.options import (
    DEFAULT_URL,
    AppName,
    AsJson,
    Id,
    IfExists,
    LogFormat,
    LogFormats,
    LogLevel,
    StoreUrl,
    Version,
    Wait,
    given_text,
    seconds,
)
from perdure.cli.outcome import Exit, ended_text
from perdure.cli.payloads import payload_json
from perdure.cli.progress import Progress
from perdure.cli.target import Target, find_workflow, is_code
from perdure.cli.timeline import duration, render, span
from perdure.cli.view import outcome_json
from perdure.cli.watch import Watch
from perdure.client.client import Client
from perdure.client.description import HistoryEvent
from perdure.client.workflow_handle import WorkflowHandle
from perdure.closing import is_held
from perdure.codec import from_json
from perdure.errors import DecodeError, StoreLocked, UsageError
from perdure.kernel.data.commit import UnitRow
from perdure.node import Node

Arguments = Annotated[
    str,
    typer.Argument(
        metavar="JSON",
        help="Arguments: an object by name, an array by position, or the only one. - reads stdin.",
        show_default=False,
    ),
]
_NO_ARGUMENTS = "[]"
OwnId = Annotated[
    str | None,
    typer.Option(
        "--id", metavar="ID", help="Its id, which makes the start idempotent. Default: a new one."
    ),
]
OnTaken = Annotated[
    IfExists,
    typer.Option(
        "--if-exists",
        metavar="RULE",
        help="What to do when the id is taken: join, reject, replace, or renew (replace what has "
        "ended, join what has not).",
    ),
]


@dataclass(frozen=True, slots=True)
class _Start:
    """A workflow, its arguments, and the id of its instance."""

    definition: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    id: str

    async def start(
        self, client: Client, if_exists: IfExists, version: str | None, delay_s: float | None
    ) -> None:
        handle: WorkflowHandle[..., Any] = client.workflow(
            self.definition, id=self.id, if_exists=if_exists.value, version=version, delay=delay_s
        )
        await handle.start(*self.args, **self.kwargs)


def run(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="FILE:WORKFLOW or MODULE:WORKFLOW.")
    ],
    arguments: Arguments = _NO_ARGUMENTS,
    store: StoreUrl = DEFAULT_URL,
    id: OwnId = None,
    if_exists: OnTaken = IfExists.JOIN,
    version: Version = None,
    app: AppName = None,
    timeout: Wait = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no timeline.")] = False,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="What is logged on stderr.")
    ] = LogLevel.WARNING,
    log_format: LogFormats = LogFormat.TEXT,
) -> int:
    """Run a workflow here and print its result.

    Starts it on a node in this process, shows its steps while they happen (stderr), and prints the
    result as JSON (stdout). The store keeps it: interrupted or killed, the same command with the
    same --id goes on where it was. A node also takes up all other work that waits in its store.
    """
    logs.to_stderr(log_level, log_format)
    with redirect_stdout(sys.stderr):  # user code may print, and stdout is for the answer
        found = find_workflow(target, app)
        begin = _start_of(found, arguments, id)
        # A terminal shows the attempts while they happen. The end is told in any case.
        is_shown = screen.notes().is_terminal and not (quiet or as_json)
        with logs.without(begin.id, attempts=is_shown):
            row = asyncio.run(
                _run(found, begin, store, if_exists, version, timeout, quiet=quiet or as_json)
            )
    return _report(row, as_json=as_json, url=store)


async def _run(
    target: Target,
    begin: _Start,
    url: str,
    if_exists: IfExists,
    version: str | None,
    timeout_s: float | None,
    *,
    quiet: bool,
) -> UnitRow:
    node = Node(target.app, url)
    try:
        await node.start()
    except StoreLocked as error:
        msg = f"{error}; or leave the work to it: `perdure start` and `perdure wait`"
        raise StoreLocked(msg) from error
    try:
        watch = Watch(node.store, begin.id)
        progress = Progress(begin.id)
        await begin.start(node.client, if_exists, version, None)
        if quiet:
            row = await _while_running(node, watch.until_end(timeout_s=timeout_s))
        else:
            screen.note(f"running {begin.definition.name} as {begin.id}")
            with progress.live():
                row = await _while_running(
                    node, watch.until_end(timeout_s=timeout_s, change=progress.change)
                )
            _show_steps(row, await watch.read_history())
    except asyncio.CancelledError:
        # Ctrl-C cancels the main task of `asyncio.run`.
        screen.note(
            f"interrupted; {begin.id!r} goes on when a node runs: "
            f"give the same command again with --id {begin.id}"
        )
        raise
    finally:
        await node.stop()
    return row


def _show_steps(row: UnitRow, history: list[HistoryEvent]) -> None:
    from rich.text import Text

    console = screen.notes()
    console.print(render(history, wide=not console.is_terminal), crop=False)
    scale = span(history)
    # A suspended instance has no end. Its last event stands for it.
    took = duration((scale.ended_ms or scale.latest_ms) - scale.started_ms)
    style = "red"
    if row.status == "completed":
        style = "green"
    console.print(Text.assemble(f"{row.type} {row.id} ", (row.status, style), f" after {took}"))


async def _while_running(node: Node, watching: Any) -> UnitRow:
    """The end of the instance, or the error that stopped the node first."""
    watched = asyncio.ensure_future(watching)
    ended = asyncio.ensure_future(node.wait_ended())
    try:
        await asyncio.wait({watched, ended}, return_when=asyncio.FIRST_COMPLETED)
        # A node that ended by itself has failed, so this raises. Otherwise the command would hang.
        if ended.done() and not watched.done():
            await ended
        row: UnitRow = await watched
        return row
    finally:
        watched.cancel()
        ended.cancel()
        await asyncio.gather(watched, ended, return_exceptions=True)


def start(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="FILE:WORKFLOW or MODULE:WORKFLOW, or only a workflow's name."
        ),
    ],
    arguments: Arguments = "[]",
    store: StoreUrl = DEFAULT_URL,
    id: OwnId = None,
    if_exists: OnTaken = IfExists.JOIN,
    version: Version = None,
    app: AppName = None,
    delay: Annotated[
        float | None,
        typer.Option(
            "--delay",
            metavar="DURATION",
            parser=seconds,
            help="Begin so much later: 90 (seconds), 5m, 1.5h, 30d.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Start one instance for each line of this file (- for stdin): "
            '{"id": "order-1", "arguments": [...]}.',
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Start a workflow and print its id.

    The node that owns the store runs it, now or when there is one. With code (FILE:WORKFLOW) the
    arguments are checked here. A bare name needs no code, and takes a JSON array of its arguments.

    With --from it starts many, and prints how many. A line may also have "delay" and "attributes".
    Given again after an interruption, the same command joins those that were started.
    """
    if file is not None:
        if id is not None or arguments != _NO_ARGUMENTS:
            msg = "each line of --from has its own id and arguments; give the command none"
            raise UsageError(msg)
        with redirect_stdout(sys.stderr):
            found: Target | str = target
            if is_code(target):
                found = find_workflow(target, app)
        batch = Batch(found, if_exists, version, delay)
        return start_all(batch, file, store, as_json=as_json)
    with redirect_stdout(sys.stderr):
        if is_code(target):
            begin = _start_of(find_workflow(target, app), arguments, id)
        else:
            begin = _named(target, arguments, id)
    asyncio.run(_start(begin, store, if_exists, version, delay))
    if as_json:
        screen.json({"id": begin.id})
    else:
        screen.say(begin.id)
    return Exit.OK


async def _start(
    begin: _Start, url: str, if_exists: IfExists, version: str | None, delay_s: float | None
) -> None:
    async with posting(url, create=True) as client:
        await begin.start(client, if_exists, version, delay_s)


def wait(
    id: Id, store: StoreUrl = DEFAULT_URL, timeout: Wait = None, as_json: AsJson = False
) -> int:
    """Wait until an instance has ended and print its result.

    A suspended instance ends the wait, too (exit code 7), because no waiting cures it.
    """
    try:
        row = asyncio.run(_wait(id, store, timeout))
    except KeyboardInterrupt:
        screen.note(f"interrupted; {id!r} goes on: wait again with `perdure wait {id}`")
        raise
    return _report(row, as_json=as_json, url=store)


async def _wait(id: str, url: str, timeout_s: float | None) -> UnitRow:
    async with reading(url) as store:
        return await Watch(store, id).until_end(timeout_s=timeout_s)


# ---------------------------------------------------------------- in and out


def _start_of(target: Target, text: str, id: str | None) -> _Start:
    """A start of a workflow whose code is here."""
    signature = target.workflow.definition.signature
    args, kwargs = signature.decode(from_json(given_text(text), signature))
    return _Start(target.workflow, args, kwargs, _given_id(id, target.workflow.name))


def _named(name: str, text: str, id: str | None) -> _Start:
    """A start by name alone."""
    try:
        value: object = msgspec.json.decode(given_text(text))
    except msgspec.DecodeError as error:
        msg = (
            f"arguments of workflow {name!r}: this is no JSON: {error}; "
            "text needs double quotes, as in '[\"card\", 1]'"
        )
        raise DecodeError(msg) from error
    if isinstance(value, dict):
        msg = (
            f"arguments of workflow {name!r}: an object of arguments by name needs its code, as "
            f"FILE:{name}. By the bare name give an array, also of one object: '[{{...}}]'"
        )
        raise DecodeError(msg)
    args: list[Any] = [value]
    if isinstance(value, list):
        args = value  # pyright: ignore[reportUnknownVariableType]
    return _Start(name, tuple(args), {}, _given_id(id, name))


def _given_id(id: str | None, name: str) -> str:
    if id is not None:
        return id
    # A name may hold characters that a shell would interpret, and ids are copied into commands.
    return f"{re.sub('[^0-9A-Za-z_.-]', '-', name)}-{os.urandom(4).hex()}"


def _report(row: UnitRow, *, as_json: bool, url: str) -> int:
    """Print the end of an instance. Returns the exit code."""
    # The result alone, so that `$(perdure run ...)` is the result.
    if as_json:
        screen.json(outcome_json(row))
    elif row.status == "completed":
        screen.json(payload_json(row.result))
    if row.status == "completed":
        return Exit.OK
    screen.error(ended_text(row))
    if not as_json:
        where = ""
        if url != DEFAULT_URL:
            where = f" --store {url}"
        screen.note(f"  its steps: perdure show {row.id}{where}")
    if is_held(row):
        return Exit.SUSPENDED
    return Exit.FAILED
