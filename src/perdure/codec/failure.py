"""An exception as data of limited size."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from perdure.codec.payload import encode
from perdure.errors import (
    SHORT,
    ApplicationError,
    Category,
    Failed,
    Failure,
    PayloadError,
    RetryAfter,
    UsageError,
    clean_text,
    in_short,
)

# A failure is journaled with the call that failed, and the journal is read whole when the instance
# is loaded. A group of a thousand exceptions with deep tracebacks must not make that slow.
_PERDURE = str(Path(__file__).parent.parent)
_PYTHON = sysconfig.get_path("stdlib")
_TRACEBACK_FRAMES = 30
_CAUSES_MAX = 10
_PARTS_MAX = 20
_PARTS_BYTES = 64_000


def failure_of(
    error: BaseException,
    *,
    category: Category = "application",
    skip: Sequence[str] = (),
    details_max: int | None = None,
) -> Failure:
    """Turn an exception into data.

    Frames of files in `skip` (path endings) are left out of the traceback text. Details with more
    than `details_max` bytes are left out, and the message says so. An exception whose own code
    fails when it is asked is a failure, too: without one, nothing would ever hear of its end.
    """
    try:
        return _Writer(skip, details_max).write(error, category)
    except Exception as bad:  # properties of a user's class may raise anything
        text = f"(it cannot be described: {type(bad).__name__}: {_text_of(bad)})"
        return Failure(clean_text(type(error).__name__), text, category)


def user_place(traceback: str) -> str:
    """The innermost frame of the user's code in a formatted traceback, as ` (at FILE:LINE in F)`.

    It says more than a frame of a library. An installed program has only frames that look like
    those of libraries: then it is the innermost one that is not Perdure's. Empty: there is none.
    """
    frames: list[tuple[str, str, str]] = re.findall(
        r'File "(.+?)", line (\d+), in (\S+)', traceback
    )
    others = [frame for frame in frames if not frame[0].startswith(_PERDURE)]
    users = [frame for frame in others if is_users(frame[0])]
    for file, line, name in (users or others)[-1:]:
        return f" (at {_short(file)}:{line} in {name})"
    return ""


def without_own_frames(traceback: str) -> str:
    """A formatted traceback without the frames of Perdure and of asyncio, which say nothing."""
    asyncio = str(Path(_PYTHON, "asyncio"))
    kept = True
    lines: list[str] = []
    for line in traceback.splitlines():
        frame = re.match(r'\s*File "(.+?)", line \d+', line)
        if frame is not None:
            kept = not frame[1].startswith((_PERDURE, asyncio))
        if kept:
            lines.append(line)
    return "\n".join(lines)


def _short(file: str) -> str:
    """The path from the current folder, for a file in it."""
    try:
        here = f"{Path.cwd()}{os.sep}"
    except OSError:  # the folder was removed
        return file
    return file.removeprefix(here)


def is_users(file: str) -> bool:
    """Whether a file belongs to the user: not to Perdure, to Python or to an installed library."""
    if file.startswith((_PERDURE, _PYTHON, "<frozen ")):
        return False
    return "site-packages" not in file and "dist-packages" not in file


def _text_of(error: BaseException) -> str:
    """The message of an exception, also of one that has none to give."""
    try:
        return clean_text(str(error))
    except BaseException as bad:  # the user's __str__ may raise anything
        return f"(its text cannot be had: {type(bad).__name__})"


class _Writer:
    """Turns one exception and the exceptions of its groups into data of limited size."""

    def __init__(self, skip: Sequence[str], details_max: int | None) -> None:
        self._skip = skip
        self._details_max = details_max
        self._parts_left = _PARTS_MAX
        self._bytes_left = _PARTS_BYTES

    def write(self, error: BaseException, category: Category) -> Failure:
        """The failure of an exception."""
        if isinstance(error, Failed) and not error.__cause__:
            return self._passed_on(error)
        message = _text_of(error)
        name = clean_text(type(error).__name__)
        details = None
        if isinstance(error, ApplicationError):
            name = clean_text(str(error.type or name))
            details, message = _details_of(error, message, self._details_max)
        elif isinstance(error, UsageError) and category == "application":
            category = "configuration"
        retryable = _is_retryable(error)
        parts, left_out = self._parts(error)
        if left_out:
            message = f"{message} ({left_out} of them left out)"
        traceback = self._traceback(error)
        return Failure(
            name,
            message,
            category,
            retryable,
            traceback,
            _causes(error),
            details,
            parts,
            _retry_after_ms(error),
        )

    def _passed_on(self, error: Failed) -> Failure:
        """The failure of an error that only wraps another failure, which becomes its first cause.

        The traceback stays with the original: it is where the error happened.
        """
        own = error.failure
        causes = ((own.type, own.message), *own.causes)[:_CAUSES_MAX]
        kind = type(error).__name__
        parts = self._taken_over(own.parts)
        return Failure(kind, str(error), own.category, own.retryable, "", causes, None, parts)

    def _traceback(self, error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        skip = tuple(self._skip)
        own = [frame for frame in frames if not frame.filename.endswith(skip)]
        # The innermost frames are the last ones, and say most.
        return clean_text("".join(traceback.format_list(own[-_TRACEBACK_FRAMES:])))

    def _parts(self, error: BaseException) -> tuple[tuple[Failure, ...], int]:
        """The failures in a group, and how many had no room."""
        inner = _inside(error)
        parts: list[Failure] = []
        for one in inner:
            if self._parts_left <= 0:
                break
            self._parts_left -= 1
            part = self.write(one, "application")
            # A traceback that does not fit is given up before the part itself is.
            if _size(part) > self._bytes_left:
                short = part.message[:SHORT]
                part = Failure(part.type, short, part.category, part.retryable, parts=part.parts)
            if _size(part) > self._bytes_left:
                break
            self._bytes_left -= _size(part)
            parts.append(part)
        return tuple(parts), len(inner) - len(parts)

    def _taken_over(self, parts: tuple[Failure, ...]) -> tuple[Failure, ...]:
        """The parts of a failure that is data already, if there is room for all of them."""
        every = list(_all_in(parts))
        size = sum(map(_size, every))
        if len(every) > self._parts_left or size > self._bytes_left:
            return ()
        self._parts_left -= len(every)
        self._bytes_left -= size
        return parts


def _size(failure: Failure) -> int:
    """Roughly how many bytes a failure has, without its parts."""
    size = len(failure.message) + len(failure.traceback)
    if failure.details is not None:
        size += len(failure.details)
    for kind, message in failure.causes:
        size += len(kind) + len(message)
    return size


def _all_in(parts: tuple[Failure, ...]) -> Iterator[Failure]:
    """The parts, and the parts of each."""
    for part in parts:
        yield part
        yield from _all_in(part.parts)


def _details_of(
    error: ApplicationError, message: str, limit: int | None
) -> tuple[bytes | None, str]:
    """The details, encoded, and the message.

    Details that are no data, or too large, are left out, and the message says so: the failure
    itself must reach the journal.
    """
    if error.details is None:
        return None, message
    try:
        details = encode(error.details)
    except PayloadError as unfit:
        return None, clean_text(f"{message} (its details cannot travel: {unfit})")
    if limit is None or len(details) <= limit:
        return details, message
    return None, (
        f"{message} (its details are left out: they have {len(details)} bytes, and the limit is "
        f"{limit} (Limits.payload_bytes); store them elsewhere and give a reference)"
    )


def _inside(error: BaseException) -> Sequence[BaseException]:
    """The exceptions of a group. An exception that is no group has none."""
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def each_in(error: BaseException) -> Iterator[BaseException]:
    """The error itself and, if it is a group, all that it holds at any depth."""
    # A stack instead of recursion: groups may be nested more deeply than Python can recurse.
    errors = [error]
    while errors:
        one = errors.pop()
        errors.extend(_inside(one))
        yield one


def _is_retryable(error: BaseException) -> bool:
    """Whether trying again could help. It cannot if one error of a group is final."""
    for one in each_in(error):
        if isinstance(one, UsageError):  # the same call is wrong the next time, too
            return False
        if isinstance(one, ApplicationError) and not one.retryable:
            return False
    return True


def _retry_after_ms(error: BaseException) -> int | None:
    """The delay that the error asks for. In a group it is the longest: all of it is done again."""
    longest_ms: int | None = None
    for one in each_in(error):
        if isinstance(one, RetryAfter) and one.retry_after_ms is not None:
            longest_ms = max(longest_ms or 0, one.retry_after_ms)
    return longest_ms


def _causes(error: BaseException) -> tuple[tuple[str, str], ...]:
    """The chain of causes, nearest first. The text of a group names its first exceptions."""
    causes: list[tuple[str, str]] = []
    cause = error.__cause__
    # As in Python's own tracebacks: `raise ... from None` hides the context.
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    while cause is not None and len(causes) < _CAUSES_MAX:
        text = _text_of(cause)
        inner = [f"{type(one).__name__}: {_text_of(one)}" for one in _inside(cause)]
        if inner:
            text = f"{text} [{in_short(inner)}]"
        causes.append((type(cause).__name__, text))
        cause = cause.__cause__
    return tuple(causes)
