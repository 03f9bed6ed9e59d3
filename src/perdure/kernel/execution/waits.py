"""Waits: the calls of an execution that wait for a message, by lane.

A lane is a channel, or a name of positional events (`kernel/loop/call.py`). The next message of a
lane goes to the call that has waited longest.
"""

from __future__ import annotations

from collections import deque

import msgspec


class Waits(msgspec.Struct, gc=False, eq=False):
    """The numbers of calls that wait, by lane.

    `first` has the longest wait of each lane. Others may read it, and only the methods write it.
    """

    # Nearly every lane has one call that waits, so that call stands by itself, in a dictionary of
    # texts and numbers. The garbage collector need not look into that, and a waiting instance
    # weighs less.
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
        later: deque[int] | None = None
        if self._later is not None:
            later = self._later.get(lane)
        if self.first[lane] != seq:
            # A later wait may be cancelled before the first has its message.
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
        if self._later is None:
            return [self.first[lane]]
        return [self.first[lane], *self._later.get(lane, ())]
