"""Journals that no run of ours would write: refused with the instance's id, or read as they are; never half."""

from __future__ import annotations

from typing import Any

import pytest
from replay.harness import (
    ID,
    T0,
    Rig,
    called,
    done,
    finished,
    greet,
    other,
    started,
    timer,
    waits,
)

from perdure import workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import JournalChunk
from perdure.kernel.data.loaded import Loaded


async def _activity() -> str:
    return await greet("ann")


def expect_undecodable(rig: Rig, what: str) -> None:
    turn = rig.turn(msg.Send("c", encode(1)))
    assert (rig.status, rig.row.reason if rig.row else None) == ("suspended", "undecodable")
    assert repr(ID) in rig.held.message
    assert what in rig.held.message
    assert (
        "run that one, or restore the store from a backup. Then retry the instance"
        in rig.held.message
    )
    assert (rig.events, turn.calls, len(rig.inbox)) == ([], [], 1), (
        "the message is kept, nothing else happens"
    )


@pytest.mark.parametrize(
    "journal",
    [[], [called(1, "ann")], [called(1, "ann"), started()], [finished(1, "x"), started()]],
    ids=["empty", "no start", "start is second", "answer before the start"],
)
def test_a_journal_that_does_not_begin_with_its_start_is_refused(journal: list[ev.Event]):
    expect_undecodable(Rig(_activity).store(*journal), "it does not begin with a start")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not msgpack",
        ev.encode_events([started()])[:-3],
        b"\x91\x92\x63\x01",
        b"\x91\xc0",
    ],
)
def test_a_journal_that_is_no_data_of_ours_is_refused(data: bytes):
    rig = Rig(_activity).store(started(), called(1, "ann"))
    rig.unit = rig._new_unit()
    assert rig.row is not None
    rig.unit.load(Loaded(ID, rig.version, rig.row, [JournalChunk(1, 1, 2, data)]))
    expect_undecodable(rig, "cannot be read: ")


def test_a_second_start_is_reported():
    rig = Rig(_activity).store(started(), called(1, "ann"), started())
    rig.turn()
    assert (rig.status, rig.events) == ("suspended", [])


SCHEDULED_TWICE = [called(1, "ann"), timer(1), waits(1, "go", positional=True)]


@pytest.mark.parametrize("command", SCHEDULED_TWICE, ids=lambda c: type(c).__name__)
def test_a_command_that_stands_twice_is_reported(command: ev.Event):
    import asyncio

    async def main() -> None:
        if isinstance(command, ev.ActivityScheduled):
            await greet("ann")
        elif isinstance(command, ev.TimerStarted):
            await asyncio.sleep(1)
        else:
            await workflow.wait_event("go", str)

    rig = Rig(main).store(started(), command, command)
    rig.turn()
    assert (rig.status, rig.events) == ("suspended", [])
    assert rig.held.type == "NondeterminismError"


@pytest.mark.parametrize("seq", [0, 2, 99, 2**40])
def test_a_number_that_the_code_would_not_give_is_reported(seq: int):
    rig = Rig(_activity).store(started(), called(seq, "ann"))
    rig.turn()
    assert (rig.status, rig.held.type) == ("suspended", "NondeterminismError")


NAMES = ["ünïcødé", "日本語", "a" * 200, "a.b:c-d/e_f"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_that_can_be_given_can_be_replayed(name: str):
    from perdure import App

    async def fn() -> str:
        return name

    odd = App("odd").activity(name=name)(fn)

    async def main() -> str:
        return await odd()

    rig = Rig(main)
    rig.app._activities[name] = odd.definition
    rig.store(started(), called(1, name=name))
    rig.turn(done(1, "x"))
    assert rig.result == "x"


TEXTS = ["", "\x00\x01\n\t", "\U0001f600" * 10, "'\"\\{}%s", "x" * 100_000, "\u202e\u200b"]


@pytest.mark.parametrize("text", TEXTS, ids=["empty", "control", "emoji", "quotes", "long", "bidi"])
def test_any_text_can_be_an_argument_and_a_result(text: str):
    async def main() -> str:
        return await greet(text)

    rig = Rig(main).store(started(), called(1, text), finished(1, text))
    rig.turn()
    assert rig.result == text


def test_an_event_recorded_before_anybody_waited_is_not_delivered():
    async def main() -> str:
        await greet("ann")
        return await workflow.wait_event("go", str)

    early = ev.EventRaised(0, T0, "go", encode("early"))
    rig = Rig(main).store(
        started(), called(1, "ann"), early, finished(1, "hi"), waits(2, "go", positional=True)
    )
    rig.turn()
    assert (rig.events, rig.status) == ([], "running")
    rig.turn(msg.Raise("go", encode("in time")))
    assert rig.result == "in time"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_the_row_of_an_instance_that_has_ended_is_believed_whatever_its_journal(end: Any):
    """Also with no journal, several ends, or events after the end: it is not read."""
    journals: list[list[ev.Event]] = [
        [],
        [started(), ev.Completed(T0, encode(1)), ev.Completed(T0, encode(2))],
        [started(), ev.Completed(T0, encode(1)), called(1, "late"), finished(1, "later")],
    ]
    for journal in journals:
        rig = Rig(_activity).store(*journal, status=end)
        turn = rig.turn(msg.Cancel("late"))
        assert (rig.answers, turn.commit, rig.status) == (["closed"], None, end)


@pytest.mark.parametrize(
    "after", [called(1, "late"), finished(1, "later"), ev.Completed(T0, encode(2)), timer(1)]
)
def test_events_after_an_end_are_reported_when_the_row_says_that_it_runs(after: ev.Event):
    async def main() -> int:
        return 1

    rig = Rig(main).store(started(), ev.Completed(T0, encode(1)), after)
    rig.turn()
    assert (rig.status, rig.events) == ("suspended", [])


@pytest.mark.parametrize("recorded", ["completed", "failed", "continued"])
def test_an_end_that_differs_from_that_of_the_code_is_reported(recorded: str):
    async def main() -> str:
        await greet("ann")
        await other("x")
        return "x"

    ends: dict[str, ev.Event] = {
        "completed": ev.Completed(T0, encode(1)),
        "failed": ev.Failed(T0, done_failure()),
        "continued": ev.ContinuedAsNew(T0, encode([]), None),
    }
    rig = Rig(main).store(started(), called(1, "ann"), finished(1, "hi"), ends[recorded])
    rig.turn()
    assert (rig.status, rig.held.type) == ("suspended", "NondeterminismError")


def done_failure() -> Any:
    from replay.harness import failure_of_app

    return failure_of_app()
