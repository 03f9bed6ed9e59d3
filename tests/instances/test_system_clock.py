"""The machine's clock may be set, forward and back, and the machine may be suspended: no timer is held up by that.

The machine of these tests is made up: its event loop jumps to whatever it waits for, so that an hour passes at once.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from perdure import ActivityTimeout, App, Node, NodeOptions, RetryPolicy
from perdure.ports.clock import AHEAD_MAX_MS, LOOK_MS, SystemClock
from perdure.store.memory import MemoryStore

T = TypeVar("T")

NS = 1_000_000_000
START_NS = 1_700_000_000 * NS
HOUR = 3_600.0


class Machine:
    """The clocks of a machine."""

    def __init__(self) -> None:
        self.ran_ns = 0
        self.slept_ns = 0
        self.set_ns = 0

    def boot_ns(self) -> int:
        return self.ran_ns + self.slept_ns

    def wall_ns(self) -> int:
        return START_NS + self.boot_ns() + self.set_ns

    def set_wall(self, by_s: float) -> None:
        self.set_ns += round(by_s * NS)

    def suspend(self, for_s: float) -> None:
        self.slept_ns += round(for_s * NS)

    def clock(self) -> SystemClock:
        return SystemClock(self.wall_ns, self.boot_ns)


class Waits(selectors.DefaultSelector):
    """What an event loop waits with. A wait takes no time, and moves the machine's clocks by as much as it would."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select()
        self._machine.ran_ns += round(timeout * NS)
        return super().select(0)


