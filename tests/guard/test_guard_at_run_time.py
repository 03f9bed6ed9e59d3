"""Inside a workflow turn the guard refuses I/O, threads and sleeps, with line and remedy; outside it is not there."""

from __future__ import annotations

import asyncio
import importlib
import linecache
import logging
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import sleep as nap
from types import FunctionType
from typing import Any

import anyio.to_thread
import pytest

from perdure.errors import WorkflowViolation
from perdure.guard.runtime import GuardLevel, install, watch
from perdure.guard.watchdog import Watchdog

# Stands for the kernel, which knows whether the calling thread runs a turn.
turn: dict[int, GuardLevel] = {}


@contextmanager
def inside(level: GuardLevel) -> Iterator[None]:
    turn[threading.get_ident()] = level
    try:
        yield
    finally:
        del turn[threading.get_ident()]


@pytest.fixture(autouse=True)
def guard() -> None:
    install(lambda: turn.get(threading.get_ident()))


def on_a_pool() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int)


EFFECTS: dict[str, tuple[Callable[[], object], str, str]] = {
    "open": (lambda: open("/nowhere/file"), "open('/nowhere/file')", "do it in an activity"),
    "pathlib": (
        lambda: Path("/nowhere/file").read_text(),
        "open('/nowhere/file')",
        "do it in an activity",
    ),
    "os.open": (
        lambda: os.open("/nowhere/file", os.O_RDONLY),
        "open('/nowhere/file')",
        "do it in an activity",
    ),
    "remove": (lambda: os.remove("/nowhere/file"), "os.remove()", "do it in an activity"),
    "list": (lambda: os.listdir("/nowhere"), "os.listdir('/nowhere')", "do it in an activity"),
    "copy": (
        lambda: shutil.copyfile("/nowhere/a", "/nowhere/b"),
        "shutil.copyfile()",
        "do it in an activity",
    ),
    "temporary file": (
        lambda: tempfile.mkstemp(dir="/nowhere"),
        "tempfile.mkstemp()",
        "do it in an activity",
    ),
    "database": (
        lambda: sqlite3.connect("/nowhere/db"),
        "sqlite3.connect('/nowhere/db')",
        "do it in an activity",
    ),
    "socket": (lambda: socket.socket(), "socket.socket()", "do it in an activity"),
    "name": (
        lambda: socket.getaddrinfo("localhost", 1),
        "socket.getaddrinfo()",
        "do it in an activity",
    ),
    "process": (
        lambda: subprocess.run(["true"]),
        "subprocess.Popen('true')",
        "do it in an activity",
    ),
    "shell": (lambda: os.system("true"), "os.system()", "do it in an activity"),
    "thread": (
        lambda: threading.Thread(target=int).start(),
        "Thread.start()",
        "`def` ones run on threads",
    ),
    "pool": (on_a_pool, "Thread.start()", "`def` ones run on threads"),
    "sleep": (lambda: time.sleep(0), "time.sleep()", "`await asyncio.sleep(...)`"),
}


@pytest.mark.parametrize("case", EFFECTS)
def test_it_refuses(case: str) -> None:
    effect, name, remedy = EFFECTS[case]
    with inside("error"), pytest.raises(WorkflowViolation) as caught:
        effect()
    message = str(caught.value)
    first = effect.__code__.co_firstlineno
    assert message.startswith(f"{name} inside a workflow, at {__file__}:")
    lines = re.findall(rf"{re.escape(__file__)}:(\d+): ", message)
    assert first <= int(lines[0]) <= first + 2
    assert remedy in message


def test_the_threads_of_anyio_are_refused_at_the_line_of_the_workflow() -> None:
    async def workflow() -> None:
        with inside("error"):
            await anyio.to_thread.run_sync(int)

    line = workflow.__code__.co_firstlineno + 2
    with pytest.raises(
        WorkflowViolation, match=r"^Thread\.start\(\) .*" + re.escape(f"{__file__}:{line}: ")
    ):
        asyncio.run(workflow())


def test_a_refused_thread_leaves_nothing_behind() -> None:
    thread = threading.Thread(target=int)
    with inside("error"), pytest.raises(WorkflowViolation):
        thread.start()
    assert thread not in threading.enumerate()
    thread.start()
    thread.join()


