"""`start --from FILE`: many starts, one on each line."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import msgspec
import typer

from perdure.cli import screen
from perdure.cli.door import posting
from perdure.cli.options import IfExists, seconds
from perdure.cli.outcome import Exit, with_options
from perdure.cli.target import Target
from perdure.client.bulk import PreparedStart
from perdure.client.client import Client
from perdure.codec import from_json
from perdure.errors import DecodeError, PerdureError, StoreError, UsageError

_BATCH = 500
"""Lines that are read, started and reported together."""

_FRAMES_PER_SECOND = 8

_SHOWN = 20
"""Failures that are told one by one. The document of `--json` has all of them."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the file."""

    id: str
    # Undecoded, because only the signature of the workflow tells their types.
    arguments: msgspec.Raw = msgspec.Raw(b"[]")
    delay: str | float | None = None
    attributes: dict[str, Any] | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True, slots=True)
class _Failure:
    """A line that started nothing, and why."""

    line: int
    id: str | None
    error: Exception

    def text(self) -> str:
        named = ""
        if self.id is not None:
            named = f" ({self.id})"
        said = with_options(" ".join(str(self.error).split()))
        return f"line {self.line}{named}: {type(self.error).__name__}: {said}"

    def json(self) -> dict[str, object]:
        error = {"type": type(self.error).__name__, "message": str(self.error)}
        return {"line": self.line, "id": self.id, "error": error}


@dataclass(slots=True)
class _Report:
    """What came of the lines so far."""

    started: int = 0
    joined: int = 0
    failures: list[_Failure] = field(default_factory=list[_Failure])
    began_s: float = field(default_factory=time.monotonic)

    @property
    def lines(self) -> int:
        return self.started + self.joined + len(self.failures)

    def counts(self) -> str:
        return f"started {self.started}, joined {self.joined}, failed {len(self.failures)}"

    def progress(self) -> str:
        # The first frame may be drawn when no time has passed.
        took_s = max(time.monotonic() - self.began_s, 1e-3)
        return f"{self.counts()}  ({self.lines / took_s:,.0f} a second)"


@dataclass(frozen=True, slots=True)
class Batch:
    """The starts of a file: of a workflow whose code is here, or of one by its name."""

    target: Target | str
    if_exists: IfExists
    version: str | None
    delay_s: float | None

    def prepare(self, client: Client, line: _Line) -> PreparedStart:
        """The start that a line describes.

        Raises:
            DecodeError, UsageError: its arguments or others of its members do not fit.
        """
        args, kwargs = self._arguments(bytes(line.arguments).decode())
        definition: Any = self.target
        if isinstance(definition, Target):
            definition = definition.workflow
        handle = client.workflow(
            definition,
            id=line.id,
            if_exists=self.if_exists.value,
            version=self.version,
            delay=self._delay(line),
            attributes=line.attributes,
        )
        return handle.prepare(*args, **kwargs)

    def _delay(self, line: _Line) -> float | None:
        if line.delay is None:
            return self.delay_s
        try:
            return seconds(line.delay)
        except typer.BadParameter as error:
            raise DecodeError(f"delay: {error}") from error

    def _arguments(self, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(self.target, Target):
            signature = self.target.workflow.definition.signature
            args, kwargs = signature.decode(from_json(text, signature))
            return args, kwargs
        value: object = msgspec.json.decode(text)  # the line was JSON, so this is
        if isinstance(value, dict):
            msg = "arguments by name need the code of the workflow, as FILE:NAME; give an array"
            raise DecodeError(msg)
        values: list[Any] = [value]
        if isinstance(value, list):
            values = value  # pyright: ignore[reportUnknownVariableType]
        return tuple(values), {}


def _read_line(text: str) -> _Line:
    """A line of the file.

    Raises:
        DecodeError: it is no such object.
    """
    try:
        return _decode_line(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        msg = (
            f'{error}; a line is {{"id": "order-1", "arguments": [...]}}, '
            'and may have "delay" and "attributes"'
        )
        raise DecodeError(msg) from error


def start_all(batch: Batch, file: str, url: str, *, as_json: bool) -> int:
    """Start one instance for each line of a file (`-`: stdin). Returns the exit code.

    A line that is refused does not stop the others.
    """
    report = _Report()
    try:
        with _opened(file) as lines:
            asyncio.run(_start_all(batch, lines, url, report))
    except (KeyboardInterrupt, StoreError):
        screen.note(
            f"not all was read: {report.counts()}. The same command goes on: "
            "those that were started are joined"
        )
        raise
    for failure in report.failures[:_SHOWN]:
        screen.error(failure.text())
    if len(report.failures) > _SHOWN:
        left = len(report.failures) - _SHOWN
        screen.error(f"and {left} others; --json lists all of them")
    if as_json:
        document: dict[str, object] = {"started": report.started, "joined": report.joined}
        document["failed"] = [failure.json() for failure in report.failures]
        screen.json(document)
    else:
        screen.say(report.counts())
    if report.failures:
        return Exit.CONFLICT
    return Exit.OK


@contextmanager
def _opened(file: str) -> Generator[TextIO]:
    if file == "-":
        yield sys.stdin
        return
    with ExitStack() as stack:
        try:
            # Bytes that are no UTF-8 are an error of their line, and not of the file.
            opened = stack.enter_context(
                Path(file).open(encoding="utf-8", errors="surrogateescape")
            )
        except OSError as error:
            msg = f"{file} cannot be read: {error.strerror}; give the file of the starts, or -"
            raise UsageError(msg) from error
        yield opened


async def _start_all(batch: Batch, lines: TextIO, url: str, report: _Report) -> None:
    numbered = _filled(lines)
    async with posting(url, create=True) as client:
        with _shown(report):
            # The file is never in memory as a whole: it may have millions of lines, or be a pipe.
            while part := list(islice(numbered, _BATCH)):
                await _start_part(batch, client, part, report)


def _shown(report: _Report) -> AbstractContextManager[object]:
    """The counts on stderr while they grow. Without a terminal there is nothing to see."""
    from rich.live import Live
    from rich.text import Text

    console = screen.notes()
    if not console.is_terminal:
        return nullcontext()
    return Live(
        get_renderable=lambda: Text(report.progress()),
        console=console,
        transient=True,
        refresh_per_second=_FRAMES_PER_SECOND,
    )


def _filled(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text:
            yield number, text


async def _start_part(
    batch: Batch, client: Client, part: list[tuple[int, str]], report: _Report
) -> None:
    numbers: list[int] = []
    starts: list[PreparedStart] = []
    for number, text in part:
        name: str | None = None
        try:
            line = _read_line(text)
            name = line.id
            starts.append(batch.prepare(client, line))
        except PerdureError as error:
            # Without a name the line could not be read at all.
            report.failures.append(_Failure(number, name, error))
        else:
            numbers.append(number)
    for number, outcome in zip(numbers, await client.start_many(starts), strict=True):
        if isinstance(outcome.error, StoreError):
            # The store is away, so the other lines would fail in the same way.
            raise outcome.error
        if outcome.error is not None:
            report.failures.append(_Failure(number, outcome.id, outcome.error))
        elif outcome.outcome == "joined":
            report.joined += 1
        else:
            report.started += 1
