"""Each thing that goes wrong is a log record with ids, also in a program that has set up no logging."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine import PATIENCE_S, World, until, waits_for

from perdure import App, RetryPolicy, Suspended, WorkflowFailed, workflow

LOGGER = "perdure.failures"


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == LOGGER
    ]


def ids(record: logging.LogRecord) -> dict[str, object]:
    names = ("instance", "execution", "workflow", "version", "activity", "attempt", "seq")
    return {name: vars(record)[name] for name in names if name in vars(record)}


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, LOGGER)
    return caplog


async def test_attempts_and_the_failure_of_the_workflow(
    world: World, app: App, records: pytest.LogCaptureFixture
) -> None:
    @app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
    async def charge() -> None:
        raise ConnectionError("the bank is away")

    @app.workflow
    async def checkout() -> None:
        await charge()

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed):
            await node.client.workflow(checkout, id="o").run()
    (first, second, end) = said(records)
    assert first[0] == second[0] == "WARNING"
    assert first[1].startswith(
        "attempt 1 of activity 'charge' of 'o' failed: ConnectionError: the bank is away (at "
    )
    assert second[1].startswith("attempt 2 of activity 'charge' of 'o' failed for good: Conn")
    assert end[0] == "ERROR"
    assert end[1].startswith("checkout 'o' failed: ActivityError: activity 'charge' failed after 2")
    common = {"instance": "o", "execution": 1, "workflow": "checkout", "version": "1.0.0"}
    found = [ids(record) for record in records.records if record.name == LOGGER]
    assert found[0] == {**common, "activity": "charge", "attempt": 1, "seq": 1}
    assert found[2] == common


async def test_a_timeout_is_an_attempt_that_failed(
    world: World, app: App, records: pytest.LogCaptureFixture
) -> None:
    @app.activity(timeout=0.01)
    async def slow() -> None:
        await asyncio.sleep(PATIENCE_S)

    @app.workflow
    async def patient() -> None:
        await slow()

    async with world.node(app) as node:
        with pytest.raises(WorkflowFailed):
            await node.client.workflow(patient, id="p").run()
    assert "attempt 1 of activity 'slow' of 'p' failed" in said(records)[0][1]


async def test_a_checkpoint(world: World, app: App, records: pytest.LogCaptureFixture) -> None:
    def token() -> str:
        raise LookupError("no token is left")

    @app.workflow
    async def caller() -> str:
        try:
            return await workflow.checkpoint("token", token)
        except Exception:
            return "none"

    async with world.node(app) as node:
        assert await node.client.workflow(caller, id="c").run() == "none"
    ((level, text),) = said(records)
    assert level == "WARNING"
    assert text.startswith("checkpoint token of 'c' failed: LookupError: no token is left")


async def test_a_child_whose_parent_is_told(
    world: World, app: App, records: pytest.LogCaptureFixture
) -> None:
    @app.workflow
    async def pack() -> None:
        raise ValueError("no box")

    @app.workflow
    async def order() -> str:
        try:
            await pack()
        except Exception:
            return "unpacked"
        return "packed"

    async with world.node(app) as node:
        assert await node.client.workflow(order, id="o").run() == "unpacked"
    ((level, text),) = said(records)
    assert level == "WARNING"
    assert text.startswith("pack 'o/")
    assert "failed: ValueError: no box" in text


async def test_a_suspension_is_said_once(
    world: World, app: App, records: pytest.LogCaptureFixture
) -> None:
    @app.workflow
    async def stuck() -> None:
        await asyncio.Event().wait()

    async with world.node(app) as node:
        handle = node.client.workflow(stuck, id="s")
        with pytest.raises(Suspended):
            await handle.run()
        await handle.retry()
        await waits_for(handle, "stuck")
    ((level, text),) = said(records)
    assert level == "ERROR"
    assert text.startswith("stuck 's' is suspended (stuck): 's' waits at ")
    assert text.endswith("More: `perdure explain stuck`")


async def test_what_was_asked_for_is_no_failure(
    world: World, app: App, records: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def slow() -> None:
        await asyncio.sleep(PATIENCE_S)

    @app.workflow
    async def patient() -> None:
        await slow()

    async with world.node(app) as node:
        for ask in ("cancel", "terminate", "pause"):
            handle = node.client.workflow(patient, id=ask)
            await handle.start()
            await waits_for(handle, "activity slow")
            act: Any = getattr(handle, ask)
            await act()
        statuses = {"cancelled", "suspended"}

        async def all_done() -> bool:
            return {
                (await node.client.get(name).status()) for name in ("cancel", "pause")
            } == statuses

        await until(all_done, "the requests")
    assert said(records) == []


async def test_replay_says_nothing_again(
    world: World, app: App, records: pytest.LogCaptureFixture
) -> None:
    @app.activity
    async def charge() -> None:
        raise ValueError("no card")

    @app.workflow
    async def checkout() -> bool:
        try:
            await charge()
        except Exception:
            return await workflow.receive("go", bool)
        return False

    async with world.node(app) as node:
        handle = node.client.workflow(checkout, id="o")
        await handle.start()
        await waits_for(handle, "message go")
    assert len(said(records)) == 1
    async with world.node(app) as node:
        await node.client.get("o").send("go", True)
        assert await node.client.get("o").result() is True
    assert len(said(records)) == 1


SERVICE = """
import asyncio
from perdure import App

app = App("service")

@app.workflow
async def broken() -> None:
    raise ValueError("no stock is left")

async def main() -> None:
    async with app.node("memory://") as node:
        await node.client.workflow(broken, id="order-1").start()

asyncio.run(main())
"""


def test_a_program_without_any_set_up_of_logs_shows_them(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.startswith("broken 'order-1' failed: ValueError: no stock is left (at ")
    assert f"{program}:9 in broken" in ended.stderr
