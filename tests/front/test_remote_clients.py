"""Clients without a store: the same verbs, by any node, also when nodes die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from engine import until
from nodes import TOKEN, Fleet, fleet_of

import perdure
from perdure import (
    AlreadyStarted,
    App,
    Client,
    Door,
    Limits,
    Node,
    NodeOptions,
    NotFound,
    NotRunning,
    Timeout,
    Where,
    WorkflowFailed,
    workflow,
)
from perdure.client.remote import queries
from perdure.errors import InboxFull, PayloadTooLarge, StoreUnavailable, UsageError
from perdure.ports import store as ports
from perdure.ports.transport import Garbage, Refused, TransportOptions, Unreachable
from perdure.store.limits import StoreLimits
from perdure.store.memory import MemoryStore

NAMES = ("a", "b", "c")


@pytest.fixture
def app() -> App:
    app = App("remote")

    @app.activity
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def once(n: int) -> int:
        workflow.set_attributes({"n": n})
        workflow.set_status({"n": n})
        workflow.kv.set("n", n)
        return await double(n)

    @app.workflow
    async def adds(count: int) -> int:
        return sum([await workflow.receive("n", int) for _ in range(count)])

    @app.workflow
    async def fails() -> int:
        msg = "no"
        raise ValueError(msg)

    @app.workflow
    async def big(count: int) -> int:
        for number in range(count):
            workflow.kv.set(f"k{number}", "x" * 60_000)
        return count

    return app


@asynccontextmanager
async def connected(fleet: Fleet, *names: str) -> AsyncIterator[Client]:
    async with fleet.client(*(names or ("a",))) as client:
        yield client


async def test_each_verb_works_without_a_store(app: App) -> None:
    async with fleet_of(app, *NAMES, tcp=True) as fleet:
        url = f"perdure://{fleet.nodes['a'].address}"
        async with perdure.connect(url, token=TOKEN) as client:
            for name in NAMES:
                unit = fleet.id_at(name, "sum")
                handle = client.workflow("adds", id=unit)
                await handle.start(3)
                assert await handle.status() in ("running", "pending")
                result = asyncio.ensure_future(handle.result(timeout=30))
                await handle.send("n", 1)
                await client.get(unit).send("n", 2)
                await handle.send("n", 4, key="k")
                assert await result == 7
                with pytest.raises(NotRunning):
                    await handle.send("n", 1)
                assert await client.get(unit).result() == 7
            handle = client.workflow("once", id="one", attributes={"kind": "x"})
            assert await handle.run(4) == 8
            assert await handle.custom_status(dict) == ({"n": 4}, 1)
            assert await handle.kv() == {"n": 4}
            assert await handle.kv_get("n", int) == 4
            assert (await handle.describe()).attributes["n"] == 4
            assert len(await handle.history()) > 2
            assert await handle.executions() == [1]
            assert (await handle.tree()).instance.id == "one"
            found = await client.list(where=[Where("n", ">=", 4), Where("kind", "in", ["x", "y"])])
            assert [one.id for one in found] == ["one"]
            recent = datetime.now(UTC) - timedelta(hours=1)
            assert len(await client.list(created_after=recent)) == 4
            assert (await client.counts())["completed"] == 4
            assert (await client.metrics()).instances["completed"] == 4
            assert await client.queues() == {}
            prepared = [client.workflow("once", id=f"many{n}").prepare(n) for n in range(5)]
            outcomes = await client.start_many(prepared)
            expected = [(f"many{n}", "started") for n in range(5)]
            assert [(one.id, one.outcome) for one in outcomes] == expected
            for number in range(5):
                assert await client.get(f"many{number}").result(timeout=30) == 2 * number
            assert await client.dead_letters() == []
            with pytest.raises(WorkflowFailed, match="ValueError: no"):
                await client.workflow("fails", id="failed").run()
            with pytest.raises(AlreadyStarted):
                await client.workflow("once", id="one", if_exists="reject").start(1)
            with pytest.raises(NotFound):
                await client.get("nobody").result()
            with pytest.raises(NotFound):
                await client.get("nobody").send("n", 1)
            late = client.workflow("adds", id="late")
            await late.start(1)
            with pytest.raises(Timeout):
                await late.result(timeout=0.05)
            await late.cancel()
            with pytest.raises(perdure.WorkflowCancelled):
                await late.result(timeout=30)
            assert await late.delete() == 1
            assert len((await client.delete(type="once")).deleted) == 6


async def test_more_letters_and_units_than_one_request_takes(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("perdure.client.remote.store", "perdure.node.front.front"):
        monkeypatch.setattr(f"{module}.LETTERS_MAX", 2)
        monkeypatch.setattr(f"{module}.LOADS_MAX", 2)
    dropped: list[bytes] = []

    async def drop(_: MemoryStore, letters: Sequence[bytes]) -> int:
        dropped.extend(letters)
        return len(letters)

    monkeypatch.setattr(MemoryStore, "drop_letters", drop)
    async with fleet_of(app, "a") as fleet, connected(fleet) as client:
        store = client._gateway.store
        assert len(await store.load([f"u{n}" for n in range(5)])) == 5
        letters = [b"%d" % n for n in range(5)]
        assert await store.drop_letters(letters) == 5
        assert dropped == letters


async def test_it_learns_the_other_nodes_and_goes_on_with_them(app: App) -> None:
    async with fleet_of(app, *NAMES, lease_ms=1_000) as fleet:
        async with connected(fleet, "b") as client:
            handles = []
            for name in NAMES:
                handle = client.workflow("adds", id=fleet.id_at(name, "waits"))
                await handle.start(1)
                handles.append(handle)
            waiting = [asyncio.ensure_future(one.result(timeout=60)) for one in handles]
            await until(lambda: len(_clients(fleet, "b")) == 1, "the link of the client")
            await asyncio.sleep(0)
            await fleet.nodes["b"].stop()
            for number, handle in enumerate(handles):
                await handle.send("n", number)
            assert await asyncio.gather(*waiting) == [0, 1, 2]
            later = fleet.make("d")
            async with later:
                await fleet.settled("a", "c", "d")
                await until(lambda: _knows(client, later), "the new node")


def _clients(fleet: Fleet, name: str) -> dict[object, None]:
    listening = fleet.nodes[name]._listening
    assert listening is not None
    return dict(listening._front._clients)


def _knows(client: Client, node: Node) -> bool:
    return node.address in client._gateway._route._learned  # type: ignore[attr-defined]


async def test_a_wait_and_a_request_survive_a_node_that_vanishes(app: App) -> None:
    """The network swallows all that the node says, and nobody hangs up."""
    async with fleet_of(app, "a", "b", lease_ms=1_000) as fleet:
        async with connected(fleet, "a", "b") as client:
            asked = client._gateway._route._link.peer.node.node  # type: ignore[attr-defined]
            handle = client.workflow("adds", id=fleet.id_at(asked, "waits"))
            await handle.start(2)
            waiting = asyncio.ensure_future(handle.result(timeout=60))
            await handle.send("n", 1)
            fleet.network.partition({asked})
            fleet.cluster.silence(fleet.nodes[asked].incarnation)
            await handle.send("n", 2)
            assert await waiting == 3


async def test_a_request_gives_up_when_no_node_answers(app: App) -> None:
    async with fleet_of(app, "a") as fleet:
        async with fleet.client("a", patience_ms=300) as client:
            await fleet.nodes["a"].stop()
            with pytest.raises(StoreUnavailable, match="has not answered for 300 ms") as caught:
                await client.workflow("once", id="x").start(1)
            assert caught.value.outcome == "none"
            address = fleet.nodes["a"]._door
            assert address is not None


async def test_a_start_whose_answer_is_lost_is_done_once(app: App) -> None:
    async with fleet_of(app, "a") as fleet:
        async with connected(fleet) as client:
            gateway = fleet.nodes["a"].gateway
            began: list[str] = []
            begin = gateway.begin

            async def then_hang_up(message):  # type: ignore[no-untyped-def]
                began.append(message.to)
                answer = await begin(message)
                for link in _clients(fleet, "a"):
                    await link.close()  # type: ignore[attr-defined]
                return answer

            gateway.begin = then_hang_up  # type: ignore[method-assign]
            assert await client.workflow("once", id="x").run(3) == 6
            assert began == ["x"]
            assert fleet.nodes["a"].metrics.started == 1


async def test_many_wait_at_once(app: App) -> None:
    async with fleet_of(app, "a", "b") as fleet:
        async with connected(fleet, "a", "b") as client:
            handles = [client.workflow("once", id=f"m{n}") for n in range(300)]
            results = await asyncio.gather(*(h.run(n) for n, h in enumerate(handles)))
            assert results == [2 * n for n in range(300)]


async def test_answers_that_are_too_large_come_in_parts(app: App) -> None:
    async with fleet_of(app, "a") as fleet:
        fleet.bounds = TransportOptions(frame_bytes=200_000)
        async with fleet.make("z"):
            await fleet.settled("a", "z")
            async with fleet.client("z") as client:
                assert await client.workflow("big", id="x").run(10) == 10
                assert len(await client.get("x").kv()) == 10


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("perdure://", "names no nodes"),
        ("perdure:host", "names no nodes"),
        ("perdure://host/path", "names no nodes"),
        ("perdure://host:99999", "no address of a node"),
        ("perdure://a:1,,b:2", "no address of a node"),
        ("perdure://user:pw@host:1", "know no user"),
        ("perdure://host?shards=3", "unknown option 'shards'"),
        ("perdure://host?cert=x", "key is missing"),
        ("perdure://host?token_file=/does/not/exist", "token cannot be read"),
    ],
)
def test_urls_that_name_no_nodes(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        perdure.connect(url)


async def test_a_wrong_token_is_one_clear_error(app: App) -> None:
    async with fleet_of(app, "a", tcp=True) as fleet:
        address = fleet.nodes["a"].address
        with pytest.raises(Refused, match=f"at {address}: .*different tokens") as caught:
            async with perdure.connect(f"perdure://{address}", token=b"another"):
                raise AssertionError
        assert caught.value.reason == "token"
        # Beside a node that is down, the token is still what people can mend.
        with pytest.raises(Refused, match=r"at 127\.0\.0\.1:1"):
            async with perdure.connect(f"perdure://{address},127.0.0.1:1", token=b"another"):
                raise AssertionError


async def test_no_node_at_the_addresses_is_one_error_that_names_them() -> None:
    with pytest.raises(Unreachable, match=r"at 127\.0\.0\.1:1: .* at 127\.0\.0\.1:2: ") as caught:
        async with perdure.connect("perdure://127.0.0.1:1,127.0.0.1:2"):
            raise AssertionError
    assert "no node takes this client" in str(caught.value)


async def test_an_address_of_something_else() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Garbage, match=f"127.0.0.1:{port} is no node"):
        async with perdure.connect(f"perdure://127.0.0.1:{port}"):
            raise AssertionError
    server.close()


async def test_a_value_that_is_too_large_is_refused_before_it_is_sent(app: App) -> None:
    limits = Limits(payload_bytes=1_000)
    store = MemoryStore()
    async with (
        store,
        Node(app, store, options=NodeOptions(limits=limits), listen=Door("127.0.0.1:0")) as node,
    ):
        async with perdure.connect(f"perdure://{node.address}") as client:
            handle = client.workflow("adds", id="x")
            await handle.start(1)
            with pytest.raises(PayloadTooLarge):
                await handle.send("n", "x" * 2_000)


async def test_a_full_inbox_is_told(app: App) -> None:
    store = MemoryStore(limits=StoreLimits(inbox_messages=2))
    async with store, Node(app, store, listen=Door("127.0.0.1:0")) as node:
        async with perdure.connect(f"perdure://{node.address}") as client:
            handle = client.workflow("adds", id="x")
            await handle.start(1)
            with pytest.raises(InboxFull):
                for _ in range(10):
                    await handle.send("other", 1)


def test_a_token_and_tls_are_for_nodes() -> None:
    with pytest.raises(UsageError, match="token and tls are for nodes"):
        perdure.connect("memory://", token=b"x")


def test_a_node_needs_a_store_and_no_nodes(app: App) -> None:
    with pytest.raises(UsageError, match="names nodes, for clients"):
        app.node("perdure://host:1")


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("0.0.0.0:7420", "needs a token"),
        ("nonsense", "no address of a node"),
    ],
)
def test_doors_that_cannot_work(app: App, listen: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        app.node("memory://", listen=listen)


def test_a_wildcard_needs_an_address_for_others(app: App) -> None:
    with pytest.raises(UsageError, match="advertise"):
        app.node("memory://", listen="0.0.0.0:0", token=TOKEN)
    node = app.node("memory://", listen="0.0.0.0:0", token=TOKEN, advertise="node-1.example:7")
    assert node.address is None
    with pytest.raises(UsageError, match="a node that listens"):
        app.node("memory://", token=TOKEN)


async def test_the_address_is_taken_before_the_node_serves(app: App) -> None:
    async with app.node("memory://", listen="127.0.0.1:0") as first:
        assert first.address is not None
        second = app.node("memory://", listen=first.address)
        with pytest.raises(Unreachable, match="cannot listen"):
            await second.start()
        assert second.address is None
    assert first.address is None
    async with app.node("memory://", listen="127.0.0.1:0", advertise="shop.example") as other:
        assert other.address is not None
        assert other.address.startswith("shop.example:")


async def test_a_token_in_a_file(app: App, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    async with app.node("memory://", listen="127.0.0.1:0", token=b"secret") as node:
        async with perdure.connect(f"perdure://{node.address}?token_file={path}") as client:
            assert await client.workflow("once", id="x").run(1) == 2
    path.write_text(" \n")
    with pytest.raises(UsageError, match="has no token"):
        perdure.connect(f"perdure://host?token_file={path}")


async def test_it_works_from_synchronous_code(app: App) -> None:
    async with app.node("memory://", listen="127.0.0.1:0") as node:
        url = f"perdure://{node.address}"

        def work() -> int:
            with perdure.connect(url).sync() as client:
                result: int = client.workflow("once", id="x").run(4)
                return result

        assert await asyncio.to_thread(work) == 8


def test_each_query_of_the_port_can_be_asked() -> None:
    kinds = {
        name
        for name, kind in vars(ports).items()
        if isinstance(kind, type) and issubclass(kind, ports.Query) and kind is not ports.Query
    }
    kinds.remove("Overdue")  # only owners ask for it, who have the store
    assert kinds == set(queries._pages) == set(queries._decoders)
