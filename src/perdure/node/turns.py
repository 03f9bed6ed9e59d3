"""The loop of a node: message, turn, commit, effects.

    deliver ──▶ mailbox ──▶ _run_ready ──▶ unit.advance ──▶ committer ──▶ _settled ──▶ effects
                   ▲                          (kernel)        (store)                    │
                   └──────────────── results, timers, messages to others ◀───────────────┘

Theory of operation. Each instance that is in memory is a `Resident`: a unit of the kernel, a mailbox, and a state. A
message goes into the mailbox and makes the
resident ready; ready residents take their turns one after the other; a turn's commit goes to the committer. While it
is on its way the resident takes no other turn,
its new messages gather. When the commit is durable its effects follow: answers to senders, activities, messages to
other units, deadlines.

Nothing here is durable, and nothing here needs to be: everything can be derived again from rows. A unit that is not
in memory is loaded first, except
for a start, which is tried as if the id were new: the store refuses it if it is not (`stale`), and then it is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Literal

from perdure.errors import Failure, StoreUnavailable
from perdure.kernel.commit import CLOSED, Fence
from perdure.kernel.loop import NeverIdle
from perdure.kernel.match import user_line, waiting_lines
from perdure.kernel.message import Message, Retry, Start
from perdure.kernel.placement import scope_of
from perdure.kernel.turn import Outcome
from perdure.kernel.unit import Unit
from perdure.node.committer import Committer
from perdure.node.deadlines import Deadlines
from perdure.ports.store import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from perdure.kernel.commit import UnitRow, Verdict
    from perdure.kernel.definition import Definitions
    from perdure.kernel.turn import Turn
    from perdure.node.attempts import Attempts
    from perdure.node.options import NodeOptions
    from perdure.node.watchdog import Watchdog
    from perdure.ports.clock import Clock
    from perdure.ports.store import Loaded, Store

logger = logging.getLogger("perdure.node")

Ack = asyncio.Future[Outcome]

_READY_BATCH = 128
"""Turns in one go; then the node's loop gets its turn."""


class Resident:
    """An instance in memory."""

    __slots__ = ("acks", "failures", "has_mail", "loaded_ids", "mailbox", "released", "state", "taken", "unit")

    def __init__(self, unit: Unit) -> None:
        """A unit that is neither ready nor busy."""
        self.unit = unit
        self.mailbox: list[Message] = []
        self.taken: list[Message] = []
        self.acks: dict[bytes, Ack] | None = None
        self.loaded_ids: frozenset[bytes] = frozenset()
        self.state: Literal["idle", "ready", "loading", "committing"] = "idle"
        self.failures = 0
        self.released = False
        self.has_mail = False


