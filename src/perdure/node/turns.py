"""The loop of a node: message, turn, commit, effects.

    deliver ──▶ mailbox ──▶ _run_ready ──▶ unit.advance ──▶ committer ──▶ _settled ──▶ _effects
                   ▲                          (kernel)        (store)                    │
                   └──────────────── results, timers, messages to others ◀───────────────┘

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
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from perdure.errors import Failure, StoreUnavailable
from perdure.kernel.commit import CLOSED, SqlRefused
from perdure.kernel.held import AFTER_DEPLOY, POISONED
from perdure.kernel.message import Message, Retry, Start
from perdure.kernel.turn import Turn
from perdure.node.committer import Committer
from perdure.node.deadlines import Deadlines
from perdure.node.loader import Loader
from perdure.node.ownership.scope import Moved
from perdure.node.patience import Patience
from perdure.node.residents import Ack, Resident, Residents
from perdure.node.stages import Stages
from perdure.node.supervisor import Discarded, ids_of
from perdure.node.waiters import Waiters
from perdure.workflow import show_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from perdure.kernel.commit import UnitRow, Verdict
    from perdure.kernel.kinds import Kinds
    from perdure.node.attempts import Attempts
    from perdure.node.metrics import Metrics
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.ownership.scope import Scope
    from perdure.node.supervisor import Supervisor
    from perdure.node.tally import Tally
    from perdure.ports.clock import Clock
    from perdure.ports.store import Incarnation, Loaded, Store

logger = logging.getLogger("perdure.node")

_READY_SLICE_S = 0.01
"""Turns are taken for so long in one go. Then the node's event loop gets its turn."""

_READY_MANY = 256
"""With so many turns waiting, units that are due are not loaded: a message would wait behind them all."""

_LEAVING_SLICE_S = 0.01
"""The same for instances that leave memory when the node stops, or when a scope goes."""

_HOMELESS_MAX = 100_000
"""Ids of missing units whose mail is remembered. The oldest are forgotten first: their mail is found
by the node's next look at the store."""


