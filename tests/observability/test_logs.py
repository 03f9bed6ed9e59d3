"""Which records are shown, how they look, and that each says where it comes from."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from engine import World, until, waits_for

import perdure.logs
from perdure import App, Limits, Node, NodeOptions, RetryPolicy, activity, workflow
from perdure.errors import UsageError
from perdure.kernel.data.commit import Commit, Verdict
from perdure.logs import AREAS, Ids, Json, Text
from perdure.store.memory import MemoryStore

OWN = logging.getLogger("shop.own")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging as it was."""
    monkeypatch.delenv("PERDURE_LOG", raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    perdure.logs.reset()
    assert (set(root.handlers) - set(handlers), root.level) == (set(), level)
    assert [area for area in ("perdure", "shop", *AREAS) if logging.getLogger(area).level] == []
    root.handlers[:] = handlers


class Log(io.StringIO):
    """What was written, as lines and as JSON."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def of(self, logger: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["logger"] == logger]


def node_of(world: World, app: App, **options: Any) -> Node:
    options.setdefault("stop_ms", 10)
    return Node(app, world.store, options=NodeOptions(**options), clock=world.clock, name="one")


# ---------------------------------------------------------------- ids


async def test_every_record_carries_its_ids(world: World, app: App) -> None:
    @app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
    async def charge(cents: int) -> None:
        activity.logger.info("charging %d", cents)
        await asyncio.gather(asyncio.create_task(note()))
        if activity.info().attempt == 1:
            raise OSError

    async def note() -> None:
        OWN.info("in a task of the activity")

    @app.activity
    def pack() -> None:
        OWN.info("on a thread", extra={"shelf": 7})

    @app.workflow(version="1.2.0")
    async def checkout() -> None:
        workflow.logger.info("begins")
        await charge(100)
        await pack()
        OWN.info("ends")

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app) as node:
        await node.client.workflow(checkout, id="order-1").run()
    run = {"instance": "order-1", "execution": 1, "workflow": "checkout", "version": "1.2.0"}
    said = {key: value for key, value in log.records[0].items() if key != "time"}
    assert said == {"level": "info", "logger": "perdure.workflow", "message": "begins", **run}
    expected = [
        ("perdure.activity", "charging 100", {"activity": "charge", "attempt": 1, "node": "one"}),
        (
            "shop.own",
            "in a task of the activity",
            {"activity": "charge", "attempt": 1, "node": "one"},
        ),
        ("perdure.activity", "charging 100", {"activity": "charge", "attempt": 2}),
        ("shop.own", "in a task of the activity", {"activity": "charge", "attempt": 2}),
        ("shop.own", "on a thread", {"activity": "pack", "attempt": 1, "extra": {"shelf": 7}}),
        ("shop.own", "ends", {}),
    ]
    others = [record for record in log.records[1:] if record["logger"] != "perdure.failures"]
    for record, (logger, message, ids) in zip(others, expected, strict=True):
        assert (record["logger"], record["message"]) == (logger, message)
        assert (run | ids).items() <= record.items()
        assert ("seq" in record) == ("activity" in ids)


async def test_replay_says_nothing_again_whatever_the_logger(world: World, app: App) -> None:
    @app.workflow
    async def waits() -> None:
        workflow.logger.info("begins")
        OWN.info("begins")
        await workflow.receive("end", bool)
        OWN.info("ends")

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app) as node:
        await node.client.workflow(waits, id="x").start()
    async with node_of(world, app) as node:
        await node.client.get("x").raise_event("news")
    async with node_of(world, app) as node:
        await node.client.get("x").send("end", True)
        await node.client.get("x").wait(timeout=30)
    assert [(r["logger"], r["message"]) for r in log.records] == [
        ("shop.own", "begins"),
        ("perdure.workflow", "begins"),  # when the turn is durable
        ("shop.own", "ends"),
    ]


async def test_a_start_that_joins_what_is_not_in_memory_says_nothing_again(
    world: World, app: App
) -> None:
    """Such a start tries a first turn, whose commit the store refuses."""

    @app.workflow
    async def waits() -> None:
        seen = ["a"]
        workflow.logger.info("accepted %s", seen)
        seen.append("b")
        await workflow.receive("end", bool)

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    for _ in range(3):
        async with node_of(world, app) as node:
            await node.client.workflow(waits, id="x").start()
            await node.client.get("x").raise_event("news")
    said = [r for r in log.records if r.get("instance") == "x"]
    assert [(r["message"], r["workflow"]) for r in said] == [("accepted ['a']", "waits")]


async def test_what_a_stopped_turn_said_is_shown_with_a_mark(world: World, app: App) -> None:
    @app.workflow
    async def hangs() -> None:
        workflow.logger.warning("before the loop")
        while True:
            await asyncio.sleep(0)

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app, turn_failures=1) as node:
        await node.client.workflow(hangs, id="x").start()
    said = [r["message"] for r in log.records if r["logger"] == "perdure.workflow"]
    assert said == ["before the loop (this turn was discarded)"]


class Refusing(MemoryStore):
    """Gives the next commits of the instance `x` this verdict, and does not apply them."""

    def __init__(self, verdict: Verdict, count: int) -> None:
        super().__init__()
        self._verdict: Verdict = verdict
        self._left = count

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for commit in batch:
            if commit.unit == "x" and self._left:
                self._left -= 1
                verdicts.append(self._verdict)
            else:
                verdicts += await super().commit([commit])
        return verdicts


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("invalid", ["pays 5 (this turn was discarded)"] * 2 + ["pays 5"]),
        ("stale", ["pays 5"]),  # the turn is taken again at once, and then it is shown
    ],
)
async def test_what_a_refused_turn_said(app: App, verdict: Verdict, expected: list[str]) -> None:
    @app.workflow
    async def pays() -> None:
        workflow.logger.warning("pays %d", 5)

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with Refusing(verdict, 2) as store, Node(app, store, name="one") as node:
        await node.client.workflow(pays, id="x").run()
    said = [r for r in log.records if r["logger"] == "perdure.workflow"]
    assert [r["message"] for r in said] == expected
    assert {(r["instance"], r["workflow"]) for r in said} == {("x", "pays")}


async def test_records_of_the_node_carry_the_ids_of_the_instance(world: World, app: App) -> None:
    @app.workflow(version=2)
    async def hangs() -> None:
        while True:
            await asyncio.sleep(0)

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app, turn_limit_ms=250, turn_failures=1) as node:
        await node.client.workflow(hangs, id="x").start()
        await waits_for(node.client.get("x"), "poison")
    (record,) = log.of("perdure.node")
    assert record["message"].startswith("a turn of 'x' was stopped")
    assert {"node": "one", "instance": "x", "level": "warning"}.items() <= record.items()


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(history_events=13), "13 the run fails (Limits.history_events)"),
        (Limits(history_bytes=220), "220 the run fails (Limits.history_bytes)"),
    ],
)
async def test_a_warning_about_the_history_comes_once_and_has_ids(
    world: World, app: App, limits: Limits, limit: str
) -> None:
    @app.workflow(version=2)
    async def long() -> None:
        for _ in range(5):
            await asyncio.sleep(0.001)

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app, limits=limits) as node:
        await node.client.workflow(long, id="x").run()
    (record,) = log.of("perdure.node")
    assert f"; at {limit}: use workflow.continue_as_new" in record["message"]
    ids = {"node": "one", "instance": "x", "execution": 1, "workflow": "long", "version": "2.0.0"}
    assert ids.items() <= record.items()


async def test_a_node_woken_by_an_activity_does_not_speak_for_it(world: World, app: App) -> None:
    """Its turn runs in the context of the activity that finished; the record is about another instance."""

    @app.activity
    async def wakes() -> None:
        await activity.client().get("hangs").send("go", True)

    @app.workflow
    async def hangs() -> None:
        await workflow.receive("go", bool)
        while True:
            await asyncio.sleep(0)

    @app.workflow
    async def calls() -> None:
        await wakes()

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app, turn_limit_ms=250, turn_failures=1) as node:
        await node.client.workflow(hangs, id="hangs").start()
        await node.client.workflow(calls, id="calls").start()
        await waits_for(node.client.get("hangs"), "poison")
    (record,) = log.of("perdure.node")
    assert record["instance"] == "hangs"
    assert not {"activity", "seq", "attempt"} & set(record)


async def test_an_activity_that_does_not_end_is_named(app: App, world: World) -> None:
    release = asyncio.Event()

    @app.activity(timeout=0.01)
    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                OWN.info("not yet")

    @app.workflow
    async def calls() -> None:
        with pytest.raises(Exception, match="failed"):
            await stubborn()

    log = Log()
    perdure.logs.configure(format="json", stream=log)
    async with node_of(world, app, grace_ms=20) as node:
        await node.client.workflow(calls, id="x").run()
        release.set()
        await until(lambda: node.metrics.running == 0, "its end")
    (record,) = log.of("perdure.activity")
    assert "does not end" in record["message"]
    assert {
        "instance": "x",
        "activity": "stubborn",
        "attempt": 1,
        "workflow": "calls",
    }.items() <= record.items()


async def test_ids_without_configure(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The two loggers carry them whatever handler there is; `Ids` gives them to any handler."""

    @app.activity
    async def one() -> None:
        activity.logger.warning("one", extra={"shelf": 7})
        OWN.warning("own")

    @app.workflow
    async def calls() -> None:
        workflow.logger.warning("calls")
        await one()

    before = list(logging.getLogger().handlers)
    async with Node(app, "memory://") as node:
        await node.client.workflow(calls, id="x").run()
        caplog.handler.addFilter(ids := Ids())
        try:
            await node.client.workflow(calls, id="y").run()
        finally:
            caplog.handler.removeFilter(ids)
    assert logging.getLogger().handlers == before
    seen = [
        (r.message, getattr(r, "instance", None), getattr(r, "activity", None))
        for r in caplog.records
    ]
    assert seen == [
        ("calls", "x", None),
        ("one", "x", "one"),
        ("own", None, None),
        ("calls", "y", None),
        ("one", "y", "one"),
        ("own", "y", "one"),
    ]
    assert caplog.records[1].shelf == 7  # type: ignore[attr-defined]


def test_the_logger_of_activities_works_outside_of_one(caplog: pytest.LogCaptureFixture) -> None:
    activity.logger.warning("in a test")
    assert [r.message for r in caplog.records] == ["in a test"]


# ---------------------------------------------------------------- formats


def record_of(message: str, *args: object, **more: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": "shop",
            "levelname": "ERROR",
            "levelno": 40,
            "msg": message,
            "args": args,
            "created": 0.0123,
            **more,
        }
    )


