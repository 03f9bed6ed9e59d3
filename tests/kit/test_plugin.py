"""The plugin for pytest: its fixtures, its mark and its options, under pytest-asyncio, anyio, and neither."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import App, testing
from perdure.errors import UsageError

SOURCES = Path(__file__).resolve().parents[2] / "src"

SHOP = """
from datetime import UTC, datetime
import pytest
from perdure import App, workflow

app = App("shop")

@app.activity
async def charge(card: str) -> str:
    return f"charged {card}"

@app.workflow
async def order(card: str) -> str:
    await workflow.sleep(86_400)
    return await charge(card)
"""

ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


def run(folder: Path, tests: str, *options: str, ini: str = ASYNCIO) -> tuple[dict[str, str], str]:
    """Run tests in a process of their own; what became of each, and everything that was printed."""
    (folder / "shop.py").write_text(SHOP)
    (folder / "test_shop.py").write_text(f"from shop import *\n{tests}")
    (folder / "pytest.ini").write_text(
        f"[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n{ini}"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "perdure_pytest",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    printed = done.stdout + done.stderr
    return dict(re.findall(r"^test_shop\.py::(\w+)\S* (\w+)", printed, re.MULTILINE)), printed


def test_fixtures_under_pytest_asyncio(tmp_path: Path) -> None:
    outcomes, printed = run(
        tmp_path,
        """
async def test_node(perdure_node, perdure_clock):
    async with perdure_node(app, activities={charge: lambda card: "faked"}) as node:
        assert node.clock is perdure_clock
        assert await node.client.workflow(order, id="o").run("4242") == "faked"
        assert type(node.store).__name__ == "MemoryStore"
    assert perdure_clock.now() == datetime(2026, 1, 2, tzinfo=UTC)

@pytest.mark.perdure(start=datetime(2000, 2, 28, tzinfo=UTC))
async def test_mark(perdure_node):
    async with perdure_node(app) as node:
        await node.client.workflow(order, id="o").run("4242")
        assert node.clock.now() == datetime(2000, 2, 29, tzinfo=UTC)

async def test_store(perdure_node, perdure_store_url, tmp_path):
    assert perdure_store_url == f"sqlite:///{tmp_path}/perdure.db"
    async with perdure_node(app, perdure_store_url) as node:
        await node.client.workflow(order, id="o").start("4242")
    assert (tmp_path / "perdure.db").exists()

def test_crash(perdure_crash):
    from perdure.testing.crash import Scenario
    async def script(client):
        return await client.workflow("pay", id="o").run()
    @app.workflow
    async def pay() -> str:
        return await charge("4242")
    report = perdure_crash(Scenario(app, script))
    assert report.points == report.crashes > 5

@pytest.mark.perdure(begin=1)
async def test_bad_mark(perdure_clock):
    pass

@pytest.mark.perdure(datetime(2000, 1, 1))
async def test_bad_start(perdure_clock):
    pass

async def test_left_running(perdure_node):
    await perdure_node(app).start()

async def test_crash_in_a_loop(perdure_crash):
    perdure_crash(None)
""",
    )
    good = ["test_node", "test_mark", "test_store", "test_crash"]
    assert {name: outcomes.get(name) for name in good} == dict.fromkeys(good, "PASSED"), printed
    assert outcomes["test_bad_mark"] == outcomes["test_bad_start"] == "ERROR"
    assert (
        "unexpected keyword argument 'begin'; it is perdure(start=datetime, patience=seconds"
        in printed
    )
    assert "a clock starts at a datetime with a time zone" in printed
    assert (
        "the test left a node of app 'shop' running; use `async with perdure_node(app) as node:`"
        in printed
    )
    assert outcomes["test_crash_in_a_loop"] == "FAILED"
    assert "call it in a plain `def` test" in printed


TESTS = """
async def test_node(perdure_node):
    async with perdure_node(app) as one, perdure_node(app) as two:
        for node in (one, two):
            assert await node.client.workflow(order, id="o").run("4242") == "charged 4242"
        assert type(one.store).__name__ == STORE

def test_crash(perdure_crash):
    from perdure.testing.crash import Scenario
    async def script(client):
        return await client.workflow("pay", id="o").run()
    @app.workflow
    async def pay() -> str:
        return await charge("4242")
    report = perdure_crash(Scenario(app, script))
    assert report.crashes == report.points // EVERY
"""


def test_options(tmp_path: Path) -> None:
    tests = TESTS.replace("STORE", "'SQLiteStore'").replace("EVERY", "3")
    outcomes, printed = run(
        tmp_path, tests, "--perdure-store", "sqlite", "--perdure-crash-every", "3"
    )
    assert outcomes == {"test_node": "PASSED", "test_crash": "PASSED"}, printed


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--perdure-store", "postgres"], "--perdure-store: invalid choice: 'postgres'"),
        (
            ["--perdure-crash-every", "0"],
            "--perdure-crash-every: must be a whole number of at least 1, got '0'",
        ),
    ],
)
def test_bad_options_are_named(options: list[str], why: str, tmp_path: Path) -> None:
    outcomes, printed = run(tmp_path, TESTS, *options)
    assert outcomes == {}
    assert why in printed


def test_under_anyio_without_pytest_asyncio(tmp_path: Path) -> None:
    tests = """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"
""" + TESTS.replace("STORE", "'MemoryStore'").replace("EVERY", "1")
    outcomes, printed = run(tmp_path, tests, "-p", "no:asyncio", ini="")
    assert outcomes == {"test_node": "PASSED", "test_crash": "PASSED"}, printed


def test_with_no_plugin_for_coroutines(tmp_path: Path) -> None:
    tests = """
import asyncio

def test_node(perdure_node):
    async def main():
        async with perdure_node(app) as node:
            assert await node.client.workflow(order, id="o").run("4242") == "charged 4242"
    asyncio.run(main())
"""
    outcomes, printed = run(tmp_path, tests, "-p", "no:asyncio", "-p", "no:anyio", ini="")
    assert outcomes == {"test_node": "PASSED"}, printed


def test_a_run_that_uses_no_fixture_does_not_import_perdure(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\ndef test_nothing():\n    assert [m for m in sys.modules if m.split('.')[0] == 'perdure'] == []\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "perdure_pytest",
        "-p",
        "no:cacheprovider",
        "--fixtures",
        "-v",
    ]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout
    fixtures = set(re.findall(r"^(perdure_\w+)", shown, re.MULTILINE))
    assert fixtures == {"perdure_clock", "perdure_crash", "perdure_node", "perdure_store_url"}
    done = subprocess.run(command[:-2], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_without_an_event_loop_of_asyncio_a_node_says_so() -> None:
    starting = testing.node(App("shop")).start()
    with pytest.raises(
        UsageError, match="a node runs on an asyncio event loop, and none runs here; with anyio"
    ):
        starting.send(None)
