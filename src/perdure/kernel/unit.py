"""A unit: a workflow instance in memory, and the turns that advance it.

Theory of operation. A turn takes the messages that have gathered and the present time, hands them to the run one by one in the order of their times
(timers that came due earlier go first), and packs all that happened into one Commit. The unit in memory is then *ahead* of the store until that
commit is durable; the owner starts no other turn of it meanwhile, and drops it if the commit is refused.

What a unit cannot take now it keeps: messages that nobody receives yet, and everything while it is paused or held. A kept message stands in the inbox table
from this commit on, so that it survives us, the unit's eviction and continue-as-new.

A unit is *held* when its code cannot go on: the definition is missing, the journal cannot be decoded, code and journal differ, or it waits for nothing. It is then
`suspended` with the reason, costs nothing, and is tried again when it is loaded after a deploy.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from perdure.codec import digest
from perdure.errors import Failure
from perdure.kernel import events as ev
from perdure.kernel import match
from perdure.kernel import message as msg
from perdure.kernel.call import ActivityCall, Call, ChildCall, StepCall
from perdure.kernel.commit import (
    CLOSED,
    Answer,
    Commit,
    ExecutionRow,
    JournalChunk,
    KvEntry,
    Status,
    UnitRow,
)
from perdure.kernel.disposal import dispose
from perdure.kernel.loop import Entered
from perdure.kernel.ordered import install as install_ordered_sets
from perdure.kernel.placement import scope_of
from perdure.kernel.run import PYTHON, Run, derived_id
from perdure.kernel.turn import Outcome, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.errors import Category
    from perdure.kernel.commit import Fence
    from perdure.kernel.definition import Definitions
    from perdure.kernel.limits import Limits

DEDUPE_WINDOW_MS = 24 * 3600 * 1000
INBOX_MESSAGES = 10_000
POISONED = "Poisoned"

C = TypeVar("C", bound=Call)

_encode_parent = msgspec.msgpack.Encoder().encode
_decode_parent = msgspec.msgpack.Decoder(ev.Parent).decode


class Unit:
    """A workflow instance that its owner holds in memory."""

    __slots__ = (
        "_answers", "_cancelled", "_chunks", "_consume", "_definitions", "_ended", "_first_turn", "_inbox", "_journal", "_kept", "_kv", "_limits", "_now",
        "_post", "_salt", "_shards", "_touched", "_warning", "held", "id", "row", "run", "version",
    )  # fmt: skip

    def __init__(self, unit: str, definitions: Definitions, limits: Limits, *, shards: int, salt: int) -> None:
        """A unit of which nothing is known yet."""
        self.id = unit
        self.version = 0
        self.row: UnitRow | None = None
        self.run: Run | None = None
        self.held: Failure | None = None
        self._definitions = definitions
        self._limits = limits
        self._shards = shards
        self._salt = salt
        self._journal: list[ev.Event] | None = None
        self._kv: list[KvEntry] = []
        self._inbox: dict[str, deque[msg.Message]] = {}
        self._kept: list[msg.Message] = []
        self._first_turn = True
        self._reset(0)

    def _reset(self, now: int) -> None:
        """Forget the turn before."""
        self._now = now
        self._answers: dict[bytes, Outcome] = {}
        self._cancelled: list[Call] = []
        self._chunks: list[JournalChunk] = []
        self._consume: list[bytes] = []
        self._ended: list[ExecutionRow] = []
        self._post: list[msg.Message] = []
        self._touched = False
        self._warning: str | None = None

    # ------------------------------------------------------------ loading

    def load(
        self, version: int, row: UnitRow, journal: Iterable[JournalChunk], kv: Iterable[KvEntry], inbox: Iterable[msg.Message],
        *, released: bool = False,
    ) -> None:  # fmt: skip
        """Take over what is stored. An open execution is replayed; what prevents that ends up in `held`. `inbox` is in order.

        A unit that is poison is not replayed, unless it is `released`; nor is one whose `held` is set already.
        """
        self.version, self.row = version, row
        self._kept = list(inbox)
        if row.reason == "poison" and not released:
            self.held = row.failure
        if self.held is not None:
            return
        if row.status in CLOSED or not row.started_at:
            return
        self._kv = list(kv)
        try:
            self._journal = [e for chunk in journal for e in ev.decode_events(chunk.events)]
        except (msgspec.MsgspecError, ValueError) as error:
            self.held = _failure("UndecodableJournal", f"the journal of {self.id!r} cannot be decoded: {error}")
            return
        self._begin()

    def _begin(self) -> None:
        """Build the run of the current execution from its journal."""
        row, journal = self.row, self._journal
        assert row is not None
        if not journal or not isinstance(journal[0], ev.Started):
            self.held = _failure("UndecodableJournal", f"the journal of {self.id!r} does not begin with its start")
            return
        definition = self._definitions.find_workflow(row.type, row.type_version)
        if definition is None:
            self.held = missing_workflow(row.type, row.type_version)
            return
        self._journal = None
        install_ordered_sets()
        run = self.run = Run(self.id, definition, self._definitions, self._limits, self._salt)
        run.variables.load(self._kv, row.execution)
        self._kv = []
        with Entered(run.loop):
            run.replay(journal)
        self._check_run()

    def _check_run(self) -> None:
        """After the code ran: is it broken, or does it wait for nothing?"""
        run = self.run
        assert run is not None
        if run.broken is not None:
            self.held = run.broken
        elif run.ended is None and not run.pending and run.main is not None:
            lines = match.waiting_lines(run.loop)
            where = lines[0] if lines else "an unknown line"
            self.held = _failure(
                "Stuck",
                f"{self.id!r} waits at {where} for something that nothing can bring: no activity, timer, message or child is pending. "
                "Mend the code and deploy it, or cancel the instance.",
            )

    def close_memory(self) -> None:
        """Leave memory; the code is not run."""
        if self.run is not None:
            dispose(self.run.loop)
            self.run.pending.clear()
            self.run.main = None
            self.run = None

    @property
    def idle(self) -> bool:
        """Whether it could leave memory: no local work is open."""
        return self.run is None or not self.run.local

    # ------------------------------------------------------------ a turn

    def advance(self, messages: Sequence[msg.Message], now: int, fence: Fence, commit_id: bytes) -> Turn:
        """Digest messages and due timers at time `now` (ms). The unit is ahead of the store until the turn's commit is durable.

        Raises:
            NeverIdle: the code does not become idle.
            KeyboardInterrupt: somebody interrupted the turn; the unit must be dropped.
        """
        self._reset(now)
        if self._kept:
            messages = [*self._kept, *messages]
            self._kept = []
        if self._journal is not None and self.held is None:
            self._begin()
        control = [m for m in messages if isinstance(m.body, msg.CONTROL)]
        for message in control:
            self._take_control(message)
        run_before = self.run
        if run_before is not None:
            with Entered(run_before.loop):
                self._take_all(messages)
        else:
            self._take_all(messages)
        return self._pack(fence, commit_id)

    def _take_all(self, messages: Sequence[msg.Message]) -> None:
        for message in messages:
            if not isinstance(message.body, msg.CONTROL):
                self._take(message)
        self._fire_timers(self._now)

    def _fire_timers(self, until: int) -> None:
        run, row = self.run, self.row
        if run is None or self.held is not None or row is None or row.paused:
            return
        while run.ended is None and run.broken is None:
            seq = run.due_timer(until)
            if seq is None:
                return
            self._deliver(ev.TimerFired(seq, self._now))

    def _deliver(self, event: ev.Event) -> None:
        """Hand one delivery to the run, and then every kept message that the code now waits for."""
        run = self.run
        assert run is not None
        if run.loop.turning:
            run.deliver(event)
        else:
            with Entered(run.loop):
                run.deliver(event)
        if self._inbox:
            self._feed()

    def _feed(self) -> None:
        run = self.run
        assert run is not None
        again = True
        while again and run.ended is None and run.broken is None:
            again = False
            for lane in [k for k in self._inbox if k in run.waits]:
                message = self._inbox[lane].popleft()
                if not self._inbox[lane]:
                    del self._inbox[lane]
                assert isinstance(message.body, msg.Send)
                self._consumed(message)
                run.deliver(ev.Received(run.waits[lane][0], self._now, message.id, message.body.value))
                again = True
                break

    def _consumed(self, message: msg.Message, outcome: Outcome = "ok") -> None:
        self._answers.setdefault(message.id, outcome)
        if message.posted:
            self._consume.append(message.id)

    def _keep(self, message: msg.Message) -> None:
        """Make a message durable that cannot be taken now."""
        self._answers.setdefault(message.id, "ok")
        if not message.posted:
            message.posted = True
            self._post.append(message)
        self._kept.append(message)

    # ------------------------------------------------------------ messages

    def _take(self, message: msg.Message) -> None:
        body, row = message.body, self.row
        if isinstance(body, msg.Start):
            self._start(message, body)
            return
        if row is None:
            if message.sender is None:
                self._answers[message.id] = "missing"
            else:
                self._keep(message)
            return
        if row.status in CLOSED:
            self._consumed(message, "closed")
            return
        if row.paused or self.held is not None or self.run is None:
            self._keep(message)
            return
        self._fire_timers(message.at)
        run = self.run
        if run.broken is not None:
            self._keep(message)
        elif run.ended is None:
            _TAKE[type(body)](self, message, body)
        elif isinstance(run.ended, ev.ContinuedAsNew) and isinstance(body, msg.Send):
            self._keep(message)  # for the next execution
        else:
            self._consumed(message, "closed")

    def _take_send(self, message: msg.Message, body: msg.Send) -> None:
        run, lane = self.run, "#" + body.channel
        assert run is not None
        if lane in run.waits and lane not in self._inbox:
            self._consumed(message)
            self._deliver(ev.Received(run.waits[lane][0], self._now, message.id, body.value))
            return
        if not message.posted:
            if sum(map(len, self._inbox.values())) >= INBOX_MESSAGES:
                self._answers[message.id] = "full"
                return
            message.posted = True
            self._post.append(message)
            self._answers[message.id] = "ok"
        self._inbox.setdefault(lane, deque()).append(message)

    def _take_raise(self, message: msg.Message, body: msg.Raise) -> None:
        run = self.run
        assert run is not None
        waits = run.waits.get("!" + body.name)
        self._consumed(message)
        self._deliver(ev.EventRaised(waits[0] if waits else 0, self._now, body.name, body.value))

    def _take_activity(self, message: msg.Message, body: msg.ActivityDone) -> None:
        self._consumed(message)
        call = self._pending(body, ActivityCall)
        if call is None or body.attempt != call.attempt:
            return
        if body.failure is None:
            self._deliver(ev.ActivityCompleted(body.seq, self._now, body.result or b"", call.attempt))
            return
        retry_at = self._retry_at(call, body.failure)
        if retry_at is None:
            self._deliver(ev.ActivityFailed(body.seq, self._now, body.failure, call.attempt))
            return
        self._deliver(ev.AttemptFailed(body.seq, self._now, call.attempt, body.failure, retry_at, body.details))
        run = self.run
        assert run is not None
        run.opened.append(call)

    def _retry_at(self, call: ActivityCall, failure: Failure) -> int | None:
        """When the next attempt may begin; None: there is none."""
        policy = call.options.retry
        if not policy.wants(failure, call.attempt):
            return None
        retry_at = self._now + policy.delay_ms(call.attempt)
        total = call.options.total_timeout_ms
        return None if total is not None and retry_at >= call.scheduled_at + total else retry_at

    def _take_step(self, message: msg.Message, body: msg.StepDone) -> None:
        self._consumed(message)
        call = self._pending(body, StepCall)
        if call is not None:
            self._deliver(ev.StepRecorded(body.seq, self._now, call.name, call.occurrence, body.value, body.failure))

    def _take_reply(self, message: msg.Message, body: msg.Reply) -> None:
        self._consumed(message)
        if self._pending(body, ChildCall) is not None:
            self._deliver(ev.Replied(body.seq, self._now, body.result, body.failure))

    def _pending(self, body: msg.ActivityDone | msg.StepDone | msg.Reply, kind: type[C]) -> C | None:
        """The call that an answer belongs to, if run, execution and command all match."""
        run = self.run
        assert run is not None
        started = run.started
        if body.run != started.run or body.execution != started.execution:
            return None
        call = run.pending.get(body.seq)
        return call if isinstance(call, kind) else None

    # ------------------------------------------------------------ control

    def _take_control(self, message: msg.Message) -> None:
        body, row = message.body, self.row
        if row is None:
            self._answers[message.id] = "missing"
            if message.posted:
                self._consume.append(message.id)
            return
        if row.status in CLOSED:
            self._consumed(message, "closed")
            return
        match body:
            case msg.Cancel():
                self._cancel(message, body)
            case msg.Terminate():
                if body.run in (None, row.run):
                    self._terminate(body.reason)
                self._consumed(message)
            case msg.Pause():
                self._consumed(message)
                if not row.paused:
                    row.paused, self._touched = True, True
                    self._note(ev.Paused(self._now, body.reason))
            case msg.Resume():
                self._consumed(message)
                if row.paused:
                    row.paused, self._touched = False, True
                    self._note(ev.Resumed(self._now))
            case _:
                self._consumed(message)
                row.suspect, self._touched = 0, True

    def _cancel(self, message: msg.Message, body: msg.Cancel) -> None:
        row, run = self.row, self.run
        assert row is not None
        if body.run not in (None, row.run):
            self._consumed(message)
        elif not row.started_at:
            self._consumed(message)
            self._close("cancelled", Failure("CancelledError", body.reason, "cancelled", retryable=False))
        elif run is None or run.broken is not None or row.paused:
            self._keep(message)
        else:
            self._consumed(message)
            if run.cancel_requested is None:
                self.held = None
                self._deliver(ev.CancelRequested(self._now, body.reason))

    def _note(self, event: ev.Event) -> None:
        if self.run is not None and self.run.broken is None:
            self.run.events.append(event)

    def _terminate(self, reason: str) -> None:
        run = self.run
        if run is not None:
            for pending in list(run.pending.values()):
                if isinstance(pending, Call):
                    self._cancelled.append(pending)
            run.events = [*([] if run.broken is not None else run.events), ev.Terminated(self._now, reason)]
            run.ended = run.events[-1]
            run.broken = None
            run.opened.clear()
            run.outgoing.clear()
            self.held = None
            dispose(run.loop)
            run.pending.clear()
        else:
            self._close("cancelled", Failure("Terminated", reason, "cancelled", retryable=False))

    # ------------------------------------------------------------ starting and ending

    def _start(self, message: msg.Message, body: msg.Start) -> None:
        row = self.row
        if row is not None and row.run == message.id:
            if row.started_at:
                self._consumed(message, "started")
            else:
                self._first_start(message, body)
            return
        if row is not None and body.if_exists != "replace":
            same = body.workflow == row.type and digest(body.input) == row.input_digest
            joined = body.if_exists == "join" and same
            self._consumed(message, "joined" if joined else "exists")
            if not joined and body.parent is not None:
                self._refuse_child(message, body.parent)
            return
        if row is not None and row.status not in CLOSED:
            self._replace()
        parent = body.parent
        self.row = UnitRow(
            self.id,
            row.scope if row is not None else scope_of(self.id, self._shards),
            "workflow",
            body.workflow,
            body.version or "",
            message.id,
            execution=row.execution + 1 if row is not None else 1,
            input_digest=digest(body.input),
            parent=_encode_parent(parent) if parent is not None else None,
            parent_unit=parent.unit if parent is not None else None,
            attributes=body.attributes,
            created_at=message.at,
        )
        self._first_start(message, body)

    def _replace(self) -> None:
        """End what runs under this id, so that a new run can take it."""
        row = self.row
        assert row is not None
        self._terminate("replaced by a new start of the same id")
        if self.run is not None:
            self._settle_ended()
            self._add_chunk(self.run, row)
            self._end_execution(self.run, row)
            self._cancelled_children(self._cancelled)
            self.close_memory()
        self._first_turn = True

    def _first_start(self, message: msg.Message, body: msg.Start) -> None:
        row = self.row
        assert row is not None
        self._touched = True
        self._answers[message.id] = "started"
        if message.visible_at > self._now:
            row.wake_at = message.visible_at
            self._keep(message)
            return
        if self.held is not None and self.held.type == POISONED:
            self._keep(message)
            return
        definition = self._definitions.find_workflow(body.workflow, body.version)
        if definition is None:
            self.held = missing_workflow(body.workflow, body.version)
            self._keep(message)
            return
        self.held = None
        self._consumed(message)
        row.type_version = definition.version
        row.started_at = self._now
        install_ordered_sets()
        self.run = Run(self.id, definition, self._definitions, self._limits, self._salt)
        self._deliver(
            ev.Started(
                self._now, row.type, definition.version, body.input, row.run, row.execution, PYTHON, 0, body.parent
            )
        )

    def _refuse_child(self, message: msg.Message, parent: ev.Parent) -> None:
        failure = _failure("AlreadyStarted", f"the id {self.id!r} is taken by another instance", "application")
        self._post_reply(parent, None, failure, message.id)

    def _post_reply(self, parent: ev.Parent, result: bytes | None, failure: Failure | None, run: bytes) -> None:
        body = msg.Reply(parent.run, parent.execution, parent.seq, result, failure)
        reply_id = derived_id(run, 0, 0, b"reply")
        self._post.append(msg.Message(reply_id, parent.unit, body, self._now, 0, self.id))

    def _close(self, status: Status, failure: Failure | None, result: bytes | None = None) -> None:
        row = self.row
        assert row is not None
        row.status, row.failure, row.result = status, failure, result
        row.reason = row.wake_at = None
        row.paused = False
        row.closed_at = self._now
        self.held = None
        self._touched = True
        if row.parent is not None:
            self._post_reply(_decode_parent(row.parent), result, failure, row.run)
        left = {m.id for m in (*self._kept, *(m for lane in self._inbox.values() for m in lane))}
        posted_now = {m.id for m in self._post if m.to == self.id}
        self._post = [m for m in self._post if m.to != self.id or m.id not in left]
        self._consume.extend(sorted(left - posted_now))
        self._kept = []
        self._inbox = {}

    def _settle_ended(self) -> None:
        """The run has ended in this turn: give the row its outcome, or begin the next execution."""
        run, row = self.run, self.row
        assert run is not None
        assert row is not None
        match run.ended:
            case ev.Completed(result=result):
                self._close("completed", None, result)
            case ev.Failed(failure=failure):
                self._close("failed", failure)
            case ev.Cancelled(failure=failure):
                self._close("cancelled", failure)
            case ev.Terminated(reason=reason):
                self._close("cancelled", Failure("Terminated", reason, "cancelled", retryable=False))
            case _:
                pass

    # ------------------------------------------------------------ packing

    def _pack(self, fence: Fence, commit_id: bytes) -> Turn:
        """Put all that this turn did into one Commit, and say what follows it."""
        row, run = self.row, self.run
        turn = Turn(None, self._answers)
        if row is None:
            return turn
        kv = self._pack_run(run, row, turn) if run is not None else []
        self._set_state(row, turn)
        turn.cancelled.extend(self._cancelled)
        turn.warning = self._warning
        if not (self._chunks or self._touched or self._consume or self._post or kv):
            return turn
        row.updated_at = self._now
        expires_at = self._now + DEDUPE_WINDOW_MS
        turn.commit = Commit(
            commit_id,
            fence,
            self._now,
            self.id,
            self.version,
            msgspec.structs.replace(row),
            self._chunks,
            self._ended,
            kv,
            self._consume,
            [Answer(m, self._answers.get(m, "ok"), expires_at) for m in self._consume],
            self._post,
        )
        self.version += 1
        return turn

    def _pack_run(self, run: Run, row: UnitRow, turn: Turn) -> list[KvEntry]:
        """Take the run's new events and what they ask for."""
        if self.held is None and run.ended is None:
            self._check_run()
        if run.broken is not None:
            run.events, run.opened, run.outgoing, run.cancelled_calls = [], [], [], []
        if run.ended is not None and run.events:
            self._settle_ended()
        if run.events:
            self._add_chunk(run, row)
        self._send_all(run)
        self._cancelled_children(run.cancelled_calls)
        self._cancelled_children(self._cancelled)
        turn.cancelled.extend(run.cancelled_calls)
        for pending in run.opened:
            if isinstance(pending, ChildCall) and pending.seq in run.pending:
                self._start_child(pending, run)
        for call in run.pending.values() if self._first_turn else run.opened:
            if isinstance(call, ActivityCall | StepCall) and call.seq in run.pending:
                turn.calls.append(call)
        self._first_turn = False
        run.opened, run.cancelled_calls, run.outgoing = [], [], []
        return self._pack_variables(run, row, turn)

    def _pack_variables(self, run: Run, row: UnitRow, turn: Turn) -> list[KvEntry]:
        variables = run.variables
        continued = isinstance(run.ended, ev.ContinuedAsNew)
        kv = variables.take_changes(last=continued)
        if variables.status_changed:
            variables.status_changed = False
            row.custom_status = variables.status
            row.custom_status_version += 1
        if variables.attributes is not None:
            row.attributes = variables.attributes
        if continued:
            self._continue(run, row)
            turn.again = True
        return kv

    def _add_chunk(self, run: Run, row: UnitRow) -> None:
        """Append the run's new events to the journal, or fail the run if they cross a limit."""
        events, run.events = run.events, []
        data = ev.encode_events(events)
        limits = self._limits
        total, size = row.journal_events + len(events), row.journal_bytes + len(data)
        over = _over_limit(total, size, limits)
        if over is not None and run.ended is None:
            events.append(self._fail_run(run, f"{over}: use workflow.continue_as_new before that"))
            data = ev.encode_events(events)
            total, size = row.journal_events + len(events), row.journal_bytes + len(data)
        elif total >= limits.history_events * 8 // 10 > row.journal_events:
            self._warning = (
                f"the history of {self.id!r} has {total} events; at {limits.history_events} the run fails "
                "(Limits.history_events): use workflow.continue_as_new"
            )
        self._chunks.append(JournalChunk(run.started.execution, row.journal_events + 1, len(events), data))
        run.journal_events = row.journal_events = total
        row.journal_bytes = size

    def _fail_run(self, run: Run, message: str) -> ev.Event:
        """End the run without asking its code."""
        failure = _failure("LimitExceeded", message, "application")
        self._cancelled.extend(p for p in run.pending.values() if isinstance(p, Call))
        run.ended = ev.Failed(self._now, failure)
        run.opened, run.outgoing, run.cancelled_calls = [], [], []
        dispose(run.loop)
        run.pending.clear()
        self._settle_ended()
        return run.ended

    def _end_execution(self, run: Run, row: UnitRow) -> None:
        self._ended.append(ExecutionRow(row.execution, row.type_version, run.started.at, self._now, row.journal_events))
        row.journal_events = row.journal_bytes = 0

    def _continue(self, run: Run, row: UnitRow) -> None:
        """Store the next execution's first event; its code begins with the next turn."""
        ended = run.ended
        assert isinstance(ended, ev.ContinuedAsNew)
        self._end_execution(run, row)
        self._kept = [*self._kept, *(m for lane in self._inbox.values() for m in lane)]
        self._inbox = {}
        row.execution += 1
        definition = self._definitions.find_workflow(row.type, ended.version)
        if definition is not None:
            row.type_version = definition.version
        elif ended.version is not None:
            row.type_version = ended.version
        started = ev.Started(
            self._now,
            row.type,
            row.type_version,
            ended.input,
            row.run,
            row.execution,
            PYTHON,
            0,
            run.started.parent,
            run.variables.status,
        )
        data = ev.encode_events([started])
        self._chunks.append(JournalChunk(row.execution, 1, 1, data))
        row.journal_events, row.journal_bytes = 1, len(data)
        self._journal, self._kv = [started], run.variables.entries()
        self.close_memory()
        self._first_turn = True

    def _set_state(self, row: UnitRow, turn: Turn) -> None:
        """Status, reason and wake time of the row."""
        if row.status in CLOSED:
            turn.closed = True
            return
        before = (row.status, row.failure is None)
        if self.held is not None:
            row.status, row.reason, row.failure, row.wake_at = (
                "suspended",
                _REASONS.get(self.held.type),
                self.held,
                None,
            )
        else:
            row.failure = None
            if row.paused:
                row.status, row.reason, row.wake_at = "suspended", "paused", None
            elif not row.started_at:
                row.status, row.reason = "pending", "delayed"
            elif self.run is None:
                row.status, row.reason, row.wake_at = "running", None, 0
            else:
                row.status, row.reason, row.wake_at = "running", self.run.waiting_for(), self.run.wake_at()
        turn.wake_at = row.wake_at
        if before != (row.status, row.failure is None):
            self._touched = True

    # ------------------------------------------------------------ messages to others

    def _send_all(self, run: Run) -> None:
        started = run.started
        for event in run.outgoing:
            match event:
                case ev.CallStarted():
                    body = msg.Start(event.workflow, event.version, event.input, None, "join", None, self.id)
                    self._post_to(
                        event.target, body, derived_id(started.run, started.execution, event.seq, b"detached")
                    )
                case ev.MessageSent():
                    message_id = derived_id(started.run, started.execution, event.seq, b"send")
                    self._post_to(event.target, msg.Send(event.channel, event.value), message_id)
                case ev.CancelSent():
                    message_id = derived_id(started.run, started.execution, event.seq, b"cancel")
                    self._post_to(event.target, msg.Cancel(event.reason), message_id)
                case _:
                    raise AssertionError(event)

    def _post_to(self, target: str, body: msg.AnyBody, message_id: bytes) -> None:
        self._post.append(msg.Message(message_id, target, body, self._now, 0, self.id))

    def _start_child(self, call: ChildCall, run: Run) -> None:
        started = run.started
        parent = ev.Parent(self.id, started.run, started.execution, call.seq)
        self._post_to(call.target, msg.Start(call.workflow, call.version, call.input, parent, "reject"), call.run)

    def _cancelled_children(self, calls: Iterable[Call]) -> None:
        """Tell children that nobody awaits them, as their parent-close rule says."""
        run = self.run
        assert run is not None
        for call in calls:
            if not isinstance(call, ChildCall) or call in run.opened or call.parent_close == "abandon":
                continue
            reason = f"its parent {self.id!r} no longer waits for it"
            message_id = derived_id(call.run, 0, call.seq, b"close")
            if call.parent_close == "terminate":
                self._post_to(call.target, msg.Terminate(reason, call.run), message_id)
            else:
                self._post_to(call.target, msg.Cancel(reason, call.run), message_id)


