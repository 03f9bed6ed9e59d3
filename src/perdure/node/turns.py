"""The loop of a node: message, turn, commit, effects.

    deliver ──▶ mailbox ──▶ _run_ready ──▶ unit.advance ──▶ committer ──▶ _settled ──▶ _effects
                   ▲                          (kernel)        (store)                    │
                   └──────────────── results, timers, messages to others ◀───────────────┘

Theory of operation. Each instance in memory is a `Resident`: a unit of the kernel, a mailbox, and a state. A message
goes into the mailbox and makes the resident ready; ready residents take their turns one after the other; a turn's
commit goes to the committer. While it is on its way the resident takes no other turn, its new messages gather. When
the commit is durable its effects follow: activities, messages to other units, answers to senders, deadlines.

Nothing here is durable, and nothing here needs to be: everything can be derived again from rows. A unit that is not
in memory is loaded first, except for a start, which is tried as if the id were new: the store refuses it if it is not
(`stale`), and then it is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from perdure.errors import Failure, StoreUnavailable
from perdure.interceptor import Interceptor, TurnInfo, around_turn
from perdure.kernel.commit import CLOSED, Fence
from perdure.kernel.held import AFTER_DEPLOY, POISONED
from perdure.kernel.loop import NeverIdle
from perdure.kernel.match import user_line, waiting_lines
from perdure.kernel.message import Message, Retry, Start
from perdure.kernel.placement import scope_of
from perdure.node.committer import Committer
from perdure.node.deadlines import Deadlines
from perdure.node.residents import Ack, Resident, Residents
from perdure.node.tally import Tally
from perdure.node.waiters import Waiters
from perdure.workflow import show_logs

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

_READY_BATCH = 128
"""Turns in one go; then the node's loop gets its turn."""


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
        self.residents = Residents(store, definitions, options, self._loaded, self._make_ready)
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
        self.node_name = self._committer.node_name = name

    def use(self, attempts: Attempts) -> None:
        """Run activities there."""
        self.attempts = self.residents.attempts = attempts

    # ------------------------------------------------------------ what comes in

    def deliver(self, message: Message, ack: Ack | None = None) -> None:
        """Take a message to its unit. `ack` gets the outcome once it is durable."""
        if self._stopping:
            if ack is not None:
                ack.set_exception(StoreUnavailable("the node is stopping; send it again to the next one"))
            return
        resident = self.residents.get(message.to)
        if resident is None:
            resident = self.residents.enter(message.to)
            if type(message.body) is not Start or message.visible_at:
                self.residents.load(resident)
        elif message.posted and message.id in resident.loaded_ids:
            return
        if type(message.body) is Retry:
            resident.released, resident.failures = True, 0
        resident.mailbox.append(message)
        if ack is not None:
            if resident.acks is None:
                resident.acks = {}
            resident.acks[message.id] = ack
        if resident.state == "idle":
            self._make_ready(resident)

    def wake(self, unit: str) -> None:
        """The unit has a deadline that passed, or there is work for it in the store."""
        if self._stopping:
            return
        resident = self.residents.get(unit)
        if resident is None:
            self.residents.load(self.residents.enter(unit))
        elif resident.state == "idle":
            self._make_ready(resident)

    def mail(self, unit: str) -> None:
        """Somebody outside has posted to the unit: look into its inbox, and leave the unit as it is."""
        resident = self.residents.get(unit)
        if resident is None:
            self.residents.load(self.residents.enter(unit))
        elif resident.state == "idle":
            self.residents.fetch(resident)
        else:
            resident.has_mail = True

    def try_again(self, units: Iterable[str]) -> None:
        """Load these held units again."""
        for unit in list(units):
            present = self.residents.get(unit)
            if present is None:
                self.residents.load(self.residents.enter(unit))
            elif present.state == "idle":
                self.residents.reload(present)

    def definitions_changed(self) -> None:
        """Units that are busy may be about to be held for the lack of what is there now."""
        for resident in self.residents.all():
            resident.outdated = resident.state != "idle"

    def set_aside(self, unit: str, why: Failure) -> None:
        """Load the unit without running its code, and keep it suspended until it is released."""
        resident = self.residents.get(unit) or self.residents.enter(unit)
        resident.unit.held = why
        self.residents.load(resident)

    def clear_suspicion(self, unit: str) -> None:
        """The unit did not crash the node while it was on trial."""
        resident = self.residents.get(unit)
        if resident is not None and resident.unit.row is not None and resident.unit.row.suspect:
            resident.unit.row.suspect = 0
            if resident.state == "idle":
                resident.unit.force_commit = True
                self._make_ready(resident)

    def row(self, unit: str) -> UnitRow | None:
        """The row of a unit in memory, if no turn of it is on its way."""
        resident = self.residents.get(unit)
        return resident.unit.row if resident is not None and resident.state == "idle" else None

    def _loaded(self, resident: Resident, found: Loaded) -> None:
        if found.row is None:
            resident.mailbox = [*found.inbox, *resident.mailbox]
            if not resident.mailbox:
                if resident.has_mail:  # posted after the store was read
                    self.residents.load(resident)
                else:
                    self.residents.forget(resident)
                return
        elif not self._guarded(resident, lambda: _load(resident, found)):
            return
        resident.released = False
        self._make_ready(resident)

    # ------------------------------------------------------------ turns

    def _make_ready(self, resident: Resident) -> None:
        resident.state = "ready"
        self._ready.append(resident)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_ready)

    def _run_ready(self) -> None:
        self._scheduled = False
        ready = self._ready
        for _ in range(min(len(ready), _READY_BATCH)):
            resident = ready.popleft()
            if resident.state == "ready":
                self._turn(resident)
        self._committer.flush()
        if ready and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_ready)

    def _turn(self, resident: Resident) -> None:
        unit = resident.unit
        if resident.released and unit.held is not None:
            self.residents.reload(resident)  # a retry came while it was busy; it is in the mailbox, which stays
            return
        resident.released = False
        limit = self.options.limits.turn_messages
        messages = resident.mailbox
        resident.mailbox = messages[limit:] if len(messages) > limit else []
        resident.taken = messages = messages[:limit] if len(messages) > limit else messages
        self._commit_count += 1
        commit_id = self._commit_prefix + self._commit_count.to_bytes(8)
        row = unit.row
        fence = self._fences[row.scope if row is not None else scope_of(unit.id, self.store.info.shards)]
        turn: Turn | None = None
        info = TurnInfo(unit.id, len(messages)) if self.interceptors else None

        def advance() -> None:
            nonlocal turn
            turn = unit.advance(messages, self.clock.now_ms(), fence, commit_id)

            if info is not None:
                info.commits = turn.commit is not None
                if unit.row is not None:
                    info.workflow, info.execution = unit.row.type, unit.row.execution

        body = advance if info is None else lambda: around_turn(self.interceptors, info, advance)
        if not self._guarded(resident, body):
            return
        assert turn is not None
        resident.state = "committing"
        if turn.commit is None:
            self._effects(resident, turn)
        else:
            done = turn
            self._committer.submit(turn.commit, lambda verdict: self._settled(resident, done, verdict))

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
            self._turn_failed(resident, f"it took longer than {limit_ms} ms, at {_line(unit, stuck.stack)}")
            return False
        return True

    def _turn_failed(self, resident: Resident, cause: str) -> None:
        """The turn is discarded. After a few in a row the instance is set aside, so that it stops nothing else."""
        unit_id, ids = resident.unit.id, self._ids(resident.unit)
        if resident.unit.run is not None:
            show_logs(resident.unit.run.take_logs(), discarded=True)
        resident.failures += 1
        self.tally.turn_failures += 1
        messages, resident.taken = resident.taken, []
        resident.mailbox = [*messages, *resident.mailbox]
        self.residents.drop_unit(resident)
        logger.warning("a turn of %r was stopped: %s", unit_id, cause, extra=ids)
        if resident.failures >= self.options.turn_failures:
            text = (
                f"{resident.failures} turns of {unit_id!r} in a row were stopped: {cause}. "
                "Mend the code, deploy it, and release the instance with retry()."
            )
            resident.unit.held = Failure(POISONED, text, "poison", retryable=False)
        self.residents.load(resident)

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
            resident.failures = 0 if unit.held is None else resident.failures
            self._effects(resident, turn)
            return
        self.tally.refusals += 1
        if self.metrics is not None:
            self.metrics.refused(verdict)
        if verdict == "stale":
            messages, resident.taken = resident.taken, []
            resident.mailbox = [*messages, *resident.mailbox]
            self.residents.reload(resident)
        elif verdict == "invalid" and unit.held is None:
            self._turn_failed(resident, "the store refused its commit as invalid")
        else:
            fenced = verdict == "fenced"
            reason = "another node owns its scope now" if fenced else "the store refused the commit as invalid"
            logger.error("a commit of %r was refused: %s", unit.id, reason, extra=self._ids(unit))
            self.attempts.abandon(unit.id)
            resident.refuse(StoreUnavailable(f"the request for {unit.id!r} was not recorded: {reason}"))
            self.residents.forget(resident)

    def _effects(self, resident: Resident, turn: Turn) -> None:
        """What follows a durable turn, in this order: running work, messages, answers, the next turn."""
        unit = resident.unit
        self._count(turn)
        show_logs(turn.logs)
        if turn.warning is not None:
            logger.warning("%s", turn.warning, extra=self._ids(unit))
        for call in turn.cancelled:
            self.attempts.cancel(unit.id, call)
        for call in turn.calls:
            self.attempts.start(unit, call)
        if turn.commit is not None:
            for message in turn.commit.post:
                if message.to != unit.id:
                    message.posted = True
                    self.deliver(message)
        if resident.acks is not None and turn.answers:
            _answer(resident, resident.acks, turn)
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
        resident.state = "idle"  # not before: what was delivered above may have made room in memory
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
            resident.mailbox = [*turn.left, *resident.mailbox]
            if resident.mailbox or resident.has_mail:
                self.residents.reload(resident)
            else:
                self.residents.forget(resident)
        elif outdated and unit.row is not None and unit.row.reason in AFTER_DEPLOY:
            self.residents.reload(resident)
        elif resident.has_mail:
            self.residents.fetch(resident)
        elif resident.mailbox or turn.again:
            self._make_ready(resident)
        elif turn.closed or (unit.held is not None and unit.held.type == POISONED):
            self.residents.forget(resident)
        elif unit.row is not None:
            self.residents.touch(resident)

    # ------------------------------------------------------------ rest

    @property
    def count(self) -> int:
        """How many turns were taken."""
        return self._commit_count

    @property
    def quiet(self) -> bool:
        """Whether no turn is ready or on its way to the store, and nothing is being read from it."""
        return not (self._ready or self._committer.busy or self.residents.reading)

    async def settle(self) -> None:
        """Wait until it is quiet. What attempts, clients and clocks bring later is not waited for."""
        while not self.quiet:
            await asyncio.sleep(0)  # those that are ready take their turn
            await self.residents.settle()
            await self._committer.drain()

    # ------------------------------------------------------------ the end

    async def stop(self, cause: Exception | None = None) -> None:
        """Take nothing more, let the commits on their way finish, leave memory. Who waits is told the cause."""
        self._stopping = self.residents.stopping = True
        self.deadlines.stop()
        await self.residents.settle()
        while self._ready:
            self._run_ready()
        await self._committer.drain()
        self._committer.stop()
        why = f"{cause}. The node has stopped" if cause is not None else "the node has stopped"
        error = StoreUnavailable(f"{why}; the instance goes on when a node runs again", "unknown")
        for resident in self.residents.all():
            resident.refuse(error)
            self.residents.forget(resident)
        self.waiters.fail(error)


def _load(resident: Resident, found: Loaded) -> None:
    assert found.row is not None
    released = resident.released
    resident.unit.load(found.version, found.row, found.journal, found.kv, found.inbox, released=released)


def _answer(resident: Resident, acks: dict[bytes, Ack], turn: Turn) -> None:
    for message, outcome in turn.answers.items():
        ack = acks.pop(message, None)
        if ack is not None and not ack.done():
            ack.set_result(outcome)
    if not acks:
        resident.acks = None


def _line(unit: Unit, stack: list[str]) -> str:
    """Where the code of a turn that was stopped is."""
    line = user_line(stack)
    if line is None and unit.run is not None:
        line = next(iter(waiting_lines(unit.run.loop)), None)
    return line or (stack[-1] if stack else "an unknown line")
