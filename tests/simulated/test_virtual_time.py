"""The time of a loop that jumps, and processes on it that are stopped and killed."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from perdure.errors import StoreUnavailable, UsageError
from perdure.testing.virtual_process import VirtualProcess
from perdure.testing.virtual_time import BEGIN_NS, VirtualTime, run_virtually


def test_timers_ring_in_their_order_and_take_no_time() -> None:
    rung: list[float] = []

    async def ring(after_s: float) -> None:
        await asyncio.sleep(after_s)
        rung.append(after_s)

    async def main(virtual: VirtualTime) -> None:
        await asyncio.gather(ring(86_400), ring(1), ring(3_600))
        assert virtual.passed_s == pytest.approx(86_400, abs=1)
        assert virtual.clock().now_ms() == pytest.approx(BEGIN_NS / 1e6 + 86_400_000, abs=1_000)
        assert virtual.clock().boot_ms() == pytest.approx(86_400_000, abs=1_000)

    began_s = time.perf_counter()
    run_virtually(main)
    assert rung == [1, 3_600, 86_400]
    assert time.perf_counter() - began_s < 30


def test_a_loop_that_is_never_idle_does_not_make_time_stand_still() -> None:
    async def main(virtual: VirtualTime) -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(1, over.set)
        while not over.is_set():
            await asyncio.sleep(0)

    run_virtually(main)


def test_threads_take_real_time() -> None:
    async def main(virtual: VirtualTime) -> None:
        async with asyncio.timeout(20):
            await asyncio.to_thread(time.sleep, 0.1)
        assert 0.05 <= virtual.passed_s < 20
        await asyncio.sleep(3_600)  # and no longer than they run
        assert virtual.passed_s > 3_600

    run_virtually(main)


def test_sockets_take_real_time() -> None:
    async def main(virtual: VirtualTime) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        sender = threading.Timer(0.1, lambda: theirs.send(b"x"))
        sender.start()
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"x"
        sender.join()
        ours.close()
        theirs.close()

    run_virtually(main)


def test_a_loop_that_is_not_of_asyncio_is_refused() -> None:
    class Other(asyncio.AbstractEventLoop):
        pass

    with (
        pytest.raises(UsageError, match="Other\\) cannot be virtual"),
        VirtualTime().on(Other()),  # type: ignore[abstract]
    ):
        pass


# ---------------------------------------------------------------- processes


def test_a_process_that_is_stopped_does_nothing_and_then_goes_on_in_order() -> None:
    done: list[str] = []

    async def work(name: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        done.append(name)

    async def both() -> None:
        await asyncio.gather(work("b", 2), work("a", 1), work("c", 50))

    async def main(virtual: VirtualTime) -> None:
        process = VirtualProcess("node")
        running = asyncio.ensure_future(process.run(both))
        await asyncio.sleep(0.5)
        process.stop()
        await asyncio.sleep(10)
        assert done == []
        process.go_on()
        await asyncio.sleep(0.1)
        assert done == ["a", "b"]
        await running
        assert done == ["a", "b", "c"]
        assert virtual.passed_s == pytest.approx(50, abs=1)

    run_virtually(main)


def test_what_is_cancelled_while_the_process_is_stopped_does_not_happen() -> None:
    rung: list[str] = []
    handles: list[asyncio.Handle] = []

    async def arm() -> None:
        loop = asyncio.get_running_loop()
        handles.append(loop.call_later(1, rung.append, "timer"))
        handles.append(loop.call_later(1, rung.append, "kept"))

    async def main(virtual: VirtualTime) -> None:
        process = VirtualProcess("node")
        await process.run(arm)
        process.stop()
        await asyncio.sleep(2)
        handles[0].cancel()
        process.go_on()
        await asyncio.sleep(1)
        assert rung == ["kept"]

    run_virtually(main)


def test_a_process_that_is_stopped_again_at_once_keeps_what_it_has() -> None:
    done: list[int] = []

    async def steps() -> None:
        for number in range(3):
            done.append(number)
            await asyncio.sleep(0)

    async def main(virtual: VirtualTime) -> None:
        process = VirtualProcess("node")
        process.stop()
        running = asyncio.ensure_future(process.run(steps))
        await asyncio.sleep(1)
        process.go_on()
        process.stop()
        await asyncio.sleep(1)
        assert done == []
        process.go_on()
        await running
        assert done == [0, 1, 2]

    run_virtually(main)


def test_what_a_thread_asks_of_a_process_that_is_stopped_waits() -> None:
    called: list[str] = []

    async def main(virtual: VirtualTime) -> None:
        process = VirtualProcess("node")
        is_stopped = threading.Event()

        async def ask() -> None:
            loop = asyncio.get_running_loop()

            def from_thread() -> None:
                assert is_stopped.wait(10)
                loop.call_soon_threadsafe(called.append, "thread")

            await asyncio.to_thread(from_thread)

        asking = asyncio.ensure_future(process.run(ask))
        await asyncio.sleep(0.01)
        process.stop()
        is_stopped.set()
        await asyncio.sleep(3_600)
        assert called == []
        process.go_on()
        await asking
        assert called == ["thread"]

    run_virtually(main)


def test_a_caller_that_gives_up_cancels_what_it_asked_for() -> None:
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def main(virtual: VirtualTime) -> None:
        process = VirtualProcess("node")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await process.run(hang)
        await asyncio.sleep(0)
        assert ended == ["cancelled"]

    run_virtually(main)


def test_the_callers_of_a_process_that_is_killed_are_told() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main(virtual: VirtualTime) -> None:
        process = VirtualProcess("node-7")
        waiting = asyncio.ensure_future(process.run(hang))
        await asyncio.sleep(1)
        process.kill()
        with pytest.raises(StoreUnavailable, match="'node-7' was killed") as meanwhile:
            await waiting
        assert meanwhile.value.outcome == "unknown"
        with pytest.raises(StoreUnavailable) as behind:
            await process.run(hang)
        assert behind.value.outcome == "none"

    run_virtually(main)
