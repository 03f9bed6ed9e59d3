"""The life of a unit: how it starts, continues as new, fails, is terminated and ends.

    pending ──▶ running ◀──▶ suspended ──▶ completed | failed | cancelled

`pending`: the start is delayed. `suspended`: paused, or held (`held.py`). The `reason` of a running
instance says what it waits for.

A turn calls these functions when it takes a start, and when the run has ended. They write the row
and the turn. The functions stand in the order of a unit's life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.codec import digest
from perdure.errors import Failure
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, ExecutionRow, JournalChunk, Status, UnitRow
from perdure.kernel.data.placement import code_of, derived_id, group_of, scope_of
from perdure.kernel.execution.execution import PYTHON
from perdure.kernel.unit import held, outbox
from perdure.kernel.unit.tasks import drop_stored

if TYPE_CHECKING:
    from perdure.kernel.execution.execution import Execution
    from perdure.kernel.unit.mailbox import Entry
    from perdure.kernel.unit.turn import Turn
    from perdure.kernel.unit.workflow_unit import WorkflowUnit

_encode_parent = msgspec.msgpack.Encoder().encode
_decode_parent = msgspec.msgpack.Decoder(ev.Parent).decode

# ---------------------------------------------------------------- starting


def start(unit: WorkflowUnit, turn: Turn, entry: Entry, body: msg.Start) -> None:
    """Begin the instance, or answer that another one has the id."""
    row = unit.row
    message = entry.message
    if row is not None:
        # A run has the id of its start.
        if row.run == message.id:
            _start_again(unit, row, turn, entry)
            return
        if not _takes_id(unit, row, body):
            _refuse_start(unit, row, turn, entry, body)
            return
        _replace(unit, row, turn)
    # Where its start was taken. Only a node that has its code knows its group.
    new = pending_row(unit.id, message, body, turn.scope)
    if row is not None:
        new.follow_on(row)
    unit.adopt(new)
    turn.touch()
    turn.answer(message.id, "started")
    begin_start(unit, new, turn, entry)


def pending_row(unit: str, message: msg.Message, body: msg.Start, scope: str) -> UnitRow:
    """The row of an instance that has not begun."""
    parent: bytes | None = None
    parent_unit: str | None = None
    if body.parent is not None:
        parent = _encode_parent(body.parent)
        # Beside the encoded parent, because stores list the children of a unit by it.
        parent_unit = body.parent.unit
    return UnitRow(
        unit,
        scope,
        "workflow",
        body.workflow,
        body.version or "",
        message.id,
        input_digest=digest(body.input),
        parent=parent,
        parent_unit=parent_unit,
        attributes=body.attributes,
        created_at=message.at,
    )


def _start_again(unit: WorkflowUnit, row: UnitRow, turn: Turn, entry: Entry) -> None:
    """The start of the present run has come, once more or from the inbox."""
    if row.started_at or row.status in CLOSED:
        # A closed unit has no use for its start, whether or not the code ever began.
        turn.consume(entry, "started")
        return
    turn.answer(entry.message.id, "started")
    begin_start(unit, row, turn, entry)


def _takes_id(unit: WorkflowUnit, row: UnitRow, body: msg.Start) -> bool:
    """Whether the run that has the id gives it to a start."""
    if body.if_exists == "renew":
        return not is_open(row, unit.run)
    return body.if_exists == "replace"


def _refuse_start(
    unit: WorkflowUnit, row: UnitRow, turn: Turn, entry: Entry, body: msg.Start
) -> None:
    """Another run has the id. An equal start joins it if that is allowed."""
    is_same = body.workflow == row.type and digest(body.input) == row.input_digest
    if body.if_exists in {"join", "renew"} and is_same:
        turn.consume(entry, "joined")
        return
    turn.consume(entry, "exists")
    # A parent awaits a reply, so it must hear of the refusal.
    if body.parent is not None:
        taken = f"the id {unit.id!r} is taken by another instance; give the child another id"
        failure = Failure("AlreadyStarted", taken, retryable=False)
        outbox.reply(turn, body.parent, entry.message.id, None, failure)


def _replace(unit: WorkflowUnit, row: UnitRow, turn: Turn) -> None:
    """End the run of this id, so that a new run can take the id."""
    run = unit.run
    if row.status not in CLOSED:
        if is_open(row, run):
            terminate(unit, row, turn, "replaced by a new start of the same id")
        elif run is not None:
            give_up(run, turn)
        if run is not None:
            settle(unit, run, turn)
        unit.rederive_work()
    if turn.ends_run:
        turn.replace(row)
    # A start that waits would be taken for the ended run otherwise.
    unit.close_memory()


def begin_start(unit: WorkflowUnit, row: UnitRow, turn: Turn, entry: Entry) -> None:
    """Begin a unit by its own start, or keep the start until that is possible."""
    message = entry.message
    body = message.body
    assert isinstance(body, msg.Start)
    # Not before its time, and not while it is paused, whichever was asked for first.
    if message.visible_at > turn.now or row.paused:
        row.delay(message.visible_at)
        unit.keep_start(turn, entry)
        return
    if unit.is_poison:
        unit.keep_start(turn, entry)
        return
    # Without a version it is the newest one now, which the row keeps from here on.
    definition = unit.definitions.find_workflow(body.workflow, body.version)
    if definition is None:
        unit.hold(
            held.missing_workflow(body.workflow, body.version), code_of(body.workflow, body.version)
        )
        unit.keep_start(turn, entry)
        return
    if unit.is_elsewhere is not None and group_of(row.scope) != definition.group:
        # Its code must not begin here, because perhaps this node does not serve its group.
        unit.release()
        unit.keep_start(turn, entry)
        move(unit, row, turn, scope_of(unit.id, unit.shards, definition.group))
        return
    unit.release()
    turn.consume(entry, "started")
    turn.reach(started=True)
    row.begin(definition.version, turn.now)
    unit.new_run(definition)
    unit.deliver(turn, _started(row, turn.now, body.input, body.parent))


def move(unit: WorkflowUnit, row: UnitRow, turn: Turn, scope: str) -> None:
    """Put the unit into another scope.

    The owner of that scope hears of it by a message of the unit to itself, which waits there.
    """
    row.move(scope)
    turn.touch()
    turn.send(unit.id, msg.Place(scope), derived_id(row.run, unit.version, 0, b"place"))


def _started(
    row: UnitRow,
    at: int,
    data: bytes,
    parent: ev.Parent | None,
    status: bytes | None = None,
) -> ev.Started:
    """The first event of an execution."""
    return ev.Started(
        at,
        row.type,
        row.type_version,
        data,
        row.run,
        row.execution,
        PYTHON,
        ev.FLAGS,
        parent,
        status,
        row.attributes,
    )


# ---------------------------------------------------------------- continuing as new


def continue_as_new(
    unit: WorkflowUnit, run: Execution, row: UnitRow, turn: Turn, ended: ev.ContinuedAsNew
) -> None:
    """Store the next execution's first event. Its code begins with the next turn."""
    turn.end_execution(
        ExecutionRow(row.execution, row.type_version, run.started.at, turn.now, row.journal_events)
    )
    # The version that the code asked for, or the newest. An unknown one holds the next execution.
    definition = unit.definitions.find_workflow(row.type, ended.version)
    if definition is not None:
        version = definition.version
    elif ended.version is not None:
        version = ended.version
    else:
        version = row.type_version
    # The event is encoded to know its size, and the row counts both before it is packed.
    row.next_execution(version, 0)
    started = _started(row, turn.now, ended.input, run.started.parent, run.variables.status)
    data = ev.encode_events([started])
    row.grow(0, len(data))
    turn.append(JournalChunk(row.execution, 1, 1, data))
    _prune(unit, row, turn)
    unit.begin_later(started, run.variables.entries())
    turn.ask_again()


