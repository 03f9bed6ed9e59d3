"""Retry policies: whether another attempt of an activity follows, and when.

A policy is plain data, so that a retry can be decided again after a restart from the journal alone.
The attempt ends in the node, and asks `is_final` about its exception there. The kernel decides with
`wants` and `delay_ms` when the result comes (`kernel/execution/answers.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, cast

from perdure.codec.failure import each_in
from perdure.errors import ApplicationError, DefinitionError, Failure

Seconds = float | timedelta

WORKER_LOST = "WorkerLost"
"""The type of the failure of an attempt whose worker has not renewed its lease."""

WORKERS_LOST_MAX = 3
"""So many workers in a row may be lost with an activity before that counts as its failure."""
"""A duration: a number of seconds, or a timedelta."""

# Ten years, leap years or not.
_DELAY_MAX_S = 10 * 366 * 86_400.0


def to_ms(duration: Seconds, what: str) -> int:
    """A duration in whole milliseconds, rounded up.

    Raises:
        DefinitionError: it is negative, not finite or not a duration. `what` names it.
    """
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    else:
        seconds = duration
    # By exact types: a bool is an int.
    if type(seconds) not in (int, float):
        msg = f"{what} must be seconds (a number) or a timedelta, got {duration!r}"
        raise DefinitionError(msg)
    if not 0 <= seconds <= _DELAY_MAX_S:
        msg = f"{what} must be between 0 and ten years, got {duration!r}"
        raise DefinitionError(msg)
    # Rounded up: a delay that is not 0 must not become 0.
    return -int(-seconds * 1000 // 1)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed activity is tried again, and after which delay.

    `maximum_attempts` counts the first one. None means no limit.

    The delay before attempt n+1 depends on `backoff`. It is the initial interval with `"fixed"`, n
    times that with `"linear"`, and that times `coefficient` to the power n-1 with `"exponential"`.
    It is never more than `maximum_interval`.

    An exception is final if its class, or a base of it, is in `non_retryable`, as a class or by its
    name. So is a group that holds one of them: the next attempt would meet it again.
    """

    maximum_attempts: int | None = 3
    initial_interval: Seconds = 0.1
    backoff: Literal["fixed", "linear", "exponential"] = "exponential"
    coefficient: float = 2.0
    maximum_interval: Seconds = 30.0
    non_retryable: tuple[type[BaseException] | str, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers once, where the policy is written.

        Raises:
            DefinitionError: naming the number and the rule.
        """
        if self.maximum_attempts is not None and not _is_count(self.maximum_attempts):
            msg = (
                "RetryPolicy.maximum_attempts must be a whole number of at least 1 "
                f"(None: no limit), got {self.maximum_attempts!r}"
            )
            raise DefinitionError(msg)
        if self.backoff not in ("fixed", "linear", "exponential"):
            msg = (
                "RetryPolicy.backoff must be 'fixed', 'linear' or 'exponential', "
                f"got {self.backoff!r}"
            )
            raise DefinitionError(msg)
        if type(self.coefficient) not in (int, float) or not 1.0 <= self.coefficient <= 1e6:
            msg = (
                "RetryPolicy.coefficient must be a number between 1 and 1,000,000, "
                f"got {self.coefficient!r}"
            )
            raise DefinitionError(msg)
        if not _are_exceptions(self.non_retryable):
            msg = (
                "RetryPolicy.non_retryable must be a tuple of exception classes or their names,"
                f" got {self.non_retryable!r}"
            )
            raise DefinitionError(msg)
        to_ms(self.initial_interval, "RetryPolicy.initial_interval")
        to_ms(self.maximum_interval, "RetryPolicy.maximum_interval")

    def is_final(self, error: BaseException) -> bool:
        """Whether the exception, or one in its group, is excluded from retries.

        It is if its class or a base of it is listed, as a class or by name. It is, too, if the type
        of an `ApplicationError` is listed by name.
        """
        return any(self._lists(part) for part in each_in(error))

    def _lists(self, error: BaseException) -> bool:
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, ApplicationError):
            names.add(error.type)
        for kind in self.non_retryable:
            if isinstance(kind, str):
                if kind in names:
                    return True
            elif isinstance(error, kind):
                return True
        return False

    def wants(self, failure: Failure, attempt: int) -> bool:
        """Whether another attempt follows after attempt number `attempt` failed like this."""
        if not failure.retryable:
            return False
        if self.maximum_attempts is not None and attempt >= self.maximum_attempts:
            return False
        return failure.type not in self.names

    @property
    def names(self) -> tuple[str, ...]:
        """`non_retryable` by name."""
        names: list[str] = []
        for kind in self.non_retryable:
            if isinstance(kind, str):
                names.append(kind)
            else:
                names.append(kind.__name__)
        return tuple(names)

    def delay_ms(self, attempt: int) -> int:
        """The delay after failed attempt number `attempt` (from 1), in milliseconds."""
        first = to_ms(self.initial_interval, "RetryPolicy.initial_interval")
        limit = to_ms(self.maximum_interval, "RetryPolicy.maximum_interval")
        if self.backoff == "fixed":
            return min(first, limit)
        if self.backoff == "linear":
            return min(first * attempt, limit)
        if first == 0:
            return 0
        # Step by step, as a power of a large number would overflow.
        factor = 1.0
        for _ in range(attempt - 1):
            factor *= self.coefficient
            if first * factor >= limit:
                return limit
        return min(int(first * factor), limit)

    def to_data(self) -> dict[str, object]:
        """All of it as plain data, with intervals in seconds and exception classes by name."""
        return {
            **asdict(self),
            "initial_interval": to_ms(self.initial_interval, "RetryPolicy.initial_interval") / 1000,
            "maximum_interval": to_ms(self.maximum_interval, "RetryPolicy.maximum_interval") / 1000,
            "non_retryable": list(self.names),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> RetryPolicy:
        """The policy of which `to_data` made this data."""
        known: dict[str, Any] = {**data, "non_retryable": tuple(data["non_retryable"])}
        return cls(**known)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _are_exceptions(kinds: object) -> bool:
    """Whether it is a tuple of exception classes and names."""
    if not isinstance(kinds, tuple):
        return False
    for kind in cast("tuple[object, ...]", kinds):
        if isinstance(kind, type):
            if not issubclass(kind, BaseException):
                return False
        elif not isinstance(kind, str):
            return False
    return True


# The default, because an activity that is not idempotent must not run twice without being asked.
ONCE = RetryPolicy(maximum_attempts=1)
"""No retry: the first failure goes to the workflow's code."""
