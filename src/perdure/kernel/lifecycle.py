"""Starting, ending and continuing as new; the journal's limits; the state in the row; packing a turn.

    pending ──▶ running ◀──▶ suspended ──▶ completed | failed | cancelled

`pending`: the start is delayed. `suspended`: paused, or held (see `held`). A running instance has a `reason`: what it
waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.codec import digest
from perdure.errors import Failure
from perdure.kernel import control, held, outbox
from perdure.kernel import events as ev
from perdure.kernel import message as msg
from perdure.kernel.call import ActivityCall, StepCall
from perdure.kernel.commit import CLOSED, ExecutionRow, JournalChunk, Status, UnitRow
from perdure.kernel.placement import scope_of
from perdure.kernel.run import PYTHON
from perdure.kernel.turn import Milestones, Turn

if TYPE_CHECKING:
    from perdure.kernel.commit import Fence
    from perdure.kernel.limits import Limits
    from perdure.kernel.mailbox import Entry
    from perdure.kernel.run import Run
    from perdure.kernel.unit import Unit

_encode_parent = msgspec.msgpack.Encoder().encode
_decode_parent = msgspec.msgpack.Decoder(ev.Parent).decode

# ---------------------------------------------------------------- starting


def start(unit: Unit, entry: Entry, body: msg.Start) -> None:
    """Begin the instance, or answer who has the id."""
    row, draft, message = unit.row, unit.draft, entry.message
    if row is not None and row.run == message.id:
        if row.started_at or row.status in CLOSED:
            draft.consumed(entry, "started")  # a closed unit has no use for its start, begun or not
        else:
            draft.answers[message.id] = "started"
            begin_start(unit, row, entry)
        return
    if row is not None and body.if_exists != "replace":
        same = body.workflow == row.type and digest(body.input) == row.input_digest
        joined = body.if_exists == "join" and same
        draft.consumed(entry, "joined" if joined else "exists")
        if not joined and body.parent is not None:
            taken = f"the id {unit.id!r} is taken by another instance; give the child another id"
            failure = Failure("AlreadyStarted", taken, retryable=False)
            outbox.reply(draft, body.parent, message.id, None, failure)
        return
    if row is not None and row.status not in CLOSED:
        _replace(unit, row)
    new = unit.row = pending_row(unit.id, message, body, unit.shards)
    if row is not None:
        new.scope, new.execution, new.custom_status_version = (
            row.scope,
            row.execution + 1,
            row.custom_status_version,
        )
    draft.touched = True
    draft.answers[message.id] = "started"
    begin_start(unit, new, entry)


def pending_row(unit: str, message: msg.Message, body: msg.Start, shards: int) -> UnitRow:
    """The row of an instance that has not begun."""
    parent = body.parent
    return UnitRow(
        unit,
        scope_of(unit, shards),
        "workflow",
        body.workflow,
        body.version or "",
        message.id,
        input_digest=digest(body.input),
        parent=_encode_parent(parent) if parent is not None else None,
        parent_unit=parent.unit if parent is not None else None,
        attributes=body.attributes,
        created_at=message.at,
    )


def _replace(unit: Unit, row: UnitRow) -> None:
    """End what runs under this id, so that a new run can take it."""
    control.terminate(unit, row, "replaced by a new start of the same id")
    if unit.run is not None:
        settle(unit, unit.run)
        unit.close_memory()
    unit.draft.chunks.clear()  # the history of the replaced run goes with it
    before = unit.draft.milestones
    unit.draft.milestones = Milestones(
        replaced=(*(before.replaced if before is not None else ()), row)
    )
    unit.first_turn = True


def begin_start(unit: Unit, row: UnitRow, entry: Entry) -> None:
    """Begin a unit by its own start, or keep the start until that is possible."""
    draft, message = unit.draft, entry.message
    body = message.body
    assert isinstance(body, msg.Start)
    if message.visible_at > draft.now or row.paused:
        row.wake_at = message.visible_at
        unit.keep_start(entry)
        return
    if unit.held is not None and unit.held.type == held.POISONED:
        unit.keep_start(entry)
        return
    definition = unit.definitions.find_workflow(body.workflow, body.version)
    if definition is None:
        unit.held = held.missing_workflow(body.workflow, body.version)
        unit.keep_start(entry)
        return
    unit.held = None
    draft.touched = True
    draft.consumed(entry)
    row.type_version = definition.version
    row.started_at = draft.now
    draft.reached().started = True
    unit.new_run(definition)
    unit.deliver(
        ev.Started(
            draft.now,
            row.type,
            definition.version,
            body.input,
            row.run,
            row.execution,
            PYTHON,
            ev.FLAGS,
            parent=body.parent,
            attributes=row.attributes,
        )
    )


# ---------------------------------------------------------------- ending


def close(unit: Unit, status: Status, failure: Failure | None, result: bytes | None = None) -> None:
    """Give the row its final state, tell the parent, and drop what nobody will receive."""
    row, draft = unit.row, unit.draft
    assert row is not None
    row.status, row.failure, row.result = status, failure, result
    row.reason = row.wake_at = None
    row.paused = False
    row.closed_at = draft.now
    unit.held = unit.journal = None
    draft.touched = draft.reached().ended = True
    if row.parent is not None:
        outbox.reply(draft, _decode_parent(row.parent), row.run, result, failure)
    for entry in unit.waiting.take_all():
        draft.dropped(entry)


def settle(unit: Unit, run: Run) -> None:
    """The run has ended: give the row its outcome (continue-as-new has none)."""
    match run.ended:
        case ev.Completed(result=result):
            close(unit, "completed", None, result)
        case ev.Failed(failure=failure):
            close(unit, "failed", failure)
        case ev.Cancelled(failure=failure):
            close(unit, "cancelled", failure)
        case ev.Terminated(reason=reason):
            close(unit, "cancelled", Failure("Terminated", reason, "cancelled", retryable=False))
        case _:
            pass


def _fail(unit: Unit, run: Run, failure: Failure) -> ev.Event:
    """End the run as failed without asking its code."""
    run.ended = ev.Failed(unit.draft.now, failure)
    unit.give_up()
    settle(unit, run)
    return run.ended


def _end_execution(unit: Unit, run: Run, row: UnitRow) -> None:
    unit.draft.ended.append(
        ExecutionRow(
            row.execution, row.type_version, run.started.at, unit.draft.now, row.journal_events
        )
    )
    row.journal_events = row.journal_bytes = 0


def _continue(unit: Unit, run: Run, row: UnitRow, ended: ev.ContinuedAsNew) -> None:
    """Store the next execution's first event; its code begins with the next turn."""
    _end_execution(unit, run, row)
    unit.waiting.close_lanes()
    row.execution += 1
    oldest_kept = row.execution - unit.limits.executions_kept
    if unit.limits.executions_kept and oldest_kept > 1:
        unit.draft.prune.append(oldest_kept - 1)
    definition = unit.definitions.find_workflow(row.type, ended.version)
    if definition is not None:
        row.type_version = definition.version
    elif ended.version is not None:
        row.type_version = ended.version
    started = ev.Started(
        unit.draft.now,
        row.type,
        row.type_version,
        ended.input,
        row.run,
        row.execution,
        PYTHON,
        ev.FLAGS,
        run.started.parent,
        run.variables.status,
        row.attributes,
    )
    data = ev.encode_events([started])
    unit.draft.chunks.append(JournalChunk(row.execution, 1, 1, data))
    row.journal_events, row.journal_bytes = 1, len(data)
    unit.journal, unit.kv = [started], run.variables.entries()
    unit.close_memory()
    unit.first_turn = True


