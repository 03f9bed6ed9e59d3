"""Peers that send nothing, half a frame, garbage or too much, or never read: each is dropped, with a record."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc

import pytest
from hostile_peers import hung_up, serving

from perdure.ports.transport import (
    Envelope,
    FrameTooLarge,
    Garbage,
    LinkLost,
    TransportOptions,
    Unreachable,
)
from perdure.testing import ManualClock
from perdure.testing.conformance.transport import peer
from perdure.testing.conformance.transport.scene import PATIENCE_S, error_of
from perdure.transport.frame import GREETING_BYTES_MAX, encode, framed
from perdure.transport.handshake import Hello, _encoder
from perdure.transport.tcp import TcpTransport

HELLO = _encoder.encode(Hello("perdure", (1, 1), bytes(32)))

STRANGERS = {
    "a web browser": (b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n", "are allowed here"),
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "are allowed"),
    "zeros": (bytes(1_000), "a frame without content"),
    "an oversized frame": ((1 << 31).to_bytes(4, "big"), "2,147,483,648 bytes came"),
    "a frame that is large for a greeting": (
        (GREETING_BYTES_MAX + 1).to_bytes(4, "big"),
        "are allowed here",
    ),
    "no message": (framed(b"\xc1"), "the handshake is none of Perdure"),
    "another protocol's greeting": (
        framed(_encoder.encode(Hello("raft", (1, 1), bytes(32)))),
        "no greeting",
    ),
    "a short nonce": (framed(_encoder.encode(Hello("perdure", (1, 1), b"n"))), "no greeting"),
    "a proof without a greeting": (framed(_encoder.encode([1, b"", b""])), "begins with a proof"),
    "two greetings": (framed(HELLO) * 2, "no greeting"),
    "an envelope before the proof": (
        framed(HELLO) + encode([Envelope("mark")], 1_000),
        "the handshake is none of Perdure",
    ),
    "a proof without knowledge": (
        framed(HELLO) + framed(_encoder.encode([1, b"about", bytes(32)])),
        "different tokens",
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_stranger_is_dropped_with_a_record(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, reason = STRANGERS[name]
    async with serving() as served:
        stranger = await served.stranger()
        await asyncio.get_running_loop().sock_sendall(stranger, data)
        said = await hung_up(stranger)
        # Nothing of the store or of the names of nodes.
        assert b"store-1" not in said
        assert b"listener" not in said
        assert len(said) < 500
        await served.works()
        assert len(served.seen.links) == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.name == "perdure.transport"
    assert "was dropped" in record.getMessage()
    assert reason in record.getMessage()


@pytest.mark.parametrize("data", [b"", b"\0\0", framed(HELLO)[:-1], framed(HELLO)])
async def test_a_stranger_that_says_too_little_has_the_time_of_a_handshake(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with serving(clock=clock) as served:
        stranger = await served.stranger()
        await asyncio.get_running_loop().sock_sendall(stranger, data)
        await served.works()
        await served.works()
        clock.advance(TransportOptions().handshake_ms)
        await hung_up(stranger)
        await served.works()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "has not shown who it is within 5,000 ms" in record.getMessage()


async def test_more_connections_than_may_be_are_dropped_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(TransportOptions(links=3)) as served:
        strangers = [await served.stranger() for _ in range(4)]
        await hung_up(strangers.pop())
        await hung_up(strangers.pop())
        assert "as many as may be" in caplog.text
        await served.works()
        # A place is free again when a connection has ended.
        for stranger in strangers:
            stranger.close()
        async with (
            TcpTransport(peer("late"), token=b"a token") as late,
            asyncio.timeout(PATIENCE_S),
        ):
            while isinstance(await error_of(late.connect(served.address)), Unreachable):
                pass
        assert [link.peer.node.node for link in served.seen.links] == ["neighbour", "late"]


MEMBERS = {
    "garbage": (framed(b"\xc1\xc1"), Garbage, "holds no envelopes"),
    "no envelopes": (framed(b"\x01"), Garbage, "holds no envelopes"),
    "an oversized frame": ((17 << 20).to_bytes(4, "big"), FrameTooLarge, "16,777,216 are allowed"),
    "a failure that cannot be read": (
        encode([Envelope(".failure", 1, body=b"\xc1")], 1_000),
        Garbage,
        "a failure that cannot be read",
    ),
    "a kind that is no text": (
        framed(b"\x91\x94\xa1\xff\x00\x00\xc4\x00"),
        Garbage,
        "no envelopes",
    ),
}


@pytest.mark.parametrize("name", MEMBERS)
async def test_a_member_that_sends_no_envelopes_loses_its_link(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, error, reason = MEMBERS[name]
    async with serving() as served:
        member = await served.member()
        await served.seen.until(lambda: len(served.seen.links) == 2)
        await asyncio.get_running_loop().sock_sendall(member, data)
        await served.seen.until(lambda: len(served.seen.ended) == 1)
        assert isinstance(served.seen.ended[0], error)
        assert reason in str(served.seen.ended[0])
        assert reason in caplog.text
        await hung_up(member)
        await served.works()


async def test_kinds_of_a_later_version_are_passed_over() -> None:
    async with serving() as served:
        member = await served.member()
        data = encode([Envelope(".later", 7, 1, b"?"), Envelope("mark", body=b"here")], 1_000)
        await asyncio.get_running_loop().sock_sendall(member, data)
        await served.seen.until(lambda: served.seen.told == [("mark", b"here")])
        member.close()
        await served.seen.until(lambda: len(served.seen.ended) == 1)


async def test_half_a_frame_and_then_silence_ends_the_link() -> None:
    clock = ManualClock()
    async with serving(clock=clock) as served:
        member = await served.member()
        await served.seen.until(lambda: len(served.seen.links) == 2)
        await asyncio.get_running_loop().sock_sendall(
            member, (1 << 20).to_bytes(4, "big") + b"half"
        )
        for _ in range(4):
            await served.works()
            clock.advance(5_000)
        await served.seen.until(lambda: len(served.seen.ended) == 1)
        assert "nothing came for 15,000 ms" in str(served.seen.ended[0])
        await hung_up(member)
        await served.works()


async def test_a_member_that_never_reads_is_dropped_within_bounded_memory() -> None:
    """It goes on giving signs of life, so only its not reading tells."""
    clock = ManualClock()
    options = TransportOptions(queue_bytes=4 << 20)
    block = bytes(256 << 10)
    async with serving(options, clock=clock) as served:
        member = await served.member()
        await served.seen.until(lambda: len(served.seen.links) == 2)
        link = served.seen.links[1]
        tracemalloc.start()
        # Far more than the system and the queue take, with the loop going round meanwhile.
        for _ in range(400):
            link.tell("mark", bytes(block))
            await asyncio.sleep(0)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert link.dropped > 200
        assert held < 8 << 20
        for _ in range(5):
            await asyncio.get_running_loop().sock_sendall(
                member, encode([Envelope(".ping")], 1_000)
            )
            await served.works()
            clock.advance(5_000)
        await served.seen.until(lambda: len(served.seen.ended) == 1)
        assert isinstance(served.seen.ended[0], LinkLost)
        assert "has read nothing for 15,000 ms" in str(served.seen.ended[0])
        await served.works()
        member.close()


async def test_a_peer_that_reads_nothing_does_not_slow_another_link() -> None:
    async with serving() as served:
        member = await served.member()
        await served.seen.until(lambda: len(served.seen.links) == 2)
        slow = served.seen.links[1]
        while slow.tell("mark", bytes(256 << 10)):
            pass
        call = asyncio.create_task(slow.call("echo", b"", 60_000))
        for _ in range(100):
            await served.works()
        assert served.seen.links[0].dropped == 0
        assert slow.dropped == 1
        call.cancel()
        member.close()
