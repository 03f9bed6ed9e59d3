"""The mailbox of a unit: messages that its owner has and that no turn has taken yet, in order.

An `Entry` says whether a message stands in the store's inbox. Only the owner decides that, after a
commit was applied. A turn that is refused or discarded leaves each entry as it was, so that nothing
is believed to be stored that is not.

Control messages have a lane of their own and go first. A start is a barrier in that: a control
message that came behind a start means the run that the start makes, so it waits until the start was
taken.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.message import CONTROL, Message, Start

if TYPE_CHECKING:
    from collections.abc import Iterable


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A message, whether the store's inbox has it, and its place in the order of arrival."""

    message: Message
    stored: bool
    number: int


_EMPTY: deque[Entry] = deque()
"""The queue of all empty mailboxes. A deque of its own would be most of what a waiting unit weighs."""


class Mailbox:
    """Entries in order of arrival, with control messages ahead of the others.

    A turn takes entries with `next_control`, `next_start` and `next`. Its owner then calls `settle`
    when the turn's commit was applied, or `restore` when it was not.
    """

    __slots__ = ("_control", "_known", "_number", "_queue", "_starts", "_taken")

    def __init__(self) -> None:
        """Nothing has arrived."""
        self._control: list[Entry] = []
        self._queue: deque[Entry] = _EMPTY
        self._starts = 0
        self._taken: list[Entry] = []
        self._number = 0
        # Ids of stored messages that no commit has consumed: here, taken, or kept by the unit. A
        # message of another unit reaches us twice when the store is read before it is delivered.
        self._known: set[bytes] | None = None

    def __len__(self) -> int:
        """How many entries wait to be taken."""
        return len(self._control) + len(self._queue)

    # ------------------------------------------------------------ what arrives

    def put(self, message: Message, *, stored: bool = False) -> bool:
        """Add a message at the end. False: it is here already, or the unit keeps it."""
        if stored:
            if self._known is None:
                self._known = set()
            elif message.id in self._known:
                return False
            self._known.add(message.id)
        self._number += 1
        self._file(Entry(message, stored, self._number))
        return True

    def _file(self, entry: Entry) -> None:
        kind = type(entry.message.body)
        if kind in CONTROL and not self._starts:
            self._control.append(entry)
            return
        if kind is Start:
            self._starts += 1
        if self._queue is _EMPTY:
            self._queue = deque()
        self._queue.append(entry)

    def forget_stored(self) -> None:
        """Drop what the store's inbox has: it is about to be read anew. See `reload`."""
        self.restore()
        self._drop(stored=True)
        self._known = None

    def reload(self, inbox: Iterable[Message]) -> None:
        """Begin with what the store's inbox had. What has arrived here follows it, in order.

        That includes stored messages. They came into the inbox when it had been read already, and
        before the answer was here.
        """
        self.restore()
        arrived = sorted([*self._control, *self._queue], key=_number)
        self._clear_lanes()
        self._known = None
        for message in inbox:
            self.put(message, stored=True)
        read: set[bytes] = set(self._known or ())
        for entry in arrived:
            if entry.message.id not in read:
                self.put(entry.message, stored=entry.stored)

    def drop_unstored(self) -> list[Message]:
        """Forget the messages that only we have. Their senders must be told."""
        return self._drop(stored=False)

    def _drop(self, *, stored: bool) -> list[Message]:
        """Drop the entries that are stored, or those that are not."""
        entries = sorted([*self._control, *self._queue], key=_number)
        self._clear_lanes()
        for entry in entries:
            if entry.stored is not stored:
                self._file(entry)
        return [entry.message for entry in entries if entry.stored is stored]

    def _clear_lanes(self) -> None:
        self._control.clear()
        self._queue = _EMPTY
        self._starts = 0

    # ------------------------------------------------------------ what a turn takes

    @property
    def head(self) -> Message | None:
        """The message that `next` would take."""
        return self._queue[0].message if self._queue else None

    @property
    def has_control(self) -> bool:
        """Whether a control message is next."""
        return bool(self._control)

    def next_control(self) -> Entry | None:
        """Take the next control message that no start precedes."""
        return self._take(self._control.pop(0)) if self._control else None

    def next(self) -> Entry | None:
        """Take the next entry that is no control message."""
        if not self._queue:
            return None
        entry = self._take(self._queue.popleft())
        if type(entry.message.body) is Start:
            self._pass_start()
        return entry

    def next_start(self) -> Entry | None:
        """Take the first start, past what came before it: for a unit that does not exist yet."""
        if not self._starts:
            return None
        place = next(n for n, e in enumerate(self._queue) if type(e.message.body) is Start)
        entry = self._take(self._queue[place])
        del self._queue[place]
        self._pass_start()
        return entry

    def _take(self, entry: Entry) -> Entry:
        self._taken.append(entry)
        return entry

    def _pass_start(self) -> None:
        """A start was taken: control messages up to the next start may go first now."""
        self._starts -= 1
        queue = self._queue
        self._queue, self._starts = _EMPTY, 0
        for entry in queue:
            self._file(entry)

    def take_rest(self) -> list[Entry]:
        """Take all that is left but starts: the unit is gone, and they belonged to it."""
        entries = [*self._control, *self._queue]
        rest = [entry for entry in entries if type(entry.message.body) is not Start]
        self._clear_lanes()
        for entry in entries:
            if type(entry.message.body) is Start:
                self._file(entry)
        self._taken += rest
        return rest

    # ------------------------------------------------------------ after a turn

    def settle(self, kept: Iterable[bytes], consumed: Iterable[bytes]) -> None:
        """The turn is durable: its commit stored the ids `kept` in the inbox and consumed others."""
        self._taken.clear()
        if not self._queue:
            self._queue = _EMPTY
        if kept:
            self._known = self._known or set()
            self._known.update(kept)
        if consumed and self._known is not None:
            self._known.difference_update(consumed)

    def restore(self) -> None:
        """The turn never happened: what it took goes back to where it was."""
        if not self._taken:
            return
        entries = sorted([*self._taken, *self._control, *self._queue], key=_number)
        self._taken.clear()
        self._clear_lanes()
        for entry in entries:
            self._file(entry)


def _number(entry: Entry) -> int:
    return entry.number
