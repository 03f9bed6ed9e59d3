"""Races, joins and cancelled work: the journal decides who wins, and what lost is recorded and reaches the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from replay.harness import (
    T0,
    Rig,
    broke,
    called,
    child,
    done,
    finished,
    fired,
    greet,
    named,
    other,
    replied,
    started,
    timer,
    waits,
)

from perdure import workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg

approved = workflow.Channel[str]("approved")


async def _activity_or_timer() -> int:
    index, _ = await workflow.select(greet("ann"), asyncio.sleep(1))
    return index


async def _with_timeout() -> str:
    try:
        async with asyncio.timeout(1):
            return await greet("ann")
    except TimeoutError:
        return "timed out"


async def _two() -> list[Any]:
    return list(await asyncio.gather(greet("a"), greet("b"), return_exceptions=True))


# ---------------------------------------------------------------- who wins


def test_the_activity_wins_and_the_timer_is_cancelled():
    rig = Rig(_activity_or_timer)
    rig.start()
    turn = rig.turn(done(1, "hi"))
    assert rig.kinds() == ["ActivityCompleted", "CommandCancelled", "Completed"]
    assert (rig.result, list(turn.cancelled)) == (0, [])


def test_the_timer_wins_and_the_activity_is_told():
    rig = Rig(_activity_or_timer)
    rig.start()
    turn = rig.turn(after_ms=1_000)
    assert rig.kinds() == ["TimerFired", "CommandCancelled", "Completed"]
    assert (rig.result, [c.seq for c in turn.cancelled]) == (1, [1])


def test_nobody_wins_while_both_are_open():
    rig = Rig(_activity_or_timer).store(started(), called(1, "ann"), timer(2))
    turn = rig.turn(after_ms=999)
    assert (rig.events, rig.status, turn.wake_at) == ([], "running", T0 + 1_000)


@pytest.mark.parametrize(
    ("answers", "winner"), [([finished(1, "hi"), fired(2)], 0), ([fired(2), finished(1, "hi")], 1)]
)
def test_the_order_in_the_journal_decides(answers: list[ev.Event], winner: int):
    async def main() -> int:
        tasks = [asyncio.ensure_future(greet("ann")), asyncio.create_task(asyncio.sleep(1))]
        first: list[int] = []
        for i, task in enumerate(tasks):
            task.add_done_callback(lambda _, i=i: first.append(i))
        await asyncio.gather(*tasks)
        return first[0]

    rig = Rig(main).store(started(), called(1, "ann"), timer(2), *answers)
    rig.turn()
    assert rig.result == winner


def test_a_timeout_that_expires_cancels_the_activity():
    rig = Rig(_with_timeout)
    rig.start()
    turn = rig.turn(after_ms=1_000)
    assert (rig.result, [c.seq for c in turn.cancelled]) == ("timed out", [2])


def test_a_timeout_that_does_not_expire_leaves_no_timer():
    rig = Rig(_with_timeout)
    rig.start()
    turn = rig.turn(done(2, "hi"), after_ms=10)
    assert rig.kinds() == ["ActivityCompleted", "CommandCancelled", "Completed"]
    assert (rig.result, turn.wake_at) == ("hi", None)


def test_the_losers_of_a_race_of_three_are_told():
    async def main() -> tuple[int, str]:
        return await workflow.select(greet("a"), greet("b"), greet("c"))

    rig = Rig(main)
    rig.start()
    turn = rig.turn(done(2, "B"))
    assert (rig.result, [c.seq for c in turn.cancelled]) == ([1, "B"], [1, 3])
    assert rig.events[1:3] == [ev.CommandCancelled(1), ev.CommandCancelled(3)]


def test_asyncio_wait_cancels_nothing():
    async def main() -> str:
        tasks = [asyncio.create_task(greet(n)) for n in "ab"]
        winners, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return await winners.pop() + await losers.pop()

    rig = Rig(main)
    rig.start()
    turn = rig.turn(done(2, "B"))
    assert (rig.kinds(), list(turn.cancelled)) == (["ActivityCompleted"], [])
    rig.turn(done(1, "A"))
    assert rig.result == "BA"


# ---------------------------------------------------------------- joins


def test_a_join_is_done_when_all_are():
    rig = Rig(_two).store(
        started(), called(1, "a"), called(2, "b"), finished(2, "B"), finished(1, "A")
    )
    rig.turn()
    assert rig.result == ["A", "B"]


def test_a_join_waits_while_one_is_open():
    rig = Rig(_two).store(started(), called(1, "a"), called(2, "b"), finished(2, "B"))
    rig.turn()
    assert (rig.events, rig.status) == ([], "running")


def test_an_error_in_a_join_can_be_a_value():
    async def main() -> list[str]:
        return [str(v) for v in await workflow.join(greet("a"), greet("b"))]

    rig = Rig(main)
    rig.start()
    rig.turn(broke(1))
    assert rig.status == "running", "a join does not stop at the first error"
    rig.turn(done(2, "B"))
    assert rig.result == ["activity 'greet' failed after 1 attempt: ValueError: no", "B"]


@pytest.mark.parametrize(("order", "expected"), [("argument", ["A", "B"]), ("history", ["B", "A"])])
def test_a_join_gives_the_order_that_was_asked_for(order: Any, expected: list[str]):
    async def main() -> list[Any]:
        return list(await workflow.join(greet("a"), greet("b"), order=order))

    rig = Rig(main)
    rig.start()
    rig.turn(done(2, "B"), done(1, "A"))
    assert rig.result == expected


# ---------------------------------------------------------------- giving work up


LEFT: dict[str, tuple[Callable[[], Any], ev.Event]] = {
    "activity": (lambda: greet("ann"), called(1, "ann")),
    "timer": (lambda: asyncio.create_task(asyncio.sleep(9)), timer(1, 9_000)),
    "event": (
        lambda: asyncio.create_task(workflow.wait_event("go", str)),
        waits(1, "go", positional=True),
    ),
    "channel": (lambda: asyncio.create_task(approved.receive()), waits(1, "approved")),
    "child": (lambda: other("x"), child(1, "x")),
}


async def _cancel_at(seconds: int, make: Callable[[], Any]) -> str:
    """Call something, sleep, cancel it; then wait for an activity, so that the run is still there."""
    work = make()
    await asyncio.sleep(0)
    if seconds:
        await asyncio.sleep(seconds)
    work.cancel()
    return await greet("after")


def _told_at_once(name: str, following: ev.Event) -> list[ev.Event]:
    """A call is cancelled where `cancel` is called; asyncio's own sleep when its task runs again."""
    cancelled = ev.CommandCancelled(1)
    return [following, cancelled] if name == "timer" else [cancelled, following]


