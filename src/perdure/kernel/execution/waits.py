"""Waits: the calls of an execution that wait for a message, by lane.

A lane is a channel, or a name of positional events (`kernel/loop/call.py`). The next message of a
lane goes to the call that has waited longest.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.loop.loop import Timer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.kernel.loop.call import Call

# So many pending commands are looked at to say what the code waits for.
_LOOKED_AT = 4


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


def next_wake(retries: Iterable[int], now: int, timer_at: int | None) -> int | None:
    """When the earliest of some retries or a timer is due (ms). 0: at once."""
    retry_at = min(retries)
    if retry_at <= now:
        return 0
    if timer_at is None:
        return retry_at
    return min(retry_at, timer_at)


def behind_timer(pending: Iterable[Call | Timer]) -> str | None:
    """What an execution waits for whose first command is a timer. None: nothing is pending.

    A timer before another command is its deadline, as a rule, which the row has as `wake_at`.
    """
    text: str | None = None
    # There may be thousands of timers, so only a few are looked at.
    for command in islice(pending, _LOOKED_AT):
        if not isinstance(command, Timer):
            return command.describe()
        if text is None:
            text = f"timer {command.name or ''}".rstrip()
    return text
