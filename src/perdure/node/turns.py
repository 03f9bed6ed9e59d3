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
from perdure.interceptor import Interceptor, TurnInfo, around_turn
from perdure.kernel.commit import CLOSED, Fence, SqlRefused
from perdure.kernel.held import AFTER_DEPLOY, POISONED
from perdure.kernel.loop import NeverIdle
from perdure.kernel.match import user_line, waiting_lines
from perdure.kernel.message import Message, Retry, Start
from perdure.kernel.placement import scope_of
from perdure.node.committer import Committer
from perdure.node.deadlines import Deadlines
from perdure.node.loader import Loader
from perdure.node.residents import Ack, Resident, Residents
from perdure.node.tally import Tally
from perdure.node.waiters import Waiters
from perdure.runlog import show_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from perdure.kernel.commit import UnitRow, Verdict
    from perdure.kernel.definition import Definitions
    from perdure.kernel.turn import Turn
    from perdure.kernel.unit import Unit
    from perdure.node.attempts import Attempts
    from perdure.node.metrics import Metrics
    from perdure.node.options import NodeOptions
    from perdure.node.watchdog import Watchdog
    from perdure.ports.clock import Clock
    from perdure.ports.store import Loaded, Store

logger = logging.getLogger("perdure.node")

_READY_SLICE_S = 0.01
"""Turns are taken for so long in one go. Then the node's event loop gets its turn."""

_READY_MANY = 256
"""With so many turns waiting, units that are due are not loaded: a message would wait behind them all."""

_LEAVING_SLICE_S = 0.01
"""The same for instances that leave memory when the node stops."""

_HOMELESS_MAX = 100_000
"""Ids of missing units whose mail is remembered. The oldest are forgotten first: their mail is found
by the node's next look at the store."""


class Slice:
    """The share of time that one turn may use."""

    __slots__ = ("_ends_s", "_length_s")

    def __init__(self, length_ms: int) -> None:
        """Each turn has so much."""
        self._length_s = length_ms / 1000
        self._ends_s = 0.0

    def begin(self) -> None:
        """A turn begins."""
        self._ends_s = monotonic() + self._length_s

    def is_spent(self) -> bool:
        """Whether the turn has had its share."""
        return monotonic() >= self._ends_s


