"""What comes over a link is not believed: it is checked, or it goes by the store."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import msgspec
import pytest
from engine import until
from nodes import TOKEN, Fleet, fleet_of

from perdure import App, Limits, workflow
from perdure.client.remote import protocol
from perdure.client.remote.protocol import (
    HINT,
    OUTCOME,
    STARTED,
    AwaitHere,
    Begin,
    Post,
    StartHere,
    check_message,
    encode,
    value_of_reply,
)
from perdure.client.workflow_handle import IfExists
from perdure.errors import PayloadTooLarge, PerdureError, UsageError
from perdure.kernel.data import message as msg
from perdure.ports.clock import SystemClock
from perdure.ports.store import Incarnation
from perdure.ports.transport import Link, Peer, TransportOptions
from perdure.transport.inprocess import InProcessTransport

ID = b"0123456789abcdef"


@pytest.fixture
def app() -> App:
    app = App("checks")

    @app.workflow
    async def adds(count: int) -> int:
        return sum([await workflow.receive("n", int) for _ in range(count)])

    return app


def start(unit: str, id: bytes = ID, if_exists: str = "join", visible_at: int = 0) -> msg.Message:
    body = msg.Start("adds", None, msg_input(1), None, if_exists)
    # A tombstone is kept for a while after this time.
    return msg.Message(id, unit, body, SystemClock().now_ms(), visible_at)


def msg_input(count: int) -> bytes:
    from perdure.codec import encode as encode_payload

    return encode_payload([count])


async def link_of(fleet: Fleet, name: str, *, is_node: bool = False) -> Link:
    store = ""
    if is_node:
        store = fleet.store.info.id
    me = Peer(Incarnation("stranger", "stranger-1"), store)
    transport = InProcessTransport(
        me, fleet.network, token=TOKEN, options=TransportOptions(keep_alive_ms=60_000)
    )
    return await transport.connect(str(fleet.nodes[name].address))


async def asked(link: Link, request: Any, decoder: Any = OUTCOME) -> Any:
    kind = protocol.KIND_OF[type(request)]
    return value_of_reply(await link.call(kind, encode(request), 10_000), decoder)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (msg.Message(ID, "", msg.Send("n", b"\x01"), 1), "empty"),
        (msg.Message(ID, "x\0", msg.Send("n", b"\x01"), 1), "control character"),
        (msg.Message(b"short", "x", msg.Send("n", b"\x01"), 1), "id of 5 bytes"),
        (msg.Message(ID, "x", msg.Send("n", b"\x01"), 1, sender="y"), "another unit"),
        (msg.Message(ID, "x", msg.Send("n", b"\x01"), 1, token=b"t"), "another unit"),
        (msg.Message(ID, "x", msg.Send("n", b"\x01"), 1, previous=b"t"), "another unit"),
        (msg.Message(ID, "x", msg.Send("", b"\x01"), 1), "a channel"),
        (msg.Message(ID, "x", msg.Raise("a\nb", b"\x01"), 1), "an event"),
        (msg.Message(ID, "x", msg.Start("no name", None, b"\x90"), 1), "a workflow"),
        (msg.Message(ID, "x", msg.Start("w", None, b"\x90", if_exists="maybe"), 1), "if_exists"),
        (
            msg.Message(ID, "x", msg.Start("w", None, b"\x90", msg.Parent("p", b"r", 1, 1)), 1),
            "a parent",
        ),
        (msg.Message(ID, "x", msg.Cancel("a\0b"), 1), "a reason"),
        (msg.Message(ID, "x", msg.ActivityDone(b"r", 1, 1, 1), 1), "cannot send a ActivityDone"),
        (msg.Message(ID, "x", msg.Reply(b"r", 1, 1), 1), "cannot send a Reply"),
        (msg.Message(ID, "x", msg.Unreadable(b"r", "why"), 1), "cannot send a Unreadable"),
    ],
)
def test_messages_that_no_client_can_send(message: msg.Message, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_message(message, Limits())


def test_starts_may_say_all_that_a_client_can() -> None:
    for if_exists in get_args(IfExists):
        check_message(start("x", if_exists=if_exists), Limits())


def test_values_that_are_too_large() -> None:
    limits = Limits(payload_bytes=10)
    for body in (
        msg.Send("n", b"x" * 11),
        msg.Raise("n", b"x" * 11),
        msg.Start("w", None, b"x" * 11),
    ):
        with pytest.raises(PayloadTooLarge, match="11 bytes"):
            check_message(msg.Message(ID, "x", body, 1), limits)
        check_message(msg.Message(ID, "x", type(body)(*_short(body)), 1), limits)


def _short(body: msg.AnyBody) -> tuple[Any, ...]:
    if isinstance(body, msg.Start):
        return ("w", None, b"x" * 10)
    return ("n", b"x" * 10)


async def test_garbage_is_refused_and_the_link_stays(app: App) -> None:
    async with fleet_of(app, "a") as fleet:
        link = await link_of(fleet, "a")
        for kind, body in (
            ("post", b""),
            ("post", b"\xff\xff"),
            ("post", encode([1, 2, 3])),
            ("nonsense", b""),
            ("ask", encode(["Nothing", {}])),
            ("ask", encode(["Units", {"limit": 0}])),
            ("ask", encode(["Units", {"limit": 10**9}])),
            ("ask", encode(["Units", {"where": [["a", "~", 1]]}])),
            ("ask", encode(["Units", {"ids": 3}])),
            ("await", encode([3, 4])),
            ("await", encode(["", b"x"])),
        ):
            with pytest.raises(PerdureError):
                value_of_reply(await link.call(kind, body, 10_000), OUTCOME)
        link.tell(HINT, b"\xff")
        link.tell(HINT, encode(["x"]))
        link.tell("unknown", b"")
        assert await asked(link, Post(start("x"))) == "started"
        assert link.is_open


async def test_only_nodes_ask_what_nodes_ask(app: App) -> None:
    async with fleet_of(app, "a") as fleet:
        link = await link_of(fleet, "a")
        with pytest.raises(UsageError, match="only a node asks"):
            await asked(link, StartHere(start("x")))
        with pytest.raises(UsageError, match="only a node asks"):
            await asked(link, AwaitHere("x", ID))


async def test_a_message_that_comes_again_counts_once(app: App) -> None:
    async with fleet_of(app, "a", "b") as fleet:
        first = await link_of(fleet, "a")
        second = await link_of(fleet, "b")
        unit = fleet.id_at("a", "x")
        assert (await asked(first, Begin(start(unit)), STARTED)).outcome == "started"
        assert (await asked(second, Begin(start(unit), again=True), STARTED)).run == ID
        send = msg.Message(b"1" * 16, unit, msg.Send("other", b"\x01\x05"), 1)
        for link in (first, second, first):
            assert await asked(link, Post(send)) == "ok"
        await until(lambda: fleet.nodes["a"].metrics.started == 1, "the start")
        client = fleet.nodes["a"].client
        await client.get(unit).send("n", 2)
        assert await client.get(unit).result(timeout=30) == 2
        letters = await client.dead_letters(unit=unit)
        assert len(letters) <= 1


async def test_a_late_start_of_a_run_that_was_removed_is_known(app: App) -> None:
    """It left its sender before the sender posted it, and comes when the run is gone."""
    async with fleet_of(app, "a") as fleet:
        link = await link_of(fleet, "a", is_node=True)
        maybe = protocol.MAYBE_STARTED
        client = fleet.nodes["a"].client
        assert (await asked(link, StartHere(start("x")), maybe)).outcome == "started"
        await client.get("x").send("n", 3)
        assert await client.get("x").result(timeout=30) == 3
        assert (await asked(link, StartHere(start("x")), maybe)).outcome == "started"
        assert fleet.nodes["a"].metrics.started == 1, "the run is known by its start"
        assert await client.get("x").delete() == 1
        assert await asked(link, StartHere(start("x")), maybe) is None, "it goes by the store"
        late = await asked(link, Begin(start("x")), STARTED)
        assert late.outcome == "started"
        with pytest.raises(PerdureError):
            await client.get("x").describe()
        assert fleet.nodes["a"].metrics.started == 1


async def test_where_a_scope_has_just_come_starts_go_by_the_store(app: App) -> None:
    async with fleet_of(app, "a", "b") as fleet:
        link = await link_of(fleet, "b", is_node=True)
        unit = fleet.id_at("b", "x")
        maybe = protocol.MAYBE_STARTED
        assert await asked(link, StartHere(start(unit)), maybe) is None
        listening = fleet.nodes["b"]._listening
        assert listening is not None
        listening._late_ms = 0
        assert (await asked(link, StartHere(start(unit)), maybe)).outcome == "started"


async def test_starts_that_replace_or_wait_go_by_the_store(app: App) -> None:
    async with fleet_of(app, "a") as fleet:
        link = await link_of(fleet, "a", is_node=True)
        maybe = protocol.MAYBE_STARTED
        for if_exists in ("replace", "renew"):
            assert await asked(link, StartHere(start("x", if_exists=if_exists)), maybe) is None
        later = fleet.clock.now_ms() + 60_000
        assert await asked(link, StartHere(start("y", visible_at=later)), maybe) is None
        begun = await asked(link, Begin(start("y", visible_at=later)), STARTED)
        assert begun.outcome == "started"


async def test_a_start_that_renews_and_comes_late_counts_once(app: App) -> None:
    """Its sender has posted it meanwhile, and another start has taken the id since."""
    async with fleet_of(app, "a") as fleet:
        link = await link_of(fleet, "a")
        client = fleet.nodes["a"].client
        first = start("x", if_exists="renew")
        for number, one in enumerate((first, start("x", b"2" * 16, "renew"))):
            assert (await asked(link, Begin(one, again=True), STARTED)).outcome == "started"
            await until(lambda n=number: fleet.nodes["a"].metrics.started == n + 1, "the start")
            await client.get("x").send("n", number)
            assert await client.get("x").result(timeout=30) == number
        await asked(link, Begin(first), STARTED)
        assert await client.get("x").result(timeout=30) == 1, "the second run has the id"
        assert fleet.nodes["a"].metrics.started == 2


async def test_a_node_that_may_not_act_does_not_answer(app: App) -> None:
    async with fleet_of(app, "a", "b") as fleet:
        link = await link_of(fleet, "a")
        node = fleet.nodes["a"]
        assert node._life is not None
        node._life.ownership.freeze("lease")
        with pytest.raises(protocol.Elsewhere, match="may not act now"):
            await asked(link, Post(start("x")))
        node._life.ownership.thaw("lease")
        assert await asked(link, Post(start("x"))) == "started"
        seat = node._seat
        assert seat is not None
        seat._lease._until_ms = 0  # the process stood still, and its alarm has not rung yet
        with pytest.raises(protocol.Elsewhere):
            await asked(link, Post(start("y")))


async def test_an_answer_that_was_computed_too_late_is_not_sent(app: App) -> None:
    async with fleet_of(app, "a", "b") as fleet:
        link = await link_of(fleet, "a")
        node = fleet.nodes["a"]
        asked_for = asyncio.Event()
        goes_on = asyncio.Event()
        query = fleet.store.query

        async def slow(one: Any) -> Any:
            asked_for.set()
            await goes_on.wait()
            return await query(one)

        fleet.store.query = slow  # type: ignore[method-assign]
        request = protocol.Ask("Counts", msgspec.Raw(encode({})))
        waiting = asyncio.ensure_future(link.call("ask", encode(request), 10_000))
        await asked_for.wait()
        assert node._life is not None
        node._life.ownership.freeze("lease")
        goes_on.set()
        with pytest.raises(protocol.Elsewhere):
            value_of_reply(await waiting, OUTCOME)
        fleet.store.query = query  # type: ignore[method-assign]
        node._life.ownership.thaw("lease")
