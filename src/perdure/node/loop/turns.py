"""The loop of a node: message, turn, commit, effects.

    deliver ──▶ mailbox ──▶ ready ──▶ unit.advance ──▶ committer ──▶ _settled ──▶ _effects
                   ▲                     (kernel)        (store)                     │
                   └────────────── results, timers, messages to others ◀─────────────┘

Theory of operation. Each instance in memory is a `Resident`: a unit of the kernel, a mailbox, and a
state. A message goes into the mailbox and makes the resident ready. Ready residents take their turns
one after the other. A turn's commit goes to the committer. While it is on its way the resident takes
no other turn, and its new messages gather. When the commit is durable its effects follow: activities,
messages to other units, answers to senders, deadlines. When the commit is refused, the unit is dropped
and what its turn took is in the mailbox again, as it was.

Nothing here is durable, and nothing here needs to be: everything can be derived again from rows. A
unit that is not in memory is loaded first. A start is the exception: it is tried as if the id were
new. The store refuses it if the id is known (`stale`), and then the unit is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import CLOSED
from perdure.kernel.data.message import Message, Retry
from perdure.kernel.unit.held import AFTER_DEPLOY
from perdure.kernel.unit.turn import Turn
from perdure.node.loop.committer import Committer
from perdure.node.loop.deadlines import Deadlines
from perdure.node.loop.freezer import Freezer
from perdure.node.loop.memory import Memory
from perdure.node.loop.patience import Patience
from perdure.node.loop.ready import Ready
from perdure.node.loop.refusals import Refusals
from perdure.node.loop.residents import Ack, Resident, Residents
from perdure.node.loop.stages import Stages
from perdure.node.loop.supervisor import Discarded, Supervisor, ids_of
from perdure.node.loop.waiters import Waiters
from perdure.node.ownership.scope import Moved
from perdure.runlog import show_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.data.commit import Verdict
    from perdure.node.activities.attempts import Attempts
    from perdure.node.surroundings import Surroundings

logger = logging.getLogger("perdure.node")


class Turns:
    """Runs the units of a node. See the module's docstring for the path of a message."""

    def __init__(
        self, given: Surroundings, make_attempts: Callable[[Callable[[Message], None]], Attempts]
    ) -> None:
        """Wire the parts. `make_attempts` makes what runs activities, from the way of their results."""
        store, options, name = given.store, given.options, given.node_name
        residents = Residents(given.kinds, options)
        self.store = store
        self.metrics = given.metrics
        self.node_name = name
        self.count = 0
        self.waiters = Waiters()
        self.deadlines = Deadlines(given.clock, self.wake, options.horizon_ms)
        self.attempts = make_attempts(self.deliver)
        self._tally = given.tally
        self._ownership = given.ownership
        self._ready = Ready(residents, given.ownership, self._turn, self._round_over)
        self._supervisor = Supervisor(given)
        self.memory = Memory(
            given, residents, self._supervisor, self.attempts, self.deadlines, self._ready
        )
        self._freezer = Freezer(given.ownership, self.memory, name, options.store_retry_ms)
        self._patience = Patience(name, options.store_retry_ms)
        self._committer = Committer(
            store, self._patience, self._freezer.freeze, self._thaw, given.failed
        )
        self._refusals = Refusals(given, self.memory)
        self._stages = Stages()
        # Commit ids are the incarnation's (8 random bytes) and a count.
        self._commit_prefix = bytes.fromhex(given.incarnation.id)
        self._stopping = False

    # ------------------------------------------------------------ 1. what comes in

    def deliver(self, message: Message, ack: Ack | None = None, *, stored: bool = False) -> None:
        """Take a message to its unit. `ack` gets the outcome once it is durable.

        `stored` says that the message stands in the unit's inbox already.
        """
        if self._stopping:
            text = "the node is stopping; send it again to the next one"
            _refuse(ack, StoreUnavailable(text))
            return
        if ack is not None and self._ownership.is_frozen:
            # Before its unit enters: a unit that nothing is delivered to would never be loaded.
            _refuse(ack, self._freezer.error())
            return
        memory = self.memory
        resident = memory.residents.get(message.to)
        if resident is None:
            resident = memory.enter(message)
        scope = resident.scope if resident is not None else None
        if resident is None or (scope is not None and not scope.takes_messages):
            # A message that is stored waits in the inbox. Results are derived again by the owner.
            _refuse(ack, Moved())
            return
        if not resident.receive(message, ack, stored=stored):
            return
        if type(message.body) is Retry:
            resident.release()
        if resident.state == "idle":
            self._ready.add(resident)

    def wake(self, unit: str) -> None:
        """The unit has a deadline that passed."""
        if not self._stopping:
            self.memory.wake(unit)

    # ------------------------------------------------------------ 2. a turn

    def _turn(self, resident: Resident) -> None:
        unit, scope = resident.unit, resident.scope
        if self._stopping and not resident.mailbox:
            # It would go on by itself. The next node sees to that.
            self.memory.residents.rest(resident)
            return
        if scope is None or not scope.takes_turns:
            self.memory.expel(resident, unit.row)
            return
        if resident.released and unit.held is not None:
            # The retry that came while it was busy stays in the mailbox.
            self.memory.reload(resident)
            return
        if resident.released:
            resident.is_tried()
        self.count += 1
        commit_id = self._commit_prefix + self.count.to_bytes(8)
        turn = self._supervisor.advance(resident, scope.fence, commit_id)
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
        if scope is None or not scope.takes_turns:
            resident.mailbox.restore()
            self.memory.expel(resident, resident.unit.row)
        elif isinstance(turn, Discarded):
            self.memory.discard(resident, turn.cause)
        else:
            self._commit(resident, turn)
            self._committer.flush()

    def _round_over(self) -> None:
        """Turns have been taken for a while: hand their commits over, and load what waits for that."""
        self._committer.flush()
        self.memory.loader.go_on()

    def _thaw(self) -> None:
        if self._freezer.thaw():
            self._ready.schedule()

    # ------------------------------------------------------------ 3. its commit

    def _commit(self, resident: Resident, turn: Turn) -> None:
        """Make a turn durable. Nothing that it decided is seen before that."""
        resident.begin_commit()
        claims = self._ownership.claims
        if turn.commit is None:
            resident.mailbox.settle((), ())
            self._effects(resident, turn, claims)
        else:
            settled = partial(self._settled, resident, turn, claims)
            self._committer.submit(turn.commit, settled)

    def _settled(
        self, resident: Resident, turn: Turn, claims: int, verdict: Verdict, unsure: bool
    ) -> None:
        """The store has decided about a commit that was submitted after so many claims.

        `unsure`: an earlier try may have been applied without an answer.
        """
        if verdict != "applied":
            self._refusals.take(resident, turn, verdict, unsure=unsure)
            return
        assert turn.commit is not None
        resident.mailbox.settle(turn.kept, turn.commit.consume)
        if resident.failures and resident.unit.held is None:
            resident.has_succeeded()
        self._effects(resident, turn, claims)

    # ------------------------------------------------------------ 4. its effects

    def _effects(self, resident: Resident, turn: Turn, claims: int) -> None:
        """What follows a durable turn: work, messages, answers, deadlines, the next turn."""
        unit, scope = resident.unit, resident.scope
        serves = scope is not None and scope.takes_messages
        self._tally.take_turn(turn.commit, turn.milestones)
        if self.metrics is not None:
            self.metrics.turn(turn)
        if turn.logs:
            show_logs(turn.logs)
        if turn.warning is not None:
            logger.warning("%s", turn.warning, extra=ids_of(unit, self.node_name))
        for call in turn.cancelled:
            self.attempts.cancel(unit.id, call)
        if serves:
            for call in turn.calls:
                self.attempts.start(unit.id, call)
        if turn.commit is not None:
            for message in turn.commit.post:
                if message.id not in turn.kept:
                    self._pass_on(message, claims)
        if resident.acks is not None and turn.answers:
            resident.answer(turn.answers)
        if turn.milestones is not None:
            for row in turn.milestones.replaced:
                self.waiters.ended(row)
        if turn.closed or turn.wake_at is not None or self.deadlines.holds(unit.id):
            self._plan(resident, turn, serves=serves)
        self._next(resident, turn)

    def _pass_on(self, message: Message, claims: int) -> None:
        """Deliver a message that a commit has stored, if its unit is ours.

        A unit that has come to us since the commit was submitted may have taken the message
        elsewhere. Its inbox knows.
        """
        if claims != self._ownership.claims:
            resident = self.memory.residents.get(message.to)
            home = self._ownership.home_of(message.to) if resident is None else resident.scope
            if home is None or home.number > claims:
                self.memory.look_for_mail(message.to)
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
            is_held = self.deadlines.set(unit.id, turn.wake_at)
            if not is_held and scope is not None and scope.horizon is not None:
                scope.horizon.leave(turn.wake_at)  # a scan of the scope finds it
        elif turn.wake_at is None:
            self.deadlines.clear(unit.id)

    def _next(self, resident: Resident, turn: Turn) -> None:
        """Read the unit's mail, give it another turn, let it stay, or let it leave memory."""
        unit, scope, memory = resident.unit, resident.scope, self.memory
        outdated = resident.outdated and resident.take_outdated()
        if scope is None or not scope.takes_messages:
            memory.expel(resident, unit.row)
        elif turn.deleted:
            if resident.mailbox:
                memory.reload(resident)
            else:
                memory.leave(resident)
        elif outdated and unit.row is not None and unit.row.reason in AFTER_DEPLOY:
            memory.reload(resident)
        elif resident.has_mail:
            memory.loader.fetch(resident)
        elif turn.again or resident.mailbox.queue or resident.mailbox.control:
            self._ready.add(resident)
        elif unit.row is None:
            if unit.keeps_messages:
                memory.note_homeless(unit.id)
            memory.residents.forget(resident)
        elif turn.closed or (unit.held is not None and unit.is_poison):
            memory.residents.forget(resident)
        else:
            if memory.homeless:
                memory.found_home(unit.id)
            memory.residents.rest(resident)

    # ------------------------------------------------------------ rest, and the end

    @property
    def quiet(self) -> bool:
        """Whether no turn is ready or on its way to the store, and nothing is being read from it."""
        busy = self._ready or self._stages.busy or self._committer.busy
        return not busy and not self.memory.loader.reading

    async def settle(self) -> None:
        """Wait until it is quiet. What attempts, clients and clocks bring later is not waited for."""
        while not self.quiet:
            await asyncio.sleep(0)  # those that are ready take their turn
            await self.memory.loader.settle()
            await self._committer.drain()

    async def stop(self, cause: Exception | None = None) -> None:
        """Take nothing more, let the commits on their way finish, leave memory.

        Whoever waits is told the cause. A store that is away is waited for until its answer is late.
        """
        self._stopping = True
        self.deadlines.stop()
        await self.memory.loader.stop()
        self._patience.hurry()
        # What has arrived is recorded. Units that would go on by themselves take no further turn.
        while self._ready and not self._ownership.is_frozen:
            self._ready.run()
            await asyncio.sleep(0)
        await self._stages.stop()
        await self._committer.drain()
        self._committer.stop()
        self._patience.stop()
        error = _stopped(cause)
        await self.memory.clear(error)
        self.waiters.fail(error)

    def leave_at_once(self) -> None:
        """End a stop that was cancelled: leave memory in one go.

        A unit that stayed would be left to the garbage collector, which runs lines of its code.
        """
        self._stopping = True
        self.deadlines.stop()
        self.attempts.leave_at_once()
        self.memory.loader.close()
        self._stages.give_up()
        self._committer.stop()
        self._patience.stop()
        error = _stopped(None)
        self.memory.clear_at_once(error)
        self.waiters.fail(error)


def _stopped(cause: Exception | None) -> StoreUnavailable:
    """The answer of a node that has stopped to everybody who still waits."""
    why = f"{cause}. The node has stopped" if cause is not None else "the node has stopped"
    return StoreUnavailable(f"{why}; the instance goes on when a node runs again", "unknown")


def _refuse(ack: Ack | None, error: Exception) -> None:
    """Tell the sender of a message that it was not taken, if it waits."""
    if ack is not None:
        ack.set_exception(error)
