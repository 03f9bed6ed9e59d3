"""What was refused at the call is refused again in a replay; what was accepted is accepted, whatever the limits now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from replay.harness import Rig, called, done, greet, other, render, started

from perdure import Limits, PerdureError, workflow
from perdure.codec import encode
from perdure.kernel import events as ev

LIMITS = Limits(payload_bytes=250, kv_keys=1, kv_value_bytes=10, kv_key_bytes=5, status_bytes=10)
LONG = "x" * 300
anything: Any = greet
child_of_anything: Any = other

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "type of an argument": (lambda: anything(123), "argument 'name' of activity 'greet'"),
    "value that is not data": (lambda: anything(object()), "argument 'name' of activity 'greet'"),
    "missing argument": (lambda: anything(), "missing a required argument: 'name'"),
    "size of an argument": (lambda: greet(LONG), "the input of activity 'greet' has 305 bytes; the limit is 250"),
    "type for a child": (lambda: child_of_anything(123), "argument 'text' of workflow 'other'"),
    "size for a child": (lambda: other(LONG), "the input of workflow 'other' has 305 bytes; the limit is 250"),
    "type for a detached one": (lambda: child_of_anything.detach(123), "argument 'text' of workflow 'other'"),
    "type for a detached activity": (lambda: anything.detach(123), "argument 'name' of activity 'greet'"),
    "KV value": (lambda: workflow.kv.set("a", LONG), "the value of KV key 'a' has 304 bytes; the limit is 10"),
    "KV key": (lambda: workflow.kv.set("abcdef", 1), "the KV key 'abcdef' is longer than 5 bytes"),
    "KV value that is not data": (lambda: workflow.kv.set("a", object()), "object"),
    "status": (lambda: workflow.set_status(LONG), "the custom status has 304 bytes; the limit is 10"),
    "message": (lambda: workflow.send("other-1", "c", LONG), "the message for channel 'c' has 304 bytes"),
    "id of a message": (lambda: workflow.send("", "c", 1), "an id must not be empty"),
    "name of a value": (lambda: workflow.value("a\nb", 1), "cannot be the name of a value"),
    "value that cannot be recorded": (lambda: workflow.value("a", object()), "object"),
    "name of a patch": (lambda: workflow.patched(""), "'' cannot be the name of a patch"),
    "id of a child": (lambda: workflow.child(other, id="a\nb")("x"), "holds a control character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_can_be_caught_and_is_refused_again_in_a_replay(name: str):
    attempt, text = REFUSED[name]

    async def main() -> str:
        try:
            result = attempt()
            if asyncio.isfuture(result):
                await result
        except (PerdureError, TypeError) as error:
            refusal = str(error)
        else:
            return "accepted"
        await greet("after")
        return refusal

    rig = Rig(main, limits=LIMITS)
    rig.start()
    assert rig.events == [started(), called(1, "after")], "nothing of what was refused is recorded"
    rig.reload()
    rig.turn(done(1, "hi"))
    assert text in rig.result


def test_the_result_is_refused_once_it_is_too_large():
    async def main() -> str:
        return LONG

    rig = Rig(main, limits=LIMITS)
    rig.start()
    assert (rig.status, rig.failure.type) == ("failed", "PayloadTooLarge")
    assert "the result of workflow 'main' has 304 bytes; the limit is 250 (Limits.payload_bytes)" in rig.failure.message


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
