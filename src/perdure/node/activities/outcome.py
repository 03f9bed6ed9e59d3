"""The outcome of a function of the app: its encoded result or its failure, within the limits.

The node and the processes of its pool use the same code, so that it makes no difference where a
function ran.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.codec.failure import failure_of
from perdure.errors import EncodeError, Failure, PayloadError, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.errors import Category
    from perdure.kernel.data.retry import RetryPolicy

_OWN_TRACE = (
    "perdure/node/activities/outcome.py",
    "perdure/node/activities/runner.py",
    "perdure/node/activities/threads.py",
    "perdure/node/activities/process.py",
    "perdure/interceptor.py",
    "asyncio/tasks.py",
)
"""Files whose frames say nothing about the failure of a user's function."""


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """A result or a failure. One of the two is None."""

    result: bytes | None
    failure: Failure | None = None


class EndedWith(Exception):
    """Carries a failure that is data already, because the function ran elsewhere."""

    def __init__(self, failure: Failure) -> None:
        """The attempt ends with this failure."""
        super().__init__(failure.display())
        self.failure = failure


def encoded(value: object, what: str, encode: Callable[[Any], bytes], limit: int) -> bytes:
    """The payload of a value that a function returned. `what` names it in errors.

    Raises:
        EncodeError: the value is no data.
        PayloadTooLarge: the payload has more than `limit` bytes.
    """
    if isinstance(value, CoroutineType):
        value.close()  # no other code can, and Python would complain of a forgotten `await`
        msg = (
            f"cannot encode {what}: the function returned a coroutine, which nobody awaited; "
            "await it there, or make the function `async def`"
        )
        raise EncodeError(msg)
    data = encode(value)
    if len(data) > limit:
        raise too_large(data, what, limit)
    return data


def too_large(data: bytes, what: str, limit: int) -> PayloadTooLarge:
    """The error for a result that is too large for the journal.

    It names the size, the limit and the remedy.
    """
    return PayloadTooLarge(
        f"the {what} has {len(data)} bytes; the limit is {limit} (Limits.payload_bytes): "
        "store it elsewhere and return a reference"
    )


def failure_from(error: BaseException, limit: int, retry: RetryPolicy | None) -> Failure:
    """An error that a function raised, as data. `retry` says which errors are final."""
    if isinstance(error, EndedWith):
        return error.failure
    category: Category = "application"
    if isinstance(error, PayloadError):
        category = "configuration"  # people have to change a type or a limit
    failure = failure_of(error, category=category, skip=_OWN_TRACE, details_max=limit)
    if retry is not None and retry.is_final(error):
        failure = msgspec.structs.replace(failure, retryable=False)
    return failure


def call_function(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a `def` on a thread or in a process.

    Two errors would do harm there. They are raised as others.
    """
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:  # it would end the coroutine that waits for it
        msg = "the activity raised StopIteration"
        raise RuntimeError(msg) from error
    except KeyboardInterrupt as error:  # not from the keyboard, which interrupts the main thread
        raise EndedWith(failure_from(error, 0, None)) from error
