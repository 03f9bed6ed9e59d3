"""Failures as SQL stores keep them: encoded, in a column of bytes."""

from __future__ import annotations

import msgspec

from perdure.errors import Failure

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
