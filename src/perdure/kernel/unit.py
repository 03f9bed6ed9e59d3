"""A unit: a workflow instance in memory, and the turns that advance it.

Theory of operation. A turn takes the messages that have gathered and the present time, hands them to the run one by
one in the order of their times (timers that came due earlier go first), and packs all that happened into one Commit.
The unit in memory is then
*ahead* of the store until
that commit is durable; the owner starts no other turn of it meanwhile, and drops it if the commit is refused.

What a unit cannot take now it keeps: messages that nobody receives yet, and everything while it is paused or held. A
kept message stands in the inbox table from this commit on, so that it survives us, the unit's eviction and
continue-as-new.

A unit is *held* when its code cannot go on: a definition is missing, the journal cannot be read, code and journal
differ, or it waits for nothing. It is then `suspended` with the reason, costs nothing, and is tried again when it is
loaded after a deploy.

    unit.py        loading, taking messages, following another owner
    control.py     cancel, terminate, pause, resume, retry
    removal.py     delete, prune
    lifecycle.py   starting, ending, continuing as new, limits, and the row's state
    outbox.py      what goes to other units
    draft.py       what the turn has gathered so far
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

import msgspec

from perdure.kernel import control, held, lifecycle, outbox, removal
from perdure.kernel import events as ev
from perdure.kernel import message as msg
from perdure.kernel.call import ActivityCall, Call, ChildCall, StepCall
from perdure.kernel.commit import CLOSED, Commit, JournalChunk, KvEntry, UnitRow
from perdure.kernel.disposal import dispose
from perdure.kernel.draft import Draft
from perdure.kernel.loop import Entered, Nobody
from perdure.kernel.ordered import install as install_ordered_sets
from perdure.kernel.run import Run
from perdure.kernel.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.errors import Failure
    from perdure.kernel.commit import Fence
    from perdure.kernel.definition import Definitions, WorkflowDefinition
    from perdure.kernel.limits import Limits

C = TypeVar("C", bound=Call)

_NO_DRAFT = Draft("", 0)
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
        "inbox",
        "journal",
        "kept",
        "kv",
        "limits",
        "row",
        "run",
        "shards",
        "version",
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
        self.kv: list[KvEntry] = []
        self.inbox: dict[str, deque[msg.Message]] = {}
        self.kept: list[msg.Message] = []
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
        inbox: Iterable[msg.Message],
        *,
        released: bool = False,
    ) -> None:
        """Take over what is stored. An open execution is replayed; what prevents that ends up in `held`. `inbox` is
        in order.

        A unit that is poison is not replayed, unless it is `released`; nor is one whose `held` is set already.
        """
        self.version, self.row = version, row
        self.kept = list(inbox)
        if row.reason == held.REASONS[held.POISONED] and not released:
            self.held = row.failure
        if self.held is not None or row.status in CLOSED or not row.started_at:
            return
        unreadable = next((m for m in self.kept if isinstance(m.body, msg.Unreadable)), None)
        if unreadable is not None:
            self.held = held.unreadable(self.id, unreadable)
            return
        self.kv = list(kv)
        try:
            self.journal = [e for chunk in journal for e in ev.decode_events(chunk.events)]
        except (msgspec.MsgspecError, ValueError) as error:
            self.held = held.undecodable(self.id, str(error))
            return
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
        self.kv = []
        with Entered(run.loop):
            run.replay(journal)
        self.check_run()

    def new_run(self, definition: WorkflowDefinition) -> Run:
        """An empty run of this unit."""
        install_ordered_sets()
        self.run = Run(self.id, definition, self.definitions, self.limits)
        self.run.logs = []
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
        return self.row is not None and (self.run is None or not (self.run.local or self.run.retries))

    # ------------------------------------------------------------ following

    def follow(self, commit: Commit) -> None:
        """Advance by a commit of another owner, so that this copy can take over without a replay. No effect is asked
        for.
        """
        if commit.delete is not None:
            self.close_memory()
            self.row, self.version, self.held, self.journal, self.kept, self.inbox = None, 0, None, None, [], {}
            return
        self.row, self.version = msgspec.structs.replace(commit.row), commit.expect + 1
        for chunk in commit.journal:
            self._follow(ev.decode_events(chunk.events))
        gone = set(commit.consume)
        posted = [m for m in commit.post if m.to == self.id]
        waiting = [*self.kept, *self.inbox_messages(), *posted]
        self.kept, self.inbox = [m for m in waiting if m.id not in gone], {}
        self.first_turn = True
        if commit.row.status in CLOSED:
            self.close_memory()

    def _follow(self, events: list[ev.AnyEvent]) -> None:
        if isinstance(events[0], ev.Started):
            self.kv = self.run.variables.entries() if self.run is not None else []
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

    def inbox_messages(self) -> list[msg.Message]:
        """Messages in channels that nobody received yet."""
        return [m for lane in self.inbox.values() for m in lane]

    # ------------------------------------------------------------ a turn

    def advance(self, messages: Sequence[msg.Message], now: int, fence: Fence, commit_id: bytes) -> Turn:
        """Digest messages and due timers at time `now` (ms). The unit is ahead of the store until the turn's commit
        is durable.

        Raises:
            NeverIdle: the code does not become idle; the unit must be dropped.
            KeyboardInterrupt: somebody interrupted the turn; the unit must be dropped.
        """
        self.draft = Draft(self.id, now)
        self.draft.touched, self.force_commit = self.force_commit, False
        if self.kept:
            messages = [*self.kept, *messages]
            self.kept = []
        if self.journal is not None and self.held is None:
            self.begin()
        if self.row is None:
            for message in messages:
                if isinstance(message.body, msg.Start):
                    lifecycle.start(self, message, message.body)
            messages = [m for m in messages if not isinstance(m.body, msg.Start)]
        others = [m for m in messages if type(m.body) not in msg.CONTROL]
        if len(others) < len(messages):
            self._take_control(messages)
            messages = others
            if self.draft.delete is not None:
                return removal.pack(self, messages, fence, commit_id)
        run = self.run
        if run is None:
            self._take_all(messages)
        elif messages or run.deadlines:
            run.turn_bytes = 0
            with Entered(run.loop):
                self._take_all(messages)
        return lifecycle.pack(self, fence, commit_id)

    def _take_control(self, messages: Sequence[msg.Message]) -> None:
        for message in messages:
            if isinstance(message.body, msg.ADMIN):
                removal.take(self, message, message.body)
            elif type(message.body) in msg.CONTROL:
                control.take(self, message)

    def _take_all(self, messages: Sequence[msg.Message]) -> None:
        for message in messages:
            self._take(message)
        self.fire_timers(self.draft.now)

    def fire_timers(self, until: int) -> None:
        """Fire the timers that are due at `until`, earliest first."""
        run, row = self.run, self.row
        if run is None or self.held is not None or row is None or row.paused:
            return
        while run.ended is None and run.broken is None:
            seq = run.due_timer(until)
            if seq is None:
                return
            self.deliver(ev.TimerFired(seq, self.draft.now))

    def deliver(self, event: ev.Event) -> None:
        """Hand one delivery to the run, and then every kept message that the code now waits for."""
        run = self.run
        assert run is not None
        if run.loop.turning:
            run.deliver(event)
            if self.inbox:
                self._feed(run)
        else:
            with Entered(run.loop):
                self.deliver(event)

    def _feed(self, run: Run) -> None:
        while run.ended is None and run.broken is None:
            lane = next((k for k in self.inbox if k in run.waits), None)
            if lane is None:
                return
            message = self.inbox[lane].popleft()
            if not self.inbox[lane]:
                del self.inbox[lane]
            assert isinstance(message.body, msg.Send)
            self.draft.consumed(message)
            run.deliver(ev.Received(run.waits[lane][0], self.draft.now, message.id, message.body.value))

    def keep(self, message: msg.Message) -> None:
        """Take the message up again in the next turn; durable from this one on."""
        self.draft.keep(message)
        self.kept.append(message)

    # ------------------------------------------------------------ messages

    def _take(self, message: msg.Message) -> None:
        body, row, draft = message.body, self.row, self.draft
        if isinstance(body, msg.Start):
            lifecycle.start(self, message, body)
            return
        if row is None:
            if message.sender is None:
                draft.answers[message.id] = "missing"
            else:
                self.keep(message)
            return
        if row.status in CLOSED:
            draft.consumed(message, "closed")
            return
        if row.paused or self.held is not None or self.run is None:
            if isinstance(body, msg.Send | msg.Raise) and not message.posted and self._full():
                draft.answers[message.id] = "full"
            else:
                self.keep(message)
            return
        self.fire_timers(message.at)
        run = self.run
        if run.broken is not None:
            self.keep(message)
        elif run.ended is None:
            self._take_open(run, message, body)
        elif isinstance(run.ended, ev.ContinuedAsNew) and isinstance(body, msg.Send):
            self.keep(message)  # for the next execution
        else:
            draft.consumed(message, "closed")

    def _full(self) -> bool:
        kept = sum(isinstance(m.body, msg.Send | msg.Raise) for m in self.kept)
        return kept + sum(map(len, self.inbox.values())) >= self.limits.inbox_messages

    def _take_open(self, run: Run, message: msg.Message, body: msg.Body) -> None:
        """A message for a run that goes on."""
        if isinstance(body, msg.ActivityDone):
            self._take_activity(run, message, body)
        elif isinstance(body, msg.Send):
            self._take_send(run, message, body)
        elif isinstance(body, msg.Reply):
            self._take_reply(run, message, body)
        elif isinstance(body, msg.StepDone):
            self._take_step(run, message, body)
        elif isinstance(body, msg.Raise):
            self._take_raise(run, message, body)
        elif isinstance(body, msg.Unreadable):
            self.held = held.unreadable(self.id, message)
            self.keep(message)
        else:
            raise AssertionError(body)

    def _take_send(self, run: Run, message: msg.Message, body: msg.Send) -> None:
        lane, draft = "#" + body.channel, self.draft
        if lane in run.waits and lane not in self.inbox:
            draft.consumed(message)
            self.deliver(ev.Received(run.waits[lane][0], draft.now, message.id, body.value))
            return
        if not message.posted and self._full():
            draft.answers[message.id] = "full"
            return
        draft.keep(message)
        self.inbox.setdefault(lane, deque()).append(message)

    def _take_raise(self, run: Run, message: msg.Message, body: msg.Raise) -> None:
        waits = run.waits.get("!" + body.name)
        self.draft.consumed(message)
        self.deliver(ev.EventRaised(waits[0] if waits else 0, self.draft.now, body.name, body.value))

    def _take_activity(self, run: Run, message: msg.Message, body: msg.ActivityDone) -> None:
        draft = self.draft
        draft.consumed(message)
        call = _pending(run, body, ActivityCall)
        if call is None or body.attempt != call.attempt:
            return
        if body.failure is None:
            self.deliver(ev.ActivityCompleted(body.seq, draft.now, body.result or b"", call.attempt))
            return
        retry_at = _retry_at(call, body.failure, draft.now)
        if retry_at is None:
            self.deliver(ev.ActivityFailed(body.seq, draft.now, body.failure, call.attempt))
            return
        self.deliver(ev.AttemptFailed(body.seq, draft.now, call.attempt, body.failure, retry_at, body.details))
        run.opened.append(call)

    def _take_step(self, run: Run, message: msg.Message, body: msg.StepDone) -> None:
        self.draft.consumed(message)
        call = _pending(run, body, StepCall)
        if call is not None:
            now = self.draft.now
            self.deliver(ev.StepRecorded(body.seq, now, call.name, call.occurrence, body.value, body.failure))

    def _take_reply(self, run: Run, message: msg.Message, body: msg.Reply) -> None:
        self.draft.consumed(message)
        if _pending(run, body, ChildCall) is not None:
            self.deliver(ev.Replied(body.seq, self.draft.now, body.result, body.failure))

    def give_up(self) -> None:
        """The run is over without its code being asked: what it waits for is not wanted any more."""
        run = self.run
        assert run is not None
        self.draft.cancelled.extend(p for p in run.pending.values() if isinstance(p, Call))
        outbox.close_children(self.draft, run, self.draft.cancelled)
        run.opened, run.outgoing, run.cancelled_calls = [], [], []
        dispose(run.loop)
        run.pending.clear()


def _pending(run: Run, body: msg.ActivityDone | msg.StepDone | msg.Reply, kind: type[C]) -> C | None:
    """The call that an answer belongs to, if run, execution and command all match."""
    started = run.started
    if body.run != started.run or body.execution != started.execution:
        return None
    call = run.pending.get(body.seq)
    return call if isinstance(call, kind) else None


def _retry_at(call: ActivityCall, failure: Failure, now: int) -> int | None:
    """When the next attempt may begin; None: there is none."""
    policy = call.options.retry
    if not policy.wants(failure, call.attempt):
        return None
    retry_at = now + policy.delay_ms(call.attempt)
    total = call.options.total_timeout_ms
    return None if total is not None and retry_at >= call.scheduled_at + total else retry_at