# ---------------------------------------------------------------- the journal


def add_chunk(unit: Unit, run: Run, row: UnitRow) -> None:
    """Append the run's new events to the journal, or fail the run if they cross a limit."""
    events, run.events = run.events, []
    data = ev.encode_events(events)
    limits = unit.limits
    total, size = row.journal_events + len(events), row.journal_bytes + len(data)
    over = _over_limit(total, size, limits)
    if over is not None and run.ended is None:
        failure = Failure(
            "LimitExceeded",
            f"{over}: use workflow.continue_as_new before that",
            "application",
            retryable=False,
        )
        events.append(_fail(unit, run, failure))
        data = ev.encode_events(events)
        total, size = row.journal_events + len(events), row.journal_bytes + len(data)
    elif total >= limits.history_events * 8 // 10 > row.journal_events:
        unit.draft.warning = (
            f"the history of {unit.id!r} has {total} events; at {limits.history_events} the run fails "
            "(Limits.history_events): use workflow.continue_as_new"
        )
    unit.draft.chunks.append(
        JournalChunk(run.started.execution, row.journal_events + 1, len(events), data)
    )
    run.journal_events = row.journal_events = total
    row.journal_bytes = size


def _over_limit(events: int, size: int, limits: Limits) -> str | None:
    if events > limits.history_events:
        return f"the history would have {events} events; the limit is {limits.history_events} (Limits.history_events)"
    if size > limits.history_bytes:
        return f"the history would have {size} bytes; the limit is {limits.history_bytes} (Limits.history_bytes)"
    return None


# ---------------------------------------------------------------- packing


def pack(unit: Unit, fence: Fence, commit_id: bytes, *, more: bool) -> Turn:
    """Put all that this turn did into one Commit, and say what follows it.

    `more` says that the mailbox holds messages that the turn did not take.
    """
    row, draft = unit.row, unit.draft
    turn = Turn(None, draft.answers)
    if row is None:
        return turn
    if unit.run is not None:
        _pack_run(unit, unit.run, row, turn, more=more)
    _set_state(unit, row, turn)
    if draft.cancelled:
        turn.cancelled.extend(draft.cancelled)
    turn.warning, turn.milestones = draft.warning, draft.milestones
    if draft.chunks:
        row.suspect = 0  # progress: whatever crashed the node, it was not this
    if not draft.empty:
        turn.commit = draft.commit(row, unit.version, fence, commit_id)
        turn.kept = draft.keeping.keys()
        unit.version += 1
    turn.again = turn.again or unit.has_more
    return turn


