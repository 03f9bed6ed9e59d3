"""Failures as SQL stores keep them, in a column of bytes, and errors of batches."""

from __future__ import annotations

from typing import Literal

import msgspec

from perdure.errors import Failure, StoreMoved, StoreUnavailable

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Failure).decode


def failure_bytes(failure: Failure | None) -> bytes | None:
    """A failure as it is stored."""
    if failure is None:
        return None
    return _encode(failure)


def failure_of(data: bytes | None) -> Failure | None:
    """A stored failure."""
    if data is None:
        return None
    # A damaged failure must not keep the rows beside it from being read.
    try:
        return _decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        return Failure(
            "Unreadable",
            f"the stored failure cannot be read: {error}",
            "infrastructure",
            retryable=False,
        )


def again(error: StoreUnavailable, outcome: Literal["none", "unknown"]) -> StoreUnavailable:
    """The error of a batch for one of its callers, with the outcome of what that one asked for."""
    if isinstance(error, StoreMoved):
        return StoreMoved(str(error), outcome, error.moved_to)
    return StoreUnavailable(str(error), outcome, permanent=error.is_permanent)