def test_a_line_for_people() -> None:
    record = record_of("%s is away", "the bank", instance="order-1", execution=2, attempt=3)
    line = Text().format(record)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} ERROR   shop: the bank is away \[instance=order-1 execution=2 attempt=3\]",
        line,
    )
    assert Text().format(record_of("plain")).endswith("shop: plain")


def test_a_line_for_machines() -> None:
    try:
        raise ValueError("no stock")
    except ValueError:
        record = record_of("é\n%s", "x", exc_info=sys.exc_info(), instance="ö", cart={"hats": 1})
    line = Json().format(record)
    assert "\n" not in line
    assert line.isascii(), "whatever the encoding of the stream"
    fields = json.loads(line)
    trace = fields["exception"].pop("traceback")
    assert trace.startswith("Traceback")
    assert "test_logs.py" in trace
    assert fields == {
        "time": "1970-01-01T00:00:00.012Z",
        "level": "error",
        "logger": "shop",
        "message": "é\nx",
        "instance": "ö",
        "extra": {"cart": {"hats": 1}},
        "exception": {"type": "ValueError", "message": "no stock"},
    }


@pytest.mark.parametrize(
    "value",
    [object(), {1: {2: object()}}, float("nan"), {(1, 2): 3}, b"x"],
    ids=["object", "deep", "nan", "keys", "bytes"],
)
def test_whatever_is_extra_a_line_is_json(value: object) -> None:
    assert "extra" in json.loads(Json().format(record_of("x", value=value)))