class Turns:
    """Runs the units of a node. See the module's docstring for the path of a message."""

    def __init__(
        self,
        store: Store,
        kinds: Kinds,
        clock: Clock,
        options: NodeOptions,
        *,
        incarnation: Incarnation,
        ownership: Ownership,
        supervisor: Supervisor,
        tally: Tally,
        metrics: Metrics | None,
        make_attempts: Callable[[Callable[[Message], None]], Attempts],
        failed: Callable[[Exception], None],
    ) -> None:
        """Wire the parts. `make_attempts` makes what runs activities, from the way of their results.

        `failed` is told of what the node cannot go on with.
        """
        self.store = store
        self.clock = clock
        self.options = options
        self.tally = tally
        self.metrics = metrics
        self.ownership = ownership
        self.node_name = incarnation.node
        self.waiters = Waiters()
        self.deadlines = Deadlines(clock, self.wake, options.horizon_ms)
        self.residents = Residents(kinds, options)
        self.loader = Loader(
            store,
            options,
            self.residents,
            ownership,
            Patience(self.node_name, options.store_retry_ms),
            self.node_name,
            self._loaded,
            self._make_ready,
            self._is_busy,
        )
        self.attempts = make_attempts(self.deliver)
        self._supervisor = supervisor
        self._homeless: dict[str, None] = {}  # an ordered set
        self._failed = failed
        self._patience = Patience(self.node_name, options.store_retry_ms)
        self._committer = Committer(store, self._patience, self._freeze, self._thaw, failed)
        self._stages = Stages()
        self._ready: deque[Resident] = deque()
        self._scheduled = False
        # Commit ids are the incarnation's (8 random bytes) and a count.
        self._commit_prefix = bytes.fromhex(incarnation.id)
        self._commit_count = 0
        self._stopping = False

    # ------------------------------------------------------------ what comes in

    def deliver(self, message: Message, ack: Ack | None = None, *, stored: bool = False) -> None:
        """Take a message to its unit. `ack` gets the outcome once it is durable.

        `stored` says that the message stands in the unit's inbox already.
        """
        if self._stopping:
            if ack is not None:
                ack.set_exception(
                    StoreUnavailable("the node is stopping; send it again to the next one")
                )
            return
        resident = self.residents.get(message.to)
        if resident is None:
            resident = self._enter(message)
        scope = resident.scope if resident is not None else None
        if resident is None or (scope is not None and not scope.takes_messages):
            # A message that is stored waits in the inbox. Results are derived again by the owner.
            _refuse(ack, Moved())
            return
        if ack is not None and self.ownership.is_frozen:
            _refuse(ack, self._frozen_error())
            return
        if not resident.receive(message, ack, stored=stored):
            return
        if type(message.body) is Retry:
            resident.release()
        if resident.state == "idle":
            self._make_ready(resident)

    def _enter(self, message: Message) -> Resident | None:
        """Bring the unit of a message into memory. None: it belongs to another node."""
        scope = self.ownership.home_of(message.to)
        if scope is None or not scope.takes_messages:
            return None
        may_be_new = type(message.body) is Start and not message.visible_at
        has_mail = message.to in self._homeless or self.loader.is_waiting(message.to)
        # Mail of the same sender may wait in the store, from when another node had the scope.
        is_known = self.ownership.is_alone or scope.is_scanned
        resident = self.residents.enter(message.to, scope, type(message.body))
        if has_mail or not (may_be_new and is_known):
            self.loader.load(resident)
        return resident

    def wake(self, unit: str) -> None:
        """The unit has a deadline that passed, or there is work for it in the store."""
        if self._stopping:
            return
        resident = self.residents.get(unit)
        if resident is None:
            self.loader.load_later(unit)
        elif resident.state == "idle":
            self._make_ready(resident)

    def mail(self, unit: str) -> None:
        """Somebody outside has posted to the unit: look into its inbox, and leave the unit as it is."""
        if self._stopping:
            return
        resident = self.residents.get(unit)
        if resident is None:
            self.loader.load_later(unit)
        elif resident.state in ("idle", "ready"):
            self.loader.fetch(resident)  # before its next turn: what waits there may be older
        else:
            resident.expect_mail()

    def look_for_mail(self, unit: str) -> None:
        """The same for a message of this node's client, which was posted while the unit moved."""
        if self.owns(unit):
            self.mail(unit)

    def try_again(self, units: Iterable[str]) -> None:
        """Load these held units again."""
        for unit in list(units):
            present = self.residents.get(unit)
            if present is None:
                self.loader.load_later(unit)
            elif present.state == "idle":
                self._reload(present)

    def definitions_changed(self) -> None:
        """Units that are busy may be about to be held for the lack of what is there now."""
        for resident in self.residents.all():
            resident.note_new_code()

    def set_aside(self, unit: str, why: Failure) -> None:
        """Load the unit without running its code, and keep it suspended until it is released."""
        resident = self.residents.get(unit)
        if resident is None:
            resident = self.residents.enter(unit, self.ownership.home_of(unit))
        resident.unit.hold(why)
        self.loader.load(resident)

    def revise_suspect(self, unit: str, revise: Callable[[int], int]) -> bool:
        """Change what the row says about crashes, in a commit of its own; False if the unit cannot do that now."""
        resident = self.residents.get(unit)
        if resident is None or resident.state != "idle":
            return False
        row = resident.unit.row
        if row is not None and revise(row.suspect) != row.suspect:
            resident.unit.suspect_of(revise(row.suspect))
            self._make_ready(resident)
        return True

    def row(self, unit: str) -> UnitRow | None:
        """The row of a unit in memory, if no turn of it is on its way."""
        resident = self.residents.get(unit)
        return resident.unit.row if resident is not None and resident.state == "idle" else None

    def _loaded(self, resident: Resident, found: Loaded) -> None:
        self.residents.rest(resident)
        scope = resident.scope
        if scope is None or not scope.takes_messages:
            self._expel(resident, found.row)
            return
        if found.row is None:
            if not resident.mailbox:
                self._leave(resident)
                return
        else:
            self._homeless.pop(found.id, None)
            discarded = self._supervisor.load(resident, found)
            if discarded is not None:
                self._turn_failed(resident, discarded.cause)
                return
        resident.is_tried()
        self._make_ready(resident)

    def _leave(self, resident: Resident) -> None:
        """Take a resident out of memory, unless somebody has posted to it meanwhile."""
        if resident.has_mail:
            self._reload(
                resident
            )  # by a new unit: the present one still has the row of the deleted run
            return
        self.residents.forget(resident)

    def _reload(self, resident: Resident) -> None:
        """Replace a unit by what the store has now. Its mailbox stays, its activities are given up."""
        self._drop_unit(resident)
        self.loader.load(resident)

    def _drop_unit(self, resident: Resident) -> None:
        self.residents.renew(resident)
        self.attempts.abandon(resident.unit.id)

    # ------------------------------------------------------------ turns

    def _make_ready(self, resident: Resident) -> None:
        self.residents.occupy(resident, "ready")
        self._ready.append(resident)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._run_ready)

    def _run_ready(self) -> None:
        self._scheduled = False
        if self.ownership.is_frozen:
            return  # the thaw goes on here
        ready = self._ready
        ends_s = monotonic() + _READY_SLICE_S
        while ready:
            resident = ready.popleft()
            if resident.state == "ready":
                self._turn(resident)
            if monotonic() >= ends_s:
                break
        self._committer.flush()
        if ready and not self._scheduled:
            self._schedule()
        self.loader.go_on()

    def _is_busy(self) -> bool:
        """Whether so many turns wait that units which are only due should stay on disk for now."""
        return len(self._ready) >= _READY_MANY

    def _turn(self, resident: Resident) -> None:
        unit, scope = resident.unit, resident.scope
        if self._stopping and not resident.mailbox:
            self.residents.rest(resident)  # it would go on by itself; the next node sees to that
            return
        if scope is None or not scope.takes_turns:
            self._expel(resident, unit.row)
            return
        if resident.released and unit.held is not None:
            self._reload(resident)  # the retry that came while it was busy stays in the mailbox
            return
        resident.is_tried()
        self._commit_count += 1
        commit_id = self._commit_prefix + self._commit_count.to_bytes(8)
        turn = self._supervisor.advance(resident, scope.fence, commit_id)
        if isinstance(turn, Turn):
            self._commit(resident, turn)
        elif isinstance(turn, Discarded):
            self._turn_failed(resident, turn.cause)
        else:
            resident.begin_work()
            self._stages.begin(turn, partial(self._worked, resident))

    def _worked(self, resident: Resident, turn: Turn | Discarded) -> None:
        """The work of a turn has ended, and its commit can follow."""
        scope = resident.scope
        if scope is None or not scope.takes_turns:
            resident.mailbox.restore()
            self._expel(resident, resident.unit.row)
        elif isinstance(turn, Discarded):
            self._turn_failed(resident, turn.cause)
        else:
            self._commit(resident, turn)
            self._committer.flush()

    def _commit(self, resident: Resident, turn: Turn) -> None:
        """Make a turn durable. Nothing that it decided is seen before that."""
        resident.begin_commit()
        if turn.commit is None:
            resident.mailbox.settle((), ())
            self._effects(resident, turn, self.ownership.claims)
        else:
            settled = partial(self._settled, resident, turn, self.ownership.claims)
            self._committer.submit(turn.commit, settled)

    def _turn_failed(self, resident: Resident, cause: str) -> None:
        """The turn is discarded. After a few in a row the instance is set aside, so that it stops nothing else."""
        unit_id, ids = resident.unit.id, ids_of(resident.unit, self.node_name)
        logs = resident.unit.take_logs()
        if logs:
            show_logs(logs, discarded=True)
        failures = resident.has_failed()
        self.tally.discard_turn()
        self._drop_unit(resident)
        logger.warning("a turn of %r was stopped: %s", unit_id, cause, extra=ids)
        if failures >= self.options.turn_failures:
            text = (
                f"{failures} turns of {unit_id!r} in a row were stopped: {cause}. "
                "Mend the code, deploy it, and release the instance with retry()."
            )
            resident.unit.hold(Failure(POISONED, text, "poison", retryable=False))
        self.loader.load(resident)

    # ------------------------------------------------------------ after the commit

    def _settled(
        self, resident: Resident, turn: Turn, claims: int, verdict: Verdict, unsure: bool
    ) -> None:
        """The store has decided about a commit that was submitted after so many claims.

        `unsure`: an earlier try may have been applied without an answer.
        """
        unit = resident.unit
        if verdict == "applied":
            commit = turn.commit
            assert commit is not None
            resident.mailbox.settle(turn.kept, commit.consume)
            if unit.held is None:
                resident.has_succeeded()
            self._effects(resident, turn, claims)
            return
        self.tally.refuse_commit()
        if self.metrics is not None:
            self.metrics.refused("sql" if isinstance(verdict, SqlRefused) else verdict)
        if isinstance(verdict, SqlRefused):
            show_logs(turn.logs, discarded=True)
            statement = f"the statement {verdict.statement} of its commit ({verdict.why})"
            self._turn_failed(resident, f"the store cannot run {statement}")
            return
        if verdict == "invalid":
            # The same turn is never recorded. After `stale` and `fenced` it is taken again, and
            # then shows what it says.
            show_logs(turn.logs, discarded=True)
        if verdict == "stale":
            self._reload(resident)
        elif verdict == "invalid" and unit.held is None:
            self._turn_failed(resident, "the store refused its commit as invalid")
        elif verdict == "invalid":
            self._refuse(resident, "the store refused the commit as invalid")
        else:
            self._fenced(resident, unsure=unsure)

    def _refuse(self, resident: Resident, reason: str) -> None:
        """Nothing of the unit can be recorded here."""
        unit = resident.unit
        logger.error(
            "a commit of %r was refused: %s", unit.id, reason, extra=ids_of(unit, self.node_name)
        )
        self.attempts.abandon(unit.id)
        resident.refuse(StoreUnavailable(f"the request for {unit.id!r} was not recorded: {reason}"))
        self.residents.forget(resident)

    def _fenced(self, resident: Resident, *, unsure: bool) -> None:
        """Another node owns the scope. Nothing of it may be done here any more."""
        unit, scope = resident.unit, resident.scope
        if unsure:
            # A new owner has written since, so nobody can say which of the two has taken the messages.
            text = f"the request for {unit.id!r} may have been recorded: another node owns it now"
            resident.refuse_taken(StoreUnavailable(text, "unknown"))
        if self.ownership.is_alone:
            self._refuse(resident, "another node owns its scope now")
            text = (
                f"another node has taken over what node {self.node_name!r} owned (found at a commit of"
                f" {unit.id!r}). Nothing that was acknowledged is lost. Look for a second node"
                " on the same store"
            )
            self._failed(StoreUnavailable(text))
            return
        self._expel(resident, unit.row)
        if scope is not None:
            self.ownership.lose(scope)

    # ------------------------------------------------------------ scopes that go, a store that is away

    def _expel(self, resident: Resident, row: UnitRow | None) -> None:
        """Take a unit of another owner out of memory. Its messages go by the store."""
        unit = resident.unit.id
        if self.ownership.is_alone and not self._stopping:
            name = row.scope if row is not None else "?"
            self._refuse(resident, f"this node does not own its scope {name!r}")
            return
        self.attempts.abandon(unit)
        self.deadlines.clear(unit)
        resident.refuse(Moved())
        self.residents.forget(resident)
        home = self.ownership.home_of(unit)
        if resident.has_mail and home is not None and home.takes_messages:
            self.loader.load_later(unit)  # the scope has come back while its unit was leaving

    async def empty(self, scope: Scope) -> None:
        """Take all units of a scope out of memory: the scope is drained, or lost.

        Turns that are under way and messages that have arrived are finished, if the scope still
        takes turns. A unit that is being read leaves when that has ended.
        """
        ends_s = monotonic() + _LEAVING_SLICE_S
        for resident in list(scope.residents.values()):
            if resident.scope is not scope or self.residents.get(resident.unit.id) is not resident:
                continue  # it has left while others had their turn
            has_turn = resident.state == "ready" and scope.takes_turns and resident.mailbox
            if resident.state in ("idle", "ready") and not has_turn:
                self._expel(resident, resident.unit.row)
            if monotonic() >= ends_s:
                await asyncio.sleep(0)
                ends_s = monotonic() + _LEAVING_SLICE_S
        await scope.emptied()
        self.waiters.redirect(self._is_elsewhere)

    def expel_all(self, residents: Iterable[Resident]) -> None:
        """Take units out of memory that were read and may not run."""
        for resident in residents:
            if self.residents.get(resident.unit.id) is resident:
                self._expel(resident, resident.unit.row)

    def _is_elsewhere(self, unit: str) -> bool:
        resident = self.residents.get(unit)
        scope = resident.scope if resident is not None else self.ownership.home_of(unit)
        return scope is None or not scope.takes_messages

    def owns(self, unit: str) -> bool:
        """Whether messages for the unit are to be delivered here."""
        return not self._is_elsewhere(unit)

    def _freeze(self, error: StoreUnavailable) -> None:
        """The store does not take what is committed, so nothing can be answered."""
        if not self.ownership.is_frozen:
            text = (
                "node %s is frozen: the store has not answered for %d ms, so nothing is done until it"
                " does: %s"
            )
            retry_ms = self.options.store_retry_ms
            logger.error(text, self.node_name, retry_ms, error, extra={"node": self.node_name})
            self.ownership.freeze()
        unknown = StoreUnavailable(f"{error}. It may be recorded when the store answers", "unknown")
        for resident in self.residents.all():
            resident.refuse_taken(unknown)
            resident.refuse_unstored(self._frozen_error())

    def _thaw(self) -> None:
        if not self.ownership.is_frozen:
            return
        logger.warning(
            "node %s goes on: the store answers again",
            self.node_name,
            extra={"node": self.node_name},
        )
        self.ownership.thaw()
        if not self._scheduled:
            self._schedule()

    def _frozen_error(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"node {self.node_name!r} cannot reach its store and takes no messages; nothing was done,"
            " so send it again when the store answers"
        )

    # ------------------------------------------------------------ effects

    def _effects(self, resident: Resident, turn: Turn, claims: int) -> None:
        """What follows a durable turn, in this order: running work, messages, answers, the next turn."""
        unit, scope = resident.unit, resident.scope
        serves = scope is not None and scope.takes_messages
        self._count(turn)
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
        self._plan(resident, turn, serves=serves)
        self._next(resident, turn)

    def _pass_on(self, message: Message, claims: int) -> None:
        """Deliver a message that a commit has stored, if its unit is ours.

        A unit that has come to us since the commit was submitted may have taken the message
        elsewhere. Its inbox knows.
        """
        if claims != self.ownership.claims:
            resident = self.residents.get(message.to)
            home = self.ownership.home_of(message.to) if resident is None else resident.scope
            if home is None or home.number > claims:
                self.look_for_mail(message.to)
                return
        self.deliver(message, stored=True)

    def _plan(self, resident: Resident, turn: Turn, *, serves: bool) -> None:
        """Note the unit's deadline, or its end."""
        unit = resident.unit
        if turn.closed:
            assert unit.row is not None
            assert unit.row.status in CLOSED
            self.attempts.abandon(unit.id)
            self.deadlines.clear(unit.id)
            self.waiters.ended(unit.row)
        elif turn.wake_at and serves:
            if not self.deadlines.set(unit.id, turn.wake_at):
                self._leave_to_scan(resident.scope, turn.wake_at)
        elif turn.wake_at is None:
            self.deadlines.clear(unit.id)

    def _count(self, turn: Turn) -> None:
        """Note a turn that is durable: what is counted always, and what is recorded for others."""
        self.tally.take_turn(turn.commit, turn.milestones)
        if self.metrics is not None:
            self.metrics.turn(turn)

    def _next(self, resident: Resident, turn: Turn) -> None:
        """What the unit does after its turn: read its mail, take another turn, stay, or leave memory."""
        unit = resident.unit
        outdated = resident.take_outdated()
        scope = resident.scope
        if scope is None or not scope.takes_messages:
            self._expel(resident, unit.row)
        elif turn.deleted:
            if resident.mailbox:
                self._reload(resident)
            else:
                self._leave(resident)
        elif outdated and unit.row is not None and unit.row.reason in AFTER_DEPLOY:
            self._reload(resident)
        elif resident.has_mail:
            self.loader.fetch(resident)
        elif turn.again or resident.mailbox.queue or resident.mailbox.control:
            self._make_ready(resident)
        elif unit.row is None:
            if unit.keeps_messages:
                self._note_homeless(unit.id)
            self.residents.forget(resident)
        elif turn.closed or unit.is_poison:
            self.residents.forget(resident)
        else:
            self._homeless.pop(unit.id, None)
            self.residents.rest(resident)

    @staticmethod
    def _leave_to_scan(scope: Scope | None, at: int) -> None:
        """A deadline is beyond the horizon: a scan of its scope finds it."""
        assert scope is not None
        assert scope.horizon is not None
        scope.horizon.leave(at)

    def _note_homeless(self, unit: str) -> None:
        """Messages wait in the store for a unit that does not exist: its start must look for them."""
        self._homeless[unit] = None
        if len(self._homeless) > _HOMELESS_MAX:
            del self._homeless[next(iter(self._homeless))]

    # ------------------------------------------------------------ rest

    @property
    def count(self) -> int:
        """How many turns were taken."""
        return self._commit_count

    @property
    def quiet(self) -> bool:
        """Whether no turn is ready or on its way to the store, and nothing is being read from it."""
        busy = self._ready or self._stages.busy or self._committer.busy or self.loader.reading
        return not busy

    async def settle(self) -> None:
        """Wait until it is quiet. What attempts, clients and clocks bring later is not waited for."""
        while not self.quiet:
            await asyncio.sleep(0)  # those that are ready take their turn
            await self.loader.settle()
            await self._committer.drain()

    # ------------------------------------------------------------ the end

    async def stop(self, cause: Exception | None = None) -> None:
        """Take nothing more, let the commits on their way finish, leave memory.

        Whoever waits is told the cause. A store that is away is waited for until its answer is late.
        """
        self._stopping = True
        self.deadlines.stop()
        await self.loader.stop()
        self._patience.hurry()
        # What has arrived is recorded. Units that would go on by themselves take no further turn.
        while self._ready and not self.ownership.is_frozen:
            self._run_ready()
            await asyncio.sleep(0)
        await self._stages.stop()
        await self._committer.drain()
        self._committer.stop()
        self._patience.stop()
        why = f"{cause}. The node has stopped" if cause is not None else "the node has stopped"
        error = StoreUnavailable(f"{why}; the instance goes on when a node runs again", "unknown")
        await self._empty_memory(error)
        self.waiters.fail(error)

    async def _empty_memory(self, error: Exception) -> None:
        ends_s = monotonic() + _LEAVING_SLICE_S
        for resident in self.residents.all():
            resident.refuse(error)
            self.residents.forget(resident)
            if monotonic() >= ends_s:
                await asyncio.sleep(0)
                ends_s = monotonic() + _LEAVING_SLICE_S


def _refuse(ack: Ack | None, error: Exception) -> None:
    """Tell the sender of a message that it was not taken, if it waits."""
    if ack is not None:
        ack.set_exception(error)
