"""A turn that exceeds its limit is interrupted, reported with its line, and the exception never leaves the turn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import pdb  # noqa: T100
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from perdure.guard.watchdog import StuckTurn, TurnTooLong, Watchdog
from perdure.kernel.loop.disposal import dispose
from perdure.kernel.loop.entered import Entered
from perdure.kernel.loop.loop import Nobody, WorkflowLoop

LIMIT_MS = 60
TICK_MS = 10


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog(LIMIT_MS, TICK_MS)
    yield watchdog
    watchdog.close()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The collector is off, as in a workflow's turn. The exception could land in a callback of it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    event = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        event.wait(0.002)


def spin() -> None:
    while True:
        pass


def spin_for(seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        pass


def stopped(report: StuckTurn | None) -> StuckTurn:
    assert report is not None
    return report


def test_an_endless_loop_is_interrupted_and_its_line_is_reported(watchdog: Watchdog) -> None:
    report = stopped(watchdog.run("order-1", spin))
    assert report.unit == "order-1"
    # The upper bound allows for a busy machine; the lower one is the promise.
    assert LIMIT_MS <= report.elapsed_ms < 100 * LIMIT_MS
    line = spin.__code__.co_firstlineno
    assert re.fullmatch(rf"{re.escape(__file__)}:({line + 1}|{line + 2}) spin", report.stack[-1])
    assert any("test_an_endless_loop" in frame for frame in report.stack[:-1]), "outermost first"


def test_it_is_interrupted_within_the_limit_and_two_ticks() -> None:
    """Counted in the ticks of the watchdog, which a busy machine stretches as it stretches the turn."""
    watchdog = Watchdog(limit_ms=100, tick_ms=20)
    try:
        stopped(watchdog.run("order-1", spin))
        assert watchdog.ticks <= 100 // 20 + 2
    finally:
        watchdog.close()


def test_a_turn_within_the_limit_is_left_alone(watchdog: Watchdog) -> None:
    done: list[int] = []
    assert watchdog.run("order-1", lambda: done.append(1)) is None
    assert done == [1]
    assert not watchdog.fired


def test_another_exception_of_the_turn_passes_through(watchdog: Watchdog) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        watchdog.run("order-1", fail)
    assert watchdog.run("order-2", int) == 0  # what the turn returns


def test_code_that_swallows_the_exception_may_go_on_for_one_more_limit(watchdog: Watchdog) -> None:
    swallowed: list[type[BaseException]] = []

    def hostile() -> None:
        try:
            spin()
        except BaseException as error:
            swallowed.append(type(error))
            spin_for(LIMIT_MS / 4000)
        swallowed.append(int)

    report = stopped(watchdog.run("order-1", hostile))
    assert swallowed == [TurnTooLong, int], "it may clean up"
    assert report.elapsed_ms >= LIMIT_MS
    assert report.stack[-1].endswith(" spin")


def swallows_in_a_loop() -> None:
    while True:
        try:
            spin()
        except BaseException:
            continue


def swallows_and_works() -> None:
    counted = 0
    while True:
        try:
            while True:
                counted += 1
        except BaseException as error:
            counted += len(str(error))
            continue
        finally:
            counted += 1


def swallows_at_each_depth(depth: int = 20) -> None:
    while True:
        try:
            if depth:
                swallows_at_each_depth(depth - 1)
            else:
                spin()
        except BaseException:
            continue


class SwallowsOnExit:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> bool:
        return True


def swallows_in_a_manager() -> None:
    while True:
        with SwallowsOnExit():
            spin()


def swallows_in_a_suppress() -> None:
    while True:
        with contextlib.suppress(BaseException):
            spin()


def swallows_and_calls_again() -> None:
    try:
        spin()
    except BaseException:
        swallows_and_calls_again()


STUBBORN = [
    swallows_in_a_loop,
    swallows_and_works,
    swallows_at_each_depth,
    swallows_in_a_manager,
    swallows_in_a_suppress,
    swallows_and_calls_again,
]


@pytest.mark.parametrize("stubborn", STUBBORN, ids=lambda shape: shape.__name__)
def test_code_that_swallows_it_again_and_again_is_stopped(
    watchdog: Watchdog, stubborn: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    report = stopped(watchdog.run("order-1", stubborn))
    assert report.elapsed_ms >= 2 * LIMIT_MS
    assert not caplog.records, "it reacts, so nobody is told that it does not"
    assert watchdog.run("order-2", int) == 0  # what the turn returns
    next_turn = watchdog.run("order-3", partial(spin_for, LIMIT_MS / 4000))
    # A busy machine may stretch it beyond the limit; whatever is left over of the first turn would stop it before.
    assert next_turn is None or next_turn.elapsed_ms >= LIMIT_MS, "the next turn is left alone"


@pytest.mark.parametrize("stubborn", STUBBORN, ids=lambda shape: shape.__name__)
def test_a_task_that_swallows_it_again_and_again_is_stopped(
    watchdog: Watchdog, stubborn: Callable[[], None]
) -> None:
    async def workflow() -> None:
        await asyncio.sleep(0)
        stubborn()

    loop = WorkflowLoop(Nobody())  # type: ignore[abstract]

    def turn() -> None:
        with Entered(loop):
            loop.create_task(workflow())
            loop.drain()

    async def node() -> None:
        task, running = asyncio.current_task(), asyncio.get_running_loop()
        assert stopped(watchdog.run("order-1", turn)).unit == "order-1"
        assert asyncio.get_running_loop() is running
        assert asyncio.current_task() is task
        assert gc.isenabled()
        await asyncio.sleep(0)
        with Entered(loop):
            dispose(loop)

    asyncio.run(node())


def test_a_task_that_swallows_it_and_awaits_is_not_stepped_again(watchdog: Watchdog) -> None:
    """The drain ends there: not the next callback of the same batch, nor what becomes ready then."""
    began: list[str] = []

    async def hostile() -> None:
        while True:
            began.append("hostile")
            try:
                spin()
            except BaseException:
                await asyncio.sleep(0)

    async def behind() -> None:
        began.append("behind")

    loop = WorkflowLoop(Nobody())  # type: ignore[abstract]

    def turn() -> None:
        with Entered(loop):
            loop.create_task(hostile())
            loop.create_task(behind())
            loop.drain()

    assert stopped(watchdog.run("order-1", turn)).elapsed_ms < 100 * LIMIT_MS
    assert began == ["hostile"]
    dispose(loop)


def test_a_turn_that_swallows_and_returns_is_still_reported(watchdog: Watchdog) -> None:
    seen: list[bool] = []

    def hostile() -> None:
        try:
            spin()
        except TurnTooLong:
            seen.append(watchdog.fired)

    assert stopped(watchdog.run("order-1", hostile)).unit == "order-1"
    assert seen == [True]
    assert not watchdog.fired
    assert (
        watchdog.run("order-2", int) == 0
    )  # what the turn returns, "the report belongs to one turn"


def test_the_exception_passes_through_a_task(watchdog: Watchdog) -> None:
    async def workflow() -> None:
        spin()

    loop = asyncio.new_event_loop()
    task = loop.create_task(workflow())
    try:
        report = stopped(watchdog.run("order-1", lambda: loop.run_until_complete(task)))
        assert report.stack[-1].endswith(" spin")
        assert isinstance(task.exception(), TurnTooLong)
    finally:
        loop.close()


def test_enter_and_exit_by_hand(watchdog: Watchdog) -> None:
    with pytest.raises(TurnTooLong, match="activity"):
        try:
            watchdog.enter("order-1")
            spin()
        finally:
            report = watchdog.exit()
    assert stopped(report).unit == "order-1"
    assert watchdog.exit() is report, "the same answer until the next turn"


def test_a_call_that_cannot_be_interrupted_is_reported_when_it_ends() -> None:
    watchdog = Watchdog(limit_ms=20, tick_ms=5)
    bound_s = 0.04
    size = 10_000
    while True:  # a number whose multiplication takes longer than the limit on this machine
        number = 3**size
        started = time.perf_counter()
        number * number
        if time.perf_counter() - started > 2 * bound_s:
            break
        size *= 2

    def multiply() -> None:
        number * number
        spin()

    report = stopped(watchdog.run("order-1", multiply))
    watchdog.close()
    assert report.elapsed_ms > 1000 * bound_s
    assert any(frame.endswith("multiply") for frame in report.stack)
    assert watchdog.ticks <= 3, "it is due as soon as the multiplication ends"


@pytest.mark.usefixtures("no_collector")
def test_nothing_escapes_when_turns_end_just_as_it_fires() -> None:
    """1,500 turns that end about when the watchdog fires; innocent code between them would be hit by what escapes."""
    limit_ms = 1
    watchdog = Watchdog(limit_ms, tick_ms=1)
    rng = random.Random(7)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reports = 0
    try:
        for number in range(1_500):
            seconds = rng.uniform(limit_ms, limit_ms + 2) / 1000
            unit = f"order-{number}"
            report = watchdog.run(unit, partial(spin_for, seconds))
            assert report is None or report.unit == unit
            reports += report is not None
            assert not watchdog.fired
            sum(range(2_000))
    except TurnTooLong:
        pytest.fail("the exception escaped from its turn")
    finally:
        sys.setswitchinterval(interval)
        watchdog.close()
    assert 0 < reports < 1_500, "the turns must end on both sides of the limit"


@pytest.mark.long
@pytest.mark.timeout(7_200)
@pytest.mark.usefixtures("no_collector")
def test_nothing_escapes_from_turns_of_any_kind(long_seconds: float) -> None:
    """Turns that end in time, about at the limit or never, that swallow the exception once or for ever."""
    watchdog = Watchdog(limit_ms=2, tick_ms=1)
    rng = random.Random(11)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    endless: list[Callable[[], None]] = [spin, *STUBBORN]
    number = 0
    deadline = time.monotonic() + long_seconds
    try:
        while time.monotonic() < deadline:
            number += 1
            turn = (
                rng.choice(endless)
                if rng.random() < 0.2
                else partial(spin_for, rng.uniform(0, 4) / 1000)
            )
            report = watchdog.run(f"order-{number}", turn)
            assert report is None or report.unit == f"order-{number}"
            assert report is not None or turn not in endless
            assert not watchdog.fired
            sum(range(2_000))
    except TurnTooLong:
        pytest.fail(f"the exception escaped from turn {number}")
    finally:
        sys.setswitchinterval(interval)
        watchdog.close()
    assert number > 10


def test_a_thread_that_cannot_be_started_says_so_and_can_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watchdog = Watchdog(LIMIT_MS, TICK_MS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            watchdog.run("order-1", int)
        watchdog.close()
    watchdog = Watchdog(LIMIT_MS, TICK_MS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            watchdog.run("order-1", int)
    assert stopped(watchdog.run("order-2", spin)).unit == "order-2", "the next turn tries again"
    watchdog.close()


def test_a_turn_in_a_debugger_is_left_alone(watchdog: Watchdog) -> None:
    """At the prompt, and between two steps from there."""

    class Prompt(io.StringIO):
        """Gives each command only after the limit has passed."""

        def readline(self, size: int = -1) -> str:
            ticks = watchdog.ticks + 3 * LIMIT_MS // TICK_MS
            until(lambda: watchdog.ticks > ticks, "the limit")
            return super().readline(size)

    shown = io.StringIO()
    done: list[int] = []

    def turn() -> None:
        value = 21
        pdb.Pdb(
            stdin=Prompt("next\np value\ncontinue\n"), stdout=shown, readrc=False, nosigint=True
        ).set_trace()
        ticks = watchdog.ticks + 3 * LIMIT_MS // TICK_MS
        until(lambda: watchdog.ticks > ticks, "the limit")
        done.append(value)

    trace = sys.gettrace()
    try:
        assert watchdog.run("order-1", turn) is None
    finally:
        sys.settrace(trace)
    assert done == [21]
    assert "21" in shown.getvalue()
    assert stopped(watchdog.run("order-2", spin)).unit == "order-2"


def test_an_idle_watchdog_does_not_tick(watchdog: Watchdog) -> None:
    assert watchdog.run("order-1", int) == 0
    assert not watchdog.parked
    until(lambda: watchdog.parked, "parked")
    ticks = watchdog.ticks
    threading.Event().wait(5 * TICK_MS / 1000)
    assert watchdog.ticks == ticks
    assert stopped(watchdog.run("order-2", spin)).unit == "order-2", "the next turn wakes it"


def test_there_is_no_thread_before_the_first_turn_and_none_after_close() -> None:
    def threads() -> list[str]:
        return [
            thread.name for thread in threading.enumerate() if thread.name == "perdure-watchdog"
        ]

    watchdog = Watchdog(LIMIT_MS, TICK_MS)
    assert not threads()
    watchdog.run("order-1", int)
    assert len(threads()) == 1
    watchdog.close()
    watchdog.close()
    assert not threads()
    assert watchdog.run("order-2", int) == 0  # what the turn returns
    assert not threads()


def test_each_watchdog_interrupts_its_own_thread() -> None:
    reports: dict[str, StuckTurn | None] = {}

    def node(unit: str) -> None:
        watchdog = Watchdog(LIMIT_MS, TICK_MS)
        try:
            reports[unit] = watchdog.run(unit, spin)
        finally:
            watchdog.close()

    nodes = [threading.Thread(target=node, args=(unit,)) for unit in ("order-1", "order-2")]
    for thread in nodes:
        thread.start()
    for thread in nodes:
        thread.join(30)
    assert sorted(stopped(report).unit for report in reports.values()) == ["order-1", "order-2"]
    assert all(stopped(report).unit == unit for unit, report in reports.items())


def test_bind_moves_it_to_another_thread() -> None:
    watchdog = Watchdog(LIMIT_MS, TICK_MS)
    watchdog.run("order-1", int)
    reports: list[StuckTurn | None] = []

    def node() -> None:
        watchdog.bind()
        reports.append(watchdog.run("order-2", spin))

    thread = threading.Thread(target=node)
    thread.start()
    thread.join(30)
    watchdog.close()
    assert stopped(reports[0]).unit == "order-2"


@pytest.mark.parametrize(("limit_ms", "tick_ms"), [(0, None), (-1, None), (100, 0)])
def test_a_limit_must_be_positive(limit_ms: int, tick_ms: int | None) -> None:
    with pytest.raises(ValueError, match=f"limit_ms={limit_ms}"):
        Watchdog(limit_ms, tick_ms)


STOPPED = """
import os, sys, time
from perdure.guard.watchdog import Watchdog

def turn():
    sys.stdout.write("begun ")
    sys.stdout.flush()
    began = time.process_time()
    while time.process_time() - began < float(sys.argv[1]):
        pass

watchdog = Watchdog(800, 20)
print(watchdog.run("unit", turn) is None)
"""


@pytest.mark.parametrize(("works_s", "is_left_alone"), [(0.02, True), (5, False)])
def test_the_time_in_which_the_process_was_stopped_is_no_fault_of_the_turn(
    works_s: float, is_left_alone: bool
) -> None:
    command = [sys.executable, "-c", STOPPED, str(works_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"begun "
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        time.sleep(1.6)  # twice the limit
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read().split() == [str(is_left_alone).encode()]
