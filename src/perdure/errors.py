"""What can go wrong, and whose fault it is.

    PerdureError
    ├── UsageError                the caller's: wrong arguments, wrong place, wrong order; nothing was recorded
    │   ├── DefinitionError         a workflow or activity is declared in a way that cannot work (duplicate name, bad
    signature)
    │   ├── PayloadError            a value that cannot be encoded or decoded, or is too large
    │   │   ├── EncodeError
    │   │   ├── DecodeError
    │   │   └── PayloadTooLarge
    │   ├── InvalidId               an id that is empty, too long, or holds reserved characters
    │   ├── WorkflowViolation       a workflow did I/O, started a thread, slept, or used a foreign event loop
    │   └── LimitExceeded           a declared limit (history, KV, status, inbox) would be crossed
    ├── NotFound                  no instance has this id
    ├── AlreadyStarted            an instance with this id exists and is not the one that was asked for
    ├── NotRunning                the instance has ended, so the request has no effect
    ├── StillRunning              the instance (or a child of it) has not ended, so it is not deleted
    ├── HasParent                 the instance belongs to another one, and goes with it
    ├── InboxFull                 the instance has too many unconsumed messages
    ├── Timeout                   a wait of the client reached its limit; the work goes on
    ├── WorkflowFailed            the instance ended without a result; `.failure` says why
    │   ├── WorkflowCancelled
    │   └── WorkflowTerminated
    ├── SetAside                  the instance waits for a deploy or for `retry`; `.failure` says why
    ├── ActivityError             inside a workflow: an activity failed for good; `.failure` says why
    │   └── ActivityTimeout
    ├── ChildError                inside a workflow: a child ended without a result
    ├── ApplicationError          raise it yourself to say: this is final (`retryable=False`), or carry details
    └── StoreError                the store's
        ├── StoreUnavailable        an operation failed; `.outcome` says whether it may have happened
        ├── StoreLocked             another process owns the store
        └── StoreFormat             not a Perdure store, a corrupt one, or one of another version

Every message says what happened, to which id, and what to do about it.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

Category = Literal["application", "configuration", "infrastructure", "poison", "cancelled"]


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False, omit_defaults=True):
    """A failure as data: what is journaled, shown and sent over the wire instead of an exception object.

    `type` is the exception's class name, `traceback` the formatted frames (empty where there is no code to show),
    `causes` the chain of `__cause__`, nearest first. `details` is an encoded payload given by `ApplicationError`.
    """

    type: str
    message: str
    category: Category = "application"
    retryable: bool = True
    traceback: str = ""
    causes: tuple[tuple[str, str], ...] = ()
    details: bytes | None = None

    def display(self) -> str:
        """One line for people: the category where it is not the application's, the type and the message."""
        prefix = "" if self.category == "application" else f"{self.category}: "
        return f"{prefix}{self.type}: {self.message}" if self.message else f"{prefix}{self.type}"


class PerdureError(Exception):
    """The root of every error that Perdure raises on purpose."""


class UsageError(PerdureError):
    """The call itself is wrong. Nothing was recorded; correct the call."""


class DefinitionError(UsageError):
    """A workflow or an activity is declared in a way that cannot work; the message names it and the remedy."""


class PayloadError(UsageError, ValueError):
    """A value cannot travel: the message names the field and the remedy."""


class EncodeError(PayloadError):
    """A value has a part that is not data; the message gives its path."""


class DecodeError(PayloadError):
    """Stored or received data does not fit the declared type; the message gives the path."""


class PayloadTooLarge(PayloadError):
    """A payload exceeds `Limits.payload_bytes`; store it elsewhere and pass a reference, or raise the limit."""


class InvalidId(UsageError, ValueError):
    """An id is empty, longer than 512 bytes, or holds a control character or a reserved separator."""


class WorkflowViolation(UsageError, RuntimeError):
    """Workflow code did something that replay cannot repeat; the message names the line and what to do instead."""


class LimitExceeded(UsageError):
    """A limit of the instance would be crossed; the message names the limit, its value and the option that sets it."""


class NotFound(PerdureError, LookupError):
    """No instance has this id: check the id and the store."""


class AlreadyStarted(PerdureError):
    """The id is taken by an instance of another type or input, or `if_exists="reject"` was asked for."""


class NotRunning(PerdureError):
    """The instance has already ended; nothing was sent to it."""


class StillRunning(PerdureError):
    """An instance that has not ended is deleted only with `force=True`; or cancel it, and wait for its end."""