def test_a_circle_is_json() -> None:
    circle: list[object] = []
    circle.append(circle)
    assert json.loads(Json().format(record_of("x", circle=circle)))["extra"] == {
        "circle": "[[...]]"
    }


def test_a_stack_is_kept() -> None:
    assert (
        json.loads(Json().format(record_of("x", stack_info="Stack: here")))["stack"]
        == "Stack: here"
    )


# ---------------------------------------------------------------- levels


def shown(log: Log) -> list[str]:
    """Which loggers show which levels."""
    for name in ("shop", "perdure.workflow", "perdure.activity", "perdure.node", "perdure.store"):
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), level)("%s %s", name, level)
    return [record["message"] for record in log.records]


def test_by_default_users_are_heard_from_info_on_and_internals_from_warning_on() -> None:
    log = Log()
    perdure.logs.configure(format="json", stream=log)
    assert shown(log) == [
        "shop info",
        "shop warning",
        "perdure.workflow info",
        "perdure.workflow warning",
        "perdure.activity info",
        "perdure.activity warning",
        "perdure.node warning",
        "perdure.store warning",
    ]


def test_a_level_is_that_of_users_and_never_makes_internals_louder() -> None:
    log = Log()
    perdure.logs.configure(format="json", level="debug", stream=log)
    assert [s for s in shown(log) if "node" in s or "workflow" in s] == [
        "perdure.workflow debug",
        "perdure.workflow info",
        "perdure.workflow warning",
        "perdure.node warning",
    ]
    quiet = Log()
    perdure.logs.configure(format="json", level="error", stream=quiet)
    assert shown(quiet) == []


