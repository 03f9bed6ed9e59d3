"""The memory of a node: how units come into it, and how they leave it.

    a message or a deadline ──▶ loaded ──▶ ready ──▶ (turns) ──▶ at rest ──▶ evicted
                                  ▲                     │
                                  └──── reloaded ◀──────┤  its turn was discarded, or refused
                                                        └─▶ expelled: its scope is another node's

Nothing is lost when a unit leaves. Its row, its journal and its inbox are in the store, and
messages that only this process has are given back to their senders.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

from perdure.errors import Failure, StoreUnavailable
from perdure.kernel.data.message import Start
from perdure.kernel.unit.held import POISONED
from perdure.node.loop.loader import Loader
from perdure.node.loop.supervisor import ids_of
from perdure.node.ownership.scope import Moved
from perdure.runlog import show_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.data.message import Message
    from perdure.node.activities.attempts import Attempts
    from perdure.node.loop.deadlines import Deadlines
    from perdure.node.loop.ready import Ready
    from perdure.node.loop.residents import Resident, Residents
    from perdure.node.loop.supervisor import Supervisor
    from perdure.node.ownership.scope import Scope
    from perdure.node.surroundings import Surroundings
    from perdure.ports.store import Loaded

logger = logging.getLogger("perdure.node")

_LEAVING_SLICE_S = 0.01
"""Units leave memory for so long in one go. Then the node's event loop gets its turn."""

_HOMELESS_MAX = 100_000
"""Ids of missing units of which it is remembered that messages wait for them.

The oldest are forgotten first. From then on each start looks for messages in the store.
"""