@pytest.mark.parametrize("name", LEFT)
def test_what_is_cancelled_in_the_turn_of_its_call_never_runs(name: str):
    make, command = LEFT[name]

    async def main() -> str:
        return await _cancel_at(0, make)

    rig = Rig(main)
    turn = rig.start()
    assert rig.events == [started(), command, *_told_at_once(name, called(2, "after"))]
    assert [c.seq for c in turn.calls] == [2]
    assert rig.posted == []


@pytest.mark.parametrize("name", LEFT)
def test_what_is_cancelled_later_is_told_once(name: str):
    make, _ = LEFT[name]

    async def main() -> str:
        return await _cancel_at(1, make)

    rig = Rig(main)
    rig.start()
    rig.posted.clear()
    turn = rig.turn(after_ms=1_000)
    assert rig.events[1:] == _told_at_once(name, called(3, "after"))
    told = [m.to for m in rig.posted if isinstance(m.body, msg.Cancel)]
    assert told == ([named(1)] if name == "child" else [])
    # Work is told through what follows the turn; for a timer or a wait there is nobody to tell.
    assert ([c.seq for c in turn.cancelled] == [1]) == (name != "timer")
    rig.posted.clear()
    rig.reload()
    turn = rig.turn()
    assert (rig.events, rig.posted, list(turn.cancelled)) == ([], [], []), "a replay tells nobody"
    rig.turn(done(3, "end"))
    assert rig.result == "end"


def test_many_that_are_cancelled_are_told_in_order():
    async def main() -> None:
        work = [greet(n) for n in "abc"]
        await asyncio.sleep(1)
        for call in reversed(work):
            call.cancel()  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    rig = Rig(main)
    rig.start()
    turn = rig.turn(after_ms=1_000)
    assert [e.seq for e in rig.events if isinstance(e, ev.CommandCancelled)] == [3, 2, 1]
    assert [c.seq for c in turn.cancelled] == [3, 2, 1]


@pytest.mark.parametrize("name", ["activity", "child"])
def test_what_has_its_answer_is_not_cancelled(name: str):
    make, _ = LEFT[name]

    async def main() -> str:
        work = make()
        await work
        return str(work.cancel())

    rig = Rig(main)
    rig.start()
    rig.posted.clear()
    turn = rig.turn(done(1, "hi") if name == "activity" else replied(1, "hi"))
    assert (rig.result, list(turn.cancelled), rig.posted) == ("False", [], [])
    assert "CommandCancelled" not in rig.kinds()


def test_dropping_a_reference_cancels_nothing():
    async def main() -> str:
        greet("dropped")
        return await greet("kept")

    rig = Rig(main)
    turn = rig.start()
    assert rig.kinds() == ["Started", "ActivityScheduled", "ActivityScheduled"]
    assert [c.seq for c in turn.calls] == [1, 2]
    rig.turn(done(1, "unseen"))
    assert rig.kinds() == ["ActivityCompleted"]
    rig.turn(done(2, "seen"))
    assert rig.result == "seen"