class Turns:
    """Runs the units of a node. See the module's docstring for the path of a message."""

    def __init__(
        self, store: Store, definitions: Definitions, clock: Clock, options: NodeOptions, fences: dict[str, Fence],
        watchdog: Watchdog, failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        """Wire the parts; `attempts` is set by the node."""
        self.store = store
        self.clock = clock
        self.options = options
        self.attempts: Attempts
        self._definitions = definitions
        self._fences = fences
        self._watchdog = watchdog
        self._committer = Committer(store, options.store_retry_ms, failed)
        self.deadlines = Deadlines(clock, self.wake)
        self._residents: OrderedDict[str, Resident] = OrderedDict()
        self._ready: deque[Resident] = deque()
        self._scheduled = False
        self._to_load: list[Resident] = []
        self._loads: set[asyncio.Task[None]] = set()
        self._waiters: dict[str, list[asyncio.Future[UnitRow]]] = {}
        self._commit_prefix = b""
        self._commit_count = 0
        self._stopping = False

    def begin(self, incarnation: bytes) -> None:
        """Commit ids are this incarnation (8 random bytes) and a count."""
        self._commit_prefix = incarnation[:8]

    # ------------------------------------------------------------ messages in

    def deliver(self, message: Message, ack: Ack | None = None) -> None:
        """Take a message to its unit. `ack` gets the outcome once it is durable."""
        if self._stopping:
            if ack is not None:
                ack.set_exception(StoreUnavailable("the node is stopping; send it again to the next one"))
            return
        resident = self._residents.get(message.to)
        if resident is None:
            resident = self._enter(message.to)
            if not isinstance(message.body, Start) or message.visible_at:
                self._load(resident)
        elif message.posted and message.id in resident.loaded_ids:
            return
        if isinstance(message.body, Retry):
            resident.released, resident.failures = True, 0
            if resident.state == "idle" and resident.unit.held is not None:
                self._drop_unit(resident)
                self._load(resident)
        resident.mailbox.append(message)
        if ack is not None:
            if resident.acks is None:
                resident.acks = {}
            resident.acks[message.id] = ack
        if resident.state == "idle":
            self._make_ready(resident)

    def wake(self, unit: str) -> None:
        """The unit has a deadline that passed, or mail in the store that memory may not know of."""
        if self._stopping:
            return
        resident = self._residents.get(unit)
        if resident is None:
            self._load(self._enter(unit))
        elif resident.state == "idle":
            self._make_ready(resident)

    def reload(self, units: Iterable[str]) -> None:
        """Drop units from memory and load them again: their definitions or their inboxes have changed outside."""
        for unit in list(units):
            resident = self._residents.get(unit)
            if resident is None:
                self._load(self._enter(unit))
            elif resident.state == "idle":
                self._drop_unit(resident)
                self._load(resident)

    def set_aside(self, unit: str, why: Failure) -> None:
        """Load the unit without running its code, and keep it suspended until it is released."""
        resident = self._residents.get(unit)
        if resident is None:
            resident = self._enter(unit)
        resident.unit.held = why
        self._load(resident)

    def clear_suspicion(self, unit: str) -> None:
        """The unit is no suspect any more; stored with its next commit, and at the latest when it is asked to take a
        turn.
        """
        resident = self._residents.get(unit)
        if resident is not None and resident.unit.row is not None and resident.unit.row.suspect:
            resident.unit.row.suspect = 0
            if resident.state == "idle":
                resident.unit.force_commit = True
                self._make_ready(resident)

    def mail(self, unit: str) -> None:
        """Somebody outside has posted to the unit: look into its inbox, and leave the unit as it is."""
        resident = self._residents.get(unit)
        if resident is None:
            self._load(self._enter(unit))
        elif resident.state == "idle":
            self._fetch(resident)
        else:
            resident.has_mail = True

    def present(self, unit: str) -> bool:
        """Whether the unit is in memory, or on its way there."""
        return unit in self._residents

    def closed(self, unit: str) -> asyncio.Future[UnitRow]:
        """A future for the unit's row when it ends. The caller looks at the store first if the unit may have ended
        already.
        """
        future: asyncio.Future[UnitRow] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(unit, []).append(future)
        return future

    def forget_waiter(self, unit: str, future: asyncio.Future[UnitRow]) -> None:
        """The caller of `closed` waits no longer."""
        waiters = self._waiters.get(unit)
        if waiters is not None and future in waiters:
            waiters.remove(future)
            if not waiters:
                del self._waiters[unit]

    def row(self, unit: str) -> UnitRow | None:
        """The row of a unit in memory, if no turn of it is on its way."""
        resident = self._residents.get(unit)
        return resident.unit.row if resident is not None and resident.state == "idle" else None

    # ------------------------------------------------------------ residents

    @property
    def residents(self) -> int:
        """How many units are in memory."""
        return len(self._residents)

    def held(self, reason: str) -> list[str]:
        """Units in memory that are held for a reason (a row's `reason`)."""
        return [k for k, r in self._residents.items() if r.unit.row is not None and r.unit.row.reason == reason]

    def _enter(self, unit: str) -> Resident:
        resident = Resident(self._new_unit(unit))
        self._residents[unit] = resident
        if len(self._residents) > self.options.residents:
            self._evict()
        return resident

    def _new_unit(self, unit: str) -> Unit:
        return Unit(unit, self._definitions, self.options.limits, shards=self.store.info.shards)

    def _evict(self) -> None:
        """Make room: the longest idle units leave memory; those with open work stay."""
        excess = len(self._residents) - self.options.residents
        for unit, resident in list(self._residents.items())[: excess + 64]:
            if excess <= 0:
                return
            if resident.state == "idle" and resident.unit.idle and resident.unit.row is not None:
                self._forget(unit, resident)
                excess -= 1

    def _forget(self, unit: str, resident: Resident) -> None:
        resident.unit.close_memory()
        del self._residents[unit]

    def _drop_unit(self, resident: Resident) -> None:
        """Replace a unit that is not to be trusted by an unloaded one; its running activities are given up."""
        unit = resident.unit.id
        resident.unit.close_memory()
        self.attempts.abandon(unit)
        resident.unit = self._new_unit(unit)
        resident.state = "idle"

    # ------------------------------------------------------------ loading

    def _load(self, resident: Resident) -> None:
        resident.state = "loading"
        self._to_load.append(resident)
        if len(self._loads) < 2:
            task = asyncio.get_running_loop().create_task(self._load_all(), name="perdure-loader")
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    async def _load_all(self) -> None:
        while self._to_load and not self._stopping:
            batch, self._to_load = self._to_load[: self.options.loads], self._to_load[self.options.loads :]
            try:
                loaded = await self.store.load([r.unit.id for r in batch])
            except StoreUnavailable as error:
                for resident in batch:
                    self._refuse(resident, error)
                continue
            for resident, found in zip(batch, loaded, strict=True):
                self._loaded(resident, found)
            await asyncio.sleep(0)

    def _loaded(self, resident: Resident, found: Loaded) -> None:
        for message in found.inbox:
            message.posted = True
        resident.loaded_ids = frozenset(m.id for m in found.inbox)
        if any(isinstance(m.body, Retry) for m in found.inbox):
            resident.released, resident.failures = True, 0
        resident.mailbox = [m for m in resident.mailbox if not (m.posted and m.id in resident.loaded_ids)]
        resident.state = "idle"
        unit = resident.unit
        if found.row is None:
            resident.mailbox = [*found.inbox, *resident.mailbox]
            if not resident.mailbox:
                self._forget(unit.id, resident)
                return
        else:
            if not self._guarded(resident, lambda: self._load_unit(resident, found)):
                return
            resident.released = False
        self._make_ready(resident)

    def _fetch(self, resident: Resident) -> None:
        """Read the inbox of a unit that stays in memory. It takes no turn meanwhile, so that nothing is read that it
        consumes at the same time.
        """
        resident.has_mail = False
        resident.state = "loading"
        task = asyncio.get_running_loop().create_task(self._fetch_inbox(resident), name="perdure-inbox")
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _fetch_inbox(self, resident: Resident) -> None:
        unit = resident.unit
        found: list[Message] = []
        after: str | None = None
        try:
            while True:
                page = await self.store.query(Inbox(unit=unit.id, after=after))
                found += page.items
                after = page.next
                if after is None:
                    break
        except StoreUnavailable as error:
            self._refuse(resident, error)
            return
        if unit.held is not None and any(isinstance(m.body, Retry) for m in found):
            self._drop_unit(resident)
            self._load(resident)
            return
        known = {m.id for m in (*unit.kept, *unit.inbox_messages(), *resident.mailbox)}
        fresh = [m for m in found if m.id not in known]
        for message in fresh:
            message.posted = True
        resident.loaded_ids |= {m.id for m in found}
        resident.mailbox = [*fresh, *resident.mailbox]
        resident.state = "idle"
        self._make_ready(resident)

    def _refuse(self, resident: Resident, error: Exception) -> None:
        for ack in (resident.acks or {}).values():
            if not ack.done():
                ack.set_exception(error)
        self._forget(resident.unit.id, resident)

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
        if ready and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_ready)

    def _turn(self, resident: Resident) -> None:
        unit = resident.unit
        if resident.released and unit.held is not None:
            self._drop_unit(resident)  # a retry came while it was busy: load it anew, its mailbox stays
            self._load(resident)
            return
        resident.released = False
        limit = self.options.limits.turn_messages
        messages = resident.mailbox
        if len(messages) > limit:
            messages, resident.mailbox = messages[:limit], messages[limit:]
        else:
            resident.mailbox = []
        resident.taken = messages
        self._commit_count += 1
        commit_id = self._commit_prefix + self._commit_count.to_bytes(8)
        row = unit.row
        fence = self._fences[row.scope if row is not None else scope_of(unit.id, self.store.info.shards)]
        turn: Turn | None = None

        def advance() -> None:
            nonlocal turn
            turn = unit.advance(messages, self.clock.now_ms(), fence, commit_id)

        if not self._guarded(resident, advance):
            return
        assert turn is not None
        self._submit(resident, turn)

    def _guarded(self, resident: Resident, body: Callable[[], None]) -> bool:
        """Run workflow code under the watchdog; False if it had to be stopped, which discards the turn."""
        unit = resident.unit
        try:
            stuck = self._watchdog.run(unit.id, body)
        except NeverIdle as error:
            self._turn_failed(resident, f"{error}, at {self._line(unit, [])}")
            return False
        except Exception as error:
            logger.exception("a turn of %r failed", unit.id, extra={"instance": unit.id})
            self._turn_failed(resident, f"{type(error).__name__}: {error}")
            return False
        if stuck is not None:
            limit_ms = self.options.turn_limit_ms
            self._turn_failed(resident, f"it took longer than {limit_ms} ms, at {self._line(unit, stuck.stack)}")
            return False
        return True

    def _line(self, unit: Unit, stack: list[str]) -> str:
        """Where the code of a turn that was stopped is."""
        line = user_line(stack)
        if line is None and unit.run is not None:
            line = next(iter(waiting_lines(unit.run.loop)), None)
        return line or (stack[-1] if stack else "an unknown line")

    def _load_unit(self, resident: Resident, found: Loaded) -> None:
        row = found.row
        assert row is not None
        resident.unit.load(found.version, row, found.journal, found.kv, found.inbox, released=resident.released)

    def _submit(self, resident: Resident, turn: Turn) -> None:
        resident.state = "committing"
        if turn.commit is None:
            self._effects(resident, turn)
        else:
            self._committer.submit(turn.commit, lambda verdict: self._settled(resident, turn, verdict))

    def _turn_failed(self, resident: Resident, cause: str) -> None:
        """The turn is discarded. After a few in a row the instance is set aside, so that it stops nothing else."""
        unit_id = resident.unit.id
        resident.failures += 1
        messages, resident.taken = resident.taken, []
        resident.mailbox = [*messages, *resident.mailbox]
        self._drop_unit(resident)
        logger.warning("a turn of %r was stopped: %s", unit_id, cause, extra={"instance": unit_id})
        if resident.failures >= self.options.turn_failures:
            resident.unit.held = Failure(
                "Poisoned",
                f"{resident.failures} turns of {unit_id!r} in a row were stopped: {cause}. "
                "Mend the code, deploy it, and release the instance with retry().",
                "poison",
                retryable=False,
            )
        self._load(resident)

    # ------------------------------------------------------------ after the commit

    def _settled(self, resident: Resident, turn: Turn, verdict: Verdict) -> None:
        unit = resident.unit
        if verdict == "applied":
            resident.failures = 0 if unit.held is None else resident.failures
            self._effects(resident, turn)
        elif verdict == "stale":
            messages, resident.taken = resident.taken, []
            resident.mailbox = [*messages, *resident.mailbox]
            self._drop_unit(resident)
            self._load(resident)
        else:
            reason = (
                "another node owns its scope now" if verdict == "fenced" else "the store refused the commit as invalid"
            )
            logger.error("a commit of %r was refused: %s", unit.id, reason, extra={"instance": unit.id})
            self.attempts.abandon(unit.id)
            self._refuse(resident, StoreUnavailable(f"the request for {unit.id!r} was not recorded: {reason}", "none"))

    def _effects(self, resident: Resident, turn: Turn) -> None:
        """What follows a durable turn, in this order: running work, messages, answers, the next turn."""
        unit = resident.unit
        if turn.warning is not None:
            logger.warning("%s", turn.warning, extra={"instance": unit.id})
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
            self._answer(resident, turn)
        resident.state = "idle"  # not before: what goes before may make room in memory
        if turn.closed:
            self._closed(resident)
            return
        if turn.wake_at:
            self.deadlines.set(unit.id, turn.wake_at)
        elif turn.wake_at is None:
            self.deadlines.clear(unit.id)
        if resident.has_mail:
            self._fetch(resident)
        elif resident.mailbox or turn.again:
            self._make_ready(resident)
        elif unit.row is not None:
            self._residents.move_to_end(unit.id)
            if unit.held is not None and unit.row.reason == "poison":
                self._forget(unit.id, resident)

    def _answer(self, resident: Resident, turn: Turn) -> None:
        acks = resident.acks
        assert acks is not None
        for message, outcome in turn.answers.items():
            ack = acks.pop(message, None)
            if ack is not None and not ack.done():
                ack.set_result(outcome)
        if not acks:
            resident.acks = None

    def _closed(self, resident: Resident) -> None:
        unit = resident.unit
        row = unit.row
        assert row is not None
        assert row.status in CLOSED
        self.attempts.abandon(unit.id)
        self.deadlines.clear(unit.id)
        for future in self._waiters.pop(unit.id, ()):
            if not future.done():
                future.set_result(row)
        if resident.has_mail:
            self._fetch(resident)
        elif resident.mailbox:
            self._make_ready(resident)
        else:
            self._forget(unit.id, resident)

    # ------------------------------------------------------------ the end

    async def stop(self, cause: Exception | None = None) -> None:
        """Take nothing more, let the commits on their way finish, leave memory. Who waits is told the cause."""
        self._stopping = True
        self.deadlines.stop()
        while self._ready or self._loads:
            self._run_ready()
            if self._loads:
                await asyncio.wait(list(self._loads))
        await self._committer.drain()
        self._committer.stop()
        why = f"{cause}. The node has stopped" if cause is not None else "the node has stopped"
        error = StoreUnavailable(f"{why}; the instance goes on when a node runs again", "unknown")
        for resident in list(self._residents.values()):
            self._refuse(resident, error)
        for future in [f for waiters in self._waiters.values() for f in waiters]:
            if not future.done():
                future.set_exception(error)
        self._waiters.clear()
