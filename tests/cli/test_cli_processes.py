"""A node in another process: served, asked, killed, taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from invocation import Cli

Spawn = Callable[..., "subprocess.Popen[str]"]
PROGRAM = "from perdure.cli import main; main()"


@pytest.fixture
def spawn(folder: Path) -> Iterator[Spawn]:
    """Start a command in a process of its own; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *args],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_with(stream, text: str) -> str:
    """The next line that has this text; fails when the stream ends without one."""
    seen: list[str] = []
    for line in stream:
        if text in line:
            return line
        seen.append(line)
    raise AssertionError(f"no line with {text!r} in {seen}")


def test_a_served_node_is_seen_and_asked_from_another_process(cli: Cli, spawn: Spawn) -> None:
    serving = spawn("serve", "shop.py", "--name", "n-1")
    ready = line_with(serving.stdout, "ready: ")
    assert "node n-1 runs app 'shop'" in ready
    assert "sqlite:///perdure.db" in ready

    assert cli("start", "approval", '["o"]', "--id", "a").code == 0
    assert cli("start", "approval", '["o"]', "--id", "b").code == 0
    assert cli("start", "double", "[21]", "--id", "d").code == 0
    assert cli("wait", "d", "--timeout", "20").json == 42
    assert cli("send", "a", "approved", "true").code == 0
    assert cli("wait", "a", "--timeout", "20").json is True
    assert cli("cancel", "b").code == 0
    assert cli("wait", "b", "--timeout", "20").code == 1
    statuses = {one["id"]: one["status"] for one in cli("ls", "--json").json["instances"]}
    assert statuses == {"a": "completed", "b": "cancelled", "d": "completed"}
    assert cli("delete", "a", "b").stdout == "deleted 2 instances\n"
    assert [one["id"] for one in cli("ls", "--json").json["instances"]] == ["d"]

    for command in ("run", "serve"):
        locked = cli(command, "shop.py:double" if command == "run" else "shop.py")
        assert locked.code == 5
        assert f"perdure.db is owned by process {serving.pid}" in locked.stderr
        assert ("perdure start" in locked.stderr) == (command == "run")

    serving.send_signal(signal.SIGTERM)
    rest, errors = serving.communicate()
    assert serving.returncode == 0, errors
    assert rest == ""
    assert "stopping; once more to stop at once" in errors
    assert "Traceback" not in errors


def test_a_service_without_stdout_serves(cli: Cli, folder: Path) -> None:
    command = f'exec "{sys.executable}" -m perdure serve shop.py >&-'
    serving = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        assert line_with(serving.stderr, "ready; stdout does not take the line")
        cli("start", "double", "[4]", "--id", "d")
        assert cli("wait", "d", "--timeout", "20").stdout == "8\n"
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(30) == 0
    finally:
        serving.kill()
        serving.communicate()


def test_serving_without_the_code_of_an_open_instance_says_so(
    cli: Cli, spawn: Spawn, folder: Path
) -> None:
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "-q", "--timeout", "0")
    code = (folder / "shop.py").read_text()
    (folder / "next.py").write_text(code.replace("async def approval", "async def consent"))
    serving = spawn("serve", "next.py")
    line_with(serving.stdout, "ready: ")
    note = line_with(serving.stderr, "is missing")
    assert note.startswith(
        "the code of approval 1.0.0 is missing in app 'shop', and 1 open instance"
    )
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(30) == 0


def test_after_kill_9_everything_is_there_and_the_next_node_goes_on(cli: Cli, spawn: Spawn) -> None:
    first = spawn("serve", "shop.py", "--json")
    ready = json.loads(first.stdout.readline())  # type: ignore[union-attr]
    assert (ready["pid"], ready["activities"]) == (first.pid, ["charge", "hang"])
    cli("start", "approval", '["o"]', "--id", "a")
    cli("start", "double", "[1]", "--id", "d")
    assert cli("wait", "d", "--timeout", "20").code == 0  # so `a`, posted before, has begun
    first.kill()
    first.wait()

    assert {one["id"]: one["status"] for one in cli("ls", "--json").json["instances"]} == {
        "a": "running",
        "d": "completed",
    }
    assert cli("send", "a", "approved", "true").code == 0
    second = spawn("serve", "shop.py")
    line_with(second.stdout, "ready: ")
    assert cli("wait", "a", "--timeout", "20").json is True


