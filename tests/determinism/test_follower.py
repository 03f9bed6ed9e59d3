"""A warm unit that is advanced by commits it did not make, and takes over without a replay."""

from __future__ import annotations

import asyncio

from drive import Drive

from perdure import App, Limits, workflow
from perdure.codec import encode
from perdure.kernel.data import message as msg
from perdure.kernel.data.events import Received

app = App("followed")

letters = workflow.Channel[str]("letters")


@app.activity
async def act(name: str) -> str:
    return name


@app.workflow
async def correspondence(left: int) -> str:
    workflow.kv.set("left", left)
    async with asyncio.timeout(60):
        letter = await letters.receive()
    answer = await act(letter)
    if left:
        workflow.continue_as_new(correspondence, left - 1)
    return answer


@app.workflow
async def patient() -> list[str]:
    first = await act("first")
    return [first, await letters.receive(), await letters.receive()]


def pair(workflow_name: str, *args: object) -> tuple[Drive, Drive]:
    """A unit that has started, and a copy of it elsewhere."""
    leader, copy = Drive(app), Drive(app)
    leader.start(workflow_name, *args)
    copy.follow(leader.script[-1])
    return leader, copy


def step(leader: Drive, copy: Drive, *bodies: msg.AnyBody) -> None:
    leader.tell(*bodies)
    copy.follow(leader.script[-1])
    assert copy.state() == leader.state()


def test_it_stays_the_same_and_never_replays() -> None:
    leader, copy = pair("correspondence", 1)
    run = copy.unit.run
    assert run is not None
    step(leader, copy, msg.Send("letters", encode("dear")))
    assert copy.unit.run is run, "still the run that was warm"
    step(leader, copy, leader.answer(leader.pending()[3]) or msg.Resume())
    assert copy.row.execution == 2
    step(leader, copy)
    step(leader, copy, msg.Send("letters", encode("dear again")))
    step(leader, copy, leader.answer(leader.pending()[3]) or msg.Resume())
    assert copy.row.status == "completed"


def test_it_takes_over_with_the_work_that_is_open() -> None:
    leader, copy = pair("correspondence", 0)
    step(leader, copy, msg.Send("letters", encode("dear")))
    turn = copy.turn()
    assert [c.describe() for c in turn.calls] == ["activity act"], (
        "the attempts of the owner before are lost with it"
    )
    copy.finish()
    assert copy.row.status == "completed"
    leader.finish()
    assert [type(e) for e in leader.events()] == [type(e) for e in copy.events()]


def test_it_has_the_messages_that_wait() -> None:
    leader, copy = pair("patient")
    step(leader, copy, msg.Send("letters", encode("one")))
    step(leader, copy, msg.Send("letters", encode("two")))
    copy.tell(copy.answer(copy.pending()[1]) or msg.Resume())
    assert copy.row.status == "completed"
    assert len(copy.shelf.inbox) == 0


def test_a_cancel_that_waited_for_the_code_is_heard_where_the_code_is() -> None:
    leader, copy = pair("patient")
    without = Drive(App("followed"))
    without.follow(leader.script[-1])
    without.tell(msg.Cancel("enough"))
    assert without.row.status == "suspended"
    copy.follow(without.script[-1])
    without.tell(msg.Send("letters", encode("behind it")))
    copy.follow(without.script[-1])
    copy.turn()
    assert copy.row.status == "cancelled"
    assert not copy.shelf.inbox


def test_a_message_that_came_and_went_in_one_turn_is_not_received_twice() -> None:
    leader, copy = pair("patient")
    step(
        leader,
        copy,
        msg.Send("letters", encode("one")),
        leader.answer(leader.pending()[1]) or msg.Resume(),
    )
    copy.tell(msg.Send("letters", encode("two")))
    assert copy.row.status == "completed"
    assert [e.value for e in copy.events() if isinstance(e, Received)] == [
        encode("one"),
        encode("two"),
    ]


def test_another_program_is_held_and_says_so() -> None:
    leader = Drive(app)
    changed = App("followed")

    async def patient() -> list[str]:
        return [await workflow.child(correspondence)(0)]

    changed.workflow(patient)
    copy = Drive(changed)
    leader.start("patient")
    copy.follow(leader.script[-1])
    assert copy.unit.held is not None
    assert copy.unit.held.type == "NondeterminismError"


def test_another_program_is_held_when_it_parts_from_its_owner_later() -> None:
    leader = Drive(app)
    changed = App("followed")
    changed.activity(act.fn)

    async def patient() -> str:
        return await act(await act("first"))

    changed.workflow(patient)
    copy = Drive(changed)
    leader.start("patient")
    copy.follow(leader.script[-1])
    assert copy.unit.held is None
    leader.tell(leader.answer(leader.pending()[1]) or msg.Resume())
    copy.follow(leader.script[-1])
    assert copy.unit.held is not None
    assert copy.unit.held.type == "NondeterminismError"


def test_it_knows_nothing_of_a_run_that_was_replaced() -> None:
    leader, copy = pair("correspondence", 1)
    leader.turn(leader.message(leader.begun or msg.Resume()))
    copy.follow(leader.script[-1])
    assert copy.state() == leader.state()
    assert copy.unit.run is not None
    assert len(copy.unit.run.variables.entries()) == 1
    leader.evict()
    step(leader, copy, msg.Send("letters", encode("dear")))


def test_it_begins_a_start_that_waits() -> None:
    leader, copy = pair("correspondence", 0)
    start = leader.begun
    assert start is not None
    step(leader, copy, msg.Cancel("enough"))
    leader.turn(leader.message(start, leader.now + 1_000))
    copy.follow(leader.script[-1])
    assert copy.row.status == leader.row.status == "pending"
    copy.now += 1_000
    copy.turn()
    assert copy.row.status == "running"


def test_what_stops_the_next_execution_comes_before_its_code_wherever_it_is() -> None:
    warm, cold = Drive(app), Drive(app)
    for drive in (warm, cold):
        drive.start("correspondence", 1)
        drive.tell(msg.Send("letters", encode("dear")))
        drive.tell(drive.answer(drive.pending()[3]) or msg.Resume())
        assert drive.row.execution == 2
    cold.evict()
    for drive in (warm, cold):
        drive.tell(msg.Pause("a break"))
        assert len(drive.events()) == 1, "the code of the execution has not begun"
    assert warm.script == cold.script


def test_results_that_came_in_a_pause_go_the_same_way_wherever_it_is() -> None:
    """The first ends the execution, and the second is nobody's: both units store that at once or neither."""
    warm, cold = Drive(app), Drive(app)
    for drive in (warm, cold):
        drive.start("correspondence", 1)
        drive.tell(msg.Send("letters", encode("dear")))
        result = drive.answer(drive.pending()[3]) or msg.Resume()
        drive.tell(msg.Pause("a break"), result, result)
    cold.evict()
    for drive in (warm, cold):
        drive.tell(msg.Resume())
        assert drive.row.execution == 2
        drive.turn()
        assert not drive.shelf.inbox, "nothing is left of the results"
    assert warm.script == cold.script


def test_a_copy_ends_as_its_owner_did_when_the_history_is_too_long() -> None:
    leader, copy = Drive(app, Limits(history_events=4)), Drive(app)
    leader.start("correspondence", 1)
    copy.follow(leader.script[-1])
    step(leader, copy, msg.Send("letters", encode("dear")))
    assert copy.row.status == "failed"
    assert copy.unit.held is None
