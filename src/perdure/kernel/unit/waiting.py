"""Messages that a unit has noted and cannot deliver yet. Each of them stands in the store's inbox.

They are of four kinds:

- the unit's own start, which waits for its time or for its code,
- control messages that its code cannot be asked about now,
- messages in channels that the code does not receive from yet (`lanes`),
- all others in order (`kept`): those that came while the unit was paused, held, or between two
  executions.

A turn puts a message here that it has taken from the mailbox, and a later turn delivers it. When
the unit leaves memory, the messages are read from the inbox again at its next load.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.data.message import CONTROL, Raise, Send, Start
from perdure.kernel.unit.mailbox import Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from perdure.kernel.data.message import Message


_EMPTY: deque[Entry] = deque()
"""The deques of most units. A deque of its own would be much of a waiting unit's weight."""

_NO_LANES: dict[str, deque[Entry]] = {}
"""The same for lanes: nothing is ever written to it."""


class Waiting(msgspec.Struct, gc=False, eq=False):
    """The messages that a unit keeps.

    Its owner drops them with the unit when a commit is refused.

    Each turn looks at all of it, so these are attributes. Only the methods change them. It holds
    data only, so that no cycle can go through it, and the garbage collector need not look.
    """

    start: Entry | None = None
    control: deque[Entry] = _EMPTY
    # Those that are in none of the other places.
    kept: deque[Entry] = _EMPTY
    # The lanes in which something waits.
    lanes: dict[str, deque[Entry]] = msgspec.field(default_factory=lambda: _NO_LANES)
    _sends: int = 0

    def __iter__(self) -> Iterator[Entry]:
        """All that wait, in order of arrival."""
        entries = [*self.kept]
        for lane in self.lanes.values():
            entries += lane
        entries += self.control
        if self.start is not None:
            entries.append(self.start)
        entries.sort(key=_number)
        return iter(entries)

    @property
    def sends(self) -> int:
        """How many of them are messages and events from outside, which the inbox limit counts."""
        return self._sends

    def keep(self, entry: Entry) -> None:
        """Note an entry behind the others."""
        if self.kept is _EMPTY:
            self.kept = deque()
        self.kept.append(entry)
        self._count(entry, 1)

    def next(self) -> Entry:
        """Take the first of `kept`, to be delivered."""
        entry = self.kept.popleft()
        self._count(entry, -1)
        return entry

    def _count(self, entry: Entry, change: int) -> None:
        if isinstance(entry.message.body, Send | Raise):
            self._sends += change

    def keep_start(self, entry: Entry) -> None:
        """Note the unit's own start."""
        self.start = entry

    def take_start(self) -> Entry | None:
        """The unit's own start, if it was noted."""
        start = self.start
        self.start = None
        return start

    def keep_control(self, entry: Entry) -> None:
        """Note a control message for the time when the code can be asked."""
        if self.control is _EMPTY:
            self.control = deque()
        self.control.append(entry)

    def take_control(self) -> Collection[Entry]:
        """The control messages that were noted."""
        entries = self.control
        self.control = _EMPTY
        return entries

    # ------------------------------------------------------------ lanes

    def enlane(self, lane: str, entry: Entry) -> None:
        """Put a message at the end of its lane."""
        if self.lanes is _NO_LANES:
            self.lanes = {}
        queue = self.lanes.get(lane)
        if queue is None:
            queue = self.lanes[lane] = deque()
        queue.append(entry)
        self._sends += 1

    def first_lane(self, wanted: Collection[str]) -> str | None:
        """The lane among the wanted ones whose head came first."""
        lanes = self.lanes
        # The shorter of the two is gone through: code may wait for one of thousands of lanes.
        if len(lanes) < len(wanted):
            found = [lane for lane in lanes if lane in wanted]
        else:
            found = [lane for lane in wanted if lane in lanes]
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        return min(found, key=lambda lane: lanes[lane][0].number)

    def from_lane(self, lane: str) -> Entry:
        """Take the first message of a lane."""
        queue = self.lanes[lane]
        entry = queue.popleft()
        if not queue:
            del self.lanes[lane]
            self.lanes = self.lanes or _NO_LANES
        self._sends -= 1
        return entry

    def close_lanes(self) -> None:
        """The execution is over. Messages that it did not receive wait for the next one."""
        if not self.lanes:
            return
        # In order of arrival: one that came in the very turn of the end is behind them all.
        entries: list[Entry] = []
        for lane in self.lanes.values():
            entries += lane
        entries += self.kept
        entries.sort(key=_number)
        self.lanes = _NO_LANES
        self.kept = deque(entries)

    # ------------------------------------------------------------ wholesale

    def take_all(self) -> list[Entry]:
        """Take all: the code will not receive them any more."""
        entries = list(self)
        self.start = None
        self.control = _EMPTY
        self.kept = _EMPTY
        self.lanes = _NO_LANES
        self._sends = 0
        return entries

    def follow(self, consumed: Iterable[bytes], arrived: Iterable[Message]) -> None:
        """Advance by another owner's commit. All are noted anew when this copy takes over."""
        gone = set(consumed)
        left = [entry.message for entry in self.take_all()]
        for message in (*left, *arrived):
            if message.id not in gone:
                # Numbered below all that a mailbox of ours will bring, in the order of this list.
                self._file(Entry(message, True, 0))

    def _file(self, entry: Entry) -> None:
        """Note an entry where a turn looks for its kind, also while the unit receives nothing."""
        kind = type(entry.message.body)
        if kind is Start:
            self.keep_start(entry)
        elif kind in CONTROL:
            self.keep_control(entry)
        else:
            self.keep(entry)


def _number(entry: Entry) -> int:
    return entry.number
