"""What goes where: the answer to stdout, everything else to stderr; colours only on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_COLUMNS = 200
"""How wide a table is drawn when nobody watches: wide enough that nothing is cut."""


def answers() -> Console:
    """The console on stdout. Rich leaves colours out when it is no terminal, or when NO_COLOR is set."""
    return _console(stderr=False)


def notes() -> Console:
    """The console on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_COLUMNS
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def show(*things: RenderableType) -> None:
    """Print on stdout."""
    answers().print(*things, sep="\n")


def say(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on stderr: true, useful, and not the answer."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """What went wrong, as one line on stderr."""
    from rich.text import Text

    console = notes()
    line = Text.assemble(("perdure:", "bold red"), " ", " ".join(text.split()))
    console.print(line, soft_wrap=not console.is_terminal)


def json(value: object) -> None:
    """One JSON document on stdout."""
    say(json_text(value))


def json_text(value: object, *, indent: int = 2) -> str:
    """A value as JSON; `indent=0` puts it on one line."""
    data = msgspec.json.encode(value)
    return (msgspec.json.format(data, indent=indent) if indent else data).decode()