def test_a_standby_takes_over_or_can_be_stopped_while_it_waits(cli: Cli, spawn: Spawn) -> None:
    first = spawn("serve", "shop.py")
    line_with(first.stdout, "ready: ")
    waiting, leaving = (
        spawn("serve", "shop.py", "--store", "sqlite:///perdure.db?standby=true") for _ in range(2)
    )
    for standby in (waiting, leaving):
        line_with(standby.stderr, f"is owned by process {first.pid}")
    leaving.send_signal(signal.SIGTERM)
    assert leaving.wait() == 0
    first.kill()
    line_with(waiting.stdout, "ready: ")
    assert cli("start", "double", "[4]", "--id", "d").code == 0
    assert cli("wait", "d", "--timeout", "20").json == 8


def test_a_second_signal_ends_the_node_at_once(cli: Cli, spawn: Spawn) -> None:
    cli("start", "forever", "--id", "f")
    serving = spawn("serve", "shop.py", "--grace", "50")
    line_with(serving.stdout, "ready: ")
    deadline = time.monotonic() + 20
    while "activity" not in str([one["reason"] for one in cli("ls", "--json").json["instances"]]):
        assert time.monotonic() < deadline, "the activity did not begin"
    serving.send_signal(signal.SIGINT)
    line_with(serving.stderr, "once more")
    assert ended_by_repeating(serving, signal.SIGINT) == 128 + signal.SIGINT
    assert cli("ls", "--json").code == 0


def ended_by_repeating(serving: subprocess.Popen[str], number: signal.Signals) -> int:
    """Ask again and again, as people do. Signals that come together are one request."""
    for _ in range(1_000):
        serving.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return serving.wait(0.05)
    raise AssertionError("it did not end")


def test_signals_that_come_together_are_one_request(cli: Cli, spawn: Spawn) -> None:
    # Ctrl-C goes to a program and to the one that has started it, which passes it on.
    serving = spawn("serve", "shop.py")
    line_with(serving.stdout, "ready: ")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        serving.send_signal(number)
    _, errors = serving.communicate(timeout=30)
    assert serving.returncode == 0, errors


def test_a_second_signal_ends_a_node_whose_event_loop_stands_still(
    cli: Cli, spawn: Spawn, folder: Path
) -> None:
    (folder / "hung.py").write_text(HUNG)
    serving = spawn("serve", "hung.py")
    line_with(serving.stdout, "ready: ")
    assert cli("start", "hang", "--id", "h").code == 0
    deadline = time.monotonic() + 20
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.01)
    assert ended_by_repeating(serving, signal.SIGTERM) == 128 + signal.SIGTERM


HUNG = """
import time
from perdure import App

app = App("hung")


@app.activity
async def block() -> None:
    open("begun", "w").close()
    time.sleep(60)


@app.workflow
async def hang() -> None:
    await block()
"""

BLOCKED = """
import asyncio, os, threading, time
from perdure import App

app = App("blocked")


def begin() -> None:
    with open("begun", "w") as file:
        file.write(str(os.getpid()))


@app.activity
async def swallow() -> None:
    begin()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


@app.activity
def thread() -> None:
    begin()
    time.sleep(60)


@app.activity(executor="process")
def process() -> None:
    begin()
    time.sleep(60)


@app.activity
async def stray() -> None:
    threading.Thread(target=time.sleep, args=(60,), name="stray").start()
    begin()


@app.workflow
async def run(which: str) -> None:
    await {"swallow": swallow, "thread": thread, "process": process, "stray": stray}[which]()
"""