class MachineLoop(asyncio.SelectorEventLoop):
    """An event loop whose time, as that of a real one, does not count suspension."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(Waits(machine))
        self._machine = machine

    def time(self) -> float:
        return self._machine.ran_ns / NS


def on(machine: Machine, work: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await work()

    with asyncio.Runner(loop_factory=lambda: MachineLoop(machine)) as runner:
        return runner.run(whole())


async def rung(machine: Machine, clock: SystemClock, at_ms: int) -> float:
    """Wait for an alarm: how many seconds the machine ran until it rang."""
    began_ns, over = machine.ran_ns, asyncio.Event()
    clock.call_at(at_ms, over.set)
    await over.wait()
    assert clock.now_ms() >= at_ms
    return (machine.ran_ns - began_ns) / NS


# ---------------------------------------------------------------- the clock


def test_an_alarm_rings_at_its_time() -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock.now_ms() == START_NS // 1_000_000
    for delay_ms in (0, 1, 4_999, 5_000, 5_001, 90_000_000):
        took_s = on(machine, lambda: rung(machine, clock, clock.now_ms() + delay_ms))
        assert took_s == pytest.approx(delay_ms / 1000, abs=0.001)


@pytest.mark.parametrize("back_s", [15.0, HOUR, 86_400.0, 30 * 86_400.0])
def test_a_wall_clock_that_is_set_back_holds_up_no_alarm(back_s: float) -> None:
    machine = Machine()
    clock = machine.clock()

    async def work() -> float:
        at_ms = clock.now_ms() + 1_000
        machine.set_wall(-back_s)
        return await rung(machine, clock, at_ms)

    assert 1 <= on(machine, work) <= 1.2


def test_an_alarm_of_before_the_step_back_rings_in_its_time() -> None:
    machine = Machine()
    clock = machine.clock()

    async def work() -> float:
        ringing = asyncio.create_task(rung(machine, clock, clock.now_ms() + 60_000))
        await asyncio.sleep(10)
        machine.set_wall(-HOUR)
        return await ringing

    assert 60 <= on(machine, work) <= 67


def test_time_does_not_go_back_and_meets_the_wall_clock_again() -> None:
    machine = Machine()
    clock = machine.clock()

    async def work() -> None:
        before_ms = clock.now_ms()
        machine.set_wall(-60)
        for _ in range(601):
            now_ms = clock.now_ms()
            assert before_ms <= now_ms
            before_ms = now_ms
            await asyncio.sleep(1)

    on(machine, work)
    assert abs(clock.now_ms() - machine.wall_ns() // 1_000_000) <= 10


@pytest.mark.parametrize("how", ["set forward", "suspended"])
def test_what_has_come_due_meanwhile_rings_within_seconds(how: str) -> None:
    machine = Machine()
    clock = machine.clock()

    async def work() -> float:
        ringing = asyncio.create_task(rung(machine, clock, clock.now_ms() + 3_600_000))
        await asyncio.sleep(1)
        if how == "suspended":
            machine.suspend(2 * HOUR)
        else:
            machine.set_wall(2 * HOUR)
        return await ringing

    assert on(machine, work) <= 1 + LOOK_MS / 1000


def test_a_cancelled_alarm_does_not_ring_and_an_idle_clock_waits_for_nothing() -> None:
    machine = Machine()
    clock = machine.clock()
    seen: list[str] = []

    async def work() -> None:
        for delay_ms in (0, 10, 60_000):
            clock.call_at(clock.now_ms() + delay_ms, lambda: seen.append("rung")).cancel()
        later = clock.call_at(clock.now_ms() + 60_000, lambda: seen.append("rung"))
        await asyncio.sleep(30)  # it has looked at the clock meanwhile
        later.cancel()
        await asyncio.sleep(60)
        waits_s = asyncio.get_running_loop().time()
        await asyncio.sleep(86_400)
        assert asyncio.get_running_loop().time() - waits_s == pytest.approx(86_400)

    on(machine, work)
    assert seen == []


def test_each_step_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clock = machine.clock()
    with caplog.at_level(logging.WARNING, "perdure.clock"):
        for _ in range(5):
            machine.suspend(1)
            machine.set_wall(0.2)  # the small corrections of every day are not worth a word
            clock.now_ms()
        assert caplog.messages == []
        machine.set_wall(-90)
        for _ in range(5):
            machine.suspend(1)
            clock.now_ms()
        (back,) = caplog.messages
        assert "set back" in back
        assert "90.0 s behind" in back
        caplog.clear()
        machine.set_wall(-30)
        clock.now_ms()
        clock.now_ms()
        assert len(caplog.messages) == 1
        caplog.clear()
        machine.set_wall(HOUR)
        clock.now_ms()
        clock.now_ms()
        (forward,) = caplog.messages
        assert "set forward" in forward


# ---------------------------------------------------------------- a node on it


def make_app(tries: list[int]) -> App:
    app = App("clock")

    @app.activity
    async def hang() -> None:
        await asyncio.sleep(HOUR)

    @app.activity
    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 2:
            raise ValueError("the first attempt")
        return "tried again"

    @app.workflow
    async def nap(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "woke"

    @app.workflow
    async def impatient() -> str:
        try:
            await hang.with_options(timeout=1)()
        except ActivityTimeout:
            return "timed out"
        return "?"

    @app.workflow
    async def stubborn() -> str:
        return await flaky.with_options(retry=RetryPolicy(initial_interval=0.5))()

    return app


def test_a_node_on_a_machine_whose_clock_is_set_back_goes_on() -> None:
    machine = Machine()

    async def work() -> list[Any]:
        async with MemoryStore() as store, Node(make_app([]), store, clock=machine.clock()) as node:
            await node.client.workflow("nap", id="before").start(5.0)
            machine.set_wall(-HOUR)
            calls = (
                node.client.workflow("nap", id="nap").run(1.0),
                node.client.workflow("impatient", id="impatient").run(),
                node.client.workflow("stubborn", id="stubborn").run(),
                node.client.get("before").result(),
            )
            return await asyncio.gather(*calls)

    assert on(machine, work) == ["woke", "timed out", "tried again", "woke"]
    assert machine.ran_ns / NS < 6


@pytest.mark.parametrize("how", ["set forward", "suspended"])
def test_a_node_on_a_machine_that_comes_back_late_fires_what_is_due(how: str) -> None:
    machine = Machine()

    async def work() -> Any:
        async with MemoryStore() as store, Node(make_app([]), store, clock=machine.clock()) as node:
            handle = node.client.workflow("nap", id="nap")
            await handle.start(HOUR)
            if how == "suspended":
                machine.suspend(2 * HOUR)
            else:
                machine.set_wall(2 * HOUR)
            return await handle.result()

    assert on(machine, work) == "woke"
    assert machine.ran_ns / NS <= LOOK_MS / 1000 + 0.1


def test_a_wall_clock_that_is_set_ends_no_attempt() -> None:
    """A timeout says how long a function may take, and the function runs no longer for it."""
    machine, app = Machine(), App("attempts")

    began = asyncio.Event()

    @app.activity(timeout=30, heartbeat_timeout=20, start_timeout=15)
    async def work() -> str:
        began.set()
        await asyncio.sleep(10)
        return "worked"

    @app.workflow
    async def calls() -> str:
        try:
            return await work()
        except ActivityTimeout as error:
            return str(error)

    async def run() -> list[str]:
        options = NodeOptions(activities=1)
        async with (
            MemoryStore() as store,
            Node(app, store, options=options, clock=machine.clock()) as node,
        ):
            handles = [node.client.workflow(calls, id=f"c{n}") for n in range(2)]
            for handle in handles:
                await handle.start()  # the second one waits for the slot of the first
            await began.wait()
            machine.set_wall(24 * HOUR)
            return [await handle.result() for handle in handles]

    assert on(machine, run) == ["worked", "worked"]


def test_a_node_goes_on_from_the_time_of_the_one_before() -> None:
    machine = Machine()

    async def work() -> None:
        async with MemoryStore() as store:
            async with Node(make_app([]), store, clock=machine.clock()) as node:
                await node.client.workflow("nap", id="nap").start(5.0)
            machine.set_wall(-86_400)
            async with Node(make_app([]), store, clock=machine.clock()) as node:
                assert await node.client.get("nap").result() == "woke"

    on(machine, work)
    assert machine.ran_ns / NS < 7


def test_a_time_of_another_age_is_not_followed_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine()

    async def work() -> None:
        async with MemoryStore() as store:
            machine.set_wall(40 * 86_400)
            async with Node(make_app([]), store, clock=machine.clock()) as node:
                await node.client.workflow("nap", id="nap").start(5.0)
            machine.set_wall(-40 * 86_400)
            clock = machine.clock()
            async with Node(make_app([]), store, clock=clock):
                assert clock.now_ms() * 1_000_000 < machine.wall_ns() + AHEAD_MAX_MS

    with caplog.at_level(logging.ERROR, "perdure.clock"):
        on(machine, work)
    (said,) = caplog.messages
    assert "40.0 days ahead" in said
