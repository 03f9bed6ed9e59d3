"""The end of a wait for a run: a value, or the error that tells why there is none."""

from __future__ import annotations

from typing import TypeVar

from perdure.codec import TypeCodec, decode
from perdure.errors import (
    Failure,
    Suspended,
    Timeout,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from perdure.kernel.data.commit import UnitRow
from perdure.ports.store import ClientStore, Units

R = TypeVar("R")


def is_held(row: UnitRow) -> bool:
    """Whether the instance waits for a deploy or for `retry`, and not for `resume`."""
    return row.status == "suspended" and row.reason != "paused"


def check_not_held(row: UnitRow) -> None:
    """Raise the error of a wait that ended because the instance is held.

    Raises:
        Suspended: it is.
    """
    if not is_held(row):
        return
    failure = row.failure or Failure("Unknown", "", retryable=False)
    reason = row.reason or ""
    told = [failure.message]
    for _, cause in failure.causes:
        told.append(f"{cause}.")
    text = (
        f"{row.type} {row.id!r} is suspended ({reason}): {' '.join(told)} "
        f"More: `perdure explain {reason}`. `result(through_suspension=True)` waits on."
    )
    raise Suspended(text, reason, failure)


def value_of(row: UnitRow, codec: TypeCodec[R] | None) -> R:
    """The result of a run that has ended. Without a codec it is plain data.

    Raises:
        Suspended: it has not ended, and is held.
        WorkflowFailed, WorkflowCancelled, WorkflowTerminated: it ended without a result.
        DecodeError: the result is of another type.
    """
    check_not_held(row)
    if row.status == "completed":
        data = row.result or b""
        if codec is not None:
            return codec.decode(data)
        plain: R = decode(data)
        return plain
    # Each end without a result has a failure. Only a damaged row has none.
    failure = row.failure or Failure("Unknown", "", retryable=False)
    name = f"{row.type} {row.id!r}"
    if row.status != "cancelled":
        raise WorkflowFailed(f"{name} failed: {failure.display()}", failure)
    reason = ""
    if failure.message:
        reason = f": {failure.message}"
    # A terminated run is `cancelled` in its row. The type of the failure tells them apart.
    if failure.type == "Terminated":
        raise WorkflowTerminated(f"{name} was terminated{reason}", failure)
    raise WorkflowCancelled(f"{name} was cancelled{reason}", failure)


async def too_late(store: ClientStore, unit: str, limit_ms: int) -> Timeout:
    """The error of a wait that reached its limit. It tells the present state of the instance."""
    page = await store.query(Units(ids=(unit,), limit=1))
    state = "is not there yet"
    rest = "It goes on: wait again, or cancel it"
    if page.items:
        row = page.items[0].row
        rest = remedy_of(row)
        state = f"is {row.status}"
        if row.reason:
            state += f" ({row.reason})"
        if row.failure is not None:
            state += f": {row.failure.message.rstrip('.')}"
    return Timeout(f"{unit!r} has not ended within {limit_ms / 1000:g} s; it {state}. {rest}")


def remedy_of(row: UnitRow) -> str:
    """The advice to a caller whose wait was too short."""
    if is_held(row):
        return (
            f"It does not go on by itself: `perdure explain {row.reason}` says what to do. "
            "It can be cancelled, too"
        )
    if row.status == "suspended":
        return "It goes on after resume(): wait again then, or cancel it"
    return "It goes on: wait again, or cancel it"
