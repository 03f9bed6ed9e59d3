"""Places in lists of messages, where transactions run side by side.

A message can become visible behind another one that has a higher position, because its transaction
began earlier and ended later. So a place is not a position. It is a *snapshot* of PostgreSQL, which
says of each transaction whether it had ended: all that a snapshot shows was read. A reader goes on
with the messages that it does not show.

A list that is read in parts has a position as well. It counts until the list ends. Then the
snapshot of its first part takes the place of the older one, and messages that came meanwhile with a
lower position are read in the next list.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from perdure.errors import UsageError
from perdure.store.page import key_of, place_of

_SNAPSHOT = re.compile(r"\d+:\d+:[\d,]*")


class Cursor(NamedTuple):
    """How far messages were read.

    `seen` is the snapshot whose messages were read (empty: none). `position` is that of the last
    message in the list that is being read (0: none is), and `began` the snapshot of its first part.
    """

    seen: str = ""
    position: int = 0
    began: str = ""

    @property
    def text(self) -> str:
        """The place, as the port gives it to callers."""
        return place_of(self)

    def ended(self, snapshot: str) -> Cursor:
        """The list has ended in a part that was read in this snapshot."""
        return Cursor(self.began or snapshot)

    def at(self, position: int, snapshot: str) -> Cursor:
        """The list goes on behind a position."""
        return Cursor(self.seen, position, self.began or snapshot)


def cursor_of(place: str | None) -> Cursor:
    """The cursor that a place stands for.

    Raises:
        UsageError: it is none.
    """
    key = key_of(place, tuple[str, int, str])
    if key is None:
        return Cursor()
    for snapshot in (key[0], key[2]):
        if snapshot and _SNAPSHOT.fullmatch(snapshot) is None:
            msg = f"{place!r} is no place in this list; pass one that this store has given"
            raise UsageError(msg)
    return Cursor(*key)
