"""What the code does becomes the journal: one event per command, in the order of the code, numbered from 1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from replay.harness import (
    T0,
    Rig,
    called,
    child,
    done,
    empty,
    finished,
    fired,
    greet,
    named,
    other,
    render,
    replied,
    shared,
    started,
    timer,
    waits,
)

from perdure import workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg

approved = workflow.Channel[bool]("approved")


async def _steps(name: str) -> list[str]:
    return [await greet(name), await greet(name)]


COMMANDS: dict[str, tuple[Callable[[], Any], ev.Event]] = {
    "activity": (lambda: greet("ann"), called(1, "ann")),
    "activity without input": (lambda: empty(), called(1, name="empty")),
    "activity on a session": (
        lambda: greet.with_options(session="s1")("ann"),
        called(1, "ann", session="s1"),
    ),
    "activity on a queue": (
        lambda: greet.with_options(queue="gpu")("ann"),
        called(1, "ann", queue="gpu"),
    ),
    "activity on its own queue": (lambda: render("x"), called(1, "x", name="render", queue="gpu")),
    "sleep": (lambda: asyncio.sleep(1), timer(1)),
    "named sleep": (lambda: workflow.sleep(1, name="cool down"), timer(1, name="cool down")),
    "channel": (lambda: approved.receive(), waits(1, "approved")),
    "event": (lambda: workflow.wait_event("go", str), waits(1, "go", positional=True)),
    "child": (lambda: other("x"), child(1, "x")),
    "named child": (
        lambda: workflow.child(other, id="ship-1")("x"),
        child(1, "x", target="ship-1"),
    ),
    "checkpoint": (
        lambda: workflow.checkpoint("look", lambda: 1),
        ev.CheckpointStarted(1, "look", 0),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_call_is_one_event_and_the_run_waits(name: str):
    make, expected = COMMANDS[name]

    async def main() -> None:
        await make()

    rig = Rig(main)
    turn = rig.start()
    assert rig.events == [started(), expected]
    assert rig.status == "running"
    opened = [c.seq for c in turn.calls] + [
        m.body.parent.seq for m in rig.posted if isinstance(m.body, msg.Start)
    ]
    assert opened == ([] if isinstance(expected, ev.TimerStarted | ev.WaitStarted) else [1])


def test_an_activity_without_options_has_no_queue_and_no_session():
    async def main() -> None:
        await greet("ann")

    rig = Rig(main)
    rig.start()
    command = rig.events[1]
    assert isinstance(command, ev.ActivityScheduled)
    assert (command.queue, command.session) == (None, None)


@pytest.mark.parametrize(("target", "expected"), [(None, named(1)), ("job-7", "job-7")])
def test_a_detached_start_is_one_event_and_one_message(target: str | None, expected: str):
    async def main() -> str:
        return workflow.child(other, id=target).detach("x") if target else other.detach("x")

    rig = Rig(main)
    rig.start()
    assert rig.events[1] == child(1, "x", target=expected, detached=True, parent_close="abandon")
    assert rig.result == expected
    assert [(m.to, m.body.workflow, m.body.parent) for m in rig.posted] == [
        (expected, "other", None)
    ]


def test_a_detached_start_keeps_its_place_before_an_activity():
    async def main() -> str:
        other.detach("x")
        return await greet("ann")

    rig = Rig(main)
    rig.start()
    rig.posted.clear()
    rig.reload()
    rig.turn(done(2, "hello ann"))
    assert rig.result == "hello ann"
    assert rig.posted == [], "a replay must not start it again"


def test_commands_of_several_kinds_follow_the_order_of_the_code():
    async def main() -> None:
        workflow.set_status("busy")
        await asyncio.gather(
            greet("ann"), asyncio.sleep(1), approved.receive(), other("x"), greet("bob")
        )

    rig = Rig(main)
    rig.start()
    # What is a command already is in the journal at the call; what is a coroutine of asyncio when its task first runs.
    assert rig.events == [
        started(),
        ev.StatusSet(encode("busy")),
        called(1, "ann"),
        child(2, "x"),
        called(3, "bob"),
        timer(4),
        waits(5, "approved"),
    ]


def test_a_fan_out_is_scheduled_in_one_turn():
    async def main() -> list[str]:
        return list(await asyncio.gather(*(greet(n) for n in "abc")))

    rig = Rig(main)
    turn = rig.start()
    assert rig.events[1:] == [called(1, "a"), called(2, "b"), called(3, "c")]
    assert [c.seq for c in turn.calls] == [1, 2, 3]


def test_numbers_go_on_after_a_replay():
    rig = Rig(_steps).store(started("ann"), called(1, "ann"))
    turn = rig.turn(done(1, "one"))
    assert rig.events[1:] == [called(2, "ann")]
    assert [(c.seq, c.describe()) for c in turn.calls] == [(2, "activity greet")]


def test_calls_to_run_have_the_numbers_of_their_events():
    async def main() -> None:
        await asyncio.gather(greet("ann"), asyncio.sleep(9), other("x"))

    rig = Rig(main)
    turn = rig.start()
    numbers = {
        e.seq: type(e).__name__
        for e in rig.events
        if isinstance(e, ev.ActivityScheduled | ev.CallStarted)
    }
    assert numbers == {1: "ActivityScheduled", 2: "CallStarted"}
    assert [c.seq for c in turn.calls] == [1]
    assert [m.body.parent.seq for m in rig.posted] == [2]


# ---------------------------------------------------------------- ends of a first turn


def test_a_workflow_that_returns_at_once_completes_in_one_turn():
    async def main(name: str) -> str:
        return name.upper()

    rig = Rig(main)
    turn = rig.start("ann")
    assert rig.kinds() == ["Started", "Completed"]
    assert (rig.result, turn.closed, turn.calls) == ("ANN", True, [])


def test_a_workflow_that_raises_at_once_fails_in_one_turn():
    async def main() -> None:
        raise ValueError("not today")

    rig = Rig(main)
    rig.start()
    assert rig.kinds() == ["Started", "Failed"]
    assert (rig.status, rig.failure.type, rig.failure.message) == (
        "failed",
        "ValueError",
        "not today",
    )
    assert "not today" in rig.failure.traceback
    assert __file__ in rig.failure.traceback


def _continuing() -> Rig:
    async def main(n: int) -> int:
        if n == 0:
            return 7
        workflow.continue_as_new(rig.definition, n - 1)

    rig = Rig(main)
    return rig


def test_continue_as_new_begins_a_new_journal():
    rig = _continuing()
    turn = rig.start(1)
    assert rig.journals[1] == [started(1), ev.ContinuedAsNew(T0, encode([0]), None)]
    assert rig.journals[2] == [started(0, execution=2)]
    assert (rig.status, turn.again) == ("running", True)
    rig.turn()
    assert rig.result == 7


def test_continue_as_new_does_not_start_what_was_not_awaited():
    async def main(n: int) -> None:
        _ = other("x")
        _ = greet("ann")
        workflow.continue_as_new(rig.definition, n + 1)

    rig = Rig(main)
    turn = rig.start(0)
    assert [type(e).__name__ for e in rig.journals[1]] == [
        "Started",
        "CallStarted",
        "ActivityScheduled",
        "CommandCancelled",
        "CommandCancelled",
        "ContinuedAsNew",
    ]
    assert (turn.calls, rig.posted) == ([], [])


def test_work_that_nobody_awaits_is_recorded_cancelled_and_never_run():
    async def main() -> str:
        _ = greet("ann")
        _ = other("x")
        _ = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        return "done"

    rig = Rig(main)
    turn = rig.start()
    assert rig.kinds() == [
        "Started",
        *["ActivityScheduled", "CallStarted", "TimerStarted"],
        *["CommandCancelled"] * 3,
        "Completed",
    ]
    assert (rig.result, turn.calls, rig.posted) == ("done", [], [])


# ---------------------------------------------------------------- loading what is half done


HALF_DONE: dict[str, tuple[Callable[[], Any], ev.Event, int | None]] = {
    "activity": (lambda: greet("ann"), called(1, "ann"), 0),
    "timer": (lambda: asyncio.sleep(1), timer(1), T0 + 1_000),
    "event": (lambda: workflow.wait_event("go", str), waits(1, "go", positional=True), None),
    "channel": (lambda: approved.receive(), waits(1, "approved"), None),
    "child": (lambda: other("x"), child(1, "x"), None),
}


@pytest.mark.parametrize("name", HALF_DONE)
def test_loading_an_open_command_adds_nothing(name: str):
    make, command, wake_at = HALF_DONE[name]

    async def main() -> None:
        await make()

    rig = Rig(main).store(started(), command)
    turn = rig.turn()
    assert rig.events == []
    assert rig.unit.row is not None
    assert rig.unit.row.wake_at == wake_at
    assert rig.posted == [], "the child's start was durable with the command"
    assert [c.seq for c in turn.calls] == ([1] if name == "activity" else []), (
        "an open activity runs again"
    )


def test_after_the_replay_the_code_is_live():
    async def main() -> str:
        await greet("ann")
        await asyncio.sleep(1)
        return await other("x")

    rig = Rig(main).store(started(), called(1, "ann"), finished(1, "hello"), timer(2), fired(2))
    turn = rig.turn()
    assert rig.events == [child(3, "x")], "a crash came between the timer and what follows it"
    assert turn.wake_at is None
    rig.turn(replied(3, "x"))
    assert rig.result == "x"


def test_the_shared_definitions_are_those_that_these_tests_name():
    assert (shared.activities(), shared.workflows()) == (
        ["empty", "greet", "render"],
        [("other", ["1.0.0"])],
    )
