"""Time skips: what takes months takes no time, and everything happens in the order of its time."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from kit_shop import approved

from perdure import ActivityTimeout, App, WorkflowFailed, activity, testing, workflow
from perdure.errors import DefinitionError, StoreUnavailable, UsageError
from perdure.kernel.data.events import AttemptFailed
from perdure.store.memory import MemoryStore
from perdure.testing import SkippingClock, VirtualNode, WaitsForever

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


async def test_a_month_passes_at_once_and_the_workflow_sees_it(node: VirtualNode) -> None:
    assert await node.client.workflow("month", id="m").run() == "30 days, 0:00:00"
    assert node.clock.now() == BEGIN + 30 * DAY
    described = await node.client.get("m").describe()
    assert (described.created_at, described.closed_at) == (BEGIN, BEGIN + 30 * DAY)


async def test_no_time_passes_between_a_start_and_a_message(node: VirtualNode) -> None:
    handle = node.client.workflow("approval", id="a")
    await handle.start()
    for _ in range(100):
        await asyncio.sleep(0)  # whatever the test does: it waits for nothing of the node's
    await handle.send(approved, True)
    assert await handle.result() == "approved"
    assert node.clock.now() == BEGIN


async def test_a_timeout_that_nobody_beats_comes_when_it_is_due(node: VirtualNode) -> None:
    assert await node.client.workflow("approval", id="a").run() == "nobody answered"
    assert node.clock.now() == BEGIN + DAY


async def test_attempts_are_made_hours_apart(node: VirtualNode) -> None:
    handle = node.client.workflow("pay", id="p")
    assert await handle.run("4242") == "4242-100"
    at = [e.event.at for e in await handle.history() if isinstance(e.event, AttemptFailed)]
    begin = int(BEGIN.timestamp() * 1000)
    assert [ms - begin for ms in at] == [0, 3_600_000]
    assert node.clock.now() == BEGIN + timedelta(hours=3)


async def test_a_delayed_start_waits_for_its_time(node: VirtualNode) -> None:
    await node.client.workflow("month", id="m", delay=3 * 86_400).run(1)
    described = await node.client.get("m").describe()
    assert (described.started_at, described.closed_at) == (BEGIN + 3 * DAY, BEGIN + 4 * DAY)


async def test_everything_happens_in_the_order_of_its_time(node: VirtualNode) -> None:
    delays = random.Random(7).sample(range(1, 10_000_000), 60)
    handles = [node.client.workflow("noted", id=f"n-{delay}") for delay in delays]
    await asyncio.gather(
        *(h.start(str(delay), delay) for h, delay in zip(handles, delays, strict=True))
    )
    await asyncio.gather(*(handle.result() for handle in handles))
    calls = await node.calls("note")
    assert [call.arguments["text"] for call in calls] == [str(delay) for delay in sorted(delays)]
    assert [call.at for call in calls] == [
        BEGIN + timedelta(seconds=delay) for delay in sorted(delays)
    ]


async def test_two_runs_are_the_same_to_the_millisecond(app: App) -> None:
    async def run() -> list[object]:
        async with testing.node(app) as node:
            handles = [node.client.workflow("noted", id=f"n-{i}") for i in range(5)]
            await asyncio.gather(*(h.start("x", 10 + i % 3) for i, h in enumerate(handles)))
            await node.client.workflow("pay", id="p").run("4242")
            pages = [
                [e.event for e in await node.client.get(f"n-{i}").history()][1:] for i in range(5)
            ]
            return [*pages, *[e.event for e in await node.client.get("p").history()][1:]]

    assert await run() == await run()


class Late:
    """A node that is at work again in one of the passes in which its clock looks for rest."""

    progress = 0

    def __init__(self, clock: SkippingClock, passes: int) -> None:
        self.clock = clock
        self.left = passes
        self.busy = False
        self.times: list[int] = []

    async def settle(self) -> None:
        self.busy = False
        self.times.append(self.clock.now_ms())

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[None]]:
        return []

    async def describe_waits(self) -> str:
        return ""

    async def works_late(self) -> None:
        for _ in range(self.left):
            await asyncio.sleep(0)
        self.busy = True
        self.times.append(self.clock.now_ms())


@pytest.mark.parametrize("passes", range(1, 12))
async def test_time_does_not_move_over_a_node_that_works_again(passes: int) -> None:
    clock = SkippingClock()
    node = Late(clock, passes)
    clock.attach(node)
    late = asyncio.ensure_future(node.works_late())
    await clock.sleep(2)
    await late
    began_ms, *ended_ms = node.times
    assert ended_ms in ([], [began_ms])


# ---------------------------------------------------------------- sleeping


async def test_a_test_can_go_on_by_an_hour(node: VirtualNode) -> None:
    handle = node.client.workflow("approval", id="a")
    await handle.start(2)
    await node.clock.sleep(3_600)
    assert node.clock.now() == BEGIN + timedelta(hours=1)
    assert await handle.status() == "running"
    await node.clock.sleep(timedelta(hours=1))
    assert await handle.status() == "completed", (
        "what is due at the moment at which a sleep ends is done by then"
    )
    assert await handle.result() == "nobody answered"


async def test_to_sleep_for_no_time_is_to_wait_until_nothing_is_left_to_do(
    node: VirtualNode,
) -> None:
    handle = node.client.workflow("noted", id="n")
    await handle.start("now", 0)
    await node.clock.sleep(0)
    assert await handle.status() == "completed"
    assert node.clock.now() == BEGIN


async def test_time_that_is_held_does_not_move(node: VirtualNode) -> None:
    handle = node.client.workflow("approval", id="a")
    with node.clock.held():
        waiting = asyncio.ensure_future(handle.run())
        for _ in range(100):
            await asyncio.sleep(0)
        with pytest.raises(UsageError, match="time is held"):
            await node.clock.sleep(1)
        await handle.send(approved, False)
    assert await waiting == "refused"
    assert node.clock.now() == BEGIN


async def test_waits_for_values_have_their_timeouts_in_the_time_of_the_node(
    node: VirtualNode,
) -> None:
    handle = node.client.workflow("eternal", id="e")
    await handle.start()
    assert await handle.kv_wait("rounds", int, timeout=60) == 1
    assert await handle.kv_wait("nothing", int, timeout=7_200) is None
    assert node.clock.now() == BEGIN + timedelta(hours=2)
    assert await handle.kv_get("rounds", int) == 3
    assert await handle.custom_status(str, after_version=0, timeout=60) == (None, 0)
    assert node.clock.now() == BEGIN + timedelta(hours=2, seconds=60)


async def test_something_else_can_be_waited_for(node: VirtualNode) -> None:
    """An answer that somebody gives when an instance has ended, as a web application does."""
    answered = asyncio.Event()
    node.replace("note", lambda text, *, loud=False: answered.set())
    await node.client.workflow("noted", id="n").start("x", 600)
    async with node.clock.waiting("the note"):
        await answered.wait()
    assert node.clock.now() == BEGIN + timedelta(seconds=600)


# ---------------------------------------------------------------- activities


async def test_time_waits_for_an_activity_that_works(node: VirtualNode, app: App) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.activity
    def work() -> str:
        begun.set()
        assert go_on.wait(60)
        return "done"

    @app.workflow
    async def worker() -> list[object]:
        return list(await asyncio.gather(work(), workflow.sleep(86_400)))

    running = asyncio.ensure_future(node.client.workflow(worker, id="w").run())
    assert await asyncio.to_thread(begun.wait, 60)
    for _ in range(100):
        await asyncio.sleep(0)
    assert node.clock.now() == BEGIN
    go_on.set()
    assert await running == ["done", None]
    assert node.clock.now() == BEGIN + DAY, "and the work itself took no time"


async def test_an_activity_that_hangs_meets_its_timeout(node: VirtualNode) -> None:
    with pytest.raises(WorkflowFailed, match="the attempt took too long"):
        await node.client.workflow("hanging", id="h").run(1)
    assert node.clock.now() == BEGIN + timedelta(milliseconds=20)


async def test_a_fake_can_take_time_without_taking_any(node: VirtualNode, app: App) -> None:
    async def slow(seconds: float) -> str:
        await node.clock.sleep(seconds)
        return f"after {seconds}"

    node.replace("hang", slow)
    assert await node.client.workflow("hanging", id="quick").run(0.01) == "after 0.01"
    assert node.clock.now() == BEGIN + timedelta(milliseconds=10)
    with pytest.raises(WorkflowFailed) as late:
        await node.client.workflow("hanging", id="late").run(3_600)
    assert "ActivityTimeout" in str(late.value)
    assert node.clock.now() == BEGIN + timedelta(milliseconds=30)


async def test_heartbeats_are_watched_in_the_time_of_the_node(node: VirtualNode, app: App) -> None:
    @app.activity(heartbeat_timeout=60)
    async def falls_silent() -> None:
        for _ in range(5):
            await node.clock.sleep(50)
            activity.heartbeat()
        await node.clock.sleep(3_600)

    @app.workflow
    async def listening() -> str:
        try:
            await falls_silent()
        except ActivityTimeout:
            return str(workflow.now() - BEGIN)
        return "it never fell silent"

    assert await node.client.workflow(listening, id="l").run() == "0:06:00"


async def test_an_activity_may_wait_for_another_instance(node: VirtualNode) -> None:
    await node.client.workflow("month", id="m").start()
    assert await node.client.workflow("asking", id="a").run("m") == "30 days, 0:00:00"


async def test_so_may_a_checkpoint(node: VirtualNode, app: App) -> None:
    async def other() -> object:
        return await activity.client().get("m").result()

    @app.workflow
    async def peeking() -> object:
        return await workflow.checkpoint("other", other)

    await node.client.workflow("month", id="m").start()
    assert await node.client.workflow(peeking, id="p").run() == "30 days, 0:00:00"


async def test_an_activity_that_waits_does_not_move_time_by_itself(node: VirtualNode) -> None:
    async def slow(card: str, cents: int = 100) -> str:
        await node.clock.sleep(60)
        return card

    node.replace("charge", slow)
    handle = node.client.workflow("pay", id="p")
    await handle.start("4242")
    for _ in range(100):
        await asyncio.sleep(0)
    assert (await handle.status(), node.clock.now()) == ("running", BEGIN)
    assert await handle.result() == "4242"


# ---------------------------------------------------------------- nodes


async def test_two_nodes_share_one_time(app: App) -> None:
    clock = SkippingClock(datetime(2000, 2, 29, tzinfo=UTC))
    seen: list[str] = []
    async with testing.node(app, clock=clock) as one, testing.node(app, clock=clock) as two:
        for node, name, seconds in ((one, "later", 20), (two, "sooner", 10)):
            node.replace("note", lambda text, *, loud=False: seen.append(text))
            await node.client.workflow("noted", id=name).start(name, seconds)
        await one.client.get("later").result()
        assert await two.client.get("sooner").status() == "completed"
    assert seen == ["sooner", "later"]
    assert clock.now() == datetime(2000, 2, 29, 0, 0, 20, tzinfo=UTC)


async def test_a_sleep_that_began_before_a_restart_ends_at_its_time(node: VirtualNode) -> None:
    handle = node.client.workflow("month", id="m")
    await handle.start()  # far beyond the horizon within which deadlines are in memory
    await node.clock.sleep(DAY)
    await node.restart()
    assert node.residents == 0
    assert await node.client.get("m").result() == "30 days, 0:00:00"
    assert node.clock.now() == BEGIN + 30 * DAY


async def test_who_sleeps_while_a_node_starts_again_wakes_at_its_time(node: VirtualNode) -> None:
    await node.client.workflow("month", id="m").start()
    sleeping = asyncio.ensure_future(node.clock.sleep(40 * DAY))
    await asyncio.sleep(0)
    await node.restart()
    await sleeping
    assert node.clock.now() == BEGIN + 40 * DAY
    assert await node.client.get("m").status() == "completed"


def test_a_clock_may_be_used_by_one_event_loop_after_the_other(app: App) -> None:
    clock = SkippingClock(patience=0)

    async def once(days: int) -> None:
        async with testing.node(app, clock=clock) as node:
            await node.client.workflow("month", id="m").run(days)
            with pytest.raises(WaitsForever):
                await node.client.workflow("patient", id="p").run()

    asyncio.run(once(1))
    asyncio.run(once(2))
    assert clock.now() == BEGIN + 3 * DAY


def test_time_skips_for_synchronous_code_too(app: App) -> None:
    under_test = testing.node(app, clock=SkippingClock(patience=0))
    with under_test.sync() as node:
        handle = node.client.workflow("approval", id="a")
        handle.start()
        handle.send(approved, True)
        assert handle.result() == "approved"
        assert under_test.clock.now() == BEGIN
        assert node.client.workflow("month", id="m").run() == "30 days, 0:00:00"
        assert node.client.workflow("asking", id="q").run("m") == "30 days, 0:00:00"
        with pytest.raises(WaitsForever, match="the end of 'p'"):
            node.client.workflow("patient", id="p").run()


async def test_who_waits_when_the_node_stops_is_told(app: App) -> None:
    async with testing.node(app) as node:
        handle = node.client.workflow("patient", id="p")
        waiting = asyncio.ensure_future(handle.run())
        await node.clock.sleep(0)
    with pytest.raises(StoreUnavailable, match="has stopped"):
        await waiting


async def test_a_store_of_the_tests_own_outlives_its_nodes(app: App) -> None:
    clock = SkippingClock()
    async with MemoryStore(clock=clock) as store:
        async with testing.node(app, store, clock=clock) as node:
            await node.client.workflow("month", id="m").start()
        async with testing.node(app, store, clock=clock) as node:
            assert await node.client.get("m").result() == "30 days, 0:00:00"


# ---------------------------------------------------------------- what never happens


@pytest.fixture
def hasty() -> SkippingClock:
    """A clock that does not wait for anybody to act."""
    return SkippingClock(patience=0)


async def test_a_wait_that_nothing_can_end_says_what_everybody_waits_for(
    app: App, hasty: SkippingClock
) -> None:
    async with testing.node(app, clock=hasty) as node:
        await node.client.workflow("patient", id="other").start()
        await node.client.workflow("pay", id="done").run("4242")
        with pytest.raises(WaitsForever) as error:
            await node.client.workflow("patient", id="order-1").run()
    text = str(error.value)
    assert "nothing will happen any more" in text
    assert "the end of 'order-1'" in text
    for name in ("order-1", "other"):
        assert (
            f"{name!r} (patient 1.0.0) is running and waits for\n    message approved\n    at "
            in text
        )
    assert "kit_shop.py:" in text
    assert "in patient" in text
    assert "'done'" not in text


async def test_an_instance_that_was_set_aside_is_named_with_its_reason(
    app: App, hasty: SkippingClock
) -> None:
    @app.workflow
    async def stuck() -> None:
        await asyncio.Event().wait()

    async with testing.node(app, clock=hasty) as node:
        with pytest.raises(
            WaitsForever, match=r"'s' \(stuck 1.0.0\) is suspended \(stuck\): .*test_time_skips.py"
        ):
            handle = node.client.workflow(stuck, id="s")
            await handle.start()
            await handle.result(through_suspension=True)


async def test_so_is_one_that_is_not_there_any_more(app: App, hasty: SkippingClock) -> None:
    async with testing.node(app, clock=hasty) as node:
        with pytest.raises(
            WaitsForever, match=r"Waited for:\n  a letter\nNo instance is open; 0 have ended"
        ):
            async with node.clock.waiting("a letter"):
                await asyncio.Event().wait()


async def test_somebody_may_act_within_the_patience_of_the_clock(app: App) -> None:
    async with testing.node(app, clock=SkippingClock(patience=30)) as node:
        handle = node.client.workflow("patient", id="p")
        waiting = asyncio.ensure_future(handle.run())
        await node.clock.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        await handle.send(approved, True)
        assert await waiting is True


async def test_a_wait_that_outlasts_every_limit_is_an_error(app: App) -> None:
    clock = SkippingClock(patience=0, limit=timedelta(days=20))
    async with testing.node(app, clock=clock) as node:
        await node.client.workflow("eternal", id="e").start()
        with pytest.raises(
            WaitsForever, match=r"time has come to 2026-01-2\d and may not go beyond 2026-01-21"
        ):
            await node.client.workflow("patient", id="p").run()
    assert clock.now() <= BEGIN + 20 * DAY


async def test_an_alarm_that_only_rings_for_itself_does_not_keep_a_test_alive(
    app: App, hasty: SkippingClock
) -> None:
    async with testing.node(app, clock=hasty) as node:

        def again() -> None:
            hasty.call_at(hasty.now_ms() + 1_000, again)

        again()
        with pytest.raises(WaitsForever, match="alarms have led to nothing"):
            await node.client.workflow("patient", id="p").run()


async def test_a_failed_wait_leaves_the_clock_usable(app: App, hasty: SkippingClock) -> None:
    async with testing.node(app, clock=hasty) as node:
        handle = node.client.workflow("patient", id="p")
        with pytest.raises(WaitsForever):
            await handle.run()
        await handle.send(approved, False)
        assert await handle.result() is False
        assert await node.client.workflow("month", id="m").run() == "30 days, 0:00:00"


async def test_a_timeout_of_the_waiting_code_stays_one(node: VirtualNode) -> None:
    with pytest.raises(TimeoutError):
        async with node.clock.waiting("a letter"), asyncio.timeout(0):
            await asyncio.Event().wait()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("start", [datetime(2026, 1, 1), "2026-01-01", None])
def test_a_start_without_a_time_zone_is_refused(start: object) -> None:
    with pytest.raises(UsageError, match="a datetime with a time zone"):
        SkippingClock(start)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("patience", -1), ("limit", "a year"), ("limit", timedelta(days=-1))]
)
def test_a_bad_duration_of_a_clock_is_named(name: str, value: object) -> None:
    with pytest.raises(DefinitionError, match=f"{name} of a clock"):
        SkippingClock(**{name: value})


async def test_a_bad_sleep_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"clock.sleep\(\) must be between 0"):
        await SkippingClock().sleep(-1)


def test_another_clock_is_refused(app: App) -> None:
    from perdure.testing import ManualClock

    with pytest.raises(UsageError, match="must be a SkippingClock"):
        testing.node(app, clock=ManualClock())  # type: ignore[arg-type]
