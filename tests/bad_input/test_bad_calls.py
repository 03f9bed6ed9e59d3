"""Wrong calls of the client, and calls in the wrong place: refused at the call, and nothing is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import (
    AlreadyStarted,
    App,
    Channel,
    Node,
    NodeOptions,
    NotFound,
    Timeout,
    activity,
    workflow,
)
from perdure.errors import (
    DecodeError,
    EncodeError,
    InvalidId,
    NotRunning,
    PayloadTooLarge,
    PerdureError,
    UsageError,
)
from perdure.kernel.data.limits import Limits

app = App("shop")
approved = Channel[bool]("approved")


@dataclass
class Cart:
    items: list[str]
    cents: int


@app.workflow
async def checkout(cart: Cart, rush: bool = False) -> int:
    await approved.receive()
    return cart.cents


@app.activity
async def charge(cents: int) -> str:
    return activity.info().name


@app.workflow
async def echo(value: Any) -> Any:
    return value


CART = Cart(["pen"], 100)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    limits = Limits(payload_bytes=1_000, inbox_messages=3)
    async with app.node("memory://", options=NodeOptions(limits=limits)) as running:
        yield running


async def nothing_was_recorded(node: Node) -> None:
    assert await node.client.list() == []
    assert await node.client.workflow(echo, id="next").run(1) == 1


# ---------------------------------------------------------------- ids

BAD_IDS: dict[str, tuple[Any, str]] = {
    "empty": ("", "an id must not be empty"),
    "long": ("x" * 513, r"the id 'x{40}'... has 513 bytes; at most 512 are allowed"),
    "long in bytes": ("ü" * 257, "has 514 bytes; at most 512 are allowed"),
    "control": ("a\nb", r"the id 'a\\nb' holds a control character; use printable text"),
    "zero": ("a\x00", r"holds a control character"),
    "delete": ("a\x7f", r"holds a control character"),
    "C1 control": ("a\x85", r"holds a control character"),
    "surrogate": ("a\ud800", "holds a lone surrogate, which is not text; use valid Unicode"),
    "number": (7, "an id is a string, got int: 7"),
    "None": (None, "an id is a string, got NoneType: None"),
    "bytes": (b"order", "an id is a string, got bytes: b'order'"),
}


@pytest.mark.parametrize("name", BAD_IDS)
async def test_an_id_that_cannot_be_one_is_refused(node: Node, name: str):
    wrong, text = BAD_IDS[name]
    with pytest.raises(InvalidId, match=text):
        node.client.workflow(checkout, id=wrong)
    with pytest.raises(InvalidId, match=text):
        node.client.get(wrong)


@pytest.mark.parametrize(
    "id",
    ["x" * 512, "a b", "../../etc/passwd", "parent/1.1", "日本", "a'; DROP TABLE units;--", "."],
)
async def test_any_other_id_is_one(node: Node, id: str):
    assert await node.client.workflow(echo, id=id).run(id) == id
    assert [d.id for d in await node.client.list(id_prefix=id)] == [id]


# ---------------------------------------------------------------- starts

STARTS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "no argument": ((), {}, r"missing a required argument: 'cart'"),
    "too many": ((CART, True, 3), {}, r"too many positional arguments"),
    "unknown keyword": ((CART,), {"fast": True}, r"unexpected keyword argument 'fast'"),
    "twice": ((CART,), {"cart": CART}, r"multiple values for argument 'cart'"),
    "wrong type": (("pen",), {}, r"argument 'cart' of workflow 'checkout'.*str"),
    "wrong type inside": (
        (Cart(["pen"], "100"),),
        {},
        r"argument 'cart.cents' of workflow 'checkout'.*int",
    ),
    "wrong type of an option": (
        (CART,),
        {"rush": "yes"},
        r"argument 'rush' of workflow 'checkout'.*bool",
    ),
    "not data": (
        (Cart([object()], 1),),
        {},
        r"argument 'cart.items\[0\]' of workflow 'checkout'.*object",
    ),
    "a function": ((print,), {}, r"argument 'cart' of workflow 'checkout'"),
    "too large": (
        (Cart(["x" * 2_000], 1),),
        {},
        r"the input of workflow 'checkout' has 2\d{3} bytes; the limit is 1000",
    ),
    "a surrogate": ((Cart(["\ud800"], 1),), {}, r"argument 'cart.*' of workflow 'checkout'"),
    "a number too large": ((Cart([], 2**80),), {}, r"argument 'cart.*' of workflow 'checkout'"),
}


@pytest.mark.parametrize("verb", ["start", "run"])
@pytest.mark.parametrize("name", STARTS)
async def test_a_start_with_wrong_arguments_is_refused(node: Node, name: str, verb: str):
    args, kwargs, text = STARTS[name]
    handle = node.client.workflow(checkout, id="order-1")
    with pytest.raises((PerdureError, TypeError), match=text):
        await getattr(handle, verb)(*args, **kwargs)
    await nothing_was_recorded(node)


async def test_a_start_by_name_takes_positional_arguments_only(node: Node):
    with pytest.raises(
        UsageError, match="start of 'checkout' by name takes positional arguments only"
    ):
        await node.client.workflow("checkout", id="order-1").start(cart=CART)
    await nothing_was_recorded(node)


async def test_a_start_by_name_with_wrong_arguments_fails_that_instance_and_names_the_argument(
    node: Node,
):
    handle = node.client.workflow("checkout", id="order-1")
    await handle.start("pen")
    done = await handle.wait(timeout=30)
    assert (done.status, done.failure.type if done.failure else "") == ("failed", "DecodeError")
    assert "argument 'cart' of workflow 'checkout'" in (
        done.failure.message if done.failure else ""
    )
    assert await node.client.workflow(echo, id="next").run(1) == 1


@pytest.mark.parametrize(
    "value", [object(), print, {1, object()}, "\ud800", float], ids=lambda v: type(v).__name__
)
async def test_a_start_by_name_with_what_is_not_data_is_refused(node: Node, value: Any):
    with pytest.raises(EncodeError):
        await node.client.workflow("echo", id="e-1").start(value)
    await nothing_was_recorded(node)


HANDLES: dict[str, tuple[dict[str, Any], str]] = {
    "if_exists": (
        {"if_exists": "ignore"},
        "if_exists must be 'join', 'reject', 'replace' or 'renew', got 'ignore'",
    ),
    "delay": ({"delay": -1}, "delay must be between 0 and ten years, got -1"),
    "delay in words": (
        {"delay": "soon"},
        "delay must be seconds .a number. or a timedelta, got 'soon'",
    ),
    "version": ({"version": "newest"}, "'newest' is not a version: use major.minor.patch"),
    "attributes": ({"attributes": {"a": object()}}, "object"),
    "attributes of another kind": ({"attributes": ["a"]}, "attributes.*dict"),
}


@pytest.mark.parametrize("name", HANDLES)
async def test_a_wrong_option_of_a_start_is_refused(node: Node, name: str):
    options, text = HANDLES[name]
    with pytest.raises(UsageError, match=text):
        node.client.workflow(checkout, id="order-1", **options)


@pytest.mark.parametrize("what", [None, 7, charge, lambda: None, checkout.fn])
async def test_what_is_no_workflow_cannot_be_started(node: Node, what: Any):
    with pytest.raises(UsageError, match=r"client.workflow\(\) needs a workflow or its name, got"):
        node.client.workflow(what, id="order-1")


async def test_a_name_that_nobody_has_waits_for_a_deploy_and_says_so(node: Node):
    handle = node.client.workflow("no_such_workflow", id="order-1")
    await handle.start(1)
    found = await handle.describe()
    assert (found.status, found.reason) == ("suspended", "not_registered")
    assert found.failure is not None
    assert (
        "workflow 'no_such_workflow' is not registered with this node's app. Register it"
        in found.failure.message
    )
    with pytest.raises(
        Timeout,
        match=r"'order-1' has not ended within 0.01 s; it is suspended \(not_registered\): work",
    ):
        await handle.result(timeout=0.01, through_suspension=True)


async def test_a_taken_id_is_refused_with_the_way_out(node: Node):
    await node.client.workflow(checkout, id="order-1").start(CART)
    with pytest.raises(
        AlreadyStarted, match=r"the id 'order-1' is taken by another workflow or with another input"
    ):
        await node.client.workflow(checkout, id="order-1").start(Cart([], 0))
    with pytest.raises(
        AlreadyStarted,
        match=r"'order-1' is taken and if_exists='reject' was asked for; use another id",
    ):
        await node.client.workflow(checkout, id="order-1", if_exists="reject").start(CART)


# ---------------------------------------------------------------- instances that are not there, or have ended


async def test_an_unknown_id_is_named(node: Node):
    handle = node.client.get("nobody")
    calls = {
        "result": lambda: handle.result(),
        "wait": lambda: handle.wait(),
        "status": lambda: handle.status(),
        "describe": lambda: handle.describe(),
        "history": lambda: handle.history(),
        "executions": lambda: handle.executions(),
        "custom_status": lambda: handle.custom_status(str),
        "send": lambda: handle.send(approved, True),
        "raise_event": lambda: handle.raise_event("go"),
        "cancel": lambda: handle.cancel(),
        "terminate": lambda: handle.terminate(),
        "pause": lambda: handle.pause(),
        "resume": lambda: handle.resume(),
        "retry": lambda: handle.retry(),
        "kv": lambda: handle.kv(),
        "kv_get": lambda: handle.kv_get("k", int),
    }
    answers = dict(
        zip(
            calls,
            await asyncio.gather(*(c() for c in calls.values()), return_exceptions=True),
            strict=True,
        )
    )
    assert {name for name, answer in answers.items() if not isinstance(answer, NotFound)} == set()
    assert all("no instance has the id 'nobody'" in str(answer) for answer in answers.values())
    await nothing_was_recorded(node)


async def test_a_message_to_one_that_has_ended_is_refused(node: Node):
    handle = node.client.workflow(echo, id="e-1")
    await handle.run(1)
    with pytest.raises(NotRunning, match="'e-1' has ended; nothing was sent to it"):
        await handle.send(approved, True)
    for control in (handle.cancel, handle.terminate, handle.pause):
        await control("too late")
    await handle.resume()
    assert await handle.result() == 1


async def test_a_wait_that_is_too_long_says_what_the_instance_waits_for(node: Node):
    handle = node.client.workflow(checkout, id="order-1")
    await handle.start(CART)
    for call in (handle.result, handle.wait):
        with pytest.raises(
            Timeout,
            match=r"'order-1' has not ended within 0.01 s; it is running \(message approved\)",
        ):
            await call(timeout=0.01)
    await handle.send(approved, True)
    assert await handle.result(timeout=30) == 100


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon"])
async def test_a_wrong_timeout_is_refused(node: Node, timeout: Any):
    handle = node.client.workflow(echo, id="e-1")
    await handle.run(1)
    with pytest.raises(UsageError, match="timeout must be"):
        await handle.result(timeout=timeout)


async def test_a_result_of_another_type_than_asked_for_is_an_error_that_names_it(node: Node):
    await node.client.workflow(echo, id="e-1").run("text")

    async def other() -> int:
        return 1

    with pytest.raises(DecodeError, match=r"result of workflow 'echo'.*int"):
        await node.client.workflow(App("x").workflow(name="echo")(other), id="e-1").result()


# ---------------------------------------------------------------- messages

MESSAGES: dict[str, tuple[Any, Any, str]] = {
    "type": (approved, "yes", "message of channel 'approved'.*bool"),
    "not data": ("notes", object(), "object"),
    "too large": (
        "notes",
        "x" * 2_000,
        "the message for channel 'notes' has 2004 bytes; the limit is 1000",
    ),
    "channel": ("", 1, "'' cannot be the name of a channel"),
    "channel of no string": (None, 1, "None cannot be the name of a channel"),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_message_that_does_not_fit_is_refused(node: Node, name: str):
    channel, value, text = MESSAGES[name]
    handle = node.client.workflow(checkout, id="order-1")
    await handle.start(CART)
    with pytest.raises(UsageError, match=text):
        await handle.send(channel, value)
    with pytest.raises(UsageError):
        await handle.raise_event(channel if isinstance(channel, str) else "", value)
    await handle.send(approved, True)
    assert await handle.result(timeout=30) == 100


async def test_a_message_of_another_type_sent_by_name_is_a_dead_letter(node: Node):
    handle = node.client.workflow(checkout, id="order-1")
    await handle.start(CART)
    await handle.send("approved", "yes")
    await handle.send("approved", True)
    assert await handle.result(timeout=30) == 100
    (letter,) = await node.client.dead_letters()
    assert letter.unit == "order-1"
    assert "message of channel 'approved'" in letter.reason


async def test_an_inbox_that_is_full_is_refused_and_keeps_what_it_has(node: Node):
    from perdure.errors import InboxFull

    handle = node.client.workflow(checkout, id="order-1")
    await handle.start(CART)
    for n in range(3):
        await handle.send("unread", n)
    with pytest.raises(
        InboxFull, match=r"of 'order-1' is full: .* \(limit inbox_messages\); try again"
    ):
        await handle.send("unread", 3)
    await handle.send(approved, True)
    assert await handle.result(timeout=30) == 100, "a message that is awaited needs no room"


async def test_a_payload_over_the_limit_is_refused_where_it_is_made(node: Node):
    with pytest.raises(
        PayloadTooLarge,
        match=r"has \d+ bytes; the limit is 1000 \(Limits.payload_bytes\): store it els",
    ):
        await node.client.workflow(echo, id="e-1").start(b"x" * 1_000)
    assert await node.client.workflow(echo, id="e-2").run(b"x" * 990) == b"x" * 990


@pytest.mark.parametrize("verb", ["cancel", "terminate", "pause"])
async def test_a_reason_of_any_text_surrogates_too_is_kept(node: Node, verb: str):
    handle = node.client.workflow(checkout, id="order-1")
    await handle.start(CART)
    await getattr(handle, verb)("a\nb \ud800 \U0001f600")
    kinds = [type(e.event).__name__ for e in await handle.history()]
    assert {"CancelRequested", "Terminated", "Paused"} & set(kinds)
    assert await node.client.workflow(echo, id="next").run(1) == 1


# ---------------------------------------------------------------- queries

QUERIES: dict[str, tuple[dict[str, Any], str]] = {
    "status": ({"status": "done"}, "'done' is not a status; .*completed"),
    "limit": ({"limit": 0}, "a page has at least one item, got limit="),
    "negative limit": ({"limit": -1}, "a page has at least one item, got limit="),
    "version": ({"version": "new"}, "'new' is not a version"),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_a_wrong_filter_is_refused(node: Node, name: str):
    filters, text = QUERIES[name]
    with pytest.raises(UsageError, match=text):
        await node.client.list(**filters)


# ---------------------------------------------------------------- the wrong place

OUTSIDE_A_WORKFLOW: dict[str, Any] = {
    "now": lambda: workflow.now(),
    "random": lambda: workflow.random(),
    "uuid4": lambda: workflow.uuid4(),
    "info": lambda: workflow.info(),
    "sleep": lambda: workflow.sleep(1),
    "receive": lambda: workflow.receive("c", int),
    "wait_event": lambda: workflow.wait_event("c", int),
    "send": lambda: workflow.send("id", "c", 1),
    "cancel": lambda: workflow.cancel("id"),
    "select": lambda: workflow.select(asyncio.sleep(0)),
    "join": lambda: workflow.join(),
    "checkpoint": lambda: workflow.checkpoint("c", lambda: 1),
    "value": lambda: workflow.value("v", 1),
    "variable": lambda: workflow.variable("v", 1),
    "kv": lambda: workflow.kv.set("k", 1),
    "set_status": lambda: workflow.set_status("s"),
    "status": lambda: workflow.status(str),
    "patched": lambda: workflow.patched("p"),
    "continue_as_new": lambda: workflow.continue_as_new(echo, 1),
    "detach": lambda: echo.detach(1),
    "child": lambda: workflow.child(echo)(1),
}


@pytest.mark.parametrize("name", OUTSIDE_A_WORKFLOW)
@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_what_is_for_workflow_code_is_refused_elsewhere(name: str):
    with pytest.raises(
        UsageError, match=rf"workflow.{name}.* is for workflow code; here no workflow is running"
    ):
        found = OUTSIDE_A_WORKFLOW[name]()
        if asyncio.iscoroutine(found):
            await found


@pytest.mark.parametrize("name", ["info", "heartbeat", "is_cancelled"])
def test_what_is_for_activities_is_refused_elsewhere(name: str):
    with pytest.raises(
        UsageError,
        match=rf"activity.{name}\(\) is for code that runs inside an activity; here none is",
    ):
        getattr(activity, name)()


async def test_waiting_for_a_cancel_or_resources_elsewhere_is_refused():
    with pytest.raises(
        UsageError, match=r"activity.cancelled\(\) is for code that runs inside an activity"
    ):
        await activity.cancelled()
    with pytest.raises(
        UsageError, match=r"activity.resources\(\) is for code that runs inside an activity"
    ):
        activity.resources(int)
    with pytest.raises(
        UsageError,
        match=r"activity 'charge': detach\(\) is for workflow code; elsewhere start a workflow",
    ):
        charge.detach(1)


async def test_an_activity_outside_is_the_plain_function():
    with pytest.raises(
        UsageError, match=r"activity.info\(\) is for code that runs inside an activity"
    ):
        await charge(1)
