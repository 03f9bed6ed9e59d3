"""An execution: one generation of a workflow in memory, live or in replay.

An execution is told things (deliveries), and its code answers with commands. The unit that it
belongs to gives it deliveries (`kernel/unit/workflow_unit.py`), and takes what the code has done at
the end of the turn (`kernel/unit/collect.py`).

`deliver` appends the delivery to the new events of the turn, hands it to the waiting code, and lets
the code go on until it is idle. The commands that the code gives meanwhile follow it in the same
list. `replay` does the same with a recorded journal: each delivery is handed over, and each command
must be the next event of the journal (`match.py`). When the journal is used up, the execution is
live. There is no other difference. So a warm execution can also be advanced by a journal that
another node wrote (`replay` again).

Deliveries are handed over one by one, and the loop drains after each, so that the order in the
journal decides every race. Work is scheduled at the call. `schedule_activity` and its siblings
(`commands.py`, `changes.py`) give a `Call`, which is pending until a delivery names its `seq`, or
until it is cancelled. How an execution ends is in `ending.py`.

A difference between journal and code breaks the execution. The loop is dead from then on, so that
whatever the code still does has no effect, and `broken` holds the report.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from perdure.errors import Failure, UsageError
from perdure.kernel.data import events as ev
from perdure.kernel.execution import match, refusal
from perdure.kernel.execution.deadline import check_deadline
from perdure.kernel.execution.delivery import HANDLERS, NOTES
from perdure.kernel.execution.ending import ContinueAsNew, wind_up
from perdure.kernel.execution.progress import Progress
from perdure.kernel.execution.queued import IsQueued, QueuedCalls, never_queued
from perdure.kernel.execution.variables import Variables, new_stream
from perdure.kernel.execution.waits import Waits, behind_timer, next_wake
from perdure.kernel.loop.call import (
    ActivityCall,
    Call,
    CheckpointCall,
    ChildCall,
    WaitCall,
    WorkCall,
)
from perdure.kernel.loop.disposal import dispose
from perdure.kernel.loop.loop import Timer, WorkflowLoop, running_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from logging import LogRecord
    from random import Random

    from perdure.kernel.data.definition import Definitions, WorkflowDefinition
    from perdure.kernel.data.limits import Limits

E = TypeVar("E", bound=ev.Event)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_NOT_STARTED = ev.Started(0, "", "", b"", b"", 0, PYTHON)
"""The start of an execution until its first delivery."""


class Execution:
    """One execution of a workflow.

    Workflow code gives its commands through `commands` and `changes`. Lists that most runs do not
    need are None until they are: thousands of runs wait in memory, and the garbage collector goes
    through all that they hold.
    """

    __slots__ = (
        "_cancelled", "_is_queued", "_opened", "_outgoing", "_streams", "broken",
        "cancel_requested", "closing", "deadlines", "definition", "definitions", "ended", "events",
        "has_progress", "journal", "journal_bytes", "journal_events", "keeps_logs", "limits",
        "local", "logs", "loop", "main", "next_input", "pending", "position", "queued", "retries",
        "seq", "started", "turn_bytes", "unheard", "unit", "unwinding", "variables", "waits",
    )  # fmt: skip

    def __init__(
        self,
        unit: str,
        definition: WorkflowDefinition,
        definitions: Definitions,
        limits: Limits,
        *,
        keep_logs: bool = False,
        is_queued: IsQueued = never_queued,
    ) -> None:
        """An execution that was told nothing yet.

        With `keep_logs` the log records of its code wait for the turn that they belong to.
        `is_queued` says which calls of activities are tasks for workers.
        """
        self.unit = unit
        self.definition = definition
        self.definitions = definitions
        self.limits = limits
        # Abstract for type checkers: the rest of the interface is refused by name.
        self.loop = WorkflowLoop(self)  # type: ignore[abstract]
        self.main: asyncio.Task[Any] | None = None
        self.started: ev.Started = _NOT_STARTED
        self.events: list[ev.Event] = []
        self.journal: Sequence[ev.Event] | None = None
        self.position = 0
        self.journal_events = 0
        self.journal_bytes = 0
        self.seq = 0
        # Commands that have no answer, by number. Timers that never fire are not among them.
        self.pending: dict[int, Call | Timer] = {}
        self.waits = Waits()
        # A heap of times and numbers of timers. Cancelled timers leave it late.
        self.deadlines: list[tuple[int, int]] | None = None
        # The times at which the next attempts of activities begin, by number.
        self.retries: dict[int, int] | None = None
        self.turn_bytes = 0
        # How many open calls are work of this node now.
        self.local = 0
        self._is_queued = is_queued
        self.queued: QueuedCalls | None = None
        self.keeps_logs = keep_logs
        self.logs: list[LogRecord] | None = None
        # Whether the code has asked for something since `take_progress`.
        self.has_progress = False
        self._opened: list[Call] | None = None
        self._cancelled: list[Call] | None = None
        self._outgoing: list[ev.Event] | None = None
        # Calls that had their answer before the code awaited them.
        self.unheard: Sequence[Call] = ()
        self.variables = Variables()
        self.unwinding = False
        self.closing: list[Any] | None = None
        self.cancel_requested: str | None = None
        self.next_input: tuple[bytes, str | None] | None = None
        self.ended: ev.Event | None = None
        self.broken: Failure | None = None
        self._streams: dict[bytes, Random] | None = None

    # ------------------------------------------------------------ being told

    def deliver(self, event: ev.Event) -> None:
        """Hand one delivery over, live.

        The caller has entered the loop (`Entered`) and knows that the delivery is expected.
        """
        # First of all, because the commands that the code gives must stand behind it.
        self.events.append(event)
        self.loop.drain(HANDLERS[type(event)](self, event))
        main = self.main
        if main is not None and main.done():
            wind_up(self)

    def replay(self, journal: Sequence[ev.Event]) -> None:
        """Go through recorded events. Sets `broken` when code and journal part.

        The caller has entered the loop.
        """
        self.journal = journal
        self.position = 0
        count = len(journal)
        while self.position < count and self.broken is None:
            event = journal[self.position]
            self.position += 1
            handler = HANDLERS.get(type(event))
            if handler is None:
                if isinstance(event, NOTES):
                    continue
                # A command, or an end. The code should have given it before.
                self.position -= 1
                self._expected(event)
                break
            self.loop.drain(handler(self, event))
            main = self.main
            if main is not None and main.done():
                wind_up(self)
        self.journal_events += count
        self.journal = None

    @property
    def replaying(self) -> bool:
        """True while the code goes through what it did before."""
        return self.journal is not None and self.position < len(self.journal)

    @property
    def history_events(self) -> int:
        """How long the journal is at this moment.

        Live, the events of this turn count as soon as they happen. In replay those count that the
        code has gone through. So the same line of code sees the same number both times.
        """
        count = self.journal_events + len(self.events)
        if self.journal is not None:
            count += self.position
        return count

    def _expected(self, event: ev.Event) -> None:
        """The journal goes on with a command, or an end, that the code did not give."""
        is_end_without_code = isinstance(event, ev.Terminated)
        if isinstance(event, ev.Failed):
            is_end_without_code = event.without_code
        if is_end_without_code:
            self.ended = event
            self.position += 1
            return
        self.break_off(event, None, match.end_line(self.loop, self.definition.fn))

    def break_off(self, recorded: ev.Event | None, given: ev.Event | None, where: str) -> None:
        """Journal and code differ. Nothing that the code does from here on has an effect."""
        index = self.journal_events + self.position
        recorded_python = self.started.python
        self.broken = match.report(index, recorded, given, where, (recorded_python, PYTHON))
        self.loop.die()

    def not_local(self, call: Call) -> None:
        """The call needs no work of this node now.

        It has its answer, or waits for its next attempt.
        """
        if self.queued is not None and self.queued.leave(call.seq):
            return
        # A call that waits for an attempt was counted out when the last attempt failed.
        if not self.retries or self.retries.pop(call.seq, None) is None:
            self.local -= 1

    def answered(self, call: WorkCall) -> None:
        """The call has its answer now."""
        if not call.is_awaited:
            self.unheard = [*self.unheard, call]

    def cancel_instead(self, at: int, reason: str) -> None:
        """Stop code that has continued as new in this very turn."""
        # The cancel wins, and stands before the end. Code that continues for ever could not be
        # stopped otherwise.
        assert isinstance(self.events[-1], ev.ContinuedAsNew)
        self.cancel_requested = reason
        failure = Failure("CancelledError", reason, "cancelled", retryable=False)
        self.ended = ev.Cancelled(at, failure)
        self.events[-1:] = [ev.CancelRequested(at, reason), self.ended]

    def see_late_cancel(self) -> None:
        """In replay, take over a cancel that came when the code had continued as new already."""
        if self.journal is None or not self.replaying:
            return
        recorded = self.journal[self.position]
        if isinstance(recorded, ev.CancelRequested):
            self.position += 1
            self.cancel_requested = recorded.reason
            self.loop.pass_to(recorded.at)

    # ------------------------------------------------------------ its state

    def begin(self, event: ev.Started, coroutine: Coroutine[Any, Any, Any]) -> None:
        """The execution begins with this code."""
        self.started = event
        self.variables.begin(event.status, event.attributes)
        self.main = self.loop.create_task(coroutine, name="main", context=self.loop.context)

    def wait_for_retry(self, call: ActivityCall) -> None:
        """An attempt has failed, and the next one has its time."""
        if self.queued is None or not self.queued.is_open(call.seq):
            self.not_local(call)
            if self.retries is None:
                self.retries = {}
            self.retries[call.seq] = call.retry_at
        # Only live. After a replay all open calls are handed out anyway.
        if self.journal is None:
            self._hand_out(call)

    def note(self, event: ev.Event) -> None:
        """Write an event that the code is not told."""
        self.events.append(event)

    def ask_to_stop(self, reason: str) -> None:
        """Note that the code is asked to stop. The first reason counts."""
        if self.cancel_requested is None:
            self.cancel_requested = reason

    def unwind(self) -> None:
        """The main task is done, and the other tasks are cancelled. This happens once."""
        self.unwinding = True

    def end(self, event: ev.Event) -> None:
        """Note the outcome, which is recorded."""
        self.ended = event

    def end_without_code(self, event: ev.Event) -> None:
        """End the execution without asking its code."""
        # Events of a broken one do not fit the journal.
        if self.broken is not None:
            self.discard()
            self.broken = None
        self.events.append(event)
        self.ended = event

    # ------------------------------------------------------------ commands

    def command(self, event: E, check: Callable[[], None] | None = None) -> tuple[E, bool]:
        """Record a command, or find it in the journal.

        Returns the event that counts, and whether it is new. `check` may refuse a new command by
        raising a `UsageError`, and the refusal is recorded. In replay no check runs, because the
        journal decides.
        """
        if self.loop.dead:
            return event, False
        journal = self.journal
        if journal is None or self.position >= len(journal):
            if check is not None:
                self._judge(event, check)
            self.events.append(event)
            return event, True
        recorded = journal[self.position]
        if recorded == event or match.matches(recorded, event, self.definitions):
            self.position += 1
            return cast("E", recorded), False
        if check is not None:
            self._refuse_again(recorded, event, check)
        self.position += 1
        self.break_off(
            recorded, event, match.calling_line() or match.end_line(self.loop, self.definition.fn)
        )
        return event, False

    def _judge(self, event: ev.Event, check: Callable[[], None]) -> None:
        """Record the refusal of a new command, if it is refused."""
        try:
            check()
        except UsageError as error:
            refused = refusal.refused(event, error)
            self.events.append(refused)
            again = refusal.error_of(refused)
            # Replay will raise it as the journal has it, so the code gets that now as well.
            if (type(again), str(again)) != (type(error), str(error)):
                raise again from error
            raise

    def _refuse_again(self, recorded: ev.Event, event: ev.Event, check: Callable[[], None]) -> None:
        """Raise the error that the journal says was raised here."""
        if isinstance(recorded, ev.Refused):
            if refusal.is_about(recorded, event):
                self.position += 1
                raise refusal.error_of(recorded)
        elif not self.started.flags & ev.REFUSALS_RECORDED:
            # An older release recorded no refusals, so only the check can tell.
            check()

    def allow(self, event: ev.Event, check: Callable[[], None]) -> None:
        """Check a command that is recorded later, or was. Its refusal is recorded here."""
        journal = self.journal
        if self.loop.dead:
            return
        if journal is None or self.position >= len(journal):
            self._judge(event, check)
        else:
            self._refuse_again(journal[self.position], event, check)

    def open(self, call: Call, *, new: bool) -> None:
        """The call waits for its answer. Its command has used its number up."""
        if self.loop.dead:
            call.stay_unscheduled()
            return
        self.seq = call.seq
        self.pending[call.seq] = call
        # `isinstance` would ask the abstract classes, which is slow.
        if type(call) is WaitCall:
            # No node and no instance works for it.
            self.waits.add(call.lane, call.seq)
            return
        if type(call) is ActivityCall and call.options.queue is not None:
            self.local += not self._becomes_task(call)
        elif type(call) is not ChildCall:
            self.local += 1
        if new:
            self._hand_out(call)

    def _becomes_task(self, call: ActivityCall) -> bool:
        """Whether the call is a task for workers. One that is stored stays one."""
        is_stored = self.queued is not None and self.queued.has(call.seq)
        return (is_stored or self._is_queued(call.options)) and self.tasks.join(call.seq)

    @property
    def tasks(self) -> QueuedCalls:
        """Its calls that are tasks for workers. Most executions have none."""
        self.queued = self.queued or QueuedCalls()
        return self.queued

    def _hand_out(self, call: Call) -> None:
        """The call is work for the node, or for another instance, once the turn is durable."""
        self.has_progress = True
        if self._opened is None:
            self._opened = []
        self._opened.append(call)

    def send(
        self,
        event: ev.CallStarted | ev.MessageSent | ev.CancelSent,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Give a command for another unit. It goes out when this turn is durable.

        One that `check` refuses uses no number up.
        """
        _, new = self.command(event, check)
        self.seq = event.seq
        if not new:
            return
        self.has_progress = True
        if self._outgoing is None:
            self._outgoing = []
        self._outgoing.append(event)

    def continue_as_new(
        self, data: bytes, version: str | None, check: Callable[[], None]
    ) -> NoReturn:
        """End this execution. The next one begins with this input.

        Raises:
            UsageError: `check` refuses the input, or it is too large.
        """

        def check_all() -> None:
            check()
            self.check_size(data, f"the input of workflow {self.definition.name!r}")

        self.allow(ev.ContinuedAsNew(self.loop.now_ms, data, version), check_all)
        self.next_input = (data, version)
        raise ContinueAsNew

    def cancel_call(self, call: Call) -> None:
        """Journal a cancel. `Call.cancel` reports it here."""
        if self.loop.dead or self.pending.pop(call.seq, None) is None:
            return
        if isinstance(call, (ActivityCall, CheckpointCall)):
            self.not_local(call)
        elif isinstance(call, WaitCall):
            self.waits.remove(call.lane, call.seq)
        _, new = self.command(ev.CommandCancelled(call.seq))
        if not new:
            return
        self.has_progress = True
        if self._cancelled is None:
            self._cancelled = []
        self._cancelled.append(call)

    def start_timer(self, timer: Timer) -> None:
        """Journal a new timer. The loop reports it here.

        Raises:
            UsageError: it would fire too far in the future.
        """
        seq = self.seq + 1
        event = ev.TimerStarted(seq, timer.fire_at, timer.name)
        recorded, _ = self.command(event, lambda: check_deadline(timer.fire_at))
        self.seq = seq
        # The journal's time counts: the delay in the code may be another one by now.
        timer.arm(seq, recorded.fire_at)
        self.pending[timer.seq] = timer
        if self.deadlines is None:
            self.deadlines = []
        heapq.heappush(self.deadlines, (timer.fire_at, timer.seq))

    def cancel_timer(self, timer: Timer) -> None:
        """Journal the end of a timer. `Timer.cancel` reports it here."""
        if not self.loop.dead and self.pending.pop(timer.seq, None) is not None:
            self.command(ev.CommandCancelled(timer.seq))

    # ------------------------------------------------------------ its results, for the turn

    def take_events(self) -> list[ev.Event]:
        """The events since the last call, for the journal. Those that follow are another turn's."""
        events = self.events
        self.events = []
        self.turn_bytes = 0
        self.journal_events += len(events)
        return events

    def take_progress(self) -> Progress:
        """The requests of the code since the last call."""
        progress = Progress(self._opened or (), self._outgoing or (), self._cancelled or ())
        self._forget_progress()
        return progress

    def _forget_progress(self) -> None:
        self._opened = self._outgoing = self._cancelled = None
        self.has_progress = False

    def discard(self) -> None:
        """Forget all that the code has done since it broke off."""
        self.events = []
        self.turn_bytes = 0
        self._forget_progress()

    def keep_log(self, record: LogRecord) -> None:
        """Keep a log record for the turn, if the execution `keeps_logs`."""
        if self.logs is None:
            self.logs = []
        self.logs.append(record)

    def take_logs(self) -> Sequence[LogRecord]:
        """The log records that were kept since the last call."""
        logs = self.logs or ()
        self.logs = None
        return logs

    def close_generator(self, generator: Any) -> None:
        """Note that the generator is being closed."""
        if self.closing is None:
            self.closing = []
        self.closing.append(generator)

    def close(self) -> list[Call]:
        """Make the code dead. The calls that were open are returned."""
        calls = [pending for pending in self.pending.values() if isinstance(pending, Call)]
        dispose(self.loop)
        self.pending.clear()
        return calls

    def leave_memory(self) -> None:
        """Let go of everything. No line of the code runs."""
        dispose(self.loop)
        self.pending.clear()
        self.main = None
        self.loop.detach()

    # ------------------------------------------------------------ questions about it

    def check_size(self, data: bytes, what: str) -> None:
        """Refuse a payload over a limit.

        Raises:
            PayloadTooLarge: naming it, the limit and the option.
        """
        # Refused data is not written, so it does not count.
        self.turn_bytes = refusal.grown(what, self.unit, self.turn_bytes, len(data), self.limits)

    def stream(self, name: bytes) -> Random:
        """The random numbers of this name, the same in each replay. No stream moves another one."""
        if self._streams is None:
            self._streams = {}
        if name not in self._streams:
            self._streams[name] = new_stream(self.started.run, self.started.execution, name)
        return self._streams[name]

    def due_timer(self, at: int) -> int | None:
        """The number of the earliest timer that is due at `at`. None: there is none."""
        # Timers that were cancelled leave the heap on the way.
        heap = self.deadlines
        while heap and heap[0][0] <= at:
            seq = heapq.heappop(heap)[1]
            if seq in self.pending:
                return seq
        return None

    def wake_at(self, timer_at: int | None) -> int | None:
        """When the execution needs an owner (ms). Its earliest timer fires at `timer_at`.

        0: at once, because local work is open. None: a message must come.
        """
        if self.local:
            return 0
        if not self.retries:
            return timer_at
        return next_wake(self.retries.values(), self.loop.now_ms, timer_at)

    def timer_at(self) -> int | None:
        """The time of the earliest timer (ms). None: there is none."""
        heap = self.deadlines
        while heap and heap[0][1] not in self.pending:
            heapq.heappop(heap)
        if not heap:
            return None
        return heap[0][0]

    @property
    def only_sleeps(self) -> bool:
        """Whether nothing but time makes the code go on."""
        return not self.waits.first and all(type(p) is Timer for p in self.pending.values())

    def waiting_for(self) -> str | None:
        """What the code waits for, in a few words. None: nothing is pending."""
        for pending in self.pending.values():
            if not isinstance(pending, Timer):
                return pending.describe()
            break  # it is the deadline of another command, as a rule
        return behind_timer(self.pending.values())


def current_run() -> Execution | None:
    """The execution whose code is calling. None outside of workflows."""
    loop = running_loop()
    if type(loop) is not WorkflowLoop:
        return None
    run = loop.timers
    # A loop that was disposed of has no execution any more.
    if not isinstance(run, Execution):
        return None
    return run