@pytest.mark.parametrize("which", ["swallow", "thread", "process", "stray"])
def test_the_process_ends_after_the_grace_whatever_its_activities_do(
    cli: Cli, spawn: Spawn, folder: Path, which: str
) -> None:
    (folder / "blocked.py").write_text(BLOCKED)
    serving = spawn("serve", "blocked.py", "--grace", "0.2")
    line_with(serving.stdout, "ready: ")
    assert cli("start", "run", json.dumps([which]), "--id", "r").code == 0
    deadline = time.monotonic() + 20
    while not (folder / "begun").exists() or not (folder / "begun").read_text():
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.01)
    began = time.monotonic()
    serving.send_signal(signal.SIGTERM)
    _, errors = serving.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert serving.returncode == 0, errors
    assert "Traceback" not in errors
    said = {
        "swallow": "stopped without what does not end: activity swallow of 'r'; it runs again when a node runs",
        "thread": "stopped without what does not end: activity thread of 'r'; it runs again when a node runs",
        "process": "stopped; what did not finish goes on when a node runs again",
        "stray": "ended although threads stray of the app did not end within 3 s",
    }
    assert said[which] in errors
    if which == "process":
        status = Path(f"/proc/{(folder / 'begun').read_text()}/stat")
        assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_an_interrupted_run_says_how_to_go_on(cli: Cli, spawn: Spawn) -> None:
    running = spawn("run", "shop.py:approval", '["o"]', "--id", "a")
    line_with(running.stderr, "running approval as a")
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate()
    assert (running.returncode, out) == (130, ""), errors
    assert "'a' goes on when a node runs: give the same command again with --id a" in errors
    assert "Traceback" not in errors
    assert cli("send", "a", "approved", "false").code == 0
    assert cli("run", "shop.py:approval", '["o"]', "--id", "a").json is False


def test_importing_perdure_does_not_load_the_command_line(spawn: Spawn) -> None:
    code = "import sys, perdure, perdure.cli; print([m for m in ('typer', 'rich') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


STUBBORN = """
import asyncio, time
from perdure import App

app = App("stubborn")

@app.activity
def blocks() -> None:
    time.sleep(600)

@app.activity(executor="process")
def blocks_elsewhere() -> None:
    time.sleep(600)

@app.activity
async def swallows() -> None:
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@app.workflow
async def stay(how: str) -> None:
    await {"thread": blocks, "process": blocks_elsewhere, "task": swallows}[how]()
"""


@pytest.mark.parametrize("how", ["thread", "process", "task"])
def test_a_served_node_ends_although_an_activity_does_not(
    cli: Cli, spawn: Spawn, folder: Path, how: str
) -> None:
    (folder / "stubborn.py").write_text(STUBBORN)
    serving = spawn("serve", "stubborn.py", "--grace", "0.2")
    line_with(serving.stdout, "ready: ")
    assert cli("start", "stay", f'["{how}"]', "--id", "s").code == 0
    deadline = time.monotonic() + 20
    while "activity" not in str([one["reason"] for one in cli("ls", "--json").json["instances"]]):
        assert time.monotonic() < deadline, "the activity did not begin"
    children = _descendants(serving.pid)
    serving.send_signal(signal.SIGTERM)
    _, errors = serving.communicate(timeout=20)
    assert serving.returncode == 0, errors
    assert "Traceback" not in errors
    _expect_gone(children)
    assert cli("show", "s", "--json").json["status"] == "running"


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_no_worker_outlives_a_node_that_was_killed(cli: Cli, spawn: Spawn, folder: Path) -> None:
    (folder / "stubborn.py").write_text(STUBBORN)
    serving = spawn("serve", "stubborn.py")
    line_with(serving.stdout, "ready: ")
    cli("start", "stay", '["process"]', "--id", "s")
    deadline = time.monotonic() + 20
    while not (children := _descendants(serving.pid)):
        assert time.monotonic() < deadline, "no worker began"
    serving.kill()
    serving.wait()
    _expect_gone(children)


def _expect_gone(children: list[int]) -> None:
    """A worker learns of its node's death from the system, which takes a moment."""
    deadline = time.monotonic() + 20
    while [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{children} outlive their node"


def _descendants(pid: int) -> list[int]:
    """Processes below this one; none where there is no /proc."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for children in tasks for child in children.read_text().split()]
    return found + [below for child in found for below in _descendants(child)]
