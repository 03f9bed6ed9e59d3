"""Sending to an instance: keys of messages, and the errors of what was not sent."""

from __future__ import annotations

from hashlib import blake2b

from perdure.errors import InboxFull, NotFound, NotRunning, PayloadTooLarge, UsageError
from perdure.kernel.data.definition import check_text
from perdure.kernel.data.limits import Limits
from perdure.kernel.unit.turn import Outcome


def check_sent(id: str, outcome: Outcome) -> None:
    """Raise why a message was not sent, if it was not.

    Raises:
        NotFound, NotRunning, InboxFull: nothing was sent.
    """
    if outcome == "missing":
        msg_ = f"no instance has the id {id!r}; check the id, or start it first"
        raise NotFound(msg_)
    if outcome == "closed":
        msg_ = f"{id!r} has ended; nothing was sent to it"
        raise NotRunning(msg_)
    if outcome == "full":
        raise InboxFull(inbox_full(id))


def check_key(key: object) -> str:
    """Return the key of a message, if it is one.

    Raises:
        UsageError: it is empty, or no text.
    """
    text = check_text(key, "a key of a message")
    if not text:
        # An empty text is a value that the caller failed to find, and would drop every message.
        msg_ = "the key of a message is empty; give the id of the event, or no key"
        raise UsageError(msg_)
    return text


def keyed_id(unit: str, channel: str, key: str) -> bytes:
    """The id of a message with a key. It is the same in every client."""
    digest = blake2b(digest_size=16, person=b"message key")
    for part in (unit, channel, key):
        # With its length, so that no two triples have the same bytes.
        data = part.encode()
        digest.update(len(data).to_bytes(8) + data)
    return digest.digest()


def inbox_full(id: str) -> str:
    """The text of the error that nothing more may wait for an instance."""
    return (
        f"the inbox of {id!r} is full: nobody received the messages that wait in it, "
        "and no more may (limit inbox_messages); try again later"
    )


def too_large(limits: Limits, data: bytes, what: str) -> PayloadTooLarge:
    """The error that a payload is too large to be sent."""
    # Refused here, because a posted message is accepted before any node sees it.
    return PayloadTooLarge(
        f"{what} has {len(data)} bytes; the limit is {limits.payload_bytes} "
        "(Limits.payload_bytes): store it elsewhere and send a reference"
    )
