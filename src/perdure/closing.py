"""The end of a run for its callers: a value, or the error that tells why there is none."""

from __future__ import annotations

from typing import TypeVar

from perdure.codec import TypeCodec, decode
from perdure.errors import (
    Failure,
    Timeout,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from perdure.kernel.data.commit import UnitRow
from perdure.ports.store import Store, Units

R = TypeVar("R")


def value_of(row: UnitRow, codec: TypeCodec[R] | None) -> R:
    """The result of a run that has ended. Without a codec it is plain data.

    Raises:
        WorkflowFailed, WorkflowCancelled, WorkflowTerminated: it ended without a result.
        DecodeError: the result is of another type.
    """
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


async def too_late(store: Store, unit: str, limit_ms: int) -> Timeout:
    """The error of a wait that reached its limit. It tells the present state of the instance."""
    page = await store.query(Units(ids=(unit,), limit=1))
    state = "is not there yet"
    if page.items:
        row = page.items[0].row
        state = f"is {row.status}"
        if row.reason:
            state += f" ({row.reason})"
        if row.failure is not None:
            state += f": {row.failure.message.rstrip('.')}"
    return Timeout(
        f"{unit!r} has not ended within {limit_ms / 1000:g} s; it {state}. "
        "It goes on: wait again, or cancel it"
    )
