"""Records of members, as tables of clusters keep them."""

from __future__ import annotations

import logging

import msgspec

from perdure.ports.cluster import Load, Member
from perdure.ports.store import Incarnation

logger = logging.getLogger("perdure.cluster")

UNREADABLE_LEASE_MS = 30_000
"""The lease of a member whose record cannot be read. It is longer than most."""

encode = msgspec.json.encode
# A record of a later release may have more fields, which are left out.
_decode = msgspec.json.Decoder(Member).decode


_decode_load = msgspec.json.Decoder(Load).decode


def load_of(record: object) -> Load | None:
    """A load from its column. None: it is not there, or it cannot be read, and nothing needs it."""
    if not isinstance(record, bytes | str):
        return None
    try:
        return _decode_load(record)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class Records:
    """Reads the records of a cluster. People are told once of each that cannot be read."""

    def __init__(self, place: str) -> None:
        """`place` names the cluster in logs."""
        self._place = place
        self._unreadable: set[str] = set()

    def read(self, node: str, id_: str, record: object) -> Member:
        """A member from its row.

        A record that cannot be read must neither keep the others apart, nor hold its name for ever.
        So its member is there without a share of the scopes, and is removed when its beat stands
        still. A later release may have written it.
        """
        incarnation = Incarnation(node, id_)
        try:
            # A table of SQLite takes any type of value.
            if not isinstance(record, bytes | str):
                msg = f"it is of type {type(record).__name__}"
                raise ValueError(msg)
            member = _decode(record)
            if member.incarnation != incarnation:
                msg = f"it is that of {member.incarnation.id}"
                raise ValueError(msg)
        # What is not UTF-8 is a ValueError, and a deeply nested value a RecursionError.
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._note(id_, error)
            return Member(
                incarnation=incarnation, lease_ms=UNREADABLE_LEASE_MS, weight=0, groups=()
            )
        return member

    def _note(self, id_: str, error: Exception) -> None:
        if id_ not in self._unreadable:
            text = "the record of member %s in %s cannot be read, so it gets no scopes: %s"
            logger.warning(text, id_, self._place, error)
        self._unreadable.add(id_)
