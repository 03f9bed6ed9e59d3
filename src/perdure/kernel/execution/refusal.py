"""Refusals of commands, as events of the journal and as errors again.

A check may refuse a command of the code (`Execution.command`). The code can catch the error, so the
refusal decides what the code does next. It is recorded like an outcome, and replay raises it again,
whatever the limits and the declared types are by then.

A value that is no data needs no such event. It is refused before there is a command, by the value
alone, so the same code is refused again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from perdure import errors
from perdure.errors import PayloadTooLarge, UsageError, clean_text
from perdure.kernel.data import events as ev

if TYPE_CHECKING:
    from perdure.kernel.data.limits import Limits

_ERRORS: dict[str, type[UsageError]] = {
    kind.__name__: kind
    for kind in (
        errors.UsageError,
        errors.PayloadError,
        errors.EncodeError,
        errors.DecodeError,
        PayloadTooLarge,
        errors.LimitExceeded,
        errors.InvalidId,
    )
}
"""The errors that checks raise. Each is made from its message alone."""

_SUBJECTS = ("name", "workflow", "channel", "key", "target")
"""Fields that say what a command is about. The first that the command has counts."""


def refused(command: ev.Event, error: UsageError) -> ev.Refused:
    """The event for a command that was refused with this error."""
    # A class that is derived elsewhere is recorded as the nearest one that each release knows.
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
    # Cleaned, because the text may quote a value that a store cannot hold.
    return ev.Refused(tag_of(type(command)), subject(command), kind, clean_text(str(error)))


def is_about(refusal: ev.Refused, command: ev.Event) -> bool:
    """Whether it was this command that was refused."""
    return (refusal.command, refusal.subject) == (tag_of(type(command)), subject(command))


def error_of(refusal: ev.Refused) -> UsageError:
    """The error that the code got. A kind that this release does not know is a `UsageError`."""
    # All of them are, so code that catches that goes on as it did.
    return _ERRORS.get(refusal.error, UsageError)(refusal.message)


def subject(command: ev.Event) -> str:
    """The name or the key that a command is about. Empty if it has neither."""
    for field in _SUBJECTS:
        text = getattr(command, field, None)
        if isinstance(text, str):
            return clean_text(text)
    return ""


def grown(what: str, unit: str, turn_bytes: int, more: int, limits: Limits) -> int:
    """The bytes of a turn with those of one more payload.

    Raises:
        PayloadTooLarge: naming it, the limit and the option.
    """
    if more > limits.payload_bytes:
        raise large_payload(what, more, limits)
    if turn_bytes + more > limits.commit_bytes:
        raise large_turn(what, unit, turn_bytes + more, limits)
    return turn_bytes + more


def large_payload(what: str, size: int, limits: Limits) -> PayloadTooLarge:
    """The error for a payload of this size (bytes)."""
    return PayloadTooLarge(
        f"{what} has {size} bytes; the limit is {limits.payload_bytes} (Limits.payload_bytes): "
        "store it elsewhere and pass a reference"
    )


def large_turn(what: str, unit: str, size: int, limits: Limits) -> PayloadTooLarge:
    """The error for a payload with which a turn would write so many bytes."""
    return PayloadTooLarge(
        f"with {what} this turn of {unit!r} would write {size} bytes; the limit is "
        f"{limits.commit_bytes} (Limits.commit_bytes): await something in between, or pass "
        "references"
    )


def tag_of(kind: type[ev.Event]) -> int:
    """The number that stands for a kind of event in journals."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


def command_name(tag: int) -> str:
    """A kind of command in words of the journal, such as `KvSet`."""
    kinds: tuple[type[ev.Event], ...] = get_args(ev.AnyEvent)
    for kind in kinds:
        if tag_of(kind) == tag:
            return kind.__name__
    # A later release has written it.
    return f"command {tag}"