def test_a_cancelled_child_can_be_left_alone_or_terminated():
    async def main() -> None:
        left = workflow.child(other, parent_close="abandon")("a")
        ended = workflow.child(other, parent_close="terminate")("b")
        await asyncio.sleep(1)
        left.cancel()  # type: ignore[attr-defined]
        ended.cancel()  # type: ignore[attr-defined]

    rig = Rig(main)
    rig.start()
    rig.posted.clear()
    rig.turn(after_ms=1_000)
    assert [(m.to, type(m.body).__name__) for m in rig.posted] == [(named(2), "Terminate")]


def test_a_late_answer_to_cancelled_work_is_dropped():
    async def main() -> str:
        return await _cancel_at(1, lambda: greet("ann"))

    rig = Rig(main)
    rig.start()
    rig.turn(after_ms=1_000)
    turn = rig.turn(done(1, "too late"))
    assert (rig.events, turn.commit) == ([], None)
    rig.reload()
    rig.turn(done(1, "too late"), done(3, "end"))
    assert rig.result == "end"


def test_cancelling_twice_is_recorded_once():
    async def main() -> tuple[bool, bool]:
        work: Any = greet("ann")
        await asyncio.sleep(1)
        return work.cancel(), work.cancel()

    rig = Rig(main)
    rig.start()
    turn = rig.turn(after_ms=1_000)
    assert (rig.result, [c.seq for c in turn.cancelled]) == ([True, False], [1])
    assert rig.kinds() == ["TimerFired", "CommandCancelled", "Completed"]


def test_a_cancelled_wait_takes_no_event_from_the_next_one():
    async def main() -> str:
        first = asyncio.create_task(workflow.wait_event("go", str))
        await asyncio.sleep(0)
        first.cancel()
        return await workflow.wait_event("go", str)

    rig = Rig(main)
    rig.start()
    rig.turn(msg.Raise("go", encode("now")))
    assert rig.result == "now"


# ---------------------------------------------------------------- when the decision changes


async def _gives_up() -> str:
    work: Any = greet("ann")
    await asyncio.sleep(1)
    work.cancel()
    return await greet("after")


async def _keeps() -> str:
    _ = greet("ann")
    await asyncio.sleep(1)
    return await greet("after")


GIVEN_UP = [
    started(),
    called(1, "ann"),
    timer(2),
    fired(2),
    ev.CommandCancelled(1),
    called(3, "after"),
]
KEPT = [started(), called(1, "ann"), timer(2), fired(2), called(3, "after")]


def test_the_same_decision_again_is_no_news():
    rig = Rig(_gives_up).store(*GIVEN_UP)
    turn = rig.turn()
    assert (rig.events, list(turn.cancelled)) == ([], [])
    rig.turn(done(3, "end"))
    assert rig.result == "end"


def test_code_that_no_longer_cancels_does_not_fit():
    rig = Rig(_keeps).store(*GIVEN_UP)
    assert "the journal has the cancellation of command 1" in rig.held.message
    assert "the code did a call of activity 'greet'" in rig.held.message


def test_code_that_cancels_in_addition_does_not_fit():
    rig = Rig(_gives_up).store(*KEPT)
    assert "the code did the cancellation of command 1" in rig.held.message


def test_a_new_cancellation_after_the_journal_is_new():
    async def main() -> None:
        first, second = greet("a"), greet("b")
        await asyncio.sleep(1)
        first.cancel()  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        second.cancel()  # type: ignore[attr-defined]
        await approved.receive()

    journal = [
        started(),
        called(1, "a"),
        called(2, "b"),
        timer(3),
        fired(3),
        ev.CommandCancelled(1),
        timer(4, 2_000),
    ]
    rig = Rig(main).store(*journal)
    turn = rig.turn(after_ms=2_000)
    assert rig.events == [fired(4, 2_000), ev.CommandCancelled(2), waits(5, "approved")]
    assert [c.seq for c in turn.cancelled] == [2]


@pytest.mark.parametrize("command", [called(1, "ann"), child(1, "x")], ids=["activity", "child"])
def test_a_cancellation_that_stands_twice_does_not_fit(command: ev.Event):
    make = (
        (lambda: greet("ann"))
        if isinstance(command, ev.ActivityScheduled)
        else (lambda: other("x"))
    )

    async def main() -> str:
        return await _cancel_at(0, make)

    rig = Rig(main).store(
        started(), command, ev.CommandCancelled(1), ev.CommandCancelled(1), called(2, "after")
    )
    assert "the journal has the cancellation of command 1" in rig.held.message
    assert rig.now == T0
