"""Residents: the instances that are in memory, and how they leave.

Each belongs to a scope of the node. A resident has none while its row, which says so, is being
read.

When there are too many, those that have rested longest leave: instances with no work of their own
open, whose every message stands in the store. They are kept in a list of their own, so that finding
them does not cost more the more instances there are. Where there are many, an instance that only
sleeps, and sleeps long, leaves at once. The garbage collector would go through it again and again
for nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Literal

from perdure.kernel.data.message import Retry
from perdure.kernel.unit.kinds import WORKFLOW
from perdure.kernel.unit.mailbox import Mailbox
from perdure.kernel.unit.turn import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.data.message import Message
    from perdure.kernel.unit.kinds import Kinds, Unit
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.scope import Scope
    from perdure.node.upkeep.elders import Elders
    from perdure.ports.store import Loaded

Ack = asyncio.Future[Outcome]

State = Literal["idle", "ready", "working", "committing", "loading", "gone"]
"""The states of a resident. Only one part of the node may touch its unit at a time.

`idle`: nothing. `ready`: it waits for its turn. `working`: the work of its turn goes on.
`committing`: its turn is over, and its commit is on the way or its effects are being carried out.
`loading`: the store is being read for it. `gone`: it has left memory.
"""

_FEW = 1_000
"""With so few in memory none has to leave: the collector goes through them in milliseconds."""

_LONG_MS = 600_000
"""A sleep that is worth a replay at its end."""

_SHORT_EVENTS = 1_000
"""A history whose replay takes a few milliseconds at most."""

_LEAVE_AT_ONCE = 8
"""How many may leave when one enters.

