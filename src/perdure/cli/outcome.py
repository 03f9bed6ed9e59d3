"""Exit codes that scripts can rely on, and which error gives which."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

from perdure.errors import (
    AlreadyStarted,
    Failed,
    Failure,
    HasParent,
    InboxFull,
    NotFound,
    NotRunning,
    PerdureError,
    StillRunning,
    StoreError,
    Timeout,
    UsageError,
)
from perdure.kernel.commit import UnitRow


class Exit(IntEnum):
    """How a command ended. docs/cli.md says the same; the numbers never change."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    TIMEOUT = 4
    STORE = 5
    CONFLICT = 6
    SET_ASIDE = 7
    FINDINGS = 8
    INTERNAL = 70
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "the workflow failed, or was cancelled or terminated; "
    "a history does not fit the code",
    Exit.USAGE: "the command, its arguments, the JSON or the target is wrong; nothing was recorded",
    Exit.NOT_FOUND: "no instance (or execution) has this id",
    Exit.TIMEOUT: "it did not end in time; it goes on",
    Exit.STORE: "the store is missing, locked, damaged, of another version or not available",
    Exit.CONFLICT: "the instance is not in a state for this: the id is taken, it has (not) ended, "
    "its inbox is full",
    Exit.SET_ASIDE: "the instance was set aside (suspended) until a deploy or `retry`, "
    "or a part of it cannot be read",
    Exit.FINDINGS: "`lint` found something; each line says what and where",
    Exit.INTERNAL: "a defect of perdure; please report it with the output of --debug",
    Exit.INTERRUPTED: "interrupted; what was started goes on when a node runs",
}
"""What each code means, for `--help`."""

_CODES: tuple[tuple[type[PerdureError], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (Timeout, Exit.TIMEOUT),
    (StoreError, Exit.STORE),
    (AlreadyStarted, Exit.CONFLICT),
    (NotRunning, Exit.CONFLICT),
    (InboxFull, Exit.CONFLICT),
    (StillRunning, Exit.CONFLICT),
    (HasParent, Exit.CONFLICT),
    (Failed, Exit.FAILED),
)


def exit_of(error: PerdureError) -> Exit:
    """The exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.INTERNAL)


# ---------------------------------------------------------------- of an instance


def is_set_aside(row: UnitRow) -> bool:
    """Whether the instance waits for a deploy or for `retry`."""
    return row.status == "suspended" and row.reason != "paused"


def ended_text(row: UnitRow) -> str:
    """A sentence about an instance without a result: the event, its place, and the remedy."""
    failure = row.failure or Failure("Unknown", "")
    who = f"{row.type} {row.id!r}"
    if is_set_aside(row):
        return (
            f"{who} was set aside ({row.reason}): {failure.message} "
            f"(more: perdure explain {row.reason})"
        )
    if row.status == "cancelled":
        verb = "was cancelled"
        if failure.type == "Terminated":
            verb = "was terminated"
        return f"{who} {verb}" + (f": {failure.message}" if failure.message else "")
    place = next(
        (f" (at {file}:{line} in {name})" for file, line, name in _own_frames(failure.traceback)),
        "",
    )
    return f"{who} failed: {failure.display()}{place}"


def _own_frames(traceback: str) -> list[tuple[str, str, str]]:
    """File, line and function of the frames that are not ours, innermost first."""
    frames: list[tuple[str, str, str]] = re.findall(
        r'File "(.+?)", line (\d+), in (\S+)', traceback
    )
    package = str(Path(__file__).parent.parent)
    return [frame for frame in reversed(frames) if not frame[0].startswith(package)]
