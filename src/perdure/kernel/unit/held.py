"""The reasons for which a unit is held: its code cannot go on until people change something.

A unit that is held is `suspended` in its row, with the reason and the failure that is made here. It
is tried again after a deploy, or when a retry asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Failure
from perdure.kernel.data import message as msg
from perdure.kernel.execution import match

if TYPE_CHECKING:
    from perdure.kernel.loop.loop import WorkflowLoop

POISONED = "Poisoned"
NOT_REGISTERED = "NotRegistered"
UNDECODABLE = "UndecodableJournal"
STUCK = "Stuck"

REASONS = {
    NOT_REGISTERED: "not_registered",
    UNDECODABLE: "undecodable",
    match.NONDETERMINISM: "nondeterminism",
    STUCK: "stuck",
    POISONED: "poison",
}
"""The row's `reason` for each type of failure. People filter lists by it."""

# All but poison: other code may end these, and a node that crashes at its start helps no one.
AFTER_DEPLOY = ("not_registered", "undecodable", "nondeterminism", "stuck")
"""Reasons that other code may end. Units with them are tried again when a node starts."""

_RESTORE = (
    "It may come from a newer release: run that one, or restore the store from a backup. "
    "Then retry the instance, or terminate it."
)
_REGISTER = (
    "is not registered with this node's app. Register it, or deploy the code that has it, or "
    "`app.include(...)` the app that it belongs to: the instance then goes on by itself."
)


def missing_workflow(name: str, version: str | None) -> Failure:
    """This node's app does not have the workflow."""
    wanted = f"workflow {name!r}"
    if version:
        wanted += f" version {version}"
    return _held(NOT_REGISTERED, f"{wanted} {_REGISTER}")


def unknown_kind(unit: str, kind: str) -> Failure:
    """This node knows no units of this kind."""
    return _held(
        NOT_REGISTERED,
        f"{unit!r} is a unit of the kind {kind!r}, which this release does not know. A newer one "
        "has made it: run that one, and it goes on by itself.",
    )


def missing_activity(name: str) -> Failure:
    """This node's app does not have the activity."""
    return _held(NOT_REGISTERED, f"activity {name!r} {_REGISTER}")


def undecodable(unit: str, why: str) -> Failure:
    """The journal cannot be read."""
    return _held(UNDECODABLE, f"the journal of {unit!r} cannot be read: {why}. {_RESTORE}")


def unreadable(unit: str, message: msg.Message) -> Failure:
    """A message that waits for the unit cannot be read."""
    assert isinstance(message.body, msg.Unreadable)
    return _held(
        UNDECODABLE,
        f"message {message.id.hex()} in the inbox of {unit!r} cannot be read: {message.body.why}. "
        + _RESTORE,
    )


def stuck(unit: str, loop: WorkflowLoop) -> Failure:
    """The code waits, and nothing is pending that could end the wait."""
    where = "an unknown line"
    # The main task comes first, and the others wait for it or it for them.
    for line in match.waiting_lines(loop)[:1]:
        where = line
    return _held(
        STUCK,
        f"{unit!r} waits at {where} for something that nothing can bring: "
        "no activity, timer, message or child is pending. Mend the code and deploy it, or cancel "
        "the instance.",
    )


def _held(kind: str, message: str) -> Failure:
    return Failure(kind, message, "configuration", retryable=False)