It is more than one, so that a node that has too many in memory gets rid of them.
"""


class Resident:
    """An instance in memory: its unit, its mailbox, and the senders that wait for an answer."""

    __slots__ = (
        "acks",
        "failures",
        "has_new_messages",
        "has_older",
        "mailbox",
        "outdated",
        "place",
        "released",
        "scope",
        "state",
        "unit",
    )

    def __init__(self, unit: Unit, scope: Scope | None) -> None:
        """A unit on which nothing works. `scope` is where a unit of its id would be."""
        self.unit = unit
        self.scope = scope
        self.mailbox = Mailbox()
        self.acks: dict[bytes, Ack] | None = None
        self.state: State = "idle"
        self.failures = 0
        # The place in the store's inbox up to which it was read. None: from the beginning.
        self.place: str | None = None
        # A retry has come: a unit that is held is to be loaded again.
        self.released = False
        # Another process has posted while the resident was busy.
        self.has_new_messages = False
        # This node's client has, while the inbox was being read: it must be read once more at once.
        self.has_older = False
        # Definitions have changed while the resident was busy.
        self.outdated = False

    def receive(self, message: Message, ack: Ack | None, *, stored: bool) -> bool:
        """Put a message into the mailbox. True: the resident was idle, and is ready now."""
        if ack is not None and self.acks is not None and message.id in self.acks:
            # It comes again before it was answered, and must not be received twice.
            self.acks[message.id] = _ack_of_both(self.acks[message.id], ack)
            return False
        if not self.mailbox.put(message, stored=stored):
            return False
        if ack is not None:
            # Most messages have no sender that waits here, and most residents need no dictionary.
            if self.acks is None:
                self.acks = {}
            self.acks[message.id] = ack
        if type(message.body) is Retry:
            self.release()
        if self.state != "idle":
            return False
        self.state = "ready"
        return True

    def move(self, scope: Scope | None) -> None:
        """Its row says that it belongs to this scope. None: to a scope of another node."""
        if self.scope is scope:
            return
        if self.scope is not None:
            self.scope.leave(self)
        self.scope = scope
        if scope is not None:
            scope.enter(self)

    def leave(self) -> None:
        """It is not in memory any more. A reader or a turn that still has it must let it be."""
        self.state = "gone"
        if self.scope is not None:
            self.scope.leave(self)

    def renew(self, unit: Unit) -> None:
        """Replace its unit by an unloaded one. The messages that the last turn took come back."""
        self.unit.close_memory()
        self.unit = unit
        self.mailbox.restore()
        self.outdated = False

    def has_been_read(self, place: str | None) -> None:
        """Its inbox has been read up to this place."""
        self.place = place

    def expect_messages(self) -> None:
        """Another process has posted while the resident was busy."""
        self.has_new_messages = True

    def expect_older(self) -> None:
        """Its inbox has a message of a sender that may send the next one by memory."""
        self.has_new_messages = True
        self.has_older = True

    def begin_fetch(self) -> None:
        """Its inbox is being read."""
        self.state = "loading"
        self.has_new_messages = False
        self.has_older = False

    def is_tried(self) -> None:
        """It has been loaded, or takes a turn. A retry that came before has had its effect."""
        self.released = False

    def note_new_code(self) -> None:
        """Definitions have changed. A busy resident may be about to be held for their lack."""
        self.outdated = self.state != "idle"

    def take_outdated(self) -> bool:
        """Whether definitions have changed since the resident's turn began."""
        outdated, self.outdated = self.outdated, False
        return outdated

    def has_failed(self) -> int:
        """Its turn was discarded. Return how many were, in a row."""
        self.failures += 1
        return self.failures

    def has_succeeded(self) -> None:
        """Its turn is durable."""
        self.failures = 0

    def get_ready(self) -> None:
        """It has something to do, and waits for its turn."""
        self.state = "ready"

    def begin_work(self) -> None:
        """Its turn has work that must end before the commit."""
        self.state = "working"

    def begin_commit(self) -> None:
        """Its turn is over."""
        self.state = "committing"

    def begin_load(self) -> None:
        """The store is being read for it."""
        self.state = "loading"

    def begin_reload(self) -> None:
        """All that is stored of the unit is being read."""
        self.state = "loading"
        self.has_new_messages = False
        self.has_older = False
        self.mailbox.begin_reload()

    def release(self) -> None:
        """Try a unit that is held again."""
        self.released = True
        self.failures = 0

    def answer(self, answers: dict[bytes, Outcome]) -> None:
        """Tell senders the outcomes of their messages."""
        acks = self.acks
        if acks is None:
            return
        for message, outcome in answers.items():
            ack = acks.pop(message, None)
            if ack is not None and not ack.done():
                ack.set_result(outcome)
        if not acks:
            self.acks = None

    def refuse(self, error: Exception) -> None:
        """Tell all senders that wait for an answer that there is none."""
        if self.acks is None:
            return
        for ack in self.acks.values():
            if not ack.done():
                ack.set_exception(error)
        self.acks = None

    def refuse_taken(self, error: Exception) -> None:
        """Tell senders the outcome of the messages that its last turn took: this error."""
        if self.acks is None:
            return
        for message in self.mailbox.taken():
            ack = self.acks.pop(message.id, None)
            if ack is not None and not ack.done():
                ack.set_exception(error)

    def refuse_unstored(self, error: Exception) -> None:
        """Give up the messages that only this process has and whose senders wait. They are told.

        Results of activities stay, because no other process has them.
        """
        if self.acks is None:
            return
        for message in self.mailbox.drop(self.acks.keys()):
            ack = self.acks.pop(message.id)
            if not ack.done():
                ack.set_exception(error)


