"""Waits: which calls of a run wait for a message, and which of them the next message goes to.

Nearly every lane has one call that waits, so that one stands by itself, in a dictionary of texts and
numbers. The garbage collector need not look into that, and a waiting instance weighs less.
"""

from __future__ import annotations

from collections import deque

import msgspec


class Waits(msgspec.Struct, gc=False, eq=False):
    """The numbers of calls that wait, by lane.

    Anybody may look at `first`, which has the longest wait of each lane. Only the methods write it.
    """

    first: dict[str, int] = {}
    _later: dict[str, deque[int]] | None = None

    def add(self, lane: str, seq: int) -> None:
        """One more call waits."""
        if lane not in self.first:
            self.first[lane] = seq
            return
        if self._later is None:
            self._later = {}
        self._later.setdefault(lane, deque()).append(seq)

    def remove(self, lane: str, seq: int) -> None:
        """The call waits no longer."""
        later = self._later.get(lane) if self._later is not None else None
        if self.first[lane] != seq:
            assert later is not None
            later.remove(seq)
        elif later:
            self.first[lane] = later.popleft()
        else:
            del self.first[lane]
            return
        if not later and self._later is not None:
            self._later.pop(lane, None)

    def of(self, lane: str) -> list[int]:
        """All that wait in a lane, the longest wait first."""
        later = self._later.get(lane, ()) if self._later is not None else ()
        return [self.first[lane], *later]
