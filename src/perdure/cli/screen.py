"""Output: the answer to stdout, all else to stderr. Colours appear only on a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perdure.cli.outcome import Exit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_COLUMNS = 200
"""The width of a table that is piped into a program: wide enough that nothing is cut."""


def answers() -> Console:
    """The console on stdout. Rich prints colours only on a terminal and without NO_COLOR."""
    return _console(stderr=False)


def notes() -> Console:
    """The console on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    if stderr:
        stream = sys.stderr
    else:
        stream = sys.stdout
    width = None
    if not stream.isatty():
        width = PIPE_COLUMNS
    # Ids and texts of users may look like markup or emoji codes, and must come out as they are.
    return Console(
        stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False
    )


def show(*things: RenderableType) -> None:
    """Print on stdout."""
    answers().print(*things, sep="\n", crop=False)


def say(text: str) -> None:
    """One line on stdout."""
    # Flushed, because a program at the other end of a pipe may wait for this line.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def clear() -> None:
    """Empty the screen of stdout. Without a terminal the next text follows the last one."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[2J")


def note(text: str) -> None:
    """One line on stderr, beside the answer."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """An error as one line on stderr."""
    from rich.text import Text

    console = notes()
    line = Text.assemble(("perdure:", "bold red"), " ", near(" ".join(text.split())))
    # A program that reads stderr gets one line for one error, however long it is.
    console.print(line, soft_wrap=not console.is_terminal)


def near(text: str) -> str:
    """A text for people, with files below the current folder by their names from here."""
    try:
        here = str(Path.cwd())
    except OSError:  # the folder was removed
        return text
    if here == os.sep:  # each path would be below it, and `//` stands in URLs
        return text
    # The path of a URL begins behind three slashes. Behind a letter or another slash it is the
    # middle of a longer path, which would be another one without it.
    return re.sub(rf"(?<![\w.~/-]){_literal(here)}|(?<=:///){_literal(here)}", "", text)


def _literal(folder: str) -> str:
    return re.escape(f"{folder}{os.sep}")


def counted(number: int, thing: str) -> str:
    """A number with its noun: `1 file`, `2 files`."""
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing}s"


def note_unreadable(sentences: Sequence[str]) -> Exit:
    """Print each unreadable part on a line of stderr.

    Returns the exit code of a command that showed the readable rest.
    """
    for sentence in sentences:
        error(sentence)
    if sentences:
        return Exit.SUSPENDED
    return Exit.OK


def styled(console: Console, text: str, style: str) -> str:
    """A text in a style, if the console shows any."""
    if not style or not text.strip():
        return text
    if console.color_system is None or console.no_color:
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


_STYLES = {
    "red": 31,
    "green": 32,
    "yellow": 33,
    "magenta": 35,
    "cyan": 36,
    "bright_black": 90,
}
"""Terminal codes of styles."""


class JsonList:
    """One JSON object on stdout, whose list is printed while it is read, in the form of `json`."""

    def __init__(self, name: str, **head: object) -> None:
        """`name` is that of the list. `head` are the members before it."""
        members = "".join(f"  {_member(key, value)},\n" for key, value in head.items())
        self._opening = f'{{\n{members}  "{name}": ['
        self._is_empty = True

    def add(self, *items: object) -> None:
        """Print the next items of the list."""
        for item in items:
            # The opening waits for the first item, so that an earlier error leaves stdout empty.
            before = ","
            if self._is_empty:
                before = self._opening
            text = json_text(item).replace("\n", "\n    ")
            sys.stdout.write(f"{before}\n    {text}")
            self._is_empty = False

    def end(self, **tail: object) -> None:
        """End the list and the object. `tail` are the members after it."""
        members = "".join(f",\n  {_member(key, value)}" for key, value in tail.items())
        closing = "\n  ]"
        if self._is_empty:
            closing = f"{self._opening}]"
        sys.stdout.write(f"{closing}{members}\n}}\n")
        sys.stdout.flush()


def _member(key: str, value: object) -> str:
    text = json_text(value).replace("\n", "\n  ")
    return f"{json_text(key)}: {text}"


def json(value: object) -> None:
    """One JSON document on stdout."""
    say(json_text(value))


def json_text(value: object, *, indent: int = 2) -> str:
    """A value as JSON. `indent=0` puts it on one line."""
    data = msgspec.json.encode(value)
    if indent:
        data = msgspec.json.format(data, indent=indent)
    return data.decode()
