"""The streams of the process, as a command uses them: also when they are closed, full or narrow.

stdout has the answer. When it cannot be written, the command ends and says so. stderr only has
notes. When it cannot be written, the work goes on without them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class AnswerLost(Exception):
    """stdout takes nothing any more. `by_reader`: the program at its other end has closed it."""

    def __init__(self, why: str, *, by_reader: bool) -> None:
        """Keep both."""
        super().__init__(why)
        self.by_reader = by_reader


class _Answers:
    """stdout. An error of it is no OSError, which typer takes for the end of the program."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.is_used = False

    def write(self, text: str) -> int:
        if self._stream is None:
            raise AnswerLost("it is closed", by_reader=False)
        try:
            written = self._stream.write(text)
        except (OSError, ValueError) as error:
            raise _lost(error) from error
        self.is_used = self.is_used or bool(text)
        return written

    def flush(self) -> None:
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise _lost(error) from error

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _lost(error: OSError | ValueError) -> AnswerLost:
    if isinstance(error, BrokenPipeError):
        return AnswerLost("its reader has closed it", by_reader=True)
    return AnswerLost(getattr(error, "strerror", None) or str(error), by_reader=False)


class _Notes:
    """stderr. What cannot be written is left out."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            # There is no place to report it, and the work must go on.
            with suppress(OSError, ValueError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def kept() -> Generator[None, None, None]:
    """Put these in the places of the streams while a command runs."""
    _occupy_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        _take_any_text(stream)
    sys.stdout = cast("TextIO", _Answers(before[0]))
    sys.stderr = cast("TextIO", _Notes(before[1]))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def is_answer_begun() -> bool:
    """Whether something was printed on stdout."""
    return getattr(sys.stdout, "is_used", False)


def give_up_answers() -> None:
    """Let Python end without another try to write what stdout has not taken."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _occupy_closed() -> None:
    """Open the null device for each standard stream that is closed.

    A store's file would get its number otherwise, and text for the stream would go into the file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _take_any_text(stream: TextIO | None) -> None:
    """Print a question mark for a character that the encoding of the terminal does not have."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
