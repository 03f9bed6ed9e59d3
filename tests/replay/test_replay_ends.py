"""How a run ends: cancelled, failed, terminated; and what the code may still do about it."""

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
    done,
    failure_of_app,
    finished,
    greet,
    named,
    other,
    replied,
    started,
)

from perdure import ActivityError, ApplicationError, ChildError
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg


async def _activity() -> str:
    return await greet("ann")


async def _cleans_up() -> str:
    try:
        return await greet("ann")
    finally:
        await greet("bye")


async def _carries_on() -> str:
    try:
        return await greet("ann")
    except asyncio.CancelledError:
        return "as far as I came"


# ---------------------------------------------------------------- cancelled


def test_a_cancel_reaches_the_code_and_its_work():
    rig = Rig(_activity)
    rig.start()
    turn = rig.turn(msg.Cancel("enough"))
    assert rig.kinds() == ["CancelRequested", "CommandCancelled", "Cancelled"]
    assert (rig.status, rig.failure.type, rig.failure.message) == (
        "cancelled",
        "CancelledError",
        "enough",
    )
    assert rig.failure.category == "cancelled"
    assert [c.seq for c in turn.cancelled] == [1]


def test_a_cancel_in_the_journal_is_replayed_with_its_cleanup():
    journal = [
        started(),
        called(1, "ann"),
        ev.CancelRequested(T0, "enough"),
        ev.CommandCancelled(1),
        called(2, "bye"),
    ]
    rig = Rig(_cleans_up).store(*journal)
    turn = rig.turn()
    assert (rig.status, [c.seq for c in turn.calls]) == ("running", [2])
    rig.turn(done(2, "bye bye"))
    assert (rig.kinds(), rig.status) == (["ActivityCompleted", "Cancelled"], "cancelled")


def test_a_cancel_without_its_outcome_is_carried_out_on_a_load():
    rig = Rig(_activity).store(started(), called(1, "ann"), ev.CancelRequested(T0, "enough"))
    rig.turn()
    assert (rig.kinds(), rig.status) == (["CommandCancelled", "Cancelled"], "cancelled")


def test_a_cancel_beats_an_answer_of_the_same_turn():
    rig = Rig(_activity)
    rig.start()
    rig.turn(done(1, "hi"), msg.Cancel("enough"))
    assert (rig.status, rig.answers) == ("cancelled", ["closed", "ok"])


def test_a_cancel_is_recorded_once():
    rig = Rig(_cleans_up)
    rig.start()
    rig.turn(msg.Cancel("one"), msg.Cancel("two"))
    rig.turn(msg.Cancel("three"))
    assert [e.reason for e in rig.history if isinstance(e, ev.CancelRequested)] == ["one"]
    rig.turn(done(2, "bye"))
    assert rig.failure.message == "one"


def test_a_cancel_that_came_before_the_first_turn_needs_no_code():
    ran: list[int] = []

    async def main() -> None:
        ran.append(1)

    rig = Rig(main)
    start = msg.Message(RUN, "w", msg.Start("main", None, encode([])), T0, T0 + 60_000)
    rig._advance([start])
    assert (rig.status, rig.row.reason if rig.row else "") == ("pending", "delayed")
    rig.turn(msg.Cancel("never mind"))
    assert (rig.status, rig.failure.message, ran) == ("cancelled", "never mind", [])


def test_an_output_after_a_caught_cancel_counts():
    rig = Rig(_carries_on)
    rig.start()
    rig.turn(msg.Cancel("enough"))
    assert rig.result == "as far as I came"


def test_a_cancel_beats_continue_as_new():
    from perdure import workflow

    async def main() -> None:
        try:
            await greet("ann")
        except asyncio.CancelledError:
            workflow.continue_as_new(rig.definition)

    rig = Rig(main)
    rig.start()
    rig.turn(msg.Cancel("enough"))
    assert (rig.status, list(rig.journals)) == ("cancelled", [1])


def test_terminate_does_not_ask_the_code():
    cleaned: list[int] = []

    async def main() -> None:
        try:
            await greet("ann")
        finally:
            cleaned.append(1)

    rig = Rig(main)
    rig.start()
    turn = rig.turn(msg.Terminate("now"))
    assert rig.events == [ev.Terminated(T0, "now")]
    assert (rig.status, rig.failure.type, rig.failure.message, cleaned) == (
        "cancelled",
        "Terminated",
        "now",
        [],
    )
    assert [c.seq for c in turn.cancelled] == [1]


# ---------------------------------------------------------------- failed


def test_an_error_of_an_activity_reaches_the_code():
    async def main() -> tuple[str, str, bool]:
        try:
            return await greet("ann"), "", True
        except ActivityError as error:
            return str(error), error.failure.type, error.retryable

    rig = Rig(main)
    rig.start()
    rig.turn(broke(1, failure_of_app("CardDeclined", "no funds", retryable=False)))
    assert rig.result == [
        "activity 'greet' failed after 1 attempt: CardDeclined: no funds",
        "CardDeclined",
        False,
    ]