def test_areas_and_the_environment_change_single_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_LOG", "perdure.node=debug, perdure.store=INFO,")
    log = Log()
    perdure.logs.configure(
        format="json",
        level="warning",
        areas={"perdure.store": "error", "perdure.workflow": "info"},
        stream=log,
    )
    assert [s for s in shown(log) if "warning" not in s] == [
        "perdure.workflow info",
        "perdure.node debug",
        "perdure.node info",
        "perdure.store info",
    ]


def test_configuring_again_replaces() -> None:
    first, second = Log(), Log()
    perdure.logs.configure(
        format="json", level="debug", areas={"perdure.node": "debug", "shop": "error"}, stream=first
    )
    perdure.logs.configure(format="json", level="warning", stream=second)
    expected = ("shop", "perdure.workflow", "perdure.activity", "perdure.node", "perdure.store")
    assert shown(second) == [f"{name} warning" for name in expected]
    assert first.records == []


def test_lines_go_to_what_stderr_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    perdure.logs.configure()
    monkeypatch.setattr(sys, "stderr", log := Log())
    OWN.info("here")
    assert log.getvalue().endswith("INFO    shop.own: here\n")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "the log format must be 'text' or 'json', got 'xml'"),
        (
            {"level": "loud"},
            "the log level must be debug, info, warning, error or critical, got 'loud'",
        ),
        ({"level": 10}, "the log level must be .* got 10"),
        (
            {"areas": {"perdure.nodes": "info"}},
            r"areas=: there is no area 'perdure\.nodes'; areas are perdure, .*node",
        ),
        ({"areas": {"": "info"}}, "there is no area ''"),
        (
            {"areas": {"perdure.node": "loud"}},
            r"the level of 'perdure\.node' in areas= must be .* got 'loud'",
        ),
        ({"stream": "stderr"}, "stream must be something to write text to, got 'stderr'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    before = list(logging.getLogger().handlers)
    with pytest.raises(UsageError, match=message):
        perdure.logs.configure(**options)
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "debug",
            r"PERDURE_LOG: 'debug' must be AREA=LEVEL, .* areas are perdure, .* levels are debug",
        ),
        (
            "perdure.nod=debug",
            r"PERDURE_LOG: there is no area 'perdure\.nod'; areas are .*perdure\.node",
        ),
        (
            "perdure.node=loud",
            r"the level of 'perdure\.node' in PERDURE_LOG must be debug, .* got 'loud'",
        ),
        ("=debug", "there is no area ''"),
        ("perdure.node=", "got ''"),
    ],
)
def test_a_bad_environment(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv("PERDURE_LOG", text)
    before = list(logging.getLogger().handlers)
    with pytest.raises(UsageError, match=message):
        perdure.logs.configure()
    assert logging.getLogger().handlers == before


def test_a_record_that_cannot_be_formatted_stops_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = Log()
    logging.getLogger().handlers.clear()  # those of the test runner raise
    perdure.logs.configure(stream=log)
    OWN.info("%d", "no number")
    OWN.info("after")
    assert "after" in log.getvalue()
    assert "Logging error" in capsys.readouterr().err


async def test_a_filter_that_fails_stops_no_instance(
    world: World, app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    @app.workflow
    async def speaks() -> str:
        workflow.logger.info("hello")
        return await workflow.receive("post", str)

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise ValueError("a filter that fails")

    perdure.logs.configure(stream=Log())
    users = logging.getLogger("perdure.workflow")
    users.addFilter(faulty := Filter())
    try:
        async with node_of(world, app) as node:
            handle = node.client.workflow(speaks, id="s")
            await handle.start()
            await handle.send("post", "heard")
            assert await handle.result(timeout=30) == "heard"
    finally:
        users.removeFilter(faulty)
    assert "a filter that fails" in capsys.readouterr().err
