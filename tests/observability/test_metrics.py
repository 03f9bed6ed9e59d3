"""Each metric counts what it says it does: once, with its attributes, whatever happens to the node."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from engine import World, until, waits_for
from meters import Meters

from perdure import (
    App,
    Client,
    Limits,
    Node,
    NodeOptions,
    RetryPolicy,
    WorkflowFailed,
    activity,
    workflow,
)
from perdure.node.telemetry.instruments import BY_NAME


def node_of(world: World, app: App, meters: Meters, **options: int) -> Node:
    options.setdefault("stop_ms", 10)
    return Node(
        app, world.store, options=NodeOptions(**options), clock=world.clock, meter_provider=meters
    )


async def test_a_run_from_start_to_end(world: World, app: App, meters: Meters) -> None:
    @app.activity
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def adds(n: int) -> int:
        return await double(n) + 1

    async with node_of(world, app, meters) as node:
        assert await node.client.workflow(adds, id="x").run(2) == 5
    version = {"perdure.workflow": "adds", "perdure.version": "1.0.0"}
    assert meters.points["perdure.workflow.starts"] == [(1, {**version, "perdure.child": False})]
    assert meters.points["perdure.workflow.ends"] == [
        (1, {**version, "perdure.status": "completed"})
    ]
    assert meters.points["perdure.workflow.turns"] == [
        (2, {"perdure.workflow": "adds", "perdure.status": "completed"})
    ]
    assert meters.values("perdure.workflow.history", workflow="adds") == [
        4
    ]  # started, scheduled, completed, completed
    assert meters.points["perdure.activity.attempts"] == [
        (
            1,
            {"perdure.activity": "double", "perdure.queue": ""}
            | {"perdure.attempt": "first", "perdure.outcome": "completed"},
        )
    ]
    assert meters.points["perdure.activity.tries"] == [
        (1, {"perdure.activity": "double", "perdure.outcome": "completed"})
    ]
    assert (
        len(meters.values("perdure.activity.duration", activity="double", outcome="completed")) == 1
    )
    assert meters.gauge("perdure.turns") == {("test",): 2}
    assert meters.points["perdure.client.calls"] == [
        (1, {"perdure.verb": "run", "perdure.outcome": "completed"})
    ]
    assert len(meters.values("perdure.client.duration", verb="run")) == 1
    for quiet in (
        "workflow.failures",
        "workflow.continuations",
        "child.calls",
        "activity.failures",
        "store.errors",
    ):
        assert meters.points[f"perdure.{quiet}"] == []
    assert meters.scopes == {"perdure"}


async def test_attributes_are_those_of_the_table(world: World, app: App, meters: Meters) -> None:
    """A new attribute is a new dimension for everybody who pays for series: the table has to say so."""

    @app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
    async def fails() -> None:
        raise OSError

    @app.workflow
    async def child() -> None:
        await fails()

    @app.workflow
    async def parent(again: bool = True) -> None:
        with pytest.raises(Exception, match="failed"):
            await child()
        if again:
            workflow.continue_as_new(parent, again=False)

    async with node_of(world, app, meters) as node:
        await node.client.workflow(parent, id="x").run()
        await node.client.workflow(parent, id="x").start()
    recorded = {name: points for name, points in meters.points.items() if points}
    assert len(recorded) >= 18
    for name, points in recorded.items():
        for _, attributes in points:
            assert tuple(attributes) == tuple(f"perdure.{a}" for a in BY_NAME[name].attributes), (
                name
            )


# ---------------------------------------------------------------- duration, turns


async def test_duration_is_the_whole_life_across_executions_and_restarts(
    world: World, app: App, meters: Meters
) -> None:
    """Not that of the last turn."""

    @app.workflow
    async def twice(left: int) -> None:
        await asyncio.sleep(10)
        if left:
            workflow.continue_as_new(twice, left - 1)

    clock = world.stop_time()
    async with node_of(world, app, meters) as node:
        handle = node.client.workflow(twice, id="x")
        await handle.start(1)
        await clock.until_armed(10_000)
        clock.advance(10_000)
        await until(
            lambda: meters.total("perdure.workflow.continuations") == 1, "the second execution"
        )
    clock.advance(60_000)
    async with node_of(world, app, meters) as node:
        await node.client.get("x").wait(timeout=30)
    assert meters.values("perdure.workflow.duration") == [70.0]
    assert meters.total("perdure.workflow.starts") == 1
    assert meters.total("perdure.workflow.ends") == 1
    assert meters.values("perdure.workflow.history") == [4, 4]


async def test_turns_are_counted_over_restarts(world: World, app: App, meters: Meters) -> None:
    """Not always 1: each message of the three is a turn, and so is the start."""

    @app.workflow
    async def three() -> None:
        for _ in range(3):
            await workflow.receive("go", int)

    for n in range(3):
        async with node_of(world, app, meters) as node:
            handle = node.client.workflow(three, id="x")
            await handle.start()
            await handle.send("go", n)
    assert meters.values("perdure.workflow.turns") == [4]


async def test_a_delayed_start_lives_from_its_begin(world: World, app: App, meters: Meters) -> None:
    @app.workflow
    async def nothing() -> None: ...

    clock = world.stop_time()
    async with node_of(world, app, meters) as node:
        await node.client.workflow(nothing, id="x", delay=timedelta(hours=1)).start()
        assert meters.points["perdure.workflow.starts"] == []
        clock.advance(3_600_000)
        await node.client.get("x").wait(timeout=30)
        await node.client.workflow(nothing, id="y", delay=timedelta(hours=1)).start()
        clock.advance(60_000)
        await node.client.get("y").cancel()
    assert meters.values("perdure.workflow.duration", status="completed") == [0.0]
    assert meters.values("perdure.workflow.duration", status="cancelled") == [60.0], (
        "from its creation: it never began"
    )
    assert meters.total("perdure.workflow.starts") == 1


# ---------------------------------------------------------------- nothing twice


async def test_a_start_that_arrives_again_counts_once(
    world: World, app: App, meters: Meters
) -> None:
    @app.workflow
    async def waits() -> None:
        await workflow.receive("end", bool)

    async with node_of(world, app, meters) as node:
        for _ in range(3):
            await node.client.workflow(waits, id="x").start()
    async with node_of(world, app, meters) as node:
        # Until then the node asks the store about each start. Its first life has scanned once.
        scans = "perdure.store.duration"
        await until(lambda: len(meters.values(scans, operation="next_wake")) == 2, "its scan")
        handle = node.client.workflow(waits, id="x")
        await handle.start()
        await handle.send("end", True)
        await handle.result(timeout=30)
        await handle.start()
        await handle.cancel()
    assert meters.total("perdure.workflow.starts") == 1
    assert meters.total("perdure.workflow.ends") == 1
    assert meters.total("perdure.client.calls", verb="start", outcome="started") == 1
    assert meters.total("perdure.client.calls", verb="start", outcome="joined") == 4
    assert meters.total("perdure.commit.refusals", verdict="stale") >= 1, (
        "a start is tried as if the id were new"
    )


async def test_a_replay_counts_nothing(world: World, app: App, meters: Meters) -> None:
    @app.activity
    async def one() -> int:
        return 1

    @app.workflow
    async def calls() -> None:
        await one()
        await workflow.receive("end", bool)

    async with node_of(world, app, meters) as node:
        handle = node.client.workflow(calls, id="x")
        await handle.start()
        await waits_for(handle, "message end")
    for _ in range(2):
        async with node_of(world, app, meters) as node:
            await node.client.get("x").pause()
            await node.client.get("x").resume()
    async with node_of(world, app, meters) as node:
        await node.client.get("x").send("end", True)
        await node.client.get("x").wait(timeout=30)
    for name in ("workflow.starts", "workflow.ends", "activity.attempts", "activity.tries"):
        assert meters.total(f"perdure.{name}") == 1, name


async def test_a_turn_taken_again_counts_once(world: World, app: App, meters: Meters) -> None:
    tries = 0

    @app.workflow
    async def hangs_once() -> None:
        nonlocal tries
        tries += 1
        while tries == 1:
            await asyncio.sleep(0)

    async with node_of(world, app, meters, turn_limit_ms=250) as node:
        await node.client.workflow(hangs_once, id="x").run()
        assert node.metrics.turn_failures == 1
        assert node.metrics.started == node.metrics.completed == 1
    assert meters.gauge("perdure.turn.failures") == {("test",): 1}
    assert meters.total("perdure.workflow.starts") == 1


async def test_a_replaced_run_has_its_own_end(world: World, app: App, meters: Meters) -> None:
    @app.workflow
    async def waits() -> None:
        await workflow.receive("end", bool)

    async with node_of(world, app, meters) as node:
        await node.client.workflow(waits, id="x").start()
        handle = node.client.workflow(waits, id="x", if_exists="replace")
        await handle.start()
        await handle.send("end", True)
        await handle.result(timeout=30)
        counted = node.metrics
    assert (counted.started, counted.cancelled, counted.completed) == (2, 1, 1)
    assert meters.total("perdure.workflow.starts") == 2
    assert meters.total("perdure.workflow.ends", status="cancelled") == 1
    assert meters.total("perdure.workflow.ends", status="completed") == 1
    assert meters.total("perdure.workflow.failures", category="cancelled") == 1


# ---------------------------------------------------------------- activities


async def test_attempts_and_tries_of_a_retried_activity(
    world: World, app: App, meters: Meters
) -> None:
    """The attempt is real, and there are two labels for it, however many attempts there are."""

    @app.activity(retry=RetryPolicy(maximum_attempts=5, initial_interval=0.001), name="flaky")
    async def flaky() -> int:
        if activity.info().attempt < 4:
            raise OSError
        return activity.info().attempt

    @app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
    async def hopeless() -> None:
        raise OSError

    @app.workflow
    async def calls() -> None:
        await flaky()
        await hopeless()

    async with node_of(world, app, meters) as node:
        with pytest.raises(WorkflowFailed):
            await node.client.workflow(calls, id="x").run()
        assert (node.metrics.attempts, node.metrics.attempt_failures) == (6, 5)
    name = "perdure.activity.attempts"
    assert meters.total(name, activity="flaky", attempt="first") == 1
    assert meters.total(name, activity="flaky", attempt="retry") == 3
    assert meters.total(name, activity="flaky", outcome="failed") == 3
    assert meters.total(name, activity="flaky", outcome="completed") == 1
    assert {a["perdure.attempt"] for _, a in meters.points[name]} == {"first", "retry"}
    assert meters.values("perdure.activity.tries", activity="flaky", outcome="completed") == [4]
    assert meters.values("perdure.activity.tries", activity="hopeless", outcome="failed") == [2]
    assert meters.total("perdure.activity.failures", category="application") == 5


async def test_the_attempt_is_real_after_a_restart(world: World, app: App, meters: Meters) -> None:
    @app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=60, backoff="fixed"))
    async def flaky() -> None:
        if activity.info().attempt < 3:
            raise OSError

    @app.workflow
    async def calls() -> None:
        await flaky()

    clock = world.stop_time()
    for attempt in (1, 2):
        async with node_of(world, app, meters) as node:
            await node.client.workflow(calls, id="x").start()
            await until(
                lambda n=attempt: meters.total("perdure.activity.attempts") == n, "the attempt"
            )
            await waits_for(node.client.get("x"), f"activity flaky (attempt {attempt + 1})")
        clock.advance(60_000)
    async with node_of(world, app, meters) as node:
        await node.client.get("x").result(timeout=30)
    assert meters.total("perdure.activity.attempts", attempt="first") == 1
    assert meters.total("perdure.activity.attempts", attempt="retry") == 2
    assert meters.values("perdure.activity.tries") == [3]


async def test_outcomes_of_attempts(world: World, app: App, meters: Meters) -> None:
    begun = asyncio.Event()

    @app.activity(timeout=0.01)
    async def late() -> None:
        await asyncio.Event().wait()

    @app.activity
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.activity
    async def unfit() -> object:
        return object()

    @app.workflow
    async def calls() -> None:
        for call in (late, unfit):
            with pytest.raises(Exception, match="failed"):
                await call()
        await endless()

    async with node_of(world, app, meters) as node:
        handle = node.client.workflow(calls, id="x")
        await handle.start()
        await asyncio.wait_for(begun.wait(), 30)
        await handle.cancel()
        await handle.wait(timeout=30)
        await until(lambda: node.metrics.running == 0, "the end of the cancelled attempt")
        assert node.metrics.attempt_failures == 3
    assert meters.total("perdure.activity.attempts", activity="late", outcome="timed_out") == 1
    assert meters.total("perdure.activity.attempts", activity="unfit", outcome="failed") == 1
    assert meters.total("perdure.activity.attempts", activity="endless", outcome="cancelled") == 1
    assert (
        meters.total("perdure.activity.failures", activity="unfit", category="configuration") == 1
    )
    assert meters.total("perdure.activity.failures", activity="endless", category="cancelled") == 1
    assert meters.total("perdure.activity.attempts") == 3
    assert len(meters.points["perdure.activity.tries"]) == 2, (
        "a call that was given up was never settled"
    )


async def test_an_attempt_that_got_no_slot(world: World, app: App, meters: Meters) -> None:
    release = asyncio.Event()

    @app.activity
    async def holds() -> None:
        await release.wait()

    @app.activity(start_timeout=30, queue="slow")
    async def waits() -> None: ...

    @app.workflow
    async def calls() -> None:
        held = holds()
        with pytest.raises(Exception, match="no slot"):
            await waits()
        await held

    clock = world.stop_time()
    async with node_of(world, app, meters, activities=1) as node:
        handle = node.client.workflow(calls, id="x")
        await handle.start()
        await until(lambda: (node.metrics.running, node.metrics.waiting) == (1, 1), "one waits")
        assert meters.gauge("perdure.activity.running") == {("test",): 1}
        assert meters.gauge("perdure.activity.waiting") == {("test",): 1}
        clock.advance(30_000)
        await until(lambda: node.metrics.waiting == 0, "it gave up")
        release.set()
        await handle.result(timeout=30)
    assert meters.total("perdure.activity.attempts", queue="slow", outcome="timed_out") == 1
    assert meters.values("perdure.activity.duration", activity="waits") == [], "it never ran"


# ---------------------------------------------------------------- children, failures


async def test_children_are_measured(world: World, app: App, meters: Meters) -> None:
    @app.workflow
    async def child(fail: bool) -> None:
        await asyncio.sleep(5)
        if fail:
            raise ValueError

    @app.workflow
    async def parent() -> None:
        await asyncio.gather(child(fail=False), child(fail=True), return_exceptions=True)
        child.detach(fail=False)

    clock = world.stop_time()
    async with node_of(world, app, meters) as node:
        handle = node.client.workflow(parent, id="x")
        await handle.start()
        await clock.until_armed(5_000)
        await until(lambda: node.metrics.started == 3, "both children")
        clock.advance(5_000)
        await handle.result(timeout=30)
        await until(lambda: node.metrics.started == 4, "the detached one")
    assert meters.points["perdure.child.calls"] == [(1, {"perdure.workflow": "child"})] * 2
    assert meters.values("perdure.child.duration", workflow="child", status="completed") == [5.0]
    assert meters.values("perdure.child.duration", workflow="child", status="failed") == [5.0]
    assert meters.total("perdure.workflow.starts", workflow="child", child=True) == 2
    assert meters.total("perdure.workflow.starts", workflow="child", child=False) == 1


async def test_failures_have_a_category_and_count_once(
    world: World, app: App, meters: Meters
) -> None:
    @app.workflow
    async def raises() -> None:
        raise ValueError

    @app.workflow
    async def waits() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def hangs() -> None:
        while True:
            await asyncio.sleep(0)

    @app.workflow
    async def listens() -> None:
        await workflow.receive("end", bool)

    async with node_of(world, app, meters, turn_limit_ms=250, turn_failures=2) as node:
        await node.client.workflow(raises, id="raises").start()
        await node.client.workflow(waits, id="stuck").start()
        await node.client.workflow(hangs, id="poison").start()
        await node.client.workflow(listens, id="cancelled").start()
        await node.client.get("cancelled").cancel()
        await node.client.workflow("missing", id="missing").start()
        await waits_for(node.client.get("poison"), "poison")
        await node.client.get("stuck").send(
            "news", 1
        )  # kept: a commit of an instance that is suspended already
        counted = node.metrics
    async with node_of(world, app, meters) as node:
        await waits_for(
            node.client.get("stuck"), "stuck"
        )  # a restart tries again, and finds the same
        await waits_for(node.client.get("missing"), "not_registered")
    points = sorted(
        (a["perdure.workflow"], a["perdure.category"], a["perdure.suspended"])
        for _, a in meters.points["perdure.workflow.failures"]
    )
    assert points == [
        ("hangs", "poison", True),
        ("listens", "cancelled", False),
        ("missing", "configuration", True),
        ("raises", "application", False),
        ("waits", "configuration", True),
    ]
    assert (counted.failed, counted.cancelled, counted.suspended, counted.turn_failures) == (
        1,
        1,
        3,
        2,
    )
    assert meters.total("perdure.workflow.ends") == 2


async def test_an_end_by_a_limit_is_a_failure(world: World, app: App, meters: Meters) -> None:
    @app.workflow
    async def long() -> None:
        for _ in range(100):
            await asyncio.sleep(0.001)

    options = NodeOptions(limits=Limits(history_events=20), stop_ms=10)
    async with Node(app, world.store, options=options, meter_provider=meters) as node:
        with pytest.raises(WorkflowFailed):
            await node.client.workflow(long, id="x").run()
    assert (
        meters.total(
            "perdure.workflow.failures", workflow="long", category="application", suspended=False
        )
        == 1
    )


# ---------------------------------------------------------------- the store, clients


async def test_operations_of_the_store_are_measured(world: World, app: App, meters: Meters) -> None:
    @app.workflow
    async def nothing() -> None: ...

    async with node_of(world, app, meters) as node:
        await asyncio.gather(*(node.client.workflow(nothing, id=f"{n}").run() for n in range(20)))
        await node.client.list()
    operations = {a["perdure.operation"] for _, a in meters.points["perdure.store.duration"]}
    operations -= {
        "load"
    }  # a start that comes while the store is still scanned is looked for there
    assert operations == {"arrivals", "claim", "commit", "query", "release", "wakes", "next_wake"}
    assert all(seconds >= 0 for seconds in meters.values("perdure.store.duration"))
    assert meters.total("perdure.commit.batch") == 20
    assert meters.gauge("perdure.turns") == {("test",): 20}


async def test_verbs_of_clients(world: World, app: App, meters: Meters) -> None:
    @app.workflow
    async def waits() -> None:
        await workflow.receive("end", bool)

    async with node_of(world, app, meters) as node:
        handle = node.client.workflow(waits, id="x")
        await handle.start()
        await handle.raise_event("bell")
        with pytest.raises(Exception, match="has not ended"):
            await handle.result(timeout=0.01)
        await handle.send("end", True)
        await handle.wait(timeout=30)
        with pytest.raises(Exception, match="no instance"):
            await node.client.get("nobody").send("end", True)
    assert [
        (a["perdure.verb"], a["perdure.outcome"]) for _, a in meters.points["perdure.client.calls"]
    ] == [
        ("start", "started"),
        ("raise_event", "ok"),
        ("wait", "CancelledError"),
        ("send", "ok"),
        ("wait", "completed"),
        ("send", "missing"),
    ]


async def test_a_client_without_a_node(world: World, meters: Meters) -> None:
    async with Client.open(world.store, meter_provider=meters) as client:
        await client.workflow("anything", id="x").start()
        with pytest.raises(Exception, match="no instance"):
            await client.get("nobody").cancel()
    assert meters.total("perdure.client.calls", verb="start", outcome="started") == 1
    assert meters.total("perdure.client.calls", verb="cancel", outcome="missing") == 1