@pytest.mark.parametrize("category", ["application", "configuration", "infrastructure", "poison"])
def test_an_error_that_nobody_catches_fails_the_run_and_keeps_its_category(category: Any):
    rig = Rig(_activity)
    rig.start()
    rig.turn(broke(1, failure_of_app("Broken", "no disk", category=category, retryable=False)))
    assert (rig.status, rig.failure.type, rig.failure.category) == (
        "failed",
        "ActivityError",
        category,
    )
    assert "no disk" in rig.failure.message
    assert rig.failure.causes == (("Broken", "no disk"),)


@pytest.mark.parametrize("category", ["configuration", "infrastructure"])
def test_the_code_may_catch_an_error_of_any_category(category: Any):
    async def main() -> str:
        try:
            return await greet("ann")
        except ActivityError as error:
            return error.failure.category

    rig = Rig(main)
    rig.start()
    rig.turn(broke(1, failure_of_app("Broken", "no disk", category=category)))
    assert rig.result == category


async def _parent() -> str:
    return await other("x")


async def _careful_parent() -> str:
    try:
        return await other("x")
    except ChildError as error:
        return f"{error.failure.type}: {error}"


@pytest.mark.parametrize("category", ["application", "infrastructure"])
def test_an_error_of_a_child_fails_its_parent(category: Any):
    rig = Rig(_parent)
    rig.start()
    rig.turn(replied(1, failure=failure_of_app("Broken", "no disk", category=category)))
    assert (rig.status, rig.failure.type, rig.failure.category) == (
        "failed",
        "ChildError",
        category,
    )
    assert f"child workflow 'other' (id {named(1)!r}) failed" in rig.failure.message


def test_the_parent_may_catch_an_error_of_a_child():
    rig = Rig(_careful_parent)
    rig.start()
    rig.turn(replied(1, failure=failure_of_app("Broken", "no disk")))
    assert rig.result == f"Broken: child workflow 'other' (id {named(1)!r}) failed: Broken: no disk"


class Unusual(BaseException):
    """Neither an Exception nor one of those that asyncio treats as special."""


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("boom"), "RuntimeError", "boom"),
        (KeyError("k"), "KeyError", "'k'"),
        (ApplicationError("too late", type="Expired", retryable=False), "Expired", "too late"),
        (Unusual("odd"), "Unusual", "odd"),
        (SystemExit(3), "SystemExit", "3"),
        (GeneratorExit(), "GeneratorExit", ""),
        (
            ExceptionGroup("two", [ValueError("a"), TypeError("b")]),
            "ExceptionGroup",
            "two (2 sub-exceptions)",
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
@pytest.mark.parametrize("after_an_activity", [False, True])
def test_whatever_the_code_raises_fails_the_run(
    error: BaseException, kind: str, text: str, after_an_activity: bool
):
    async def main() -> None:
        if after_an_activity:
            await greet("ann")
        raise error

    rig = Rig(main)
    rig.start()
    if after_an_activity:
        rig.turn(done(1, "hi"))
    assert (rig.status, rig.failure.type, rig.failure.message) == ("failed", kind, text)
    assert rig.kinds()[-1] == "Failed"


def test_an_error_in_a_task_that_nobody_awaits_does_not_fail_the_run():
    async def bad() -> None:
        raise ValueError("unseen")

    async def main() -> str:
        task = asyncio.create_task(bad())
        text = await greet("ann")
        assert task.done()
        return text

    rig = Rig(main)
    rig.start()
    rig.turn(done(1, "hi"))
    assert rig.result == "hi"


# ---------------------------------------------------------------- after the end


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
@pytest.mark.parametrize(
    "body",
    [
        msg.Cancel("late"),
        msg.Terminate("late"),
        done(1, "x"),
        msg.Send("c", encode(1)),
        msg.Raise("e", encode(1)),
    ],
    ids=lambda b: type(b).__name__,
)
def test_an_instance_that_has_ended_stays_as_it_is(status: str, body: msg.Body):
    ran: list[int] = []

    async def main() -> None:
        ran.append(1)

    rig = Rig(main).store(
        started(), ev.Completed(T0, encode(None)), finished(1, "late"), status=status
    )
    turn = rig.turn(body)
    assert (rig.events, turn.commit, rig.answers, ran) == ([], None, ["closed"], [])
    assert rig.status == status
    assert turn.closed


def test_after_continue_as_new_only_the_new_execution_is_told():
    from perdure import workflow

    async def main(n: int) -> str:
        if n == 0:
            await greet("ann")
            workflow.continue_as_new(rig.definition, 1)
        return await greet("bob")

    rig = Rig(main)
    rig.start(0)
    rig.turn(done(1, "A"))
    rig.turn()
    rig.turn(done(1, "of the old execution"))
    assert rig.status == "running"
    rig.turn(done(1, "B", execution=2))
    assert rig.result == "B"