class Memory:
    """The units that a node has in memory, and the ways in and out."""

    def __init__(
        self,
        given: Surroundings,
        residents: Residents,
        supervisor: Supervisor,
        attempts: Attempts,
        deadlines: Deadlines,
        ready: Ready,
    ) -> None:
        """Nothing is in memory. While `ready` is busy, only units with a message are loaded."""
        self.residents = residents
        self.loader = Loader(given, residents, self._loaded, ready)
        self._node_name = given.node_name
        self._options = given.options
        self._ownership = given.ownership
        self._tally = given.tally
        self._supervisor = supervisor
        self._attempts = attempts
        self._deadlines = deadlines
        self._ready = ready
        # An ordered set: units that do not exist and for which messages wait.
        self.homeless: dict[str, None] = {}
        self._knows_all_homeless = True

    @property
    def is_one_of_several(self) -> bool:
        """Whether other nodes may own scopes of the store."""
        return not self._ownership.is_alone

    # ------------------------------------------------------------ coming in

    def owns(self, unit: str, scope_name: str = "") -> bool:
        """Whether messages for the unit are to be delivered here.

        `scope_name` is where its start wants it to be.
        """
        resident = self.residents.get(unit)
        if resident is not None:  # `home_of`, written out: each message of a client asks
            scope = resident.scope
        else:
            scope = self._ownership.home_of(unit, scope_name)
        return scope is not None and scope.takes_messages

    def home_of(self, unit: str) -> Scope | None:
        """The scope of this node to which the unit belongs. None: it belongs to another node."""
        resident = self.residents.get(unit)
        # A row may name another scope than the id does. Only a unit in memory has its row at hand.
        if resident is not None:
            return resident.scope
        return self._ownership.home_of(unit)

    def enter(self, message: Message) -> Resident | None:
        """Bring the unit of a message into memory. None: it belongs to another node."""
        is_start = type(message.body) is Start
        name = ""
        if is_start:
            name = message.scope
        scope = self._ownership.home_of(message.to, name)
        if scope is None or not scope.takes_messages:
            return None
        # A start is tried as if its id were new. A start with a delay comes back by the store. In a
        # group, messages that came before it may wait where its id leads to.
        may_be_new = is_start and not message.visible_at and scope.is_home
        has_new_messages = message.to in self.homeless or self.loader.is_waiting(message.to)
        # Messages of the same sender may wait in the store, from when another node had the scope,
        # or from another life of this one.
        is_known = scope.is_scanned and self._knows_all_homeless
        resident = self.residents.enter(message.to, scope, type(message.body))
        if has_new_messages or not (may_be_new and is_known):
            self.loader.load(resident)
        return resident

    def wake(self, unit: str) -> None:
        """A deadline of the unit has passed, or there is work for it in the store."""
        resident = self.residents.get(unit)
        if resident is None:
            self.loader.load_later(unit)
        elif resident.state == "idle":
            self._ready.add(resident)

    def read_inbox(self, unit: str) -> None:
        """Another process has posted to the unit: read its inbox, and leave the unit as it is."""
        resident = self.residents.get(unit)
        if resident is None:
            self.loader.load_later(unit)
        elif resident.state in ("idle", "ready"):
            self.loader.fetch(resident)  # before its turn: messages there may be older
        else:
            resident.expect_messages()

    def look_into_inbox(self, unit: str) -> None:
        """Read the inbox of a unit that moved while this node's client posted to it.

        The unit may have come back to this node since.
        """
        if not self.owns(unit):
            return
        resident = self.residents.get(unit)
        if resident is not None and resident.state == "loading":
            # The reading may have been too early. The sender's next message comes by memory, and
            # would be taken first.
            resident.expect_older()
        else:
            self.read_inbox(unit)

    def row(self, unit: str) -> UnitRow | None:
        """The row of a unit in memory, if no turn of it is on its way."""
        resident = self.residents.get(unit)
        if resident is None or resident.state != "idle":
            return None  # a row that is not durable must not be seen
        return resident.unit.row

    def _loaded(self, resident: Resident, found: Loaded) -> None:
        """Go on with a unit that the loader has read."""
        self.residents.rest(resident)
        scope = resident.scope
        if scope is None or not scope.takes_messages:
            self.expel(resident, found.row)
            return
        if found.row is None:
            if not resident.mailbox:  # no such unit, and nothing for it
                self.leave(resident)
                return
        else:
            self.found_home(found.id)
            discarded = self._supervisor.load(resident, found)
            if discarded is not None:
                self.discard(resident, discarded.cause)
                return
        resident.is_tried()
        if resident.has_older:
            self.loader.fetch(resident)
        else:
            self._ready.add(resident)

    def note_homeless(self, unit: str) -> None:
        """Note that messages wait in the store for a unit that does not exist.

        Its start must look for them.
        """
        self.homeless[unit] = None
        if len(self.homeless) > _HOMELESS_MAX:
            del self.homeless[next(iter(self.homeless))]
            self._knows_all_homeless = False

    def found_home(self, unit: str) -> None:
        """The unit exists, and its inbox has been read."""
        self.homeless.pop(unit, None)

    # ------------------------------------------------------------ once more

    def reload(self, resident: Resident) -> None:
        """Replace a unit by that of the store. Its mailbox stays, its activities are given up."""
        self._drop(resident)
        self.loader.load(resident)

    def _drop(self, resident: Resident) -> None:
        self.residents.renew(resident)
        self._attempts.abandon(resident.unit.id)

    def discard(self, resident: Resident, cause: str) -> None:
        """A turn must count as never taken.

        After a few in a row the instance is suspended, so that it stops nothing else. If a turn
        that runs none of its code fails as well, it leaves memory. It would be tried for ever
        otherwise.
        """
        unit, ids = resident.unit.id, ids_of(resident.unit, self._node_name)
        # The unit is replaced below, and its logs would go with it.
        logs = resident.unit.take_logs()
        if logs:
            show_logs(logs, discarded=True)
        failures = resident.has_failed()
        self._tally.discard_turn()
        self._drop(resident)
        logger.warning("a turn of %r was stopped: %s", unit, cause, extra=ids)
        if failures > self._options.turn_failures:
            self.refuse(resident, cause)
            return
        if failures >= self._options.turn_failures:
            text = (
                f"{failures} turns of {unit!r} in a row were stopped: {cause}. "
                "Mend the code, deploy it, and release the instance with retry()."
            )
            resident.unit.hold(Failure(POISONED, text, "poison", retryable=False))
        self.loader.load(resident)

    def try_again(self, units: Iterable[str]) -> None:
        """Load these held units again."""
        for unit in units:
            present = self.residents.get(unit)
            if present is None:
                self.loader.load_later(unit)
            elif present.state == "idle":
                self.reload(present)

    def definitions_changed(self) -> None:
        """Tell units that are busy: their turn may hold them for the lack of a definition."""
        for resident in self.residents.all():
            resident.note_new_code()

    def hold(self, unit: str, why: Failure) -> None:
        """Load the unit without running its code, and keep it suspended until it is released."""
        resident = self.residents.get(unit)
        if resident is None:
            resident = self.residents.enter(unit, self._ownership.home_of(unit))
        resident.unit.hold(why)
        self.loader.load(resident)

    def revise_suspect(self, unit: str, revise: Callable[[int], int]) -> bool:
        """Change the blame in the row, in a commit of its own. False: it cannot be done now."""
        resident = self.residents.get(unit)
        if resident is None or resident.state != "idle":
            return False
        row = resident.unit.row
        if row is not None and revise(row.suspect) != row.suspect:
            resident.unit.suspect_of(revise(row.suspect))
            self._ready.add(resident)
        return True

    # ------------------------------------------------------------ leaving

    def leave(self, resident: Resident) -> None:
        """Take a resident out of memory, unless another process has posted to it meanwhile."""
        if resident.has_new_messages:
            # They are read for a new unit, because this one still has the row of the deleted run.
            self.reload(resident)
            return
        self.residents.forget(resident)

    def refuse(self, resident: Resident, reason: str) -> None:
        """Nothing of the unit can be recorded here."""
        unit, ids = resident.unit.id, ids_of(resident.unit, self._node_name)
        logger.error("a commit of %r was refused: %s", unit, reason, extra=ids)
        self._attempts.abandon(unit)
        resident.refuse(StoreUnavailable(f"the request for {unit!r} was not recorded: {reason}"))
        self.residents.forget(resident)

    def expel(self, resident: Resident, row: UnitRow | None) -> None:
        """Take a unit of another owner out of memory. Its messages go by the store.

        `row` is that of the unit, as far as it is known.
        """
        unit = resident.unit.id
        if self._ownership.is_alone:
            # No other node takes the message, so the sender must not be sent on.
            name = "?"
            if row is not None:
                name = row.scope
            self.refuse(resident, f"this node does not own its scope {name!r}")
            return
        self._attempts.abandon(unit)
        self._deadlines.clear(unit)
        resident.refuse(Moved())
        self.residents.forget(resident)
        if row is not None:
            home = self._ownership.find(row.scope)
        else:
            home = self._ownership.home_of(unit)
        if home is not None and home is not resident.scope and home.takes_messages:
            # The scope has come back while its unit was leaving. Its scan has found the unit in
            # memory, and what the scan noted has just gone with that.
            self.loader.load_later(unit)

    def expel_all(self, residents: Iterable[Resident]) -> None:
        """Take units out of memory that were read and may not run."""
        for resident in residents:
            if resident.state != "gone":
                self.expel(resident, resident.unit.row)

    async def empty(self, scope: Scope) -> None:
        """Take all units of a scope out of memory: the scope is drained, or lost.

        Turns that are under way and messages that have arrived are finished, if the scope still
        takes turns. A unit that is being read leaves when that has ended.
        """
        ends_s = monotonic() + _LEAVING_SLICE_S
        for resident in list(scope.residents.values()):
            if resident.scope is not scope or resident.state == "gone":
                continue  # it has left while others had their turn
            if resident.state == "ready" and scope.takes_turns and resident.mailbox:
                pass  # it leaves behind its turn
            elif resident.state in ("idle", "ready"):
                self.expel(resident, resident.unit.row)
            if monotonic() >= ends_s:
                await asyncio.sleep(0)
                ends_s = monotonic() + _LEAVING_SLICE_S
        await scope.emptied()

    async def clear(self, error: Exception) -> None:
        """Take everything out of memory: the node stops. Senders are told the error."""
        ends_s = monotonic() + _LEAVING_SLICE_S
        for resident in self.residents.all():
            resident.refuse(error)
            self.residents.forget(resident)
            if monotonic() >= ends_s:
                await asyncio.sleep(0)
                ends_s = monotonic() + _LEAVING_SLICE_S

    def clear_at_once(self, error: Exception) -> None:
        """Clear memory in one go: nothing can be awaited any more."""
        for resident in self.residents.all():
            resident.refuse(error)
            self.residents.forget(resident)
