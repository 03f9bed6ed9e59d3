"""A run: one execution of a workflow in memory, live or in replay.

Theory of operation. A run is told things (deliveries) and answers with commands. `deliver` appends the delivery to
the new events of the turn, hands it to the waiting code and lets the code go on until it is idle; the commands that
the code gives meanwhile follow it in the same list. `replay` does the same with a recorded journal: each delivery is
handed over, and each command must be the next event of the journal (`match`). When the journal is used up, the run is
live. There is no other difference, so a warm run can also be advanced by a journal that another node wrote (`replay`
again).

Deliveries are handed over one by one, and the loop drains after each, so that the order in the journal decides every
race. Work is scheduled at the call:
`schedule_activity` and its siblings give a `Call`, which is pending until a delivery names its `seq` or until it is
cancelled.

A run ends as `asyncio.run` does: when the main task is done, the remaining tasks are cancelled in order of creation
and may clean up, async generators are closed in order, calls that nobody awaits are cancelled; then the outcome is
recorded.

A difference between journal and code breaks the run: the loop is dead from then on, so that whatever the code still
does has no effect, and `broken` holds the report.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections import deque
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

from perdure.errors import Failure, PayloadError, PayloadTooLarge, failure_of
from perdure.kernel import events as ev
from perdure.kernel import match
from perdure.kernel.attributes import check_attributes, merged
from perdure.kernel.call import ActivityCall, Call, ChildCall, StepCall, WaitCall, make
from perdure.kernel.delivery import HANDLERS
from perdure.kernel.loop import Timer, WorkflowLoop, current_loop
from perdure.kernel.placement import derived_id
from perdure.kernel.variables import Variables, check_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.codec import Signature
    from perdure.kernel.definition import ActivityDefinition, ActivityOptions, Definitions, WorkflowDefinition
    from perdure.kernel.limits import Limits

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_NOT_STARTED = ev.Started(0, "", "", b"", b"", 0, PYTHON)
"""Stands in until the first delivery."""

_OWN_TRACE = ("perdure/kernel/loop.py", "perdure/kernel/run.py", "perdure/kernel/call.py")


class ContinueAsNew(BaseException):
    """Unwinds the code after `workflow.continue_as_new`; not an `Exception`, so that `except Exception` lets it
    pass.
    """


class Run:
    """One execution of a workflow. Methods other than `deliver`, `replay` and the properties are for the workflow's
    API.
    """

    __slots__ = (
        "_random",
        "broken",
        "cancel_requested",
        "cancelled_calls",
        "closing",
        "deadlines",
        "definition",
        "definitions",
        "ended",
        "events",
        "fresh",
        "journal",
        "journal_bytes",
        "journal_events",
        "limits",
        "local",
        "loop",
        "main",
        "next_input",
        "opened",
        "outgoing",
        "pending",
        "position",
        "retries",
        "seq",
        "started",
        "turn_bytes",
        "unit",
        "unwinding",
        "variables",
        "waits",
    )  # fmt: skip

    def __init__(self, unit: str, definition: WorkflowDefinition, definitions: Definitions, limits: Limits) -> None:
        """A run that was told nothing yet."""
        self.unit = unit
        self.definition = definition
        self.definitions = definitions
        self.limits = limits
        self.loop = WorkflowLoop(self)  # type: ignore[abstract]  # the rest of the interface is refused by name
        self.main: asyncio.Task[Any] | None = None
        self.started: ev.Started = _NOT_STARTED
        self.events: list[ev.Event] = []
        self.fresh = True
        self.journal: Sequence[ev.Event] | None = None
        self.position = 0
        self.journal_events = 0
        self.journal_bytes = 0
        self.seq = 0
        self.pending: dict[int, Call | Timer] = {}
        self.waits: dict[str, deque[int]] = {}
        self.deadlines: list[tuple[int, int]] = []
        self.retries: dict[int, int] = {}
        self.turn_bytes = 0
        self.local = 0
        self.opened: list[Call] = []
        self.cancelled_calls: list[Call] = []
        self.outgoing: list[ev.Event] = []
        self.variables = Variables()
        self.unwinding = False
        self.closing: list[Any] = []
        self.cancel_requested: str | None = None
        self.next_input: tuple[bytes, str | None] | None = None
        self.ended: ev.Event | None = None
        self.broken: Failure | None = None
        self._random: Random | None = None

    # ------------------------------------------------------------ being told

    def deliver(self, event: ev.Event) -> None:
        """Hand one delivery over, live. The caller has entered the loop (`Entered`) and knows that the delivery is
        expected.
        """
        self.events.append(event)
        HANDLERS[type(event)](self, event)
        self.loop.drain()
        self._wind_up()

    def replay(self, journal: Sequence[ev.Event]) -> None:
        """Go through recorded events. The caller has entered the loop. Sets `broken` when code and journal part."""
        self.journal, self.position = journal, 0
        count = len(journal)
        while self.position < count and self.broken is None:
            event = journal[self.position]
            self.position += 1
            handler = HANDLERS.get(type(event))
            if handler is None:
                self.position -= 1
                self._expected(event)
                break
            handler(self, event)
            self.loop.drain()
            self._wind_up()
        self.journal_events += count
        self.journal = None

    @property
    def replaying(self) -> bool:
        """True while the code goes through what it did before."""
        return self.journal is not None and self.position < len(self.journal)

    def _expected(self, event: ev.Event) -> None:
        """The journal goes on with a command, or an end, that the code did not give."""
        if isinstance(event, ev.Terminated):
            self.ended = event
            self.position += 1
            return
        self.break_off(event, None, self._end_line())

    def _end_line(self) -> str:
        """Where the code is: at its end, if it has ended."""
        lines = match.waiting_lines(self.loop)
        code = self.definition.fn.__code__
        return (
            f"the code waits at {lines[0]}"
            if lines
            else f"{code.co_filename}:{code.co_firstlineno} at the end of {code.co_name}"
        )

    def break_off(self, recorded: ev.Event | None, given: ev.Event | None, where: str) -> None:
        """Journal and code differ: nothing that the code does from here on has an effect."""
        index = self.journal_events + self.position
        recorded_python = self.started.python
        self.broken = match.report(index, recorded, given, where, (recorded_python, PYTHON))
        self.loop.dead = True
        self.loop.ready = []

    def not_local(self, call: Call) -> None:
        """The call needs no work of this node now: it has its answer, or waits for its next attempt."""
        if self.retries.pop(call.seq, None) is None:
            self.local -= 1

    def _wind_up(self) -> None:
        """When the main task is done: cancel what is left, close generators, record the outcome."""
        main = self.main
        if main is None or not main.done() or self.ended is not None or self.broken is not None:
            return
        loop = self.loop
        if not self.unwinding:
            self.unwinding = True
            for task in list(loop.tasks):
                if not task.done():
                    task.cancel()
            loop.drain()
        while True:
            if any(not t.done() for t in loop.tasks):
                return
            if not loop.generators:
                break
            generator = loop.generators.pop(0)
            if generator.ag_frame is not None:  # type: ignore[attr-defined]
                self.closing.append(generator)  # one that refuses to end is left to `dispose`
                _ = loop.create_task(_aclose(generator))
                loop.drain()
        for pending in list(self.pending.values()):
            pending.cancel()
        loop.generators = [g for g in self.closing if g.ag_frame is not None]
        outcome = self._outcome(main)
        try:
            self.ended = self.command(outcome, lambda: self._check_outcome(outcome))
        except PayloadError as unfit:
            self.ended = self.command(ev.Failed(loop.now_ms, failure_of(unfit, skip=_OWN_TRACE)))

    def _outcome(self, main: asyncio.Task[Any]) -> ev.Event:
        at = self.loop.now_ms
        if main.cancelled():
            reason = self.cancel_requested if self.cancel_requested is not None else "the workflow cancelled itself"
            return ev.Cancelled(at, Failure("CancelledError", reason, "cancelled", retryable=False))
        if self.next_input is not None:
            main.exception()  # looked at, so that asyncio does not report it
            if self.cancel_requested is not None:
                return ev.Cancelled(at, Failure("CancelledError", self.cancel_requested, "cancelled", retryable=False))
            return ev.ContinuedAsNew(at, *self.next_input)
        error = main.exception()
        if error is None:
            try:
                return ev.Completed(at, self.definition.signature.result.encode(main.result()))
            except (ValueError, TypeError) as unfit:
                error = unfit
        return ev.Failed(at, failure_of(error, skip=_OWN_TRACE, details_max=self.limits.payload_bytes))

    def _check_outcome(self, outcome: ev.Event) -> None:
        if isinstance(outcome, ev.Completed):
            self.definition.signature.result.check(outcome.result)
            self.check_size(outcome.result, f"the result of workflow {self.definition.name!r}")

    # ------------------------------------------------------------ commands

    def command(self, event: ev.Event, check: Callable[[], None] | None = None) -> ev.Event:
        """Record a command, or compare it with the journal; the event that counts is returned. `fresh` says whether
        it is a new one.

        `check` may refuse a new command by raising. It is not asked about one that the journal has: what was accepted
        stays accepted, and what was refused is refused again.
        """
        journal = self.journal
        if self.loop.dead:
            self.fresh = False
            return event
        if journal is None or self.position >= len(journal):
            if check is not None:
                check()
            self.fresh = True
            self.events.append(event)
            return event
        recorded = journal[self.position]
        if recorded == event or match.matches(recorded, event, self.definitions):
            if check is not None and recorded != event and isinstance(event, ev.StatusSet | ev.AttributesSet):
                check()  # their content may differ, so the journal's may be that of the next one: this one was refused
            self.fresh = False
            self.position += 1
            return recorded
        if check is not None:
            check()
        self.fresh = False
        self.position += 1
        self.break_off(recorded, event, match.calling_line() or self._end_line())
        return event

    def _check_input(self, signature: Signature, data: bytes, what: str) -> None:
        signature.check(data)
        self.check_size(data, f"the input of {what}")

    def schedule_activity(self, definition: ActivityDefinition, options: ActivityOptions, data: bytes) -> ActivityCall:
        """Call an activity with encoded arguments.

        Raises:
            PayloadError: they do not fit its signature, or are too large.
        """
        loop = self.loop
        seq = self.seq + 1
        self.command(
            ev.ActivityScheduled(seq, definition.name, data, options.queue, options.session),
            lambda: self._check_input(definition.signature, data, f"activity {definition.name!r}"),
        )
        self.seq = seq
        call: ActivityCall = make(ActivityCall, loop, seq)
        call.name = definition.name
        call.input = data
        call.options = options
        call.attempt = 1
        call.retry_at = 0
        call.scheduled_at = loop.now_ms
        call.details = None
        call.decode = definition.signature.result.decode
        self.local += 1
        self._open(call)
        return call

    def start_child(
        self,
        definition: WorkflowDefinition,
        version: str | None,
        data: bytes,
        target: str | None,
        parent_close: ev.ParentClose,
    ) -> ChildCall:
        """Call another instance and await its reply.

        Raises:
            PayloadError: the arguments do not fit, or are too large.
        """
        seq = self.seq + 1
        target = target if target is not None else f"{self.unit}/{self.started.execution}.{seq}"
        self.command(
            ev.CallStarted(seq, target, definition.name, version, data, False, parent_close),
            lambda: self._check_input(definition.signature, data, f"workflow {definition.name!r}"),
        )
        self.seq = seq
        call: ChildCall = make(ChildCall, self.loop, seq)
        call.target = target
        call.workflow = definition.name
        call.version = version
        call.input = data
        call.parent_close = parent_close
        call.run = derived_id(self.started.run, self.started.execution, seq, b"child")
        call.decode = definition.signature.result.decode
        self._open(call)
        return call

    def start_detached(
        self, workflow: str, version: str | None, data: bytes, target: str | None, check: Callable[[], None]
    ) -> str:
        """Start an instance that has no parent; its id is returned. It is started even if this run ends in the same
        turn.
        """
        seq = self.seq + 1
        target = target if target is not None else f"{self.unit}/{self.started.execution}.{seq}"
        self._send(self.command(ev.CallStarted(seq, target, workflow, version, data, True, "abandon"), check))
        self.seq = seq
        return target

    def wait(self, channel: str, decode: Callable[[bytes], Any], *, positional: bool) -> WaitCall:
        """Wait for a message of a channel, or for a positional event."""
        if not self.loop.dead:
            self.seq += 1
            self.command(ev.WaitStarted(self.seq, channel, positional))
        call: WaitCall = make(WaitCall, self.loop, self.seq)
        call.channel = channel
        call.positional = positional
        call.decode = decode
        self.waits.setdefault(_lane(call), deque()).append(self.seq)
        self._open(call)
        return call

    def start_step(
        self,
        name: str,
        fn: Callable[[], Awaitable[Any] | Any],
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
    ) -> StepCall:
        """Run a function in this process once and record its outcome."""
        occurrence = self.variables.next_occurrence(name)
        if not self.loop.dead:
            self.seq += 1
            self.command(ev.StepStarted(self.seq, name, occurrence))
        call: StepCall = make(StepCall, self.loop, self.seq)
        call.name = name
        call.occurrence = occurrence
        call.fn = fn
        call.encode = encode
        call.decode = decode
        self.local += 1
        self._open(call)
        return call

    def _open(self, call: Call) -> None:
        if self.loop.dead:
            call.seq = 0
            return
        call.canceller = self
        self.pending[call.seq] = call
        if self.fresh:
            self.opened.append(call)

    def record_value(self, name: str, data: bytes) -> bytes:
        """Store a value under a name; the value that counts (the recorded one in replay) is returned."""
        recorded = self.command(
            ev.ValueRecorded(name, self.variables.next_occurrence(name), data),
            lambda: self.check_size(data, f"the value {name!r}"),
        )
        return recorded.value if isinstance(recorded, ev.ValueRecorded) else data

    def set_kv(self, key: str, value: bytes | None) -> None:
        """Write or delete a key."""
        if value is None:
            self.command(ev.KvDeleted(key))
        else:
            self.command(ev.KvSet(key, value), lambda: self._check_kv(key, value))
        self.variables.set(key, value, self.started.execution, self.loop.now_ms, changed=self.fresh)

    def _check_kv(self, key: str, value: bytes) -> None:
        self.variables.check(key, value, self.limits)
        self.check_size(value, f"the KV value {key!r}")

    def clear_kv(self) -> None:
        """Delete all keys."""
        self.command(ev.KvCleared())
        for key in list(self.variables):
            self.variables.set(key, None, self.started.execution, self.loop.now_ms, changed=self.fresh)

    def set_status(self, value: bytes | None) -> None:
        """Set the custom status."""
        recorded = self.command(ev.StatusSet(value), lambda: check_status(value, self.limits))
        self.variables.status = recorded.value if isinstance(recorded, ev.StatusSet) else value
        self.variables.status_changed = self.variables.status_changed or self.fresh

    def set_attributes(self, changes: bytes) -> None:
        """Set search attributes, or remove them (None)."""
        recorded = self.command(ev.AttributesSet(changes), lambda: self._check_attributes(changes))
        counted = recorded.values if isinstance(recorded, ev.AttributesSet) else changes
        self.variables.set_attributes(counted, changed=self.fresh)

    def _check_attributes(self, changes: bytes) -> None:
        check_attributes(merged(self.variables.attributes, changes), self.limits)
        self.check_size(changes, "the search attributes")

    def patched(self, patch: str) -> bool:
        """Whether to take the new side of a change."""
        known = self.variables.patches.get(patch)
        if known is None:
            known = not self.replaying or any(
                isinstance(e, ev.PatchMarked) and e.id == patch for e in (self.journal or ())
            )
            self.variables.patches[patch] = known
            if known:
                self.command(ev.PatchMarked(patch))
        return known

    def send_message(self, target: str, channel: str, value: bytes) -> None:
        """Send a message to another instance when this turn is durable."""
        seq = self.seq + 1
        event = ev.MessageSent(seq, target, channel, value)
        self._send(self.command(event, lambda: self.check_size(value, f"the message for channel {channel!r}")))
        self.seq = seq

    def send_cancel(self, target: str, reason: str) -> None:
        """Ask another instance to stop when this turn is durable."""
        self.seq += 1
        self._send(self.command(ev.CancelSent(self.seq, target, reason)))

    def _send(self, event: ev.Event) -> None:
        if self.fresh:
            self.outgoing.append(event)

    def continue_as_new(self, data: bytes, version: str | None) -> NoReturn:
        """End this execution; the next one begins with this input."""
        self.next_input = (data, version)
        raise ContinueAsNew

    def cancel_call(self, call: Call) -> None:
        """`Call.cancel` reports here."""
        if self.loop.dead or self.pending.pop(call.seq, None) is None:
            return
        if isinstance(call, (ActivityCall, StepCall)):
            self.not_local(call)
        elif isinstance(call, WaitCall):
            self.forget_wait(call)
        self.command(ev.CommandCancelled(call.seq))
        if self.fresh:
            self.cancelled_calls.append(call)

    def start_timer(self, timer: Timer) -> None:
        """The loop reports a new timer here."""
        self.seq += 1
        timer.seq = self.seq
        recorded = self.command(ev.TimerStarted(timer.seq, timer.fire_at, timer.name))
        if isinstance(recorded, ev.TimerStarted):
            timer.fire_at = recorded.fire_at
        self.pending[timer.seq] = timer
        heapq.heappush(self.deadlines, (timer.fire_at, timer.seq))

    def cancel_timer(self, timer: Timer) -> None:
        """`Timer.cancel` reports here."""
        if not self.loop.dead and self.pending.pop(timer.seq, None) is not None:
            self.command(ev.CommandCancelled(timer.seq))

    def forget_wait(self, call: WaitCall) -> None:
        """The call waits no longer."""
        lane = _lane(call)
        waits = self.waits[lane]
        waits.remove(call.seq)
        if not waits:
            del self.waits[lane]

    # ------------------------------------------------------------ what is asked about it

    def check_size(self, data: bytes, what: str) -> None:
        """Refuse a payload over a limit.

        Raises:
            PayloadTooLarge: naming it, the limit and the option.
        """
        limits = self.limits
        if len(data) > limits.payload_bytes:
            msg = (
                f"{what} has {len(data)} bytes; the limit is {limits.payload_bytes} (Limits.payload_bytes): "
                "store it elsewhere and pass a reference"
            )
            raise PayloadTooLarge(msg)
        self.turn_bytes += len(data)
        if self.turn_bytes > limits.commit_bytes:
            msg = (
                f"with {what} this turn of {self.unit!r} would write {self.turn_bytes} bytes; the limit is "
                f"{limits.commit_bytes} (Limits.commit_bytes): await something in between, or pass references"
            )
            raise PayloadTooLarge(msg)

    @property
    def random(self) -> Random:
        """The run's own random numbers."""
        if self._random is None:
            seed = blake2b(b"%b%d" % (self.started.run, self.started.execution), digest_size=8).digest()
            self._random = Random(int.from_bytes(seed))
        return self._random

    def due_timer(self, at: int) -> int | None:
        """The seq of the earliest timer that is due at `at`; timers that were cancelled leave the heap on the way."""
        heap = self.deadlines
        while heap and heap[0][0] <= at:
            seq = heapq.heappop(heap)[1]
            if seq in self.pending:
                return seq
        return None

    def wake_at(self) -> int | None:
        """When the run needs an owner: 0 = it has local work open, t = its earliest timer or retry, None = a message
        must come.
        """
        retry_at = min(self.retries.values()) if self.retries else None
        if self.local or (retry_at is not None and retry_at <= self.loop.now_ms):
            return 0
        timer_at = self.timer_at()
        return retry_at if timer_at is None or (retry_at is not None and retry_at < timer_at) else timer_at

    def timer_at(self) -> int | None:
        """Its earliest timer; timers that were cancelled leave the heap on the way."""
        heap = self.deadlines
        while heap and heap[0][1] not in self.pending:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def waiting_for(self) -> str | None:
        """What the run waits for, in a few words: the first pending command."""
        for pending in self.pending.values():
            if isinstance(pending, Timer):
                return f"timer {pending.name}" if pending.name else "timer"
            return pending.describe()
        return None


def current_run() -> Run | None:
    """The run whose code is calling; None outside of workflows."""
    loop = current_loop()
    run = loop.timers if loop is not None else None
    return run if isinstance(run, Run) else None


def _lane(call: WaitCall) -> str:
    return ("!" if call.positional else "#") + call.channel


async def _aclose(generator: Any) -> None:
    await generator.aclose()