def _pack_run(unit: Unit, run: Run, row: UnitRow, turn: Turn, *, more: bool) -> None:
    """Take the run's new events and what they ask for."""
    draft = unit.draft
    if run.logs:
        turn.logs = run.take_logs()
    if unit.held is None and run.ended is None:
        unit.check_run()
    if run.broken is not None:
        run.events, run.opened, run.outgoing, run.cancelled_calls = [], None, None, None
        if run.definition.on_mismatch == "fail":
            run.events = [_fail(unit, run, run.broken)]
            run.broken = None
    elif run.ended is not None and run.events:
        settle(unit, run)
    if run.events:
        add_chunk(unit, run, row)
    if run.outgoing:
        outbox.send_commands(draft, run.outgoing, run)
        run.outgoing = None
    if run.cancelled_calls:
        outbox.close_children(draft, run, run.cancelled_calls)
        turn.cancelled.extend(run.cancelled_calls)
        run.cancelled_calls = None
    if run.opened is not None or unit.first_turn:
        outbox.start_children(draft, run, run.opened or ())
        # After a load all open work is handed out, but for calls whose result waits in the inbox.
        # So the inbox has to be seen through first.
        if not (unit.first_turn and more):
            _local_work(unit, run, row, turn)
        run.opened = None
    if row.status in CLOSED:
        draft.post = [m for m in draft.post if m.to != unit.id]
    if run.variables.is_changed:
        _pack_variables(unit, run, row)
    if isinstance(run.ended, ev.ContinuedAsNew):
        _continue(unit, run, row, run.ended)
        turn.again = True


def _local_work(unit: Unit, run: Run, row: UnitRow, turn: Turn) -> None:
    """Activities and checkpoints to run: those of this turn, and after a load all that are open."""
    if unit.held is not None:
        return  # nothing is started for it; the next load hands out all that is open
    done = _done_while_paused(unit, row) if unit.waiting.kept else ()
    for call in run.pending.values() if unit.first_turn else run.opened or ():
        # `isinstance` would ask the abstract classes about each other call.
        if type(call) is not ActivityCall and type(call) is not StepCall:
            continue
        if call.seq not in run.pending or call.seq in done:
            continue
        if type(call) is ActivityCall and unit.definitions.find_activity(call.name) is None:
            unit.held = held.missing_activity(call.name)
            turn.calls.clear()
            return
        turn.calls.append(call)
    unit.first_turn = False


def _done_while_paused(unit: Unit, row: UnitRow) -> set[int]:
    """Calls whose result waits among the kept messages already."""
    bodies = [entry.message.body for entry in unit.waiting.kept]
    done = [b for b in bodies if isinstance(b, msg.ActivityDone | msg.StepDone)]
    return {b.seq for b in done if b.run == row.run and b.execution == row.execution}


def _pack_variables(unit: Unit, run: Run, row: UnitRow) -> None:
    variables = run.variables
    unit.draft.kv = variables.take_changes(last=isinstance(run.ended, ev.ContinuedAsNew))
    if variables.status_changed:
        variables.status_changed = False
        row.custom_status = variables.status
        row.custom_status_version += 1
    if variables.attributes_changed:
        variables.attributes_changed = False
        row.attributes = variables.attributes


def _set_state(unit: Unit, row: UnitRow, turn: Turn) -> None:
    """Status, reason and wake time of the row."""
    if row.status in CLOSED:
        turn.closed = True
        return
    before = (row.status, row.reason if row.status == "suspended" else None)
    row.failure = unit.held
    if unit.held is not None:
        row.status, row.reason, row.wake_at = (
            "suspended",
            held.REASONS.get(unit.held.type, unit.held.type),
            None,
        )
    elif row.paused:
        row.status, row.reason, row.wake_at = "suspended", "paused", None
    elif not row.started_at:
        row.status, row.reason = "pending", "delayed"
    elif unit.run is None:
        row.status, row.reason, row.wake_at = "running", None, 0
    else:
        turn.wake_at = unit.run.timer_at()
        row.status, row.reason, row.wake_at = (
            "running",
            unit.run.waiting_for(),
            unit.run.wake_at(turn.wake_at),
        )
    if row.status != "running" or unit.run is None:
        turn.wake_at = row.wake_at
    if before != (row.status, row.reason if row.status == "suspended" else None):
        unit.draft.touched = True
        if unit.held is not None:
            unit.draft.reached().set_aside = True
