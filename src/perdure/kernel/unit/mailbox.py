"""The mailbox of a unit: messages that its owner has and that no turn has taken yet, in order.

The owner puts messages here when they are delivered to it, and when it reads the unit's inbox. A
turn takes them (`workflow_unit.py`).

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

from perdure.kernel.data.message import CONTROL, Message, Start

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A message, whether the store's inbox has it, and its place in the order of arrival."""

    message: Message
    stored: bool
    number: int


_FIRST = CONTROL | {Start}
"""Bodies that do not simply go behind the others, or that hold some of those up."""

_EMPTY: deque[Entry] = deque()
"""The lanes of all empty mailboxes. Deques of its own would be most of a waiting unit's weight."""


class Mailbox(msgspec.Struct, gc=False, eq=False):
    """Entries in order of arrival, with control messages ahead of the others.

    A turn looks at `control` and `queue`, and takes entries with `next_control`, `next_start` and
    `next`. Its owner then calls `settle` when the turn's commit was applied, or `restore` when it
    was not.

    It holds data only, so that no cycle can go through it, and the garbage collector need not look.
    """

    # Control messages that no start precedes.
    control: deque[Entry] = _EMPTY
    # All others. The first is what `next` takes.
    queue: deque[Entry] = _EMPTY
    _starts: int = 0
    _taken: list[Entry] | None = None
    _number: int = 0
    # The number of the last entry that was here when the inbox began to be read.
    _read_from: int = 0
    # Ids of stored messages that no commit has consumed: here, taken, or kept by the unit. A
    # message of another unit reaches us twice when the store is read before it is delivered.
    _known: set[bytes] | None = None

    def __len__(self) -> int:
        """How many entries wait to be taken."""
        return len(self.control) + len(self.queue)

    # ------------------------------------------------------------ arriving

    def put(self, message: Message, *, stored: bool = False) -> bool:
        """Add a message at the end. False: it is here already, or the unit keeps it."""
        if stored:
            if self._known is None:
                self._known = set()
            elif message.id in self._known:
                return False
            self._known.add(message.id)
        self._number += 1
        entry = Entry(message, stored, self._number)
        if type(message.body) in _FIRST:
            self._file(entry)
            return True
        # `_file`, written out, because nearly all messages come by here.
        if self.queue is _EMPTY:
            self.queue = deque()
        self.queue.append(entry)
        return True

    def _file(self, entry: Entry) -> None:
        kind = type(entry.message.body)
        if kind in CONTROL and not self._starts:
            if self.control is _EMPTY:
                self.control = deque()
            self.control.append(entry)
            return
        if kind is Start:
            self._starts += 1
        if self.queue is _EMPTY:
            self.queue = deque()
        self.queue.append(entry)

    def merge(self, inbox: Sequence[Message]) -> list[Message]:
        """Add messages of the store's inbox. Returns those that are new.

        They go before the messages that only this process has.
        """
        # A client that has sent both has sent the one that is stored first.
        entries = self._in_order()
        fresh = [entry for entry in entries if not entry.stored]
        if not fresh:
            return [message for message in inbox if self.put(message, stored=True)]
        self._clear_lanes()
        for entry in entries:
            if entry.stored:
                self._file(entry)
        added = [message for message in inbox if self.put(message, stored=True)]
        for entry in fresh:
            self.put(entry.message)
        return added

    def begin_reload(self) -> None:
        """The store's inbox is being read from now on."""
        self._read_from = self._number

    def reload(self, inbox: Iterable[Message]) -> list[Message]:
        """Begin anew with what the store's inbox had when it was read. Returns what is new of it.

        Behind it, in order, come the messages that only this process has, and the stored ones that
        arrived since the reading began. The reading may have been too early for those. A stored
        message that was here before and is not in the inbox has been consumed.
        """
        self.restore()
        entries = self._in_order()
        self._clear_lanes()
        before: set[bytes] = self._known or set()
        self._known = None
        read_from = self._read_from
        arrived: list[Message] = []
        for message in inbox:
            self.put(message, stored=True)
            if message.id not in before:
                arrived.append(message)
        known: set[bytes] = self._known or set()
        for entry in entries:
            is_left = not entry.stored or entry.number > read_from
            if is_left and entry.message.id not in known:
                self.put(entry.message, stored=entry.stored)
        return arrived

    def drop(self, ids: Container[bytes]) -> list[Message]:
        """Forget the messages of these ids that only this process has. Returns them.

        Their senders must be told.
        """
        dropped: list[Message] = []
        entries = [*self.control, *self.queue]
        self._clear_lanes()
        for entry in entries:
            if not entry.stored and entry.message.id in ids:
                dropped.append(entry.message)
            else:
                self._file(entry)
        return dropped

    def taken(self) -> list[Message]:
        """The messages that the last turn took, until `settle` or `restore`."""
        return [entry.message for entry in self._taken or ()]

    def _in_order(self) -> list[Entry]:
        """All entries in order of arrival."""
        entries = [*self.control, *self.queue]
        entries.sort(key=_number)
        return entries

    def _clear_lanes(self) -> None:
        self.control = _EMPTY
        self.queue = _EMPTY
        self._starts = 0

    # ------------------------------------------------------------ taking

    def next_control(self) -> Entry:
        """Take the first of `control`."""
        entry = self.control.popleft()
        self._note(entry)
        return entry

    def next(self) -> Entry:
        """Take the first of `queue`."""
        entry = self.queue.popleft()
        # `_note`, written out, because nearly all messages come by here.
        if self._taken is None:
            self._taken = [entry]
        else:
            self._taken.append(entry)
        if type(entry.message.body) is Start:
            self._pass_start()
        return entry

    def next_start(self, run: bytes | None = None) -> Entry | None:
        """Take the first start, or that of a run, past what came before it."""
        if not self._starts:
            return None
        for place, entry in enumerate(self.queue):
            if type(entry.message.body) is Start and run in (None, entry.message.id):
                del self.queue[place]
                self._note(entry)
                self._pass_start()
                return entry
        return None

    def _note(self, entry: Entry) -> None:
        """The turn has taken the entry."""
        if self._taken is None:
            self._taken = [entry]
        else:
            self._taken.append(entry)

    def _pass_start(self) -> None:
        """A start was taken, so control messages up to the next start may go first now."""
        queue = self.queue
        self.queue = _EMPTY
        self._starts = 0
        for entry in queue:
            self._file(entry)

    def take_all(self) -> list[Entry]:
        """Take all that is here, in the order of arrival."""
        entries = self._in_order()
        self._clear_lanes()
        for entry in entries:
            self._note(entry)
        return entries

    def take_rest(self) -> list[Entry]:
        """Take the messages before the first start. They were for a unit that is gone."""
        entries = self._in_order()
        self._clear_lanes()
        taken: list[Entry] = []
        for entry in entries:
            # From the first start on all is for the run that the start makes.
            if self._starts or type(entry.message.body) is Start:
                self._file(entry)
            else:
                self._note(entry)
                taken.append(entry)
        return taken

    # ------------------------------------------------------------ after a turn

    def settle(self, kept: Iterable[bytes], consumed: Iterable[bytes]) -> None:
        """The turn is durable. Its commit stored the ids `kept`, and consumed others."""
        self._taken = None
        # An empty deque of its own is given back: most units wait, and have none.
        if not self.queue:
            self.queue = _EMPTY
        if not self.control:
            self.control = _EMPTY
        if kept:
            self._known = self._known or set()
            self._known.update(kept)
        if consumed and self._known is not None:
            self._known.difference_update(consumed)

    def restore(self) -> None:
        """The turn never happened. Its entries go back to where they were."""
        if not self._taken:
            return
        entries = sorted([*self._taken, *self.control, *self.queue], key=_number)
        self._taken = None
        self._clear_lanes()
        for entry in entries:
            self._file(entry)


def _number(entry: Entry) -> int:
    return entry.number