@pytest.mark.parametrize("level", ["off", None])
def test_nothing_is_refused_when_it_is_off_or_outside(
    level: GuardLevel | None, tmp_path: Path
) -> None:
    def effects() -> str:
        time.sleep(0)
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        socket.socket().close()
        (tmp_path / "file").write_text("written")
        return (tmp_path / "file").read_text()

    if level is None:
        assert effects() == "written"
    else:
        with inside(level):
            assert effects() == "written"


def test_warn_logs_once_per_place_and_lets_it_happen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(name: str) -> None:
        (tmp_path / name).write_text("written")

    with inside("warn"):
        for name in ("a", "b", "a"):
            write(name)
        time.sleep(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    messages = [record.getMessage() for record in caplog.records if record.name == "perdure.guard"]
    assert [message.partition("(")[0] for message in messages] == ["open", "time.sleep"]
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert f"{__file__}:{write.__code__.co_firstlineno + 1}: " in messages[0]


def test_an_import_may_open_files_and_run_what_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.txt"
    data.write_text("read at import")
    (tmp_path / "lazily_imported.py").write_text(
        f"with open({str(data)!r}) as f: text = f.read()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with inside("error"):
        assert importlib.import_module("lazily_imported").text == "read at import"
    del sys.modules["lazily_imported"]


def test_an_import_further_out_than_the_node_permits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that runs its node while it is being imported."""
    (tmp_path / "node_at_import.py").write_text(
        "from __main__ import run\nrun(lambda: open('/nowhere/file'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    watchdog = Watchdog(limit_ms=60_000)

    def run(workflow: Callable[[], object]) -> None:
        with inside("error"):
            watchdog.run("order-1", workflow)

    monkeypatch.setattr(sys.modules["__main__"], "run", run, raising=False)
    line = re.escape(f"{tmp_path / 'node_at_import.py'}:2: ")
    try:
        with pytest.raises(WorkflowViolation, match=line):
            importlib.import_module("node_at_import")
    finally:
        watchdog.close()


def test_a_traceback_may_read_source_lines() -> None:
    linecache.clearcache()
    with inside("error"):
        try:
            raise ValueError("shown")
        except ValueError:
            text = traceback.format_exc()
    assert 'raise ValueError("shown")' in text


def test_a_log_handler_may_open_its_file(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    logger = logging.getLogger("perdure.tests.lazy")
    logger.addHandler(handler)
    try:
        with inside("error"):
            logger.warning("written")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == "written\n"


def test_a_time_zone_may_read_its_data() -> None:
    key = min(zoneinfo.available_timezones())
    with inside("error"):
        assert zoneinfo.ZoneInfo.no_cache(key).key == key


def test_what_replay_repeats_is_not_refused() -> None:
    with inside("error"):
        assert random.Random(1).random() == random.Random(1).random()
        assert uuid.uuid5(uuid.NAMESPACE_DNS, "a") == uuid.uuid5(uuid.NAMESPACE_DNS, "a")
        assert threading.Lock().acquire()


def test_another_thread_is_outside() -> None:
    opened: list[str] = []
    event = threading.Event()

    def elsewhere() -> None:
        event.wait(10)
        time.sleep(0)
        opened.append(Path(__file__).read_text()[:3])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with inside("error"):
        event.set()
        thread.join(60)
    assert opened == ['"""']


def test_installing_again_wraps_nothing_twice() -> None:
    start, sleep = threading.Thread.start, time.sleep
    install(lambda: None)
    assert (threading.Thread.start, time.sleep) == (start, sleep)
    with inside("error"):
        assert Path(__file__).exists()
        open(__file__).close()  # the predicate of the last call counts


def clocks(which: str, seeded: bool = True) -> object:
    match which:
        case "time":
            return time.time()
        case "random":
            return random.random()
        case "method":
            return random.randint(1, 6)
        case "uuid":
            return uuid.uuid4()
        case "nap":
            return nap(0)
        case "generator":
            return random.Random(1).random() if seeded else random.Random()
    return helper(which)


def helper(which: str) -> object:
    return [os.urandom(1) for _ in range(1)] if which == "helper" else len(which)


WATCHED = {
    "time": "workflow.now()",
    "random": "workflow.random()",
    "method": "workflow.random()",
    "uuid": "workflow.uuid4()",
    "nap": "asyncio.sleep",
    "helper": "workflow.random()",
}

if sys.version_info >= (3, 12):

    @pytest.mark.parametrize("which", WATCHED)
    def test_a_watched_function_is_refused_what_has_no_audit_event(which: str) -> None:
        assert watch(clocks)
        clocks(which)  # outside: allowed, and still watched afterwards
        with inside("error"), pytest.raises(WorkflowViolation) as caught:
            clocks(which)
        assert f"{__file__}:" in str(caught.value)
        assert WATCHED[which] in str(caught.value)

    def test_a_watched_function_may_do_what_replay_repeats() -> None:
        assert watch(clocks)
        with inside("error"):
            assert clocks("other") == len("other")
            assert clocks("generator") == random.Random(1).random()
            with pytest.raises(WorkflowViolation, match=r"random\.Random\(\)"):
                clocks("generator", seeded=False)
        with inside("off"):
            assert isinstance(clocks("time"), float)

    INSTALLED = """
import datetime, functools, os, random, time, uuid
from dataclasses import dataclass, field
import pydantic

class Moment:
    def __init__(self):
        self.at = time.time()
    @classmethod
    def now(cls):
        return cls()

class Model(pydantic.BaseModel):
    id: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4)

@dataclass
class Data:
    id: uuid.UUID = field(default_factory=uuid.uuid4)

def decorated(fn):
    @functools.wraps(fn)
    def wrapper():
        return fn()
    return wrapper

@decorated
def today():
    return datetime.date.today()

def by_name():
    return getattr(random, "random")()

def setting():
    return os.environ.get("HOME")

def quiet():
    return sorted([3, 1])
"""

    @pytest.fixture
    def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        folder = tmp_path / "site-packages"
        folder.mkdir()
        (folder / "installed_clocks.py").write_text(INSTALLED)
        monkeypatch.syspath_prepend(folder)
        yield importlib.import_module("installed_clocks")
        del sys.modules["installed_clocks"]

    PATHS: dict[str, tuple[Callable[[Any], object], str]] = {
        "a class method": (lambda it: it.Moment.now(), "time.time() inside"),
        "a model": (lambda it: it.Model(), "uuid.uuid4() (made by Model()) inside"),
        "a dataclass": (lambda it: it.Data(), "uuid.uuid4() (made by Data()) inside"),
        "a wrapper": (lambda it: it.today(), "datetime.date.today() inside"),
        "by its name": (lambda it: getattr(it, "by_name")(), "random.random() inside"),
        "a setting": (lambda it: it.setting(), "os.environ inside"),
    }

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("is_used_before", [False, True])
    def test_what_an_installed_package_reads_is_refused(
        installed: Any, path: str, is_used_before: bool
    ) -> None:
        shared, refusal = PATHS[path]
        # Code of its own, because a place of code is reported no more once it was found harmless.
        fn = FunctionType(shared.__code__.replace(), globals())
        assert watch(fn)
        if is_used_before:
            fn(installed)  # outside: allowed, and watched from then on
        with inside("error"), pytest.raises(WorkflowViolation) as caught:
            fn(installed)
        assert refusal in str(caught.value)
        assert f"at {__file__}:" in str(caught.value)
        with inside("off"):
            fn(installed)
        fn(installed)

    def test_an_installed_package_may_do_what_replay_repeats(installed: Any) -> None:
        def fn() -> object:
            return installed.quiet()

        assert watch(fn)
        with inside("error"):
            assert fn() == [1, 3]

    def test_it_is_said_if_other_tools_have_taken_the_ids() -> None:
        program = """
import sys
for tool in (3, 4):
    sys.monitoring.use_tool_id(tool, f"tool {tool}")
from perdure.guard.runtime import install, watch
install(lambda: None)
print(watch(lambda: 1), watch(lambda: 2))
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.stdout == "False False\n"
        assert done.stderr.count("calls of workflows are not watched") == 1
        assert "'tool 4' and 'tool 3' use the monitoring ids 4 and 3" in done.stderr

else:

    def test_watching_needs_a_newer_python() -> None:
        assert not watch(clocks)
        with inside("error"):
            assert isinstance(clocks("time"), float)
