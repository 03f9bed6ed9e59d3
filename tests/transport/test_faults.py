"""A network that drops, delays, duplicates and reorders: calls run once at most, and each of them ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from perdure.ports.transport import (
    DeadlineExceeded,
    Link,
    LinkLost,
    Overloaded,
    TransportOptions,
    Unreachable,
)
from perdure.testing import ManualClock
from perdure.testing.conformance.transport import Recorder, peer
from perdure.testing.conformance.transport.scene import LONG_MS, error_of
from perdure.transport.inprocess import Faults, InProcessNetwork, InProcessTransport

BAD = Faults(drop=0.1, duplicate=0.15, reorder=0.2, delay_ms=(0, 30))
CALLS = 300


@asynccontextmanager
async def linked(
    network: InProcessNetwork, options: TransportOptions | None = None
) -> AsyncGenerator[tuple[Link, Recorder, Recorder]]:
    options = options or TransportOptions()
    one, two = Recorder(), Recorder()
    a = InProcessTransport(peer("a"), network, options=options)
    b = InProcessTransport(peer("b"), network, options=options)
    connecting = asyncio.create_task(a.connect(await b.listen(two), one))
    # Time moves here, also for the handshake and the farewell.
    clock = network.clock
    while not connecting.done():
        await step(clock)
    try:
        yield await connecting, one, two
    finally:
        closing = asyncio.gather(a.close(), b.close())
        while not closing.done():
            await step(clock)


async def step(clock: object, ms: int = 5) -> None:
    """Let everything run that can, and then a little time pass."""
    for _ in range(5):
        await asyncio.sleep(0)
    if isinstance(clock, ManualClock):
        clock.advance(ms)


async def played(seed: int) -> tuple[list[str], list[bytes], list[bytes]]:
    """Calls and tells on a bad network: the end of each call, and what the peer ran and noted."""
    clock = ManualClock()
    network = InProcessNetwork(seed, clock)
    async with linked(network) as (link, _, two):
        network.use(BAD)
        calls = []
        for number in range(CALLS):
            body = str(number).encode()
            kind = ("echo", "later")[number % 2]
            calls.append(asyncio.create_task(link.call(kind, body, 400)))
            link.tell("mark", body)
            if number % 10 == 0:
                await step(clock)
        while not all(call.done() for call in calls):
            await step(clock)
        network.use(Faults())
        ends = []
        for number, call in enumerate(calls):
            error = call.exception()
            if error is None:
                assert call.result() == str(number).encode()
                ends.append("answered")
            else:
                ends.append(type(error).__name__)
        return ends, [request.body for request in two.requests], [body for _, body in two.told]


@pytest.mark.parametrize("seed", range(5))
async def test_each_call_runs_once_at_most_and_ends(seed: int) -> None:
    ends, ran, told = await played(seed)
    assert set(ends) == {"answered", "DeadlineExceeded"}
    assert max(Counter(ran).values()) == 1
    for number, end in enumerate(ends):
        if end == "answered":
            assert str(number).encode() in ran
    # The network was as bad as it should be: it lost, doubled and mixed up what was told.
    assert 0 < len(set(told)) < CALLS
    assert max(Counter(told).values()) == 2
    first = list(dict.fromkeys(told))
    assert first != sorted(first, key=int)


async def test_a_seed_gives_the_same_faults_again() -> None:
    assert await played(7) == await played(7)
    assert await played(7) != await played(8)


async def test_a_partition_ends_links_by_silence_and_heals() -> None:
    clock = ManualClock()
    network = InProcessNetwork(clock=clock)
    async with linked(network) as (link, one, two):
        call = asyncio.create_task(link.call("hold", b"", LONG_MS))
        await two.until(lambda: bool(two.requests))
        network.partition({"a"})
        for _ in range(5):
            await step(clock, 5_000)
        assert isinstance(call.exception(), LinkLost)
        assert [type(error) for error in (*one.ended, *two.ended)] == [LinkLost, LinkLost]
        third = InProcessTransport(peer("a"), network)
        address = "inprocess:1"
        connecting = asyncio.create_task(third.connect(address, timeout_ms=1_000))
        for _ in range(2):
            await step(clock, 600)
        assert isinstance(await error_of(connecting), Unreachable)
        network.heal()
        again = await third.connect(address)
        assert await again.call("echo", b"again", LONG_MS) == b"again"
        closing = asyncio.create_task(third.close())
        while not closing.done():
            await step(clock)


async def test_a_node_that_dies_ends_its_links_at_once() -> None:
    network = InProcessNetwork()
    async with linked(network) as (link, one, two):
        call = asyncio.create_task(link.call("hold", b"", LONG_MS))
        await two.until(lambda: bool(two.requests))
        network.cut("b")
        error = await error_of(call)
        assert isinstance(error, LinkLost)
        assert error.outcome == "unknown"
        assert [type(end) for end in one.ended] == [LinkLost]


async def test_a_call_that_was_never_written_cannot_have_run() -> None:
    network = InProcessNetwork()
    async with linked(network, TransportOptions(queue_bytes=1 << 20)) as (link, _, two):
        network.stall("b")
        while link.dropped == 0:
            link.tell("mark", bytes(100_000))
        # There is room for small calls again when something has been taken. None is here.
        error = await error_of(link.call("echo", bytes(100_000), LONG_MS))
        assert isinstance(error, Overloaded)
        small = asyncio.create_task(link.call("echo", b"", LONG_MS))
        await asyncio.sleep(0)
        network.cut("b")
        lost = await error_of(small)
        assert isinstance(lost, LinkLost)
        assert lost.outcome == "none"
        assert two.requests == []


async def test_a_call_whose_time_is_up_before_it_is_written_is_not_run() -> None:
    clock = ManualClock()
    network = InProcessNetwork(clock=clock)
    async with linked(network) as (link, _, two):
        network.stall("b")
        for _ in range(20):
            link.tell("mark", bytes(100_000))
        late = asyncio.create_task(link.call("echo", b"late", 1_000))
        early = asyncio.create_task(link.call("echo", b"early", 60_000))
        await step(clock, 3_000)
        assert isinstance(await error_of(late), DeadlineExceeded)
        network.resume("b")
        while not early.done():
            await step(clock)
        assert [request.body for request in two.requests] == [b"early"]
        # It waited for three seconds, and these are not given back to it.
        assert two.requests[0].deadline_ms < clock.now_ms() + 57_001


async def test_a_node_that_stood_still_does_not_run_what_was_given_up_meanwhile() -> None:
    clock = ManualClock()
    network = InProcessNetwork(clock=clock)
    async with linked(network) as (link, _, two):
        network.stall("b")
        late = asyncio.create_task(link.call("echo", b"late", 1_000))
        await step(clock, 2_000)
        assert isinstance(await error_of(late), DeadlineExceeded)
        await step(clock)
        network.resume("b")
        next_call = asyncio.create_task(link.call("echo", b"next", 60_000))
        while not next_call.done():
            await step(clock)
        assert [request.body for request in two.requests] == [b"next"]


async def test_a_peer_that_asks_and_does_not_read_loses_its_link() -> None:
    options = TransportOptions(queue_messages=100, queue_bytes=1 << 20, calls=10)
    network = InProcessNetwork()
    async with linked(network, options) as (link, _, two):
        # The peer of `two` reads nothing, and goes on asking for large answers.
        network.stall("a")
        asked = 0
        calls = []
        while two.ended == [] and asked < 2_000:
            asked += 1
            calls.append(asyncio.create_task(link.call("echo", bytes(50_000), LONG_MS)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        (error,) = two.ended
        assert isinstance(error, LinkLost)
        assert "does not read" in str(error)
        # What ran is bounded by the way to the peer and the queue, not by what was asked.
        assert len(two.requests) < 100
        network.resume("a")
        # Answers that were on their way arrive.
        ends = [type(await error_of(call)) for call in calls]
        assert set(ends) == {type(None), LinkLost}
