"""`serve --live`: what a node does, as a table that is drawn again, as lines, or as JSON."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from invocation import Cli
from rich.console import Console

from perdure import App, Node, workflow
from perdure.cli.pulse import Latencies, Pulse, Reading, line, table
from perdure.errors import StoreUnavailable
from perdure.store.memory import MemoryStore

READING = Reading(
    {"pending": 0, "running": 12, "suspended": 1, "completed": 340, "failed": 0, "cancelled": 0},
    3,
    41.5,
    120,
    13,
    7,
    2,
    12.0,
    40.0,
)


class Timer:
    """A timer that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


# ---------------------------------------------------------------- latencies


def test_percentiles_are_right_within_a_tenth() -> None:
    latencies = Latencies()
    for ms in range(1, 1001):
        latencies.add(ms / 1000)
    p50, p95 = latencies.percentile_ms(0.5), latencies.percentile_ms(0.95)
    assert p50 == pytest.approx(500, rel=0.1)
    assert p95 == pytest.approx(950, rel=0.1)


def test_one_latency_is_all_percentiles_and_none_is_none() -> None:
    latencies = Latencies()
    assert latencies.percentile_ms(0.5) is None
    latencies.add(0.0)  # a clock that did not move
    assert (
        latencies.percentile_ms(0.5)
        == latencies.percentile_ms(0.95)
        == pytest.approx(0.001, rel=0.2)
    )


def test_old_latencies_are_forgotten() -> None:
    latencies = Latencies()
    latencies.add(1.0)
    for _ in range(9):
        latencies.begin_window()
    assert latencies.percentile_ms(0.5) == pytest.approx(1000, rel=0.1)
    latencies.begin_window()
    assert latencies.percentile_ms(0.5) is None


# ---------------------------------------------------------------- readings


async def test_a_reading_of_a_node() -> None:
    app, timer = App("test"), Timer()

    @app.activity
    async def slow() -> None:
        timer.now_s += 0.1

    @app.workflow
    async def calls() -> None:
        await slow()
        await workflow.receive("end", bool)

    latencies = Latencies(timer)
    async with Node(app, "memory://", interceptors=[latencies]) as node:
        pulse = Pulse(node, latencies, timer)
        for name in ("a", "b"):
            handle = node.client.workflow(calls, id=name)
            await handle.start()
            await handle.send("unread", 1)
            await handle.send("end", True)
            await handle.result(timeout=30)
        await node.client.workflow("missing", id="c").start()
        timer.now_s = 102.0
        reading = await pulse.read()
        assert (reading.instances["completed"], reading.instances["suspended"]) == (2, 1)
        assert reading.activities_per_s == 1.0
        assert reading.turns_per_s == (node.metrics.turns) / 2
        assert reading.p50_ms == reading.p95_ms == pytest.approx(100, rel=0.1)
        assert (reading.residents, reading.running, reading.waiting, reading.inbox) == (1, 0, 0, 1)
        timer.now_s += 1
        assert (await pulse.read()).turns_per_s == 0.0


async def test_a_huge_store_is_counted_less_often_and_one_that_fails_keeps_its_numbers() -> None:
    timer = Timer()
    asked: list[float] = []

    class Huge(MemoryStore):
        fails = False

        async def query(self, query):
            asked.append(timer.now_s)
            timer.now_s += 1.0
            if self.fails:
                raise StoreUnavailable("busy")
            return await super().query(query)

    async with Huge() as store, Node(App("test"), store) as node:
        asked.clear()
        timer.now_s = 100.0
        pulse = Pulse(node, Latencies(), timer)
        for _ in range(42):
            reading = await pulse.read()
            timer.now_s += 1.0
        assert asked == [100.0, 121.0, 142.0], "one second of counting in twenty"
        store.fails = True
        timer.now_s = 1_000.0
        assert (await pulse.read()).instances == reading.instances


# ---------------------------------------------------------------- how it looks


def test_a_line() -> None:
    assert line(READING) == (
        "12 running, 1 suspended, 340 completed; 41.5 turns/s, 120 activities/s; "
        "inbox 3, in memory 13, running 7, waiting 2; p50 12 ms, p95 40 ms"
    )


def test_a_line_of_a_node_without_work() -> None:
    nothing = Reading(dict.fromkeys(READING.instances, 0), 0, 0.0, 0.0, 0, 0, 0, None, None)
    assert line(nothing) == (
        "no instances; 0 turns/s, 0 activities/s; inbox 0, in memory 0, running 0, waiting 0; p50 -, p95 -"
    )


def test_a_table() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(table("shop-1", READING))
    assert isinstance(console.file, io.StringIO)
    rows = [" ".join(row.split()) for row in console.file.getvalue().splitlines()]
    assert rows == [
        "shop-1",
        "pending 0 turns/s 41.5",
        "running 12 activities/s 120",
        "suspended 1 activities running 7",
        "completed 340 waiting for a slot 2",
        "failed 0 latency p50 12 ms",
        "cancelled 0 latency p95 40 ms",
        "messages in inboxes 3",
        "instances in memory 13",
    ]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("form", ["lines", "json", "terminal"])
def test_a_served_node_shows_its_pulse(folder: Path, form: str) -> None:
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        **({"FORCE_COLOR": "1"} if form == "terminal" else {}),
    }
    serving = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from perdure.cli import main; main()",
            "serve",
            "shop.py",
            "--live",
            "--every",
            "0.1",
        ]
        + (["--json"] if form == "json" else []),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        assert serving.stdout is not None
        ready = serving.stdout.readline()
        seen = [serving.stdout.readline() for _ in range(2)]
        serving.send_signal(signal.SIGTERM)
        rest, errors = serving.communicate(timeout=20)
    finally:
        serving.kill()
    assert serving.returncode == 0, errors
    assert "Traceback" not in errors
    if form == "json":
        assert json.loads(ready)["pid"] == serving.pid
        assert (
            json.loads(seen[0]).keys()
            == json.loads(seen[1]).keys()
            == READING.__dataclass_fields__.keys()
        )
    elif form == "lines":
        assert seen[0] == seen[1]
        assert seen[0].startswith("no instances; 0 turns/s")
    else:
        assert "activities/s" in "".join(seen) + rest
        assert "\x1b[?25h" in rest, "the cursor is back"


def test_every_alone_is_refused(cli: Cli) -> None:
    ended = cli("serve", "shop.py", "--every", "2")
    assert ended.code == 2
    assert "--every says how often --live shows something; give --live, too" in ended.stderr
    assert cli("serve", "shop.py", "--live", "--every", "0").code == 2
