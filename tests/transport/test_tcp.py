"""What is special to TCP: addresses of machines, uvloop, real processes."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from perdure.errors import UsageError
from perdure.ports.transport import LinkLost, Refused, TransportOptions, Unreachable
from perdure.testing.conformance.transport import Recorder, met, peer
from perdure.testing.conformance.transport.scene import LONG_MS, PATIENCE_S, error_of
from perdure.transport.tcp import TcpTransport

NODE = Path(__file__).with_name("node.py")


async def test_port_0_takes_a_free_port_and_tells_it() -> None:
    async with TcpTransport(peer("one")) as one:
        host, _, port = (await one.bind()).rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0


@pytest.mark.parametrize(
    ("host", "advertise", "shown"),
    [
        ("127.0.0.1", None, "127.0.0.1:PORT"),
        ("localhost", None, "localhost:PORT"),
        ("0.0.0.0", "10.0.0.7", "10.0.0.7:PORT"),
        ("0.0.0.0", "shop.example:7000", "shop.example:7000"),
        ("0.0.0.0", "2001:db8::7", "[2001:db8::7]:PORT"),
        ("0.0.0.0", "[2001:db8::7]", "[2001:db8::7]:PORT"),
        ("0.0.0.0", "[2001:db8::7]:7000", "[2001:db8::7]:7000"),
        ("127.0.0.1", "proxy", "proxy:PORT"),
    ],
)
async def test_a_node_tells_the_address_by_which_others_reach_it(
    host: str, advertise: str | None, shown: str
) -> None:
    async with TcpTransport(peer("one"), host=host, advertise=advertise) as one:
        address = await one.bind()
        assert one._listener is not None
        port = one._listener.getsockname()[1]
        assert address == shown.replace("PORT", str(port))


@pytest.mark.parametrize(
    ("host", "advertise"),
    [("0.0.0.0", None), ("::", None), ("", None), ("::", "0.0.0.0"), ("::", "a b")],
)
def test_an_address_that_others_cannot_use_is_refused(host: str, advertise: str | None) -> None:
    async def make() -> None:
        TcpTransport(peer("one"), host=host, advertise=advertise)

    with pytest.raises(UsageError, match="advertise="):
        asyncio.run(make())


async def test_a_taken_port_is_named() -> None:
    async with TcpTransport(peer("one")) as one:
        port = int((await one.bind()).rpartition(":")[2])
        async with TcpTransport(peer("two"), port=port) as two:
            error = await error_of(two.bind())
            assert isinstance(error, Unreachable)
            assert f"cannot listen at 127.0.0.1:{port}" in str(error)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    seen = Recorder()
    async with TcpTransport(peer("one")) as one, TcpTransport(peer("two"), host="::1") as two:
        address = await two.listen(seen)
        assert address.startswith("[::1]:")
        link = await one.connect(address)
        assert await link.call("echo", b"six", LONG_MS) == b"six"
        assert seen.links[0].address.startswith("[::1]:")


async def test_an_address_that_does_not_answer_is_given_up_in_time() -> None:
    # A listener that takes connections and never greets.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with TcpTransport(peer("one")) as one:
            error = await error_of(one.connect(address, timeout_ms=50))
            assert isinstance(error, Unreachable)
            assert f"{address} did not answer within 50 ms" in str(error)


async def test_a_connect_that_is_cancelled_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with TcpTransport(peer("one")) as one:
            connecting = asyncio.create_task(
                one.connect(f"127.0.0.1:{silent.getsockname()[1]}", timeout_ms=LONG_MS)
            )
            arrived, _ = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
            with arrived:
                # Its greeting, and then the end.
                arrived.settimeout(PATIENCE_S)
                while arrived.recv(1_000):
                    pass


def test_a_name_that_does_not_fit_a_greeting_is_refused() -> None:
    with pytest.raises(UsageError, match="too long for a greeting"):
        TcpTransport(peer("n" * 10_000))


def test_uvloop() -> None:
    def factory(me, token=b"", options=None, clock=None):
        return TcpTransport(me, token=token, options=options or TransportOptions(), clock=clock)

    async def work() -> None:
        async with met(factory) as pair:
            bodies = [str(number).encode() * 50 for number in range(2_000)]
            calls = (pair.link.call("later", body, LONG_MS) for body in bodies)
            assert await asyncio.gather(*calls) == bodies
            # Until the queue is full, and then until it is empty again.
            told = 0
            while pair.link.tell("mark", bytes(256 << 10)):
                told += 1
            assert pair.link.dropped == 1
            await pair.two.until(lambda: len(pair.two.told) == told)
            assert await pair.back.call("echo", b"back", LONG_MS) == b"back"
            await pair.link.close()
            assert pair.one.ended == [None]
        async with (
            TcpTransport(peer("two"), token=b"token") as two,
            TcpTransport(peer("one")) as one,
        ):
            error = await error_of(one.connect(await two.listen(Recorder())))
            assert isinstance(error, Refused)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


async def started() -> tuple[subprocess.Popen[bytes], str]:
    """A node in a process of its own, and its address."""
    process = subprocess.Popen([sys.executable, str(NODE)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline)
    return process, line.decode().strip()


async def test_two_processes_talk_and_one_is_killed() -> None:
    process, address = await started()
    try:
        seen = Recorder()
        async with TcpTransport(peer("here"), token=b"token") as here:
            link = await here.connect(address, seen)
            assert link.peer.node.node == "there"
            bodies = [str(number).encode() for number in range(1_000)]
            answers = await asyncio.gather(*(link.call("echo", b, LONG_MS) for b in bodies))
            assert answers == bodies
            assert await link.call("ask back", b"", LONG_MS) == b"from here"
            call = asyncio.create_task(link.call("hold", b"", LONG_MS))
            assert await link.call("echo", b"", LONG_MS) == b""
            process.send_signal(signal.SIGKILL)
            error = await error_of(call)
            assert isinstance(error, LinkLost)
            assert error.outcome == "unknown"
            async with asyncio.timeout(PATIENCE_S):
                assert isinstance(await link.wait_closed(), LinkLost)
            assert isinstance(await error_of(here.connect(address)), Unreachable)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_a_stopped_process_is_found_and_the_link_of_another_lives() -> None:
    process, address = await started()
    try:
        options = TransportOptions(keep_alive_ms=30)
        here = TcpTransport(peer("here"), token=b"token", options=options)
        other = TcpTransport(peer("other"), token=b"token")
        async with here, other:
            living = await here.connect(await other.listen(Recorder()))
            link = await here.connect(address)
            process.send_signal(signal.SIGSTOP)
            error = await error_of(link.call("echo", b"", LONG_MS))
            assert isinstance(error, LinkLost)
            assert "nothing came for 90 ms" in str(error)
            assert await living.call("echo", b"lives", LONG_MS) == b"lives"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_a_mirror_proves_nothing() -> None:
    """A listener that sends back what comes gives the node its own proof."""

    class Mirror(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    server = await asyncio.get_running_loop().create_server(Mirror, "127.0.0.1", 0)
    async with server, TcpTransport(peer("one"), token=b"token") as one:
        port = server.sockets[0].getsockname()[1]
        error = await error_of(one.connect(f"127.0.0.1:{port}"))
        assert isinstance(error, Refused)
        assert error.reason == "token"