class HasParent(PerdureError):
    """A child is deleted with its parent, not alone: delete the root of its tree, or use `force=True`."""


class InboxFull(PerdureError):
    """The instance has as many unconsumed messages as `Limits.inbox_messages` allows; try again later."""


class Timeout(PerdureError, TimeoutError):
    """A wait reached its limit. The work itself goes on; wait again or cancel it."""


class Failed(PerdureError):
    """An outcome that is a failure; `.failure` holds it as data."""

    def __init__(self, message: str, failure: Failure) -> None:
        """Keep the failure beside its readable form."""
        super().__init__(message)
        self.failure = failure

    @property
    def retryable(self) -> bool:
        """Whether trying the same again could help."""
        return self.failure.retryable


class WorkflowFailed(Failed):
    """The workflow ended in an error; `.failure` has its type, message and traceback."""


class WorkflowCancelled(WorkflowFailed):
    """The workflow was cancelled and did not return a result."""


class WorkflowTerminated(WorkflowFailed):
    """The workflow was terminated: its code was not asked."""


class SetAside(Failed):
    """The instance waits for people: a deploy that fits its history, a missing definition, or `retry`."""


class ActivityError(Failed):
    """An activity failed for good: its attempts are used up or the error is not retryable."""


class ActivityTimeout(ActivityError, TimeoutError):
    """An activity ran out of one of its timeouts; the message says which."""


class ChildError(Failed):
    """A child workflow ended without a result."""


class ApplicationError(PerdureError):
    """Raise it in an activity or a workflow to fail with a type name of your own choice.

    `retryable=False` ends the retries of an activity at once. `details` must be encodable data.
    """

    def __init__(
        self, message: str, *, type: str | None = None, retryable: bool = True, details: object = None
    ) -> None:
        """Describe the failure; `type` defaults to the class name."""
        super().__init__(message)
        self.type = type or self.__class__.__name__
        self.retryable = retryable
        self.details = details


class StoreError(PerdureError):
    """The store refused or failed; the message names the file or server and the remedy."""


class StoreUnavailable(StoreError):
    """The store did not answer. `outcome` is "none" (nothing happened) or "unknown" (it may have happened)."""

    def __init__(self, message: str, outcome: Literal["none", "unknown"] = "none") -> None:
        """Say what failed and what is known of the outcome."""
        super().__init__(message)
        self.outcome: Literal["none", "unknown"] = outcome


class StoreLocked(StoreError):
    """Another process owns this store; the message names it."""


class StoreFormat(StoreError):
    """The file is no Perdure store, is damaged, or was written by another version."""


_TRACEBACK_FRAMES = 30
_TEXT_MAX = 16_000


def clean_text(text: str) -> str:
    """Text that can be stored: lone surrogates are escaped, and what is very long is cut, for it is journaled with
    every failure.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}... ({len(text) - _TEXT_MAX} more characters)"


def _text_of(error: BaseException) -> str:
    """The message of an exception, also of one that has none to give."""
    try:
        return clean_text(str(error))
    except Exception as bad:  # the user's __str__ may raise anything
        return f"(its text cannot be had: {type(bad).__name__})"


def failure_of(error: BaseException, *, category: Category = "application", skip: Sequence[str] = ()) -> Failure:
    """Turn an exception into data. Frames of files in `skip` (path endings) are left out of the traceback text."""
    if isinstance(error, Failed) and not error.__cause__:
        own = error.failure
        return Failure(type(error).__name__, str(error), own.category, own.retryable, "", ((own.type, own.message),))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not any(f.filename.endswith(s) for s in skip)]
    text = "".join(traceback.format_list(frames[-_TRACEBACK_FRAMES:]))
    causes: list[tuple[str, str]] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and len(causes) < 10:
        causes.append((type(cause).__name__, _text_of(cause)))
        cause = cause.__cause__
    message = _text_of(error)
    name, retryable, details = clean_text(type(error).__name__), True, None
    if isinstance(error, ApplicationError):
        name, retryable = clean_text(error.type), error.retryable
        if error.details is not None:
            from perdure.codec import encode  # a cycle otherwise: codec raises our errors

            try:
                details = encode(error.details)
            except PayloadError as unfit:
                message = clean_text(f"{message} (its details cannot travel: {unfit})")
    elif isinstance(error, UsageError):
        retryable, category = False, "configuration" if category == "application" else category
    return Failure(name, message, category, retryable, clean_text(text), tuple(causes), details)
