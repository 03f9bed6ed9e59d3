"""A unit: a workflow instance in memory, and the turns that advance it.

Theory of operation. A turn takes messages from the unit's mailbox, hands them to the run one by one
(timers that came due earlier go first), and packs all that happened into one Commit. The unit in
memory is then *ahead* of the store until that commit is durable. The owner starts no other turn of it
meanwhile, and drops the unit if the commit is refused.

A unit keeps what it cannot deliver now (`waiting`): messages that nobody receives yet, and everything
while it is paused or held. A kept message stands in the store's inbox from this commit on, so that it
survives the process, the unit's eviction and continue-as-new.

A turn has a budget. What is over waits for the next turn, so that one busy unit does not hold up the
others, and no backlog makes a turn too long.

A unit is *held* when its code cannot go on: a definition is missing, the journal cannot be read, code and journal
differ, or it waits for nothing. It is then `suspended` with the reason, costs nothing, and is tried again when it is
loaded after a deploy.

    unit.py        loading, taking messages, following another owner
    control.py     cancel, terminate, pause, resume, retry
    removal.py     delete, prune
    lifecycle.py   starting, ending, continuing as new, limits, and the row's state
    outbox.py      what goes to other units
    mailbox.py     messages that no turn has taken
    waiting.py     messages that were taken and cannot be delivered yet
    draft.py       what the turn has gathered so far
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from perdure.kernel import control, held, lifecycle, outbox, removal
from perdure.kernel import events as ev
from perdure.kernel import message as msg
from perdure.kernel.call import ActivityCall, Call, ChildCall, StepCall
from perdure.kernel.commit import CLOSED, Commit, JournalChunk, KvEntry, UnitRow
from perdure.kernel.disposal import dispose
from perdure.kernel.draft import Budget, Draft
from perdure.kernel.loop import Entered, Nobody
from perdure.kernel.ordered import install as install_ordered_sets
from perdure.kernel.run import Run
from perdure.kernel.turn import Turn
from perdure.kernel.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.errors import Failure
    from perdure.kernel.commit import Fence
    from perdure.kernel.definition import Definitions, WorkflowDefinition
    from perdure.kernel.limits import Limits
    from perdure.kernel.mailbox import Entry, Mailbox

C = TypeVar("C", bound=Call)


def _has_time() -> bool:
    return False


_NO_DRAFT = Draft("", 0, Budget(0, 0, _has_time))
"""Stands in between turns."""


class Unit:
    """A workflow instance that its owner holds in memory. Attributes without `_` may be read by the owner."""

    __slots__ = (
        "definitions",
        "draft",
        "first_turn",
        "force_commit",
        "held",
        "id",
        "journal",
        "kv",
        "limits",
        "row",
        "run",
        "shards",
        "version",
        "waiting",
    )

    def __init__(self, unit: str, definitions: Definitions, limits: Limits, *, shards: int) -> None:
        """A unit of which nothing is known yet."""
        self.id = unit
        self.version = 0
        self.row: UnitRow | None = None
        self.run: Run | None = None
        self.held: Failure | None = None
        self.definitions = definitions
        self.limits = limits
        self.shards = shards
        self.journal: list[ev.Event] | None = None
        self.kv: Sequence[KvEntry] = ()
        self.waiting = Waiting()
        self.first_turn = True
        self.force_commit = False
        self.draft = _NO_DRAFT

    # ------------------------------------------------------------ loading

    def load(
        self,
        version: int,
        row: UnitRow,
        journal: Iterable[JournalChunk],
        kv: Iterable[KvEntry],
        *,
        released: bool = False,
    ) -> None:
        """Take over what is stored. An open execution is replayed. What prevents that ends up in `held`.

        The inbox is the owner's: it puts the messages into the unit's mailbox. A unit that is poison
        is not replayed, unless it is `released`. Nor is a unit whose `held` is set already.
        """
        self.version, self.row = version, row
        if row.reason == held.REASONS[held.POISONED] and not released:
            self.held = row.failure
        if self.held is not None or row.status in CLOSED or not row.started_at:
            return
        self.kv = tuple(kv)
        try:
            self.journal = [e for chunk in journal for e in ev.decode_events(chunk.events)]
        except (msgspec.MsgspecError, ValueError) as error:
            self.held = held.undecodable(self.id, str(error))
            return
        if row.paused and len(self.journal) == 1:
            return  # paused between two executions: the code of the next one has not begun
        self.begin()

    def begin_execution(self) -> None:
        """Run the code of an execution whose start is stored already, if that is the case."""
        if self.journal is not None and self.held is None:
            self.begin()

    def begin(self) -> None:
        """Build the run of the current execution from its journal."""
        row, journal = self.row, self.journal
        assert row is not None
        self.journal = None
        if not journal or not isinstance(journal[0], ev.Started):
            self.held = held.undecodable(self.id, "it does not begin with a start")
            return
        definition = self.definitions.find_workflow(row.type, row.type_version)
        if definition is None:
            self.held = held.missing_workflow(row.type, row.type_version)
            return
        run = self.new_run(definition)
        run.variables.load(self.kv, row.execution)
        self.kv = ()
        with Entered(run.loop):
            run.replay(journal)
        self.check_run()

    def new_run(self, definition: WorkflowDefinition) -> Run:
        """An empty run of this unit."""
        install_ordered_sets()
        self.run = Run(self.id, definition, self.definitions, self.limits)
        self.run.keeps_logs = True
        return self.run

    def check_run(self) -> None:
        """After the code ran: is it broken, or does it wait for nothing?"""
        run = self.run
        assert run is not None
        if run.broken is not None:
            self.held = run.broken
        elif run.ended is None and not run.pending and run.main is not None:
            self.held = held.stuck(self.id, run.loop)

    def close_memory(self) -> None:
        """Leave memory; the code is not run."""
        if self.run is not None:
            dispose(self.run.loop)
            self.run.pending.clear()
            self.run.main = None
            self.run.loop.timers = Nobody()
            self.run = None

    @property
    def idle(self) -> bool:
        """Whether it could leave memory: no local work is open, nor are messages that no row of the store knows of."""
        return self.row is not None and (
            self.run is None or not (self.run.local or self.run.retries)
        )

    # ------------------------------------------------------------ following

    def follow(self, commit: Commit) -> None:
        """Advance by a commit of another owner, so that this copy can take over without a replay. No effect is asked
        for.
        """
        if commit.delete is not None:
            self.close_memory()
            self.row = self.held = self.journal = None
            self.version = 0
            self.waiting = Waiting()
            return
        self.row, self.version = msgspec.structs.replace(commit.row), commit.expect + 1
        for chunk in commit.journal:
            self._follow(ev.decode_events(chunk.events))
        self.waiting.follow(commit.consume, [m for m in commit.post if m.to == self.id])
        self.first_turn = True
        if commit.row.status in CLOSED:
            self.close_memory()

    def _follow(self, events: list[ev.AnyEvent]) -> None:
        if isinstance(events[0], ev.Started):
            self.kv = self.run.variables.entries() if self.run is not None else ()
            self.close_memory()
            self.held = None
            self.journal = list(events)
            if len(events) == 1:
                return  # a continuation: what its code does first comes with the next commit
            self.begin()
        elif self.journal is not None:
            self.journal += events
            self.begin()
        elif self.run is not None and self.held is None:
            with Entered(self.run.loop):
                self.run.replay(events)
            self.check_run()

    # ------------------------------------------------------------ a turn

    def advance(
        self,
        mailbox: Mailbox,
        now: int,
        fence: Fence,
        commit_id: bytes,
        is_spent: Callable[[], bool] = _has_time,
    ) -> Turn:
        """Digest messages and due timers at time `now` (ms), as far as the turn's budget goes.

        The unit is ahead of the store until the turn's commit is durable. `is_spent` says when the
        turn has had its share of time.

        Raises:
            NeverIdle: the code does not become idle. The unit must be dropped.
            KeyboardInterrupt: somebody interrupted the turn. The unit must be dropped.
        """
        budget = Budget(self.limits.turn_messages, self.limits.commit_bytes // 4, is_spent)
        draft = self.draft = Draft(self.id, now, budget)
        draft.touched, self.force_commit = self.force_commit, False
        if self.run is not None:
            self.run.turn_bytes = 0
        # Most turns are one message for a run that waits for it, so the rest is asked about first.
        waiting = self.waiting
        if mailbox.control or waiting.control:
            self._take_control(mailbox)
        if draft.delete is not None:
            turn = removal.pack(self, mailbox, fence, commit_id)
        else:
            if self.row is None or self.journal is not None or waiting.start is not None:
                self._begin(mailbox)
            self._take_messages(mailbox)
            more = bool(mailbox.queue or mailbox.control)
            turn = lifecycle.pack(self, fence, commit_id, more=more)
        self.draft = _NO_DRAFT
        return turn

    def _take_control(self, mailbox: Mailbox) -> None:
        for kept in self.waiting.take_control():
            control.take(self, kept)
        while self.draft.delete is None and mailbox.control:
            entry = mailbox.next_control()
            body = entry.message.body
            if isinstance(body, msg.ADMIN):
                removal.take(self, entry, body)
            else:
                control.take(self, entry)

    def _begin(self, mailbox: Mailbox) -> None:
        """Begin what can begin now: the unit, by its start, or its next execution."""
        row = self.row
        if row is None:
            entry = mailbox.next_start()
            if entry is not None:
                self._take(entry)
            return
        start = self.waiting.start
        if start is not None:
            self.waiting.start = None
            lifecycle.begin_start(self, row, start)
        if not row.paused:
            self.begin_execution()

    def _take_messages(self, mailbox: Mailbox) -> None:
        run, waiting = self.run, self.waiting
        if run is None:
            self._take_all(mailbox)
        elif mailbox.queue or waiting.kept or waiting.lanes or run.deadlines:
            with Entered(run.loop):
                self._take_all(mailbox)

    def _take_all(self, mailbox: Mailbox) -> None:
        """Messages that were kept first, then those of the mailbox, then timers that are due now."""
        budget, waiting, now = self.draft.budget, self.waiting, self.draft.now
        if self.run is not None and waiting.lanes:
            self._feed(self.run)
        while waiting.kept and self.receives and budget.has_room():
            self.fire_timers(min(waiting.kept[0].message.at, now))
            if self.receives and budget.has_room():
                self._take(waiting.next())
        if waiting.kept and self.receives:
            return  # the mailbox comes behind them
        # A control message goes first, so the turn ends where a start has let one through.
        while mailbox.queue and not mailbox.control and budget.has_room():
            if self.run is not None and self.run.deadlines:
                self.fire_timers(min(mailbox.queue[0].message.at, now))
                if not budget.has_room():
                    return
            self._take(mailbox.next())
        if self.run is not None and self.run.deadlines:
            self.fire_timers(now)

    @property
    def receives(self) -> bool:
        """Whether the code can be told something now."""
        run, row = self.run, self.row
        if run is None or row is None or row.paused or self.held is not None:
            return False
        return run.ended is None and run.broken is None and row.status not in CLOSED

    @property
    def has_more(self) -> bool:
        """Whether the turn's budget has left something that the code can be told now."""
        run, waiting = self.run, self.waiting
        if run is None or not (run.deadlines or waiting.kept or waiting.lanes) or not self.receives:
            return False
        timer_at = run.timer_at()
        if timer_at is not None and timer_at <= self.draft.now:
            return True
        return bool(waiting.kept) or waiting.first_lane(run.waits.keys()) is not None

    def fire_timers(self, until: int) -> None:
        """Fire the timers that are due at `until`, earliest first."""
        budget = self.draft.budget
        while (run := self.run) is not None and run.deadlines:
            if not (self.receives and budget.has_room()):
                return
            seq = run.due_timer(until)
            if seq is None:
                return
            budget.use(0)
            self.deliver(ev.TimerFired(seq, self.draft.now))

    def deliver(self, event: ev.Event) -> None:
        """Hand one delivery to the run, and then every kept message that the code now waits for."""
        run = self.run
        assert run is not None
        if run.loop.turning:
            run.deliver(event)
            if self.waiting.lanes:
                self._feed(run)
        else:
            with Entered(run.loop):
                self.deliver(event)

    def _feed(self, run: Run) -> None:
        budget = self.draft.budget
        while run.ended is None and run.broken is None and budget.has_room():
            lane = self.waiting.first_lane(run.waits.keys())
            if lane is None:
                return
            entry = self.waiting.from_lane(lane)
            body = entry.message.body
            assert isinstance(body, msg.Send)
            budget.use(len(body.value))
            self.draft.consumed(entry)
            run.deliver(
                ev.Received(run.waits[lane][0], self.draft.now, entry.message.id, body.value)
            )

    def keep(self, entry: Entry) -> None:
        """Take the message up again when the code can be told. It is durable from this turn on."""
        self.waiting.keep(self.draft.keep(entry))

    def keep_start(self, entry: Entry) -> None:
        """Begin with this start when its time has come, or when its code is there."""
        self.waiting.start = self.draft.keep(entry)

    def keep_control(self, entry: Entry) -> None:
        """Take the control message up again when the code can be asked."""
        self.waiting.keep_control(self.draft.keep(entry))

    # ------------------------------------------------------------ messages

    def _take(self, entry: Entry) -> None:
        message, row, draft = entry.message, self.row, self.draft
        body = message.body
        draft.budget.use(_size(body))
        if type(body) is msg.Start:
            lifecycle.start(self, entry, body)
        elif row is None:
            if entry.stored and message.sender is not None:
                self.keep(entry)  # its target may come to be
            else:
                draft.answer(entry, "missing")
        elif row.status in CLOSED:
            draft.consumed(entry, "closed")
        elif type(body) in msg.CONTROL:
            control.take(self, entry)
        elif self.receives:
            assert self.run is not None
            self._take_open(self.run, entry, body)
        else:
            self._take_later(entry, body)

    def _take_later(self, entry: Entry, body: msg.Body) -> None:
        """A message for code that cannot be told now: paused, held, ended, or not begun."""
        run, row = self.run, self.row
        assert row is not None
        ended = run.ended if run is not None else None
        if ended is not None and not row.paused and self.held is None:
            if isinstance(ended, ev.ContinuedAsNew) and isinstance(body, msg.Send | msg.Raise):
                self.keep(entry)  # for the next execution
            else:
                self.draft.consumed(entry, "closed")
        elif isinstance(body, msg.Send | msg.Raise) and not entry.stored and self._full():
            self.draft.answer(entry, "full")
        else:
            self.keep(entry)

    def _full(self) -> bool:
        return self.waiting.sends >= self.limits.inbox_messages

    def _take_open(self, run: Run, entry: Entry, body: msg.Body) -> None:
        """A message for a run that goes on."""
        if isinstance(body, msg.ActivityDone):
            self._take_activity(run, entry, body)
        elif isinstance(body, msg.Send):
            self._take_send(run, entry, body)
        elif isinstance(body, msg.Reply):
            self._take_reply(run, entry, body)
        elif isinstance(body, msg.StepDone):
            self._take_step(run, entry, body)
        elif isinstance(body, msg.Raise):
            self._take_raise(run, entry, body)
        elif isinstance(body, msg.Unreadable):
            self.held = held.unreadable(self.id, entry.message)
            self.keep(entry)
        else:
            raise AssertionError(body)

    def _take_send(self, run: Run, entry: Entry, body: msg.Send) -> None:
        lane, draft = "#" + body.channel, self.draft
        if lane in run.waits and lane not in self.waiting.lanes:
            draft.consumed(entry)
            self.deliver(ev.Received(run.waits[lane][0], draft.now, entry.message.id, body.value))
        elif not entry.stored and self._full():
            draft.answer(entry, "full")
        else:
            self.waiting.enlane(lane, draft.keep(entry))

    def _take_raise(self, run: Run, entry: Entry, body: msg.Raise) -> None:
        waits = run.waits.get("!" + body.name)
        self.draft.consumed(entry)
        self.deliver(
            ev.EventRaised(waits[0] if waits else 0, self.draft.now, body.name, body.value)
        )

    def _take_activity(self, run: Run, entry: Entry, body: msg.ActivityDone) -> None:
        draft = self.draft
        draft.consumed(entry)
        call = _pending(run, body, ActivityCall)
        if call is None or body.attempt != call.attempt:
            return
        if body.failure is None:
            self.deliver(
                ev.ActivityCompleted(body.seq, draft.now, body.result or b"", call.attempt)
            )
            return
        retry_at = _retry_at(call, body.failure, draft.now)
        if retry_at is None:
            self.deliver(ev.ActivityFailed(body.seq, draft.now, body.failure, call.attempt))
            return
        self.deliver(
            ev.AttemptFailed(
                body.seq, draft.now, call.attempt, body.failure, retry_at, body.details
            )
        )
        run.hand_out(call)

    def _take_step(self, run: Run, entry: Entry, body: msg.StepDone) -> None:
        self.draft.consumed(entry)
        call = _pending(run, body, StepCall)
        if call is not None:
            now = self.draft.now
            self.deliver(
                ev.StepRecorded(body.seq, now, call.name, call.occurrence, body.value, body.failure)
            )

    def _take_reply(self, run: Run, entry: Entry, body: msg.Reply) -> None:
        self.draft.consumed(entry)
        if _pending(run, body, ChildCall) is not None:
            self.deliver(ev.Replied(body.seq, self.draft.now, body.result, body.failure))

    def give_up(self) -> None:
        """The run is over without its code being asked: what it waits for is not wanted any more."""
        run = self.run
        assert run is not None
        self.draft.cancelled.extend(p for p in run.pending.values() if isinstance(p, Call))
        outbox.close_children(self.draft, run, self.draft.cancelled)
        run.opened = run.outgoing = run.cancelled_calls = None
        dispose(run.loop)
        run.pending.clear()


def _pending(
    run: Run, body: msg.ActivityDone | msg.StepDone | msg.Reply, kind: type[C]
) -> C | None:
    """The call that an answer belongs to, if run, execution and command all match."""
    started = run.started
    if body.run != started.run or body.execution != started.execution:
        return None
    call = run.pending.get(body.seq)
    return call if isinstance(call, kind) else None


def _size(body: msg.Body) -> int:
    """Bytes that a delivery of this message writes into the journal, but for its envelope."""
    if isinstance(body, (msg.ActivityDone, msg.Reply)):
        return len(body.result or b"")
    if isinstance(body, (msg.Send, msg.Raise)):
        return len(body.value)
    if isinstance(body, msg.StepDone):
        return len(body.value or b"")
    return 0


def _retry_at(call: ActivityCall, failure: Failure, now: int) -> int | None:
    """When the next attempt may begin; None: there is none."""
    policy = call.options.retry
    if not policy.wants(failure, call.attempt):
        return None
    retry_at = now + policy.delay_ms(call.attempt)
    total = call.options.total_timeout_ms
    return None if total is not None and retry_at >= call.scheduled_at + total else retry_at
