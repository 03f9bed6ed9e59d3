"""Definitions as the kernel sees them: a name, a function, its signature and its options."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from perdure.errors import DefinitionError, UsageError
from perdure.kernel.data.retry import ONCE, RetryPolicy

if TYPE_CHECKING:
    from perdure.codec import Signature

_NAME = re.compile(r"[\w.:-]+(/[\w.:-]+)*", re.UNICODE)
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}(\.\d{1,9})?)?")

DEFAULT_VERSION = "1.0.0"
RESERVED_PREFIX = "perdure:"


def check_name(name: object, kind: str) -> str:
    """Return a definition's name if it can be one.

    Raises:
        DefinitionError: naming it and the rule.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 200:
        msg = f"{name!r} cannot be the name of {kind}: use up to 200 letters, digits, '_', '.', ':', '-' and '/'"
        raise DefinitionError(msg)
    return name


def check_label(name: object, kind: str) -> str:
    """Return a name that people read (of a channel, a timer, a patch, a checkpoint) if it can be one.

    Raises:
        DefinitionError: naming it and the rule.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        msg = f"{name!r} cannot be the name of {kind}: use 1 to 200 printable characters"
        raise DefinitionError(msg)
    return name


def is_storable(text: str) -> bool:
    """Databases take no NUL, and nobody takes half of a surrogate pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def check_text(text: object, what: str) -> str:
    """Return a text that a store can hold, if it is one.

    Raises:
        UsageError: naming it.
    """
    if not isinstance(text, str):
        msg = f"{what} is a string, got {type(text).__name__}: {text!r}"
        raise UsageError(msg)
    if not is_storable(text):
        msg = f"{text[:40]!r} cannot be {what}: it holds a NUL or a lone surrogate; use valid text"
        raise UsageError(msg)
    return text


def normal_version(version: str | int) -> str:
    """A version as `major.minor.patch`: 2 and "2" are "2.0.0".

    Raises:
        DefinitionError: if it is not one.
    """
    text = str(version)
    if type(version) not in (str, int) or not _VERSION.fullmatch(text):
        msg = f"{version!r} is not a version: use major.minor.patch, for example '1.2.0', or a whole number"
        raise DefinitionError(msg)
    parts = [str(int(p)) for p in text.split(".")]
    return ".".join(parts + ["0"] * (3 - len(parts)))


def version_key(version: str) -> tuple[int, ...]:
    """What versions are ordered by."""
    return tuple(int(p) for p in version.split("."))


@dataclass(frozen=True, slots=True)
class ActivityOptions:
    """How an activity is run. All times are milliseconds; None means no limit.

    `timeout_ms` limits one attempt, `total_timeout_ms` all attempts and the delays between them, `start_timeout_ms`
    the wait for a free slot,
    `heartbeat_timeout_ms` the silence between two heartbeats.
    """

    retry: RetryPolicy = ONCE
    timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    start_timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    queue: str | None = None
    session: str | None = None

    def to_data(self) -> dict[str, object]:
        """All of it as plain data; exception classes become names."""
        return {**asdict(self), "retry": self.retry.to_data()}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> ActivityOptions:
        """What `to_data` gave."""
        known: dict[str, Any] = {**data, "retry": RetryPolicy.from_data(data["retry"])}
        return cls(**known)


@dataclass(slots=True, eq=False)
class ActivityDefinition:
    """An activity: a function with side effects."""

    name: str
    fn: Callable[..., Any]
    signature: Signature
    options: ActivityOptions = field(default_factory=ActivityOptions)
    is_async: bool = True
    executor: Literal["thread", "process"] = "thread"


@dataclass(slots=True, eq=False)
class WorkflowDefinition:
    """A workflow: a deterministic `async def`."""

    name: str
    version: str
    fn: Callable[..., Any]
    signature: Signature
    on_mismatch: Literal["suspend", "fail"] = "suspend"
    guard: Literal["error", "warn", "off"] = "error"


class Definitions(Protocol):
    """Where the kernel looks up what to run."""

    def find_workflow(self, name: str, version: str | None) -> WorkflowDefinition | None:
        """The workflow of this name: the exact version, or with None the one that new runs get."""
        ...

    def find_activity(self, name: str) -> ActivityDefinition | None:
        """The activity of this name."""
        ...
