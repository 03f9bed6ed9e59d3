"""What the health port says of a node, whatever the node is doing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from engine import World, until
from probes import Seen, ask

from perdure import App, Node, NodeOptions
from perdure.cluster.local import LocalCluster
from perdure.errors import UsageError
from perdure.ports.clock import SystemClock
from perdure.ports.cluster import Assignment
from perdure.ports.store import Incarnation
from perdure.server import HealthPort
from perdure.store.memory import MemoryStore

ANY = "127.0.0.1:0"


async def why(port: HealthPort) -> list[str]:
    answer = await ask(port.address, "/readyz")
    assert answer.json["ready"] == (answer.status == 200) == (answer.json["why_not"] == [])
    return answer.json["why_not"]


def elsewhere(work: Callable[[], Awaitable[Seen]]) -> Seen:
    """Do something on another thread, while this one does nothing else."""
    found: list[Seen] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(work())))
    thread.start()
    thread.join(30)
    return found[0]


async def test_a_node_is_alive_and_ready_as_it_goes(world: World, app: App) -> None:
    node = world.node(app)
    async with HealthPort(node, ANY) as port:
        assert await why(port) == ["it does not run"]
        async with node:
            assert await why(port) == []
            assert (await ask(port.address, "/healthz")).json == {"node": node.name, "alive": True}
        assert await why(port) == ["it does not run"]
        async with node:
            assert await why(port) == []
        assert (await ask(port.address, "/healthz")).status == 200


async def test_a_start_that_takes_long_is_alive_and_not_ready(app: App) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    class SlowStore(MemoryStore):
        async def claim(self, scopes, owner):  # type: ignore[no-untyped-def]
            entered.set()
            await go_on.wait()
            return await super().claim(scopes, owner)

    async with SlowStore() as store:
        node = Node(app, store)
        async with HealthPort(node, ANY) as port:
            starting = asyncio.ensure_future(node.start())
            await entered.wait()
            assert await why(port) == ["it starts"]
            assert (await ask(port.address, "/healthz")).status == 200
            go_on.set()
            await starting
            assert await why(port) == []
            await node.stop()


async def test_a_node_that_stops_is_not_ready_and_is_alive(world: World, app: App) -> None:
    begun = asyncio.Event()

    @app.activity
    async def hold() -> None:
        begun.set()
        await asyncio.sleep(60)

    @app.workflow
    async def held() -> None:
        await hold()

    node = world.node(app, stop_ms=60_000)
    async with HealthPort(node, ANY) as port:
        await node.start()
        await node.client.workflow(held, id="h").start()
        await begun.wait()
        stopping = asyncio.ensure_future(node.stop(grace=20))
        await asyncio.sleep(0)
        assert await why(port) == ["it is draining"]
        assert (await ask(port.address, "/healthz")).status == 200
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


async def test_a_cluster_decides_when_a_node_is_ready(app: App) -> None:
    cluster = LocalCluster(SystemClock())
    options = NodeOptions(lease_ms=300)
    async with MemoryStore(shards=16) as store:
        node = Node(app, store, cluster=cluster, options=options)
        async with HealthPort(node, ANY) as port, node:

            async def is_ready() -> bool:
                return await why(port) == []

            await until(is_ready, "its scopes")
            cluster.silence(node.incarnation)
            over = ["its lease is over, and could not be renewed"]

            async def is_frozen() -> bool:
                return await why(port) == over

            await until(is_frozen, "the end of its lease")
            assert (await ask(port.address, "/healthz")).status == 200
            cluster.hear(node.incarnation)
            await until(is_ready, "the renewal")


class Slow:
    """A cluster of one node that assigns what it is told."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[Assignment] = asyncio.Queue()

    async def assignments(self, node: Incarnation):  # type: ignore[no-untyped-def]
        while True:
            yield await self.news.get()


async def test_a_node_without_its_scopes_is_not_ready(app: App) -> None:
    cluster = Slow()
    async with MemoryStore(shards=4) as store:
        await store.claim(["default/0"], Incarnation("other", "o-1"))
        node = Node(app, store, cluster=cluster, options=NodeOptions(handover_ms=60_000))
        async with HealthPort(node, ANY) as port, node:
            assert await why(port) == ["the cluster has not assigned any scopes to it yet"]
            both = frozenset({"default/0", "default/1"})
            cluster.news.put_nowait(Assignment(both, frozenset({"o-1"})))
            waits = ["it serves 1 of the 2 scopes that fall to it"]

            async def has_one() -> bool:
                return await why(port) == waits

            await until(has_one, "the scope that is free")
            cluster.news.put_nowait(Assignment(both, frozenset()))

            async def is_ready() -> bool:
                return await why(port) == []

            await until(is_ready, "both scopes")
            # One that owns nothing by the cluster's will has nothing to wait for.
            cluster.news.put_nowait(Assignment(frozenset(), frozenset()))
            await until(lambda: node.scopes == {}, "the release")
            assert await why(port) == []


async def test_a_store_that_failed_makes_a_node_sick(app: App) -> None:
    class Failing(MemoryStore):
        async def commit(self, batch):  # type: ignore[no-untyped-def]
            from perdure.errors import StoreUnavailable

            raise StoreUnavailable("the disk is gone", permanent=True)

    @app.workflow
    async def one() -> None: ...

    async with Failing() as store:
        node = Node(app, store)
        async with HealthPort(node, ANY) as port:
            await node.start()
            with pytest.raises(Exception, match="disk is gone"):
                await node.client.workflow(one, id="o").run()
            with pytest.raises(Exception, match="disk is gone"):
                await node.wait_ended()
            answer = await ask(port.address, "/healthz")
            assert answer.status == 503
            assert "its store failed: the disk is gone" in answer.json["why"]
            assert (await why(port))[0].startswith("its store failed")