class Turns:
    """Runs the units of a node. See the module's docstring for the path of a message."""

    def __init__(
        self,
        store: Store,
        definitions: Definitions,
        clock: Clock,
        options: NodeOptions,
        fences: dict[str, Fence],
        watchdog: Watchdog,
        incarnation: bytes,
        failed: Callable[[Exception], None],
    ) -> None:
        """Wire the parts; `attempts` is set by the node. Commit ids are `incarnation` (8 random bytes) and a count."""
        self.store = store
        self.clock = clock
        self.options = options
        self.interceptors: list[Interceptor] = []
        self.tally = Tally()
        self.metrics: Metrics | None = None
        self.node_name = ""
        self.waiters = Waiters()
        self.deadlines = Deadlines(clock, self.wake)
        self.residents = Residents(definitions, options, store.info)
        self.loader = Loader(
            store, options, self.residents, self._loaded, self._make_ready, self._is_busy
        )
        self._slice = Slice(options.turn_slice_ms)
        self._homeless: dict[str, None] = {}  # an ordered set
        self._failed = failed
        self._fences = fences
        self._watchdog = watchdog
        self._committer = Committer(store, options.store_retry_ms, failed)
        self._ready: deque[Resident] = deque()
        self._scheduled = False
        self._commit_prefix = incarnation
        self._commit_count = 0
        self._stopping = False

    def name_node(self, name: str) -> None:
        """What log records say about the node."""
        self.node_name = self._committer.node_name = self.loader.node_name = name

    def use(self, attempts: Attempts) -> None:
        """Run activities there."""
        self.attempts = attempts

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
            resident = self.residents.enter(message.to)
            if (
                type(message.body) is not Start
                or message.visible_at
                or message.to in self._homeless
            ):
                self.loader.load(resident)
        if not resident.receive(message, ack, stored=stored):
            return
        if type(message.body) is Retry:
            resident.release()
        if resident.state == "idle":
            self._make_ready(resident)

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
        elif resident.state == "idle":
            self.loader.fetch(resident)
        else:
            resident.has_mail = True

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
            resident.outdated = resident.state != "idle"

    def set_aside(self, unit: str, why: Failure) -> None:
        """Load the unit without running its code, and keep it suspended until it is released."""
        resident = self.residents.get(unit) or self.residents.enter(unit)
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
        if found.row is None:
            if not resident.mailbox:
                self._leave(resident)
                return
        else:
            self._homeless.pop(found.id, None)
            if not self._guarded(resident, lambda: _load(resident, found)):
                return
        resident.released = False
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
        unit = resident.unit
        if self._stopping and not resident.mailbox:
            self.residents.rest(resident)  # it would go on by itself; the next node sees to that
            return
        if resident.released and unit.held is not None:
            self._reload(resident)  # the retry that came while it was busy stays in the mailbox
            return
        resident.released = False
        scope = (
            unit.row.scope if unit.row is not None else scope_of(unit.id, self.store.info.shards)
        )
        fence = self._fences.get(scope)
        if fence is None:
            self._refuse(resident, f"this node does not own its scope {scope!r}")
            return
        self._commit_count += 1
        commit_id = self._commit_prefix + self._commit_count.to_bytes(8)
        turn = self._advance(resident, fence, commit_id)
        if turn is None:
            return
        resident.begin_commit()
        if turn.commit is None:
            resident.mailbox.settle((), ())
            self._effects(resident, turn)
        else:
            self._committer.submit(turn.commit, partial(self._settled, resident, turn))

    def _advance(self, resident: Resident, fence: Fence, commit_id: bytes) -> Turn | None:
        """Have the kernel take a turn. None: it was discarded."""
        unit, mailbox = resident.unit, resident.mailbox
        turn: Turn | None = None

        def advance() -> None:
            nonlocal turn
            self._slice.begin()
            turn = unit.advance(
                mailbox, self.clock.now_ms(), fence, commit_id, self._slice.is_spent
            )

        body = advance
        # A unit that is set aside runs no code, so an interceptor that fails must not stop that turn.
        if self.interceptors and not unit.is_poison:
            info = TurnInfo(unit.id, len(mailbox))

            def advance_inside() -> None:
                advance()
                assert turn is not None
                info.commits = turn.commit is not None
                if unit.row is not None:
                    info.workflow, info.execution = unit.row.type, unit.row.execution

            def intercepted() -> None:
                around_turn(self.interceptors, info, advance_inside)

            body = intercepted
        return turn if self._guarded(resident, body) else None

    def _guarded(self, resident: Resident, body: Callable[[], None]) -> bool:
        """Run workflow code under the watchdog; False if it had to be stopped, which discards the turn."""
        unit = resident.unit
        try:
            stuck = self._watchdog.run(unit.id, body)
        except NeverIdle as error:
            self._turn_failed(resident, f"{error}, at {_line(unit, [])}")
            return False
        except Exception as error:
            logger.exception("a turn of %r failed", unit.id, extra=self._ids(unit))
            self._turn_failed(resident, f"{type(error).__name__}: {error}")
            return False
        if stuck is not None:
            limit_ms = self.options.turn_limit_ms
            self._turn_failed(
                resident, f"it took longer than {limit_ms} ms, at {_line(unit, stuck.stack)}"
            )
            return False
        return True

    def _turn_failed(self, resident: Resident, cause: str) -> None:
        """The turn is discarded. After a few in a row the instance is set aside, so that it stops nothing else."""
        unit_id, ids = resident.unit.id, self._ids(resident.unit)
        if resident.unit.run is not None:
            show_logs(resident.unit.run.take_logs(), discarded=True)
        resident.failures += 1
        self.tally.turn_failures += 1
        self._drop_unit(resident)
        logger.warning("a turn of %r was stopped: %s", unit_id, cause, extra=ids)
        if resident.failures >= self.options.turn_failures:
            text = (
                f"{resident.failures} turns of {unit_id!r} in a row were stopped: {cause}. "
                "Mend the code, deploy it, and release the instance with retry()."
            )
            resident.unit.hold(Failure(POISONED, text, "poison", retryable=False))
        self.loader.load(resident)

    def _ids(self, unit: Unit) -> dict[str, object]:
        """What log records about a unit carry."""
        ids: dict[str, object] = {"node": self.node_name, "instance": unit.id}
        row = unit.row
        if row is not None:
            ids |= {"execution": row.execution, "workflow": row.type, "version": row.type_version}
        return ids

    # ------------------------------------------------------------ after the commit

    def _settled(self, resident: Resident, turn: Turn, verdict: Verdict) -> None:
        unit = resident.unit
        if verdict == "applied":
            commit = turn.commit
            assert commit is not None
            resident.mailbox.settle(turn.kept, commit.consume)
            resident.failures = 0 if unit.held is None else resident.failures
            self._effects(resident, turn)
            return
        self.tally.refusals += 1
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
            self._lose(resident)

    def _refuse(self, resident: Resident, reason: str) -> None:
        """Nothing of the unit can be recorded here."""
        unit = resident.unit
        logger.error("a commit of %r was refused: %s", unit.id, reason, extra=self._ids(unit))
        self.attempts.abandon(unit.id)
        resident.refuse(StoreUnavailable(f"the request for {unit.id!r} was not recorded: {reason}"))
        self.residents.forget(resident)

    def _lose(self, resident: Resident) -> None:
        """Another node owns the scope. This one must not act any more, neither here nor by a late release."""
        reason = "another node owns its scope now"
        self._refuse(resident, reason)
        self._failed(
            StoreUnavailable(
                f"another node has taken over what node {self.node_name!r} owned (found at a commit of"
                f" {resident.unit.id!r}). Nothing that was acknowledged is lost. Look for a second node"
                " on the same store"
            )
        )

    def _effects(self, resident: Resident, turn: Turn) -> None:
        """What follows a durable turn, in this order: running work, messages, answers, the next turn."""
        unit = resident.unit
        self._count(turn)
        if turn.logs:
            show_logs(turn.logs)
        if turn.warning is not None:
            logger.warning("%s", turn.warning, extra=self._ids(unit))
        for call in turn.cancelled:
            self.attempts.cancel(unit.id, call)
        for call in turn.calls:
            self.attempts.start(unit, call)
        if turn.commit is not None:
            for message in turn.commit.post:
                if message.id not in turn.kept:
                    self.deliver(message, stored=True)
        if resident.acks is not None and turn.answers:
            resident.answer(turn.answers)
        if turn.milestones is not None:
            for row in turn.milestones.replaced:
                self.waiters.ended(row)
        if turn.closed:
            assert unit.row is not None
            assert unit.row.status in CLOSED
            self.attempts.abandon(unit.id)
            self.deadlines.clear(unit.id)
            self.waiters.ended(unit.row)
        elif turn.wake_at:
            self.deadlines.set(unit.id, turn.wake_at)
        elif turn.wake_at is None:
            self.deadlines.clear(unit.id)
        self._next(resident, turn)

    def _count(self, turn: Turn) -> None:
        """Note a turn that is durable: what is counted always, and what is recorded for others."""
        tally, commit = self.tally, turn.commit
        tally.turns += 1
        if commit is not None:
            tally.commits += 1
            if turn.milestones is not None:
                tally.pass_milestones(turn.milestones, commit.row)
        if self.metrics is not None:
            self.metrics.turn(turn)

    def _next(self, resident: Resident, turn: Turn) -> None:
        """What the unit does after its turn: read its mail, take another turn, stay, or leave memory."""
        unit = resident.unit
        outdated, resident.outdated = resident.outdated, False
        if turn.deleted:
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
            if unit.waiting.kept:
                self._note_homeless(unit.id)
            self.residents.forget(resident)
        elif turn.closed or unit.is_poison:
            self.residents.forget(resident)
        else:
            self._homeless.pop(unit.id, None)
            self.residents.rest(resident)

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
        return not (self._ready or self._committer.busy or self.loader.reading)

    async def settle(self) -> None:
        """Wait until it is quiet. What attempts, clients and clocks bring later is not waited for."""
        while not self.quiet:
            await asyncio.sleep(0)  # those that are ready take their turn
            await self.loader.settle()
            await self._committer.drain()

    # ------------------------------------------------------------ the end

    async def stop(self, cause: Exception | None = None) -> None:
        """Take nothing more, let the commits on their way finish, leave memory. Who waits is told the cause."""
        self._stopping = True
        self.deadlines.stop()
        await self.loader.stop()
        # What has arrived is recorded. Units that would go on by themselves take no further turn.
        while self._ready:
            self._run_ready()
            await asyncio.sleep(0)
        await self._committer.drain()
        self._committer.stop()
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


def _load(resident: Resident, found: Loaded) -> None:
    assert found.row is not None
    released = resident.released
    resident.unit.load(found.version, found.row, found.journal, found.kv, released=released)


def _line(unit: Unit, stack: list[str]) -> str:
    """Where the code of a turn that was stopped is."""
    line = user_line(stack)
    if line is None and unit.run is not None:
        line = next(iter(waiting_lines(unit.run.loop)), None)
    return line or (stack[-1] if stack else "an unknown line")
