"""The loop of a node: message, turn, commit, effects.

    deliver ──▶ mailbox ──▶ ready ──▶ unit.advance ──▶ committer ──▶ _settled ──▶ _effects
                   ▲                     (kernel)        (store)                     │
                   └────────────── results, timers, messages to others ◀─────────────┘

Theory of operation. Each instance in memory is a `Resident`: a unit of the kernel, a mailbox, and a
state. A message goes into the mailbox and makes the resident ready. Ready residents take their
turns one after the other. A turn's commit goes to the committer. Until it is durable the resident
takes no other turn, and its new messages gather. When the commit is durable its effects follow:
activities, messages to other units, answers to senders, deadlines. When the commit is refused, the
unit is dropped, and the messages that its turn took are in the mailbox again, as they were.

Nothing here is durable, and nothing here needs to be: everything can be derived again from rows. A
unit that is not in memory is loaded first. A start is the exception: it is tried as if the id were
new. If the id is known, the store refuses the commit (`stale`), and then the unit is loaded.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol

from perdure.closing import is_held
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.unit.held import AFTER_DEPLOY
from perdure.kernel.unit.turn import Turn
from perdure.node.loop.committer import Committer
from perdure.node.loop.deadlines import Deadlines
from perdure.node.loop.ending import Ending
from perdure.node.loop.freezer import Freezer
from perdure.node.loop.memory import Memory
from perdure.node.loop.ready import Ready
from perdure.node.loop.refusals import Refusals
from perdure.node.loop.residents import Ack, Resident, Residents, refuse
from perdure.node.loop.stages import Stages
from perdure.node.loop.supervisor import Discarded, Supervisor, ids_of
from perdure.node.loop.waiters import Waiters
from perdure.node.ownership.scope import Moved
from perdure.node.queues.routes import hints_of
from perdure.node.telemetry.failures import log_instance, log_letter
from perdure.runlog import show_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.data.commit import Verdict
    from perdure.kernel.data.message import Message
    from perdure.kernel.unit.kinds import Unit
    from perdure.kernel.unit.turn import Milestones
    from perdure.node.activities.attempts import Attempts
    from perdure.node.surroundings import Surroundings

logger = logging.getLogger("perdure.node")


class Placing(Protocol):
    """Has units go where they can be run."""

    def consider(self, unit: Unit) -> None:
        """The unit is held for the lack of code."""
        ...

    def send_home(self, unit: str) -> None:
        """The unit need not stay in its pin."""
        ...

    def look_for(self, unit: str) -> None:
        """A message is stored for a unit that is not where its id leads to, on this node or not."""
        ...


class Turns:
    """Runs the units of a node. See the module's docstring for the path of a message."""

    def __init__(
        self, given: Surroundings, make_attempts: Callable[[Callable[[Message], None]], Attempts]
    ) -> None:
        """Wire the parts. `make_attempts` makes the runner of activities from `deliver`."""
        residents = Residents(given.kinds, given.options, given.elders)
        self.store = given.store
        self.node_name = given.node_name
        self.count = 0
        self.waiters = Waiters()
        self.deadlines = Deadlines(given.clock, self.wake, given.options.horizon_ms)
        self.attempts = make_attempts(self.deliver)
        self._clock = given.clock
        self._tally = given.tally
        self._metrics = given.metrics
        self._outside = given.outside
        self._ownership = given.ownership
        self._ready = Ready(given.ownership, self._turn, self._round_over, self._is_behind)
        self._supervisor = Supervisor(given)
        self.memory = Memory(
            given, residents, self._supervisor, self.attempts, self.deadlines, self._ready
        )
        self.freezer = Freezer(given, self.memory, self._ready)
        self._committer = Committer(given, self.freezer, self._ready.go_on)
        self._refusals = Refusals(given, self.memory)
        self._stages = Stages()
        self._placing: Placing | None = None
        # A commit id is the incarnation's id (8 random bytes) and a count: no two lives share one.
        self._commit_prefix = bytes.fromhex(given.incarnation.id)
        self.ending = Ending(
            given.ownership,
            self._ready,
            self._stages,
            self._committer,
            self.memory,
            self.deadlines,
            self.waiters,
        )

    def place_by(self, placing: Placing) -> None:
        """The node is one of several. Units may be better off at another one."""
        self._placing = placing

    # ------------------------------------------------------------ 1. messages and deadlines

    def deliver(self, message: Message, ack: Ack | None = None, *, stored: bool = False) -> None:
        """Take a message to its unit. `ack` gets the outcome once the outcome is durable.

        `stored`: the message stands in the unit's inbox already.
        """
        if self.ending.has_begun:
            refuse(ack, StoreUnavailable("the node is stopping; send it again to the next one"))
            return
        if ack is not None and self._ownership.is_frozen:
            # Before its unit enters memory: a unit without a message would never be loaded.
            refuse(ack, self.freezer.error())
            return
        memory = self.memory
        resident = memory.residents.get(message.to)
        if resident is None:
            resident = memory.enter(message)
        scope = None
        if resident is not None:
            scope = resident.scope
        if resident is None or (scope is not None and not scope.takes_messages):
            # A stored message waits in the inbox, and the next owner derives results again.
            refuse(ack, Moved())
            if stored and self._outside is not None:
                self._outside.hint(message.to)
            return
        if resident.receive(message, ack, stored=stored):
            self._ready.queue(resident)

    def wake(self, unit: str) -> None:
        """A deadline of the unit has passed."""
        if not self.ending.has_begun:
            self.memory.wake(unit)

    # ------------------------------------------------------------ 2. a turn

    def _turn(self, resident: Resident) -> None:
        """Have a ready unit take its turn, unless something has changed since it became ready."""
        unit, scope = resident.unit, resident.scope
        if self.ending.has_begun and not resident.mailbox:
            # It would go on without a message. The next node has it do that.
            self.memory.residents.rest(resident)
            return
        if scope is None or not scope.takes_turns:
            self.memory.expel(resident, unit.row)
            return
        if resident.released and unit.held is not None:
            # A retry came while it was busy. The message stays in the mailbox.
            self.memory.reload(resident)
            return
        if resident.released:
            resident.is_tried()
        self.count += 1
        commit_id = self._commit_prefix + self.count.to_bytes(8)
        now = self._clock.now_ms()
        turn = self._supervisor.advance(resident, now, scope.fence, commit_id)
        if isinstance(turn, Turn):
            self._commit(resident, turn)
        elif isinstance(turn, Discarded):
            self.memory.discard(resident, turn.cause)
        else:
            resident.begin_work()
            self._stages.begin(turn, partial(self._worked, resident))

    def _worked(self, resident: Resident, turn: Turn | Discarded) -> None:
        """The work of a turn has ended, and its commit can follow."""
        scope = resident.scope
        if scope is None or scope.state == "lost":
            # The new owner does the work again. In a scope that is frozen or drained the commit
            # goes to the committer: the unit is still this node's.
            resident.mailbox.restore()
            self.memory.expel(resident, resident.unit.row)
        elif isinstance(turn, Discarded):
            self.memory.discard(resident, turn.cause)
        else:
            self._commit(resident, turn)
            self._committer.flush()  # no round of turns ends here, which would do it

    def _round_over(self) -> None:
        """Turns have been taken for a while: load units that wait, and hand over their commits."""
        self.memory.loader.go_on()
        self._committer.flush()

    def _is_behind(self) -> bool:
        return self._committer.is_behind

    # ------------------------------------------------------------ 3. its commit

    def _commit(self, resident: Resident, turn: Turn) -> None:
        """Make a turn durable. Nothing that it decided is seen before."""
        resident.begin_commit()
        claims = self._ownership.claims
        if turn.commit is None:  # it changed nothing, so there is nothing to wait for
            resident.mailbox.settle((), ())
            self._tally.take_turn(None, turn.milestones)
            self._effects(resident, turn, claims)
        else:
            settled = partial(self._settled, resident, turn, claims)
            self._committer.submit(turn.commit, settled)

    def _settled(
        self, resident: Resident, turn: Turn, claims: int, verdict: Verdict, unsure: bool
    ) -> None:
        """The store has decided about a commit that was submitted after so many claims of scopes.

        `unsure`: an earlier try of the commit may have been applied without an answer.
        """
        if verdict != "applied":
            self._refusals.take(resident, turn, verdict, unsure=unsure)
            return
        assert turn.commit is not None
        resident.mailbox.settle(turn.kept, turn.commit.consume)
        if resident.failures and resident.unit.held is None:
            resident.has_succeeded()
        self._tally.take_turn(turn.commit, turn.milestones)
        self._effects(resident, turn, claims)

    # ------------------------------------------------------------ 4. its effects

    def _effects(self, resident: Resident, turn: Turn, claims: int) -> None:
        """Carry out a durable turn: work, messages, answers, deadlines, the next turn."""
        unit, scope = resident.unit, resident.scope
        # A scope that leaves this node begins nothing. Its next owner derives the work from rows.
        serves = scope is not None and scope.takes_messages
        row = unit.row
        # A turn may have put its unit into another scope. Written out, because each message asks.
        if serves and scope is not None and row is not None and row.scope != scope.name:
            serves = False
        if self._metrics is not None:
            self._metrics.turn(turn)
        if turn.logs:
            show_logs(turn.logs)
        if turn.warning is not None:
            logger.warning("%s", turn.warning, extra=ids_of(unit, self.node_name))
        for letter in turn.letters:
            log_letter(unit.id, letter, ids_of(unit, self.node_name))
        for call in turn.cancelled:
            self.attempts.cancel(unit.id, call)
        if serves:
            for call in turn.calls:
                self.attempts.start(unit.id, call)
        commit = turn.commit
        if commit is not None:
            if commit.expect == 0 and scope is not None and not scope.is_home:
                # Messages that came before it waited where its id leads to, and are here now.
                self._ownership.note_stray(unit.id, scope.name)
                resident.expect_messages()
            for message in commit.post:
                if message.id not in turn.kept:  # the unit itself has those in memory
                    self._pass_on(message, claims)
            if commit.tasks_added or commit.tasks_dropped:
                self.store.tell_workers(hints_of(turn))
        self._conclude(resident, turn, serves=serves)

    def _conclude(self, resident: Resident, turn: Turn, *, serves: bool) -> None:
        """Tell those who wait for the turn, and let its unit go on."""
        unit = resident.unit
        if resident.acks is not None and turn.answers:
            resident.answer(turn.answers)
        if turn.milestones is not None:
            self._reached(unit, turn.milestones)
        if unit.held is not None and unit.row is not None and is_held(unit.row):
            self.waiters.held(unit.row)
        if turn.deleted and self._outside is not None:
            self._outside.removed(unit.id)
        if turn.closed or turn.wake_at is not None or self.deadlines.holds(unit.id):
            self._plan(resident, turn, serves=serves)
        self._next(resident, turn)

    def _reached(self, unit: Unit, milestones: Milestones) -> None:
        """Tell callers and the log of what happens once in the life of an instance."""
        if unit.row is not None:
            log_instance(unit.row, milestones, ids_of(unit, self.node_name))
        for row in milestones.replaced:
            self.waiters.ended(row)

    def _pass_on(self, message: Message, claims: int) -> None:
        """Deliver a message that a commit has stored, if its unit is this node's.

        A unit that has come to this node since the commit was submitted may have taken the message
        under its owner before. Its inbox says whether it has.
        """
        if claims != self._ownership.claims or self._placing is not None:
            home = self.memory.home_of(message.to)
            if home is None and self._outside is not None:
                self._outside.hint(message.to)
            if home is None and self._placing is not None:
                self._placing.look_for(message.to)
                return
            if home is None or home.number > claims:
                self.memory.look_into_inbox(message.to)
                return
        self.deliver(message, stored=True)

    def _plan(self, resident: Resident, turn: Turn, *, serves: bool) -> None:
        """Note the unit's deadline, or its end."""
        unit, scope = resident.unit, resident.scope
        if turn.closed:
            assert unit.row is not None
            assert unit.row.status in CLOSED
            self.attempts.abandon(unit.id)
            self.deadlines.clear(unit.id)
            self.waiters.ended(unit.row)
        elif turn.wake_at and serves:
            is_near = self.deadlines.set(unit.id, turn.wake_at)
            if not is_near and scope is not None and scope.horizon is not None:
                scope.horizon.leave(turn.wake_at)  # a scan of the scope finds it in time
        elif turn.wake_at is None:
            self.deadlines.clear(unit.id)

    def _next(self, resident: Resident, turn: Turn) -> None:
        """Read the unit's inbox, give it another turn, let it stay, or let it leave memory."""
        unit, scope, memory = resident.unit, resident.scope, self.memory
        outdated = resident.outdated and resident.take_outdated()
        if scope is None or not scope.takes_messages:
            memory.expel(resident, unit.row)
        elif unit.row is not None and unit.row.scope != scope.name:
            memory.expel(resident, unit.row)
            self.waiters.moved(unit.row)
        elif turn.deleted:
            if resident.mailbox:  # a start that came behind the deletion begins a new run
                memory.reload(resident)
            else:
                memory.leave(resident)
        elif outdated and unit.row is not None and unit.row.reason in AFTER_DEPLOY:
            # The turn has held the unit for the lack of a definition, which came during the turn.
            memory.reload(resident)
        elif resident.has_new_messages:
            memory.loader.fetch(resident)
        elif turn.again or resident.mailbox.queue or resident.mailbox.control:
            self._ready.add(resident)
        elif unit.row is None:
            if unit.keeps_messages:
                memory.note_homeless(unit.id)
            memory.residents.forget(resident)
        elif turn.closed or (unit.held is not None and unit.is_poison):
            memory.residents.forget(resident)
        elif unit.lacks and self._placing is not None:
            memory.residents.rest(resident)
            self._placing.consider(unit)
        elif scope.leads_home and self._placing is not None:
            memory.residents.rest(resident)
            self._placing.send_home(unit.id)
        else:
            if memory.homeless:
                memory.found_home(unit.id)
            memory.residents.rest(resident)