async def test_a_busy_loop_is_alive_and_a_hung_one_is_not(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    node = world.node(app, turn_limit_ms=200)
    async with HealthPort(node, ANY) as port, node:

        async def probe() -> Seen:
            return await ask(port.address, "/healthz")

        def stand_still_here(until_status: int) -> Seen:
            """The event loop stands still until the probe has this status."""
            deadline = time.monotonic() + 30
            while (answer := elsewhere(probe)).status != until_status:
                assert time.monotonic() < deadline, answer
            return answer

        first = elsewhere(probe)
        assert (first.status, first.json["alive"]) == (200, True), "it may be busy"
        hung = stand_still_here(503)
        assert "its event loop has stood still for" in hung.json["why"]
        assert "threading.py" in hung.json["why"]

        async def ready() -> Seen:
            return await ask(port.address, "/readyz")

        assert "has not answered for" in elsewhere(ready).json["why_not"][0]
        stand_still_here(503)
        await asyncio.sleep(0)
        assert (await probe()).status == 200
        assert (await ready()).status == 200
        stand_still_here(503)
    said = [r.getMessage() for r in caplog.records if r.name == "perdure.server"]
    assert len([text for text in said if "is not alive" in text]) == 2, "once for each time"


async def test_an_event_loop_that_ended_without_a_stop_is_not_alive(app: App) -> None:
    ports: list[HealthPort] = []

    def live() -> None:
        async def forget() -> None:
            port = HealthPort(Node(App("other"), "memory://"), ANY)
            ports.append(await port.__aenter__())

        asyncio.run(forget())

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    address = ports[0].address
    answer = await ask(address, "/healthz")
    assert (answer.status, answer.json["why"]) == (503, "its event loop has ended")
    assert await why(ports[0]) == ["its event loop has ended"]
    assert (await ask(address, "/drain", "POST")).status == 503
    await ports[0].__aexit__(None, None, None)


async def test_drain_stops_the_node(world: World, app: App) -> None:
    node = world.node(app)
    async with HealthPort(node, ANY) as port:
        await node.start()
        answers = await asyncio.gather(*(ask(port.address, "/drain", "POST") for _ in range(20)))
        assert {answer.status for answer in answers} == {202}
        async with asyncio.timeout(20):
            await node.wait_ended()
        assert await why(port) == ["it does not run"]
        assert (await ask(port.address, "/drain", "POST")).status == 202, "it may be asked again"


async def test_drain_that_the_program_does_itself(world: World, app: App) -> None:
    asked = asyncio.Event()
    node = world.node(app)
    async with HealthPort(node, ANY, drain=asked.set) as port, node:
        page = await ask(port.address, "/drain", "POST", origin="http://evil.example")
        assert page.status == 403
        assert not asked.is_set()
        assert (await ask(port.address, "/drain", "POST")).status == 202
        assert asked.is_set()


async def test_a_drain_that_cannot_be_done_is_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Node):
        async def stop(self, grace: float | None = None) -> None:
            raise UsageError("not now")

    async with HealthPort(Refusing(app, "memory://"), ANY) as port:
        assert (await ask(port.address, "/drain", "POST")).status == 202
        await until(lambda: "could not be drained" in caplog.text, "the record")


async def test_questions_that_wait_are_asked_once(app: App) -> None:
    asked: list[int] = []

    class Counting(Node):
        def why_not_ready(self) -> list[str]:
            asked.append(1)
            return super().why_not_ready()

    async with HealthPort(Counting(app, "memory://"), ANY) as port:

        async def fifty() -> Seen:
            answers = await asyncio.gather(*(ask(port.address, "/readyz") for _ in range(50)))
            assert {answer.status for answer in answers} == {503}
            return answers[0]

        elsewhere(fifty)  # this loop stands still
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(asked) == 1


async def test_an_address_that_cannot_be_had_is_refused(app: App) -> None:
    node = Node(app, "memory://")
    async with HealthPort(node, ANY) as port:
        with pytest.raises(UsageError, match=f"cannot listen on {port.address}: .*name another"):
            async with HealthPort(node, port.address):
                pass
    with pytest.raises(UsageError, match="write it as HOST:PORT"):
        HealthPort(node, "8080")
    with pytest.raises(UsageError, match=r"cannot listen on host\.invalid:80"):
        async with HealthPort(node, "host.invalid:80"):
            pass


async def test_a_port_that_is_closed_is_free_again(app: App) -> None:
    node = Node(app, "memory://")
    async with HealthPort(node, ANY) as port:
        address = port.address
    async with HealthPort(node, address) as again:
        assert again.address == address
        assert (await ask(address, "/healthz")).status == 200

    def threads() -> list[str]:
        return [one.name for one in threading.enumerate() if one.name == "perdure-health"]

    await until(lambda: threads() == [], "the end of the threads")


async def test_a_connection_that_comes_at_the_end_is_closed(app: App) -> None:
    node = Node(app, "memory://")
    for _ in range(30):
        async with HealthPort(node, ANY) as port:
            clients = [await asyncio.open_connection(*port.address.split(":")) for _ in range(3)]
        for reader, writer in clients:
            async with asyncio.timeout(20):
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.transport.abort()


async def test_a_port_on_ipv6(app: App) -> None:
    async with HealthPort(Node(app, "memory://"), "[::1]:0") as port:
        assert port.address.startswith("[::1]:")
        assert (await ask(port.address, "/healthz")).status == 200


def test_the_port_is_no_part_of_a_node_that_has_none() -> None:
    # `import perdure` stays fast.
    import subprocess
    import sys

    code = "import sys, perdure; perdure.App('a').node('memory://'); print('h11' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
