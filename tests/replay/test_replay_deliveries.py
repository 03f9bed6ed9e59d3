"""What the code is told: live as a message, on a load from the journal; once, in order, and only what it waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from replay.harness import (
    RUN,
    T0,
    Rig,
    broke,
    called,
    child,
    done,
    empty,
    failed,
    finished,
    fired,
    greet,
    other,
    replied,
    started,
    timer,
    waits,
)

from perdure import ActivityError, workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg

approved = workflow.Channel[str]("approved")


async def _activity() -> str:
    return await greet("ann")


async def _sleeper() -> str:
    await asyncio.sleep(1)
    return "woke"


async def _listener() -> str:
    return await workflow.wait_event("go", str)


async def _receiver() -> str:
    return await approved.receive()


async def _parent() -> str:
    return await other("x")


async def _forgiving() -> str:
    try:
        return await greet("ann")
    except ActivityError as error:
        return f"{type(error).__name__}: {error.failure.type}"


KINDS: dict[str, tuple[Any, ev.Event, msg.Body | None, ev.Event, str]] = {
    "activity": (_activity, called(1, "ann"), done(1, "hi"), finished(1, "hi", at=5), "hi"),
    "failed activity": (
        _forgiving,
        called(1, "ann"),
        broke(1),
        failed(1),
        "ActivityError: ValueError",
    ),
    "timer": (_sleeper, timer(1, 5), None, fired(1, 5), "woke"),
    "event": (
        _listener,
        waits(1, "go", positional=True),
        msg.Raise("go", encode("now")),
        ev.EventRaised(1, T0 + 5, "go", encode("now")),
        "now",
    ),
    "message": (
        _receiver,
        waits(1, "approved"),
        msg.Send("approved", encode("yes")),
        ev.Received(1, T0 + 5, (1).to_bytes(16), encode("yes")),
        "yes",
    ),
    "child": (_parent, child(1, "x"), replied(1, "x"), ev.Replied(1, T0 + 5, encode("x")), "x"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_message_becomes_an_event_and_the_code_goes_on(name: str):
    fn, command, body, event, result = KINDS[name]
    rig = Rig(fn).store(started(), command)
    rig.turn(*([body] if body is not None else []), after_ms=5)
    if isinstance(event, ev.ActivityFailed):
        event.at = T0 + 5
    assert rig.events == [event, ev.Completed(T0 + 5, encode(result))]
    assert rig.result == result


@pytest.mark.parametrize("name", KINDS)
def test_a_recorded_answer_is_given_again_on_a_load(name: str):
    fn, command, _, event, result = KINDS[name]
    rig = Rig(fn).store(started(), command, event)
    rig.turn()
    assert rig.kinds() == ["Completed"]
    assert rig.result == result


# ---------------------------------------------------------------- answers that nobody waits for


def test_an_answer_counts_once_over_turns():
    async def main() -> list[str]:
        return [await greet("ann"), await greet("bob")]

    rig = Rig(main)
    rig.start()
    rig.turn(done(1, "first"))
    turn = rig.turn(done(1, "second"))
    assert (rig.events, turn.commit) == ([], None)
    rig.reload()
    rig.turn(done(1, "third"), done(2, "bob"))
    assert rig.result == ["first", "bob"]


def test_an_answer_counts_once_within_a_turn():
    async def main() -> list[str]:
        return [await greet("ann"), await greet("bob")]

    rig = Rig(main)
    rig.start()
    rig.turn(done(1, "first"), done(1, "second"))
    assert rig.kinds() == ["ActivityCompleted", "ActivityScheduled"]
    assert rig.answers == ["ok", "ok"], "the worker that is late need not try again"


@pytest.mark.parametrize(
    "stray",
    [
        done(1, "x", execution=2),
        done(1, "x", run=b"o" * 16),
        done(1, "x", attempt=2),
        done(9, "x"),
        broke(9),
        replied(9, "x"),
        msg.CheckpointDone(RUN, 1, 9, encode(1)),
    ],
    ids=["execution", "run", "attempt", "number", "failure", "reply", "checkpoint"],
)
def test_an_answer_for_something_else_is_dropped(stray: msg.Body):
    rig = Rig(_activity)
    rig.start()
    turn = rig.turn(stray)
    assert (rig.events, turn.commit, rig.answers) == ([], None, ["ok"])
    rig.turn(done(1, "hi"))
    assert rig.result == "hi"


@pytest.mark.parametrize(
    "wrong",
    [replied(1, "x"), msg.CheckpointDone(RUN, 1, 1, encode(1))],
    ids=["reply", "checkpoint"],
)
def test_an_answer_of_another_kind_is_dropped(wrong: msg.Body):
    rig = Rig(_activity)
    rig.start()
    rig.turn(wrong)
    assert rig.events == []
    rig.turn(done(1, "hi"))
    assert rig.result == "hi"


@pytest.mark.parametrize(
    "wrong", [done(1, "x"), broke(1), msg.CheckpointDone(RUN, 1, 1, encode(1))]
)
@pytest.mark.parametrize("fn", [_sleeper, _parent, _receiver])
def test_an_activity_result_for_a_timer_a_child_or_a_wait_is_dropped(fn: Any, wrong: msg.Body):
    rig = Rig(fn)
    rig.start()
    rig.turn(wrong)
    assert (rig.events, rig.status) == ([], "running")


# ---------------------------------------------------------------- events and messages


def test_an_event_that_nobody_waits_for_is_recorded_and_lost():
    rig = Rig(_activity)
    rig.start()
    rig.turn(msg.Raise("go", encode(1)))
    assert rig.events == [ev.EventRaised(0, T0, "go", encode(1))]
    rig.reload()
    rig.turn(done(1, "hi"))
    assert rig.result == "hi"


def test_a_message_that_nobody_waits_for_stays_in_the_inbox():
    async def main() -> str:
        await greet("ann")
        return await approved.receive()

    rig = Rig(main)
    rig.start()
    rig.turn(msg.Send("approved", encode("early")))
    assert (rig.events, len(rig.inbox), rig.answers) == ([], 1, ["ok"])
    rig.reload()
    rig.turn(done(1, "hi"))
    assert (rig.result, rig.inbox) == ("early", {})


def test_equal_events_are_all_recorded_and_the_first_is_taken():
    rig = Rig(_two_events)
    rig.start()
    rig.turn(
        msg.Raise("go", encode("a")), msg.Raise("go", encode("a")), msg.Raise("go", encode("b"))
    )
    assert [e.seq for e in rig.events if isinstance(e, ev.EventRaised)] == [1, 0, 0]
    rig.reload()
    rig.turn(done(2, "hi"))
    rig.turn(msg.Raise("go", encode("c")))
    assert rig.result == ["a", "c"]


async def _two_events() -> list[str]:
    first = await workflow.wait_event("go", str)
    await greet("ann")
    return [first, await workflow.wait_event("go", str)]


def test_a_recorded_event_that_equals_another_is_replayed_as_it_was():
    journal = [
        started(),
        waits(1, "go", positional=True),
        ev.EventRaised(1, T0, "go", encode("a")),
        called(2, "ann"),
        ev.EventRaised(0, T0, "go", encode("a")),
        finished(2, "hi"),
        waits(3, "go", positional=True),
    ]
    rig = Rig(_two_events).store(*journal)
    rig.turn(msg.Raise("go", encode("a")))
    assert rig.result == ["a", "a"]


@pytest.mark.parametrize(
    "value", ["", b"", None, [], "x" * 1_000_000], ids=["str", "bytes", "None", "list", "large"]
)
def test_any_size_of_value_travels(value: object):
    async def main() -> Any:
        return await workflow.wait_event("go", object)

    rig = Rig(main)
    rig.start()
    rig.turn(msg.Raise("go", encode(value)))
    assert rig.result == value


def test_a_large_result_travels():
    rig = Rig(_activity)
    rig.start()
    rig.turn(done(1, "x" * 1_000_000))
    assert len(rig.result) == 1_000_000


def test_an_activity_without_arguments_gets_an_empty_list():
    async def main() -> None:
        await empty()

    rig = Rig(main)
    rig.start()
    assert rig.events[1] == called(1, name="empty")
    rig.turn(done(1, None))
    assert rig.result is None


# ---------------------------------------------------------------- several answers


def test_several_answers_in_one_turn_are_told_in_their_order():
    order: list[str] = []

    async def one(name: str) -> None:
        order.append(await greet(name))

    async def main() -> list[str]:
        order.clear()
        await asyncio.gather(one("a"), one("b"), one("c"))
        return list(order)

    rig = Rig(main)
    rig.start()
    rig.turn(done(3, "C"), done(1, "A"), done(2, "B"))
    assert rig.result == ["C", "A", "B"]
    assert [e.seq for e in rig.events if isinstance(e, ev.ActivityCompleted)] == [3, 1, 2]


def test_a_timer_that_came_due_before_a_message_is_told_first():
    async def main() -> int:
        index, _ = await workflow.select(greet("ann"), asyncio.sleep(1))
        return index

    rig = Rig(main)
    rig.start()
    late = rig.message(done(1, "hi"))
    late.at = T0 + 1_500
    rig.now = T0 + 2_000
    rig._advance([late])
    assert rig.result == 1


@pytest.mark.parametrize("finished_steps", [0, 1, 2])
def test_sequential_steps_go_on_where_the_journal_ends(finished_steps: int):
    async def main() -> list[str]:
        return [await greet("ann"), await greet("bob")]

    journal = [started(), called(1, "ann"), finished(1, "A"), called(2, "bob"), finished(2, "B")]
    rig = Rig(main).store(*journal[: 2 + 2 * finished_steps])
    for seq in range(finished_steps + 1, 3):
        rig.turn(done(seq, "AB"[seq - 1]))
    rig.turn()
    assert rig.result == ["A", "B"]


def test_identical_calls_are_told_apart_by_number():
    async def main() -> list[str]:
        return list(await asyncio.gather(greet("x"), greet("x")))

    rig = Rig(main).store(
        started(), called(1, "x"), called(2, "x"), finished(2, "second"), finished(1, "first")
    )
    rig.turn()
    assert rig.result == ["first", "second"]


def test_identical_calls_are_told_apart_across_a_restart():
    async def main() -> list[str]:
        return [await greet("x"), await greet("x")]

    rig = Rig(main)
    rig.start()
    rig.turn(done(1, "first"))
    rig.reload()
    rig.turn(done(1, "late"), done(2, "second"))
    assert rig.result == ["first", "second"]


async def _activity_then_timer() -> str:
    text = await greet("ann")
    await asyncio.sleep(1)
    return text


async def _timer_then_activity() -> str:
    await asyncio.sleep(1)
    return await greet("ann")


def test_an_activity_then_a_timer():
    rig = Rig(_activity_then_timer).store(started(), called(1, "ann"))
    turn = rig.turn(done(1, "hi"), after_ms=500)
    assert rig.events[1:] == [timer(2, 1_500)]
    assert turn.wake_at == T0 + 1_500
    rig.turn(after_ms=999)
    assert rig.events == []
    rig.turn(after_ms=1)
    assert rig.result == "hi"


def test_a_timer_then_an_activity():
    rig = Rig(_timer_then_activity).store(started(), timer(1))
    rig.turn(after_ms=1_000)
    assert rig.events == [fired(1), called(2, "ann")]
    rig.turn(done(2, "hi"))
    assert rig.result == "hi"


def test_many_sequential_steps():
    async def main() -> int:
        total = 0
        for n in range(200):
            total += len(await greet(str(n)))
        return total

    rig = Rig(main)
    rig.start()
    rig._replay_all = lambda: (
        None
    )  # a replay per turn would be quadratic; one in the middle and one at the end suffice
    for seq in range(1, 201):
        if seq == 100:
            rig.reload()
        rig.turn(done(seq, "xx"))
    assert rig.result == 400
    assert len(rig.history) == 2 + 2 * 200
    with rig.cold() as run:
        assert (run.broken, run.ended) == (None, rig.history[-1])


# ---------------------------------------------------------------- how often the code runs


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_sleep_of_no_time_is_no_event(seconds: float):
    async def main() -> str:
        await asyncio.sleep(seconds)
        await workflow.sleep(0)
        return "done"

    rig = Rig(main)
    rig.start()
    assert rig.kinds() == ["Started", "Completed"]


def test_the_function_is_called_once_while_it_stays_in_memory():
    calls: list[int] = []

    async def main() -> str:
        calls.append(1)
        return await greet("ann") + await greet("bob")

    rig = Rig(main)
    rig._replay_all = lambda: None  # it calls the function, too
    rig.start()
    rig.turn(done(1, "a"))
    rig.turn(done(2, "b"))
    assert (rig.result, calls) == ("ab", [1])


def test_the_function_is_called_once_per_load():
    calls: list[int] = []

    async def main() -> str:
        calls.append(1)
        return await greet("ann") + await greet("bob")

    rig = Rig(main)
    rig._replay_all = lambda: None
    rig.store(started(), called(1, "ann"), finished(1, "a"), called(2, "bob"))
    assert calls == [1]
    rig.turn(done(2, "b"))
    assert (rig.result, calls) == ("ab", [1])


def test_a_turn_adds_to_what_the_journal_has():
    rig = Rig(_activity_then_timer).store(started(), called(1, "ann"))
    turn = rig.turn(done(1, "hi"))
    assert turn.commit is not None
    assert [(c.first, c.count) for c in turn.commit.journal] == [(3, 2)]
    assert rig.history == [started(), called(1, "ann"), finished(1, "hi"), timer(2)]
    assert turn.commit.row.journal_events == 4