class Residents:
    """The instances in memory, up to `NodeOptions.residents`, and more if all of them work."""

    def __init__(self, kinds: Kinds, options: NodeOptions, elders: Elders) -> None:
        """Nothing is in memory."""
        self._kinds = kinds
        self._options = options
        self._elders = elders
        self._all: dict[str, Resident] = {}
        # The resident of a unit, if it is in memory. Each message asks, so it is the dictionary's
        # own.
        self.get: Callable[[str], Resident | None] = self._all.get
        # Those that have rested, in that order. One that is in use again is passed over here.
        self._resting: OrderedDict[str, Resident] = OrderedDict()

    def __len__(self) -> int:
        """How many instances are in memory."""
        return len(self._all)

    def all(self) -> list[Resident]:
        """All of them."""
        return list(self._all.values())

    def enter(self, unit: str, scope: Scope | None, body: type | None = None) -> Resident:
        """Bring a unit into memory, without its row and its journal.

        `scope` is where a new unit of this id would be. `body` is that of its first message, which
        says its kind. A row that is stored may name others.
        """
        kind: str | None = None
        if body is not None:
            kind = self._kinds.kind_for(body)
        made = self._kinds.make(kind or WORKFLOW, unit)
        resident = self._all[unit] = Resident(made, scope)
        self._elders.note_newcomer()
        if scope is not None:
            scope.enter(resident)
        excess = len(self._all) - self._options.residents
        if excess > 0:
            self._evict(min(excess, _LEAVE_AT_ONCE))
        return resident

    def _evict(self, count: int) -> None:
        """Have those leave that have rested longest."""
        while count and self._resting:
            _, resident = self._resting.popitem(last=False)
            if resident.state == "idle":
                self.forget(resident)
                count -= 1

    def rest(self, resident: Resident) -> None:
        """It was in use, and has nothing to do. It may leave if all its work is elsewhere."""
        resident.state = "idle"
        unit = resident.unit
        if not unit.idle:
            # An activity runs, or a message is only in memory.
            self._resting.pop(unit.id, None)
        elif len(self._all) > _FEW and _is_better_off_on_disk(unit):
            self.forget(resident)
        else:
            self._resting[unit.id] = resident
            self._resting.move_to_end(unit.id)

    def forget(self, resident: Resident) -> None:
        """Take it out of memory. Its code is not run."""
        unit = resident.unit
        unit.close_memory()
        self._resting.pop(unit.id, None)
        del self._all[unit.id]
        resident.leave()

    def renew(self, resident: Resident) -> None:
        """Replace a unit that is not to be trusted by an unloaded one.

        The messages that its turn took come back.
        """
        row = resident.unit.row
        kind = WORKFLOW
        if row is not None:
            kind = row.kind
        resident.renew(self._kinds.make(kind, resident.unit.id))

    def recognize(self, resident: Resident, found: Loaded) -> None:
        """Make the unit one of the kind that the store says, before it is loaded.

        It may have entered by a message that says no kind.
        """
        kind = self._kinds.kind_of(found)
        if kind is not None and kind != resident.unit.kind:
            held = resident.unit.held
            resident.renew(self._kinds.make(kind, found.id))
            if held is not None:
                resident.unit.hold(held)  # it has failed turns, which the row does not say yet


def _is_better_off_on_disk(unit: Unit) -> bool:
    """Whether it waits for nothing but a time that was far away at its last commit."""
    row = unit.row
    if row is None or row.wake_at is None:
        return False
    if row.journal_events > _SHORT_EVENTS:
        return False  # to read it again would cost more than to keep it
    return row.wake_at - row.updated_at >= _LONG_MS and unit.only_sleeps


def _ack_of_both(first: Ack, second: Ack) -> Ack:
    """A future whose answer both senders get, also when one of them waits no longer."""
    both: Ack = asyncio.get_running_loop().create_future()
    for ack in (first, second):
        both.add_done_callback(partial(_answer_alike, ack))
    return both


def _answer_alike(ack: Ack, both: Ack) -> None:
    error = both.exception()  # asked for in any case, or asyncio would report it
    if ack.done():
        return
    if error is not None:
        ack.set_exception(error)
    else:
        ack.set_result(both.result())


def refuse(ack: Ack | None, error: Exception) -> None:
    """Tell the sender of a message, if it waits, that the message was not taken."""
    if ack is not None:
        ack.set_exception(error)
