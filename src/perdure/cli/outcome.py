"""Exit codes that scripts can rely on, and the errors that give them."""

from __future__ import annotations

from enum import IntEnum

from perdure.closing import is_held
from perdure.codec.failure import user_place
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
    Suspended,
    Timeout,
    UsageError,
)
from perdure.kernel.data.commit import UnitRow
from perdure.ports.transport import TransportError


class Exit(IntEnum):
    """The end of a command. docs/cli.md has the same list. The numbers never change."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    TIMEOUT = 4
    STORE = 5
    CONFLICT = 6
    SUSPENDED = 7
    FINDINGS = 8
    INTERNAL = 70
    OUTPUT = 74
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
    Exit.SUSPENDED: "the instance is suspended until a deploy or `retry`, "
    "or a part of it cannot be read",
    Exit.FINDINGS: "`lint` found something; each line says what and where",
    Exit.INTERNAL: "a defect of perdure; please report it with the output of --debug",
    Exit.OUTPUT: "the answer could not be written to stdout; what was asked for may have been done",
    Exit.INTERRUPTED: "interrupted; what was started goes on when a node runs",
}
"""The meaning of each code, for `--help`."""

# Remedies that the library names as arguments in Python, and the same as options of a command.
_OPTIONS = {"if_exists='": "--if-exists '", "force=True": "--force"}


def with_options(text: str) -> str:
    """The text of an error whose remedy is an argument in Python, as a command has it."""
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text


# Classes that derive from these are meant, too: a PayloadError is a UsageError.
_CODES: tuple[tuple[type[PerdureError], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (Timeout, Exit.TIMEOUT),
    (Suspended, Exit.SUSPENDED),
    (StoreError, Exit.STORE),
    # No node answers, or none takes this client.
    (TransportError, Exit.STORE),
    (AlreadyStarted, Exit.CONFLICT),
    (NotRunning, Exit.CONFLICT),
    (InboxFull, Exit.CONFLICT),
    (StillRunning, Exit.CONFLICT),
    (HasParent, Exit.CONFLICT),
    (Failed, Exit.FAILED),
)


def exit_of(error: PerdureError) -> Exit:
    """The exit code of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Exit.INTERNAL


# ---------------------------------------------------------------- of an instance


def ended_text(row: UnitRow) -> str:
    """A sentence about an instance without a result: the event, its place, and the remedy."""
    failure = row.failure or Failure("Unknown", "")
    name = f"{row.type} {row.id!r}"
    if is_held(row):
        return (
            f"{name} is suspended ({row.reason}): {failure.message} "
            f"(more: perdure explain {row.reason})"
        )
    if row.status == "cancelled":
        text = f"{name} was cancelled"
        # A terminated instance is `cancelled` in its row. The type of the failure tells.
        if failure.type == "Terminated":
            text = f"{name} was terminated"
        if failure.message:
            text += f": {failure.message}"
        return text
    return f"{name} failed: {failure.display()}{user_place(failure.traceback)}"
