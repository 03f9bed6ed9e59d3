"""Definitions as the kernel sees them: a name, a function, its signature and its options.

`App` makes them of decorated functions (`app.py`). The kernel looks a workflow up when an execution
begins or comes into memory, and an activity when the code calls it. The rules for names and
versions are here, because messages from clients name definitions, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from perdure.errors import DefinitionError, UsageError
from perdure.kernel.data.placement import GROUP
from perdure.kernel.data.queue import DEFAULT_PRIORITY
from perdure.kernel.data.retry import ONCE, RetryPolicy

if TYPE_CHECKING:
    from perdure.codec import Signature

_NAME = re.compile(r"[\w.:-]+(/[\w.:-]+)*", re.UNICODE)
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}(\.\d{1,9})?)?")

DEFAULT_VERSION = "1.0.0"
RESERVED_PREFIX = "perdure:"


# ---------------------------------------------------------------- names and texts


def check_name(name: object, kind: str) -> str:
    """Return a definition's name if it can be one.

    Raises:
        DefinitionError: naming it and the rule.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 200:
        msg = (
            f"{name!r} cannot be the name of {kind}: use up to 200 letters, digits, "
            "'_', '.', ':', '-' and '/'"
        )
        raise DefinitionError(msg)
    return name


def check_label(name: object, kind: str) -> str:
    """Return a name for people to read if it can be one.

    Channels, timers, patches and checkpoints have such names.

    Raises:
        DefinitionError: naming it and the rule.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        msg = f"{name!r} cannot be the name of {kind}: use 1 to 200 printable characters"
        raise DefinitionError(msg)
    return name


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


def is_storable(text: str) -> bool:
    """Whether every store can hold the text."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair is no character, and UTF-8 has no bytes for it.
        return False
    # Databases written in C end a text at NUL, or refuse it.
    return b"\0" not in encoded


# ---------------------------------------------------------------- versions


def normal_version(version: str | int) -> str:
    """A version as `major.minor.patch`: 2 and "2" are "2.0.0".

    Raises:
        DefinitionError: if it is not one.
    """
    text = str(version)
    # By exact types: a bool is an int, and 1.10 as a float would be 1.1.
    if type(version) not in (str, int) or not _VERSION.fullmatch(text):
        msg = (
            f"{version!r} is not a version: use major.minor.patch, for example '1.2.0', "
            "or a whole number"
        )
        raise DefinitionError(msg)
    parts = [str(number) for number in version_key(text)]
    return ".".join(parts + ["0"] * (3 - len(parts)))


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version, by which versions are ordered."""
    return tuple(int(part) for part in version.split("."))


# ---------------------------------------------------------------- definitions


@dataclass(frozen=True, slots=True)
class ActivityOptions:
    """How an activity is run. All times are milliseconds. None means no limit.

    `timeout_ms` limits one attempt, `total_timeout_ms` all attempts and the delays between them,
    `start_timeout_ms` the wait for a free slot, and `heartbeat_timeout_ms` the silence between two
    heartbeats. `priority`, `key`, `tag` and `session` say how a shared queue treats the call.
    """

    retry: RetryPolicy = ONCE
    timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    start_timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    queue: str | None = None
    session: str | None = None
    priority: int = DEFAULT_PRIORITY
    key: str | None = None
    tag: str | None = None

    def to_data(self) -> dict[str, object]:
        """All of it as plain data. Exception classes become names."""
        return {**asdict(self), "retry": self.retry.to_data()}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> ActivityOptions:
        """The options of which `to_data` made this data."""
        known: dict[str, Any] = {**data, "retry": RetryPolicy.from_data(data["retry"])}
        return cls(**known)


# `eq=False`: two definitions are the same only if they are one object.
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
    # Only nodes that serve this group run instances of the workflow.
    group: str = GROUP


class Definitions(Protocol):
    """The definitions of an app, as the kernel looks them up."""

    def find_workflow(self, name: str, version: str | None) -> WorkflowDefinition | None:
        """The workflow of this name. With None for the version it is the one that new runs get."""
        ...

    def find_activity(self, name: str) -> ActivityDefinition | None:
        """The activity of this name."""
        ...

    def places_of_calls(self, workflow: WorkflowDefinition, name: str) -> Sequence[str]:
        """Where the code of a workflow calls this activity or workflow and awaits nothing.

        Each is "file:line". Places that drop the answer at once are given alone if there are any.
        """
        ...
