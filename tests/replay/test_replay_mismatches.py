"""Where code and journal part: found at the first event that differs, reported with both sides, and nothing changed.

`report` is what the operator sees. The instance is suspended, not failed: a deploy of code that fits lets it go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from replay.harness import (
    RUN,
    T0,
    Rig,
    called,
    child,
    done,
    failed,
    finished,
    fired,
    greet,
    other,
    render,
    started,
    timer,
    waits,
)

from perdure import workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg

approved = workflow.Channel[str]("approved")


def code(make: Callable[[], Any]) -> Callable[..., Any]:
    """A workflow that awaits one thing and then an activity."""

    async def main() -> str:
        await make()
        return await render("after")

    return main


def expect_mismatch(rig: Rig, journal: str, did: str) -> None:
    """The unit is suspended, says what the journal has and what the code did, and has changed nothing."""
    before = list(rig.history)
    turn = rig.turn()
    assert rig.held.type == "NondeterminismError"
    assert f"the journal has {journal}" in rig.held.message
    assert f"but the code did {did}" in rig.held.message
    assert "Remedy: deploy code that does the same up to here" in rig.held.message
    assert (rig.status, rig.row.reason if rig.row else None) == ("suspended", "nondeterminism")
    assert (rig.events, rig.history, turn.calls, list(turn.cancelled), rig.posted) == (
        [],
        before,
        [],
        [],
        [],
    )


DIFFERENT: dict[str, tuple[ev.Event, Callable[[], Any], str, str]] = {
    "activity, code sleeps": (
        called(1, "a"),
        lambda: asyncio.sleep(1),
        "a call of activity 'greet'",
        "a timer",
    ),
    "timer, code calls": (timer(1), lambda: greet("a"), "a timer", "a call of activity 'greet'"),
    "name of the activity": (
        called(1, "a", name="render"),
        lambda: greet("a"),
        "a call of activity 'render'",
        "a call",
    ),
    "input of the activity": (
        called(1, "a"),
        lambda: greet("b"),
        "a call of activity 'greet' (input",
        "a call",
    ),
    "name of the event": (
        waits(1, "go", positional=True),
        lambda: workflow.wait_event("stop", str),
        "a wait for event 'go'",
        "a wait for event 'stop'",
    ),
    "name of the channel": (
        waits(1, "other"),
        lambda: approved.receive(),
        "a wait for channel 'other'",
        "a wait for channel 'approved'",
    ),
    "event, code receives": (
        waits(1, "approved", positional=True),
        lambda: approved.receive(),
        "a wait for event 'approved'",
        "a wait for channel 'approved'",
    ),
    "session": (
        called(1, "a", session="one"),
        lambda: greet.with_options(session="two")("a"),
        "a call of activity 'greet'",
        "a call of activity 'greet'",
    ),
    "queue added": (
        called(1, "a"),
        lambda: greet.with_options(queue="gpu")("a"),
        "a call of activity 'greet' (input",
        "a call of activity 'greet' on queue 'gpu'",
    ),
    "queue changed": (
        called(1, "a", queue="cpu"),
        lambda: greet.with_options(queue="gpu")("a"),
        "a call of activity 'greet' on queue 'cpu'",
        "a call of activity 'greet' on queue 'gpu'",
    ),
    "queue removed": (
        called(1, "a", queue="cpu"),
        lambda: greet("a"),
        "a call of activity 'greet' on queue 'cpu'",
        "a call of activity 'greet' (input",
    ),
    "input of the child": (
        child(1, "x"),
        lambda: other("y"),
        "a call of workflow 'other'",
        "a call of workflow",
    ),
    "id of the child": (
        child(1, "x", target="ship-1"),
        lambda: workflow.child(other, id="ship-2")("x"),
        "a call of workflow 'other' (id 'ship-1'",
        "a call of workflow 'other' (id 'ship-2'",
    ),
    "detached, code awaits": (
        child(1, "x", detached=True),
        lambda: other("x"),
        "a detached start of workflow 'other'",
        "a call of workflow 'other'",
    ),
    "name of the timer": (
        timer(1, name="cool down"),
        lambda: workflow.sleep(1, name="warm up"),
        "a timer 'cool down'",
        "a timer 'warm up'",
    ),
    "checkpoint": (
        ev.CheckpointStarted(1, "look", 0),
        lambda: workflow.checkpoint("peek", lambda: 1),
        "checkpoint 'look'",
        "checkpoint 'peek'",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_command_that_differs_is_reported(name: str):
    recorded, make, journal, did = DIFFERENT[name]
    rig = Rig(code(make)).store(started(), recorded)
    expect_mismatch(rig, journal, did)
    assert f"{__file__}:" in rig.held.message
    assert "at event 2, " in rig.held.message


@pytest.mark.parametrize(
    ("recorded", "journal"),
    [
        (called(1, "a"), "a call of activity 'greet'"),
        (child(1, "x", detached=True), "a detached start of workflow"),
    ],
)
def test_a_command_that_the_code_no_longer_gives_is_reported(recorded: ev.Event, journal: str):
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    rig = Rig(main).store(started(), recorded)
    turn = rig.turn()
    assert f"the journal has {journal}" in rig.held.message
    assert "but the code did nothing" in rig.held.message
    assert "the code waits at " + __file__ in rig.held.message
    assert (rig.events, turn.calls) == ([], [])


def test_code_that_ends_before_its_journal_is_reported():
    async def main() -> str:
        return "short"

    rig = Rig(main).store(started(), called(1, "a"))
    expect_mismatch(rig, "a call of activity 'greet'", "the end of the workflow")


def test_code_that_ends_where_its_journal_ends_completes():
    async def main() -> str:
        return await greet("a")

    rig = Rig(main).store(started(), called(1, "a"), finished(1, "A"))
    rig.turn()
    assert rig.result == "A"


def test_a_detached_start_of_another_workflow_is_reported():
    async def main() -> None:
        other.detach("x")
        await greet("a")

    recorded = child(1, "x", detached=True, parent_close="abandon")
    recorded.workflow = "something_else"
    rig = Rig(main).store(started(), recorded)
    expect_mismatch(
        rig, "a detached start of workflow 'something_else'", "a detached start of workflow 'other'"
    )


# ---------------------------------------------------------------- what may differ


def test_the_delay_of_a_timer_may_differ_and_the_recorded_one_counts():
    rig = Rig(code(lambda: asyncio.sleep(60))).store(started(), timer(1, 1_000))
    rig.turn(after_ms=1_000)
    assert rig.events == [fired(1), called(2, "after", name="render", queue="gpu")]


def test_the_text_of_a_status_may_differ_and_the_recorded_one_counts():
    async def main() -> str | None:
        workflow.set_status("new words")
        await greet("a")
        return workflow.status(str)

    rig = Rig(main).store(
        started(), ev.StatusSet(encode("old words")), called(1, "a"), finished(1, "A")
    )
    rig.turn()
    assert rig.result == "old words"


def test_a_new_parameter_with_a_default_fits():
    async def main(name: str, greeting: str = "hello") -> str:
        return greeting + await greet(name)

    rig = Rig(main).store(started("ann"), called(1, "ann"))
    rig.turn(done(1, " ann"))
    assert rig.result == "hello ann"


# ---------------------------------------------------------------- a deploy repairs it


def test_a_deploy_of_code_that_fits_lets_it_go_on():
    rig = Rig(code(lambda: greet("b"))).store(started(), called(1, "a"))
    rig.turn()
    assert rig.status == "suspended"
    rig.deploy(code(lambda: greet("a")))
    rig.reload()
    rig.turn(done(1, "A"))
    assert (rig.status, rig.kinds()) == ("running", ["ActivityCompleted", "ActivityScheduled"])
    rig.turn(done(2, "done"))
    assert rig.result == "done"


def test_what_arrives_meanwhile_is_kept():
    rig = Rig(code(lambda: greet("b"))).store(started(), called(1, "a"))
    rig.turn(done(1, "A"), msg.Send("approved", encode("yes")), msg.Cancel("enough"))
    assert rig.answers == ["ok", "ok", "ok"]
    assert len(rig.inbox) == 3
    rig.deploy(code(lambda: greet("a")))
    rig.reload()
    rig.turn()
    assert (rig.status, rig.failure.message, rig.inbox) == ("cancelled", "enough", {})


def test_a_patch_hides_a_change_from_old_runs():
    async def main() -> str:
        if workflow.patched("loud"):
            return await greet("ANN")
        return await greet("ann")

    rig = Rig(main).store(started(), called(1, "ann"))
    rig.turn(done(1, "old"))
    assert rig.result == "old"
    new = Rig(main)
    new.start()
    assert new.events[1:] == [ev.PatchMarked("loud"), called(1, "ANN")]


@pytest.mark.parametrize("on_mismatch", ["suspend", "fail"])
def test_a_mismatch_can_be_made_final(on_mismatch: Any):
    rig = Rig(code(lambda: greet("b")), on_mismatch=on_mismatch).store(started(), called(1, "a"))
    rig.turn()
    assert rig.status == {"suspend": "suspended", "fail": "failed"}[on_mismatch]


def test_another_python_is_named_first():
    journal = [started(), called(1, "a")]
    journal[0].python = "3.9"  # type: ignore[attr-defined]
    rig = Rig(code(lambda: greet("b"))).store(*journal)
    assert "the execution began on Python 3.9 and this node runs 3." in rig.held.message


def test_code_that_swallows_everything_cannot_go_on_after_a_mismatch():
    async def main() -> str:
        for _ in range(3):
            try:
                await greet("b")
            except BaseException:
                continue
        return await greet("c")

    rig = Rig(main).store(started(), called(1, "a"))
    expect_mismatch(rig, "a call of activity 'greet'", "a call of activity 'greet'")


# ---------------------------------------------------------------- answers in the journal that do not belong there

_reply = ev.Replied(1, T0, encode("x"))
_raised = ev.EventRaised(1, T0, "go", encode("x"))
_step = ev.CheckpointRecorded(1, T0, "look", 0, encode("x"))
_received = ev.Received(1, T0, b"m", encode("x"))
_attempt = ev.AttemptFailed(1, T0, 1, failed(1).failure, T0 + 1)

STRAY: dict[str, list[ev.Event]] = {
    "an activity's result, nothing open": [finished(1, "x")],
    "an activity's failure, nothing open": [failed(1)],
    "a timer that was never started": [fired(1)],
    "a reply, no child": [_reply],
    "a checkpoint's value, no checkpoint": [_step],
    "a message, nobody waits": [_received],
    "an event, nobody waits": [_raised],
    "a failed attempt, nothing open": [_attempt],
    "a result before its call": [finished(1, "x"), called(1, "a")],
    "a timer's end before its start": [fired(1), timer(1)],
    "a result of another number": [called(1, "a"), finished(7, "x")],
    "a result twice": [
        called(1, "a"),
        finished(1, "x"),
        called(2, "after", name="render"),
        finished(1, "y"),
    ],
    "a failure after a result": [
        called(1, "a"),
        finished(1, "x"),
        called(2, "after", name="render"),
        failed(1),
    ],
}


@pytest.mark.parametrize("name", STRAY)
def test_an_answer_that_nothing_waits_for_is_reported(name: str):
    rig = Rig(code(lambda: greet("a"))).store(started(), *STRAY[name])
    turn = rig.turn()
    assert rig.status == "suspended"
    assert rig.held.type == "NondeterminismError"
    assert (rig.events, turn.calls) == ([], [])


def _kinds_of_answers() -> dict[str, tuple[ev.Event, Callable[[], Any], list[ev.Event]]]:
    answers = {
        "activity": [finished(1, "x"), failed(1), _attempt],
        "timer": [fired(1)],
        "child": [_reply],
        "event": [_raised],
        "channel": [_received],
        "checkpoint": [_step],
    }
    commands: dict[str, tuple[ev.Event, Callable[[], Any]]] = {
        "activity": (called(1, "a"), lambda: greet("a")),
        "timer": (timer(1), lambda: asyncio.sleep(1)),
        "child": (child(1, "x"), lambda: other("x")),
        "event": (waits(1, "go", positional=True), lambda: workflow.wait_event("go", str)),
        "channel": (waits(1, "approved"), lambda: approved.receive()),
        "checkpoint": (
            ev.CheckpointStarted(1, "look", 0),
            lambda: workflow.checkpoint("look", lambda: 1),
        ),
    }
    return {
        k: (*command, [e for other_kind, es in answers.items() if other_kind != k for e in es])
        for k, command in commands.items()
    }


WRONG_KIND = [
    pytest.param(command, make, answer, id=f"{type(answer).__name__} for {kind}")
    for kind, (command, make, wrong) in _kinds_of_answers().items()
    for answer in wrong
]


@pytest.mark.parametrize(("command", "make", "answer"), WRONG_KIND)
def test_an_answer_of_another_kind_is_reported(
    command: ev.Event, make: Callable[[], Any], answer: ev.Event
):
    rig = Rig(code(make)).store(started(), command, answer)
    rig.turn()
    assert (rig.status, rig.events) == ("suspended", [])
    assert rig.held.type == "NondeterminismError"


CLOSED_ANSWERS = [
    fired(1),
    _reply,
    finished(1, "y"),
    failed(1),
    ev.Replied(1, T0, None, failed(1).failure),
]


@pytest.mark.parametrize("answer", CLOSED_ANSWERS, ids=lambda a: type(a).__name__)
def test_an_answer_to_a_command_that_has_one_is_reported(answer: ev.Event):
    async def main() -> str:
        return await greet("a") + await greet("b")

    rig = Rig(main).store(started(), called(1, "a"), finished(1, "x"), called(2, "b"), answer)
    rig.turn()
    assert (rig.status, rig.held.type) == ("suspended", "NondeterminismError")
    assert RUN == started().run
