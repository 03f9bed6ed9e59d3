"""What was refused at the call is refused again in a replay; what was accepted is accepted, whatever the limits now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from typing import Any

import pytest
from replay.harness import (
    T0,
    Rig,
    called,
    done,
    failure_of_app,
    greet,
    other,
    refused,
    render,
    started,
)

from perdure import App, ApplicationError, Limits, PerdureError, workflow
from perdure.codec import encode
from perdure.errors import PayloadTooLarge
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg

LIMITS = Limits(
    payload_bytes=250, kv_keys=1, kv_value_bytes=10, kv_key_bytes=5, status_bytes=10, attributes=1
)
LONG = "x" * 300
anything: Any = greet
child_of_anything: Any = other


@App("next").workflow(name="main")
async def following(text: str = "") -> str:
    return text


continued: Any = following
numbers = workflow.Channel[int]("numbers")
any_number: Any = numbers


@dataclass
class Item:
    n: int


MIXED: list[Any] = [1, Item(1)]

REFUSED: dict[str, tuple[Callable[[], Any], type[ev.Event], str, str, str]] = {
    "type of an argument": (
        lambda: anything(123),
        ev.ActivityScheduled,
        "greet",
        "EncodeError",
        "argument 'name' of activity 'greet'",
    ),
    "size of an argument": (
        lambda: greet(LONG),
        ev.ActivityScheduled,
        "greet",
        "PayloadTooLarge",
        "the input of activity 'greet' has 305 bytes; the limit is 250",
    ),
    "type for a child": (
        lambda: child_of_anything(123),
        ev.CallStarted,
        "other",
        "EncodeError",
        "argument 'text' of workflow 'other'",
    ),
    "size for a child": (
        lambda: other(LONG),
        ev.CallStarted,
        "other",
        "PayloadTooLarge",
        "the input of workflow 'other' has 305 bytes; the limit is 250",
    ),
    "type for a detached one": (
        lambda: child_of_anything.detach(123),
        ev.CallStarted,
        "other",
        "EncodeError",
        "argument 'text' of workflow 'other'",
    ),
    "size for a detached one": (
        lambda: other.detach(LONG),
        ev.CallStarted,
        "other",
        "PayloadTooLarge",
        "the input of workflow 'other' has 305 bytes",
    ),
    "type for a detached activity": (
        lambda: anything.detach(123),
        ev.CallStarted,
        "perdure:activity",
        "EncodeError",
        "argument 'name' of activity 'greet'",
    ),
    "KV value": (
        lambda: workflow.kv.set("a", LONG),
        ev.KvSet,
        "a",
        "LimitExceeded",
        "the value of KV key 'a' has 304 bytes; the limit is 10",
    ),
    "KV key": (
        lambda: workflow.kv.set("abcdef", 1),
        ev.KvSet,
        "abcdef",
        "LimitExceeded",
        "the KV key 'abcdef' is longer than 5 bytes",
    ),
    "KV key that no database takes": (
        lambda: workflow.kv.set("a\0", 1),
        ev.KvSet,
        "a\0",
        "UsageError",
        "'a\\x00' cannot be a KV key",
    ),
    "status": (
        lambda: workflow.set_status(LONG),
        ev.StatusSet,
        "",
        "LimitExceeded",
        "the custom status has 304 bytes; the limit is 10",
    ),
    "attributes": (
        lambda: workflow.set_attributes({"a": 1, "b": 2}),
        ev.AttributesSet,
        "",
        "LimitExceeded",
        "there would be 2 search attributes",
    ),
    "size of a message": (
        lambda: workflow.send("other-1", "c", LONG),
        ev.MessageSent,
        "c",
        "PayloadTooLarge",
        "the message for channel 'c' has 304 bytes",
    ),
    "type of a message": (
        lambda: workflow.send("other-1", any_number, "one"),
        ev.MessageSent,
        "numbers",
        "EncodeError",
        "message of channel 'numbers'",
    ),
    "size of a value": (
        lambda: workflow.value("v", LONG),
        ev.ValueRecorded,
        "v",
        "PayloadTooLarge",
        "the value 'v' has 304 bytes",
    ),
    "value of no clear type": (
        lambda: workflow.value("v", MIXED),
        ev.ValueRecorded,
        "v",
        "UsageError",
        "value 'v' does not tell its type: [1]: Item would come back as dict; give the type",
    ),
    "value of another type": (
        lambda: workflow.value("v", MIXED, type=list[int]),
        ev.ValueRecorded,
        "v",
        "EncodeError",
        "value 'v' at '[1]'",
    ),
    "arguments of the next execution": (
        lambda: workflow.continue_as_new(continued, LONG),
        ev.ContinuedAsNew,
        "",
        "PayloadTooLarge",
        "the input of workflow 'main' has 305 bytes",
    ),
    "type of an argument of the next execution": (
        lambda: workflow.continue_as_new(continued, 1),
        ev.ContinuedAsNew,
        "",
        "EncodeError",
        "argument 'text' of workflow 'main'",
    ),
    "time of a sleep": (
        lambda: asyncio.get_running_loop().call_later(9e11, print),
        ev.TimerStarted,
        "",
        "UsageError",
        "a timer cannot fire after the year 9999",
    ),
}
"""What is refused by limits and declared types, which may be others in a replay: it is recorded."""

NOT_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "value that is not data": (lambda: anything(object()), "argument 'name' of activity 'greet'"),
    "missing argument": (lambda: anything(), "missing a required argument: 'name'"),
    "KV value that is not data": (lambda: workflow.kv.set("a", object()), "object"),
    "id of a message": (lambda: workflow.send("", "c", 1), "an id must not be empty"),
    "name of a value": (lambda: workflow.value("a\nb", 1), "cannot be the name of a value"),
    "value that cannot be recorded": (lambda: workflow.value("a", object()), "object"),
    "name of a patch": (lambda: workflow.patched(""), "'' cannot be the name of a patch"),
    "id of a child": (lambda: workflow.child(other, id="a\nb")("x"), "holds a control character"),
    "no time at all": (lambda: asyncio.get_running_loop().call_later(nan, print), "is NaN"),
}
"""What is refused by the value alone: the same code refuses it again, so nothing is recorded."""


def _catching(attempt: Callable[[], Any]) -> Callable[..., Any]:
    async def main(text: str = "") -> str:
        try:
            result = attempt()
            if asyncio.isfuture(result):
                await result
        except (PerdureError, TypeError) as error:
            refusal = f"{type(error).__name__}: {error}"
        else:
            return "accepted"
        await greet("after")
        return refusal

    return main


@pytest.mark.parametrize("limits", [LIMITS, Limits()], ids=["same limits", "higher limits"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_can_be_caught_and_is_refused_again_in_a_replay(name: str, limits: Limits):
    attempt, command, subject, error, text = REFUSED[name]
    rig = Rig(_catching(attempt), limits=LIMITS)
    rig.start()
    recorded = rig.events[1]
    assert isinstance(recorded, ev.Refused)
    assert recorded == refused(command, subject, error, recorded.message)
    assert rig.events == [started(), recorded, called(1, "after")]
    rig.limits = limits
    rig.reload()
    rig.turn(done(1, "hi"))
    assert rig.result == f"{error}: {recorded.message}"
    assert text in rig.result


@pytest.mark.parametrize("name", NOT_DATA)
def test_what_is_no_data_is_refused_again_without_a_record(name: str):
    attempt, text = NOT_DATA[name]
    rig = Rig(_catching(attempt), limits=LIMITS)
    rig.start()
    assert rig.events == [started(), called(1, "after")]
    rig.reload()
    rig.turn(done(1, "hi"))
    assert text in rig.result


def test_what_one_turn_may_write_is_the_same_in_a_replay():
    """The bytes of a turn are not counted in a replay, where one turn cannot be told from the next."""

    async def main() -> list[str]:
        out: list[str] = []
        for n in range(5):
            try:
                workflow.value(f"v{n}", LONG)
            except PayloadTooLarge:
                out.append(f"v{n}")
        out.append(workflow.value("small", "fits"))  # what was refused does not count
        return [*out, await greet("ann")]

    rig = Rig(main, limits=Limits(commit_bytes=1_000))
    rig.start()
    kinds = ["ValueRecorded"] * 3 + ["Refused"] * 2 + ["ValueRecorded", "ActivityScheduled"]
    assert rig.kinds() == ["Started", *kinds]
    rig.reload()
    rig.turn(done(1, "hi"))
    assert rig.result == ["v3", "v4", "fits", "hi"]


def test_another_command_than_the_refused_one_is_a_mismatch():
    recorded = refused(ev.KvSet, "a", "LimitExceeded", "too much")

    async def main() -> None:
        with suppress(PerdureError):
            workflow.kv.set("b", 1)
        await greet("ann")

    rig = Rig(main).store(started(), recorded, called(1, "ann"))
    assert "the journal has the refusal of KvSet 'a' (LimitExceeded)" in rig.held.message
    assert "the code did a change of the KV key 'b'" in rig.held.message


def test_a_refusal_that_the_code_no_longer_asks_for_is_a_mismatch():
    recorded = refused(ev.StatusSet, "", "LimitExceeded", "too much")
    rig = Rig(greet.fn).store(started("ann"), recorded, called(1, "ann"))
    assert "the journal has the refusal of StatusSet (LimitExceeded)" in rig.held.message


def test_a_refusal_of_a_kind_that_a_newer_release_made_is_still_a_refusal():
    recorded = refused(ev.KvSet, "a", "QuotaExceeded", "too much of it")
    rig = Rig(_catching(lambda: workflow.kv.set("a", 1))).store(started(), recorded)
    rig.turn(msg.Resume())
    assert [m for m in rig.history if isinstance(m, ev.Refused)] == [recorded]
    with rig.cold() as run:
        assert run.broken is None


@pytest.mark.parametrize("name", ["KV value", "size for a child", "size of a value"])
def test_a_refusal_that_an_older_release_did_not_record_is_found_by_the_check(name: str):
    attempt, _, _, error, _ = REFUSED[name]
    rig = Rig(_catching(attempt), limits=LIMITS).store(started(flags=0), called(1, "after"))
    rig.turn(done(1, "hi"))
    assert rig.result.startswith(f"{error}: ")


def test_an_older_release_did_not_record_the_refusal_of_a_result():
    async def main() -> str:
        return LONG

    failure = failure_of_app("PayloadTooLarge", "the result ...")
    rig = Rig(main, limits=LIMITS).store(started(flags=0), ev.Failed(T0, failure), status="failed")
    with rig.cold() as run:
        assert (run.broken, run.ended) == (None, rig.history[-1])


def test_the_result_is_refused_once_it_is_too_large():
    async def main() -> str:
        return LONG

    rig = Rig(main, limits=LIMITS)
    rig.start()
    assert (rig.status, rig.failure.type) == ("failed", "PayloadTooLarge")
    assert (
        "the result of workflow 'main' has 304 bytes; the limit is 250 (Limits.payload_bytes)"
        in rig.failure.message
    )
    assert rig.kinds() == ["Started", "Refused", "Failed"]
    rig.limits = Limits()
    with rig.cold() as run:
        assert (run.broken, run.ended) == (None, rig.history[-1])


def test_details_of_the_last_error_that_are_too_large_are_left_out():
    async def main() -> None:
        raise ApplicationError("no", details=LONG)

    rig = Rig(main, limits=LIMITS)
    rig.start()
    assert (rig.status, rig.failure.type, rig.failure.details) == (
        "failed",
        "ApplicationError",
        None,
    )
    assert (
        "no (its details cannot travel: the details of the error has 304 bytes"
        in rig.failure.message
    )


def test_what_was_accepted_is_accepted_under_a_lower_limit():
    async def main() -> str:
        workflow.kv.set("abcdef", LONG)
        workflow.set_status(LONG)
        workflow.send("other-1", "c", LONG)
        await greet(LONG)
        return await render("x")

    recorded = [
        ev.KvSet("abcdef", encode(LONG)),
        ev.StatusSet(encode(LONG)),
        ev.MessageSent(1, "other-1", "c", encode(LONG)),
        called(2, LONG),
    ]
    rig = Rig(main, limits=LIMITS).store(started(), *recorded)
    rig.turn(done(2, "hi"))
    assert (rig.status, rig.kinds()) == ("running", ["ActivityCompleted", "ActivityScheduled"])


def test_a_result_of_another_type_than_declared_is_an_error_at_the_await():
    async def main() -> str:
        try:
            return await greet("ann")
        except PerdureError as error:
            return f"{type(error).__name__}: {error}"

    rig = Rig(main)
    rig.start()
    rig.turn(done(1, 7))
    assert rig.result.startswith("DecodeError: ")
    assert "result of activity 'greet'" in rig.result


def test_an_input_that_does_not_fit_the_workflow_fails_it_and_names_the_argument():
    async def main(count: int) -> int:
        return count

    rig = Rig(main)
    rig.start("many")
    assert (rig.status, rig.failure.type) == ("failed", "DecodeError")
    assert "argument 'count' of workflow 'main'" in rig.failure.message