def _over_limit(events: int, size: int, limits: Limits) -> str | None:
    if events > limits.history_events:
        return f"the history would have {events} events; the limit is {limits.history_events} (Limits.history_events)"
    if size > limits.history_bytes:
        return f"the history would have {size} bytes; the limit is {limits.history_bytes} (Limits.history_bytes)"
    return None


def _failure(kind: str, message: str, category: Category = "configuration") -> Failure:
    return Failure(kind, message, category, retryable=False)


def missing_workflow(name: str, version: str | None) -> Failure:
    """Why a unit is held whose definition this node does not have."""
    wanted = f"workflow {name!r}" + (f" version {version}" if version else "")
    return _failure(
        "NotRegistered",
        f"{wanted} is not registered with this node's app. Register it (or deploy the code that has it): the instance then goes on by itself.",
    )


_REASONS = {
    "NotRegistered": "not_registered",
    "UndecodableJournal": "undecodable",
    match.NONDETERMINISM: "nondeterminism",
    "Stuck": "stuck",
    POISONED: "poison",
}

_TAKE: dict[type[msg.Body], Callable[[Unit, msg.Message, Any], None]] = {
    msg.Send: Unit._take_send,
    msg.Raise: Unit._take_raise,
    msg.ActivityDone: Unit._take_activity,
    msg.StepDone: Unit._take_step,
    msg.Reply: Unit._take_reply,
}