def _prune(unit: WorkflowUnit, row: UnitRow, turn: Turn) -> None:
    """Keep as many ended executions as the limits say."""
    kept = unit.limits.executions_kept
    oldest_kept = row.execution - kept
    # One at a time is enough, because each continuation comes by here.
    if kept and oldest_kept > 1:
        turn.remove_history([oldest_kept - 1])


# ---------------------------------------------------------------- ending


def is_open(row: UnitRow, run: Execution | None) -> bool:
    """Whether the unit has no outcome yet."""
    if row.status in CLOSED:
        return False
    if run is None or run.ended is None:
        return True
    # An earlier message of this turn has ended the execution, and the row does not say so yet.
    return isinstance(run.ended, ev.ContinuedAsNew)


def close(
    unit: WorkflowUnit,
    turn: Turn,
    status: Status,
    failure: Failure | None,
    result: bytes | None = None,
) -> None:
    """Give the row its final state, tell the parent, and drop messages without a receiver."""
    row = unit.row
    assert row is not None
    row.close(status, turn.now, result, failure)
    unit.end()
    turn.touch()
    turn.reach(ended=True)
    if row.parent is not None:
        outbox.reply(turn, _decode_parent(row.parent), row.run, result, failure)
    for entry in unit.waiting.take_all():
        turn.drop(entry)


def settle(unit: WorkflowUnit, run: Execution, turn: Turn) -> None:
    """The run has ended: give the row its outcome. Continue-as-new has none."""
    match run.ended:
        case ev.Completed(result=result):
            close(unit, turn, "completed", None, result)
        case ev.Failed(failure=failure):
            close(unit, turn, "failed", failure)
        case ev.Cancelled(failure=failure):
            close(unit, turn, "cancelled", failure)
        case ev.Terminated(reason=reason):
            close(unit, turn, "cancelled", _terminated(reason))
        case _:
            pass


def fail(unit: WorkflowUnit, run: Execution, turn: Turn, failure: Failure) -> None:
    """End the run as failed without asking its code."""
    children = unit.children_without_code
    run.end_without_code(ev.Failed(turn.now, failure, without_code=True))
    give_up(run, turn)
    settle(unit, run, turn)
    outbox.close_recorded(turn, children)


def terminate(unit: WorkflowUnit, row: UnitRow, turn: Turn, reason: str) -> None:
    """End the unit without asking its code."""
    event = ev.Terminated(turn.now, reason)
    run, children = unit.run, unit.children_without_code
    if run is not None:
        # The turn collects the event, and settles the row then.
        run.end_without_code(event)
        unit.release()
        give_up(run, turn)
    else:
        # No run is in memory: it has not begun, or is held.
        if row.started_at:
            data = ev.encode_events([event])
            row.grow(1, 0)
            turn.append(JournalChunk(row.execution, row.journal_events, 1, data))
        drop_stored(unit.stored_tasks, turn)
        close(unit, turn, "cancelled", _terminated(reason))
    outbox.close_recorded(turn, children)


def _terminated(reason: str) -> Failure:
    return Failure("Terminated", reason, "cancelled", retryable=False)


def give_up(run: Execution, turn: Turn) -> None:
    """The run is over, so nothing that it waits for is wanted."""
    if run.logs:
        turn.log(run.take_logs())
    progress = run.take_progress()
    # Messages that the code has sent in this turn still go out, because the message that made it
    # send them is consumed.
    outbox.send_commands(turn, run.started, progress.outgoing)
    calls = [*progress.cancelled, *run.close()]
    turn.give_up(calls)
    outbox.close_children(turn, calls, progress.opened)
