"""A unit: a workflow instance in memory, and the turns that advance it.

A turn goes one way:

    take       messages from the unit's mailbox, control messages first
    deliver    each to the run, one by one, and timers that came due earlier before it
    collect    the results of the run: events, calls, messages to others, variables
    pack       all of it into one Commit

The unit in memory is then *ahead* of the store until that commit is durable. The owner starts no
other turn of it meanwhile, and drops the unit if the commit is refused.

A unit keeps messages that it cannot deliver now (`waiting`): those in channels without a receiver,
and all of them while it is paused or held. A kept message stands in the store's inbox from this
commit on, so that it survives the process, the unit's eviction and continue-as-new.

A turn has a budget. The rest waits for the next turn, so that one busy unit does not hold up the
others, and no backlog makes a turn too long.

A unit is *held* when its code cannot go on: a definition is missing, the journal cannot be read,
code and journal differ, or the code waits for nothing. It is then `suspended` with the reason,
costs nothing, and is tried again when it is loaded after a deploy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, Commit, KvEntry, UnitRow
from perdure.kernel.data.limits import DEDUPE_MS
from perdure.kernel.data.placement import code_of
from perdure.kernel.execution import match
from perdure.kernel.execution.answers import event_of
from perdure.kernel.execution.execution import Execution
from perdure.kernel.execution.queued import IsQueued, never_queued
from perdure.kernel.loop.call import CHANNEL_LANE
from perdure.kernel.loop.entered import Entered
from perdure.kernel.loop.ordered import install as install_ordered_sets
from perdure.kernel.unit import control, deletion, held, lifecycle
from perdure.kernel.unit.budget import Budget, never_spent
from perdure.kernel.unit.children import OpenChild, recorded_children
from perdure.kernel.unit.collect import collect
from perdure.kernel.unit.offer import feed, offer
from perdure.kernel.unit.row_state import describe
from perdure.kernel.unit.tasks import drop_late, know_tasks
from perdure.kernel.unit.turn import Turn
from perdure.kernel.unit.unbegun import Unbegun
from perdure.kernel.unit.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from logging import LogRecord

    from perdure.errors import Failure
    from perdure.kernel.data.commit import Fence, Task
    from perdure.kernel.data.definition import Definitions, WorkflowDefinition
    from perdure.kernel.data.limits import Limits
    from perdure.kernel.data.loaded import Loaded
    from perdure.kernel.unit.mailbox import Entry, Mailbox


class WorkflowUnit:
    """A workflow instance that its owner holds in memory.

    Attributes without `_` may be read by the owner. Only methods of the unit write them.
    """

    kind = "workflow"

    __slots__ = (
        "_changed", "_unbegun", "children_without_code", "dedupe_ms", "definitions",
        "held", "id", "is_elsewhere", "is_queued", "lacks", "limits", "rederives", "row", "run",
        "shards", "stored_tasks", "version", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        unit: str,
        definitions: Definitions,
        limits: Limits,
        *,
        shards: int,
        dedupe_ms: int = DEDUPE_MS,
        is_queued: IsQueued = never_queued,
        is_elsewhere: Callable[[UnitRow, str], bool] | None = None,
    ) -> None:
        """A unit of which nothing is known yet, in a store with so many shards.

        A client's message may come again for `dedupe_ms`. `is_queued` says which calls of
        activities are tasks for workers. `is_elsewhere` says whether another node has code that a
        unit lacks here. None: there are no other nodes.
        """
        self.id = unit
        self.version = 0
        self.row: UnitRow | None = None
        self.run: Execution | None = None
        self.held: Failure | None = None
        # The code for the lack of which it is held, as pins name it.
        self.lacks = ""
        self.is_elsewhere = is_elsewhere
        self.definitions = definitions
        self.limits = limits
        self.shards = shards
        self.dedupe_ms = dedupe_ms
        self.is_queued = is_queued
        # Tasks that are stored and that no run knows: none of its code is in memory.
        self.stored_tasks: Sequence[Task] = ()
        self.waiting = Waiting()
        # After a load no work runs for the open calls, so the next turn hands out all of them.
        self.rederives = True
        self._unbegun: Unbegun | None = None
        # Open children of a unit that was held when it was loaded, as its history has them.
        self.children_without_code: Sequence[OpenChild] = ()
        # The row was changed outside of a turn, so the next turn has something to commit.
        self._changed = False

    # ------------------------------------------------------------ loading

    def load(self, found: Loaded, *, released: bool = False) -> None:
        """Take over the unit as stored, and replay an execution that is open.

        An error that prevents it ends up in `held`. The owner puts the inbox into the mailbox. A
        unit that is poison is not replayed, unless it is `released`. Nor is one that is held.
        """
        self._load(found, released=released)
        if self.held is not None:
            self.children_without_code = recorded_children(found.journal)

    def _load(self, found: Loaded, *, released: bool) -> None:
        row = found.row
        assert row is not None
        self.stored_tasks = found.tasks
        self.version = found.version
        self.row = row
        if row.reason == held.REASONS[held.POISONED] and not released:
            self.held = row.failure
        if self.held is not None or row.status in CLOSED or not row.started_at:
            return
        events: list[ev.Event] = []
        try:
            for chunk in found.journal:
                events += ev.decode_events(chunk.events)
        # TypeError: a damaged column may hold a text in place of bytes.
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            self.hold(held.undecodable(self.id, str(error)))
            return
        self._unbegun = Unbegun(events, found.kv)
        if len(events) == 1:
            # Between two executions. The code of the next one begins with a turn, behind what
            # stops it: as it does in a unit that did not leave memory.
            return
        self.begin_execution()

    def begin_execution(self) -> None:
        """Run the code of an execution whose start is stored, if there is one to begin."""
        if self._unbegun is None or self.held is not None:
            return
        journal, kv = self._unbegun
        self._unbegun = None
        row = self.row
        assert row is not None
        if not journal or not isinstance(journal[0], ev.Started):
            self.hold(held.undecodable(self.id, "it does not begin with a start"))
            return
        definition = self.definitions.find_workflow(row.type, row.type_version)
        if definition is None:
            missing = held.missing_workflow(row.type, row.type_version)
            self.hold(missing, code_of(row.type, row.type_version))
            return
        run = self.new_run(definition)
        run.variables.load(kv, row.execution)
        know_tasks(run, row, self.stored_tasks)
        with Entered(run.loop):
            run.replay(journal)
        self.check_run()

    def begin_later(self, started: ev.Started, kv: Iterable[KvEntry]) -> None:
        """The code has continued as new. The next execution begins with the next turn."""
        self.waiting.close_lanes()
        self.close_memory()
        self._unbegun = Unbegun([started], kv)
        self.rederives = True

    def new_run(self, definition: WorkflowDefinition) -> Execution:
        """An empty run of this unit."""
        install_ordered_sets()
        run = Execution(
            self.id,
            definition,
            self.definitions,
            self.limits,
            keep_logs=True,
            is_queued=self.is_queued,
        )
        self.run = run
        return run

    def check_run(self) -> None:
        """Hold the unit if its run is broken, or waits for nothing."""
        run = self.run
        assert run is not None
        if run.broken is not None:
            self.hold(run.broken)
        elif run.ended is None and not run.pending and run.main is not None:
            self.hold(held.stuck(self.id, run.loop))

    def close_memory(self) -> None:
        """Leave memory. The code is not run."""
        if self.run is not None:
            self.run.leave_memory()
            self.run = None

    @property
    def idle(self) -> bool:
        """Whether the unit could leave memory, because no work of its own is open."""
        if self.row is None:
            return False
        if self.run is None:
            return True
        return not self.run.local and not self.run.retries

    # ------------------------------------------------------------ its state

    def adopt(self, row: UnitRow) -> None:
        """A new run begins under this id. Children of the run before are none of it."""
        self.row = row
        self.children_without_code = ()

    def hold(self, why: Failure, lacks: str = "") -> None:
        """The code cannot go on until people change something, or where it `lacks` something."""
        self.held = why
        self.lacks = lacks

    def release(self) -> None:
        """Nothing holds the code any more."""
        self.held = None

    @property
    def is_poison(self) -> bool:
        """Whether the code is not to be run, because it stops its node."""
        return self.held is not None and self.held.type == held.POISONED

    @property
    def only_sleeps(self) -> bool:
        """Whether the code waits for nothing but a time."""
        return self.run is not None and self.run.only_sleeps

    @property
    def keeps_messages(self) -> bool:
        """Whether messages wait in the store for a unit that does not exist."""
        return bool(self.waiting.kept)

    def take_logs(self) -> Sequence[LogRecord]:
        """The log records of the code since the last turn."""
        if self.run is None:
            return ()
        return self.run.take_logs()

    def where(self) -> str | None:
        """The line of code at which the unit waits, for people."""
        if self.run is None:
            return None
        return next(iter(match.waiting_lines(self.run.loop)), None)

    def end(self) -> None:
        """The row is closed. Whatever held the unit, or was about to begin, counts no more."""
        self.held = None
        self._unbegun = None

    def suspect_of(self, crashes: int) -> None:
        """Note in the row how many crashes the unit may have caused. The next turn stores it."""
        assert self.row is not None
        self.row.suspect_of(crashes)
        self._changed = True

    def rederive_work(self) -> None:
        """No work runs for the open calls, so the next turn hands out all of them."""
        self.rederives = True

    def has_derived_work(self) -> None:
        """All open calls have been handed out."""
        self.rederives = False

    # ------------------------------------------------------------ following

    def follow(self, commit: Commit) -> None:
        """Advance by a commit of another owner, so that this copy can take over without a replay.

        No effect is asked for.
        """
        if commit.delete is not None:
            self.close_memory()
            self.end()
            self.row = None
            self.version = 0
            self.waiting = Waiting()
            return
        if self.row is not None and self.row.run != commit.row.run:
            # The run was replaced, and nothing of it belongs to the new one.
            self.close_memory()
            self.end()
        # A copy: the owner's row lives on, if both are in one process.
        self.row = msgspec.structs.replace(commit.row)
        self.version = commit.expect + 1
        for chunk in commit.journal:
            self._follow(ev.decode_events(chunk.events))
        if self.run is not None:
            know_tasks(self.run, self.row, commit.tasks_added)
        self.waiting.follow(commit.consume, [m for m in commit.post if m.to == self.id])
        self.rederives = True
        if commit.row.status in CLOSED:
            self.close_memory()

    def _follow(self, events: list[ev.AnyEvent]) -> None:
        if isinstance(events[0], ev.Started):
            kv: list[KvEntry] = []
            if self.run is not None:
                kv = self.run.variables.entries()
            self.close_memory()
            self.release()
            self._unbegun = Unbegun(events, kv)
            # A start alone is a continuation. The first commands of its code come with the next
            # commit.
            if len(events) > 1:
                self.begin_execution()
        elif self._unbegun is not None:
            self._unbegun = Unbegun([*self._unbegun.journal, *events], self._unbegun.kv)
            self.begin_execution()
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
        is_spent: Callable[[], bool] = never_spent,
    ) -> Turn:
        """Digest messages and due timers at time `now` (ms), as far as the turn's budget goes.

        The unit is ahead of the store until the turn's commit is durable. `is_spent` says when the
        turn has had its share of time.

        Raises:
            NeverIdle: the code does not become idle. The unit must be dropped.
            KeyboardInterrupt: the turn was interrupted. The unit must be dropped.
        """
        limits = self.limits
        # A quarter, so that kept and received messages leave room for what the code makes of them.
        budget = Budget(limits.turn_messages, limits.commit_bytes // 4, is_spent)
        turn = Turn(self.id, now, budget, self.shards, fence.scope)
        if self._changed:
            self._changed = False
            turn.touch()
        if self.run is None and self.row is not None and not self.row.started_at:
            self._note_start(self.row, mailbox)
        # Most turns are one message for a run that waits for it, so the rest is asked about first.
        waiting = self.waiting
        if mailbox.control or waiting.control:
            self._take_control(turn, mailbox)
            if turn.removes_unit:
                assert self.row is not None
                deletion.pack(self, self.row, turn, mailbox, fence, commit_id)
                self.version = 0
                return turn
        if self.row is None or self._unbegun is not None or waiting.start is not None:
            self._begin(turn, mailbox)
        self._take_messages(turn, mailbox)
        if self.row is not None:
            self._finish(self.row, turn, mailbox, fence, commit_id)
        return turn

    def _finish(
        self, row: UnitRow, turn: Turn, mailbox: Mailbox, fence: Fence, commit_id: bytes
    ) -> None:
        """Collect the results of the turn, and pack them."""
        if self.run is not None:
            more = bool(mailbox.queue or mailbox.control)
            collect(self, self.run, row, turn, more=more)
        describe(self, row, turn)
        # This is progress, so the unit is not what crashed the node.
        if turn.chunks and row.suspect:
            row.suspect_of(0)
        if turn.pack(row, self.version, fence, commit_id, self.dedupe_ms):
            self.version += 1
        run, waiting = self.run, self.waiting
        if run is not None and (run.deadlines or waiting.kept or waiting.lanes):
            self._look_for_more(run, turn)

    def _look_for_more(self, run: Execution, turn: Turn) -> None:
        """Ask for another turn if this one has left something that the code can be told now."""
        if not self.receives:
            return
        timer_at = run.timer_at()
        has_timer = timer_at is not None and timer_at <= turn.now
        waiting = self.waiting
        if has_timer or waiting.kept or waiting.first_lane(run.waits.first) is not None:
            turn.ask_again()

    # ------------------------------------------------------------ taking

    def _take_control(self, turn: Turn, mailbox: Mailbox) -> None:
        for kept in self.waiting.take_control():
            control.take(self, turn, kept)
        while mailbox.control and not turn.removes_unit:
            entry = mailbox.next_control()
            body = entry.message.body
            if isinstance(body, msg.ADMIN):
                deletion.take(self, turn, entry, body)
            else:
                control.take(self, turn, entry)

    def _note_start(self, row: UnitRow, mailbox: Mailbox) -> None:
        """Keep the start of a run that waits. It is no barrier any more for what came behind it."""
        # After a load it stands in the mailbox, before a cancel or a pause that came in time. The
        # code must not begin because its node was away when it was due.
        if self.waiting.start is None:
            start = mailbox.next_start(row.run)
            if start is not None:
                self.waiting.keep_start(start)

    def _begin(self, turn: Turn, mailbox: Mailbox) -> None:
        """Begin the unit by its start, or its next execution, if that is possible now."""
        row = self.row
        if row is None:
            entry = mailbox.next_start()
            if entry is not None:
                turn.budget.take(entry.message.body)
                self._take(turn, entry)
            return
        start = self.waiting.take_start()
        if start is not None:
            lifecycle.begin_start(self, row, turn, start)
        if not row.paused:
            self.begin_execution()

    def _take_messages(self, turn: Turn, mailbox: Mailbox) -> None:
        run, waiting = self.run, self.waiting
        if run is None:
            self._take_all(turn, mailbox)
        elif mailbox.queue or waiting.kept or waiting.lanes or run.deadlines:
            # Entered once for all messages. Each of them would enter the loop otherwise.
            with Entered(run.loop):
                self._take_all(turn, mailbox)

    def _take_all(self, turn: Turn, mailbox: Mailbox) -> None:
        """Take kept messages first, then those of the mailbox, then timers that are due now."""
        budget, waiting = turn.budget, self.waiting
        if self.run is not None and waiting.lanes:
            feed(self.waiting, turn, self.run)
        while waiting.kept and self.receives and budget.has_room():
            self._fire_timers(turn, min(waiting.kept[0].message.at, turn.now))
            if self.receives and budget.has_room():
                budget.take(waiting.kept[0].message.body)
                self._take(turn, waiting.next())
        if waiting.kept and self.receives:
            # The budget is spent, and the mailbox comes behind them.
            return
        # A control message goes first, so the turn ends where a start has let one through.
        while mailbox.queue and not mailbox.control:
            if budget.used and not budget.has_room():
                break
            if self.run is not None and self.run.deadlines:
                self._fire_timers(turn, min(mailbox.queue[0].message.at, turn.now))
                if not budget.has_room():
                    return
            budget.take(mailbox.queue[0].message.body)
            self._take(turn, mailbox.next())
        if self.run is not None and self.run.deadlines:
            self._fire_timers(turn, turn.now)

    def _take(self, turn: Turn, entry: Entry) -> None:
        """Take one message, whatever state the unit is in. The budget has counted it."""
        message, row = entry.message, self.row
        body = message.body
        if type(body) is msg.Start:
            lifecycle.start(self, turn, entry, body)
        elif row is None:
            # A unit's message waits, because its target may come to be.
            if entry.stored and message.sender is not None:
                self._keep(turn, entry)
            else:
                turn.answer(message.id, "missing")
        elif row.status in CLOSED:
            drop_late(turn, entry)
            turn.consume(entry, "closed")
        elif type(body) in msg.CONTROL:
            control.take(self, turn, entry)
        elif self.receives:
            assert self.run is not None
            self._take_open(self.run, turn, entry, body)
        else:
            self._take_later(turn, entry, body)

    @property
    def receives(self) -> bool:
        """Whether the code can be told something now."""
        run, row = self.run, self.row
        if run is None or row is None or row.paused or self.held is not None:
            return False
        return run.ended is None and run.broken is None and row.status not in CLOSED

    def _take_later(self, turn: Turn, entry: Entry, body: msg.Body) -> None:
        """A message for code that cannot be told now: paused, held, ended, or not begun."""
        run, row = self.run, self.row
        assert row is not None
        is_from_outside = isinstance(body, msg.Send | msg.Raise)
        if run is not None and run.ended is not None and not row.paused and self.held is None:
            # For the next execution. A result that is stored goes with that, too: a unit that was
            # not loaded in between has it among those that it keeps.
            is_kept = is_from_outside or entry.stored
            if isinstance(run.ended, ev.ContinuedAsNew) and is_kept:
                self._keep(turn, entry)
            else:
                turn.consume(entry, "closed")
        elif is_from_outside and not entry.stored and self._is_full:
            turn.answer(entry.message.id, "full")
        else:
            self._keep(turn, entry)

    @property
    def _is_full(self) -> bool:
        return self.waiting.sends >= self.limits.inbox_messages

    def _keep(self, turn: Turn, entry: Entry) -> None:
        """Take the message up again when the code can be told. It is durable from this turn on."""
        self.waiting.keep(turn.keep(entry))

    def keep_start(self, turn: Turn, entry: Entry) -> None:
        """Begin with this start when its time has come, or when its code is there."""
        self.waiting.keep_start(turn.keep(entry))

    def keep_control(self, turn: Turn, entry: Entry) -> None:
        """Take the control message up again when the code can be asked."""
        self.waiting.keep_control(turn.keep(entry))

    # ------------------------------------------------------------ messages for a run that goes on

    def _take_open(self, run: Execution, turn: Turn, entry: Entry, body: msg.Body) -> None:
        if isinstance(body, msg.Send):
            self._take_send(run, turn, entry, body)
        elif isinstance(body, msg.Unreadable):
            self.hold(held.unreadable(self.id, entry.message))
            self._keep(turn, entry)
        else:
            event = event_of(run, body, turn.now)
            if event is None:
                drop_late(turn, entry)
            if isinstance(event, ev.EventRaised) and event.seq:
                offer(self, run, turn, entry, event)
                return
            turn.consume(entry)
            if event is not None:
                self.deliver(turn, event)

    def _take_send(self, run: Execution, turn: Turn, entry: Entry, body: msg.Send) -> None:
        lane = CHANNEL_LANE + body.channel
        seq = run.waits.first.get(lane)
        if seq is not None and lane not in self.waiting.lanes:
            event = ev.Received(seq, turn.now, entry.message.id, body.value)
            offer(self, run, turn, entry, event)
        elif not entry.stored and self._is_full:
            turn.answer(entry.message.id, "full")
        else:
            self.waiting.enlane(lane, turn.keep(entry))

    # ------------------------------------------------------------ delivering

    def deliver(self, turn: Turn, event: ev.Event) -> None:
        """Hand one delivery to the run, and then kept messages that the code waits for now."""
        run = self.run
        assert run is not None
        if run.loop.turning:
            run.deliver(event)
            if self.waiting.lanes:
                feed(self.waiting, turn, run)
        else:
            with Entered(run.loop):
                self.deliver(turn, event)

    def _fire_timers(self, turn: Turn, until: int) -> None:
        """Fire the timers that are due at `until`, earliest first."""
        budget = turn.budget
        while (run := self.run) is not None and run.deadlines:
            if not (self.receives and budget.has_room()):
                return
            seq = run.due_timer(until)
            if seq is None:
                return
            budget.use(0)
            self.deliver(turn, ev.TimerFired(seq, turn.now))
